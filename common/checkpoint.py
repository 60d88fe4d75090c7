"""Saving and restoring a run. The only file that knows Orbax."""

import logging as python_logging
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from common import errors


class Checkpoints:
  """State and data position of a run: one folder a step, saved asynchronously.

  A folder appears under its final name only when it is complete: a run that
  is killed while it saves loses that save and nothing else.
  """

  def __init__(self, workdir, keep_last: int = 2, keep_every: int = 0):
    self.folder = pathlib.Path(workdir).absolute() / 'checkpoints'
    logging.get_absl_logger().addFilter(_is_news)
    python_logging.getLogger('asyncio').addFilter(_is_news)
    self._best = _Best()
    keep = [checkpoint_managers.LatestN(keep_last), self._best]
    if keep_every:
      keep.append(checkpoint_managers.EveryNSteps(keep_every))
    self._manager = ocp.CheckpointManager(
        self.folder,
        item_handlers={'state': ocp.StandardCheckpointHandler(),
                       'position': ocp.JsonCheckpointHandler()},
        options=ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                keep)))

  def steps(self) -> list[int]:
    return sorted(self._manager.all_steps())

  def save(self, step: int, state, position: dict) -> None:
    """Starts a save; an earlier one that failed is reported here.

    The step that position['best'] names is kept as long as it does.
    """
    self._best.step = position.get('best', {}).get('step')
    self._guarded(step, lambda: self._manager.save(
        step, args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            position=ocp.args.JsonSave(position)), force=True))

  def best(self) -> int | None:
    """The best step as of the newest readable one; None if none was told."""
    for step in self.steps()[::-1]:
      try:
        position = self._manager.restore(step, args=ocp.args.Composite(
            position=ocp.args.JsonRestore()))['position']
      except Exception:  # Torn, as in `restore`.
        continue
      return position.get('best', {}).get('step')
    return None

  def wait(self) -> None:
    """Until the last save is on disk."""
    self._guarded(self._manager.latest_step(),
                  self._manager.wait_until_finished)

  def preempted(self, step: int) -> bool:
    """Whether the cluster wants this run to stop, on all processes alike."""
    return (jax.distributed.is_initialized()  # It takes the signals.
            and self._manager.reached_preemption(step))

  def restore(self, target, step: int | None = None, set_aside: bool = False):
    """The newest readable (step, state, position), or None if there is none.

    `target` is a tree of ShapeDtypeStruct with shardings. Where a folder cannot
    be read, the one before it is taken, with a warning. With `set_aside` it is
    moved out of the way of what will be saved: for the run's own training.
    """
    known = self.steps()
    if step is not None and step not in known:
      raise errors.UserError(f'{self.folder} has no step {step}; it has '
                             f'{", ".join(map(str, known)) or "none"}')
    for candidate in [step] if step is not None else known[::-1]:
      self._check_fits(candidate, target)
      try:
        found = self._manager.restore(candidate, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(target),
            position=ocp.args.JsonRestore()))
        return candidate, found['state'], found['position']
      except Exception as e:  # Torn files fail in many ways.
        if _is_of_machine(e):
          raise
        if step is not None:
          others = [s for s in known if s != step]
          raise errors.UserError(
              f'checkpoint {self.folder / str(step)} cannot be read '
              f'({_first_line(e)}); other steps there: '
              f'{", ".join(map(str, others)) or "none"}') from e
        if candidate == known[0]:
          raise errors.UserError(
              f'checkpoint {self.folder / str(candidate)} cannot be read '
              f'({_first_line(e)}) and no earlier one is left; restore it from '
              'a copy, or train into a new workdir') from e
        logging.warning(
            'checkpoint %d in %s cannot be read (%s): going back to the one '
            'before', candidate, self.folder, _first_line(e))
        if set_aside:
          self._set_aside(candidate)
    return None

  def close(self) -> None:
    self._guarded(self._manager.latest_step(), self._manager.close)

  def _check_fits(self, step: int, target) -> None:
    """A model that has changed is not a corrupt checkpoint: say so."""
    try:
      stored = _flat(self._manager.item_metadata(step)['state'])
    except Exception:  # Unreadable: restore will tell.
      return
    wanted = _flat(target)
    differ = [
        f'{k}: {_shape(stored.get(k))} there, {_shape(wanted.get(k))} here'
        for k in sorted(stored.keys() | wanted.keys())
        if _shape(stored.get(k)) != _shape(wanted.get(k))]
    if stored and differ:
      raise errors.UserError(
          f'checkpoint {step} in {self.folder} does not fit this model: '
          f'{"; ".join(differ[:4])}'
          f'{f"; and {len(differ) - 4} more" if len(differ) > 4 else ""}; '
          'use the code that wrote it, or a new --workdir')

  def _set_aside(self, step: int) -> None:
    aside = self.folder.parent / 'corrupt_checkpoints'
    logging.warning('checkpoint %d was moved to %s', step, aside)
    if jax.process_index() == 0:
      aside.mkdir(exist_ok=True)
      shutil.rmtree(aside / str(step), ignore_errors=True)
      shutil.move(self.folder / str(step), aside / str(step))
    if jax.process_count() > 1:
      jax.experimental.multihost_utils.sync_global_devices('set_aside')
    self._manager.reload()

  def _guarded(self, step, action) -> None:
    try:
      action()
    except Exception as e:
      raise errors.UserError(
          f'checkpoint {step} could not be written to {self.folder} '
          f'({_first_line(e)}); free some space or choose another --workdir; '
          f'complete checkpoints there: '
          f'{", ".join(map(str, self.steps())) or "none"}') from e


class _Best:
  """A policy of what to preserve: one step, by its number."""

  step = None

  def should_preserve(self, checkpoints, *, context):
    del context
    return [info.step == self.step for info in checkpoints]


def abstract(shapes, shardings):
  """What `restore` takes: shapes, dtypes and where each array should live."""
  return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes, shardings)


def _is_news(record) -> bool:
  """Orbax logs the errors that it raises as well: once will do.

  So does asyncio, for the writes beside the one that failed.
  """
  again = ('orbax' in record.pathname
           or 'never retrieved' in record.getMessage())
  return record.levelname != 'ERROR' or not again


def _flat(tree) -> dict:
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {'/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(
      k, 'idx', k)))) for k in path): x for path, x in flat}


def _shape(x):
  return tuple(np.shape(x)) if x is not None else 'absent'


def _is_of_machine(error: Exception) -> bool:
  """Full memory or a failing disk: the checkpoint may be whole."""
  return isinstance(error, MemoryError | jax.errors.JaxRuntimeError) or (
      isinstance(error, OSError) and not isinstance(error, FileNotFoundError))


def _first_line(error: Exception) -> str:
  if 'No space left' in str(error):
    return 'no space left on the device'
  first, *_ = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {first[:200]}'
