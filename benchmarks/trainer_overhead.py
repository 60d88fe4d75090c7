"""What does the loop cost on top of the bare jitted step?

  python benchmarks/trainer_overhead.py

A step of about 5 ms (a small perceptron), on one device, fed by the real
pipeline from a prepared data set. On a CPU the step has the last core to
itself, and the loop and its threads the others, as beside an accelerator: left
to the scheduler, the two now and then wait for each other on one core. Bare:
the same compiled step in a Python loop on one batch that is on the device
already, waiting at the end only. The two are run in turn; of each the fastest
round counts, as whatever else runs on the machine only adds.
"""

import os

os.environ['XLA_FLAGS'] = '--xla_cpu_multi_thread_eigen=false'
# The flags count only before jax is imported.

import json
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from common import config as config_lib
from common import model as model_lib
from common import prepare, runs, sharding, trainer

STEPS, ROUNDS, WIDTH = 200, 15, 512


def preprocess(config):
  del config
  return lambda example, rng: {
      'x': example['voices'][:64].astype(np.float32) / 100}


def build(config) -> model_lib.Model:
  def init(key, batch):
    n = batch['x'][0].size
    shapes = {'up': (n, WIDTH), 'middle': (WIDTH, WIDTH), 'down': (WIDTH, n)}
    params = {k: jax.random.normal(jax.random.fold_in(key, i), s) / 30
              for i, (k, s) in enumerate(shapes.items())}
    return model_lib.TrainState.create({'model': params}, {})

  def loss_fn(params, x):
    p = params['model']
    h = jnp.tanh(x @ p['up'])
    for _ in range(config.model.layers):
      h = jnp.tanh(h @ p['middle'])
    return ((h @ p['down'] - x)**2).mean()

  def train_step(state, batch, key, stage):
    x = batch['x'].reshape(len(batch['x']), -1)
    loss, grads = jax.value_and_grad(loss_fn)(state.params, x)
    params = jax.tree.map(lambda p, g: p - 1e-3 * g, state.params, grads)
    return state.replace(params=params), {'loss': loss}

  def eval_step(state, batch, key):
    return {'one': model_lib.Mean.of(jnp.ones(len(batch['x'])), batch['mask'])}

  return model_lib.Model(init=init, train_step=train_step, sample=None,
                         eval_step=eval_step)


def config():
  c = config_lib.default()
  c.module, c.steps, c.batch_size = 'trainer_overhead', STEPS, 16
  c.data.name = 'synthetic_chorales/tiny'
  c.model.layers = 15
  c.log_every = STEPS // 2
  c.eval_every = c.sample_every = c.num_samples = c.checkpoint.every = 0
  c.mesh.data = 1
  return c


def loop_seconds(c, data_dir) -> tuple[float, float]:
  """Seconds per step inside fit(), and of these waiting for data."""
  with tempfile.TemporaryDirectory() as workdir:
    trainer.fit(c, workdir, data_dir)
    lines = [json.loads(x) for x in
             (pathlib.Path(workdir) / 'timing.jsonl').read_text().splitlines()]
  return lines[-1]['time/step_s'], lines[-1]['time/data_s']


def bare_seconds(c) -> float:
  model = runs.build(c)[1]
  mesh = sharding.make_mesh(data=1)
  x = np.random.default_rng(0).random((c.batch_size, 64, 4), np.float32)
  batch = sharding.place({'x': x, 'mask': np.ones(len(x), np.float32)},
                         sharding.by_row(mesh))
  key = runs.make_key(c, mesh, 'train')
  state = jax.jit(model.init)(key, batch)
  step = trainer.jit_step(model, mesh, sharding.infer(
      jax.eval_shape(lambda s: s, state), mesh))
  state, metrics = step(state, batch, key, stage=0)
  jax.block_until_ready(metrics)
  began = time.perf_counter()
  for _ in range(STEPS // 2):
    state, metrics = step(state, batch, key, stage=0)
  jax.block_until_ready(state)
  return (time.perf_counter() - began) / (STEPS // 2)


def split_cores() -> None:
  """The device's threads onto the last core, this one and its own elsewhere."""
  *host, device = sorted(os.sched_getaffinity(0))
  jax.block_until_ready(jnp.ones(8) @ jnp.ones(8))  # Starts the threads.
  for thread in pathlib.Path('/proc/self/task').iterdir():
    os.sched_setaffinity(int(thread.name), {device})
  os.sched_setaffinity(0, host)


def main():
  if jax.default_backend() == 'cpu' and len(os.sched_getaffinity(0)) > 1:
    split_cores()
  with tempfile.TemporaryDirectory() as data_dir:
    prepare.prepare('synthetic_chorales/tiny', data_dir)
    rounds = [(bare_seconds(config()), *loop_seconds(config(), data_dir))
              for _ in range(ROUNDS)]
  bare, loop, data = map(min, zip(*rounds, strict=True))
  print(f'bare step {1e3 * bare:.2f} ms, loop {1e3 * loop:.2f} ms (data '
        f'{1e3 * data:.2f} ms), ratio {loop / bare:.3f}; per round '
        + ' '.join(f'{b / a:.3f}' for a, b, _ in rounds))


if __name__ == '__main__':
  main()
