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

from absl import flags

from common import app, errors

_WORKDIR = app.define_workdir()
_WEIGHTS = flags.DEFINE_string(
    'weights', None, 'The released checkpoint. TensorFlow: its name without '
    '.index or .data-...', required=True)
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
  from common import runs, tf_checkpoint

  module, model = runs.build(config)
  if not hasattr(module, 'official'):
    raise errors.UserError(f'{config.module} knows no released weights')
  if (workdir / 'config.json').exists():
    raise errors.UserError(f'--workdir={workdir} holds a run already; choose '
                           'a new one')
  released = tf_checkpoint.Checkpoint(weights)
  names, batch = module.official(config)
  key = jax.random.fold_in(jax.random.key(config.seed), 0)
  state = jax.jit(model.init)(key, batch)
  state = state.replace(step=jnp.asarray(config.steps, jnp.int32))
  arrays = flax.traverse_util.flatten_dict(
      {'params': state.params, 'vars': state.vars, 'ema': state.ema}, sep='/')
  _check(names, arrays, released.shapes, weights)
  for ours, theirs in names.items():
    arrays[ours] = jnp.asarray(released.read(theirs), arrays[ours].dtype)
  state = state.replace(**flax.traverse_util.unflatten_dict(arrays, sep='/'))

  workdir.mkdir(parents=True, exist_ok=True)
  checkpoints = runs.open_checkpoints(config, workdir)
  checkpoints.save(config.steps, state, {
      'stage': len(model.stages) - 1, 'batches': 0, 'examples': None})
  checkpoints.wait()
  checkpoints.close()
  runs.write_spec(workdir, batch)
  config_lib.write(config, workdir / 'config.json')
  return {name: shape for name, shape in released.shapes.items()
          if name not in names.values()}


def _check(names, arrays, shapes, weights) -> None:
  wrong = [f'{theirs} is missing' if theirs not in shapes else
           f'{theirs} is {list(shapes[theirs])}, {ours} '
           f'{list(arrays[ours].shape)}'
           for ours, theirs in names.items()
           if shapes.get(theirs) != arrays[ours].shape]
  if wrong:
    extra = [n for n in shapes if n not in names.values()]
    raise errors.UserError(
        f'{weights} does not fit this config: {"; ".join(wrong)}. '
        f'Not used: {", ".join(extra) or "nothing"}. Choose the config that '
        'the weights were trained with')


if __name__ == '__main__':
  app.run(main)
