"""Inception score: how sure a classifier is of each sound, how varied they are.

exp(mean of KL(p(y|x) || p(y))), from 1 to the number of classes. Natural
logarithms throughout. Shapes: P sounds, K classes.
"""

import numpy as np
from scipy import special

SPLITS, SEED = 10, 2020  # torch-fidelity's.


def score(probabilities) -> float:
  """One value for all of [P, K] (Salimans et al. 2016), as GANSynth has it."""
  p = np.asarray(probabilities, np.float64)
  return float(np.exp(special.rel_entr(p, p.mean(0)[None]).sum(1).mean()))


def score_over_splits(probabilities, splits: int = SPLITS, seed: int = SEED
                      ) -> tuple[float, float]:
  """Mean and standard deviation of `score` over parts, as torch-fidelity.

  Rows are put in a random order first. A part is scored by its own p(y), so
  small parts score less than the whole.
  """
  p = np.asarray(probabilities)
  p = p[np.random.RandomState(seed).permutation(len(p))]
  parts = [p[i * len(p) // splits:(i + 1) * len(p) // splits]
           for i in range(splits)]
  values = [score(part) for part in parts]
  return float(np.mean(values)), float(np.std(values))
