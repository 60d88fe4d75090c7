"""Frequency scales, and matrices from the bins of a spectrum to bands.

Matrices are numpy float64 [F bins, M bands]: `project(x, matrix)` maps
[..., F] to [..., M]. Whether they weigh magnitudes or powers is the caller's
choice, and not the same choice.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common import errors

_BLOCK = 64


def hz_to_mel(hz, scale: str):
  """'slaney' (librosa's), 'htk', or 'tf': HTK with the constant 1127."""
  hz = np.asarray(hz, np.float64)
  if scale == 'slaney':  # Linear below 1000 Hz, 27 to a factor of 6.4 above.
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(
        np.maximum(hz, 1000) / 1000) / math.log(6.4))
  return _factor(scale) * np.log1p(hz / 700)


def mel_to_hz(mel, scale: str):
  """Inverse of `hz_to_mel`."""
  mel = np.asarray(mel, np.float64)
  if scale == 'slaney':
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(
        np.maximum(mel - 15, 0) * math.log(6.4) / 27))
  return 700 * np.expm1(mel / _factor(scale))


def _factor(scale):
  factors = {'htk': 2595 / math.log(10), 'tf': 1127.0}
  if scale not in factors:
    raise errors.UserError(f"scale={scale!r}; use 'slaney', 'htk' or 'tf'")
  return factors[scale]


def filterbank(sample_rate: float, n_fft: int, bands: int, *,
               fmin: float = 0.0, fmax: float | None = None,
               scale: str = 'slaney', norm: str | None = 'slaney',
               linear_in: str = 'hz', allow_empty: bool = False) -> np.ndarray:
  """Triangles at equal distances on a mel scale.

  librosa's defaults; torchaudio has scale='htk', norm=None; tf.signal and
  VGGish scale='tf', norm=None, linear_in='mel'.

  Args:
    fmax: Half the sample rate by default.
    norm: 'slaney' gives each filter, a function of Hz, the area 1; None the
      peak 1.
    linear_in: The sides are straight lines over 'hz' or over 'mel'.
    allow_empty: Bands may have no bin. An error otherwise.
  """
  fmax = sample_rate / 2 if fmax is None else fmax
  if not 0 <= fmin < fmax <= sample_rate / 2:
    raise errors.UserError(
        f'mel bands from fmin={fmin} to fmax={fmax} Hz at sample_rate='
        f'{sample_rate}; use 0 <= fmin < fmax <= {sample_rate / 2:g}')
  if norm not in ('slaney', None) or linear_in not in ('hz', 'mel'):
    raise errors.UserError(
        f"norm={norm!r}, linear_in={linear_in!r}; use 'slaney' or None, and "
        "'hz' or 'mel'")
  args = sample_rate, bands, fmin, fmax, scale, norm, linear_in
  matrix = _triangles(n_fft, *args)
  empty = np.flatnonzero(matrix.max(0) <= 0)
  if len(empty) and not allow_empty:
    enough = n_fft
    while not (_triangles(enough, *args).max(0) > 0).all():
      enough *= 2
    raise errors.UserError(
        f'{bands} mel bands from {fmin:g} to {fmax:g} Hz leave {len(empty)} of '
        f'them (the first: {empty[0]}) without a bin at n_fft={n_fft}; use '
        f'fewer bands, a higher fmin, or n_fft={enough}')
  return matrix


def _triangles(n_fft, sample_rate, bands, fmin, fmax, scale, norm, linear_in):
  hz = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
  if n_fft % 2:
    hz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
  edges = np.linspace(hz_to_mel(fmin, scale), hz_to_mel(fmax, scale), bands + 2)
  if linear_in == 'mel':
    matrix = _tents(hz_to_mel(hz, scale), edges[:-2], edges[1:-1], edges[2:])
  edges = mel_to_hz(edges, scale)
  if linear_in == 'hz':
    matrix = _tents(hz, edges[:-2], edges[1:-1], edges[2:])
  if norm == 'slaney':
    matrix = matrix * (2 / (edges[2:] - edges[:-2]))[None]
  return matrix


def _tents(x, low, middle, high):
  """[F, M]: 0 up to `low`, 1 at `middle`, 0 again from `high`."""
  x = x[:, None]
  return np.maximum(0, np.minimum((x - low[None]) / (middle - low)[None],
                                  (high[None] - x) / (high - middle)[None]))


def log_filterbank(sample_rate: float, n_fft: int, bands: int | None = None, *,
                   fmin: float = 32.703, bands_per_octave: int = 48
                   ) -> np.ndarray:
  """Triangles around fmin 2^(k / bands_per_octave), at least one bin wide.

  By default all up to half the sample rate. fmin is C1.
  """
  most = 1 + math.floor(bands_per_octave * math.log2(sample_rate / 2 / fmin))
  bands = most if bands is None else bands
  if not 1 <= bands <= most:
    raise errors.UserError(
        f'{bands} bands, {bands_per_octave} to the octave from fmin={fmin:g} '
        f'Hz, with half of sample_rate={sample_rate} as the highest; use 1 to '
        f'{max(most, 1)} bands, or a lower fmin')
  edges = fmin * 2 ** (np.arange(bands + 1) / bands_per_octave)
  half = np.maximum(np.diff(edges), sample_rate / n_fft)
  centres = edges[:-1]
  hz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
  return _tents(hz, centres - half, centres, centres + half)


def inverse(matrix: np.ndarray) -> np.ndarray:
  """Pseudo-inverse [M, F]. Clip what it gives at 0: it knows no sign."""
  return np.linalg.pinv(matrix, rcond=1e-10)


def gansynth_filterbank(bins: int, sample_rate: float = 16000) -> np.ndarray:
  """GANSynth's square 'mel' matrix, [bins, bins].

  Bands narrower than 1.5 bins are widened. In the released code the edges of a
  band are views of one array: widening a band moves its neighbours' centres,
  and what is meant for the lowest 498 of 1024 bands runs on through 852. The
  axis is nearly linear up to 5 kHz. The released weights need it so.
  """
  bin_hz = sample_rate / 2 / bins
  edges = np.linspace(0, hz_to_mel(sample_rate / 2, 'tf'), bins + 2)
  for i in range(bins):
    low, middle, high = mel_to_hz(edges[i:i + 3], 'tf')
    if high - low < 1.5 * bin_hz:
      reach = 1127.0 * math.asinh(0.75 * bin_hz / (middle + 700))
      edges[i] = edges[i + 1] - reach
      edges[i + 2] = edges[i + 1] + reach
  hz = mel_to_hz(edges, 'tf')
  # Row 0 is left out as DC, which was dropped before: the bins are taken to be
  # about one lower than they are.
  matrix = _tents(np.linspace(0, sample_rate / 2, bins),
                  hz[:-2], hz[1:-1], hz[2:])
  matrix[0] = 0.0
  return matrix


def bazin_filterbank(bins: int, sample_rate: float = 16000,
                     break_hz: float = 700.0) -> np.ndarray:
  """The square matrix of Bazin et al. 2021, [bins, bins].

  `gansynth_filterbank` without its slip: the edges of bands are widened one by
  one. The axis is linear below `break_hz`, logarithmic above.
  """
  if break_hz <= 0:
    raise errors.UserError(f'break_hz={break_hz} is not above 0')
  q = 1127.0 if break_hz == 700 else 1000 / math.log1p(1000 / break_hz)
  nyquist = sample_rate / 2
  edges = np.linspace(0, q * math.log1p(nyquist / break_hz), bins + 2)
  hz = lambda mel: break_hz * np.expm1(mel / q)
  low, middle, high = edges[:-2], edges[1:-1], edges[2:]
  least = 1.5 * nyquist / bins
  reach = q * np.arcsinh(0.5 * least / (hz(middle) + break_hz))
  narrow = hz(high) - hz(low) < least
  low = np.where(narrow, middle - reach, low)
  high = np.where(narrow, middle + reach, high)
  matrix = _tents(np.linspace(0, nyquist, bins), hz(low), hz(middle), hz(high))
  matrix[0] = 0.0
  return matrix


def gansynth_inverse(matrix: np.ndarray) -> np.ndarray:
  """GANSynth's way back: the transpose, each column divided.

  By the sums of matrix @ matrix.T, so that a flat spectrum comes back flat.
  """
  total = matrix @ matrix.sum(0)
  return matrix.T / np.where(np.abs(total) > 1e-8, total, 1.0)[None]


def wide_filterbank(bins: int, sample_rate: float = 16000
                    ) -> tuple[np.ndarray, np.ndarray]:
  """What `gansynth_filterbank` was meant to be, and the way back.

  A true mel axis; bins 1 to `bins` of a spectrum of `bins` + 1 at their true
  frequencies; bands no narrower than 1.5 bins, and each a mean of bins, so that
  an instantaneous frequency stays one. Back, a bin lies between the two bands
  nearest to it.
  """
  width = sample_rate / 2 / bins
  hz = width * np.arange(1, bins + 1)
  edges = mel_to_hz(
      np.linspace(0, hz_to_mel(sample_rate / 2, 'tf'), bins + 2), 'tf')
  # The first bands lie below the first bin.
  centres = np.maximum(edges[1:-1], hz[0])
  matrix = _tents(hz, np.minimum(edges[:-2], centres - 0.75 * width), centres,
                  np.maximum(edges[2:], centres + 0.75 * width))
  back = np.stack([np.interp(hz, edges[1:-1], row) for row in np.eye(bins)])
  return matrix / matrix.sum(0)[None], back


def project(x, matrix: np.ndarray):
  """x [..., F] @ matrix [F, M] in float32, without its blocks of zeros.

  Bands reach only over bins nearby: on a CPU that is several times faster than
  the whole product. No forward-mode derivative.
  """
  # As it stands, the derivative would add up a padded array for each block.
  @jax.custom_vjp
  def product(x):
    parts = []
    for i in range(0, matrix.shape[1], _BLOCK):
      block = matrix[:, i:i + _BLOCK]
      rows = np.flatnonzero(block.any(1))
      low, high = (rows[0], rows[-1] + 1) if len(rows) else (0, 1)
      # By default a GPU or TPU has 10 or 8 bits here, too few for a phase.
      parts.append(jnp.matmul(
          x[..., low:high], jnp.asarray(block[low:high], jnp.float32),
          precision=lax.Precision.HIGHEST))
    return jnp.concatenate(parts, -1)

  product.defvjp(lambda x: (product(x), None),
                 lambda _, g: (project(g, matrix.T),))
  return product(jnp.asarray(x, jnp.float32))
