"""Jukebox's networks of the paper's size: encoding and decoding against real
time, and what the spectral loss costs of a training step.

  python benchmarks/jukebox_codec.py [--samples=131072] [--batch_size=1]
      [--seconds=6] [--dtype=bfloat16]

Random weights: speed does not depend on them. Times are the least of three
rounds; the floor of a level is XLA's count of operations at the rate of a large
product of matrices in the same run; of the lookup it counts one block.
"""

import time

import jax
import jax.numpy as jnp
from absl import app, flags

from common import config as config_lib
from vqvae_jax import jukebox_vqvae, quantize

_BATCH = flags.DEFINE_integer('batch_size', 1, 'Clips of a training step.')
_SAMPLES = flags.DEFINE_integer('samples', 131072, 'Of a clip, in training.')
_SECONDS = flags.DEFINE_integer('seconds', 6, 'Of sound to encode and decode.')
_DTYPE = flags.DEFINE_string('dtype', 'float32', 'Or bfloat16.')
ROUNDS = 3


def seconds(fn, *args):
  jax.block_until_ready(fn(*args))
  times = []
  for _ in range(ROUNDS):
    began = time.perf_counter()
    jax.block_until_ready(fn(*args))
    times.append(time.perf_counter() - began)
  return min(times)


def matmul_rate():
  square = jax.random.normal(jax.random.key(2), (2048, 2048))
  return 2 * 2048**3 / seconds(jax.jit(lambda a: a @ a), square)


def main(_):
  config = config_lib.load('jukebox_vqvae_music')
  config.dtype = _DTYPE.value
  levels = jukebox_vqvae.Levels(config)
  model = jukebox_vqvae.build(config)
  state = jax.jit(model.init)(jax.random.key(0), None)
  rate = matmul_rate()
  print(f'{jax.devices()[0].device_kind}, {config.dtype}; a large product of '
        f'matrices: {rate / 1e9:.0f} GFLOP/s\n')

  hop = levels.hops[-1]
  length = _SECONDS.value * config.data.sample_rate // hop * hop
  audio = 0.1 * jax.random.normal(jax.random.key(1), (1, length))
  spent = length / config.data.sample_rate
  print('| level | encode, x real time | of the floor | decode, x real time | '
        'of the floor |\n|---|---|---|---|---|')
  for l, name in enumerate(levels.names):
    def encode(state, audio, l=l, name=name):
      z = levels.encoders[l].apply(
          {'params': state.ema[name]['encoder']}, audio[..., None])
      return quantize.nearest(z, state.vars[name].codes)

    def decode(state, codes, name=name):
      return jukebox_vqvae.decode(levels, state, {name: codes})

    codes = jax.jit(encode)(state, audio)
    cells = []
    for fn, given in (encode, audio), (decode, codes):
      compiled = jax.jit(fn).lower(state, given).compile()
      took = seconds(compiled, state, given)
      floor = compiled.cost_analysis()['flops'] / rate
      cells += [f'{spent / took:.2f}', f'{took / floor:.1f}']
    print(f'| {l} (hop {levels.hops[l]}) | ' + ' | '.join(cells) + ' |')

  batch = {'audio': 0.1 * jax.random.normal(
      jax.random.key(3), (_BATCH.value, _SAMPLES.value)),
      'mask': jnp.ones(_BATCH.value)}
  config.model.samples = _SAMPLES.value
  print('\n| training step | seconds | of the floor | temporaries, MB |\n'
        '|---|---|---|---|')
  for name, changes in {
      'with the spectral loss': {},
      'without it': {'spectral_weight': 0.0},
      'with it, rematerialised': {'remat': True}}.items():
    varied = config.copy_and_resolve_references()
    varied.model.update(changes)
    step = jax.jit(jukebox_vqvae.build(varied).train_step, static_argnums=3)
    compiled = step.lower(state, batch, jax.random.key(0), 0).compile()
    took = seconds(compiled, state, batch, jax.random.key(0))
    floor = compiled.cost_analysis()['flops'] / rate
    memory = compiled.memory_analysis().temp_size_in_bytes / 1e6
    print(f'| {name} | {took:.2f} | {took / floor:.1f} | {memory:.0f} |')


if __name__ == '__main__':
  app.run(main)
