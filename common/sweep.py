"""A config's ablations times seeds: runs them, and compares what they reach.

  python -m common.sweep --config=lstm_jsb --workdir=runs/lstm --seeds=0,1,2
  python -m common.sweep --config=lstm_jsb:tiny --workdir=runs/tiny \\
      --ablations=base,dropout_0 --parallel=2 --config.steps=10
  CUDA_VISIBLE_DEVICES=0,1,2,3 python -m common.sweep ... --parallel=4
  python -m common.sweep ... --launcher=slurm --parallel=8 \\
      --slurm=partition=gpu --slurm=gpus_per_node=1 --slurm=timeout_min=1440

Each run is common.train, then common.evaluate, in ROOT/<ablation>/seed_<n>; of
its best step where config.checkpoint.best is set, else of the last.
'base' is the config as it is; --config.NAME=VALUE applies to all runs. Started
again, finished runs are skipped and the others go on; --list only prints the
commands. The comparison goes to ROOT/sweep.md and ROOT/sweep.json.
"""

import json
import pathlib
import shlex
import signal
import sys
from typing import NamedTuple

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from common import app, best, errors, files, launch, workdir
from common import config as config_lib


class Run(NamedTuple):
  ablation: str
  seed: int
  folder: pathlib.Path
  commands: list[list[str]]
  config: ml_collections.ConfigDict
  split: str

  @property
  def name(self) -> str:
    return f'{self.ablation}/seed_{self.seed}'

  def metrics(self) -> dict[str, float] | None:
    """What it has reached; None if it is not finished."""
    found = workdir.results(self.folder, self.split)
    if found and found['step'] == self._final_step():
      return found['metrics']
    return None

  def _final_step(self) -> int | None:
    """What is to be evaluated; None if its training is not over."""
    if not self.config.checkpoint.best:
      return self.config.steps
    curves = workdir.read(self.folder).curves
    watched = best.Best(self.config)
    last = watched.follow(curves)
    if watched.is_over or last == self.config.steps:
      return watched.step
    return None


def main(overrides: list[str]):
  f = flags.FLAGS
  root = pathlib.Path(f.workdir)
  runs = plan(f.config, root, f.ablations, _seeds(f.seeds), overrides,
              f.data_dir, f.split)
  if f.list:
    for run in runs:
      if run.metrics() is None:
        print(' && '.join(shlex.join(c) for c in run.commands))
    return
  if f.launcher == 'local':
    start = lambda jobs: launch.local(jobs, f.parallel or 1)
  else:
    parameters = _parameters(f.slurm)
    start = lambda jobs: launch.slurm(
        jobs, f.parallel, root / 'slurm', parameters)
  # Like Ctrl-C, so that the runs do not outlive their sweep.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
  try:
    failures = run_unfinished(runs, start)
  except KeyboardInterrupt:
    print('stopped; the same command goes on from here', file=sys.stderr)
    sys.exit(130)
  paper = getattr(config_lib.module(f.config), 'PAPER', {})
  write_tables(runs, paper, root)
  if failures:
    print(f'{len(failures)} of {len(runs)} runs failed: '
          f'{", ".join(failures)}; the same command tries them again',
          file=sys.stderr)
    sys.exit(1)


def run_unfinished(runs: list[Run], start) -> dict[str, str]:
  """Gives `start` the jobs that are left; returns {name: reason} of failures.

  A run that stopped half way gets the same commands: common.train resumes.
  """
  jobs = []
  for run in runs:
    if run.metrics() is None:
      jobs.append(launch.Job(run.name, run.folder, run.commands))
    else:
      print(f'skip    {run.name}: finished')
  return start(jobs) if jobs else {}


def plan(spec: str, root, ablations: str, seeds: list[int],
         overrides: list[str], data_dir=None, split=None) -> list[Run]:
  """All runs, each one's settings resolved before the first of them starts.

  `ablations` is 'all', 'none' (only 'base') or names, split by commas.
  """
  known = {'base': {}, **_ablations(spec)}
  chosen = {'all': list(known), 'none': ['base']}.get(
      ablations, ablations.split(','))
  taken = {_key(o) for o in overrides}
  if 'seed' in taken:
    raise errors.UserError('--config.seed: a sweep sets it; use --seeds')
  runs = []
  for name in dict.fromkeys(chosen):
    if name not in known:
      raise errors.UserError(
          f'--ablations: {spec} has none called {name!r}'
          f'{errors.suggest(name, known)}')
    if clash := sorted(taken & set(known[name])):
      raise errors.UserError(
          f'--config.{clash[0]}: ablation {name!r} sets it too; leave it out, '
          'or leave the ablation out of --ablations')
    for seed in seeds:
      settings = [f'--config.seed={seed}', *(
          f'--config.{k}={v}' for k, v in known[name].items()), *overrides]
      config = resolve(spec, settings)
      folder = pathlib.Path(root) / name / f'seed_{seed}'
      if (folder / 'config.json').exists():
        config_lib.check_same(
            config_lib.read(folder / 'config.json'), config, folder)
      python = [sys.executable, '-m']
      common = [f'--workdir={folder}'] + [f'--data_dir={data_dir}'] * bool(
          data_dir)
      runs.append(Run(name, seed, folder, [
          [*python, 'common.train', f'--config={spec}', *settings, *common],
          [*python, 'common.evaluate', *common]
          + [f'--split={split}'] * bool(split)
          + ['--step=best'] * bool(config.checkpoint.best),
      ], config, split or config.data.eval))
  return runs


def resolve(spec: str, settings: list[str]):
  """The ConfigDict that common.train makes of these --config.NAME=VALUE."""
  config = config_lib.load(spec)
  known = config_lib.flatten(config)
  argv = ['sweep', *settings]
  values = flags.FlagValues()
  for setting in settings:
    if '=' not in setting:
      raise errors.UserError(f'{setting} has no value; write {setting}=VALUE')
    if _key(setting) not in known:
      raise errors.UserError(
          f'{setting}: {spec} has no setting {_key(setting)!r}'
          f'{errors.suggest(_key(setting), known)}')
  config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, sys_argv=argv)
  try:
    values(argv)
  except flags.Error as e:
    raise errors.UserError(f'{spec}: {e}') from None
  return config


def take_overrides(argv: list[str]) -> list[str]:
  """Removes all --config.NAME=VALUE from `argv` and returns them."""
  found = [a for a in argv if a.startswith('--config.')]
  argv[:] = [a for a in argv if not a.startswith('--config.')]
  return found


def compare(runs: list[Run]) -> dict:
  """{ablation: {metric: {'mean', 'std', 'n'}}} over the finished seeds.

  'std' is the standard deviation of the seeds (n - 1 in the denominator);
  None for one seed.
  """
  table = {}
  for run in runs:
    row = table.setdefault(run.ablation, {})
    for name, value in (run.metrics() or {}).items():
      row.setdefault(name, []).append(value)
  return {ablation: {
      name: {'mean': float(np.mean(v)), 'n': len(v),
             'std': float(np.std(v, ddof=1)) if len(v) > 1 else None}
      for name, v in row.items()} for ablation, row in table.items()}


def markdown(table: dict, paper: dict) -> str:
  """A row per ablation; the paper's number beside ours where it has one."""
  names = list(dict.fromkeys(
      name for row in [*table.values(), *paper.values()] for name in row))
  columns = [(name, of_paper) for name in names for of_paper in (False, True)
             if not of_paper or any(name in row for row in paper.values())]
  lines = [['ablation', 'seeds'] + [
      name + ', paper' * of_paper for name, of_paper in columns]]
  lines.append(['---'] + ['--:'] * (len(columns) + 1))
  for ablation, row in table.items():
    seeds = max((cell['n'] for cell in row.values()), default=0)
    lines.append([ablation, str(seeds)] + [
        _paper(paper, ablation, name) if of_paper else _ours(row.get(name))
        for name, of_paper in columns])
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def write_tables(runs, paper, root) -> None:
  table = compare(runs)
  text = markdown(table, paper)
  root.mkdir(parents=True, exist_ok=True)
  files.write(root / 'sweep.md', text)
  files.write(root / 'sweep.json', json.dumps({
      'ablations': table, 'paper': paper,
      'runs': {run.name: {'command': run.commands[0], 'metrics': run.metrics()}
               for run in runs}}, indent=1) + '\n')
  print(f'\n{text}\n{root / "sweep.md"}; a page about the runs: python -m '
        f"common.report --workdirs='{root}/*/seed_*' --out={root}/report.html")


def _ours(cell) -> str:
  if cell is None:
    return 'not run'
  spread = '' if cell['std'] is None else f' ± {cell["std"]:.2g}'
  return workdir.number(cell['mean']) + spread


def _paper(paper, ablation, name) -> str:
  number = paper.get(ablation, {}).get(name)
  return '–' if number is None else workdir.number(number)


def _ablations(spec: str) -> dict[str, dict]:
  return config_lib.module(spec).ablations()


def _key(override: str) -> str:
  return override.removeprefix('--config.').partition('=')[0]


def _seeds(given: list[str]) -> list[int]:
  try:
    return list(dict.fromkeys(int(s) for s in given))
  except ValueError:
    raise errors.UserError(f'--seeds={",".join(given)}: give whole numbers '
                           'split by commas, like 0,1,2') from None


def _parameters(given: list[str]) -> dict:
  found = {}
  for text in given:
    key, equals, value = text.partition('=')
    if not equals:
      raise errors.UserError(f'--slurm={text}: write --slurm=NAME=VALUE, like '
                             '--slurm=partition=gpu')
    found[key] = int(value) if value.isdecimal() else value
  return found


if __name__ == '__main__':
  flags.DEFINE_string('config', None, 'Name of a config, or path to one.',
                      required=True)
  flags.DEFINE_string('workdir', None, 'Folder of the sweep.', required=True)
  flags.DEFINE_string('ablations', 'all', "'all', 'none' or names; 'base' is "
                      'the config as it is.')
  flags.DEFINE_list('seeds', ['0'], 'Whole numbers, split by commas.')
  flags.DEFINE_integer('parallel', None, 'Runs at the same time. Default: 1 '
                       'here, all on Slurm.', lower_bound=1)
  flags.DEFINE_enum('launcher', 'local', ['local', 'slurm'], 'Where they run.')
  flags.DEFINE_multi_string('slurm', [], "submitit's parameters, NAME=VALUE.")
  flags.DEFINE_bool('list', False, 'Print the commands that are left to run.')
  flags.DEFINE_string('split', None, "For the results; default: the config's "
                      'data.eval.')
  app.define_data_dir()
  overrides = take_overrides(sys.argv)
  app.run(lambda argv: main(overrides))
