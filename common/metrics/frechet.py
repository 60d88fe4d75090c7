"""Distances between two sets of embeddings: Frechet distance and KID.

The Frechet distance of Gaussians fitted to the two sets is FID on a
classifier's features and FAD on an audio embedding (a log-mel one is here, any
other is the user's). It falls as sets grow, by about 1/n: compare numbers of
equal n only. KID, an unbiased squared MMD, does not, and may be negative.

All on the host in float64. Shapes: P rows (sounds or patches), D dimensions.
"""

import functools
import importlib
import zipfile

import numpy as np
import scipy.linalg

from common import errors

KID_SEED = 2020  # This and the next two: torch-fidelity's.
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000

_BLOCK = 1024  # Rows of a kernel matrix that are in memory at a time.


class Gaussian:
  """Mean [D] and covariance [D, D] of rows that come in batches."""

  def __init__(self):
    self.count, self.mean, self._scatter = 0, 0.0, 0.0

  @classmethod
  def of(cls, x):
    gaussian = cls()
    gaussian.add(x)
    return gaussian

  def add(self, x) -> None:
    """Rows [P, D]; Chan's update, which keeps a small variance exact."""
    x = np.asarray(x, np.float64)
    if not len(x):
      return
    total = self.count + len(x)
    mean = x.mean(0)
    shift = mean - self.mean
    self._scatter = (self._scatter + (x - mean).T @ (x - mean) + np.outer(
        shift, shift) * (self.count * len(x) / total))
    self.mean = self.mean + shift * (len(x) / total)
    self.count = total

  @property
  def cov(self):
    if self.count < 2:
      raise errors.UserError(f'a covariance needs 2 rows or more, not '
                             f'{self.count}; use a larger set')
    return self._scatter / (self.count - 1)


def distance(a: Gaussian, b: Gaussian) -> float:
  """Squared Frechet distance (Heusel et al. 2017, eq. 6) of two Gaussians."""
  return gaussian_distance(a.mean, a.cov, b.mean, b.cov)


def gaussian_distance(mean_a, cov_a, mean_b, cov_b) -> float:
  """|m1 - m2|^2 + tr(C1 + C2) - 2 tr((C1 C2)^(1/2)).

  C1 C2 has the eigenvalues of R C2 R, R the root of C1, which is symmetric: no
  complex numbers where a set has fewer rows than dimensions.
  """
  values, vectors = scipy.linalg.eigh(cov_a)
  root = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
  cross = np.sqrt(scipy.linalg.eigvalsh(root @ cov_b @ root).clip(0.0)).sum()
  shift = np.asarray(mean_a) - mean_b
  # Rounding leaves about 1e-10 of either sign where the sets are the same.
  return max(0.0, float(
      shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross))


def kid(x, y) -> float:
  """Unbiased squared MMD of all rows of x and y, kernel (a b / D + 1)^3.

  Binkowski et al. 2018, eq. 4 and section 3; exact, no subsets.
  """
  x, y = (np.asarray(a, np.float64) for a in (x, y))
  if min(len(x), len(y)) < 2:
    raise errors.UserError(f'KID needs 2 rows or more of each set, not '
                           f'{len(x)} and {len(y)}; use larger sets')
  within = lambda a: (_kernel_sum(a, a) - ((
      (a * a).sum(1) / a.shape[1] + 1.0) ** 3).sum()) / (len(a) * (len(a) - 1))
  return float(within(x) + within(y)
               - 2.0 * _kernel_sum(x, y) / (len(x) * len(y)))


def kid_over_subsets(x, y, *, subsets: int = KID_SUBSETS,
                     size: int = KID_SUBSET_SIZE, seed: int = KID_SEED
                     ) -> tuple[float, float]:
  """Mean and standard deviation of `kid` over random subsets of both sets.

  As torch-fidelity draws them. Smaller sets make smaller subsets.
  """
  x, y = np.asarray(x), np.asarray(y)
  size = min(size, len(x), len(y))
  rng = np.random.RandomState(seed)
  draw = lambda a: a[rng.choice(len(a), size, replace=False)]
  values = [kid(draw(x), draw(y)) for _ in range(subsets)]
  return float(np.mean(values)), float(np.std(values))


def _kernel_sum(x, y) -> float:
  return sum(((x[i:i + _BLOCK] @ y.T / x.shape[1] + 1.0) ** 3).sum()
             for i in range(0, len(x), _BLOCK))


# ---------------------------------------------------------------- embeddings

LOGMEL_RATE = 16000  # The frames of `logmel_patches` are counted in samples.
LOGMEL_PATCH = 96  # Frames, as VGGish.


@functools.cache
def _logmel(sample_rate: int):
  import jax
  import jax.numpy as jnp

  from common.spectral import mel, stft

  bank = mel.filterbank(sample_rate, 512, 64, fmin=125.0, fmax=7500.0,
                        scale='htk', norm=None)

  @jax.jit
  def embed(audio):
    if not patches_in(audio.shape[1]):
      return jnp.zeros((0, 128))
    x = jnp.abs(stft.stft(audio, 512, 160, win_length=400, center=False))
    x = jnp.log(mel.project(x, bank) + 0.01)
    x = x[:, :patches_in(audio.shape[1]) * LOGMEL_PATCH]
    x = x.reshape(-1, LOGMEL_PATCH, 64)
    return jnp.concatenate([x.mean(1), x.std(1)], axis=1)

  return embed


def logmel_patches(audio, sample_rate: int):
  """Audio [B, N] -> [P, 128]: mean and deviation over .96 s of 64 mel bands.

  A stand-in for VGGish that needs no weights: its Frechet distance is called
  `fad_logmel`, and is no FAD. It does not hear the order of things within a
  patch. What comes after the last whole patch is dropped; sounds shorter than a
  patch give no rows.
  """
  if sample_rate != LOGMEL_RATE:
    raise errors.UserError(f'fad_logmel is defined at {LOGMEL_RATE} Hz, not at '
                           f'{sample_rate}; resample the sounds')
  return np.asarray(_logmel(sample_rate)(audio))


def patches_in(samples: int) -> int:
  """Rows that `logmel_patches` makes of one sound."""
  return max(0, 1 + (samples - 512) // 160) // LOGMEL_PATCH


def load_embedding(spec: str):
  """'module:function' -> the function (audio [B, N], sample_rate) -> [P, D]."""
  module, colon, name = spec.partition(':')
  try:
    if not colon:
      raise ValueError('there is no colon')
    return getattr(importlib.import_module(module), name)
  except (AttributeError, ImportError, ValueError) as e:
    raise errors.UserError(
        f'--embedding={spec}: {e}; give module:function, a function of (audio '
        '[B, N] float32, sample_rate) that returns [P, D]; its folder has to '
        'be in PYTHONPATH') from None


def distance_of_files(paths: str) -> float:
  """Of the embeddings in 'REAL.npz,GENERATED.npz'."""
  both = paths.split(',')
  if len(both) != 2:
    raise errors.UserError(f'--embedding={paths}: give two files, '
                           'REAL.npz,GENERATED.npz')
  a, b = map(read_embeddings, both)
  if a.mean.shape != b.mean.shape:
    raise errors.UserError(
        f'--embedding={paths}: rows of {len(a.mean)} and {len(b.mean)} '
        'dimensions; embed both sets by the same network')
  return distance(a, b)


def read_embeddings(path) -> Gaussian:
  """Statistics of the rows [P, D] in the only array of an npz file."""
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = dict(file)
  except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as e:
    raise errors.UserError(f'{path} cannot be read ({e}); write it with '
                           'numpy.savez(path, embeddings)') from None
  shapes = {k: x.shape for k, x in arrays.items()}
  if len(shapes) != 1 or len(*shapes.values()) != 2:
    raise errors.UserError(f'{path} has to hold one array [P, D] of '
                           f'embeddings; it holds {shapes}')
  if not np.isfinite(*arrays.values()).all():
    raise errors.UserError(f'{path} has embeddings that are NaN or infinite; '
                           'look at the sounds that they are of')
  return Gaussian.of(*arrays.values())
