"""WaveGAN (Donahue, McAuley and Puckette 2019, arXiv 1802.04208).

Where paper and released code differ, the code is the default and a comment
says so. Lengths 32768 and 65536 exist in the code only.

Shapes: B batch, N samples, T frames of a layer, C channels, Z latent size.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import errors, losses, optim
from common.data import chunks
from common.model import Mean, Model, TrainState, row_keys
from common.nn import conv

# Stride of each layer by number of samples: 16384 is appendix D's (tables 3 and
# 4), the others are the released code's. Both networks take them in this order,
# so the critic is no mirror image at 32768.
STRIDES = {
    16384: (4, 4, 4, 4, 4),
    32768: (4, 4, 4, 4, 4, 2),
    65536: (4, 4, 4, 4, 4, 4),
}
FIRST_FRAMES = 16  # N / FIRST_FRAMES is the product of the strides.
SHUFFLED_LAYERS = 4  # Phase shuffle comes after so many layers, at any N.


class Generator(nn.Module):
  """Latents to audio."""

  length: int = 16384
  dim: int = 64  # d
  kernel_size: int = 25
  upsample: str = 'transpose'  # Or 'nearest': repeat, then convolve.
  batch_norm: bool = False
  post_filter: int = 0  # Length of the post-processing filter; 0: none.
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z, *, train):  # [B, Z] -> [B, N, 1]
    strides = STRIDES[self.length]
    widths = [self.dim * 2**i for i in reversed(range(len(strides)))]
    x = nn.Dense(
        FIRST_FRAMES * widths[0], dtype=self.dtype,
        kernel_init=nn.initializers.glorot_uniform())(z)
    x = x.reshape(-1, FIRST_FRAMES, widths[0])
    x = nn.relu(self._norm(x, train))
    for stride, width in zip(strides[:-1], widths[1:], strict=True):
      x = nn.relu(self._norm(self._up(x, width, stride), train))
    x = self._up(x, 1, strides[-1])
    x = jnp.tanh(x.astype(jnp.float32))
    if self.post_filter:  # One filter for all sounds; it sees no latents.
      x = conv.Conv(1, self.post_filter, use_bias=False, name='post_filter')(x)
    return x

  def _up(self, x, width, stride):  # [B, T, _] -> [B, T * stride, width]
    if self.upsample == 'nearest':
      layer, stride, x = conv.Conv, 1, x.repeat(stride, axis=1)
    else:
      layer = conv.ConvTranspose
    return layer(width, self.kernel_size, stride, dtype=self.dtype)(x)

  def _norm(self, x, train):
    return _batch_norm(x, train, self.dtype) if self.batch_norm else x


class Critic(nn.Module):
  """Audio to scores."""

  dim: int = 64
  kernel_size: int = 25
  phase_shuffle: int = 2  # n, the largest shift; 0: none.
  shuffle_per_example: bool = False
  batch_norm: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, key=None, *, train):  # [B, N, 1] -> [B]
    """Without a key the phases stay as they are."""
    x = x.astype(self.dtype)
    for i, stride in enumerate(STRIDES[x.shape[1]]):
      x = conv.Conv(self.dim * 2**i, self.kernel_size, stride,
                    dtype=self.dtype)(x)
      if self.batch_norm and i > 0:
        x = _batch_norm(x, train, self.dtype)
      x = nn.leaky_relu(x, 0.2)
      if key is not None and self.phase_shuffle and i < SHUFFLED_LAYERS:
        # Figure 3 draws a shift for each feature map; the released code draws
        # one for all of a pass.
        n = self.phase_shuffle
        rows = x.shape[:1] if self.shuffle_per_example else ()
        x = shift_phase(x, jax.random.randint(
            jax.random.fold_in(key, i), rows, -n, n + 1), n)
    # The score is float32 whatever the layers before it are.
    x = nn.Dense(1, dtype=jnp.float32,
                 kernel_init=nn.initializers.glorot_uniform())(
                     x.reshape(x.shape[0], -1))
    return x[:, 0]


def _batch_norm(x, train, dtype):  # Constants are TensorFlow's defaults.
  return nn.BatchNorm(
      use_running_average=not train, momentum=0.99, epsilon=1e-3,
      dtype=dtype)(x)


def shift_phase(x, shift, n):
  """y[i] = x[i - shift], reflected at the ends; x [B, T, C], |shift| <= n.

  `shift` is a scalar, the same for all rows, or [B].
  """
  padded = jnp.pad(x, ((0, 0), (n, n), (0, 0)), mode='reflect')
  cut = lambda row, s: jax.lax.dynamic_slice_in_dim(row, n - s, x.shape[1])
  return jax.vmap(cut, (0, 0 if shift.ndim else None))(padded, shift)


def latents(key, index, size):
  """z [B, Z] ~ U(-1, 1), the same for the same number in `index` [B]."""
  draw = lambda k: jax.random.uniform(k, (size,), minval=-1.0, maxval=1.0)
  return jax.vmap(draw)(row_keys(key, index))


# The released code's loss -> (critic's, generator's, optimiser, learning rate,
# bound that the critic's weights are clipped to). TensorFlow's RMSProp begins
# with mean squares of 1 and has its epsilon inside the root.
_rmsprop = functools.partial(
    optax.rmsprop, decay=0.9, eps=1e-10, initial_scale=1.0, eps_in_sqrt=True)
LOSSES = {
    'wgan-gp': (losses.wgan_critic, losses.wgan_generator,
                functools.partial(optax.adam, b1=0.5, b2=0.9), 1e-4, None),
    'wgan': (losses.wgan_critic, losses.wgan_generator, _rmsprop, 5e-5, 0.01),
    'lsgan': (losses.lsgan_critic, losses.lsgan_generator, _rmsprop, 1e-4,
              None),
    'dcgan': (losses.dcgan_critic, losses.dcgan_generator,
              functools.partial(optax.adam, b1=0.5), 2e-4, None),
}


def _check(config):
  """One sentence for each setting that cannot work."""
  c = config.model
  for name, value, known in (
      ('length', c.length, STRIDES), ('loss', c.loss, LOSSES),
      ('upsample', c.upsample, ('transpose', 'nearest'))):
    if value not in known:
      raise errors.UserError(
          f'model.{name}={value!r} is not one of {", ".join(map(repr, known))}')
  errors.at_least(c, critic_updates=1, dim=1, kernel_size=1, latent_size=1,
                  phase_shuffle=0, post_filter=0, penalty_weight=0)
  if config.batch_size % c.critic_updates:
    whole = math.lcm(c.critic_updates, jax.device_count())
    fits = max(1, config.batch_size // whole) * whole
    raise errors.UserError(
        f'batch_size={config.batch_size} does not split over '
        f'model.critic_updates={c.critic_updates}, each with its own rows; '
        f'use {fits} or {fits + whole}')


def build(config) -> Model:
  _check(config)
  c = config.model
  critic_loss, generator_loss, optimiser, rate, bound = LOSSES[c.loss]
  penalised = c.loss == 'wgan-gp'
  dtype = jnp.dtype(config.dtype)
  generator = Generator(
      length=c.length, dim=c.dim, kernel_size=c.kernel_size,
      upsample=c.upsample, batch_norm=c.batch_norm, post_filter=c.post_filter,
      dtype=dtype)
  # The penalty is on single examples: no statistics of a batch in the critic.
  critic = Critic(
      dim=c.dim, kernel_size=c.kernel_size, phase_shuffle=c.phase_shuffle,
      shuffle_per_example=c.shuffle_per_example,
      batch_norm=c.batch_norm and not penalised, dtype=dtype)
  tx = optimiser(rate if c.learning_rate is None else c.learning_rate)

  def run(net, params, stats, *inputs):  # In training: (output, new stats).
    return net.apply({'params': params, **stats}, *inputs,
                     mutable=['batch_stats'], train=True)

  def waveform(batch):  # [B, N, 1]
    return batch['audio'].reshape(-1, c.length, 1)

  def draw(key, mask):  # [B, Z]
    z = jax.random.uniform(key, (mask.shape[0], c.latent_size), minval=-1.0)
    # The mask is 1. It tells the compiler that z is split over devices as the
    # batch is: else each of them generates every row.
    return z * mask[:, None]

  def init(key, batch):
    del batch  # The config has all the shapes.
    key_g, key_d = jax.random.split(key)
    g = generator.init(key_g, jnp.zeros((1, c.latent_size)), train=False)
    d = critic.init(key_d, jnp.zeros((1, c.length, 1)), train=False)
    params = {'g': g.pop('params'), 'd': d.pop('params')}
    return TrainState.create(
        params, {k: tx.init(v) for k, v in params.items()},
        vars={'g': g, 'd': d})

  def loss_d(params, params_g, stats, batch, key):
    key_z, key_alpha, *keys = jax.random.split(key, 5)
    real = waveform(batch)
    fake, stats_g = run(generator, params_g, stats['g'],
                        draw(key_z, batch['mask']))
    on_real, stats_d = run(critic, params, stats['d'], real, keys[0])
    on_fake, stats_d = run(critic, params, stats_d, fake, keys[1])
    loss = critic_loss(on_real, on_fake).mean()
    metrics = {'critic/real': on_real.mean(), 'critic/fake': on_fake.mean()}
    if penalised:
      score = lambda x: run(critic, params, stats_d, x, keys[2])[0]
      penalty = losses.gradient_penalty(score, real, fake, key_alpha).mean()
      loss += c.penalty_weight * penalty
      metrics['loss/gp'] = penalty
    metrics['loss/d'] = loss
    return loss, (metrics, {'g': stats_g, 'd': stats_d})

  def loss_g(params, params_d, stats, mask, key):
    key_z, key_shuffle = jax.random.split(key)
    fake, stats_g = run(generator, params, stats['g'], draw(key_z, mask))
    on_fake, stats_d = run(critic, params_d, stats['d'], fake, key_shuffle)
    return generator_loss(on_fake).mean(), {'g': stats_g, 'd': stats_d}

  def descend(grads, opt, params):
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt

  def train_step(state, batch, key, stage):
    """Algorithm 1 of Gulrajani et al. 2017: n critic updates, then one of G."""
    del stage  # One stage only.
    g, n = state.params['g'], c.critic_updates
    keys = jax.random.split(key, n + 1)

    def update_critic(carry, slice_and_key):
      d, opt, stats = carry
      rows, key = slice_and_key
      grads, (metrics, stats) = jax.grad(loss_d, has_aux=True)(
          d, g, stats, rows, key)
      d, opt = descend(grads, opt, d)
      if bound is not None:
        d = jax.tree.map(lambda w: w.clip(-bound, bound), d)
      return (d, opt, stats), metrics

    # Not unrolled: on CPU the gradients of common.nn.conv, unlike XLA's, are
    # hardly slower in a loop, and one update is compiled, not n.
    slices = jax.tree.map(lambda *x: jnp.stack(x), *optim.split(batch, n))
    (d, opt_d, stats), metrics = jax.lax.scan(
        update_critic, (state.params['d'], state.opt['d'], state.vars),
        (slices, keys[:n]))

    (loss, stats), grads = jax.value_and_grad(loss_g, has_aux=True)(
        g, d, stats, slices['mask'][0], keys[n])
    g, opt_g = descend(grads, state.opt['g'], g)
    metrics = jax.tree.map(jnp.mean, metrics)  # Over the critic's updates.
    return state.replace(
        params={'g': g, 'd': d}, opt={'g': opt_g, 'd': opt_d}, vars=stats,
    ), {**metrics, 'loss/g': loss}

  def generate(state, z):
    return generator.apply(
        {'params': state.params['g'], **state.vars['g']}, z, train=False)

  def eval_step(state, batch, key):
    """Without phase shuffle, which would be another draw for each batch."""
    score = lambda x: critic.apply(
        {'params': state.params['d'], **state.vars['d']}, x, train=False)
    z = latents(key, batch['index'], c.latent_size)
    real, fake = score(waveform(batch)), score(generate(state, z))
    values = {'critic/real': real, 'critic/fake': fake}
    if c.loss in ('wgan', 'wgan-gp'):
      values['wasserstein'] = real - fake
    return {k: Mean.of(v, batch['mask']) for k, v in values.items()}

  @jax.jit
  def sample(state, batch, key):
    z = latents(key, batch['index'], c.latent_size)
    if 'blend' in batch:  # A straight line: the cube is convex.
      end = latents(key, batch['end'], c.latent_size)
      z += batch['blend'][:, None] * (end - z)
    audio = generate(state, z).clip(-1.0, 1.0)  # The filter may exceed tanh.
    return {'audio': audio[..., 0]}

  return Model(init=init, train_step=train_step, eval_step=eval_step,
               sample=sample)


def prompt(config, count, *, first: int = 0, last: int = -1):
  """Latents by number.

  first: number of the first latent; the rest follow it.
  last: if given, the samples are points on the line from first to last.
  """
  del config
  errors.require(0 <= first < 10**9, f'--prompt=first={first}',
                 'a number from 0 to 999999999')
  errors.require(-1 <= last < 10**9, f'--prompt=last={last}',
                 'a number from 0 to 999999999')
  batch = {'index': first + np.arange(count, dtype=np.int32),
           'mask': np.ones(count, np.float32)}
  if last < 0:
    return batch
  return batch | {'index': np.full(count, first, np.int32),
                  'end': np.full(count, last, np.int32),
                  'blend': np.linspace(0, 1, count, dtype=np.float32)}


def preprocess(config):
  """A random window of each clip, as the paper; no change of its level.

  The released code ends up normalising every file's peak, whatever its flag
  says. On request `data.peak_normalize` does so with the peak of the window or,
  where that is larger, of its record (up to 20 s of the file).
  """
  length, rate = config.model.length, config.data.sample_rate

  def fn(example, rng):
    stored = example['audio']
    if stored.ndim != 1:
      raise errors.UserError(
          f'data.name={config.data.name!r} has sounds of {stored.shape[1]} '
          'channels; prepare it in mono, as audio_folder makes it')
    if example.get('sample_rate', rate) != rate:
      raise errors.UserError(
          f'data.name={config.data.name!r} is at {example["sample_rate"]} Hz; '
          f'prepare it at data.sample_rate={rate}, or set that')
    audio = (stored[:length] if config.data.first_slice
             else chunks.window(example, length, rng))
    full = 32768 if stored.dtype == np.int16 else 1
    if config.data.peak_normalize:  # A window may end in the next record.
      peak = lambda x: np.abs(x.astype(np.float32)).max(initial=0)
      full = max(peak(stored), peak(audio), 1e-5 * full)
    audio = (audio / full).astype(np.float32)
    return {'audio': np.pad(audio, (0, length - len(audio)))}

  return fn
