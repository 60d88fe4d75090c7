import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from common import errors
from common.spectral import mel, stft

HZ = [60, 440, 1000, 4000, 8000]


@pytest.mark.parametrize('scale, want', [
    ('slaney', [.9, 6.6, 15, 35.16376, 45.245640]),
    ('htk', [92.681858, 549.638675, 999.985537, 2146.064528, 2840.023047]),
    ('tf', [92.682337, 549.641514, 999.990701, 2146.075609, 2840.037712])])
def test_mel_scales(scale, want):
  np.testing.assert_allclose(mel.hz_to_mel(HZ, scale), want, rtol=1e-7)
  np.testing.assert_allclose(mel.mel_to_hz(mel.hz_to_mel(HZ, scale), scale), HZ)


@pytest.mark.parametrize('scale', ['slaney', 'htk'])
@pytest.mark.parametrize('norm', ['slaney', None])
@pytest.mark.parametrize('rate, n_fft, bands, fmin, fmax', [
    (16000, 512, 10, 0.0, None), (22050, 1024, 80, 0.0, None),
    (22050, 2048, 128, 30.0, 8000.0), (16000, 513, 20, 125.0, 7500.0)])
def test_filterbank_is_librosas(scale, norm, rate, n_fft, bands, fmin, fmax):
  want = librosa.filters.mel(
      sr=rate, n_fft=n_fft, n_mels=bands, fmin=fmin, fmax=fmax,
      htk=scale == 'htk', norm=norm, dtype=np.float64)
  got = mel.filterbank(rate, n_fft, bands, fmin=fmin, fmax=fmax, scale=scale,
                       norm=norm, allow_empty=True)
  assert got.dtype == np.float64
  np.testing.assert_allclose(got, want.T, atol=1e-12)


@pytest.mark.parametrize('options, total', [
    (dict(), .319961), (dict(norm=None), 220.0727),
    (dict(scale='htk'), .319918), (dict(scale='htk', norm=None), 224.6007),
    (dict(scale='tf', norm=None, linear_in='mel'), 223.62205)])
def test_sums_of_known_filterbanks(options, total):
  """The last one is tf.signal.linear_to_mel_weight_matrix's."""
  np.testing.assert_allclose(mel.filterbank(16000, 512, 10, **options).sum(),
                             total, rtol=3e-6)


def test_straight_in_mel_is_not_straight_in_hz():
  both = [mel.filterbank(16000, 512, 10, scale='tf', norm=None, linear_in=x)
          for x in ('hz', 'mel')]
  difference = np.abs(both[0] - both[1]).max()
  assert 0.02 < difference < 0.03
  assert not both[1][0].any()
  # At half the way in mel between two centres, both bands have one half.
  edges = np.linspace(0, mel.hz_to_mel(8000, 'tf'), 12)
  bins = np.arange(257) * 16000 / 512
  for band in (4, 8):
    middle = mel.mel_to_hz((edges[band + 1] + edges[band + 2]) / 2, 'tf')
    got = [np.interp(middle, bins, both[1][:, i]) for i in (band, band + 1)]
    np.testing.assert_allclose(got, 0.5, atol=0.01)


def test_empty_bands_are_an_error_that_says_which_n_fft_works():
  with pytest.raises(errors.UserError, match='n_fft=1024') as e:
    mel.filterbank(16000, 512, 256)
  assert 'fewer bands' in str(e.value)
  assert (mel.filterbank(16000, 1024, 256).max(0) > 0).all()
  assert (mel.filterbank(16000, 512, 256, allow_empty=True).max(0) == 0).any()


@pytest.mark.parametrize('options, says', [
    (dict(fmin=9000.0), 'fmax'), (dict(fmax=9000.0), '8000'),
    (dict(scale='bark'), 'slaney'), (dict(norm='l1'), 'norm'),
    (dict(linear_in='log'), 'linear_in')])
def test_wrong_settings_are_refused(options, says):
  with pytest.raises(errors.UserError, match=says):
    mel.filterbank(16000, 512, 10, **options)


def test_mel_spectrogram_is_librosas():
  x = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)
  for power in (1, 2):
    want = librosa.feature.melspectrogram(
        y=x.astype(np.float64), sr=16000, n_fft=512, hop_length=128, n_mels=40,
        power=power).swapaxes(-1, -2)
    got = mel.project(jnp.abs(stft.stft(x, 512, 128)) ** power,
                      mel.filterbank(16000, 512, 40))
    np.testing.assert_allclose(got, want, rtol=2e-5)


# Figures of the released function: F, widened bands apart.
@pytest.mark.parametrize('bins, nonzero, total, back, w, v', [
    (1024, 2042, 1021.0981806434, 1021.0113854379, (.97197292, .02802708),
     (1.008761508473, .029087889211)),
    (512, 1018, 509.1016775866, 510.2222813353, (.98291996, .01708004),
     (1.005387803121, .017470462516))])
def test_gansynths_matrices(bins, nonzero, total, back, w, v):
  matrix = mel.gansynth_filterbank(bins)
  inverse = mel.gansynth_inverse(matrix)
  assert (matrix > 0).sum() == (inverse > 0).sum() == nonzero
  np.testing.assert_allclose(matrix.sum(), total, rtol=1e-12)
  np.testing.assert_allclose(inverse.sum(), back, rtol=1e-12)
  np.testing.assert_allclose(matrix[1, 1:3], w, atol=1e-8)
  np.testing.assert_allclose(inverse[1:3, 1], v, rtol=1e-9)
  rows = matrix.sum(1)
  assert np.flatnonzero(rows == 0).tolist() == [0, bins - 1]
  assert np.flatnonzero(matrix.sum(0) == 0).tolist() == [0]
  np.testing.assert_allclose(rows[1:bins - 3], 1)
  np.testing.assert_allclose(
      rows[[-3, -2]], [.7321, .3661] if bins == 1024 else [.7345, .3672],
      atol=1e-4)
  step = bins // 512
  assert matrix[[25 * step, 100 * step, 250 * step, 500 * step]].argmax(
      1).tolist() == ([66, 266, 666, 1016] if step == 2 else
                      [33, 133, 333, 508])


def test_gansynths_matrix_has_these_columns():
  matrix = mel.gansynth_filterbank(1024)
  np.testing.assert_allclose(
      matrix.sum(0)[[0, 1, 100, 500, 1000, 1023]],
      [0, .971973, .668367, .666435, 2.573304, 2.702030], atol=1e-6)
  assert matrix[[512, 900]].argmax(1).tolist() == [682, 976]
  np.testing.assert_allclose(matrix[[512, 900]].max(1), [.912637, .656248],
                             atol=1e-6)


@pytest.mark.parametrize('bins, rate', [(64, 16000), (100, 44100)])
def test_the_cascade_is_that_of_views(bins, rate):
  """Another way to write it: three views of one array, changed in place."""
  hz = lambda m: 700 * (np.exp(m / 1127) - 1)
  mels = np.linspace(0, 1127 * np.log(1 + rate / 2 / 700), bins + 2)
  low, middle, high = mels[:-2], mels[1:-1], mels[2:]
  limit = 1.5 * rate / 2 / bins
  widened = 0
  for i in range(bins):
    if hz(high[i]) - hz(low[i]) < limit:
      r = 0.5 * limit / (hz(middle[i]) + 700)
      d = 1127 * np.log(r + np.sqrt(1 + r * r))
      low[i], high[i] = middle[i] - d, middle[i] + d
      widened += 1
  assert widened
  f = np.linspace(0, rate / 2, bins)[1:, None]
  low, middle, high = hz(low)[None], hz(middle)[None], hz(high)[None]
  want = np.maximum(0, np.minimum((f - low) / (middle - low),
                                  (high - f) / (high - middle)))
  got = mel.gansynth_filterbank(bins, rate)
  assert not got[0].any()
  np.testing.assert_allclose(got[1:], want, atol=1e-9)


def test_the_true_mel_axis():
  matrix, back = mel.wide_filterbank(512)
  np.testing.assert_allclose(matrix.sum(0), 1)
  np.testing.assert_allclose(back.sum(0), 1)
  hz = 8000 / 512 * np.arange(1, 513)
  # A band's mean frequency is its place on the mel scale.
  centres = mel.mel_to_hz(
      np.linspace(0, mel.hz_to_mel(8000, 'tf'), 514), 'tf')[1:-1]
  np.testing.assert_allclose((hz @ matrix)[10:-1], centres[10:-1], atol=8)
  np.testing.assert_allclose((hz @ matrix @ back)[2:-8], hz[2:-8], atol=12)


def test_log_frequency_bands_and_their_inverse():
  matrix = mel.log_filterbank(16000, 2048, 96, bands_per_octave=12)
  assert np.linalg.matrix_rank(matrix) == 85
  t = np.arange(16000) / 16000
  x = (.5 * np.cos(2 * np.pi * (100 * t + 1950 * t**2))
       + .3 * np.sin(2 * np.pi * 440 * t))
  s = np.abs(np.asarray(stft.stft(x, 2048, 512)), dtype=np.float64)
  error = lambda y: 20 * np.log10(np.linalg.norm(s - y) / np.linalg.norm(s))
  project = lambda y: np.maximum(y @ matrix @ mel.inverse(matrix), 0)
  np.testing.assert_allclose(error(project(s)), -13.98, atol=0.01)
  np.testing.assert_allclose(error(np.sqrt(project(s**2))), -9.06, atol=0.01)


def test_log_frequency_bands_stop_at_half_the_sample_rate():
  assert mel.log_filterbank(16000, 2048).shape == (1025, 381)
  assert (mel.log_filterbank(16000, 2048).max(0) > 0).all()
  with pytest.raises(errors.UserError, match='1 to 381 bands'):
    mel.log_filterbank(16000, 2048, 382)


@pytest.mark.parametrize('matrix', [
    mel.gansynth_filterbank(256), mel.filterbank(16000, 512, 40),
    np.zeros((30, 5)), np.random.default_rng(0).standard_normal((30, 150))],
    ids=['gansynth', 'mel', 'zero', 'dense'])
def test_project_is_the_product_with_its_gradients(matrix):
  bins, bands = matrix.shape
  rng = np.random.default_rng(1)
  x, g = rng.standard_normal((2, 3, bins)), rng.standard_normal((2, 3, bands))
  loss = lambda x: (mel.project(x, matrix) ** 2 * g).sum() / 2
  gradient = jax.jit(jax.grad(loss))
  scale = max(np.abs(matrix).max(), 1e-9)
  np.testing.assert_allclose(mel.project(x, matrix), x @ matrix,
                             atol=2e-5 * scale)
  want = (x @ matrix * g) @ matrix.T
  np.testing.assert_allclose(gradient(x), want,
                             atol=1e-5 * max(np.abs(want).max(), 1e-9))
  # Gradients of gradients, as penalties of critics need them.
  twice = jax.jit(jax.grad(lambda x: (gradient(x) ** 2).sum() / 2))(x)
  want = (want @ matrix * g) @ matrix.T
  np.testing.assert_allclose(twice, want,
                             atol=1e-5 * max(np.abs(want).max(), 1e-9))
  rough = jnp.asarray(x, jnp.bfloat16)
  assert mel.project(rough, matrix).dtype == jnp.float32
  assert jax.grad(loss)(rough).dtype == jnp.bfloat16
  np.testing.assert_allclose(
      jax.vmap(lambda x: mel.project(x, matrix))(x), x @ matrix,
      atol=2e-5 * scale)
