"""A codec in fifty lines: a sound's first 32 samples, each as 16 levels.

The bottom codes are the samples, the top ones the means of 2 x 2 of them. It
learns one number, so that two runs of it differ.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import config as config_lib
from common import model as model_lib

SHAPES = {'top': (2, 4), 'bottom': (4, 8)}
LEVELS = 16


def get_config():
  c = config_lib.default()
  c.module = 'toy_codec'
  c.steps, c.batch_size, c.num_samples = 1, 8, 0
  c.log_every = 1
  c.data.name = 'synthetic_notes/tiny'
  c.data.sample_rate = 16000
  c.model.size = LEVELS
  return c


def preprocess(config):
  del config
  # Somewhere in the note: the same rng gives the same samples.
  def fn(example, rng):
    start = 8000 + int(rng.integers(100))
    return {'audio': example['audio'][start:start + 32]}
  return fn


def codec(config) -> model_lib.Codec:
  size = config.model.size

  def encode(state, batch):
    x = batch['audio'].reshape(-1, *SHAPES['bottom'])
    level = lambda x: jnp.clip(
        (x + 1) * state.params['gain'] * size / 2, 0, size - 1
    ).astype(jnp.int32)
    means = x.reshape(-1, 2, 2, 4, 2).mean((2, 4))
    return {'top': level(means), 'bottom': level(x)}

  def decode(state, codes, batch):
    del batch
    x = 2 * (codes['bottom'] + 0.5) / size - 1
    return (x / state.params['gain']).reshape(-1, 32)

  return model_lib.Codec(encode, decode, SHAPES, dict.fromkeys(SHAPES, size),
                         (('top', 'bottom'),))


def build(config) -> model_lib.Model:
  del config
  tx = optax.sgd(0.1)

  def loss(params, batch):
    return ((params['gain'] - 0.9 - batch['audio'])**2).mean(-1)

  def init(key, batch):
    del batch
    params = {'gain': 1.0 + 0.01 * jax.random.normal(key, ())}
    return model_lib.TrainState.create(params, tx.init(params))

  def train_step(state, batch, key, stage):
    del key, stage
    value, grads = jax.value_and_grad(
        lambda p: loss(p, batch).mean())(state.params)
    updates, opt = tx.update(grads, state.opt)
    return state.replace(params=optax.apply_updates(state.params, updates),
                         opt=opt), {'loss': value}

  def eval_step(state, batch, key):
    del key
    return {'loss': model_lib.Mean.of(
        loss(state.params, batch), batch['mask'])}

  return model_lib.Model(init=init, train_step=train_step,
                         eval_step=eval_step)


def first(example, config) -> np.ndarray:
  """What an evaluation sees of a stored example."""
  return preprocess(config)(example, np.random.default_rng(0))['audio']
