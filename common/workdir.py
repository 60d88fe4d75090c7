"""The files of a run, read as they are: unfinished, torn or missing."""

import dataclasses
import json
import math
import pathlib
import re

import numpy as np

from common import config as config_lib

_SAMPLE = re.compile(r'(\d+)_(\d+)\.(wav|mid|png)')


@dataclasses.dataclass(frozen=True)
class Workdir:
  """What a run has written so far; `notes` says what could not be read."""

  path: pathlib.Path
  config: dict  # Flat: {'model.beta': 4.0, ...}.
  curves: dict[str, tuple[np.ndarray, np.ndarray]]  # Name: steps, values.
  results: dict[str, dict]  # Of common.evaluate, by split.
  samples: dict[int, dict[str, dict[str, pathlib.Path]]]  # Step, index, suffix.
  notes: tuple[str, ...]


def read(path) -> Workdir:
  path = pathlib.Path(path)
  config = config_lib.flatten(config_lib.read(path / 'config.json'))
  notes, points = [], {}
  for name in ('metrics.jsonl', 'timing.jsonl'):
    try:
      lines = (path / name).read_bytes().splitlines()
    except FileNotFoundError:
      notes.append(f'{name} is missing')
      continue
    bad = []
    for number, line in enumerate(lines, 1):
      try:
        row = json.loads(line)
        step = int(row.pop('step'))
        row = {k: float(v) for k, v in row.items()}
      except (ValueError, KeyError, TypeError, AttributeError):
        bad.append(number)  # Most often the last one, torn by a kill.
        continue
      for k, v in row.items():
        points.setdefault(k, {})[step] = v
    if bad:
      notes.append(f'{name}: {len(bad)} of {len(lines)} lines cannot be read '
                   f'(the first is line {bad[0]})')
  curves = {k: _curve(v) for k, v in points.items()}
  found = {}
  for file in sorted(path.glob('results_*.json')):
    split = file.stem.removeprefix('results_')
    found[split] = results(path, split)
    if found[split] is None:
      del found[split]
      notes.append(f'{file.name} cannot be read')
  return Workdir(path, config, curves, found, _samples(path), tuple(notes))


def results_file(path, split: str, changes=()) -> pathlib.Path:
  """Of a split; changes are what else was not as in training."""
  told = ''.join(',' + re.sub(r'[^\w.=-]+', '-', x) for x in changes)
  return pathlib.Path(path) / f'results_{split}{told}.json'


def results(path, split: str) -> dict | None:
  """What was measured on a split; None where the file is missing or torn."""
  try:
    found = json.loads(results_file(path, split).read_text())
    return {'step': int(found['step']), 'rows': int(found['rows']),
            'metrics': {k: float(v) for k, v in found['metrics'].items()}}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None


def number(value) -> str:
  """Four digits, for tables: 0.4172, 12.35, 3.2e-05."""
  if value is None or not math.isfinite(value):
    return str(value)
  return f'{value:.4g}'


def _curve(points):
  steps = sorted(points)
  return np.array(steps), np.array([points[s] for s in steps])


def _samples(path):
  found = {}
  for file in sorted((path / 'samples').glob('*')):
    if match := _SAMPLE.fullmatch(file.name):
      step, index, suffix = match.groups()
      found.setdefault(int(step), {}).setdefault(index, {})[suffix] = file
  return found
