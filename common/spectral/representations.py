"""What a network sees of audio, by name, and the way back.

`make(name, num_samples, sample_rate)` gives pure functions, `encode` from
audio [B, N] to [B, T, F, C], and `decode` back to N samples. Channel 0 is the
magnitude, channel 1 the phase or the instantaneous frequency (IF), both in
units of pi; of `complex` they are the real and the imaginary part. Nothing is
normalised: models do that.

| name | channels | way back |
|---|---|---|
| magnitude | S | Griffin-Lim |
| log_magnitude | ln(S + eps) | Griffin-Lim |
| log_frequency | ln(S W + eps), bands at equal ratios | as mel |
| mel, log_mel | S W, ln(S W + eps) | pseudo-inverse, Griffin-Lim |
| magnitude_phase | S, phase | exact |
| magnitude_if | S, IF | exact |
| complex | re, im | exact |
| gansynth_phase | ln(S + 1e-6), phase | exact, but for the ends |
| gansynth_if | ln(S + 1e-6), IF | exact, but for the ends |
| gansynth_ifmel | ln(S^2 W + 1e-6), IF of phase W | lossy, as released |
| ifmel | ln(S^2 W + 1e-6), IF W, on a true mel axis | lossy, less so |
| bazin_if | ln(S + 1e-6), IF | exact, but for Nyquist |
| bazin_ifmel | ln(S^2 W + 1e-6), IF of phase W | lossy |

S are magnitudes of an STFT. The last six have the framing of GANSynth and of
Bazin et al. 2021, given by `frames` and `bins`; the others have centred frames.

Shapes: B batch (any leading axes), N samples, T frames, F bins or bands, C
channels.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common import errors
from common.spectral import inversion, mel, phase, stft

_EPS = 1e-6  # GANSynth's, of magnitudes and powers alike.


class Representation(NamedTuple):
  encode: Callable[[jax.Array], jax.Array]  # [B, N] -> [B, T, F, C]
  decode: Callable[[jax.Array], jax.Array]  # [B, T, F, C] -> [B, N]
  shape: tuple[int, int, int]               # (T, F, C)
  hop: int                                  # Samples from frame to frame.


def make(name: str, num_samples: int, sample_rate: int, **options
         ) -> Representation:
  """The representation of that name, for audio of that length.

  Args:
    **options: Fields of `Centred`, `GanSynth` or `Bazin`, whichever the name
      has, and keywords of the function that makes it, below; `eps` of
      logarithms.
  """
  if 'mfcc' in name.lower():
    raise errors.UserError(
        f'representation {name!r} has no inverse: cepstra keep the envelope of '
        'a spectrum, neither its harmonics nor its phase, so what a network '
        'makes of them cannot be heard; use log_mel, which they are made from')
  if name not in _KINDS:
    raise errors.UserError(f'representation {name!r} is not known'
                           + errors.suggest(name, _KINDS))
  framing, kind = _KINDS[name]
  of_framing, of_kind = map(_keywords, (framing, kind))
  for option in options:
    if option not in of_framing | of_kind:
      raise errors.UserError(
          f'representation {name!r} has no option {option!r}'
          + errors.suggest(option, of_framing | of_kind))
  frames = framing(num_samples, **{
      k: v for k, v in options.items() if k in of_framing})
  encode, decode = kind(frames, sample_rate, **{
      k: v for k, v in options.items() if k in of_kind})
  probe = jax.eval_shape(
      encode, jax.ShapeDtypeStruct((num_samples,), jnp.float32))

  def checked_encode(x):
    x = jnp.asarray(x, jnp.float32)
    if x.shape[-1] != num_samples:
      raise ValueError(f'{name} was made for {num_samples} samples, not for '
                       f'audio of shape {list(x.shape)}')
    return encode(x)

  def checked_decode(y):
    y = jnp.asarray(y, jnp.float32)
    if y.shape[-3:] != probe.shape:
      raise ValueError(f'{name} has shape {list(probe.shape)} after the batch, '
                       f'not {list(y.shape)}')
    return decode(y)

  return Representation(checked_encode, checked_decode, probe.shape,
                        frames.hop)


def _keywords(function):
  return {p.name for p in inspect.signature(function).parameters.values()
          if p.kind == p.KEYWORD_ONLY}


@dataclasses.dataclass(frozen=True)
class Centred:
  """1 + N // hop frames, n_fft // 2 + 1 bins, zeros around the audio."""
  num_samples: int
  _: dataclasses.KW_ONLY
  n_fft: int = 1024
  hop: int = 256
  win_length: int | None = None
  window: str = 'hann'

  def __post_init__(self):
    if 2 * self.hop > (self.win_length or self.n_fft):
      raise errors.UserError(
          f'hop={self.hop} is more than half of win_length='
          f'{self.win_length or self.n_fft}: too little overlap to get audio '
          f'back; use hop={(self.win_length or self.n_fft) // 4}')

  @property
  def _arguments(self):
    return dict(n_fft=self.n_fft, hop=self.hop, win_length=self.win_length,
                window=self.window)

  def forward(self, x):
    return stft.stft(x, **self._arguments)

  def inverse(self, spec):
    return stft.istft(spec, length=self.num_samples, **self._arguments)

  def from_magnitude(self, magnitude, iterations):
    # Networks may give less than 0.
    return inversion.griffin_lim(
        jnp.maximum(magnitude, 0.0), iterations=iterations, momentum=0.99,
        length=self.num_samples, **self._arguments)


@dataclasses.dataclass(frozen=True)
class GanSynth:
  """`frames` and `bins` are given; n_fft = 2 bins, hop = n_fft / 4.

  Zeros are put before the audio only, so the last hop is faint on the way back.
  The code drops the bin of DC and keeps Nyquist's; the paper has it the other
  way round.
  """
  num_samples: int
  _: dataclasses.KW_ONLY
  frames: int = 128
  bins: int = 1024

  def __post_init__(self):
    if self.bins < 2 or self.bins % 2 or self.frames < 1:
      raise errors.UserError(f'frames={self.frames}, bins={self.bins}; use an '
                             'even number of bins and at least one frame')
    if self._padding < 0:
      enough = 1 + math.ceil((self.num_samples - 2 * self.bins) / self.hop)
      raise errors.UserError(
          f'frames={self.frames} of bins={self.bins} hold '
          f'{self.num_samples + self._padding} samples, fewer than num_samples='
          f'{self.num_samples}; use frames={enough} or more')

  @property
  def hop(self):
    return self.bins // 2

  @property
  def _padding(self):
    return self.hop * (self.frames - 1) + 2 * self.bins - self.num_samples

  def forward(self, x):
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(self._padding, 0)])
    return stft.stft(x, 2 * self.bins, self.hop, center=False)[..., 1:]

  def inverse(self, spec):
    spec = jnp.pad(spec, [(0, 0)] * (spec.ndim - 1) + [(1, 0)])
    return stft.istft(spec, 2 * self.bins, self.hop, center=False,
                      dual_window=True)[..., self._padding:]


@dataclasses.dataclass(frozen=True)
class Bazin:
  """`frames` and `bins` are given; n_fft = 2 bins, hop = n_fft / 4.

  Of the code that Bazin et al. 2021 released: centred frames of the reflected
  audio under a symmetric window, as many as there are, and the last one again
  until they are `frames`. Nyquist's bin is dropped, and the one below stands in
  for it on the way back.
  """
  num_samples: int
  _: dataclasses.KW_ONLY
  frames: int = 128
  bins: int = 1024

  def __post_init__(self):
    if self.bins < 2 or self.bins % 2:
      raise errors.UserError(f'bins={self.bins} is not an even number')
    if self.frames < self._given:
      raise errors.UserError(
          f'frames={self.frames} of bins={self.bins} are too few for '
          f'num_samples={self.num_samples}; use frames={self._given} or more')
    if self.num_samples <= self.bins:
      raise errors.UserError(
          f'num_samples={self.num_samples} cannot be reflected at the ends by '
          f'bins={self.bins}; use more samples or fewer bins')

  @property
  def hop(self):
    return self.bins // 2

  @property
  def _given(self):
    return 1 + self.num_samples // self.hop

  @property
  def _arguments(self):
    symmetric = 0.5 - 0.5 * np.cos(
        2 * np.pi * np.arange(2 * self.bins) / (2 * self.bins - 1))
    return dict(n_fft=2 * self.bins, hop=self.hop, window=symmetric)

  def forward(self, x):
    spec = stft.stft(x, pad_mode='reflect', **self._arguments)[..., :-1]
    again = jnp.repeat(spec[..., -1:, :], self.frames - self._given, -2)
    return jnp.concatenate([spec, again], -2)

  def inverse(self, spec):
    spec = jnp.concatenate([spec, spec[..., -1:]], -1)
    return stft.istft(spec, length=self.num_samples, **self._arguments)


def _magnitude(frames, sample_rate, *, iterations=32):
  del sample_rate

  def encode(x):
    return jnp.abs(frames.forward(x))[..., None]

  def decode(y):
    return frames.from_magnitude(y[..., 0], iterations)

  return encode, decode


def _bands(frames, matrix, iterations):
  back = mel.inverse(matrix)

  def encode(x):
    return mel.project(jnp.abs(frames.forward(x)), matrix)[..., None]

  def decode(y):
    return frames.from_magnitude(mel.project(y[..., 0], back), iterations)

  return encode, decode


def _mel(frames, sample_rate, *, bands=80, fmin=0.0, fmax=None, scale='slaney',
         norm='slaney', iterations=32):
  return _bands(frames, mel.filterbank(
      sample_rate, frames.n_fft, bands, fmin=fmin, fmax=fmax, scale=scale,
      norm=norm), iterations)


def _log_magnitude(frames, sample_rate, *, eps=_EPS, iterations=32):
  return _log(_magnitude(frames, sample_rate, iterations=iterations), eps)


def _log_mel(frames, sample_rate, *, eps=_EPS, bands=80, fmin=0.0, fmax=None,
             scale='slaney', norm='slaney', iterations=32):
  return _log(_mel(frames, sample_rate, bands=bands, fmin=fmin, fmax=fmax,
                   scale=scale, norm=norm, iterations=iterations), eps)


def _log_frequency(frames, sample_rate, *, eps=_EPS, bands=None, fmin=32.703,
                   bands_per_octave=48, iterations=32):
  """From C1 up to half the sample rate; `bands` cuts at the top."""
  return _log(_bands(frames, mel.log_filterbank(
      sample_rate, frames.n_fft, bands, fmin=fmin,
      bands_per_octave=bands_per_octave), iterations), eps)


def _log(linear, eps):
  encode, decode = linear
  return (lambda x: jnp.log(encode(x) + eps),
          lambda y: decode(jnp.exp(y) - eps))


def _complex(frames, sample_rate):
  del sample_rate

  def encode(x):
    spec = frames.forward(x)
    return jnp.stack([spec.real, spec.imag], -1)

  def decode(y):
    return frames.inverse(jax.lax.complex(y[..., 0], y[..., 1]))

  return encode, decode


def _polar(log, frequency):
  """Magnitude or its logarithm, and phase or instantaneous frequency."""
  def kind(frames, sample_rate):
    del sample_rate

    def encode(x):
      spec = frames.forward(x)
      magnitude, angle = jnp.abs(spec), phase.angle(spec)
      return jnp.stack([
          jnp.log(magnitude + _EPS) if log else magnitude,
          phase.instantaneous_frequency(angle) if frequency else angle / np.pi,
      ], -1)

    # The released code does not subtract what it had added, either.
    def decode(y):
      return frames.inverse(phase.polar(
          jnp.exp(y[..., 0]) if log else y[..., 0],
          phase.integrate(y[..., 1]) if frequency else np.pi * y[..., 1]))

    return encode, decode
  return kind


def _gansynth_ifmel(frames, sample_rate):
  return _warped(frames, mel.gansynth_filterbank(frames.bins, sample_rate))


def _bazin_ifmel(frames, sample_rate, *, break_hz=700.0):
  return _warped(frames, mel.bazin_filterbank(
      frames.bins, sample_rate, break_hz))


def _warped(frames, matrix):
  """Equal to the released code but for rounding.

  There both ways unwrap and sum the phase, multiply by the matrix and take
  differences again; a difference of sums is the summand, so here the
  differences are multiplied.
  """
  back = mel.gansynth_inverse(matrix)

  def encode(x):
    spec = frames.forward(x)
    power = mel.project((jnp.abs(spec) + _EPS) ** 2, matrix)
    step = phase.instantaneous_frequency(phase.angle(spec))
    return jnp.stack([jnp.log(power + _EPS), _warp(step, matrix)], -1)

  def decode(y):
    power = mel.project(jnp.exp(y[..., 0]), back)
    return frames.inverse(phase.polar(
        jnp.sqrt(power + _EPS), phase.integrate(_warp(y[..., 1], back))))

  return encode, decode


def _warp(frequency, matrix):
  """IF [B, T, F] of the phase times the matrix; frame 0 is not wrapped."""
  step = mel.project(np.pi * frequency, matrix)
  return jnp.concatenate(
      [step[..., :1, :], phase.wrap(step[..., 1:, :])], -2) / np.pi


def _ifmel(frames, sample_rate):
  matrix, back = mel.wide_filterbank(frames.bins, sample_rate)

  def encode(x):
    spec = frames.forward(x)
    power = mel.project(jnp.abs(spec) ** 2, matrix)
    frequency = phase.instantaneous_frequency(phase.angle(spec))
    return jnp.stack(
        [jnp.log(power + _EPS), mel.project(frequency, matrix)], -1)

  def decode(y):
    power = mel.project(jnp.exp(y[..., 0]), back) - _EPS
    # The root has no derivative at 0.
    magnitude = jnp.sqrt(jnp.maximum(power, 1e-12))
    return frames.inverse(phase.polar(
        magnitude, phase.integrate(mel.project(y[..., 1], back))))

  return encode, decode


_KINDS = {
    'magnitude': (Centred, _magnitude),
    'log_magnitude': (Centred, _log_magnitude),
    'log_frequency': (Centred, _log_frequency),
    'mel': (Centred, _mel),
    'log_mel': (Centred, _log_mel),
    'magnitude_phase': (Centred, _polar(log=False, frequency=False)),
    'magnitude_if': (Centred, _polar(log=False, frequency=True)),
    'complex': (Centred, _complex),
    'gansynth_phase': (GanSynth, _polar(log=True, frequency=False)),
    'gansynth_if': (GanSynth, _polar(log=True, frequency=True)),
    'gansynth_ifmel': (GanSynth, _gansynth_ifmel),
    'ifmel': (GanSynth, _ifmel),
    'bazin_if': (Bazin, _polar(log=True, frequency=True)),
    'bazin_ifmel': (Bazin, _bazin_ifmel),
}
