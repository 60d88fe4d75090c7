"""A model file in thirty lines: denoise vectors, in two stages.

Small enough that a test can run hundreds of steps, and it uses what a loop can
get wrong: keys, stages, several entries in the state, donation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import config as config_lib
from common import model as model_lib


def get_config():
  c = config_lib.default()
  c.module = 'toy'
  c.steps, c.batch_size = 12, 8
  c.log_every, c.eval_every, c.sample_every = 2, 5, 6
  c.checkpoint.every = 4
  c.data.name = 'toy'
  c.data.sample_rate = 100
  c.model.learning_rate = 1e-2
  c.model.width = 16
  c.model.second_stage = 8  # Its first step.
  c.model.nan_at = -1
  c.model.best_at = 7  # The step where the metric 'off' is lowest.
  return c


class Source:
  """Example i of a split: a vector that tells i."""

  def __init__(self, examples: int = 37):
    self._examples = examples

  def __len__(self):
    return self._examples

  def __getitem__(self, i):
    return {'x': np.sin(np.arange(8) * (i + 1.0)).astype(np.float32)}


def preprocess(config):
  del config
  return lambda example, rng: {
      'x': example['x'] + 0.01 * rng.standard_normal(8).astype(np.float32)}


def segments(config):
  del config
  return lambda example: [example]


def prompt(config, count, *, loud: float = 1.0, name: str = '',
           mute: bool = False):
  """A gain.

  loud: factor.
  """
  del config, name
  gain = np.full(count, 0.0 if mute else loud, np.float32)
  return {'index': np.arange(count, dtype=np.int32), 'gain': gain}


def build(config) -> model_lib.Model:
  tx = optax.adam(config.model.learning_rate)

  def denoise(params, x):
    return jnp.tanh(x @ params['up']) @ params['down']

  def init(key, batch):
    n, width = batch['x'].shape[-1], config.model.width
    up, down = jax.random.split(key)
    params = {'model': {'up': 0.3 * jax.random.normal(up, (n, width)),
                        'down': 0.3 * jax.random.normal(down, (width, n))}}
    return model_lib.TrainState.create(
        params, {'model': tx.init(params['model'])},
        vars={'count': jnp.zeros((), jnp.int32)},
        ema=params)

  def train_step(state, batch, key, stage):
    noise = (1 + stage) * 0.1 * jax.random.normal(key, batch['x'].shape)

    def loss_fn(params):
      return ((denoise(params, batch['x'] + noise) - batch['x'])**2).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params['model'])
    loss = jnp.where(state.step == config.model.nan_at, jnp.nan, loss)
    updates, opt = tx.update(grads, state.opt['model'])
    params = {'model': optax.apply_updates(state.params['model'], updates)}
    ema = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state.ema, params)
    return state.replace(
        params=params, opt={'model': opt}, ema=ema,
        vars={'count': state.vars['count'] + 1}), {'loss': loss}

  def eval_step(state, batch, key):
    noise = jax.vmap(lambda k: jax.random.normal(k, (8,)))(
        model_lib.row_keys(key, batch['index']))
    y = denoise(state.ema['model'], batch['x'] + 0.1 * noise)
    off = jnp.abs(state.step - config.model.best_at).astype(jnp.float32)
    return {'mse': model_lib.Mean.of((y - batch['x'])**2, batch['mask']),
            'off': model_lib.Mean(off, jnp.ones(()))}

  @jax.jit
  def sample(state, batch, key):
    x = jax.vmap(lambda k: jax.random.normal(k, (8,)))(
        model_lib.row_keys(key, batch['index']))
    gain = batch.get('gain', jnp.ones(len(x)))
    y = denoise(state.ema['model'], x) * gain[:, None]
    return {'audio': jnp.tanh(jnp.repeat(y, 50, axis=1))}

  second = config.model.second_stage
  stages = (model_lib.Stage(), model_lib.Stage(second, config.batch_size // 2))
  return model_lib.Model(init=init, train_step=train_step, sample=sample,
                         eval_step=eval_step, stages=stages)
