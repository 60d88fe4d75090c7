"""How far an estimate is from its reference, in dB, per example.

Shapes: [...] leading axes, N samples, T frames, F bins. The reference is the
second argument.
"""

import jax
import jax.numpy as jnp

from common import sharding
from common.model import Mean
from common.spectral import multiscale

MAX_DB = 100.0  # Ratios are clipped here: float32 cannot tell them from inf.


def log_spectral_distance(power, reference, floor: float = 1e-10) -> jax.Array:
  """LSD of power spectrograms [..., T, F]: [...], dB.

  The root mean square over bins of the difference of levels, 10 log10 P, then
  the mean over frames. Some papers leave the 10 out.
  """
  square = ((_level(power, floor) - _level(reference, floor)) ** 2).mean(-1)
  same = square == 0.0  # Where the root has no derivative.
  return jnp.where(same, 0.0, jnp.sqrt(jnp.where(same, 1.0, square))).mean(-1)


def snr(audio, reference) -> jax.Array:
  """Signal-to-noise ratio of audio [..., N]: [...], dB, at most 100."""
  audio, reference = _float32(audio), _float32(reference)
  return _ratio(reference, audio - reference)


def si_sdr(audio, reference) -> jax.Array:
  """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), as `snr`.

  Means are removed first. A gain of the estimate changes nothing, so an
  estimate that is wrong by a gain alone has 100 dB.
  """
  audio, reference = (
      x - x.mean(-1, keepdims=True)
      for x in (_float32(audio), _float32(reference)))
  energy = (reference**2).sum(-1, keepdims=True)
  scale = (audio * reference).sum(-1, keepdims=True) / jnp.where(
      energy == 0.0, 1.0, energy)
  return _ratio(scale * reference, audio - scale * reference)


def heard(audio, reference, mask) -> dict[str, Mean]:
  """Of audio [B, N]: `si_sdr`, and the convergence as Jukebox reports it.

  Over the rows of `mask` [B] that are not silent: silence has neither.
  """
  def measure(pair):  # [B, 2, N] -> [B, 3]
    audio, reference = pair[:, 0], pair[:, 1]
    return jnp.stack([si_sdr(audio, reference),
                      *multiscale.reported_convergence(audio, reference)], -1)

  ratio_db, convergence, loud = sharding.per_device(
      measure, jnp.stack([audio, reference], 1)).T
  return {'si_sdr': Mean.of(ratio_db, mask * loud),
          'convergence': Mean.of(convergence, mask * loud)}


def _float32(x):
  return jnp.asarray(x, jnp.float32)


def _level(power, floor):
  return 10.0 * jnp.log10(jnp.maximum(_float32(power), floor))


def _ratio(signal, noise):
  tiny = 1e-20  # 0 dB where both are silent; no NaN in a derivative.
  level = lambda x: 10.0 * jnp.log10((x**2).sum(-1) + tiny)
  return jnp.clip(level(signal) - level(noise), -MAX_DB, MAX_DB)
