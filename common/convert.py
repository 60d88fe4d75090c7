"""A run out of released weights: what common.train leaves, without training.

  python -m common.convert --config=gansynth_nsynth \\
      --weights=acoustic_only/stage_00012/model.ckpt-11000000 \\
      --workdir=runs/gansynth_released
  python -m common.generate --workdir=runs/gansynth_released

The model file says which array of ours is which of theirs (`official`). Every
array of ours has to be there, in the right shape; what is in the file and has
no place in ours is listed. Neither TensorFlow nor PyTorch is needed, and no
code in the file is run.
"""

import pathlib

import numpy as np
from absl import flags

from common import app, errors

_WORKDIR = app.define_workdir()
_WEIGHTS = flags.DEFINE_string(
    'weights', None, 'The released checkpoint. PyTorch: the file. TensorFlow: '
    'its name without .index or .data-...', required=True)
app.define_config()


def main(argv):
  del argv
  config = flags.FLAGS.config
  if config is None:
    raise errors.UserError('--config is missing: give a name like '
                           'gansynth_nsynth, or a path (see --help)')
  unused = convert(config, _WEIGHTS.value, pathlib.Path(_WORKDIR.value))
  for name, shape in unused.items():
    print(f'not used: {name} {list(shape)}')
  print(f'{_WEIGHTS.value} is now step {config.steps} of {_WORKDIR.value}; '
        f'{len(unused)} of its arrays have no place in {config.module}')


def convert(config, weights: str, workdir: pathlib.Path) -> dict[str, tuple]:
  """Writes the workdir; returns names and shapes of what found no place."""
  import flax
  import jax
  import jax.numpy as jnp

  from common import config as config_lib
  from common import runs

  module, model = runs.build(config)
  if not hasattr(module, 'official'):
    raise errors.UserError(f'{config.module} knows no released weights')
  if (workdir / 'config.json').exists():
    raise errors.UserError(f'--workdir={workdir} holds a run already; choose '
                           'a new one')
  released = open_weights(weights)
  names, batch = module.official(config)
  sources = _sources(names, released.shapes)
  key = jax.random.fold_in(jax.random.key(config.seed), 0)
  # Compiled only for what fits.
  _check(sources, _flat(jax.eval_shape(model.init, key, batch)),
         released.shapes, weights)
  state = jax.jit(model.init)(key, batch)
  arrays = _flat(state)
  for ours, (theirs, transform) in sources.items():
    arrays[ours] = jnp.asarray(transform(released.read(theirs)),
                               arrays[ours].dtype)
  parts = flax.serialization.from_state_dict(
      _parts(state), flax.traverse_util.unflatten_dict(arrays, sep='/'))
  state = state.replace(step=jnp.asarray(config.steps, jnp.int32), **parts)

  workdir.mkdir(parents=True, exist_ok=True)
  checkpoints = runs.open_checkpoints(config, workdir)
  checkpoints.save(config.steps, state, {
      'stage': len(model.stages) - 1, 'batches': 0, 'examples': None})
  checkpoints.wait()
  checkpoints.close()
  runs.write_spec(workdir, batch)
  config_lib.write(config, workdir / 'config.json')
  used = {theirs for theirs, _ in sources.values()}
  return {name: shape for name, shape in released.shapes.items()
          if name not in used}


def _parts(state):
  return {'params': state.params, 'vars': state.vars, 'ema': state.ema}


def _flat(state):
  """Arrays by name, also those of a Codebook: 'vars/top/codes'."""
  import flax
  return flax.traverse_util.flatten_dict(
      flax.serialization.to_state_dict(_parts(state)), keep_empty_nodes=True,
      sep='/')


def open_weights(path: str):
  """A checkpoint with `shapes` by name and `read(name)`."""
  from common import tf_checkpoint, torch_checkpoint
  if pathlib.Path(path).is_file():
    return torch_checkpoint.Checkpoint(path)
  if not pathlib.Path(f'{path}.index').is_file():
    raise errors.UserError(
        f'--weights={path}: there is no such file of PyTorch, and no '
        f'{path}.index of TensorFlow, of which give the name without .index')
  return tf_checkpoint.Checkpoint(path)  # The common part of several names.


def _sources(names, shapes):
  """{ours: (theirs, transform)}, with theirs as the file has them.

  In a file of PyTorch all may be below one key: {'model': weights, 'step': ..}.
  """
  pairs = {ours: theirs if isinstance(theirs, tuple) else (theirs, np.asarray)
           for ours, theirs in names.items()}
  theirs = sorted({theirs for theirs, _ in pairs.values()})
  keys = ['', *(name.removesuffix(theirs[0]) for name in shapes
                if name.endswith(f'/{theirs[0]}'))]
  key = max(keys, key=lambda k: sum(k + name in shapes for name in theirs))
  return {ours: (key + theirs, transform)
          for ours, (theirs, transform) in pairs.items()}


def _check(sources, arrays, shapes, weights) -> None:
  wrong = []
  for ours, (theirs, transform) in sources.items():
    if theirs not in shapes:
      wrong.append(f'{theirs} is missing')
    elif _shape(transform, shapes[theirs]) != arrays[ours].shape:
      wrong.append(f'{theirs} is {list(shapes[theirs])}, {ours} '
                   f'{list(arrays[ours].shape)}')
  if wrong:
    used = {theirs for theirs, _ in sources.values()}
    extra = [n for n in shapes if n not in used]
    raise errors.UserError(
        f'{weights} does not fit this config: {"; ".join(wrong)}. '
        f'Not used: {", ".join(extra) or "nothing"}. Choose the config that '
        'the weights were trained with')


def _shape(transform, shape):
  """Of the transformed array; None where it has another number of axes."""
  try:
    return transform(np.broadcast_to(np.float32(0.0), shape)).shape
  except ValueError:
    return None


if __name__ == '__main__':
  app.run(main)
