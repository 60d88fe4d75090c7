"""Number of statistically different bins (Richardson and Weiss 2018).

The training set is cut into k bins by k-means. A bin differs if its share of
the other set is not that of the training set, by a test of two proportions.
The details are those of the paper's released code, with a seed, and with
k-means of our own. Shapes: P rows, D dimensions, k bins.
"""

import dataclasses

import numpy as np
from scipy import special

BINS = 50  # GANSynth's tables; the released code has 100.
SIGNIFICANCE = 0.05

_MANY = 1000  # From here on bins are made of a sixth of the dimensions.
_RESTARTS, _ITERATIONS = 3, 100
_BLOCK = 4096  # Rows that are compared with all centres at a time.


@dataclasses.dataclass(frozen=True)
class Comparison:
  different: int  # NDB.
  divergence: float  # Jensen-Shannon, nats.


def dimensions(d: int, seed: int = 0) -> np.ndarray:
  """Which of d dimensions to use: all, or a random sixth of more than 1000.

  The released code does so too, and only for speed; here a caller can drop
  the others early, for memory.
  """
  if d <= _MANY:
    return np.arange(d)
  return np.sort(np.random.default_rng(seed).choice(d, d // 6, replace=False))


class Bins:
  """k bins of a training set [P, D], the largest first."""

  def __init__(self, x, k: int = BINS, seed: int = 0):
    x = np.asarray(x, np.float32)
    if len(x) < k:
      raise ValueError(f'{len(x)} rows make no {k} bins')
    rng = np.random.default_rng(seed)
    labels, _ = min((_k_means(x, k, rng) for _ in range(_RESTARTS)),
                    key=lambda found: found[1])
    counts = np.bincount(labels, minlength=k)
    order = np.argsort(-counts, kind='stable')
    self.counts = counts[order]
    self.centres = _means(x, labels, k)[order]

  def count(self, x) -> np.ndarray:
    """How many rows of x [P, D] fall into each bin: [k]."""
    labels, _ = _nearest(np.asarray(x, np.float32), self.centres)
    return np.bincount(labels, minlength=len(self.centres))


def compare(train_counts, counts) -> Comparison:
  """How a set with `counts` [k] differs from the training set."""
  n, m = np.sum(train_counts), np.sum(counts)
  p, q = np.asarray(train_counts) / n, np.asarray(counts) / m
  z = z_scores(p, q, n, m)
  middle = (p + q) / 2
  return Comparison(
      int((2.0 * special.ndtr(-np.abs(z)) < SIGNIFICANCE).sum()),
      float((special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum()
            / 2))


def z_scores(p, q, n: int, m: int) -> np.ndarray:
  """Two proportions with a pooled error; 0 where a bin is empty in both."""
  pooled = (p * n + q * m) / (n + m)
  error = np.sqrt(pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m))
  return np.divide(p - q, error, out=np.zeros_like(p), where=error > 0)


def _k_means(x, k: int, rng) -> tuple[np.ndarray, float]:
  """Labels [P] by Lloyd's algorithm from k-means++, and their inertia."""
  centres = _seeds(x, k, rng)
  labels, distances = _nearest(x, centres)
  for _ in range(_ITERATIONS):
    centres = _means(x, labels, k)
    empty = np.flatnonzero(np.bincount(labels, minlength=k) == 0)
    centres[empty] = x[np.argsort(-distances)[:len(empty)]]
    before = labels
    labels, distances = _nearest(x, centres)
    if (labels == before).all():
      break
  return labels, float(distances.sum())


def _seeds(x, k: int, rng) -> np.ndarray:
  """Arthur and Vassilvitskii 2007: far from each other, at random."""
  centres = [x[rng.integers(len(x))]]
  nearest = _nearest(x, centres[0][None])[1]
  for _ in range(k - 1):
    total = nearest.sum()
    p = nearest / total if total > 0 else None  # Copies of k - 1 rows only.
    centres.append(x[rng.choice(len(x), p=p)])
    nearest = np.minimum(nearest, _nearest(x, centres[-1][None])[1])
  return np.stack(centres)


def _nearest(x, centres) -> tuple[np.ndarray, np.ndarray]:
  """The nearest centre of each row, and the squared distance in float64."""
  labels = np.empty(len(x), np.int64)
  distances = np.empty(len(x))
  square = (centres.astype(np.float64) ** 2).sum(1)
  for i in range(0, len(x), _BLOCK):
    rows = x[i:i + _BLOCK].astype(np.float64)
    d = square[None] - 2.0 * rows @ centres.T.astype(np.float64)
    labels[i:i + _BLOCK] = best = d.argmin(1)
    distances[i:i + _BLOCK] = (
        d[np.arange(len(rows)), best] + (rows ** 2).sum(1)).clip(0.0)
  return labels, distances


def _means(x, labels, k: int) -> np.ndarray:
  """Centres [k, D]; 0 where there is no row."""
  sums = np.zeros((k, x.shape[1]))
  for label in range(k):
    mine = x[labels == label]
    if len(mine):
      sums[label] = mine.mean(0, dtype=np.float64)
  return sums
