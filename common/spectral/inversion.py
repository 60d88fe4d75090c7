"""Audio from magnitudes alone: the phase is found by one of three methods.

  griffin_lim  iterates on the device (Griffin and Lim 1984); with momentum,
               the fast one of Perraudin et al. 2013.
  pghi         integrates the phase gradient that the magnitude implies (Průša,
               Balazs and Søndergaard 2017). A heap: numpy on the host, no jit.
  rtpghi       the same, causal (Průša and Søndergaard 2016): a frame's phase
               needs no later frame.

Both integrators give a phase that griffin_lim can start from: 32 fast steps on
the first of NSynth's example notes (frames of 1024 every 256) end at a spectral
convergence of -22.1 dB from zero phase, and at -31.7 dB from that of pghi.

Shapes: N samples, T frames, F = n_fft // 2 + 1 bins. Phases are those of
`stft`: relative to the start of each frame.
"""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common import errors
from common.spectral import stft

# gamma / length^2 of the Gaussian nearest to each window (the phaseret
# toolbox); the Gaussian is exp(-pi t^2 / gamma).
GAMMA = {'hann': 0.25645, 'hamming': 0.29794, 'blackman': 0.17954,
         'bartlett': 0.27561, 'cosine': 0.41532}


def griffin_lim(magnitude, n_fft: int, hop: int, *, iterations: int = 32,
                momentum: float = 0.0, key: jax.Array | None = None,
                phase: jax.Array | None = None, length: int | None = None,
                win_length: int | None = None, window='hann',
                center: bool = True, pad_mode: str = 'constant') -> jax.Array:
  """Audio [..., N] whose STFT has nearly this magnitude [..., T, F].

  Gradients take the phase that was found for a constant.

  Args:
    momentum: 0 for the classic method; 0.99 for the fast one.
    key: Starts from uniform random phases. Default: from `phase`.
    phase: [..., T, F] to start from, such as that of `pghi`. Default: zero.
    length: N. Default: all that the frames cover, as `istft`.
  """
  magnitude = jnp.asarray(magnitude, jnp.float32)
  if key is not None:
    phase = jax.random.uniform(key, magnitude.shape, maxval=2 * np.pi)
  elif phase is None:
    phase = jnp.zeros_like(magnitude)
  framing = dict(win_length=win_length, window=window, center=center)
  natural = hop * (magnitude.shape[-2] - 1) + n_fft
  if center:
    natural -= n_fft // 2 * 2
  # Samples after the last whole hop belong to the last frame: they take part.
  inner = natural
  if length is not None and natural <= length < natural + hop:
    inner = length

  target = lax.stop_gradient(magnitude)

  def step(_, carry):
    phasor, previous = carry
    audio = stft.istft(target * phasor, n_fft, hop, length=inner, **framing)
    rebuilt = stft.stft(audio, n_fft, hop, pad_mode=pad_mode, **framing)
    moved = rebuilt - momentum / (1 + momentum) * previous
    size = jnp.abs(moved)
    size = jnp.where(size == 0.0, 1.0, size)
    return lax.complex(moved.real / size, moved.imag / size), rebuilt

  phase = lax.stop_gradient(jnp.asarray(phase, jnp.float32))
  phasor = lax.complex(jnp.cos(phase), jnp.sin(phase))
  phasor, _ = lax.fori_loop(
      0, iterations, step, (phasor, jnp.zeros_like(phasor)))
  return stft.istft(magnitude * phasor, n_fft, hop, length=length, **framing)


def pghi(magnitude: np.ndarray, n_fft: int, hop: int, *,
         win_length: int | None = None, window: str = 'hann',
         gamma: float | None = None, tolerance: float = 1e-7,
         seed: int = 0) -> np.ndarray:
  """The phase [..., T, F] float32 of a magnitude [..., T, F], on the host.

  Each example begins at its largest coefficient with phase 0; those that are
  not above `tolerance` times the largest get random phases of the seed, the
  same in each example.

  Args:
    window: A name in GAMMA. For others give `gamma`, samples squared, of the
      Gaussian exp(-pi t^2 / gamma) that is like it.
  """
  gamma = _gamma(window, win_length or n_fft, gamma)
  # The rates at the two ends are one-sided differences, as np.gradient's. The
  # phaseret C library wraps around instead.
  return _each(magnitude, n_fft, hop, gamma, seed,
               lambda s: np.gradient(s, axis=0),
               lambda *args: _integrate(*args, tolerance))


def rtpghi(magnitude: np.ndarray, n_fft: int, hop: int, *,
           win_length: int | None = None, window: str = 'hann',
           gamma: float | None = None, tolerance: float = 1e-6,
           seed: int = 0) -> np.ndarray:
  """`pghi` that looks at no later frame, for streams."""
  gamma = _gamma(window, win_length or n_fft, gamma)

  def slope(s):  # Of second order; the first frame is taken to have lasted.
    s = np.concatenate([s[:1], s[:1], s])
    return (3 * s[2:] - 4 * s[1:-1] + s[:-2]) / 2

  return _each(magnitude, n_fft, hop, gamma, seed, slope,
               lambda *args: _integrate_causally(*args, tolerance))


def _gamma(window, length, gamma):
  if gamma is not None:
    return gamma
  if not isinstance(window, str) or window not in GAMMA:
    raise errors.UserError(
        f'window={window!r} has no known Gaussian; use one of '
        f'{", ".join(GAMMA)}, or give gamma')
  return GAMMA[window] * length**2


def _each(magnitude, n_fft, hop, gamma, seed, slope, integrate):
  """Phase of each [T, F] from its gradients in radians a bin and a frame."""
  magnitude = np.asarray(magnitude, np.float64)
  frames, bins = magnitude.shape[-2:]
  if bins != n_fft // 2 + 1 or frames < 2:
    raise errors.UserError(
        f'a magnitude of {frames} frames and {bins} bins; n_fft={n_fft} has '
        f'{n_fft // 2 + 1} bins, and at least 2 frames are needed')
  noise = np.random.default_rng(seed).uniform(0, 2 * np.pi, (frames, bins))
  phases = []
  for example in magnitude.reshape(-1, frames, bins):
    s = np.log(example + np.finfo(np.float64).tiny)
    # -pi: a window in the middle of its frame, which begins at time 0.
    by_bin = -gamma / (hop * n_fft) * slope(s) - np.pi
    by_frame = np.gradient(s, axis=1) * hop * n_fft / gamma
    by_frame[:, [0, -1]] = 0.0
    by_frame += 2 * np.pi * hop / n_fft * np.arange(bins)
    phases.append(integrate(example, by_bin, by_frame, noise))
  return np.reshape(phases, magnitude.shape).astype(np.float32)


def _integrate(magnitude, by_bin, by_frame, noise, tolerance):
  """From the largest coefficient to its neighbours, the largest ones first."""
  frames, bins = magnitude.shape
  size, phase = magnitude.ravel().tolist(), noise.ravel().tolist()
  by_bin, by_frame = by_bin.ravel().tolist(), by_frame.ravel().tolist()
  left = magnitude > tolerance * magnitude.max()
  order = np.argsort(-magnitude, axis=None, kind='stable')
  order = order[left.ravel()[order]].tolist()
  left = left.ravel().tolist()
  heap = []
  for first in order:
    if not left[first]:
      continue
    left[first], phase[first] = False, 0.0
    heap.append((-size[first], first))
    while heap:
      _, i = heapq.heappop(heap)
      for there, step, gradient, sign in (
          (i // bins > 0, -bins, by_frame, -0.5),
          (i // bins < frames - 1, bins, by_frame, 0.5),
          (i % bins > 0, -1, by_bin, -0.5),
          (i % bins < bins - 1, 1, by_bin, 0.5)):
        j = i + step
        if there and left[j]:
          left[j] = False
          phase[j] = phase[i] + sign * (gradient[i] + gradient[j])
          heapq.heappush(heap, (-size[j], j))
  # Sums of thousands of turns: only what is left of the last one fits float32.
  return np.reshape(phase, (frames, bins)) % (2 * np.pi)


def _integrate_causally(magnitude, by_bin, by_frame, noise, tolerance):
  """Frame by frame: from the frame before, or a neighbour known by then."""
  bins = magnitude.shape[1]
  phase = noise.copy()
  for n, size in enumerate(magnitude):
    past = magnitude[n - 1] if n else np.zeros(bins)
    least = tolerance * max(size.max(), past.max())
    left = (size > least).tolist()
    waiting = sum(left)
    heap = [(-past[m], False, m) for m in np.flatnonzero(past > least)]
    heapq.heapify(heap)
    while waiting:
      if heap:
        _, known, i = heapq.heappop(heap)
        near = (i - 1, i + 1) if known else (i,)
      else:  # Nothing to go on from: the largest coefficient has phase 0.
        known, near = None, (int(np.where(left, size, -1.0).argmax()),)
      for j in near:
        if not (0 <= j < bins and left[j]):
          continue
        if known:
          phase[n, j] = phase[n, i] + (j - i) / 2 * (
              by_bin[n, i] + by_bin[n, j])
        elif known is None:
          phase[n, j] = 0.0
        else:
          phase[n, j] = phase[n - 1, j] + (
              by_frame[n - 1, j] + by_frame[n, j]) / 2
        left[j], waiting = False, waiting - 1
        heapq.heappush(heap, (-size[j], True, j))
  return phase % (2 * np.pi)
