"""Metrics over a whole split, and samples for its first rows."""

import jax
import numpy as np

from common import runs, sharding
from common.data import pipeline


class Evaluation:
  """Compiled once, called with a state as often as needed."""

  def __init__(self, config, module, model, mesh, source):
    self._model, self._mesh = model, mesh
    self._source = source
    self._segments = pipeline.segments_of(module, config)
    self._key = runs.make_key(config, mesh, 'eval')
    self._sample_key = runs.make_key(config, mesh, 'sample')
    # Padding is masked, so any batch size will do: take one that divides.
    self._rows = -(-config.batch_size // mesh.size) * mesh.size
    on_all = sharding.replicated(mesh)

    def step(state, batch, key):
      with sharding.tracing(mesh):
        return (model.eval_step(sharding.gather(state, mesh), batch, key),
                batch['mask'].sum())

    self._step = jax.jit(step, out_shardings=on_all)
    self._gather = jax.jit(lambda state: state.replace(opt={}),
                           out_shardings=on_all)

  def __call__(self, state) -> tuple[dict[str, float], int]:
    """{'eval/nll': .., ...} and how many rows it was measured on."""
    sums, rows, previous = {}, 0, ({}, 0)
    for batch in pipeline.evaluate(self._source, self._segments,
                                   batch_size=self._rows):
      part = self._step(
          state, sharding.place(batch, sharding.by_row(self._mesh)),
          self._key)
      rows += _add(sums, previous)
      previous = part  # Fetched while the device runs the next batch.
    rows += _add(sums, previous)
    # What the split has nothing of has no mean.
    return {f'eval/{k}': float(m.compute()) for k, m in sums.items()
            if m.weight}, rows

  def names(self, shapes) -> list[str]:
    """What a call can report, found without computing it."""
    batch = next(pipeline.evaluate(self._source, self._segments,
                                   batch_size=self._rows, process=(0, 1)))
    return [f'eval/{name}' for name in jax.eval_shape(
        self._step, shapes, batch, self._key)[0]]

  def sample(self, state, count: int) -> dict[str, np.ndarray]:
    """Samples under the conditions of the split's first `count` rows."""
    batch = next(pipeline.evaluate(self._source, self._segments,
                                   batch_size=count, process=(0, 1)))
    batch = sharding.place(batch, sharding.replicated(self._mesh))
    with jax.transfer_guard('allow'):  # A sampler may be driven by the host.
      return sharding.fetch(self._model.sample(
          self._gather(state), batch, self._sample_key))


def _add(sums: dict, part) -> int:
  """In float64: a split may hold more tokens than float32 can count.

  Returns how many rows were added, of all processes.
  """
  metrics, rows = jax.device_get(part)
  for name, mean in metrics.items():
    mean = jax.tree.map(np.float64, mean)
    sums[name] = sums[name] + mean if name in sums else mean
  return int(rows)
