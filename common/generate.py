"""Samples from a run: wav, mid and png files. Needs no training data.

  python -m common.generate --workdir=runs/lstm --count=8 --out=samples
  python -m common.generate --workdir=runs/lstm --prompts
  python -m common.generate --workdir=runs/lstm \\
      --prompt=primer=song.mid --prompt=temperature=0.9

  python -m common.generate --workdir=runs/lstm --count=4 --n_best=8

The last draws eight for each of the four and keeps the likeliest, per token.

Notes are written as mid and, played, as wav: by FluidSynth if
$OSTINATO_SOUNDFONT names a sound font, else by our own synthesiser.

A model says which prompts it takes; --prompts lists them. With --from_eval the
conditions are those of the first rows of the evaluation split.
"""

import collections
import inspect
import pathlib
import re
import typing

from absl import flags

from common import app, errors

_WORKDIR = app.define_workdir()
_DATA_DIR = app.define_data_dir()
app.define_distributed()
_COUNT = flags.DEFINE_integer('count', 4, 'How many samples.', lower_bound=1)
_N_BEST = flags.DEFINE_integer(
    'n_best', 1, 'Draw so many for each sample and keep the one with the best '
    'score by the model itself.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Another seed, other samples.',
                             lower_bound=0, upper_bound=2**32 - 1)
_STEP = app.define_step()
_OUT = flags.DEFINE_string('out', None, 'Folder. Default: WORKDIR/generated.')
_PROMPT = flags.DEFINE_multi_string(
    'prompt', [], 'NAME=VALUE, as often as needed; see --prompts.')
_PROMPTS = flags.DEFINE_bool(
    'prompts', False, 'List the prompts that this model takes, and stop.')
_FROM_EVAL = flags.DEFINE_bool(
    'from_eval', False, 'Take the conditions from the evaluation split.')


_AS_CONFIGURED = '  (as config.model has it)'


def main(argv):
  del argv
  import jax

  from common import audio, runs, sharding, writer
  from common import config as config_lib

  workdir = pathlib.Path(_WORKDIR.value)
  if _PROMPTS.value:
    config = config_lib.read(workdir / 'config.json')
    print(describe(runs.build(config)[0]))
    return
  run = runs.load(workdir, _STEP.value)
  if run.model.sample is None:
    raise errors.UserError(f'{run.config.module} generates nothing; give the '
                           '--workdir of a model that does')
  if _FROM_EVAL.value:
    if _PROMPT.value:
      raise errors.UserError('--from_eval takes all conditions from the data; '
                             'drop it, or drop --prompt')
    batch = _eval_rows(run, _COUNT.value)
  else:
    batch = prompt(run.module, run.config, _COUNT.value, _PROMPT.value)
  errors.require('beams' not in batch or _N_BEST.value == 1,
                 f'--n_best={_N_BEST.value} with --prompt=beams',
                 'one or the other: a search draws nothing')
  host = {k: v for k, v in batch.items() if k.startswith('host_')}
  batch = host | sharding.place(
      repeated({k: v for k, v in batch.items() if k not in host},
               _N_BEST.value), sharding.replicated(run.mesh))
  key = runs.make_key(run.config, run.mesh, 'generate')
  arrays = dict(run.model.sample(
      runs.gathered(run), batch, jax.random.fold_in(key, _SEED.value)))
  stream = arrays.pop('stream', None)
  if _N_BEST.value > 1 and 'score' not in arrays:
    raise errors.UserError(f'--n_best={_N_BEST.value}: {run.config.module} '
                           'does not score its samples; leave it out')
  arrays = best_of(sharding.fetch(arrays), _N_BEST.value)
  out = pathlib.Path(_OUT.value or workdir / 'generated')
  if jax.process_index() == 0:
    best = f'_best-of-{_N_BEST.value}' * (_N_BEST.value > 1)
    stem = f'{run.step:06d}_seed{_SEED.value}{best}{label(_PROMPT.value)}'
    if stream is None:
      writer.write_samples(out, stem, arrays, run.config.data, play=True)
      print(f'{_COUNT.value} samples of step {run.step}: {out}/{stem}_*')
      if best:
        print('score  ' + '  '.join(f'{x:.4f}' for x in arrays['score']))
    else:
      out.mkdir(parents=True, exist_ok=True)
      audio.write_blocks(out / f'{stem}.wav', stream,
                         run.config.data.sample_rate)
      print(f'one sound of step {run.step}: {out}/{stem}.wav')
  elif stream is not None:
    collections.deque(stream, maxlen=0)  # All compute what one writes.


def repeated(batch, times: int):
  """Each row so many times, each a sample of its own."""
  import numpy as np
  if times == 1 or not batch:
    return batch
  rows = {k: np.repeat(x, times, axis=0) for k, x in batch.items()}
  return {**rows, 'index': np.arange(len(rows['index']), dtype=np.int32)}


def best_of(arrays, times: int):
  """Of each row that was repeated the one with the highest score."""
  import numpy as np
  if times == 1:
    return arrays
  score = arrays['score'].reshape(-1, times)
  rows = np.arange(len(score)) * times + score.argmax(1)
  return {k: [x[i] for i in rows] if isinstance(x, list) else x[rows]
          for k, x in arrays.items()}


def prompt(module, config, count: int, given: list[str]):
  """['temperature=0.9'] -> the batch that the model's `prompt` makes of it."""
  known = _options(module)
  options = {}
  for item in given:
    name, equals, value = item.partition('=')
    if not equals or name not in known:
      raise errors.UserError(
          f'--prompt={item}: this model has no prompt {name!r}'
          f'{errors.suggest(name, known)}' if equals else
          f'--prompt={item} is not NAME=VALUE')
    options[name] = _cast(item, value, known[name])
  if hasattr(module, 'prompt'):
    return module.prompt(config, count, **options)
  return empty(count)


def label(given: list[str]) -> str:
  """['midi=a/song.mid'] -> '_midi-song.mid': no prompt writes over another."""
  parts = (item.partition('=') for item in given)
  return ''.join('_' + re.sub(r'[^\w.-]+', '-', (
      f'{name}-{pathlib.PurePath(value).name}')) for name, _, value in parts)


def empty(count: int):
  """A batch of `count` rows without conditions."""
  import numpy as np
  return {'index': np.arange(count, dtype=np.int32),
          'mask': np.ones(count, np.float32)}


def describe(module) -> str:
  options = _options(module)
  if not options:
    return f'{module.__name__} takes no prompts'
  return '\n'.join([
      inspect.getdoc(module.prompt) or '',
      *(f'  --prompt={name}={o.default!r}' + _AS_CONFIGURED * (
          o.default is None) for name, o in options.items())])


def _options(module) -> dict[str, inspect.Parameter]:
  if not hasattr(module, 'prompt'):
    return {}
  return {name: p for name, p in inspect.signature(
      module.prompt).parameters.items() if p.kind == p.KEYWORD_ONLY}


def _cast(item: str, value: str, option: inspect.Parameter):
  """`value` as the type of the option's default, or of `float | None`."""
  if option.default is None:
    kind, like = typing.get_args(option.annotation)[0], ''
  else:
    kind, like = type(option.default), f', like {option.default!r}'
  try:
    if kind is bool:
      return {'true': True, '1': True, 'false': False, '0': False}[
          value.lower()]
    return kind(value)
  except (KeyError, ValueError):
    raise errors.UserError(f'--prompt={item}: {value!r} is not '
                           f'{kind.__name__}{like}') from None


def _eval_rows(run, count: int):
  from common.data import builders, pipeline
  source = builders.open_split(run.config.data.name, run.config.data.eval,
                               _DATA_DIR.value)
  return next(pipeline.evaluate(
      source, pipeline.segments_of(run.module, run.config), batch_size=count,
      process=(0, 1)))


if __name__ == '__main__':
  app.run(main)
