"""Memory of a training state per device, for models of any size.

  python benchmarks/memory.py

Prints the table of docs/scale.md. Nothing is allocated: shapes come from
`jax.eval_shape`, their split from the shardings that training uses, on meshes
of devices that need not exist.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from common import config as config_lib
from common import runs, sharding

# Three LSTM layers of these widths: 100 M, 1 B and 5 B parameters.
UNITS = (2240, 7104, 15808)
MESHES = [(1, 1), (8, 1), (1, 8), (4, 8), (1, 64)]  # data, fsdp


def state_shapes(units: int):
  config = config_lib.load('lstm_jsb')
  config.model.units = units
  _, model = runs.build(config)
  rows = {'tokens': jax.ShapeDtypeStruct((config.batch_size,
                                          config.model.length), jnp.int32),
          'mask': jax.ShapeDtypeStruct((config.batch_size,), jnp.float32)}
  return jax.eval_shape(model.init, jax.random.key(0), rows)


def per_device(shapes, data: int, fsdp: int) -> tuple[int, int]:
  """Bytes on one device: between steps, and within one before activations.

  Within a step parameters are gathered and have a gradient each.
  """
  mesh = AbstractMesh((data, fsdp), ('data', 'fsdp'))
  split = sharding.infer(shapes, mesh)

  def size(x, s):
    shape = s.shard_shape(x.shape)
    return jnp.dtype(x.dtype).itemsize * math.prod(shape)

  total = lambda tree, shards: sum(jax.tree.leaves(
      jax.tree.map(size, tree, shards)))
  rest = total(shapes, split)
  whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes.params))
  return rest, rest + whole * (1 if fsdp == 1 else 2)


def main():
  print('| parameters | ' + ' | '.join(
      f'data {d} x fsdp {f}' for d, f in MESHES) + ' |')
  print('|---' * (len(MESHES) + 1) + '|')
  for units in UNITS:
    shapes = state_shapes(units)
    count = sum(x.size for x in jax.tree.leaves(shapes.params))
    cells = [' / '.join(f'{n / 2**30:.1f}' for n in per_device(shapes, d, f))
             for d, f in MESHES]
    print(f'| {count / 1e6:,.0f} M (3 x {units}) | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
  main()
