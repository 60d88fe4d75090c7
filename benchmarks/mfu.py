"""How much of the device a language model's training step uses, and the longest
sequence that fits.

  python benchmarks/mfu.py --configs=music_transformer_maestro
  python benchmarks/mfu.py --configs=musenet_maestro:1b --peak=989
  python benchmarks/mfu.py --configs=musenet_maestro:1b --longest=262144
  python benchmarks/mfu.py --configs=musenet_maestro:1b --set=batch_size=8 \\
      --set=model.accumulate=1 --set=model.attention=fused

A step is the trainer's own, with optimiser and donated state, on one device,
its batches synthetic. Its products: 6 for each parameter that multiplies a
token's vector, and those of attention over half of all pairs, tables
included; what is computed twice to save memory counts once. They are
told as a share of a large product of matrices, measured here in the config's
dtype, and of --peak, what the maker says. For the longest sequence one row is
compiled at twice the length until it needs more memory than --memory (the
device's own if it tells), and the last that fits is run.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from common import config as config_lib
from common import errors, runs, sharding, trainer
from common.data import synthetic

_CONFIGS = flags.DEFINE_list('configs', None, 'Language models.', required=True)
_SET = flags.DEFINE_multi_string('set', [], 'NAME=VALUE of a setting.')
_PEAK = flags.DEFINE_float('peak', None, 'TFLOP/s that the maker tells.')
_LONGEST = flags.DEFINE_integer(
    'longest', 0, 'Looks for the longest sequence, up to so many tokens.')
_MEMORY = flags.DEFINE_float('memory', None, 'GiB of the device.')
_STEPS = flags.DEFINE_integer('steps', 5, 'Of which the fastest counts.')


def product_rate(dtype) -> float:
  """FLOP/s of a large product."""
  x = jnp.ones((8192, 8192) if jax.default_backend() == 'gpu' else (2048, 2048),
               dtype)
  product = jax.jit(lambda a, b: a @ b)
  taken = []
  for _ in range(6):
    began = time.perf_counter()
    jax.block_until_ready(product(x, x))
    taken.append(time.perf_counter() - began)
  return 2 * len(x) ** 3 / min(taken)


def flops(config, params) -> float:
  """Of a training step; a token that a table is looked up for costs nothing."""
  m, rows = config.model, config.batch_size
  flat = {jax.tree_util.keystr(k): x
          for k, x in jax.tree_util.tree_leaves_with_path(params)}
  looked_up = ("['tokens']", "['places']", "['voices']", "['added_",
               "['distance", "['difference")
  multiplied = sum(x.size for k, x in flat.items()
                   if not any(name in k for name in looked_up))
  queries, values = m.get('attention_width', m.width), m.width
  pairs = m.length**2 / 2
  reach = min(m.get('distances', 0), m.length)
  by_distance = reach * (m.length - reach / 2)
  if m.get('pitch_and_time'):  # In the first layer.
    by_distance += m.length / m.layers * sum(
        x.shape[-2] for k, x in flat.items() if "['difference" in k)
  forward = rows * (
      2 * multiplied * m.length
      + 2 * m.layers * (pairs * (queries + values) + by_distance * queries))
  return 3 * forward


def prepare(config):
  """The trainer's step, compiled, and makers of its arguments."""
  module, model = runs.build(config)
  mesh = sharding.make_mesh(data=1)
  example = (synthetic.chorale if config.model.tokens == 'chorales'
             else synthetic.performance)
  rng = np.random.default_rng(0)
  make = module.preprocess(config)
  stored = lambda i: {k: x.encode() if isinstance(x, str) else x
                      for k, x in example('train', i).items()}
  rows = [make(stored(i), rng) for i in range(config.batch_size)]
  batch = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
  batch['mask'] = np.ones(len(rows), np.float32)
  spec = runs.spec_of(batch, config.batch_size)
  key = runs.make_key(config, mesh, 'train')
  shapes = jax.eval_shape(model.init, key, spec)
  shardings = sharding.infer(shapes, mesh)
  lowered = trainer.jit_step(model, mesh, shardings).lower(
      shapes, spec, key, stage=0)
  place = lambda: sharding.place(batch, sharding.by_row(mesh))
  init = lambda: jax.jit(model.init, out_shardings=shardings)(key, place())
  return lowered.compile(), shapes, init, place, key


def needs(compiled) -> int:
  """Bytes on the device; the state that goes in is the one that comes out."""
  a = compiled.memory_analysis()
  return (a.argument_size_in_bytes + a.output_size_in_bytes
          - a.alias_size_in_bytes + a.temp_size_in_bytes)


def seconds(compiled, init, place, key) -> float:
  state, batch, taken = init(), place(), []
  for _ in range(1 + _STEPS.value):
    began = time.perf_counter()
    state, metrics = compiled(state, batch, key)
    jax.block_until_ready(metrics)
    taken.append(time.perf_counter() - began)
  assert np.isfinite(float(metrics['loss/nll'])), metrics
  return min(taken[1:])


def report(config, name, compiled, shapes, *start):
  taken, rate = seconds(compiled, *start), product_rate(config.dtype)
  work = flops(config, shapes.params)
  count = sum(x.size for x in jax.tree.leaves(shapes.params))
  tokens = config.batch_size * config.model.length
  of_peak = '' if not _PEAK.value else (
      f', {work / taken / _PEAK.value / 1e12:.1%} of {_PEAK.value:g} TFLOP/s')
  print(f'{name}  {count / 1e6:.1f} M parameters, {config.batch_size} x '
        f'{config.model.length} tokens: {taken * 1e3:.1f} ms a step, '
        f'{tokens / taken:.0f} tokens/s, {needs(compiled) / 2**30:.2f} GiB, '
        f'{work / taken / 1e12:.3f} TFLOP/s, {work / taken / rate:.1%} of a '
        f'large product ({rate / 1e12:.3f}){of_peak}', flush=True)


def memory() -> float:
  """Bytes that may be used."""
  told = jax.devices()[0].memory_stats() or {}
  if _MEMORY.value or 'bytes_limit' not in told:
    return (_MEMORY.value or 16.0) * 2**30
  return told['bytes_limit']


def longest(config, name):
  errors.require(_LONGEST.value >= config.model.length,
                 f'--longest={_LONGEST.value}',
                 f'{config.model.length} or more')
  config.batch_size, config.model.accumulate = 1, 1
  if config.model.get('mixup'):
    config.model.mixup = 0.0  # It wants two rows.
  best = None
  while config.model.length <= _LONGEST.value:
    parts = prepare(config)
    if needs(parts[0]) > memory():
      break
    best = config.copy_and_resolve_references(), parts
    config.model.length *= 2
  if best is None:
    print(f'{name}  one row of {config.model.length} tokens needs '
          f'{needs(parts[0]) / 2**30:.1f} GiB: too much', flush=True)
  else:
    report(best[0], f'{name}, the longest', *best[1])


def main(_):
  for name in _CONFIGS.value:
    config = config_lib.load(name)
    config_lib.change(config, _SET.value)
    errors.require(
        config.module.endswith(('.music_transformer', '.musenet'))
        and config.model.get('attention', 'dense') in ('dense', 'fused')
        and not config.model.get('local'), f'--configs={name}',
        'a decoder alone that sees all before: only its products are counted')
    if _LONGEST.value:
      longest(config, name)
    else:
      report(config, name, *prepare(config))


if __name__ == '__main__':
  app.run(main)
