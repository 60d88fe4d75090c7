"""Each config's values, sizes and shapes, as text files under goldens/.

After a change that is meant:  OSTINATO_UPDATE_GOLDENS=1 pytest
tests/test_configs.py  and read the diff.
"""

import os
import pathlib

import jax
import numpy as np
import pytest

from common import config as config_lib
from common import errors, generate, runs
from common.data import builders

GOLDENS = pathlib.Path(__file__).parent / 'goldens'
NAMES = config_lib.names()
SIZES = ('paper', 'demo', 'tiny')


def describe(name: str, data_dir: str) -> str:
  module = config_lib.module(name)
  tiny = module.get_config('tiny')
  # The synthetic sets have the schema of the real ones.
  example = builders.open_split(tiny.data.name, 'train', data_dir)[0]
  out, paper = [], config_lib.flatten(module.get_config())
  for size in SIZES:
    try:
      config = module.get_config(size)
    except errors.UserError:
      assert size == 'demo', f'{name} has no size {size}'
      continue  # Not all have one.
    flat = config_lib.flatten(config)
    out.append(f'[{size}]')
    out += [f'{k}: {v!r}' for k, v in flat.items()
            if size == 'paper' or v != paper.get(k)]
    out += shapes(config, example)
    out.append('')
  return '\n'.join(out)


def shapes(config, example) -> list[str]:
  """Parameters and outputs, by eval_shape: no array is ever made."""
  file, model = runs.build(config)
  row = file.preprocess(config)(example, np.random.default_rng(0))
  batch = {k: np.asarray(v)[None] for k, v in row.items()}
  spec = runs.spec_of({**batch, 'mask': np.ones(1, np.float32)},
                      config.batch_size)
  key = jax.random.key(0)
  state = jax.eval_shape(model.init, key, spec)
  out = [f'> batch {k}: {x.dtype}{list(x.shape)}' for k, x in spec.items()]
  for part, tree in state.params.items():
    count = sum(x.size for x in jax.tree.leaves(tree))
    out.append(f'> parameters {part}: {count:,}')
  _, metrics = jax.eval_shape(
      lambda s, b, k: model.train_step(s, b, k, 0), state, spec, key)
  out.append(f'> metrics: {", ".join(sorted(metrics))}')
  if model.sample is None:
    return [*out, '> sample: none']
  # A codec makes sounds of those it is given.
  given = (spec if hasattr(file, 'codec')
           else generate.prompt(file, config, 2, []))
  try:
    sampled = jax.eval_shape(model.sample, state, given, key)
  except jax.errors.TracerArrayConversionError:
    return [*out, '> sample: made on the host']
  out += [f'> sample {k}: {x.dtype}{list(x.shape)}' for k, x in sampled.items()]
  return out


@pytest.mark.parametrize('name', NAMES)
def test_config_is_as_recorded(name, data_dir):
  text, path = describe(name, data_dir), GOLDENS / f'{name}.txt'
  if os.environ.get('OSTINATO_UPDATE_GOLDENS'):
    path.write_text(text)
  assert path.exists(), f'no golden for {name}: see the docstring of this file'
  assert text == path.read_text()


def test_no_golden_is_left_over():
  assert sorted(p.stem for p in GOLDENS.glob('*.txt')) == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_ablations_change_settings_that_exist_and_each_builds(name):
  module = config_lib.module(name)
  for label, changes in module.ablations().items():
    config = module.get_config('tiny')
    flat = config_lib.flatten(config)
    for k, v in changes.items():
      assert k in flat, f'{label}: {k}'
      assert config_lib.flatten(module.get_config())[k] != v, f'{label}: {k}'
    config.update_from_flattened_dict(changes)
    runs.build(config)


@pytest.mark.parametrize('name', NAMES)
def test_docstrings_carry_the_command(name):
  assert f'--config={name}' in config_lib.module(name).__doc__


@pytest.mark.parametrize('name', NAMES)
def test_wrong_sizes_are_refused(name):
  with pytest.raises(errors.UserError, match=r'known|did you mean'):
    config_lib.load(f'{name}:nope')
