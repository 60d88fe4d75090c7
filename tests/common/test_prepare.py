import os
import pathlib
import signal
import subprocess
import sys

import pytest

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


def test_an_interrupted_preparation_leaves_nothing_to_read(
    tmp_path, monkeypatch):
  make = synthetic.chorale
  stop = lambda split, i: make(split, i) if i < 20 else (
      signal.raise_signal(signal.SIGINT))
  with monkeypatch.context() as m:
    m.setattr('common.data.builders.synthetic.SyntheticChorales.example',
              staticmethod(stop))
    with pytest.raises(KeyboardInterrupt):
      prepare.prepare(NAME, tmp_path)
  assert not list((tmp_path / NAME).iterdir())
  with pytest.raises(errors.UserError, match='prepare it with'):
    builders.open_split(NAME, 'train', tmp_path)
  prepare.prepare(NAME, tmp_path)
  assert len(builders.open_split(NAME, 'train', tmp_path)) == 37


def test_a_killed_preparation_leaves_nothing_to_read(tmp_path):
  code = ('import os\n'
          'from common import app, prepare\n'
          'from common.data.builders import synthetic\n'
          'make = synthetic.SyntheticChorales.example\n'
          'synthetic.SyntheticChorales.example = staticmethod(lambda s, i: '
          "make(s, i) if s == 'train' else os.kill(os.getpid(), 9))\n")
  done = run(tmp_path, f'--dataset={NAME}', code=code)
  assert done.returncode == -signal.SIGKILL
  assert [p.name[:11] for p in (tmp_path / NAME).iterdir()] == ['incomplete.']
  with pytest.raises(errors.UserError, match='prepare it with'):
    builders.open_split(NAME, 'train', tmp_path)
  done = run(tmp_path, f'--dataset={NAME}')
  assert done.returncode == 0
  assert 'is left from a preparation that was killed' in done.stdout
  assert len(builders.open_split(NAME, 'valid', tmp_path)) == 11


def test_two_at_once_both_end_well(tmp_path):
  both = [subprocess.Popen(
      [sys.executable, '-m', 'common.prepare', f'--dataset={NAME}',
       f'--data_dir={tmp_path}'], cwd=ROOT, stdout=subprocess.PIPE, text=True)
      for _ in range(2)]
  assert [p.communicate(timeout=120) and p.returncode for p in both] == [0, 0]
  assert [p.name for p in (tmp_path / NAME).iterdir()] == ['1.0.0']


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


def test_help_shows_examples_and_every_flag():
  out = subprocess.run([sys.executable, '-m', 'common.prepare', '--help'],
                       cwd=ROOT, capture_output=True, text=True).stdout
  for words in ('python -m common.prepare --dataset=synthetic_notes/demo',
                '--data_dir:', '--dataset:', '--[no]list:'):
    assert words in out
