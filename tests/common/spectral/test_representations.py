import pathlib

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from common import errors
from common.spectral import mel, representations

NOTES = (pathlib.Path(__file__).resolve().parents[4] / 'shared' / 'data'
         / 'nsynth' / 'example_nsynth_audio.npy')
N, RATE = 64000, 16000
T = np.arange(N) / RATE
HARMONIC = sum(.2 / k * np.sin(2 * np.pi * 220 * k * T) for k in range(1, 9))

# Small ones of each kind, for 2000 samples at 8 kHz.
SMALL = {
    'magnitude': dict(n_fft=256, hop=64),
    'log_magnitude': dict(n_fft=256, hop=64),
    'log_frequency': dict(n_fft=256, hop=64, bands_per_octave=24),
    'mel': dict(n_fft=256, hop=64, bands=30),
    'log_mel': dict(n_fft=256, hop=64, bands=30),
    'magnitude_phase': dict(n_fft=256, hop=64),
    'magnitude_if': dict(n_fft=256, hop=64),
    'complex': dict(n_fft=256, hop=64),
    'gansynth_phase': dict(frames=32, bins=128),
    'gansynth_if': dict(frames=32, bins=128),
    'gansynth_ifmel': dict(frames=32, bins=128),
    'ifmel': dict(frames=32, bins=128),
    'bazin_if': dict(frames=36, bins=128),
    'bazin_ifmel': dict(frames=36, bins=128),
}
EXACT = ['magnitude_phase', 'magnitude_if', 'complex']
GANSYNTH = ['gansynth_phase', 'gansynth_if', 'gansynth_ifmel', 'ifmel',
            'bazin_if', 'bazin_ifmel']  # With their floor.


def small(name, **options):
  return representations.make(name, 2000, 8000, **{**SMALL[name], **options})


def noise(*shape, seed=0):
  x = np.random.default_rng(seed).standard_normal(shape)
  return (x / 4).astype(np.float32)


def tone(hz):
  return .5 * np.sin(2 * np.pi * hz * T)


def snr(x, y):
  return 10 * np.log10((x**2).sum() / ((x - y)**2).sum())


def inner_snr(x, y, bins=1024):
  inside = slice(2 * bins, -2 * bins)
  return snr(x[inside], np.asarray(y, np.float64)[inside])


def literal_gansynth(x, frames, bins, matrix=None, frequency=True):
  """[T, F, 2] in float64, step by step as the released code has it."""
  n_fft, hop = 2 * bins, bins // 2
  x = np.pad(np.asarray(x, np.float64),
             (hop * (frames - 1) + n_fft - len(x), 0))
  window = .5 - .5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
  spec = np.stack([np.fft.rfft(window * x[t * hop:t * hop + n_fft])[1:]
                   for t in range(frames)])
  log = np.log(np.abs(spec) + 1e-6)
  angle = np.where(spec == 0, 0, np.angle(spec))
  if not frequency:
    return np.stack([log, angle / np.pi], -1)

  def difference(p):
    p = np.unwrap(p, axis=0)
    return np.concatenate([p[:1], np.diff(p, axis=0)]) / np.pi

  f = difference(angle)
  if matrix is not None:
    log = np.log(np.exp(2 * log) @ matrix + 1e-6)
    f = difference(np.cumsum(np.pi * f, 0) @ matrix)
  return np.stack([log, f], -1)


def same(got, want):
  """But for turns: rounding may give pi in the place of -pi."""
  np.testing.assert_allclose(got[..., 0], want[..., 0], atol=1e-4)
  distance = np.abs(np.exp(1j * np.pi * np.asarray(got[..., 1], np.float64))
                    - np.exp(1j * np.pi * want[..., 1]))
  assert (distance > 1e-3).mean() < 2e-4, (distance > 1e-3).mean()


@pytest.mark.parametrize('frames, bins, samples', [
    (32, 128, 2000), (16, 64, 608), (20, 30, 345)])
def test_gansynths_equal_the_literal_form(frames, bins, samples):
  x = noise(samples)
  make = lambda name: representations.make(name, samples, RATE, frames=frames,
                                           bins=bins)
  same(jax.jit(make('gansynth_if').encode)(x),
       literal_gansynth(x, frames, bins))
  same(jax.jit(make('gansynth_phase').encode)(x),
       literal_gansynth(x, frames, bins, frequency=False))
  y = jax.jit(make('gansynth_ifmel').encode)(x)
  same(y, literal_gansynth(x, frames, bins, mel.gansynth_filterbank(bins)))
  assert np.abs(y[1:, :, 1]).max() <= 1


def literal_bazin(x, frames, bins, break_hz=None):
  """[T, F, 2] by librosa and numpy, step by step as the released code has it.

  With `break_hz` on the mel axis.
  """
  n_fft = 2 * bins
  spec = librosa.stft(
      np.asarray(x, np.float64), n_fft=n_fft, hop_length=bins // 2,
      window=np.hanning(n_fft), pad_mode='reflect')[:-1].T
  spec = np.concatenate([spec, np.repeat(spec[-1:], frames - len(spec), 0)])

  def difference(p):
    p = np.unwrap(p, axis=0)
    return np.concatenate([p[:1], np.diff(p, axis=0)]) / np.pi

  log, f = np.log(np.abs(spec) + 1e-6), difference(np.angle(spec))
  if break_hz is None:
    return np.stack([log, f], -1)
  matrix = literal_bazin_matrix(bins, break_hz)
  log = np.log(np.exp(2 * log) @ matrix + 1e-6)
  return np.stack([log, difference(np.cumsum(np.pi * f, 0) @ matrix)], -1)


def literal_bazin_matrix(bins, break_hz, rate=RATE):
  """Band by band."""
  q = 1127 if break_hz == 700 else 1000 / np.log(1 + 1000 / break_hz)
  to_mel = lambda hz: q * np.log(1 + hz / break_hz)
  to_hz = lambda mel: break_hz * (np.exp(mel / q) - 1)
  edges = np.linspace(0, to_mel(rate / 2), bins + 2)
  hz, least = np.linspace(0, rate / 2, bins), 1.5 * rate / 2 / bins
  matrix = np.zeros((bins, bins))
  for i, (low, middle, high) in enumerate(
      zip(edges[:-2], edges[1:-1], edges[2:], strict=True)):
    if to_hz(high) - to_hz(low) < least:  # So that it is as wide as that.
      half = np.arcsinh(least / 2 / (to_hz(middle) + break_hz)) * q
      low, high = middle - half, middle + half
      np.testing.assert_allclose(to_hz(high) - to_hz(low), least, rtol=1e-9)
    low, middle, high = map(to_hz, (low, middle, high))
    rise, fall = (hz - low) / (middle - low), (high - hz) / (high - middle)
    matrix[:, i] = np.clip(np.minimum(rise, fall), 0, None)
  matrix[0] = 0  # DC.
  return matrix


@pytest.mark.parametrize('frames, bins, samples', [
    (36, 128, 2000), (32, 128, 2000), (24, 30, 345)])
def test_bazins_equal_the_literal_form(frames, bins, samples):
  x = noise(samples)
  encode = lambda name, **options: jax.jit(representations.make(
      name, samples, RATE, frames=frames, bins=bins, **options).encode)(x)
  y = encode('bazin_if')
  same(y, literal_bazin(x, frames, bins))
  again = frames - (1 + samples // (bins // 2))  # The last frame, repeated.
  assert y.shape == (frames, bins, 2)
  np.testing.assert_array_equal(y[frames - again:, :, 1], 0)
  for hz in (700.0, 240.0):
    y = encode('bazin_ifmel', break_hz=hz)
    same(y, literal_bazin(x, frames, bins, hz))
    assert np.abs(y[1:, :, 1]).max() <= 1


def test_bazins_axis_is_not_gansynths_slip():
  a, b = mel.bazin_filterbank(1024), mel.gansynth_filterbank(1024)
  widths = lambda w: (w > 0).sum(0)
  assert widths(a)[:400].max() <= 2 and np.abs(a - b).max() > 0.5
  np.testing.assert_allclose(a, literal_bazin_matrix(1024, 700), atol=1e-9)
  # With a lower break the low notes have more of the axis.
  centre = lambda w: w.argmax(1)[55]  # 430 Hz.
  assert centre(mel.bazin_filterbank(1024, break_hz=240)) > centre(a) + 50


@pytest.mark.parametrize('name, signal, whole, inside', [
    ('bazin_if', HARMONIC, 50, 120), ('bazin_if', tone(440), 50, 120),
    ('bazin_ifmel', tone(440), 18, 18), ('bazin_ifmel', HARMONIC, 10, 10)],
    ids=['harmonic', '440', 'mel 440', 'mel harmonic'])
def test_bazins_come_back_but_for_the_last_frames(
    full, name, signal, whole, inside):
  """The repeated frames reach into the end."""
  encode, decode = full(name, 128, 1024)
  y = encode(signal[None])
  assert y.shape == (1, 128, 1024, 2)
  back = np.asarray(decode(y)[0], np.float64)
  assert back.shape == (N,)
  assert snr(signal, back) > whole
  assert inner_snr(signal, back) > inside


@pytest.fixture(scope='module')
def full():
  """(encode, decode), compiled, of GANSynth's at its two sizes."""
  made = {}

  def get(name, frames, bins):
    if (name, bins) not in made:
      r = representations.make(name, N, RATE, frames=frames, bins=bins)
      made[name, bins] = jax.jit(r.encode), jax.jit(r.decode)
    return made[name, bins]
  return get


@pytest.mark.parametrize('name, frames, bins, hz, where, log, frequency', [
    ('gansynth_if', 128, 1024, 440, 55, 5.478698, .16),
    ('gansynth_if', 128, 1024, 1000, 127, 5.545177, 0),
    ('gansynth_if', 256, 512, 440, 27, 4.835493, .08),
    ('gansynth_ifmel', 128, 1024, 440, 73, 10.815283, .138804),
    ('gansynth_ifmel', 128, 1024, 1000, 169, 10.817144, 0),
    ('gansynth_ifmel', 256, 512, 440, 36, 9.138806, None)])
def test_tones_have_the_peaks_of_the_released_code(
    full, name, frames, bins, hz, where, log, frequency):
  y = np.asarray(full(name, frames, bins)[0](tone(hz)[None]))
  assert y.shape == (1, frames, bins, 2)
  frame = y[0, 60]
  assert frame[:, 0].argmax() == where
  np.testing.assert_allclose(frame[where, 0], log, atol=1e-5)
  if frequency is not None:
    np.testing.assert_allclose(frame[where, 1], frequency, atol=1e-5)


@pytest.mark.parametrize('frames, bins, silent', [(128, 1024, 3),
                                                  (256, 512, 6)])
def test_the_first_frames_are_silent_and_the_length_is_exact(
    full, frames, bins, silent):
  x = tone(440)[None]
  for name in ('gansynth_if', 'gansynth_ifmel'):
    encode, decode = full(name, frames, bins)
    y = encode(x)
    np.testing.assert_allclose(y[0, :silent, :, 0], np.log(1e-6), atol=3e-6)
    assert not y[0, :silent, :, 1].any()
    assert y[0, silent, :, 0].max() > 0
    assert decode(y).shape == (1, N)


@pytest.mark.parametrize('signal, least', [
    (tone(440), 100), (tone(1000), 100), (HARMONIC, 100)],
    ids=['440', '1000', 'harmonic'])
def test_the_linear_axis_is_exact_inside(full, signal, least):
  for bins, frames in ((1024, 128), (512, 256)):
    encode, decode = full('gansynth_if', frames, bins)
    back = decode(encode(signal[None]))[0]
    assert inner_snr(signal, back, bins) > least


def test_noise_loses_its_dc_and_the_clip_its_end(full):
  encode, decode = full('gansynth_if', 128, 1024)
  x = noise(N).astype(np.float64)
  assert abs(inner_snr(x, decode(encode(x[None]))[0]) - 36.1) < 1.5
  for (frames, bins), want in {(128, 1024): 20.1, (256, 512): 23.1}.items():
    encode, decode = full('gansynth_if', frames, bins)
    back = np.asarray(decode(encode(tone(440)[None]))[0], np.float64)
    assert abs(snr(tone(440), back) - want) < 0.1


@pytest.mark.parametrize('name, signal, want', [
    ('gansynth_ifmel', tone(440), 23.1), ('gansynth_ifmel', HARMONIC, 15.4),
    ('ifmel', tone(440), 40.4), ('ifmel', HARMONIC, 21.3)],
    ids=['440', 'harmonic', 'true 440', 'true harmonic'])
def test_the_mel_axes_lose_as_much_as_is_known(full, name, signal, want):
  """The first two are the released code's; the others are our own."""
  encode, decode = full(name, 128, 1024)
  back = decode(encode(signal[None]))[0]
  assert abs(inner_snr(signal, back) - want) < 0.1


@pytest.mark.skipif(not NOTES.exists(), reason='no real NSynth notes here')
def test_real_notes_have_the_statistics_of_the_released_code(full):
  x = np.load(NOTES)
  y = np.asarray(full('gansynth_if', 128, 1024)[0](x), np.float64)
  log = y[..., 0]
  np.testing.assert_allclose([log.min(), log.mean(), log.max()],
                             [-13.815511, -7.544054, 5.764374], atol=1e-5)
  np.testing.assert_allclose([log[0].mean(), log[0].max()],
                             [-5.764992, 3.548121], atol=1e-5)
  # Some entries are 1 or -1 as rounding has it.
  np.testing.assert_allclose(y[0, ..., 1].mean(), -.0075997, atol=2e-4)
  note = np.asarray(full('gansynth_ifmel', 128, 1024)[0](x[:1]))[0]
  want = literal_gansynth(x[0], 128, 1024, mel.gansynth_filterbank(1024))
  loud = want[..., 0] > -4
  assert loud.mean() > 0.1
  same(note[loud], want[loud])


@pytest.mark.parametrize('name', EXACT)
def test_the_exact_ones_come_back_to_the_last_sample(name):
  for samples in (2000, 2047, 1999):
    r = representations.make(name, samples, 8000, **SMALL[name])
    x = noise(3, samples)
    y = jax.jit(r.encode)(x)
    assert y.shape == (3, 1 + samples // 64, 129, 2) == (3, *r.shape)
    np.testing.assert_allclose(jax.jit(r.decode)(y), x, atol=2e-5)


def test_magnitudes_are_librosas():
  x = noise(2, 2000)
  s = np.abs(librosa.stft(x.astype(np.float64), n_fft=256, hop_length=64))
  s = s.swapaxes(-1, -2)
  encode = lambda name: np.asarray(small(name).encode(x))
  for name in ('magnitude', 'magnitude_phase', 'magnitude_if'):
    np.testing.assert_allclose(encode(name)[..., 0], s, atol=1e-4)
  np.testing.assert_allclose(encode('log_magnitude')[..., 0],
                             np.log(s + 1e-6), atol=1e-3)
  w = librosa.filters.mel(sr=8000, n_fft=256, n_mels=30, dtype=np.float64).T
  np.testing.assert_allclose(encode('mel')[..., 0], s @ w, rtol=1e-4)
  np.testing.assert_allclose(encode('log_mel')[..., 0],
                             np.log(s @ w + 1e-6), atol=1e-4)
  assert encode('mel').shape == (2, 32, 30, 1)


@pytest.mark.parametrize('name, worst', [
    ('magnitude', -24), ('log_magnitude', -24), ('log_frequency', -20),
    ('mel', -8.5), ('log_mel', -8.5)])
def test_magnitudes_come_back_by_griffin_lim(name, worst):
  """The spectrum of what comes back is near the one that was meant."""
  t = np.arange(2000) / 8000
  x = .5 * np.sin(2 * np.pi * 440 * t) + .3 * np.sin(2 * np.pi * 1200 * t**2)
  r, s = small(name), small('magnitude')
  back = jax.jit(r.decode)(r.encode(x[None]))
  assert back.shape == (1, 2000)
  want, got = np.asarray(s.encode(x[None])), np.asarray(s.encode(back))
  error = 20 * np.log10(np.linalg.norm(want - got) / np.linalg.norm(want))
  assert error < worst


@pytest.mark.parametrize('name', SMALL)
def test_both_ways_at_silence_in_a_batch_and_in_bfloat16(name):
  r = small(name)
  encode, decode = jax.jit(r.encode), jax.jit(r.decode)
  silence = np.zeros((2, 2000), np.float32)
  y = encode(silence)
  assert y.shape == (2, *r.shape) and y.dtype == jnp.float32
  back = decode(y)
  assert back.shape == (2, 2000)
  # GANSynth's have a floor, as released.
  assert np.abs(back).max() < (1e-3 if name in GANSYNTH else 1e-9)
  loss = lambda x: (r.encode(x) ** 2).sum()
  assert np.isfinite(jax.jit(jax.grad(loss))(silence)).all()
  loss = lambda y: (r.decode(y) ** 2).sum()
  assert np.isfinite(jax.jit(jax.grad(loss))(y)).all()

  x = noise(2, 2000)
  y = encode(x)
  one = np.asarray(jax.jit(r.encode)(x[1]))  # No batch at all.
  same_enough = np.isclose(one, y[1], atol=1e-3).mean()
  assert one.shape == r.shape and same_enough > 0.99
  rough = jnp.asarray(x, jnp.bfloat16)
  assert encode(rough).dtype == jnp.float32
  assert np.isclose(encode(rough), encode(rough.astype(jnp.float32)),
                    atol=1e-3).mean() > 0.99
  assert decode(y.astype(jnp.bfloat16)).dtype == jnp.float32


def test_ifmel_keeps_level_and_frequency_of_a_tone(full):
  y = np.asarray(full('ifmel', 128, 1024)[0](tone(440)[None]))[0, 60]
  centres = mel.mel_to_hz(
      np.linspace(0, mel.hz_to_mel(8000, 'tf'), 1026), 'tf')[1:-1]
  peak = y[:, 0].argmax()
  assert abs(centres[peak] - 440) < 4  # Half a bin.
  np.testing.assert_allclose(y[peak, 1], .16, atol=1e-5)
  np.testing.assert_allclose(y[peak, 0], 2 * 5.478698, atol=0.05)


@pytest.mark.parametrize('name, options, says', [
    ('mfcc', {}, 'no inverse.*log_mel'), ('log_MFCC', {}, 'no inverse'),
    ('magnitud', {}, "did you mean 'magnitude'"),
    ('stft', {}, 'known: '),
    ('mel', dict(n_fft=256, hop=64, band=30), "did you mean 'bands'"),
    ('complex', dict(bins=64), 'bins'),
    ('gansynth_if', dict(frames=8, bins=128), 'frames=29 or more'),
    ('gansynth_if', dict(frames=64, bins=31), 'even'),
    ('bazin_if', dict(frames=31, bins=128), 'frames=32 or more'),
    ('bazin_if', dict(frames=64, bins=31), 'even'),
    ('bazin_if', dict(frames=64, bins=2000), 'reflected'),
    ('bazin_ifmel', dict(frames=32, bins=128, break_hz=0.0), 'break_hz'),
    ('bazin_if', dict(frames=32, bins=128, break_hz=700.0), 'no option'),
    ('mel', dict(n_fft=256, hop=64, bands=200), 'fewer bands'),
    ('complex', dict(n_fft=256, hop=200), 'hop=64')])
def test_what_cannot_be_is_an_error_that_says_what_could(name, options, says):
  with pytest.raises(errors.UserError, match=says):
    representations.make(name, 2000, 8000, **options)


def test_the_number_of_frames_that_is_offered_works():
  r = representations.make('gansynth_if', 2000, 8000, frames=29, bins=128)
  assert r.shape == (29, 128, 2)
  with pytest.raises(errors.UserError):
    representations.make('gansynth_if', 2000, 8000, frames=28, bins=128)


def test_other_shapes_are_refused():
  r = small('gansynth_if')
  with pytest.raises(ValueError, match='2000 samples'):
    r.encode(np.zeros((2, 1999)))
  with pytest.raises(ValueError, match=r'\[32, 128, 2\]'):
    r.decode(np.zeros((2, 32, 128, 1)))
