"""Nearest of 2048 codes of 64 numbers, for a million vectors: ours beside the
whole matrix of distances. Time, and the most memory that a process took.

  python benchmarks/nearest_code.py

Each is measured in a process of its own, in turn; the floor is one product of
matrices, 2 N K D operations, at the rate of a large square one.
"""

import json
import resource
import subprocess
import sys
import time

ROUNDS = 3
VECTORS, CODES, WIDTH = 2**20, 2048, 64
KINDS = ('nothing', 'ours', 'whole matrix')


def measure(kind):
  import jax
  import jax.numpy as jnp

  from vqvae_jax import quantize

  def whole(x, codes):
    distance = ((x**2).sum(-1)[:, None] - 2.0 * x @ codes.T
                + (codes**2).sum(-1)[None])
    return jnp.argmin(distance, -1)

  x = jax.random.normal(jax.random.key(0), (VECTORS, WIDTH))
  codes = jax.random.normal(jax.random.key(1), (CODES, WIDTH))
  fn = {'nothing': lambda x, codes: x[:, 0],
        'ours': lambda x, codes: quantize.nearest(x[None], codes)[0],
        'whole matrix': whole}[kind]
  fn = jax.jit(fn)
  fn(x, codes).block_until_ready()
  times = []
  for _ in range(ROUNDS):
    began = time.perf_counter()
    fn(x, codes).block_until_ready()
    times.append(time.perf_counter() - began)

  square = jax.random.normal(jax.random.key(2), (2048, 2048))
  product = jax.jit(lambda a: a @ a)
  product(square).block_until_ready()
  began = time.perf_counter()
  for _ in range(5):
    product(square).block_until_ready()
  rate = 5 * 2 * 2048**3 / (time.perf_counter() - began)
  return {'seconds': min(times), 'rate': rate, 'megabytes': resource.getrusage(
      resource.RUSAGE_SELF).ru_maxrss / 1024}


def main():
  if len(sys.argv) > 1:
    print(json.dumps(measure(sys.argv[1])))
    return
  found = {}
  for kind in KINDS:
    out = subprocess.run([sys.executable, __file__, kind], check=True,
                         capture_output=True, text=True).stdout
    found[kind] = json.loads(out.splitlines()[-1])
  floor = 2 * VECTORS * CODES * WIDTH / found['ours']['rate']
  print('| lookup | seconds | of the floor | memory above the data, MB |')
  print('|---|---|---|---|')
  for kind in KINDS[1:]:
    row = found[kind]
    more = row['megabytes'] - found['nothing']['megabytes']
    print(f'| {kind} | {row["seconds"]:.2f} | {row["seconds"] / floor:.1f} | '
          f'{more:.0f} |')


if __name__ == '__main__':
  main()
