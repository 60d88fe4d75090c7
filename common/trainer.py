"""The only training loop. It knows batches, steps and files, and no model."""

import contextlib
import os
import pathlib
import signal
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np

from common import best as best_lib
from common import checkpoint, errors, evaluation, progress, runs, sharding
from common import config as config_lib
from common import model as model_lib
from common.data import builders, pipeline


def fit(config, workdir, data_dir=None, wandb=None) -> model_lib.TrainState:
  """Trains `config` in `workdir`, going on where an earlier run stopped.

  Killed at any moment and started again, a run ends with the same parameters
  and the same metrics.jsonl as one that was never interrupted.
  """
  workdir = pathlib.Path(workdir)
  _check(config)
  module, model = runs.build(config)
  mesh = sharding.make_mesh(**config.mesh)
  for i in range(len(model.stages)):
    own = f' of stage {i}' * (model.stages[i].batch_size is not None)
    sharding.check_rows(f'batch_size{own}', _rows(config, model, i), mesh)
  source, held_out = (
      builders.open_split(config.data.name, split, data_dir)
      for split in (config.data.train, config.data.eval))
  preprocess = module.preprocess(config)
  builders.check(source, config.data, lambda example: preprocess(
      example, np.random.default_rng(0)))
  first = next(_Stream(config, module, model, source, 0, workers=0))
  _claim(workdir, config)

  spec = runs.spec_of(first, _rows(config, model, 0))
  runs.write_spec(workdir, spec)
  key = runs.make_key(config, mesh, 'train')
  shapes = jax.eval_shape(model.init, key, spec)
  shardings = sharding.infer(shapes, mesh)
  checkpoints = runs.open_checkpoints(config, workdir)
  found = checkpoints.restore(checkpoint.abstract(shapes, shardings),
                              set_aside=True)
  if found:
    start, state, position = found
    best = best_lib.Best(config, position.get('best'))
    stream = _Stream.resume(config, module, model, source, position)
  else:
    start, best = 0, best_lib.Best(config)
    stream = _Stream(config, module, model, source, 0)
    state = jax.jit(model.init, out_shardings=shardings)(
        runs.make_key(config, mesh, 'init'),
        sharding.place(first, sharding.by_row(mesh)))
  progress.say(_describe(config, workdir, mesh, shapes, source, held_out,
                         start))

  step_fn = jit_step(model, mesh, shardings)
  evaluate = evaluation.Evaluation(config, module, model, mesh, held_out)
  if config.checkpoint.best:  # Now, not after an hour.
    best.check(evaluate.names(shapes))
  log = progress.Log(config, workdir, start, wandb, checkpoints)
  previous = None  # Step and metrics of the last step, still on the device.
  with contextlib.ExitStack() as stack:
    stack.enter_context(contextlib.closing(checkpoints))
    stack.enter_context(contextlib.closing(log))
    asked_to_stop = stack.enter_context(_signals())
    # From here on a hidden copy between host and device is an error.
    stack.enter_context(jax.transfer_guard('disallow'))
    end = start if best.is_over else config.steps  # Patience ran out before.
    for step in range(start, end):
      if model.stage_at(step) != stream.stage:
        stream = _Stream(config, module, model, source, model.stage_at(step))
      with log.waiting_for_data():
        batch = sharding.place(next(stream), sharding.by_row(mesh))
      state, metrics = step_fn(state, batch, key, stage=stream.stage)
      if previous:  # Read while the device runs this step.
        log.step(*previous)
      done = step + 1
      previous = done, metrics
      last = done == config.steps
      stop = asked_to_stop() or checkpoints.preempted(done)
      evaluate_now, sample_now, save_now = (
          last or bool(every and done % every == 0) for every in (
              config.eval_every, config.sample_every, config.checkpoint.every))
      if not (stop or evaluate_now or sample_now or save_now):
        continue
      # All of step `done` is on disk before a checkpoint says so.
      log.step(*previous)
      previous = None
      with log.paused():
        log.check_parameters(done, _all_finite(state.params))
        if evaluate_now:
          metrics, rows = evaluate(state)
          log.evaluated(done, metrics, rows)
          best.see(done, metrics)
          last |= best.is_over
        if (sample_now or last) and config.num_samples and model.sample:
          log.sampled(done, evaluate.sample(state, config.num_samples))
        if save_now or stop or last or best.step == done:
          # Without pinned memory on the host Orbax copies unasked.
          with jax.transfer_guard_device_to_host('allow'):
            checkpoints.save(done, state, stream.position() | best.position())
      if last:
        break
      if stop:
        checkpoints.wait()
        progress.say(f'stopped by a signal: step {done} is saved; the same '
                     'command goes on from there')
        sys.exit(128 + signal.SIGTERM)
    checkpoints.wait()
  if config.checkpoint.best:
    progress.say(f'best: {best}' + best.is_over * (
        f'; stopped early: {config.checkpoint.patience} evaluations were no '
        'better'))
  return state


def jit_step(model, mesh, shardings):
  """The model's step: sharded, donated, with a key of its own each step."""

  def step_fn(state, batch, key, stage):
    key = jax.random.fold_in(key, state.step)
    state = sharding.gather(state, mesh)
    with sharding.tracing(mesh):
      state, metrics = model.train_step(state, batch, key, stage)
    return state.replace(step=state.step + 1), metrics

  return jax.jit(step_fn, static_argnames='stage', donate_argnames='state',
                 out_shardings=(shardings, sharding.replicated(mesh)))


class _Stream:
  """Training batches of one stage; knows how many were taken."""

  def __init__(self, config, module, model, source, stage, taken=0,
               workers=None):
    self.stage, self._taken, self._examples = stage, taken, len(source)
    seed = np.random.SeedSequence([config.seed, stage]).generate_state(1)
    self._batches = pipeline.train(
        source, module.preprocess(config), seed=int(seed[0]), start=taken,
        batch_size=_rows(config, model, stage),
        workers=config.data.workers if workers is None else workers)

  @classmethod
  def resume(cls, config, module, model, source, position):
    if position['examples'] not in (None, len(source)):  # None: converted.
      raise errors.UserError(
          f'data.name={config.data.name} has {len(source)} training examples '
          f'here, the run was made with {position["examples"]}; give the '
          '--data_dir of then, or use a new --workdir')
    return cls(config, module, model, source, position['stage'],
               position['batches'])

  def position(self) -> dict:
    return {'stage': self.stage, 'batches': self._taken,
            'examples': self._examples}

  def __next__(self):
    self._taken += 1
    return next(self._batches)


@jax.jit
def _all_finite(tree):
  return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


@contextlib.contextmanager
def _signals():
  """A function that tells whether SIGTERM or Ctrl-C has come.

  A second Ctrl-C does not wait for the end of the step. Under jax.distributed
  the runtime watches for SIGTERM itself, so that all processes stop at one.
  """
  came = []
  if (jax.distributed.is_initialized()
      or threading.current_thread() is not threading.main_thread()):
    yield lambda: False
    return

  def note(number, _):
    if number == signal.SIGINT:
      if came:
        raise KeyboardInterrupt
      progress.say('stopping after this step; Ctrl-C again stops at once')
    came.append(number)

  old = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield lambda: bool(came)
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)


def _rows(config, model, stage: int) -> int:
  return model.stages[stage].batch_size or config.batch_size


def _check(config) -> None:
  for name, value, least in (
      ('seed', config.seed, 0), ('steps', config.steps, 1),
      ('batch_size', config.batch_size, 1),
      ('log_every', config.log_every, 1), ('eval_every', config.eval_every, 0),
      ('sample_every', config.sample_every, 0),
      ('checkpoint.every', config.checkpoint.every, 0),
      ('checkpoint.keep_last', config.checkpoint.keep_last, 1),
      ('checkpoint.patience', config.checkpoint.patience, 0)):
    if value < least:
      raise errors.UserError(f'{name}={value} is below {least}')
  best_lib.Best(config)
  if config.dtype not in ('float32', 'bfloat16'):
    raise errors.UserError(
        f"dtype={config.dtype!r} is neither 'float32' nor 'bfloat16'")


def _claim(workdir: pathlib.Path, config) -> None:
  """Makes the workdir, or checks that the run in it is this one."""
  stored = workdir / 'config.json'
  if stored.exists():
    config_lib.check_same(config_lib.read(stored), config, workdir)
  if jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    config_lib.write(config, stored)


def _describe(config, workdir, mesh, shapes, source, held_out, start) -> str:
  sizes = {k: sum(x.size for x in jax.tree.leaves(v))
           for k, v in shapes.params.items()}
  state_mb = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(
      (shapes.params, shapes.opt, shapes.vars, shapes.ema))) / 1e6
  kind = jax.devices()[0].device_kind
  whole = [x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes)
           if x.size >= sharding.SMALL and mesh.shape['fsdp'] > 1
           and sharding.infer(x, mesh).is_fully_replicated]
  notes = [f'note  {len(whole)} large arrays ({sum(whole) / 1e6:.1f} MB) are '
           f'whole on each device: no axis of them divides by '
           f'mesh.fsdp={mesh.shape["fsdp"]}'] if whole else []
  return '\n'.join([
      f'{config.module}  {mesh.size} x {kind}  '
      f'mesh {dict(mesh.shape)}  processes {jax.process_count()}',
      'parameters  ' + '  '.join(f'{k} {n:,}' for k, n in sizes.items())
      + f'  state {state_mb:.1f} MB',
      f'data  {config.data.name}  {config.data.train} {len(source)}  '
      f'{config.data.eval} {len(held_out)} examples',
      f'workdir  {os.path.relpath(workdir)}  from step {start} to '
      f'{config.steps}', *notes])
