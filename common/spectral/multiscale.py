"""Spectral losses between two waveforms, per example: take their mean.

All are 0 for equal inputs, with finite gradients everywhere, silence and equal
inputs included.

Shapes: [...] leading axes, N samples, T frames, F bins. The target is the
second argument.
"""

import jax
import jax.numpy as jnp

from common.spectral import mel, stft

# (n_fft, hop, win_length), Yamamoto et al. 2020, table 1; Jukebox has the same.
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
# A target this quiet (Frobenius norm of its magnitude) is silence: Jukebox's
# code. The rounding of 16-bit audio alone is above it.
SILENCE = 2e-3
# The frames of the convergence that Jukebox reports.
REPORTED = dict(n_fft=2048, hop=256, win_length=1536, pad_mode='reflect')


def frobenius(x) -> jax.Array:
  """Norm of [..., T, F]: [...]; its gradient at 0 is 0."""
  square = (_float32(x) ** 2).sum((-2, -1))
  zero = square == 0.0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def spectral_convergence(magnitude, target) -> jax.Array:
  """||S - S^|| / ||S|| of magnitudes [..., T, F]: [...]; 0 for silent targets.

  The norms are those of one example. Parallel WaveGAN's code takes them over
  the whole batch, so that its value depends on what else is in the batch.
  """
  magnitude, target = _float32(magnitude), _float32(target)
  size = frobenius(target)
  silent = size <= SILENCE
  error = jnp.where(silent, 0.0, frobenius(target - magnitude))
  return error / jnp.where(silent, 1.0, size)


def reported_convergence(audio, target):
  """Spectral convergence of audio [..., N], as Jukebox has it: [...].

  And which targets are not silent; of silence it is 0.
  """
  spectrum = lambda x: jnp.abs(stft.stft(x, **REPORTED))
  target = spectrum(target)
  return (spectral_convergence(spectrum(audio), target),
          frobenius(target) > SILENCE)


def decibels(ratio, floor: float = 1e-10) -> jax.Array:
  """20 log10 of a spectral convergence, at least -200 dB."""
  return 20.0 * jnp.log10(jnp.maximum(ratio, floor))


def log_magnitude(magnitude, target, floor: float = 1e-7) -> jax.Array:
  """Mean |ln S - ln S^| of magnitudes [..., T, F]: [...]; power >= floor."""
  log = lambda x: 0.5 * jnp.log(jnp.maximum(_float32(x) ** 2, floor))
  return jnp.abs(log(magnitude) - log(target)).mean((-2, -1))


def multi_resolution(audio, target, resolutions=RESOLUTIONS):
  """Spectral convergence and log magnitude, each a mean over resolutions.

  Parallel WaveGAN's two terms, added there with weight 1 each; audio [..., N].
  Its code clamps the power in both; here the first is of the true magnitude.
  """
  pairs = [_magnitudes(audio, target, *r) for r in resolutions]
  return (sum(spectral_convergence(*p) for p in pairs) / len(pairs),
          sum(log_magnitude(*p) for p in pairs) / len(pairs))


def jukebox(audio, target, resolutions=RESOLUTIONS) -> jax.Array:
  """Mean over resolutions of ||S - S^||, audio [..., N]: [...].

  Dhariwal et al. 2020, section 3.3. Their code divides it by the data's
  'bandwidth', the mean over training clips of ||S|| at (2048, 256, 1536).
  """
  pairs = [_magnitudes(audio, target, *r) for r in resolutions]
  return sum(frobenius(a - b) for a, b in pairs) / len(pairs)


def dac_mel(audio, target, sample_rate: int) -> jax.Array:
  """The mel loss of the Descript audio codec (Kumar et al. 2023): [...].

  Sum over seven windows of the mean |difference of log10 mel magnitudes|, as
  the released training configs have it. Its weight there is 15.
  """
  total = 0.0
  for i, bands in enumerate((5, 10, 20, 40, 80, 160, 320)):
    size = 32 * 2**i
    # A band without a bin is equal in both.
    weights = mel.filterbank(sample_rate, size, bands, allow_empty=True)
    log = lambda s: jnp.log10(jnp.maximum(mel.project(s, weights), 1e-5))
    a, b = _magnitudes(audio, target, size, size // 4, size)
    total += jnp.abs(log(a) - log(b)).mean((-2, -1))
  return total


def encodec_mel(audio, target, sample_rate: int, *, fmin: float = 64.0,
                alphas: bool = False, normalized: bool = True) -> jax.Array:
  """The mel loss of EnCodec (Défossez et al. 2022): [...].

  Sum over windows 64, 128, ..., 1024 of the mean |difference| of 64 power mels
  plus alpha times the mean square of the difference of their log10. The
  defaults are those of the released training config, which differ from its
  class's own: fmin=0, alphas=True, normalized=False.

  Args:
    alphas: alpha = sqrt(window - 1), the paper's; else 1.
    normalized: Divides the power by the window's sum of squares, and the loss
      by the sum of all weights.
  """
  total, weight = 0.0, 0.0
  for size in (64, 128, 256, 512, 1024):
    hop = size // 4
    # Small windows have bands without a bin, 20 of 64 at size 64 and 16 kHz:
    # these are 0 in both.
    bands = mel.filterbank(sample_rate, size, 64, fmin=fmin, scale='htk',
                           norm=None, allow_empty=True)
    if normalized:
      bands = bands / (stft.window('hann', size) ** 2).sum()
    a, b = (mel.project(_framed(x, size, hop) ** 2, bands)
            for x in (audio, target))
    alpha = (size - 1) ** 0.5 if alphas else 1.0
    log = lambda s: jnp.log10(1e-5 + s)
    total += jnp.abs(a - b).mean((-2, -1)) + alpha * (
        (log(a) - log(b)) ** 2).mean((-2, -1))
    weight += alpha + 1.0
  return total / weight if normalized else total


def _magnitudes(audio, target, n_fft, hop, win_length):
  """Of centred frames of the reflected audio, as torch.stft's default."""
  # Not as one batch: most often nobody wants the gradient of the target.
  return tuple(jnp.abs(stft.stft(x, n_fft, hop, win_length=win_length,
                                 pad_mode='reflect')) for x in (audio, target))


def _framed(audio, n_fft, hop):
  """Magnitudes of frames around the middle of each hop: ceil(N / hop)."""
  edge, rest = (n_fft - hop) // 2, -audio.shape[-1] % hop
  outer = [(0, 0)] * (audio.ndim - 1)
  audio = jnp.pad(audio, [*outer, (edge, edge)], mode='reflect')
  audio = jnp.pad(audio, [*outer, (0, rest)])
  return jnp.abs(stft.stft(audio, n_fft, hop, center=False))


def _float32(x):
  return jnp.asarray(x, jnp.float32)
