"""Which step of a run is the best, and whether to go on looking.

`config.checkpoint.best` names what an evaluation reports, and its lowest value
is the best; of what should be high, with a minus: '-eval/accuracy'.
"""

import math

from common import errors


class Best:
  """Follows one metric from evaluation to evaluation.

  All that it knows is `position()`, plain numbers that a checkpoint holds: a
  run that is resumed decides as one that was never interrupted.
  """

  def __init__(self, config, position: dict | None = None):
    """`position`: what a run has seen before, if it followed this metric."""
    self._metric = config.checkpoint.best
    self._patience = config.checkpoint.patience
    if self._patience and not self._metric:
      raise errors.UserError(
          f'checkpoint.patience={self._patience} needs checkpoint.best, the '
          "metric to be patient with, like 'eval/nll'")
    seen = position or {}
    if seen.get('metric') != self._metric:
      seen = {}
    self.step = seen.get('step')  # The best one; None before any.
    self._value = seen.get('value')
    self._since = seen.get('since', 0)  # Evaluations that were no better.

  def see(self, step: int, metrics: dict[str, float]) -> None:
    if not self._metric:
      return
    self.check(metrics)
    value = metrics[self._name]
    if self._metric.startswith('-'):
      value = -value
    if math.isfinite(value) and (self.step is None or value < self._value):
      self.step, self._value, self._since = step, value, 0
    else:
      self._since += 1

  def follow(self, curves) -> int | None:
    """Sees all that a run's metrics.jsonl tells: {name: (steps, values)}.

    Returns the last step of them.
    """
    steps, values = curves.get(self._name, ((), ()))
    for step, value in zip(steps, values, strict=True):
      self.see(int(step), {self._name: float(value)})
    return int(steps[-1]) if len(steps) else None

  def check(self, names) -> None:
    """Refuses a metric that is none of these."""
    if self._metric and self._name not in names:
      raise errors.UserError(
          f'checkpoint.best={self._metric!r} is nothing that an evaluation '
          f'reports{errors.suggest(self._name, sorted(names))}')

  @property
  def is_over(self) -> bool:
    """Whether patience has run out."""
    return bool(self._patience) and self._since >= self._patience

  def position(self) -> dict:
    if not self._metric:
      return {}
    return {'best': {'metric': self._metric, 'step': self.step,
                     'value': self._value, 'since': self._since}}

  def __str__(self):
    if self.step is None:
      return f'{self._metric} was never a number'
    value = -self._value if self._metric.startswith('-') else self._value
    return f'{self._name} {value:.6g} at step {self.step}'

  @property
  def _name(self):
    return self._metric.removeprefix('-')
