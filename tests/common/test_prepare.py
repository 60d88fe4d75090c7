import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
import toy_set

from common import errors, prepare
from common.data import builders, synthetic

NAME = 'synthetic_chorales/tiny'
ROOT = pathlib.Path(prepare.__file__).parents[1]


def run(folder, *arguments, code='from common import app, prepare\n'):
  """The binary in a process of its own, with `code` before it."""
  return subprocess.run(
      [sys.executable, '-c', code + 'app.run(prepare.main)', *arguments],
      cwd=ROOT, env={**os.environ, 'TFDS_DATA_DIR': str(folder)},
      capture_output=True, text=True, timeout=120)


def test_it_says_what_it_wrote_and_then_that_it_is_there(tmp_path, capsys):
  prepare.prepare(NAME, tmp_path)
  out = capsys.readouterr().out
  assert out.startswith(f'{NAME}: train 37, valid 11, test 5 records, ')
  assert ' MB in ' in out and str(tmp_path) in out and out.count('\n') == 1
  written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}
  prepare.prepare(NAME, tmp_path)
  assert capsys.readouterr().out.startswith(f'{NAME} is already complete in ')
  assert written == {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}


def test_the_report_counts_what_was_read_and_skipped(
    tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(builders.BUILDERS, 'toy_set', 'toy_set:ToySet')
  monkeypatch.setattr(toy_set.ToySet, 'PUBLISHED', {
      'tiny': {'train': {'examples': 1234}}})
  toy_set.make(tmp_path, train_3=b'filtered', train_4=b'filtered', train_5=b'?')
  prepare.prepare('toy_set/tiny', tmp_path / 'data', tmp_path / 'manual')
  lines = capsys.readouterr().out.splitlines()
  folder = tmp_path / 'data/toy_set/tiny/1.0.0'
  assert lines[0].startswith('toy_set/tiny: train 20, valid 4 records, ')
  assert lines[1].startswith(
      '  train: 23 read, 20 numbers, 0.01 hours, 2 skipped: filtered out, '
      '1 skipped: unexpected ValueError (toy_set.py:')
  assert lines[2:] == [
      '  valid: 4 read, 4 numbers, 0.00 hours',
      f'  {folder}/skipped.tsv names the 3 skipped',
      '  warning: train has 20 examples, the published data set has 1,234']
  assert json.loads((folder / 'report.json').read_text())['splits']['train'][
      'units'] == 23


def test_the_report_says_when_all_is_as_published(
    tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(builders.BUILDERS, 'toy_set', 'toy_set:ToySet')
  monkeypatch.setattr(toy_set.ToySet, 'PUBLISHED', {
      'tiny': {'train': {'examples': 23, 'numbers': 23}}})
  toy_set.make(tmp_path)
  prepare.prepare('toy_set/tiny', tmp_path / 'data', tmp_path / 'manual')
  assert capsys.readouterr().out.splitlines()[-1] == (
      '  as published: train 23 examples, train 23 numbers')


def test_the_bar_is_one_line_on_a_terminal(capsys, monkeypatch):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
  now = iter([0, 1, 1.1, 2, 3])
  monkeypatch.setattr(prepare.time, 'perf_counter', lambda: next(now))
  bar = prepare._Bar('a/b', {'train': {'examples': 4000}})
  bar('train', 10, 10, 0)  # The clock of the split starts here.
  bar('train', 20, 19, 1)  # Too soon.
  bar('train', 1010, 1000, 10)
  bar('valid', 1, 1, 0)
  bar.clear()
  assert capsys.readouterr().err == (
      '\r\033[Ka/b train: 10 read, 10 written, 0 skipped, 0/s, 0%'
      '\r\033[Ka/b train: 1,010 read, 1,000 written, 10 skipped, 1,000/s, 25%'
      '\r\033[Ka/b valid: 1 read, 1 written, 0 skipped, 0/s'
      '\r\033[K')


def test_an_interrupted_preparation_leaves_nothing_to_read_and_goes_on(
    tmp_path, monkeypatch):
  make = synthetic.chorale
  stop = lambda split, i: make(split, i) if i < 20 else (
      signal.raise_signal(signal.SIGINT))
  with monkeypatch.context() as m:
    m.setattr('common.data.builders.synthetic.SyntheticChorales.make',
              staticmethod(stop))
    with pytest.raises(KeyboardInterrupt):
      prepare.prepare(NAME, tmp_path)
  assert [p.name for p in (tmp_path / NAME).iterdir()] == ['incomplete.1.0.0']
  with pytest.raises(errors.UserError, match='prepare it with'):
    builders.open_split(NAME, 'train', tmp_path)
  prepare.prepare(NAME, tmp_path)
  assert len(builders.open_split(NAME, 'train', tmp_path)) == 37
  assert [p.name for p in (tmp_path / NAME).iterdir()] == ['1.0.0']


DIE_AT_VALID = (
    'import os, signal\n'
    'from common import app, prepare\n'
    'from common.data.builders import synthetic\n'
    'make = synthetic.SyntheticChorales.make\n'
    'synthetic.SyntheticChorales.make = staticmethod(lambda s, i: '
    "make(s, i) if s == 'train' else os.kill(os.getpid(), signal.SIG{}))\n")


def test_a_killed_preparation_leaves_nothing_to_read_and_goes_on(tmp_path):
  done = run(tmp_path, f'--dataset={NAME}', '--workers=0',
             code=DIE_AT_VALID.format('KILL'))
  assert done.returncode == -signal.SIGKILL
  assert sorted(p.name for p in (tmp_path / NAME).iterdir()) == [
      'incomplete.1.0.0', 'incomplete.1.0.0.lock']
  with pytest.raises(errors.UserError, match='prepare it with'):
    builders.open_split(NAME, 'train', tmp_path)
  done = run(tmp_path, f'--dataset={NAME}')
  assert done.returncode == 0
  assert done.stderr == ('going on with what is in '
                         f'{tmp_path}/{NAME}/incomplete.1.0.0\n')
  assert len(builders.open_split(NAME, 'valid', tmp_path)) == 11
  assert [p.name for p in (tmp_path / NAME).iterdir()] == ['1.0.0']


def test_ctrl_c_ends_with_one_line(tmp_path):
  done = run(tmp_path, f'--dataset={NAME}', '--workers=0',
             code=DIE_AT_VALID.format('INT'))
  assert done.returncode == 130
  assert done.stderr == '\nstopped; the same command goes on from here\n'


def test_two_at_once_both_end_well(tmp_path):
  both = [subprocess.Popen(
      [sys.executable, '-m', 'common.prepare', f'--dataset={NAME}',
       f'--data_dir={tmp_path}'], cwd=ROOT, stdout=subprocess.PIPE, text=True)
      for _ in range(2)]
  assert [p.communicate(timeout=120) and p.returncode for p in both] == [0, 0]
  assert [p.name for p in (tmp_path / NAME).iterdir()] == ['1.0.0']


def test_the_second_one_waits_for_the_first(tmp_path, capsys):
  from common.data import shards
  path = tmp_path / 'x.lock'
  with shards._lock(path, pytest.fail):
    code = ('import pathlib, sys\nfrom common.data import shards\n'
            'with shards._lock(pathlib.Path(sys.argv[1]), lambda line: '
            'print(line, flush=True)):\n  print("mine")\n')
    other = subprocess.Popen([sys.executable, '-c', code, str(path)], cwd=ROOT,
                             stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline().startswith('another process is preparing')
    assert other.poll() is None
  assert other.communicate(timeout=60)[0] == 'mine\n'
  assert not path.exists()


def test_the_list_has_a_line_for_each_data_set():
  lines = prepare.listing().splitlines()
  assert len(lines) == len(builders.BUILDERS)
  for line, name in zip(lines, sorted(builders.BUILDERS), strict=True):
    assert line.startswith(name + ' ') and 'CONFIG: ' in line


def test_a_wrong_name_is_one_sentence_before_any_work(tmp_path):
  done = run(tmp_path, f'--dataset={NAME},synthetic_role/tiny')
  assert done.returncode == 2
  assert done.stderr == ("error: dataset 'synthetic_role' does not exist; did "
                         "you mean 'synthetic_rolls'?\n")
  assert not list(tmp_path.iterdir())


def test_no_name_is_one_sentence(tmp_path):
  done = run(tmp_path)
  assert done.returncode == 2
  assert done.stderr.startswith('error: --dataset is missing; give BUILDER/')
  assert done.stderr.count('\n') == 1


def test_files_that_are_not_there_are_one_sentence(tmp_path):
  done = run(tmp_path, '--dataset=audio_folder/drums', '--manual_dir=/nowhere')
  assert done.returncode == 2
  assert done.stderr == (
      'error: dataset audio_folder/drums: there is no folder /nowhere; give '
      'the one with your files as --manual_dir\n')


def test_workers_are_asked_for_by_a_flag(tmp_path):
  code = ('from common import app, prepare\n'
          'from common.data import decoding, shards\n'
          'def workers(decoder, count):\n'
          '  print("workers", count)\n'
          '  return decoding_workers(decoder, 0)\n'
          'decoding_workers = decoding.Workers\n'
          'decoding.Workers = workers\n')
  done = run(tmp_path, f'--dataset={NAME}', '--workers=7', code=code)
  assert done.stdout.startswith('workers 7\n') and done.returncode == 0
  done = run(tmp_path, f'--dataset={NAME}', '--workers=-1')
  assert done.returncode == 2 and 'workers' in done.stderr


def test_help_shows_examples_and_every_flag():
  out = subprocess.run([sys.executable, '-m', 'common.prepare', '--help'],
                       cwd=ROOT, capture_output=True, text=True).stdout
  for words in ('python -m common.prepare --dataset=synthetic_notes/demo',
                '--data_dir:', '--dataset:', '--[no]list:', '--manual_dir:',
                '--workers:', '--[no]verify:', '--beam:'):
    assert words in out
