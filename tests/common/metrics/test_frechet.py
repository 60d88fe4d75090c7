"""common/metrics/frechet.py against scipy's matrix root and naive loops."""

import json
import pathlib

import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.linalg
import soundfile

from common import errors
from common.data import synthetic
from common.metrics import frechet

SHARED = pathlib.Path(__file__).parents[4] / (
    'shared/data/nsynth_style_notes')


def rows(seed, n=300, d=12, shift=0.0):
  rng = np.random.default_rng(seed)
  return shift + rng.normal(size=(n, d)) @ rng.normal(size=(d, d))


def distance(x, y):
  return frechet.distance(frechet.Gaussian.of(x), frechet.Gaussian.of(y))


def test_closed_forms():
  got = frechet.gaussian_distance(
      [0.0, 0.0], [[2, .5], [.5, 1]], [1.0, -1.0], [[1, -.3], [-.3, 2]])
  assert got == pytest.approx(2.575425893305, rel=1e-11)
  got = frechet.gaussian_distance(
      [0.0, 0.0], np.diag([4.0, 9.0]), [1.0, 1.0], np.eye(2))
  assert got == pytest.approx(7.0)  # 2 + (2 - 1)^2 + (3 - 1)^2.


def test_equals_the_matrix_root_of_scipy_where_that_works():
  x, y = rows(0), rows(1, shift=0.3)
  root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
  shift = x.mean(0) - y.mean(0)
  want = shift @ shift + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
  assert distance(x, y) == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize('n', [300, 6])  # Below and above the dimensions.
def test_of_a_set_to_itself_is_zero_and_symmetric_and_never_negative(n):
  x, y = rows(0, n), rows(1, n)
  assert 0 <= distance(x, x) < 1e-8
  assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-7)
  assert distance(x, y) > 0


def test_does_not_depend_on_the_order_or_a_rotation():
  x, y = rows(0), rows(1)
  turn = np.linalg.qr(rows(2, 12))[0]
  want = distance(x, y)
  assert distance(x[::-1], y) == pytest.approx(want, rel=1e-9)
  assert distance(x @ turn + 5.0, y @ turn + 5.0) == pytest.approx(
      want, rel=1e-8)


@pytest.mark.parametrize('cuts', [(), (1,), (1, 2, 150), (0, 299, 299)])
def test_statistics_of_batches_are_those_of_the_whole(cuts):
  x = rows(0) * 1e-3 + 1e3  # A large mean: sums of squares would fail here.
  gaussian = frechet.Gaussian()
  for part in np.split(x, cuts):
    gaussian.add(part)
  assert gaussian.count == 300
  np.testing.assert_allclose(gaussian.mean, x.mean(0), rtol=1e-12)
  np.testing.assert_allclose(gaussian.cov, np.cov(x.T), rtol=1e-8, atol=1e-14)


def test_one_row_has_no_covariance():
  with pytest.raises(errors.UserError, match='2 rows'):
    distance(rows(0)[:1], rows(1))


# ---------------------------------------------------------------- KID


def naive_kid(x, y):
  k = lambda a, b: (a @ b / len(a) + 1) ** 3
  n, m = len(x), len(y)
  return (sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
          / (n * (n - 1))
          + sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
          / (m * (m - 1))
          - 2 * sum(k(a, b) for a in x for b in y) / (n * m))


def test_kid_equals_loops_whatever_the_block(monkeypatch):
  x, y = rows(0, 23), rows(1, 31)
  want = naive_kid(x, y)
  assert frechet.kid(x, y) == pytest.approx(want, rel=1e-10)
  monkeypatch.setattr(frechet, '_BLOCK', 7)
  assert frechet.kid(x, y) == pytest.approx(want, rel=1e-10)


def test_kid_of_the_unit_square():
  x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
  assert frechet.kid(x, x + 1) == pytest.approx(22.864583, abs=1e-6)
  assert frechet.kid(x, x) == pytest.approx(-1.072917, abs=1e-6)


def test_kid_of_halves_of_one_set_is_zero_within_its_error():
  values = [frechet.kid(*np.split(np.random.default_rng(i).normal(
      size=(100, 4)), 2)) for i in range(40)]
  assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
  assert min(values) < 0 < max(values)


def test_kid_subsets_are_drawn_as_torch_fidelity_does():
  x, y = rows(0, 40), rows(1, 50)
  rng = np.random.RandomState(2020)
  values = []
  for _ in range(100):
    a = x[rng.choice(40, 20, replace=False)]  # X, then Y, of each subset.
    b = y[rng.choice(50, 20, replace=False)]
    values.append(naive_kid(a, b))
  mean, std = frechet.kid_over_subsets(x, y, size=20)
  assert mean == pytest.approx(np.mean(values), rel=1e-9)
  assert std == pytest.approx(np.std(values), rel=1e-9)


def test_kid_of_sets_below_the_subset_size_takes_what_there_is():
  x, y = rows(0, 10), rows(1, 10)
  mean, std = frechet.kid_over_subsets(x, y)
  assert mean == pytest.approx(frechet.kid(x, y))
  assert std == pytest.approx(0.0, abs=1e-6 * abs(mean))


# ---------------------------------------------------------------- embeddings


def literal_logmel(audio):
  """The definition in float64 numpy, with librosa's filters."""
  bank = librosa.filters.mel(sr=16000, n_fft=512, n_mels=64, fmin=125,
                             fmax=7500, htk=True, norm=None, dtype=np.float64)
  window = np.zeros(512)
  window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
  out = []
  for x in np.asarray(audio, np.float64):
    frames = np.lib.stride_tricks.sliding_window_view(x, 512)[::160]
    log = np.log(np.abs(np.fft.rfft(frames * window)) @ bank.T + 0.01)
    for i in range(0, len(log) - 95, 96):
      patch = log[i:i + 96]
      out.append(np.concatenate([patch.mean(0), patch.std(0)]))
  return np.array(out)


def notes(count=16):
  return np.stack([synthetic.note('test', i)['audio'] for i in range(count)])


def logmel(audio):
  return frechet.logmel_patches(audio, 16000)


def test_logmel_patches_are_as_defined():
  audio = notes(2)
  got = logmel(audio)
  assert got.shape == (2 * 4, 128)
  np.testing.assert_allclose(got, literal_logmel(audio), rtol=1e-4, atol=1e-4)


def test_patches_of_any_length_and_none_of_less_than_one():
  audio = notes(2)
  assert logmel(audio[:, :512 + 95 * 160]).shape == (2, 128)
  assert logmel(audio[:, :511 + 95 * 160]).shape == (0, 128)
  with pytest.raises(errors.UserError, match='16000 Hz'):
    frechet.logmel_patches(audio, 22050)


def noisy(audio, snr_db, seed=0):
  noise = np.random.default_rng(seed).normal(size=audio.shape)
  gain = np.sqrt((audio**2).mean(1) / (noise**2).mean(1) / 10**(snr_db / 10))
  return (audio + gain[:, None] * noise).astype(np.float32)


def test_fad_logmel_increases_with_noise():
  audio = notes()
  clean = logmel(audio)
  found = [distance(clean, logmel(noisy(audio, snr)))
           for snr in (60, 40, 20, 10, 0)]
  assert distance(clean, clean) < 1e-8
  assert found[0] > 0.01 and (np.diff(found) > 0).all()


@pytest.mark.skipif(not SHARED.exists(), reason='recorded notes are not here')
def test_fad_logmel_of_recorded_notes_is_as_measured_elsewhere():
  names = sorted(json.loads((SHARED / 'examples.json').read_text()))
  audio = np.stack([soundfile.read(SHARED / 'audio' / f'{n}.wav')[0]
                    for n in names]).astype(np.float32)
  clean = logmel(audio)
  assert clean.shape == (252, 128)
  for snr, want in ((60, 2.25), (40, 46.0), (20, 274.6), (10, 534.9),
                    (0, 934.0)):
    assert distance(clean, logmel(noisy(audio, snr))) == pytest.approx(
        want, abs=0.05 + 0.01 * want)
  assert distance(clean, logmel(audio / 2)) == pytest.approx(13.8, abs=0.05)
  assert distance(clean, logmel(audio[:, ::-1])) == pytest.approx(
      1.49, abs=0.01)
  assert distance(clean[::2], clean[1::2]) == pytest.approx(23.8, abs=0.05)


def peaks(audio, sample_rate):  # An embedding, as a user would write it.
  del sample_rate
  return jnp.abs(audio).max(1, keepdims=True)


def test_embeddings_come_from_an_import_path():
  fn = frechet.load_embedding(f'{__name__}:peaks')
  assert fn(np.ones((3, 10), np.float32), 16000).shape == (3, 1)


@pytest.mark.parametrize('spec', ['nothing', 'no_such_module:f', 'json:nope'])
def test_a_wrong_import_path_is_explained(spec):
  with pytest.raises(errors.UserError, match=f'{spec}.*module:function'):
    frechet.load_embedding(spec)


def test_embeddings_come_from_files(tmp_path):
  x = rows(0)
  np.savez(tmp_path / 'x.npz', x)
  assert frechet.distance(frechet.read_embeddings(tmp_path / 'x.npz'),
                          frechet.Gaussian.of(x)) < 1e-8


@pytest.mark.parametrize('arrays', [
    {'a': np.ones(3)}, {'a': np.ones((2, 2)), 'b': np.ones((2, 2))},
    {'a': np.array([object()])}])
def test_wrong_files_of_embeddings_are_explained(arrays, tmp_path):
  np.savez(tmp_path / 'x.npz', **arrays)
  with pytest.raises(errors.UserError, match=r'x\.npz'):
    frechet.read_embeddings(tmp_path / 'x.npz')
