"""Splits audio into M bands at 1/M of its rate, and joins them (pseudo-QMF).

Nguyen 1994; the prototype is Lin and Vaidyanathan's (1998), a low-pass filter
under a Kaiser window. Joining gives the audio back to about 60 dB, without
delay. The filters correlate (as a convolution of a neural network), they are
not flipped.

Shapes: N samples, T = ceil(N / M) frames, M bands from low to high.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common import errors

DIMENSIONS = ('NWC', 'WIO', 'NWC')


def prototype(taps: int, cutoff: float, beta: float = 9.0) -> np.ndarray:
  """The low-pass filter [taps + 1]; cutoff as a fraction of Nyquist."""
  n = np.arange(taps + 1) - taps / 2
  return cutoff * np.sinc(cutoff * n) * np.kaiser(taps + 1, beta)


@functools.lru_cache
def design(bands: int, taps: int, beta: float = 9.0) -> float:
  """The cutoff whose prototype is nearest to orthogonal to its shifts by 2 M.

  Lin and Vaidyanathan's criterion: the largest |r[2 M j]| / r[0] over j != 0, r
  the autocorrelation of the prototype, is least.
  """
  def error(cutoff):
    h = prototype(taps, cutoff, beta)
    r = np.correlate(h, h, 'full')[taps:]
    return np.abs(r[2 * bands::2 * bands]).max() / r[0]

  low, high = 0.5 / bands, 1.0 / bands
  while True:  # The one dip, with both of its neighbours, on finer grids.
    grid = np.linspace(low, high, 33)
    best = int(np.argmin([error(cutoff) for cutoff in grid]))
    if high - low < 1e-9:
      return float(grid[best])
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, 32)]


@functools.lru_cache
def filters(bands: int, taps: int | None = None, cutoff: float | None = None,
            beta: float = 9.0) -> tuple[np.ndarray, np.ndarray]:
  """Analysis and synthesis filters, each [taps + 1, bands] float64."""
  if taps is None:
    taps = max(16 * bands - 2, 62)
  if bands < 2 or taps % 2 or taps < 2 * bands:
    raise errors.UserError(
        f'bands={bands} with taps={taps}: a filter bank needs 2 bands or more '
        f'and an even number of taps, from {2 * max(bands, 2)}; '
        f'{max(16 * bands - 2, 62)} gives about 60 dB')
  if cutoff is None:
    cutoff = design(bands, taps, beta)
  k, n = np.arange(bands), np.arange(taps + 1)[:, None] - taps / 2
  angle = (2 * k + 1) * np.pi / (2 * bands) * n
  sign = (-1.0) ** k * np.pi / 4
  h = 2 * prototype(taps, cutoff, beta)[:, None]
  return h * np.cos(angle + sign), h * np.cos(angle - sign)


def analysis(x: jax.Array, bands: int, *, taps: int | None = None,
             cutoff: float | None = None, beta: float = 9.0) -> jax.Array:
  """[..., N] -> [..., T, M]; zeros are taken beyond both ends.

  Args:
    taps: Even; None: 16 M - 2, but at least 62.
    cutoff: Of the prototype, 1 is Nyquist. None: `design`. The well-known bank
      of 4 bands and 62 taps has 0.142.
  """
  h, _ = filters(bands, taps, cutoff, beta)
  before = (len(h) - 1) // 2
  blocks = -(-len(h) // bands)  # One filter covers so many frames of M samples.
  kernel = np.zeros((blocks * bands, bands))
  kernel[:len(h)] = h
  *batch, samples = x.shape
  frames = -(-samples // bands)
  after = (frames + blocks - 1) * bands - before - samples
  x = jnp.pad(x.reshape(-1, samples), ((0, 0), (before, after)))
  y = _convolve(x.reshape(x.shape[0], -1, bands),
                kernel.reshape(blocks, bands, bands), (0, 0))
  return y.reshape(*batch, frames, bands)


def synthesis(y: jax.Array, *, taps: int | None = None,
              cutoff: float | None = None, beta: float = 9.0) -> jax.Array:
  """[..., T, M] -> [..., T M]: the inverse, of the same taps and cutoff."""
  frames, bands = y.shape[-2:]
  _, g = filters(bands, taps, cutoff, beta)
  half = (len(g) - 1) // 2
  before, after = half // bands, (half + bands - 1) // bands
  # Sample M b + p takes from frame b + d what tap M d - p + half gives it.
  d = np.arange(-before, after + 1)[:, None]
  tap = bands * d - np.arange(bands) + half  # [d, p]
  inside = (tap >= 0) & (tap < len(g))
  kernel = np.where(inside[..., None], bands * g[tap.clip(0, len(g) - 1)], 0.0)
  out = _convolve(y.reshape(-1, frames, bands), kernel.swapaxes(1, 2),
                  (before, after))
  return out.reshape(*y.shape[:-2], frames * bands)


def _convolve(x, kernel, padding):
  # Lower precision than float32 alone would cost 60 dB.
  return lax.conv_general_dilated(
      x.astype(jnp.float32), jnp.asarray(kernel, jnp.float32), (1,), [padding],
      dimension_numbers=DIMENSIONS, precision=lax.Precision.HIGHEST)
