"""Tokens sampled a second: with a cache and without, short pieces and long.

  python benchmarks/sampling.py
  python benchmarks/sampling.py --rows=1 --lengths=256,2048

The network is the Music Transformer of table 3 (6 layers of 256, queries of
512, 1024 distances, 310 ids, 12 million parameters), random weights. For each
length the last tokens of a piece of that length are timed, with a cache of that
size; without one a token costs the whole piece so far. The floor is reading
every weight and every cached number once, at the rate of a large sum.
"""

import time

import jax
import jax.numpy as jnp
from absl import app, flags

from common import sampling
from common.nn import transformer

_LENGTHS = flags.DEFINE_list('lengths', ['256', '1024', '2048'], 'Tokens.')
_ROWS = flags.DEFINE_list('rows', ['1', '64'], 'Pieces at once.')
_STEPS = flags.DEFINE_integer('steps', 32, 'Tokens timed at each length.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'How often; the fastest counts.')

NET = transformer.Transformer(
    vocab=310, width=256, layers=6, heads=8, attention_width=512,
    feed_forward=2048, distances=1024, block=512)


def seconds(fn, *args):
  jax.block_until_ready(fn(*args))
  times = []
  for _ in range(_ROUNDS.value):
    began = time.perf_counter()
    jax.block_until_ready(fn(*args))
    times.append(time.perf_counter() - began)
  return min(times)


def cached(params, rows, length):
  """Seconds a token, and the bytes that each of them needs."""
  net, params = NET.for_steps(params)
  caches = jax.jit(lambda: NET.empty_caches(rows, length))()
  start = length - _STEPS.value

  def step(carry, token):
    caches, position = carry
    logits, caches = net.apply({'params': params}, token[:, None], (), caches,
                               position)
    return (caches, position + 1), logits[:, 0]

  draw = jax.jit(lambda caches, key: sampling.decode(
      step, (caches, jnp.int32(start)), jnp.zeros(rows, jnp.int32),
      jax.random.split(key, rows), _STEPS.value))
  size = sum(x.nbytes for x in jax.tree.leaves((params, caches)))
  return seconds(draw, caches, jax.random.key(0)) / _STEPS.value, size


def uncached(params, rows, length):
  forward = jax.jit(lambda tokens: NET.apply({'params': params}, tokens)[0])
  return seconds(forward, jnp.zeros((rows, length), jnp.int32))


def main(_):
  params = jax.jit(NET.init)(
      jax.random.key(0), jnp.zeros((1, 8), jnp.int32))['params']
  large = jnp.ones(2**26)
  rate = large.nbytes / seconds(jax.jit(jnp.sum), large)
  print(f'reading: {rate / 1e9:.1f} GB/s')
  for rows in map(int, _ROWS.value):
    first = None
    for length in map(int, _LENGTHS.value):
      token, size = cached(params, rows, length)
      first = first or token
      text = (f'{rows} x {length}: {token * 1e3:.2f} ms a step, '
              f'{rows / token:.0f} tokens/s, {token / first:.2f} of the '
              f'shortest; floor {size / rate * 1e3:.2f} ms, '
              f'{token * rate / size:.1f} times that')
      if rows == 1:
        whole = uncached(params, rows, length)
        text += (f'; without a cache {whole * 1e3:.0f} ms, '
                 f'{whole / token:.0f} times as long')
      print(text, flush=True)


if __name__ == '__main__':
  app.run(main)
