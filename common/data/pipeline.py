"""Stored examples -> batches of numpy arrays, through Grain.

A position in the training stream is one number, the batches taken so far. It
is the same on every process and with any number of workers, so a run that is
resumed elsewhere continues exactly.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import numpy as np

from common import errors
from common.data import chunks


@dataclasses.dataclass(frozen=True)
class _Preprocess(grain.transforms.RandomMap):
  fn: Callable[[dict, np.random.Generator], dict]

  def random_map(self, element, rng):
    return self.fn(element, rng)


@dataclasses.dataclass(frozen=True)
class _Epochs:
  """A source repeated for ever, in a new order each time.

  Grain's own shuffle walks a cipher of 2**16 numbers until one is below the
  length: 0.7 ms an example for a set of 37, where a permutation costs nothing.
  """

  source: Any
  seed: int

  def __len__(self):
    return sys.maxsize

  def __getitem__(self, i):
    epoch, k = divmod(i, len(self.source))
    return self.source[_order(len(self.source), self.seed, epoch)[k]]


@functools.lru_cache(maxsize=4)  # Threads read ahead into the next epoch.
def _order(examples: int, seed: int, epoch: int) -> list[int]:
  return np.random.default_rng([seed, epoch]).permutation(examples).tolist()


def train(source, preprocess, *, batch_size: int, seed: int, start: int = 0,
          workers: int = 0) -> Iterator[dict[str, np.ndarray]]:
  """This process's rows of each global batch, for ever, from batch `start`.

  Each epoch is shuffled anew. Process p of n gets the p-th block of every
  global batch: together they see what one process would have seen.
  """
  processes = jax.process_count()
  if len(source) == 0:
    raise errors.UserError('the training split holds no examples')
  source = _Epochs(chunks.Recordings(source), seed)
  dataset = grain.MapDataset.source(source).seed(seed)
  dataset = dataset.random_map(_Preprocess(preprocess))
  dataset = dataset.batch(batch_size // processes, drop_remainder=True)
  # Last of all, so that neither the order nor the draws above depend on it.
  dataset = dataset[start * processes + jax.process_index()::processes]
  dataset = dataset.map(_with_mask)
  # Buffers are counted in batches here: Grain's default would hold 500.
  stream = dataset.to_iter_dataset(
      grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
  if workers:
    stream = stream.mp_prefetch(grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=2))
  return iter(stream)


def evaluate(source, segments, *, batch_size: int,
             process: tuple[int, int] | None = None
             ) -> Iterator[dict[str, np.ndarray]]:
  """Every example of the split exactly once, the last batch padded.

  segments(example) -> list of rows. Rows are numbered in `index`; padding has
  `mask` 0. Every process reads the whole split and keeps its block of rows:
  that costs reading, and makes all processes agree on the number of batches.
  """
  number, count = process or (jax.process_index(), jax.process_count())
  local = batch_size // count
  mine = slice(number * local, (number + 1) * local)
  stream = grain.MapDataset.source(chunks.Recordings(source)).map(
      segments).to_iter_dataset(
          grain.ReadOptions(num_threads=2, prefetch_buffer_size=16))
  rows = itertools.chain.from_iterable(stream)
  for start in itertools.count(0, batch_size):
    chunk = list(itertools.islice(rows, batch_size))
    if not chunk:
      return
    index = np.arange(batch_size)
    mask = (index < len(chunk)).astype(np.float32)
    chunk += chunk[-1:] * (batch_size - len(chunk))
    batch = {k: np.stack([row[k] for row in chunk[mine]]) for k in chunk[0]}
    yield {**batch, 'index': (start + index).astype(np.int32)[mine],
           'mask': mask[mine]}


def segments_of(module: Any, config) -> Callable[[dict], list[dict]]:
  """A model file's `segments`, or one deterministic example by `preprocess`."""
  if hasattr(module, 'segments'):
    return module.segments(config)
  preprocess = module.preprocess(config)
  return lambda example: [preprocess(example, np.random.default_rng(0))]


def _with_mask(batch: dict) -> dict:
  rows = len(next(iter(batch.values())))
  return {**batch, 'mask': np.ones(rows, np.float32)}
