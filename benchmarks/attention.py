"""Implementations of relative attention beside each other: time and memory.

  python benchmarks/attention.py
  python benchmarks/attention.py --lengths=2048 --rows=4

Each is one layer's attention, forward and gradient, with the table of the Music
Transformer of table 3: 8 heads of 64, values of 32, half as many distances as
tokens. `gathered` makes a vector for each pair of tokens (Shaw et al. 2018; 26
GB at 2048 tokens, so only up to --gathered), `skewed` all logits at once,
`blocks` is what models here use. Memory is what the compiled program asks for
besides its arguments. The floor is the products of queries, keys, values and
tables that no implementation can leave out (half of all pairs), at the rate of
a large product of matrices.

Then a gradient of the whole model, with gathered attention and with ours; there
is no dropout and no optimiser.
"""

import time

import jax
import jax.numpy as jnp
from absl import app, flags

from common.nn import attention, transformer

_LENGTHS = flags.DEFINE_list('lengths', ['512', '1024', '2048'], 'Tokens.')
_ROWS = flags.DEFINE_integer('rows', 1, 'Sequences at once.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often; the fastest counts.')
_GATHERED = flags.DEFINE_integer('gathered', 1024, 'Most tokens for that.')
_STEP = flags.DEFINE_integer('step', 1024, 'Tokens of the whole model.')
HEADS, WIDTH, VALUES = 8, 64, 32
LAYERS, STREAM, INNER, VOCAB = 6, 256, 2048, 310


def gathered(q, k, v, table, **unused):
  """q_i . table[M - 1 - (i - j)] from an array [L, L, H, D]."""
  length, most = q.shape[1], table.shape[1]
  behind = jnp.arange(length)[:, None] - jnp.arange(length)[None]
  row = most - 1 - behind
  vectors = jnp.where((row >= 0)[..., None, None],
                      table.swapaxes(0, 1)[jnp.clip(row, 0, most - 1)], 0.0)
  logits = (jnp.einsum('bihd,bjhd->bhij', q, k)
            + jnp.einsum('bihd,ijhd->bhij', q, vectors))
  weights = jax.nn.softmax(jnp.where(
      behind >= 0, logits / WIDTH**0.5, attention.NEVER), -1)
  return jnp.einsum('bhij,bjhe->bihe', weights, v)


def blocks(size, **options):
  return lambda q, k, v, table: attention.causal(
      q, k, v, table=table, block=size, **options)


def plain(size):
  return lambda q, k, v, table: attention.causal(q, k, v, block=size)


def sparse(q, k, v, table):
  """No table: strided by the root of the length, as Child et al. have it."""
  del table
  stride = 2 ** round(q.shape[1].bit_length() / 2)
  return attention.sparse_causal(
      q, k, v, attention.Sparse('strided', stride))


KINDS = {
    'gathered': gathered, 'skewed': blocks(0), 'blocks of 512': blocks(512),
    'blocks of 256': blocks(256), 'blocks of 128': blocks(128),
    'local, 256': blocks(256, local=True), 'no table, 256': plain(256),
    'strided, no table': sparse}


def measure(fn, *args):
  """Seconds, and the bytes that it needs besides its arguments."""
  compiled = jax.jit(fn).lower(*args).compile()
  jax.block_until_ready(compiled(*args))
  times = []
  for _ in range(_ROUNDS.value):
    began = time.perf_counter()
    jax.block_until_ready(compiled(*args))
    times.append(time.perf_counter() - began)
  return min(times), compiled.memory_analysis().temp_size_in_bytes


def draw(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def compare(length, rate):
  shape = _ROWS.value, length, HEADS
  args = (draw(0, *shape, WIDTH), draw(1, *shape, WIDTH),
          draw(2, *shape, VALUES), draw(3, HEADS, length // 2, WIDTH))
  # Forward once and twice again for the gradient; half of all pairs.
  flops = 3 * 2 * _ROWS.value * HEADS * (length**2 / 2) * (WIDTH + VALUES)
  flops += 3 * 2 * _ROWS.value * HEADS * (3 / 8 * length**2) * WIDTH
  floor = flops / rate
  print(f'{_ROWS.value} x {length}: floor {floor * 1e3:.1f} ms')
  first = None  # Of those that fit.
  for name, fn in KINDS.items():
    if name == 'gathered' and length > _GATHERED.value:
      continue
    grad = jax.grad(lambda *a, fn=fn: (fn(*a)**2).sum(), argnums=(0, 1, 2, 3))
    taken, size = measure(grad, *args)
    first = first or (name, taken, size)
    print(f'  {name:18} {taken * 1e3:7.1f} ms, {taken / floor:4.1f} floors, '
          f'{first[1] / taken:4.1f} times as fast as {first[0]}; '
          f'{size / 2**20:7.1f} MiB, {first[2] / size:5.1f} times less',
          flush=True)


def step(length):
  """A gradient of the whole model; returns what `measure` does, for both."""
  net = transformer.Transformer(
      vocab=VOCAB, width=STREAM, layers=LAYERS, heads=HEADS,
      attention_width=HEADS * WIDTH, feed_forward=INNER, distances=length // 2,
      block=256)
  tokens = jax.random.randint(jax.random.key(0), (_ROWS.value, length), 0,
                              VOCAB)
  params = jax.jit(net.init)(jax.random.key(1), tokens[:, :8])
  loss = lambda params: jax.nn.logsumexp(net.apply(params, tokens)[0], -1).sum()
  ours = measure(jax.grad(loss), params)
  real = attention.causal
  attention.causal = lambda q, k, v, table, **options: gathered(q, k, v, table)
  try:
    theirs = measure(jax.grad(lambda params: loss(params)), params)
  finally:
    attention.causal = real
  return ours, theirs


def main(_):
  square = draw(4, 2048, 2048)
  rate = 2 * 2048**3 / measure(jnp.matmul, square, square)[0]
  print(f'a large product: {rate / 1e9:.0f} GFLOP/s')
  for length in map(int, _LENGTHS.value):
    compare(length, rate)
  ours, theirs = step(_STEP.value)
  print(f'a gradient of 6 layers, {_ROWS.value} x {_STEP.value}: '
        f'{ours[0]:.2f} s and {ours[1] / 2**20:.0f} MiB; gathered '
        f'{theirs[0]:.2f} s ({theirs[0] / ours[0]:.1f} times) and '
        f'{theirs[1] / 2**20:.0f} MiB ({theirs[1] / ours[1]:.1f} times)')


if __name__ == '__main__':
  app.run(main)
