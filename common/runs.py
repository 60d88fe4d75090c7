"""A run: from a config, or from its workdir alone.

  config.json   the config, resolved
  batch.json    shapes and dtypes of a batch, so that the state's shapes are
                known where the data is not
  checkpoints/  see common/checkpoint.py
"""

import contextlib
import dataclasses
import importlib
import json
import math
import pathlib
import types
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from common import checkpoint, errors, files, sharding
from common import config as config_lib
from common import model as model_lib


@dataclasses.dataclass(frozen=True)
class Run:
  config: Any
  module: types.ModuleType
  model: model_lib.Model
  mesh: jax.sharding.Mesh
  state: model_lib.TrainState
  step: int


def build(config) -> tuple[types.ModuleType, model_lib.Model]:
  """The model file that `config.module` names, and its Model."""
  try:
    module = importlib.import_module(config.module)
  except (ModuleNotFoundError, ValueError) as e:
    if getattr(e, 'name', config.module) not in (
        config.module, config.module.rpartition('.')[0]):
      raise  # Something that the model file imports is missing.
    raise errors.UserError(
        f'config.module={config.module!r} cannot be imported ({e}); give the '
        "import path of a model file, like 'symbolic_jax.lstm'") from None
  return module, module.build(config)


def make_key(config, mesh, purpose: str) -> jax.Array:
  """The run's key for one purpose, on every device."""
  number = ('init', 'train', 'eval', 'sample', 'generate').index(purpose)
  return jax.jit(
      lambda: jax.random.fold_in(jax.random.key(config.seed), number),
      out_shardings=sharding.replicated(mesh))()


def open_checkpoints(config, workdir) -> checkpoint.Checkpoints:
  return checkpoint.Checkpoints(workdir, config.checkpoint.keep_last,
                                config.checkpoint.keep_every)


def spec_of(batch, batch_size: int):
  """ShapeDtypeStructs of the global batch that these host rows belong to."""
  return {k: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]),
                                  jax.dtypes.canonicalize_dtype(x.dtype))
          for k, x in batch.items()}


def write_spec(workdir: pathlib.Path, spec) -> None:
  if jax.process_index():
    return
  files.write(workdir / 'batch.json', json.dumps(
      {k: [list(x.shape), str(x.dtype)] for k, x in spec.items()}) + '\n')


def load(workdir, step: int | str | None = None,
         changes: Sequence[str] = ()) -> Run:
  """Opens a finished or interrupted run, on whatever devices are here.

  `step` is a number, or 'best'; None for the newest. `changes` are settings
  that are not as in training: ['model.eval_length=1024'].
  """
  workdir = pathlib.Path(workdir)
  config = config_lib.read(workdir / 'config.json')
  config_lib.change(config, changes)
  module, model = build(config)
  mesh = sharding.make_mesh(
      fsdp=math.gcd(config.mesh.fsdp, jax.device_count()))
  if not (workdir / 'batch.json').exists():
    raise _no_checkpoint(workdir)
  spec = {k: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
          for k, (shape, dtype) in json.loads(
              (workdir / 'batch.json').read_text()).items()}
  shapes = jax.eval_shape(model.init, jax.random.key(0), spec)
  checkpoints = open_checkpoints(config, workdir)
  if step == 'best':
    step = checkpoints.best()
    if step is None:
      raise errors.UserError(
          f'{workdir} keeps no best step; set config.checkpoint.best for its '
          'training, or leave --step out')
  with errors.about(f'--set={",".join(changes)}') if changes else (
      contextlib.nullcontext()):
    found = checkpoints.restore(
        checkpoint.abstract(shapes, sharding.infer(shapes, mesh)), step)
  checkpoints.close()
  if not found:
    raise _no_checkpoint(workdir)
  return Run(config, module, model, mesh, found[1], found[0])


def _no_checkpoint(workdir):
  return errors.UserError(f'{workdir} holds no checkpoint yet; let '
                          'common.train reach its first save')


def gathered(run: Run) -> model_lib.TrainState:
  """The state without its optimiser, whole on every device: for sampling."""
  return jax.jit(lambda state: state.replace(opt={}),
                 out_shardings=sharding.replicated(run.mesh))(run.state)
