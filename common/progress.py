"""One line for a person, numbers for scripts, and the stop on nan."""

import contextlib
import math
import time

import jax

from common import errors, writer


class Log:
  """What a training run says while it runs."""

  def __init__(self, config, workdir, start, wandb, checkpoints):
    self._config, self._checkpoints = config, checkpoints
    self._writer = None
    if jax.process_index() == 0:
      self._writer = writer.Writer(workdir, start, config, wandb)
    self._began = self._since = time.perf_counter()
    self._since_step, self._data_s, self._start = start, 0.0, start

  def close(self):
    if self._writer:
      self._writer.close()

  @contextlib.contextmanager
  def waiting_for_data(self):
    began = time.perf_counter()
    yield
    self._data_s += time.perf_counter() - began

  @contextlib.contextmanager
  def paused(self):
    """Evaluation and saving do not count as training time."""
    began = time.perf_counter()
    yield
    self._since += time.perf_counter() - began

  def step(self, step, metrics):
    metrics = jax.device_get(metrics)
    bad = [f'{k} is {float(v)}' for k, v in metrics.items()
           if not math.isfinite(v)]
    if bad:
      self._stop(f'{", ".join(bad)} at step {step}')
    if step == self._start + 1:  # Compilation is not a rate.
      now = time.perf_counter()
      self._timing(step, {'time/first_step_s': now - self._began})
      self._since, self._since_step, self._data_s = now, step, 0.0
    elif step % self._config.log_every == 0 or step == self._config.steps:
      seconds = time.perf_counter() - self._since
      steps = max(1, step - self._since_step)
      self._timing(step, {'time/step_s': seconds / steps,
                          'time/data_s': self._data_s / steps})
      left = (self._config.steps - step) * seconds / steps
      shown = '  '.join(f'{k} {float(v):.4g}' for k, v in metrics.items()
                        if k.split('/')[0] == 'loss')
      say(f'step {step}/{self._config.steps}  {shown}  '
           f'{steps / seconds:.3g} step/s  ETA {_duration(left)}')
      self._since, self._since_step = time.perf_counter(), step
      self._data_s = 0.0
    if step % self._config.log_every == 0 or step in (1, self._config.steps):
      self._metrics(step, metrics)

  def evaluated(self, step, metrics, rows):
    shown = '  '.join(f'{k} {v:.4g}' for k, v in metrics.items())
    say(f'step {step}/{self._config.steps}  {shown}  ({rows} rows)')
    self._metrics(step, metrics)

  def sampled(self, step, arrays):
    if self._writer:
      self._writer.samples(step, arrays)

  def check_parameters(self, step, finite):
    if not jax.device_get(finite):  # The loss was; the update after it not.
      self._stop(f'parameters are not finite after step {step}')

  def _metrics(self, step, values):
    if self._writer:
      self._writer.metrics(step, values)

  def _timing(self, step, values):
    if self._writer:
      self._writer.timing(step, values)

  def _stop(self, what):
    saved = self._checkpoints.steps()
    good = f'step {saved[-1]}' if saved else 'none yet'
    raise errors.UserError(
        f'{what}: training stopped. Last good checkpoint: {good}. A lower '
        'learning rate, gradient clipping or dtype=float32 may help')


def say(line: str) -> None:
  if jax.process_index() == 0:
    print(line, flush=True)


def _duration(seconds: float) -> str:
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  if hours:
    return f'{hours}h{m:02d}'
  return f'{m}m{s:02d}' if m else f'{s}s'
