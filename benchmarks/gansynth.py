"""GANSynth of the paper's size: a training step and sampling, by resolution.

  python benchmarks/gansynth.py
  python benchmarks/gansynth.py --blocks=1,4,7 --rounds=10 --dtype=bfloat16

For each number of blocks, in its stable stage: the step (one update of both
networks, 8 rows), how much of it the spectral transform of the reals is, and
sound from latents (all blocks' networks at that stage's progress: what the
sampler does) for 1 row and for 64. The least of all rounds; compiling is left
out. The last columns set the step beside what the device could do at best:
multiplications and additions counted by XLA, against those of one large matmul
measured in the same process.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from common import config as config_lib
from common.spectral import representations
from gansynth_jax import gansynth

_BLOCKS = flags.DEFINE_list('blocks', [str(b) for b in range(1, 8)],
                            'Numbers of blocks.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'How often.')
_ROWS = flags.DEFINE_integer('rows', 8, 'Rows of a training step.')
_SOUNDS = flags.DEFINE_list('sounds', ['1', '64'], 'Rows of a sampler.')
_DTYPE = flags.DEFINE_string('dtype', 'float32', 'Of the convolutions.')


def least(fn, *args) -> float:
  """Seconds of a call, compiled before."""
  jax.block_until_ready(fn(*args))
  found = []
  for _ in range(_ROUNDS.value):
    began = time.perf_counter()
    jax.block_until_ready(fn(*args))
    found.append(time.perf_counter() - began)
  return min(found)


def matmul_rate(dtype, n=2048) -> float:
  """Multiplications and additions a second of a large matmul."""
  x = jnp.ones((n, n), dtype)
  return 2 * n**3 / least(jax.jit(lambda x: x @ x), x)


def main(argv):
  del argv
  config = config_lib.load('gansynth_nsynth')
  config.dtype, config.batch_size = _DTYPE.value, _ROWS.value
  model, c = gansynth.build(config), config.model
  rng = np.random.default_rng(0)
  batch = {
      'audio': rng.uniform(-1, 1, (_ROWS.value, c.samples)).astype(np.float32),
      'label': rng.integers(0, 61, _ROWS.value).astype(np.int32),
      'mask': np.ones(_ROWS.value, np.float32)}
  batch = jax.device_put(batch)
  key = jax.random.key(0)
  state = jax.jit(model.init)(key, batch)
  encode = jax.jit(representations.make(
      c.representation, num_samples=c.samples,
      sample_rate=config.data.sample_rate, frames=128, bins=1024).encode)
  spectral = least(encode, batch['audio'])
  rate = matmul_rate(_DTYPE.value)
  seconds = c.samples / config.data.sample_rate
  print(f'{jax.devices()[0].device_kind}, {_DTYPE.value}; one matmul: '
        f'{rate / 1e9:.0f} GFLOP/s; transform of {_ROWS.value} sounds: '
        f'{1e3 * spectral:.1f} ms')
  sounds = [int(n) for n in _SOUNDS.value]
  print('| blocks | step, s | transform, % of it | GFLOP | of the matmul, % |'
        + ''.join(f' {n} sound{"s" * (n > 1)}, s | s of audio a s |'
                  for n in sounds))
  for blocks in map(int, _BLOCKS.value):
    stage = 2 * (blocks - 1)
    here = state.replace(
        step=jnp.int32(model.stages[stage].start + 1))
    step = jax.jit(
        lambda s, b, k, stage=stage: model.train_step(s, b, k, stage)
    ).lower(here, batch, key).compile()
    flops = step.cost_analysis()['flops']
    took = least(step, here, batch, key)
    row = [f'{took:.3g}', f'{100 * spectral / took:.2g}', f'{flops / 1e9:.0f}',
           f'{100 * flops / took / rate:.0f}']
    for n in sounds:
      rows = gansynth.prompt(config, n)
      each = least(model.sample, here, rows, key)
      row += [f'{each:.3g}', f'{n * seconds / each:.3g}']
    print(f'| {blocks} | ' + ' | '.join(row) + ' |', flush=True)


if __name__ == '__main__':
  app.run(main)
