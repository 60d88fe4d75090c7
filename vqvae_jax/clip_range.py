"""Pictures in [0, 1], by the range of each clip.

The level of a clip and its dynamics are not in such a picture: they are two
numbers beside it, `Range`, which the network never sees. A reconstruction gets
those of its original back; a sound of the network's own gets the mean of all
training clips (`first` and `updated`, for `state.vars`).

The settings in `config.model` that are read here, beside `samples` and
`conditions` (pictures.py):

  representation  a name of common.spectral.representations, with its options
                  n_fft, hop, bands, bands_per_octave, frames, bins,
                  iterations and break_hz; 0, or none: its default
  range           'min_max', or 'top_db': from `top_db` below the maximum to it
  floor           of amplitudes, before their logarithm
  top_db          values further below the maximum are cut off

Only channel 0 has a range; channel 1, if there is one, is a phase or its
derivative in units of pi, from -1 to 1. The first frame of bazin_ifmel goes
beyond, and is cut.

Shapes: B batch, N samples, T frames, F bins or bands, C channels.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from common import errors
from common.model import Mean
from common.spectral import multiscale, representations
from vqvae_jax import pictures

RANGES = ('min_max', 'top_db')
OPTIONS = ('n_fft', 'hop', 'bands', 'bands_per_octave', 'frames', 'bins',
           'iterations', 'break_hz')
_CENTRED = ('magnitude', 'log_magnitude', 'log_frequency', 'mel', 'log_mel',
            'magnitude_phase', 'magnitude_if')
# Settings of one representation that others may find in the config, too.
_ONLY = {'n_fft': _CENTRED, 'hop': _CENTRED,
         'bands': ('mel', 'log_mel', 'log_frequency'),
         'bands_per_octave': ('log_frequency',),
         'iterations': ('magnitude', 'log_magnitude', 'mel', 'log_mel',
                        'log_frequency')}
_WITH_EPS = ('log_magnitude', 'log_mel', 'log_frequency')
_LINEAR = ('magnitude', 'mel', 'magnitude_phase', 'magnitude_if')
_POWER = ('gansynth_ifmel', 'ifmel', 'bazin_ifmel')  # ln(S^2 W), not ln(S W).


@flax.struct.dataclass
class Range:
  """What the 0 and the 1 of a picture stand for: [B], or []."""

  low: jax.Array
  high: jax.Array


class Pictures(NamedTuple):
  shape: tuple[int, int, int]  # (T, F, C) that the network sees.
  encode: Callable[[jax.Array], tuple[jax.Array, Range]]  # Of audio [B, N].
  decode: Callable[[jax.Array, Range], jax.Array]  # To audio [B, N].
  # Linear [B, T, F], of a picture: before a phase is found.
  magnitude: Callable[[jax.Array, Range], jax.Array]
  hop: int
  bins: int  # Of the representation: the network's may be fewer, or more.


def make(config, factors: tuple[int, int]) -> Pictures:
  """`factors`: by how much the network divides frames and bins.

  Where there is one bin more than they divide, which is Nyquist's, the network
  does not see it; on the way back it is like its neighbour. Otherwise silence
  fills up what is missing.
  """
  c = config.model
  check(config)
  rep = representations.make(
      c.representation, num_samples=c.samples,
      sample_rate=config.data.sample_rate,
      **{k: c[k] for k in OPTIONS if c.get(k) and c.representation in _ONLY.get(
          k, (c.representation,))},
      **({'eps': min(c.floor, 1e-6)} if c.representation in _WITH_EPS else {}))
  frames, bins, channels = rep.shape
  kept = bins - 1 if bins % factors[1] == 1 and bins > 1 else bins
  size = [-(-n // f) * f for n, f in zip((frames, kept), factors, strict=True)]
  log = c.representation not in _LINEAR
  scale = 0.5 if c.representation in _POWER else 1.0  # To ln of an amplitude.

  def encode(x):
    y = rep.encode(x)[:, :, :kept]
    level = y[..., 0]
    if log:
      level = jnp.maximum(scale * level, math.log(c.floor))
      high = level.max((1, 2))
      level = jnp.maximum(level, _rows(high - _nats(c.top_db)))
    else:
      high = level.max((1, 2))
    if c.range == 'min_max':
      low = level.min((1, 2))
    else:
      low = high - _nats(c.top_db) if log else jnp.zeros_like(high)
    span = high - low
    level = (level - _rows(low)) / _rows(jnp.where(span > 0.0, span, 1.0))
    picture = jnp.concatenate(
        [level[..., None], (y[..., 1:].clip(-1.0, 1.0) + 1.0) / 2.0], -1)
    return jnp.pad(picture, (
        (0, 0), (0, size[0] - frames), (0, size[1] - kept), (0, 0))
        ), Range(low, high)

  def level_of(picture, span):
    level = picture[:, :frames, :kept, 0].astype(jnp.float32)
    return _rows(span.low) + level * _rows(span.high - span.low)

  def magnitude(picture, span):
    level = level_of(picture, span)
    return jnp.exp(level) if log else level

  def decode(picture, span):
    rest = 2.0 * picture[:, :frames, :kept, 1:].astype(jnp.float32) - 1.0
    y = jnp.concatenate([level_of(picture, span)[..., None] / scale, rest], -1)
    y = jnp.pad(y, ((0, 0), (0, 0), (0, bins - kept), (0, 0)), mode='edge')
    return rep.decode(y).clip(-1.0, 1.0)

  return Pictures((*size, channels), encode, decode, magnitude, rep.hop, bins)


def _nats(decibels):
  return decibels * math.log(10) / 20


def _rows(x):
  return x[:, None, None]


def convergence(scaled, guess, picture, span, mask) -> Mean:
  """Spectral convergence of pictures' magnitudes, in dB: no phase is found.

  Of each clip; the mean is over those that are not silent.
  """
  target = scaled.magnitude(picture, span)
  ratio = multiscale.spectral_convergence(scaled.magnitude(guess, span), target)
  loud = multiscale.frobenius(target) > multiscale.SILENCE
  return Mean.of(multiscale.decibels(ratio), mask * loud)


def first() -> Range:
  return Range(jnp.zeros(()), jnp.zeros(()))


def updated(mean: Range, span: Range, step) -> Range:
  """The mean over the clips of all steps; `step` counts those before."""
  rate = 1.0 / (step.astype(jnp.float32) + 1.0)
  return jax.tree.map(lambda old, new: old + rate * (new.mean() - old), mean,
                      span)


def for_rows(mean: Range, rows: int) -> Range:
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (rows,)), mean)


def check(config) -> None:
  """One sentence for each setting that cannot work."""
  c = config.model
  pictures.check_clips(config)
  if c.representation == 'complex':
    raise errors.UserError(
        "model.representation='complex' has no magnitude whose range could be "
        "measured; use 'magnitude_phase' or 'magnitude_if'")
  if c.range not in RANGES:
    raise errors.UserError(f'model.range={c.range!r} is not one of '
                           f'{", ".join(map(repr, RANGES))}')
  for name in ('floor', 'top_db'):
    if c[name] <= 0:
      raise errors.UserError(f'model.{name}={c[name]} is not above 0')


def prompt(config, count, *, audio: str = '', temperature: float = 1.0,
           pitch: int = -1, instrument_family: int = -1, digit: int = -1):
  """Sounds of the model's own, or a given sound through it and back.

  audio: a sound file to reconstruct; one that is longer than a clip is cut
    into clips, a row each, until there are as many rows as asked for.
  temperature: of the latents that are drawn; 0 is their mean. Of a given sound
    they are drawn by VAE and VAE-GAN; the autoencoder's are what they are.
  pitch, instrument_family, digit: labels, if the model was trained with them.
    Those of a sound have to be given; else the default is the middle C, or 0.
  """
  errors.require(0 <= temperature < math.inf,
                 f'--prompt=temperature={temperature}', 'a number, 0 or more')
  batch = pictures.prompt(
      config, count, audio, make(config, (1, 1)).hop, pitch=pitch,
      instrument_family=instrument_family, digit=digit)
  return batch | {'temperature': np.full(count, temperature, np.float32)}
