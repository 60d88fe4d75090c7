"""common/metrics/ndb.py against scikit-learn's k-means, scipy and loops."""

import numpy as np
import pytest
from scipy import spatial, stats

from common.metrics import ndb


def blobs(n=2000, d=8, k=10, seed=0, centres=0):
  centres = 6 * np.random.default_rng(centres).normal(size=(k, d))
  rng = np.random.default_rng(seed)
  return (centres[rng.integers(k, size=n)] + rng.normal(size=(n, d)))


def test_three_bins_by_hand():
  p, q = np.array([500, 300, 200]), np.array([200, 175, 125])
  np.testing.assert_allclose(
      ndb.z_scores(p / 1000, q / 500, 1000, 500),
      [3.659625, -1.962420, -2.215848], atol=1e-6)
  found = ndb.compare(p, q)
  assert found.different == 3
  assert found.divergence == pytest.approx(.0051378, abs=1e-7)


def test_comparison_equals_loops_over_bins():
  rng = np.random.default_rng(0)
  for _ in range(20):
    a, b = rng.multinomial(400, rng.dirichlet(np.ones(12)), size=2)
    a, b = a + 3, b * 2
    want, n, m = 0, a.sum(), b.sum()
    for x, y in zip(a, b, strict=True):
      p = (x + y) / (n + m)
      z = (x / n - y / m) / np.sqrt(p * (1 - p) * (1 / n + 1 / m))
      want += 2 * stats.norm.cdf(-abs(z)) < .05
    found = ndb.compare(a, b)
    assert found.different == want
    assert found.divergence == pytest.approx(
        spatial.distance.jensenshannon(a, b) ** 2, rel=1e-9)


def test_bins_empty_in_both_sets_do_not_differ():
  assert ndb.compare([10, 0], [10, 0]) == ndb.Comparison(0, 0.0)


def test_train_against_train_is_zero():
  x = blobs()
  bins = ndb.Bins(x, 50)
  np.testing.assert_array_equal(bins.count(x), bins.counts)
  assert ndb.compare(bins.counts, bins.count(x)) == ndb.Comparison(0, 0.0)


def test_held_out_rows_of_the_same_kind_differ_in_about_a_twentieth():
  x = blobs(4000)
  bins = ndb.Bins(x, 50)
  found = [ndb.compare(bins.counts, bins.count(blobs(1000, seed=s))).different
           for s in range(1, 11)]
  assert 0.5 < np.mean(found) < 5


def test_a_lost_mode_is_found():
  x = blobs()
  bins = ndb.Bins(x, 10)
  labels = ((x[:, None] - bins.centres[None]) ** 2).sum(-1).argmin(1)
  found = ndb.compare(bins.counts, bins.count(x[labels != 3]))
  assert found.different >= 1


def test_k_means_finds_the_blobs_and_centres_are_means_of_their_rows():
  x = blobs(k=6)
  bins = ndb.Bins(x, 6)
  labels = ((x[:, None] - bins.centres[None]) ** 2).sum(-1).argmin(1)
  np.testing.assert_array_equal(np.bincount(labels), bins.counts)
  assert (np.diff(bins.counts) <= 0).all()  # The largest first.
  for k in range(6):
    np.testing.assert_allclose(bins.centres[k], x[labels == k].mean(0),
                               rtol=1e-4, atol=1e-4)
    assert x[labels == k].std(0).max() < 1.5  # A blob each, not two.


def test_k_means_is_as_good_as_scikit_learn():
  cluster = pytest.importorskip('sklearn.cluster')
  x = np.random.default_rng(0).normal(size=(1500, 5))
  bins = ndb.Bins(x, 20)
  ours = ((x[:, None] - bins.centres[None]) ** 2).sum(-1).min(1).sum()
  theirs = cluster.KMeans(20, n_init=10, random_state=0).fit(x).inertia_
  assert ours < 1.03 * theirs


def test_the_seed_decides():
  x = np.random.default_rng(0).normal(size=(300, 5))
  a, b, c = (ndb.Bins(x, 20, seed).centres for seed in (0, 0, 1))
  np.testing.assert_array_equal(a, b)
  assert not np.array_equal(a, c)


def test_copies_of_few_rows_still_make_k_bins():
  bins = ndb.Bins(np.repeat(np.eye(3), 5, 0), 6)
  assert bins.counts.sum() == 15 and len(bins.counts) == 6
  np.testing.assert_array_equal(bins.count(np.eye(3)).sum(), 3)


def test_blocks_do_not_change_the_result(monkeypatch):
  x = blobs(500)
  want = ndb.Bins(x, 10).counts
  monkeypatch.setattr(ndb, '_BLOCK', 33)
  np.testing.assert_array_equal(ndb.Bins(x, 10).counts, want)


def test_many_dimensions_leave_a_random_sixth():
  np.testing.assert_array_equal(ndb.dimensions(1000), np.arange(1000))
  used = ndb.dimensions(6007)
  assert len(set(used)) == 1001 and used.max() > 5000 and used.min() < 1000
  assert not np.array_equal(used, ndb.dimensions(6007, seed=1))
