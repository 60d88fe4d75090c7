"""Short-time Fourier transform and its inverses, in four conventions.

Shapes: N samples, T frames, L frame length, F = n_fft // 2 + 1 bins. The phase
of a bin is relative to the start of its frame, as in all four libraries.

| as in | arguments beside n_fft and hop |
|---|---|
| librosa | none |
| torch | pad_mode='reflect', and window='boxcar' where torch is given none |
| scipy | align='start', pad_end=True, normalize='spectrum' |
| tf.signal | align='start', center=False |

A frame that is shorter than n_fft, nperseg or frame_length, is win_length.
"""

import jax
import jax.numpy as jnp
import numpy as np

from common import errors, sharding

# From so many hops to a frame on, blocks would take minutes to compile.
_MANY = 64

# What a frame's spectrum is divided by, under torchaudio's and scipy's names.
_SCALES = {
    None: lambda w, n_fft: 1.0,
    'spectrum': lambda w, n_fft: w.sum(),              # scipy
    'frame_length': lambda w, n_fft: np.sqrt(n_fft),   # torch: normalized=True
    'window': lambda w, n_fft: np.sqrt((w**2).sum()),  # torchaudio
}


def stft(x, n_fft: int, hop: int, *, win_length: int | None = None,
         window='hann', center: bool = True, pad_mode: str = 'constant',
         pad_end: bool = False, align: str = 'center',
         normalize: str | None = None) -> jax.Array:
  """Complex64 [..., T, F] of audio [..., N].

  Args:
    win_length: Samples under the window, n_fft by default.
    window: A name for `window`, or an array of win_length values.
    center: Frame t is around sample t hop, with half a frame of padding at
      both ends. Else it starts there, and nothing is put before the audio.
    pad_mode: Of the padding of `center`, as in np.pad.
    pad_end: Zeros at the end: with `center` to fill the last frame, and
      without so that a frame starts at every hop inside the audio. Either way
      every sample is in some frame.
    align: Where a window shorter than n_fft is: in the 'center' of a frame of
      n_fft samples, or at its 'start' ('center' then pads win_length // 2).
    normalize: None, 'spectrum', 'frame_length' or 'window'.
  """
  x = jnp.asarray(x, jnp.float32)
  w, scale = _frame_window(n_fft, hop, win_length, window, align, normalize)
  length = len(w)
  outer = [(0, 0)] * (x.ndim - 1)
  if center:
    x = jnp.pad(x, [*outer, (length // 2,) * 2], mode=pad_mode)
  size = x.shape[-1]
  count = 1 + (size - length) // hop
  if pad_end:
    count = -(-size // hop) if not center else 1 - (length - size) // hop
  if count < 1:
    raise errors.UserError(
        f'{size} samples are fewer than one frame of {length}; use longer '
        'audio, a smaller n_fft, center=True or pad_end=True')
  missing = hop * (count - 1) + length - size
  x = jnp.pad(x, [*outer, (0, max(0, missing))])
  frames = _frames(x, length, hop, count)
  return sharding.per_device(lambda x: jnp.fft.rfft(x, n_fft),
                             frames * _like(w / scale, frames))


def istft(spec, n_fft: int, hop: int, *, win_length: int | None = None,
          window='hann', center: bool = True, length: int | None = None,
          align: str = 'center', normalize: str | None = None,
          dual_window: bool = False) -> jax.Array:
  """Audio [..., N] whose STFT is nearest to `spec` [..., T, F].

  Least squares (Griffin and Lim 1984): frames under the window once more are
  added up and divided by the sum of squared windows, where that is not zero.
  Without `center` a Hann window has nothing of sample 0 and little of the ones
  beside it: what cannot be known there is 0, and noise is amplified.

  Args:
    length: N: samples beyond are cut, missing ones are 0. By default all that
      the frames cover, without the padding of `center`.
    dual_window: Divide by the sum of squares of endless frames instead, as
      tf.signal.inverse_stft with inverse_stft_window_fn: the same inside, but
      the ends, which fewer frames cover, fade.
  """
  w, scale = _frame_window(n_fft, hop, win_length, window, align, normalize)
  spec = jnp.asarray(spec, jnp.complex64)
  if spec.shape[-1] != n_fft // 2 + 1:
    raise errors.UserError(
        f'{spec.shape[-1]} bins do not go with n_fft={n_fft}, which has '
        f'{n_fft // 2 + 1}; n_fft={2 * (spec.shape[-1] - 1)} would')
  count = spec.shape[-2]
  frames = sharding.per_device(lambda x: jnp.fft.irfft(x, n_fft), spec)
  frames = frames[..., :len(w)]
  square = w**2
  if dual_window:
    parts = -(-len(w) // hop)
    total = np.pad(square, (0, parts * hop - len(w)))
    total = np.tile(total.reshape(parts, hop).sum(0), parts)[:len(w)]
    w = w / np.where(total > 0, total, 1.0)
  audio = _overlap_add(frames * _like(w * scale, frames), hop)
  if not dual_window:
    total = np.zeros(hop * (count - 1) + len(w))
    for i in range(count):
      total[i * hop:i * hop + len(w)] += square
    tiny = np.finfo(np.float32).tiny
    audio = audio * _like(np.where(total > tiny, 1 / np.maximum(total, tiny),
                                   1.0), audio)
  edge = len(w) // 2 if center else 0
  if length is None:
    return audio[..., edge:audio.shape[-1] - edge]
  audio = audio[..., edge:edge + length]
  return jnp.pad(audio, [(0, 0)] * (audio.ndim - 1)
                 + [(0, length - audio.shape[-1])])


def window(name, length: int) -> np.ndarray:
  """Periodic float64 window [length]: scipy's name, or an array kept as is."""
  if not isinstance(name, str | tuple):  # ('kaiser', 9.0) is a name, too.
    values = np.asarray(name, np.float64)
    if values.shape != (length,):
      raise errors.UserError(
          f'the window has shape {list(values.shape)}; win_length is {length}: '
          'give as many values, or a name such as hann')
    return values
  from scipy import signal  # Half a second, for those who need it.
  try:
    return signal.get_window(name, length)
  except ValueError as e:
    raise errors.UserError(
        f'window={name!r}: {e}; use hann, hamming, blackman, boxcar or another '
        'name of scipy.signal.get_window, or an array') from None


def _frame_window(n_fft, hop, win_length, name, align, normalize):
  """(window over a whole frame, what spectra are divided by)."""
  win_length = n_fft if win_length is None else win_length
  if not 1 <= win_length <= n_fft or hop < 1:
    raise errors.UserError(
        f'n_fft={n_fft}, win_length={win_length}, hop={hop}; use '
        '1 <= win_length <= n_fft and hop >= 1')
  if align not in ('center', 'start'):
    raise errors.UserError(f"align={align!r}; use 'center' or 'start'")
  if normalize not in _SCALES:
    raise errors.UserError(f'normalize={normalize!r}; use one of '
                           f'{", ".join(map(repr, _SCALES))}')
  w = window(name, win_length)
  scale = _SCALES[normalize](w, n_fft)
  if align == 'center':  # As librosa: the odd zero is at the end.
    left = (n_fft - win_length) // 2
    w = np.pad(w, (left, n_fft - win_length - left))
  return w, scale


def _frames(x, length, hop, count):
  """[..., N] -> [..., T, L], from sample 0."""
  parts = -(-length // hop)
  if parts > _MANY:
    return x[..., _positions(length, hop, count)]
  # Blocks of hop samples side by side: faster than a gather, above all
  # backwards.
  blocks = count + parts - 1
  x = x[..., :blocks * hop]
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, blocks * hop - x.shape[-1])])
  x = x.reshape(*x.shape[:-1], blocks, hop)
  return jnp.concatenate(
      [x[..., i:i + count, :] for i in range(parts)], -1)[..., :length]


def _overlap_add(frames, hop):
  """[..., T, L] -> [..., hop (T - 1) + L], the adjoint of `_frames`."""
  *outer, count, length = frames.shape
  parts = -(-length // hop)
  size = hop * (count - 1) + length
  if parts > _MANY:
    where = _positions(length, hop, count)
    return jnp.zeros((*outer, size)).at[..., where].add(frames)
  widths = [(0, 0)] * len(outer)
  frames = jnp.pad(frames, [*widths, (0, 0), (0, parts * hop - length)])
  frames = frames.reshape(*outer, count, parts, hop)
  out = sum(jnp.pad(frames[..., i, :], [*widths, (i, parts - 1 - i), (0, 0)])
            for i in range(parts))
  return out.reshape(*outer, -1)[..., :size]


def _positions(length, hop, count):
  return hop * np.arange(count)[:, None] + np.arange(length)[None]


def _like(values, x):
  """A row of constants that broadcasts over x, float32."""
  return jnp.asarray(values, jnp.float32).reshape(
      (1,) * (x.ndim - 1) + (-1,))
