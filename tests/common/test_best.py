"""The best step is kept, found again, and ends a run that gets no better."""

import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy

from common import best as best_lib
from common import config as config_lib
from common import errors, runs, trainer
from common.data import builders


@pytest.fixture(autouse=True)
def toy_data(monkeypatch):
  sizes = {'train': 37, 'valid': 11}
  monkeypatch.setattr(builders, 'open_split',
                      lambda name, split, data_dir: toy.Source(sizes[split]))


def follow(metric, values, patience=0):
  """Step of the best and whether it is over, after each value."""
  config = config_lib.default()
  config.checkpoint.best, config.checkpoint.patience = metric, patience
  position, seen = {}, []
  for step, value in enumerate(values, 1):
    # As if killed and resumed after each, through JSON.
    stored = json.loads(json.dumps(position))
    watched = best_lib.Best(config, stored.get('best'))
    watched.see(step, {'eval/x': value})
    position = watched.position()
    seen.append((watched.step, watched.is_over))
  return seen


@pytest.mark.parametrize('metric, values, steps', [
    ('eval/x', [3, 1, 2, 1, 0.5, 4], [1, 2, 2, 2, 5, 5]),  # A tie: the first.
    ('-eval/x', [3, 1, 4, 4, 5, -9], [1, 1, 3, 3, 5, 5]),
    ('eval/x', [math.nan, 2, math.nan, -math.inf, 1], [None, 2, 2, 2, 5])])
def test_the_best_is_the_first_of_the_lowest(metric, values, steps):
  assert [step for step, _ in follow(metric, values)] == steps


@pytest.mark.parametrize('patience, over_at', [(0, 99), (1, 3), (2, 7), (3, 8)])
def test_patience_counts_evaluations_that_are_no_better(patience, over_at):
  values = [3, 2, 2, 1, 0.5, 0.6, 0.5, 0.5]
  over = [over for _, over in follow('eval/x', values, patience)]
  assert over.index(True) + 1 == over_at if over_at < 99 else not any(over)


def test_another_metric_starts_anew():
  config = config_lib.default()
  config.checkpoint.best = 'eval/y'
  old = {'metric': 'eval/x', 'step': 3, 'value': -9.0, 'since': 4}
  assert best_lib.Best(config, old).step is None


def kept(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir())


def config_with(**changes):
  config = toy.get_config()
  config.model.second_stage = 10**6
  config.steps, config.eval_every, config.log_every = 20, 2, 3
  config.checkpoint.every, config.checkpoint.keep_last = 5, 1
  config.checkpoint.best = 'eval/off'
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize('changes, steps', [
    ({}, [6, 20]),  # 6 and 8 are as near to 7: the first.
    ({'checkpoint.best': '-eval/off'}, [20]),  # Away from 7, the last is best.
    ({'checkpoint.keep_every': 10}, [6, 10, 20]),
    ({'checkpoint.patience': 3, 'checkpoint.keep_last': 2}, [6, 10, 12])])
def test_the_best_step_stays_beside_the_last(tmp_path, changes, steps):
  trainer.fit(config_with(**changes), tmp_path)
  assert kept(tmp_path) == steps


def test_the_best_state_is_that_of_a_run_which_ended_there(tmp_path):
  trainer.fit(config_with(), tmp_path / 'a')
  run = runs.load(tmp_path / 'a', 'best')
  assert run.step == 6 and runs.load(tmp_path / 'a').step == 20
  short = trainer.fit(config_with(steps=6), tmp_path / 'b')
  jax.tree.map(np.testing.assert_array_equal, run.state, short)


def test_killed_anywhere_it_keeps_the_same_files_to_the_bit(
    tmp_path, monkeypatch):
  config = config_with(**{'checkpoint.patience': 3})
  state = trainer.fit(config, tmp_path / 'whole')
  real = trainer.jit_step
  left = []

  def dying(*args):
    step_fn = real(*args)

    def call(*args, **kwargs):
      if not left[0]:
        raise KeyboardInterrupt
      left[0] -= 1
      return step_fn(*args, **kwargs)
    return call

  monkeypatch.setattr(trainer, 'jit_step', dying)
  for most in (2, 6):  # Steps until it dies, again and again.
    workdir = tmp_path / str(most)
    for _ in range(20):
      left[:] = [most]
      try:
        again = trainer.fit(config, workdir)
        break
      except KeyboardInterrupt:
        most += 1  # Else it might never reach a save.
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert (workdir / 'metrics.jsonl').read_bytes() == (
        tmp_path / 'whole' / 'metrics.jsonl').read_bytes()
    assert kept(workdir) == kept(tmp_path / 'whole')
    assert runs.load(workdir, 'best').step == 6


def test_a_run_that_stopped_early_does_not_start_again(tmp_path, capsys):
  config = config_with(**{'checkpoint.patience': 2})
  state = trainer.fit(config, tmp_path)
  assert int(state.step) == 10
  said = capsys.readouterr().out
  assert 'best: eval/off 1 at step 6; stopped early: 2 evaluations' in said
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  again = trainer.fit(config, tmp_path)
  jax.tree.map(np.testing.assert_array_equal, again, state)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before
  assert 'stopped early' in capsys.readouterr().out
  # With more patience it goes on, to the end of one that had it at once.
  config.checkpoint.patience = 4
  trainer.fit(config, tmp_path)
  trainer.fit(config, tmp_path.parent / 'patient')
  assert (tmp_path / 'metrics.jsonl').read_bytes() == (
      tmp_path.parent / 'patient' / 'metrics.jsonl').read_bytes()


def test_a_run_that_stops_early_has_samples_of_its_last_step(tmp_path):
  trainer.fit(config_with(**{'checkpoint.patience': 2, 'sample_every': 0}),
              tmp_path)
  assert {p.name[:6] for p in (tmp_path / 'samples').iterdir()} == {'000010'}


def test_a_torn_newest_checkpoint_does_not_hide_the_best(tmp_path):
  trainer.fit(config_with(**{'checkpoint.keep_last': 2}), tmp_path)
  for path in (tmp_path / 'checkpoints' / '20' / 'position').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')
  assert runs.load(tmp_path, 'best').step == 6


@pytest.mark.parametrize('changes, sentence', [
    ({'checkpoint.best': 'eval/of'}, "checkpoint.best='eval/of' is nothing "
     "that an evaluation reports; did you mean 'eval/off'"),
    ({'checkpoint.best': '', 'checkpoint.patience': 1},
     'checkpoint.patience=1 needs checkpoint.best'),
    ({'checkpoint.patience': -1}, 'checkpoint.patience=-1 is below 0')])
def test_wrong_settings_are_one_sentence(tmp_path, changes, sentence):
  with pytest.raises(errors.UserError, match=sentence):
    trainer.fit(config_with(**changes), tmp_path / 'run')


def test_a_run_without_a_best_step_says_so(tmp_path):
  trainer.fit(config_with(**{'checkpoint.best': ''}), tmp_path)
  with pytest.raises(errors.UserError, match='keeps no best step'):
    runs.load(tmp_path, 'best')


def test_binaries_take_the_best_step(data_dir, environment, tmp_path,
                                     monkeypatch):
  monkeypatch.undo()  # Real data.
  config = config_lib.load('lstm_jsb:tiny')
  config.checkpoint.best = '-eval/nll'  # It falls: the first is best.
  trainer.fit(config, tmp_path, data_dir)

  def run(binary, *given):
    return subprocess.run(
        [sys.executable, '-m', binary, f'--workdir={tmp_path}', *given],
        env=environment, capture_output=True, text=True)

  found = run('common.evaluate', f'--data_dir={data_dir}', '--step=best')
  assert found.returncode == 0, found.stderr
  results = json.loads((tmp_path / 'results_valid.json').read_text())
  assert results['step'] == 2 and runs.load(tmp_path).step == 4
  assert 'step 2, ' in found.stdout
  found = run('common.generate', '--step=bets')
  assert found.returncode == 2
  assert "'bets' is neither a number nor 'best'" in found.stderr
