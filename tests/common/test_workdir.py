import json

import numpy as np
import pytest

from common import errors, workdir


@pytest.fixture
def run(tmp_path):
  (tmp_path / 'config.json').write_text('{"model": {"beta": 1.5}, "steps": 9}')
  (tmp_path / 'metrics.jsonl').write_text(
      '{"step": 1, "loss": 3.0}\n{"step": 5, "eval/nll": 2.0}\n'
      '{"step": 9, "loss": NaN}\n')
  (tmp_path / 'timing.jsonl').write_text('{"step": 9, "time/step_s": 0.5}\n')
  return tmp_path


def test_curves_hold_steps_and_values(run):
  found = workdir.read(run)
  assert found.config == {'model.beta': 1.5, 'steps': 9}
  assert found.notes == ()
  np.testing.assert_array_equal(found.curves['loss'], [[1, 9], [3, np.nan]])
  np.testing.assert_array_equal(found.curves['eval/nll'], [[5], [2.0]])
  np.testing.assert_array_equal(found.curves['time/step_s'], [[9], [0.5]])


def test_torn_lines_are_left_out_and_counted(run):
  with (run / 'metrics.jsonl').open('a') as f:
    f.write('[1]\n{"step": 10, "loss": "x"}\n{"loss": 1.0}\n{"step": 10, "lo')
  found = workdir.read(run)
  np.testing.assert_array_equal(found.curves['loss'][0], [1, 9])
  assert found.notes == (
      'metrics.jsonl: 4 of 7 lines cannot be read (the first is line 4)',)


def test_missing_and_torn_files_are_noted(run):
  (run / 'timing.jsonl').unlink()
  (run / 'results_test.json').write_text('{"step": 9, "met')
  found = workdir.read(run)
  assert found.results == {}
  assert found.notes == ('timing.jsonl is missing',
                         'results_test.json cannot be read')


@pytest.mark.parametrize('contents', [
    '', '[]', '{"step": 1}', '{"step": 1, "rows": 1, "metrics": [1]}',
    '{"step": 1, "rows": 1, "metrics": {"a": "b"}}'])
def test_half_results_are_none(tmp_path, contents):
  (tmp_path / 'results_test.json').write_text(contents)
  assert workdir.results(tmp_path, 'test') is None


def test_results_are_read_by_split(run):
  results = {'step': 9, 'rows': 3, 'metrics': {'eval/nll': 0.5}}
  for split in ('valid', 'test'):
    workdir.results_file(run, split).write_text(json.dumps(results))
  assert workdir.results(run, 'test') == results
  assert workdir.results(run, 'train') is None
  assert workdir.read(run).results == {'test': results, 'valid': results}


def test_samples_are_found_by_step_index_and_kind(run):
  folder = run / 'samples'
  folder.mkdir()
  for name in ('000009_00.wav', '000009_00.png', '1000000_01.mid', 'x_00.wav',
               '000009_00.wav.tmp'):
    (folder / name).touch()
  found = workdir.read(run).samples
  assert found == {
      9: {'00': {'wav': folder / '000009_00.wav',
                 'png': folder / '000009_00.png'}},
      1000000: {'01': {'mid': folder / '1000000_01.mid'}}}


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match='not a workdir'):
    workdir.read(tmp_path)


@pytest.mark.parametrize('value, text', [
    (0.41723, '0.4172'), (12.3456, '12.35'), (1e-5, '1e-05'), (20.0, '20'),
    (float('nan'), 'nan'), (float('-inf'), '-inf')])
def test_numbers_have_four_digits(value, text):
  assert workdir.number(value) == text
