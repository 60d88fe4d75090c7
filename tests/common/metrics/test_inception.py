"""common/metrics/inception.py: bounds, loops and torch-fidelity's rule."""

import numpy as np
import pytest

from common.metrics import inception


def probabilities(n=200, k=5, seed=0):
  return np.random.default_rng(seed).dirichlet(np.full(k, 0.3), size=n)


def naive(p):
  marginal = [sum(row[j] for row in p) / len(p) for j in range(len(p[0]))]
  total = sum(x * np.log(x / m) for row in p
              for x, m in zip(row, marginal, strict=True) if x > 0)
  return np.exp(total / len(p))


def test_score_of_three_rows():
  p = [(.7, .2, .1), (.1, .8, .1), (.2, .2, .6)]
  assert inception.score(p) == pytest.approx(1.333955, abs=1e-6)


def test_score_equals_loops():
  p = probabilities()
  assert inception.score(p) == pytest.approx(naive(p), rel=1e-12)


@pytest.mark.parametrize('classes', [2, 61])
def test_balanced_certain_classes_score_their_number(classes):
  assert inception.score(np.tile(np.eye(classes), (7, 1))) == pytest.approx(
      classes)


def test_one_answer_for_all_scores_one():
  assert inception.score(np.tile([[.5, .3, .2]], (9, 1))) == pytest.approx(1)


@pytest.mark.parametrize('n', [200, 207, 23])
def test_splits_are_those_of_torch_fidelity(n):
  p = probabilities(n)
  order = np.random.RandomState(2020).permutation(n)
  values = []
  for i in range(10):
    values.append(naive(p[order[i * n // 10:(i + 1) * n // 10]]))
  mean, std = inception.score_over_splits(p)
  assert mean == pytest.approx(np.mean(values), rel=1e-12)
  assert std == pytest.approx(np.std(values), rel=1e-9)
