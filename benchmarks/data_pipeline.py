"""Examples a second of the input pipeline, by size and number of workers.

  python benchmarks/data_pipeline.py [--seconds=5]

Notes as large as NSynth's, 4 s at 16 kHz in float32 (256 kB): a random window
of each, or all of it; and windows of 2048 tokens out of records of 16,384
int16. No model's own work is timed: `preprocess` does nothing but cut.
MB/s counts the arrays that reach the training loop.
"""

import pathlib
import tempfile
import time
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags

from common.data import builders, pipeline
from common.data.builders import base

_SECONDS = flags.DEFINE_float('seconds', 5.0, 'Time for each row.')
_EXAMPLES = flags.DEFINE_integer('examples', 600, 'Size of each data set.')
_BATCH = 64
_TOKENS = 16_384  # Of a record: a performance of some 25 minutes.


class Pieces(base.Builder, skip_registration=True):
  """Random tokens."""

  name = 'pieces'
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name='tokens')]

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.
                                 FeaturesDict({'tokens': tfds.features.Tensor(
                                     shape=(None,), dtype=np.int16,
                                     encoding='bytes')}))

  def splits(self):
    return ['train']

  def units(self, split):
    for i in range(_EXAMPLES.value):
      yield base.Unit(str(i), i)

  def example(self, unit):
    rng = np.random.default_rng(unit.data)
    yield unit.data, {'tokens': rng.integers(388, size=_TOKENS, dtype=np.int16)}


class Window:
  """A random window of a feature; all of it where there is no length."""

  def __init__(self, feature, length=None):
    self._feature, self._length = feature, length

  def __call__(self, example, rng):
    x = example[self._feature]
    n = self._length or len(x)
    start = rng.integers(len(x) - n + 1)
    return {self._feature: x[start:start + n]}


def rate(source, window, workers: int) -> tuple[float, float]:
  """(examples/s, MB/s)."""
  stream = pipeline.train(source, window, seed=0, batch_size=_BATCH,
                          workers=workers)
  for _ in range(10):  # Workers start, and what they buffered is taken.
    size = next(stream)[window._feature].nbytes
  batches, began = 0, time.perf_counter()
  while (seconds := time.perf_counter() - began) < _SECONDS.value:
    next(stream)
    batches += 1
  return batches * _BATCH / seconds, batches * size / seconds / 1e6


def main(argv):
  del argv
  with tempfile.TemporaryDirectory() as folder:
    notes = builders.make(f'synthetic_notes/n{_EXAMPLES.value}', folder)
    notes.prepare(workers=2)
    pieces = Pieces(config=Pieces.find_config('tokens'), data_dir=folder)
    pieces.prepare()
    notes, pieces = (
        tfds.builder_from_directory(pathlib.Path(b.data_dir)).as_data_source(
            'train') for b in (notes, pieces))
    print('| data | workers | examples/s | MB/s |\n|---|---|---|---|')
    for what, source, window in (
        ('notes of 4 s, windows of 16384', notes, Window('audio', 16384)),
        ('notes of 4 s, whole', notes, Window('audio')),
        ('windows of 2048 tokens', pieces, Window('tokens', 2048))):
      for workers in (0, 1, 2):
        examples, megabytes = rate(source, window, workers)
        print(f'| {what} | {workers} | {examples:,.0f} | {megabytes:,.0f} |',
              flush=True)


if __name__ == '__main__':
  app.run(main)
