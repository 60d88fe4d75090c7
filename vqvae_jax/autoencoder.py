"""Autoencoder of spectrograms: the baseline of NSynth (Engel et al. 2017).

Networks, loss and pictures are those of the released code (magenta, models/
nsynth/baseline, configuration nfft_1024).

An autoencoder has no prior: nothing in its training says which latents sound
like anything. So that it can be sampled, a Gaussian is fitted to the latents of
the training clips, as they come along: `Gaussian` in `state.vars`. Its mean and
covariance are averages that forget the encoder's past (`model.fit_decay`);
latents of training are those of batch statistics.

Shapes: B batch, N samples, T frames, F bins, C channels, Z latent size, D
latents of a whole picture, V width of all labels. Pictures [B, T, F, C] are in
[0, 1]; latents are [B, T', F', Z], of which the published ones have one pixel.
"""

import functools
import math
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import errors
from common.model import Mean, Model, TrainState
from vqvae_jax import clip_range, pictures
from vqvae_jax import spectrogram_nets as nets

MOST_LATENTS = 8192  # D: the covariance of so many is 256 MB.
# Whose bins are frequencies at equal distances. Others have bands, most of
# them low: there the loss is not weighted.
_BINS = ('magnitude', 'log_magnitude', 'magnitude_phase', 'magnitude_if')
_leaky = functools.partial(nn.leaky_relu, negative_slope=0.1)


class Encoder(nn.Module):
  """Pictures to latents."""

  layers: tuple[nets.Layer, ...]
  hidden: int
  latents: int
  norm: nets.Norm
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train):  # [B, T, F, C] -> [B, T', F', Z]
    stack = functools.partial(nets.Stack, norm=self.norm, dtype=self.dtype)
    x = stack((*self.layers, nets.Layer(self.hidden, 1)), activation=_leaky,
              name='stack')(x.astype(self.dtype), train)
    x = stack((nets.Layer(self.latents, 1),), activation=lambda x: x,
              name='latents')(x, train)
    return x.astype(jnp.float32)


class Decoder(nn.Module):
  """Latents, and the embedding of labels, to pictures."""

  layers: tuple[nets.Layer, ...]
  hidden: int
  channels: int
  norm: nets.Norm
  labels: tuple[tuple[str, int], ...]
  label_width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z, labels, train):  # [B, T', F', Z] -> [B, T, F, C]
    z = z.astype(self.dtype)
    if self.labels:
      z = nets.beside(z, nets.Labels(
          self.labels, self.label_width, self.dtype, name='labels')(labels))
    x = nets.Stack((nets.Layer(self.hidden, 1), *self.layers), norm=self.norm,
                   activation=_leaky, transpose=True, dtype=self.dtype,
                   name='stack')(z, train)
    x = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name='picture',
                kernel_init=nn.initializers.glorot_uniform())(x)
    return nn.sigmoid(x.astype(jnp.float32))


# ---------------------------------------------------------------- density


@flax.struct.dataclass
class Gaussian:
  """The density of latents [D]."""

  mean: jax.Array  # [D]
  covariance: jax.Array  # [D, D]

  @classmethod
  def create(cls, size):
    return cls(jnp.zeros(size), jnp.zeros((size, size)))

  def updated(self, z, step, decay):
    """With the latents [B, D] of a step; `step` counts those before.

    The mean of all steps at first, then one that forgets: of a mixture of the
    old density and that of the batch.
    """
    rate = jnp.maximum(1.0 / (step.astype(jnp.float32) + 1.0), 1.0 - decay)
    mean = z.mean(0)
    inside = z - mean[None]
    covariance = jnp.matmul(inside.T, inside, precision='highest') / z.shape[0]
    moved = mean - self.mean
    return Gaussian(
        self.mean + rate * moved,
        (1.0 - rate) * self.covariance + rate * covariance
        + rate * (1.0 - rate) * jnp.outer(moved, moved))

  def draw(self, noise):
    """Latents [B, D] from noise [B, D] ~ N(0, I).

    By the symmetric root, which exists where latents depend on each other.
    """
    values, vectors = jnp.linalg.eigh(self.covariance)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None]
    exact = functools.partial(jnp.matmul, precision='highest')
    return self.mean[None] + exact(exact(noise, vectors), root.T)


# ---------------------------------------------------------------- model


def frequency_weights(n_fft: int, sample_rate: int, peak: float, flat_hz: float
                      ) -> np.ndarray:
  """[n_fft // 2 + 1]: in a line from `peak` at 0 Hz to 1 at `flat_hz`, then 1.

  As released: the line ends with the last bin that is below.
  """
  bins = n_fft // 2 + 1
  below = math.ceil(flat_hz * n_fft / sample_rate)
  line = np.linspace(peak, 1.0, min(below, bins), dtype=np.float32)
  return np.pad(line, (0, bins - len(line)), constant_values=1.0)


def build(config) -> Model:
  c = config.model
  down, up = _layers(config)
  factors = tuple(math.prod(layer.stride[i] for layer in down) for i in (0, 1))
  scaled = clip_range.make(config, factors)
  frames, bins, channels = scaled.shape
  inner = frames // factors[0], bins // factors[1], c.latent_size
  size = math.prod(inner)
  if size > MOST_LATENTS:
    raise errors.UserError(
        f'model.latent_size={c.latent_size} at each of {inner[0]} x {inner[1]} '
        f'pixels are {size} latents, of which no covariance can be kept; use '
        f'at most {MOST_LATENTS}, or more layers')
  dtype = jnp.dtype(config.dtype)
  # Released: tf_slim's defaults, which have no scale.
  norm = nets.Norm(c.norm_momentum, 1e-3, scale=False)
  encoder = Encoder(down, c.hidden, c.latent_size, norm, dtype)
  decoder = Decoder(up, c.hidden, channels, norm, pictures.labels(config),
                    c.label_width, dtype)
  tx = optax.adam(c.learning_rate, b1=0.5)
  weights = np.ones(bins, np.float32)
  if c.representation in _BINS:
    # The network may not see the last bin, or see some of silence.
    line = frequency_weights(2 * (scaled.bins - 1), config.data.sample_rate,
                             c.weight_peak, c.weight_flat_hz)[:bins]
    weights[:len(line)] = line

  def errors_of(guess, picture):  # [B]: what is trained, and without weights.
    square = (guess - picture) ** 2
    return ((square * weights[None, None, :, None]).mean((1, 2, 3)),
            square.mean((1, 2, 3)))

  encode = functools.partial(nets.infer, encoder, 'encoder')
  decode = functools.partial(nets.infer, decoder, 'decoder')

  def init(key, batch):
    del batch  # The config has all the shapes.
    key_e, key_d = jax.random.split(key)
    labels = {name: jnp.zeros(1, jnp.int32) for name in c.conditions}
    e = encoder.init(key_e, jnp.zeros((1, *scaled.shape)), False)
    d = decoder.init(key_d, jnp.zeros((1, *inner)), labels, False)
    params = {'encoder': e.pop('params'), 'decoder': d.pop('params')}
    return TrainState.create(
        params, {'model': tx.init(params)},
        vars={'encoder': e, 'decoder': d, 'range': clip_range.first(),
              'density': Gaussian.create(size)})

  def train_step(state, batch, key, stage):
    del key, stage  # Nothing is random; one stage only.
    picture, span = scaled.encode(batch['audio'])

    def loss_fn(params):
      z, e = nets.run(
          encoder, params['encoder'], state.vars['encoder'], picture)
      guess, d = nets.run(
          decoder, params['decoder'], state.vars['decoder'], z, batch)
      loss, mse = (x.mean() for x in errors_of(guess, picture))
      return loss, ({'loss/weighted': loss, 'loss/mse': mse}, z, e, d)

    grads, (metrics, z, e, d) = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt = tx.update(grads, state.opt['model'], state.params)
    old = state.vars
    return state.replace(
        params=optax.apply_updates(state.params, updates), opt={'model': opt},
        vars={'encoder': e, 'decoder': d,
              'range': clip_range.updated(old['range'], span, state.step),
              'density': old['density'].updated(
                  z.reshape(len(z), -1), state.step, c.fit_decay)}), metrics

  def eval_step(state, batch, key):
    del key  # Nothing is random.
    picture, span = scaled.encode(batch['audio'])
    guess = decode(state, encode(state, picture), batch)
    weighted, mse = errors_of(guess, picture)
    return {'weighted': Mean.of(weighted, batch['mask']),
            'mse': Mean.of(mse, batch['mask']),
            'convergence_db': clip_range.convergence(
                scaled, guess, picture, span, batch['mask'])}

  @jax.jit
  def sample(state, batch, key):
    """The batch's audio, reconstructed; or sounds of the density.

    Only these are drawn: the temperature says nothing of the others.
    """
    rows = len(batch['index'])
    if 'audio' in batch:
      picture, span = scaled.encode(batch['audio'])
      z = encode(state, picture)
    else:
      noise = nets.noise(key, batch['index'], size)
      noise *= batch['temperature'][:, None]
      z = state.vars['density'].draw(noise).reshape(rows, *inner)
      span = clip_range.for_rows(state.vars['range'], rows)
    return {'audio': scaled.decode(decode(state, z, batch), span)}

  return Model(init=init, train_step=train_step, eval_step=eval_step,
               sample=sample)


def _layers(config):
  """Of encoder and decoder; one sentence for what cannot work."""
  c = config.model
  out = []
  for part in ('encoder', 'decoder'):
    names = [f'{part}_filters', f'{part}_kernels', 'time_strides',
             'frequency_strides']
    if len({len(c[name]) for name in names}) != 1 or not c.time_strides:
      given = ', '.join(f'{name}={tuple(c[name])}' for name in names)
      raise errors.UserError(f'model.{given} have one entry for each layer: '
                             'give them the same length')
    if min(min(c[name]) for name in names) < 1:
      raise errors.UserError(f'model.{part}_filters, kernels and strides are 1 '
                             'or more')
    out.append(tuple(nets.Layer(n, k, (t, f)) for n, k, t, f in zip(
        *(c[name] for name in names), strict=True)))
  errors.at_least(c, latent_size=1, hidden=1, label_width=1)
  for name in ('fit_decay', 'norm_momentum'):
    if not 0 <= c[name] < 1:
      raise errors.UserError(f'model.{name}={c[name]} is not from 0 to below 1')
  return out


preprocess = pictures.preprocess
prompt = clip_range.prompt
