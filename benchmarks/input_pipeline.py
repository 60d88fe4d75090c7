"""Can the input pipeline feed the models?

  python benchmarks/input_pipeline.py [--examples=600]

Examples and megabytes a second from ArrayRecord through TFDS, Grain and the
model file's own `preprocess`, with 0, 1 and 2 worker processes, next to what
the models take: their step is timed on this machine, in the same run.
"""

import itertools
import tempfile
import time

import jax
import numpy as np
from absl import app, flags

from common import config as config_lib
from common import prepare, runs, sharding, trainer
from common.data import builders, pipeline

_EXAMPLES = flags.DEFINE_integer('examples', 600, 'Size of each data set.')
CONFIGS = ('lstm_jsb', 'wavegan_sc09')


def feed_rate(config, module, source, workers: int, batches: int):
  """(examples/s, MB/s of arrays that reach the host)."""
  stream = pipeline.train(source, module.preprocess(config), seed=0,
                          batch_size=config.batch_size, workers=workers)
  first = next(stream)  # Starts workers and threads.
  for _ in range(4):  # What was buffered meanwhile.
    next(stream)
  began = time.perf_counter()
  for _ in itertools.islice(stream, batches):
    pass
  seconds = time.perf_counter() - began
  size = sum(x.nbytes for x in first.values()) / config.batch_size
  rate = batches * config.batch_size / seconds
  return rate, rate * size / 1e6


def step_rate(config, module, source) -> float:
  """Examples/s that the training step takes on one device here."""
  _, model = runs.build(config)
  mesh = sharding.make_mesh(data=1)
  batch = next(pipeline.train(source, module.preprocess(config), seed=0,
                              batch_size=config.batch_size))
  batch = sharding.place(batch, sharding.by_row(mesh))
  key = runs.make_key(config, mesh, 'train')
  state = jax.jit(model.init)(key, batch)
  step = trainer.jit_step(model, mesh, jax.tree.map(
      lambda _: sharding.replicated(mesh), state))
  times = []
  for _ in range(6):
    began = time.perf_counter()
    state, metrics = step(state, batch, key, stage=0)
    jax.block_until_ready((state, metrics))
    times.append(time.perf_counter() - began)
  return config.batch_size / np.median(times[1:])


def main(argv):
  del argv
  print('| config | workers | examples/s | MB/s | the step takes, examples/s | '
        'feed / step |')
  print('|---|---|---|---|---|---|')
  with tempfile.TemporaryDirectory() as data_dir:
    for name, size in itertools.product(CONFIGS, ('tiny', 'demo', 'paper')):
      config = config_lib.load(f'{name}:{size}')
      synthetic = config_lib.load(f'{name}:tiny').data.name.partition('/')[0]
      data = f'{synthetic}/n{_EXAMPLES.value}'
      prepare.prepare(data, data_dir)
      source = builders.open_split(data, 'train', data_dir)
      module, _ = runs.build(config)
      # The paper's sizes take minutes a step on a CPU: not timed here.
      taken = step_rate(config, module, source) if size != 'paper' else None
      for workers in (0, 1, 2):
        rate, mb = feed_rate(config, module, source, workers,
                             max(20, 2000 // config.batch_size))
        step = ('not run | ' if taken is None else
                f'{taken:.0f} | {rate / taken:.1f}')
        print(f'| {name}:{size} | {workers} | {rate:.0f} | {mb:.1f} | {step} |',
              flush=True)


if __name__ == '__main__':
  app.run(main)
