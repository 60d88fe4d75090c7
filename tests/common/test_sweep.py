import itertools
import json
import shlex
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from common import config as config_lib
from common import errors, launch, sweep, workdir

CONFIG = '''
from common import config as config_lib

PAPER = {'base': {'eval/nll': 0.417}, 'beta_0': {'eval/nll': 0.5}}


def get_config(size='paper'):
  config_lib.check_size(size, 'paper', 'tiny')
  c = config_lib.default()
  c.module = 'family.net'
  c.steps = 4 if size == 'tiny' else 1000
  c.model.beta, c.model.gate, c.model.kind = 1.0, True, 'gru'
  c.model.strides, c.model.layers = (2, 2), 3
  return c


def ablations():
  return {
      'beta_0': {'model.beta': 0.0},
      'all_kinds': {'model.beta': 1e-5, 'model.gate': False, 'model.layers': 7,
                    'model.kind': "a 'b' c", 'model.strides': (4,)},
  }
'''


@pytest.fixture
def spec(tmp_path):
  path = tmp_path / 'net.py'
  path.write_text(CONFIG)
  return f'{path}:tiny'


def plan(spec, root, ablations='all', seeds=(0,), overrides=(), **kwargs):
  return sweep.plan(spec, root, ablations, list(seeds), list(overrides),
                    **kwargs)


def finish(run, step=4, split='valid', config=None, **metrics):
  """What the two commands leave behind."""
  run.folder.mkdir(parents=True, exist_ok=True)
  if config:
    config_lib.write(config, run.folder / 'config.json')
  workdir.results_file(run.folder, split).write_text(json.dumps(
      {'step': step, 'rows': 3,
       'metrics': {f'eval/{k}': v for k, v in metrics.items()}}))


def test_base_and_ablations_times_seeds(spec, tmp_path):
  runs = plan(spec, tmp_path, seeds=[0, 3])
  assert [run.name for run in runs] == [
      f'{a}/seed_{s}' for a, s in itertools.product(
          ('base', 'beta_0', 'all_kinds'), (0, 3))]
  assert [run.folder for run in runs] == [tmp_path / r.name for r in runs]


@pytest.mark.parametrize('ablations, names', [
    ('none', ['base']), ('beta_0', ['beta_0']),
    ('all_kinds,base,base', ['all_kinds', 'base'])])
def test_only_what_is_named_runs(spec, tmp_path, ablations, names):
  assert [r.ablation for r in plan(spec, tmp_path, ablations)] == names


def test_commands_train_and_then_evaluate(spec, tmp_path):
  run, = plan(spec, tmp_path, 'beta_0', [5], ['--config.log_every=1'],
              data_dir='/data', split='test')
  folder = f'--workdir={tmp_path}/beta_0/seed_5'
  assert run.commands == [
      [sys.executable, '-m', 'common.train', f'--config={spec}',
       '--config.seed=5', '--config.model.beta=0.0', '--config.log_every=1',
       folder, '--data_dir=/data'],
      [sys.executable, '-m', 'common.evaluate', folder, '--data_dir=/data',
       '--split=test']]


def test_flags_give_back_the_values_of_every_type(spec, tmp_path):
  run, = plan(spec, tmp_path, 'all_kinds')
  settings = [a for a in run.commands[0] if a.startswith('--config.')]
  model = sweep.resolve(spec, settings).model
  assert model.to_dict() == {
      'beta': 1e-5, 'gate': False, 'kind': "a 'b' c", 'strides': (4,),
      'layers': 7}
  assert [type(model[k]) for k in ('gate', 'strides')] == [bool, tuple]


def test_overrides_reach_every_run_and_decide_when_it_is_finished(
    spec, tmp_path):
  for run in plan(spec, tmp_path, overrides=['--config.steps=6']):
    assert '--config.steps=6' in run.commands[0] and run.config.steps == 6
    finish(run, step=4)
    assert run.metrics() is None
    finish(run, step=6, nll=0.5)
    assert run.metrics() == {'eval/nll': 0.5}


def test_results_of_another_split_or_torn_ones_do_not_count(spec, tmp_path):
  run, = plan(spec, tmp_path, 'none', split='test')
  assert run.metrics() is None
  finish(run, split='valid', nll=0.5)
  assert run.metrics() is None
  finish(run, split='test', nll=0.5)
  assert run.metrics() == {'eval/nll': 0.5}
  path = run.folder / 'results_test.json'
  path.write_text(path.read_text()[:20])
  assert run.metrics() is None


def follow(run, *values):
  """What training leaves behind: an evaluation at each step."""
  run.folder.mkdir(parents=True, exist_ok=True)
  config_lib.write(run.config, run.folder / 'config.json')
  (run.folder / 'metrics.jsonl').write_text(''.join(
      json.dumps({'step': i + 1, 'eval/nll': v}) + '\n'
      for i, v in enumerate(values)))


def test_the_best_step_is_evaluated_and_finishes_a_run(spec, tmp_path):
  run, = plan(spec, tmp_path, 'none',
              overrides=['--config.checkpoint.best=eval/nll'])
  assert '--step=best' in run.commands[1]
  finish(run, step=2, nll=0.5)
  follow(run, 0.7, 0.5, 0.6)  # Of four steps.
  assert run.metrics() is None
  follow(run, 0.7, 0.5, 0.6, 0.9)
  assert run.metrics() == {'eval/nll': 0.5}
  finish(run, step=4, nll=0.9)
  assert run.metrics() is None
  plain, = plan(spec, tmp_path, 'none')
  assert '--step=best' not in plain.commands[1]


def test_a_run_whose_patience_ran_out_is_finished(spec, tmp_path):
  run, = plan(spec, tmp_path, 'none', overrides=[
      '--config.checkpoint.best=-eval/nll', '--config.checkpoint.patience=2'])
  finish(run, step=1, nll=0.7)
  follow(run, 0.7, 0.5)
  assert run.metrics() is None
  follow(run, 0.7, 0.5, 0.6)
  assert run.metrics() == {'eval/nll': 0.7}


@pytest.mark.parametrize('ablations, overrides, message', [
    ('beta0', (), "none called 'beta0'; did you mean 'beta_0'"),
    ('all', ['--config.model.bet=1'], "no setting 'model.bet'; did you mean"),
    ('all', ['--config.model.beta=1'], "'beta_0' sets it too"),
    ('all', ['--config.seed=1'], 'use --seeds'),
    ('all', ['--config.steps=few'], 'steps=few'),
    ('all', ['--config.steps'], 'write --config.steps=VALUE')])
def test_wrong_input_is_refused_before_anything_runs(
    spec, tmp_path, ablations, overrides, message):
  with pytest.raises(errors.UserError, match=message):
    plan(spec, tmp_path, ablations, overrides=overrides)


def test_a_folder_with_another_config_is_refused(spec, tmp_path):
  run, = plan(spec, tmp_path, 'none')
  finish(run, config=sweep.resolve(spec, ['--config.seed=0']))
  assert plan(spec, tmp_path, 'none') == [run]
  with pytest.raises(errors.UserError, match=r'model\.layers'):
    plan(spec, tmp_path, 'none', overrides=['--config.model.layers=9'])


def test_overrides_are_taken_from_the_command_line():
  argv = ['sweep', '--config=a.py', '--config.a.b=1', '--seeds=1',
          '--config.c=x y']
  assert sweep.take_overrides(argv) == ['--config.a.b=1', '--config.c=x y']
  assert argv == ['sweep', '--config=a.py', '--seeds=1']


def test_comparison_is_mean_and_spread_over_finished_seeds(spec, tmp_path):
  runs = plan(spec, tmp_path, 'base,beta_0', range(4))
  values = np.random.default_rng(0).standard_normal((4, 2))
  for run, (nll, kl) in zip(runs[:3], values, strict=False):
    finish(run, nll=nll, kl=kl)
  finish(runs[4], nll=2.5)
  table = sweep.compare(runs)
  for i, name in enumerate(('eval/nll', 'eval/kl')):
    cell = table['base'][name]
    assert cell['n'] == 3
    np.testing.assert_allclose(cell['mean'], values[:3, i].mean(), rtol=1e-12)
    np.testing.assert_allclose(
        cell['std'],
        np.sqrt(((values[:3, i] - values[:3, i].mean()) ** 2).sum() / 2),
        rtol=1e-12)
  assert table['beta_0'] == {'eval/nll': {'mean': 2.5, 'std': None, 'n': 1}}


def test_markdown_puts_the_papers_numbers_beside_ours():
  table = {'base': {'eval/nll': {'mean': 0.4321, 'std': 0.01234, 'n': 3}},
           'beta_0': {'eval/nll': {'mean': 0.5, 'std': None, 'n': 1},
                      'eval/kl': {'mean': 2.0, 'std': None, 'n': 1}},
           'big': {}}
  paper = {'base': {'eval/nll': 0.417}}
  assert sweep.markdown(table, paper) == textwrap.dedent('''\
      | ablation | seeds | eval/nll | eval/nll, paper | eval/kl |
      | --- | --: | --: | --: | --: |
      | base | 3 | 0.4321 ± 0.012 | 0.417 | not run |
      | beta_0 | 1 | 0.5 | – | 2 |
      | big | 0 | not run | – | not run |
      ''')


# Stands for common.train and common.evaluate: the first fails if told so, the
# second writes results.
STUB = '''
import json, pathlib, sys
flags = dict(a[2:].split('=', 1) for a in sys.argv[2:])
folder = pathlib.Path(flags['workdir'])
with (folder / 'calls.txt').open('a') as f:
  f.write(sys.argv[1] + ' ')
if sys.argv[1] == 'common.train':
  (folder / 'seed').write_text(flags['config.seed'])
  if (folder.parent.parent / 'fail').exists() and 'config.model.beta' in flags:
    sys.exit('no luck')
else:
  value = 1.0 + int((folder / 'seed').read_text())
  (folder / 'results_valid.json').write_text(json.dumps(
      {'step': 4, 'rows': 1,
       'metrics': {'eval/nll': value}}))
'''


def stubbed(runs):
  return [run._replace(commands=[[sys.executable, '-c', STUB, *c[2:]]
                                 for c in run.commands]) for run in runs]


def start(jobs):
  return launch.local(jobs, parallel=3)


def test_a_failed_run_stops_no_other_and_is_tried_again(
    spec, tmp_path, capsys):
  runs = stubbed(plan(spec, tmp_path, 'base,beta_0', [0, 1]))
  (tmp_path / 'fail').touch()
  failures = sweep.run_unfinished(runs, start)
  assert sorted(failures) == ['beta_0/seed_0', 'beta_0/seed_1']
  assert all('no luck' in reason for reason in failures.values())
  (tmp_path / 'fail').unlink()
  assert sweep.run_unfinished(runs, start) == {}
  said = capsys.readouterr().out
  assert said.count('skip    base/seed_') == 2
  calls = {run.name: (run.folder / 'calls.txt').read_text().split()
           for run in runs}
  both = ['common.train', 'common.evaluate']
  assert calls == {
      'base/seed_0': both, 'base/seed_1': both,
      'beta_0/seed_0': ['common.train', *both],
      'beta_0/seed_1': ['common.train', *both]}
  sweep.run_unfinished(runs, pytest.fail)  # Nothing is left to start.


def test_tables_are_written_and_printed(spec, tmp_path, capsys):
  runs = stubbed(plan(spec, tmp_path, 'base', [0, 1]))
  sweep.run_unfinished(runs, start)
  sweep.write_tables(runs, {'base': {'eval/nll': 1.4}}, tmp_path)
  table = (tmp_path / 'sweep.md').read_text()
  assert '| base | 2 | 1.5 ± 0.71 | 1.4 |' in table
  assert table in capsys.readouterr().out
  found = json.loads((tmp_path / 'sweep.json').read_text())
  assert found['ablations']['base']['eval/nll'] == {
      'mean': 1.5, 'std': pytest.approx(0.5 ** 0.5), 'n': 2}
  assert found['runs']['base/seed_1']['metrics'] == {'eval/nll': 2.0}


def binary(environment, *flags):
  return subprocess.run(
      [sys.executable, '-m', 'common.sweep', *flags], env=environment,
      capture_output=True, text=True, timeout=120)


def test_list_prints_the_commands_that_are_left(spec, tmp_path, environment):
  flags = [f'--config={spec}', f'--workdir={tmp_path}', '--ablations=all',
           '--config.log_every=2']
  runs = plan(spec, tmp_path, overrides=['--config.log_every=2'])
  finish(runs[0], nll=1.0)
  out = binary(environment, *flags, '--list')
  assert out.returncode == 0, out.stderr
  lines = out.stdout.splitlines()
  assert [shlex.split(line) for line in lines] == [
      [*run.commands[0], '&&', *run.commands[1]] for run in runs[1:]]


def test_failures_are_named_and_the_exit_status_says_so(
    spec, tmp_path, environment):
  out = binary(environment, f'--config={spec}', f'--workdir={tmp_path}',
               '--ablations=none')
  assert out.returncode == 1
  assert '1 of 1 runs failed: base/seed_0' in out.stderr
  # The last lines of its log: there is no such model file.
  assert "config.module='family.net' cannot be imported" in out.stdout
  assert '| base | 0 | not run | 0.417 |' in out.stdout


def test_wrong_input_is_one_sentence_and_exit_status_2(
    spec, tmp_path, environment):
  out = binary(environment, f'--config={spec}', f'--workdir={tmp_path}',
               '--slurm=gpu', '--launcher=slurm')
  assert out.returncode == 2 and not out.stdout
  assert out.stderr.startswith('error: --slurm=gpu: write --slurm=NAME=VALUE')
  assert len(out.stderr.splitlines()) == 1
