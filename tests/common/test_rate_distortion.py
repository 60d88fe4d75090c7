"""Against closed forms, and baselines against what they claim to cost."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from common import config as config_lib
from common import runs, trainer
from common.data import builders
from common.metrics import rate_distortion

RATE = 16000


@pytest.fixture(scope='module')
def notes():
  """Two seconds of chords [2, N], one louder than the other."""
  t = np.arange(2 * RATE) / RATE
  rows = [sum(np.sin(2 * np.pi * f * h * t) / h for f in chord
              for h in range(1, 6)) * np.exp(-t)
          for chord in ((220.0, 277.2), (196.0, 246.9))]
  return np.stack([0.1 * rows[0], 0.05 * rows[1]]).astype(np.float32)


def test_perplexity_is_scipys_entropy():
  counts = np.array([3, 0, 5, 1])
  assert rate_distortion.perplexity(counts) == pytest.approx(
      np.exp(scipy.stats.entropy(counts)))
  assert rate_distortion.perplexity(np.full(7, 2)) == pytest.approx(7.0)


def test_distances_of_equal_and_of_halved_sounds(notes):
  same, loud = rate_distortion.distances(notes, notes, RATE)
  assert loud.all()
  np.testing.assert_array_equal(same['convergence_db'], 0.0)
  np.testing.assert_allclose(same['mel'], 0.0)
  half, _ = rate_distortion.distances(notes / 2, notes, RATE)
  np.testing.assert_allclose(half['convergence_db'], 0.5, atol=1e-4)
  np.testing.assert_allclose(half['si_sdr_db'], 100.0)
  assert not rate_distortion.distances(notes, 0 * notes, RATE)[1].any()


def test_mu_law_of_enough_bits_is_nearly_the_sound(notes):
  bits, got = rate_distortion.mu_law(notes, RATE, 16 * RATE)
  assert bits == 16 * RATE
  assert np.abs(got - notes).max() < 1e-3
  bits, got = rate_distortion.mu_law(notes, RATE, 8 * RATE)
  assert bits == 8 * RATE and got.shape == notes.shape
  assert 1e-4 < np.abs(got - notes).max() < 0.01


def test_baselines_cost_no_more_than_they_may_and_worsen_with_less(notes):
  worst = {}
  for baseline in (rate_distortion.mu_law, rate_distortion.griffin_lim):
    levels = []
    for bits in (60_000, 4_000):
      own, got = baseline(notes, RATE, bits)
      assert 0.8 * bits < own <= bits
      assert got.shape == notes.shape and np.isfinite(got).all()
      levels.append(float(rate_distortion.distances(
          got, notes, RATE)[0]['mel'].mean()))
    worst[baseline.__name__] = levels
  for many, few in worst.values():
    assert many < few


def test_griffin_lim_of_silence_is_silence():
  _, got = rate_distortion.griffin_lim(np.zeros((1, 8192), np.float32), RATE,
                                       8000)
  np.testing.assert_allclose(got, 0.0, atol=1e-6)


def test_a_run_is_measured_over_the_whole_split(data_dir, tmp_path):
  config = config_lib.load('jukebox_vqvae_music:tiny')
  config.steps = 1
  trainer.fit(config, tmp_path, data_dir)
  run = runs.load(tmp_path)
  source = builders.open_split(config.data.name, 'valid', data_dir)
  source = [source[i] for i in range(2)]
  rows, books = rate_distortion.measure(run, source)
  assert list(rows) == [
      f'{level}{kind}' for level in ('level1', 'level0')
      for kind in ('', ' as mu-law', ' as mel')]
  # 4 bits a code of 4 and 8 samples.
  assert rows['level0']['kbit_s'] == pytest.approx(16.0)
  assert rows['level1']['kbit_s'] == pytest.approx(8.0)
  for row in rows.values():
    assert all(np.isfinite(v) for v in row.values())
  for book in books.values():
    assert 0.0 < book['usage'] <= 1.0
    assert 1.0 <= book['perplexity'] <= 16.0

  # By hand, with all rows in one batch.
  codec = run.module.codec(config)
  segment = run.module.segments(config)
  audio = np.stack([r['audio'] for i in range(len(source))
                    for r in segment(source[i])])
  codes = codec.encode(run.state, {'audio': jnp.asarray(audio)})['level1']
  counts = np.bincount(np.asarray(codes).ravel(), minlength=16)
  assert books['level1']['perplexity'] == pytest.approx(
      np.exp(scipy.stats.entropy(counts)), rel=1e-3)
  text = rate_distortion.text(rows, books)
  assert 'level1 as mu-law' in text and 'codes of level0' in text
