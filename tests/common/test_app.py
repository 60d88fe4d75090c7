"""The sentences a user reads, from the real binaries."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from common import app


def run(environment, *argv, module='common.train'):
  return subprocess.run([sys.executable, '-m', module, *argv],
                        capture_output=True, text=True, timeout=240,
                        env=environment, check=False)


@pytest.mark.parametrize('argv, sentence', [
    (['--config=lstm_jbs'], "did you mean 'lstm_jsb'"),
    (['--config=lstm_jsb:tinny'], "did you mean 'tiny'"),
    (['--config=lstm_jsb:tiny', '--config.model.lenght=3'],
     "no setting 'model.lenght'; did you mean 'model.length'"),
    (['--config=lstm_jsb:tiny', '--config.steps=many'], 'config.steps'),
    (['--config=lstm_jsb:tiny', '--confi.steps=1'], 'confi.steps'),
    (['--config=lstm_jsb:tiny', 'stray'], "unexpected argument 'stray'"),
    ([], '--config is missing'),
    (['--config=lstm_jsb:tiny', '--data_dir=/nowhere'],
     'python -m common.prepare --dataset=synthetic_chorales/tiny '
     '--data_dir=/nowhere'),
    (['--config=lstm_jsb:tiny', '--config.batch_size=0'], 'batch_size=0'),
    (['--config=lstm_jsb:tiny', '--distributed=here'], 'HOST:PORT,COUNT,ID'),
])
def test_a_mistake_is_one_sentence_and_status_2(
    argv, sentence, environment, tmp_path):
  done = run(environment, f'--workdir={tmp_path}/w', *argv)
  assert done.returncode == 2, done.stderr
  lines = [x for x in done.stderr.splitlines() if x.strip()]
  assert len(lines) == 1 and lines[0].startswith('error: '), done.stderr
  assert sentence in lines[0]


def test_a_missing_workdir_flag_is_named(environment):
  done = run(environment, '--config=lstm_jsb:tiny')
  assert done.returncode == 2 and '--workdir' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('module', ['evaluate', 'generate'])
def test_a_folder_without_a_run_is_named(module, environment, tmp_path):
  done = run(environment, f'--workdir={tmp_path}', module=f'common.{module}')
  assert done.returncode == 2
  assert done.stderr.strip() == (
      f'error: {tmp_path} is not a workdir: it has no config.json; give the '
      '--workdir of a run of common.train')


@pytest.mark.parametrize('module', [
    'train', 'evaluate', 'generate', 'prepare', 'report', 'sweep'])
def test_help_shows_commands_and_flags(module, environment):
  done = run(environment, '--help', module=f'common.{module}')
  assert f'python -m common.{module} ' in done.stdout  # An example.
  assert '--' in done.stdout and 'Traceback' not in done.stderr


@pytest.mark.parametrize('number', [
    errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR])
def test_a_path_that_cannot_be_used_is_named(number, capsys):
  def fails(argv):
    raise OSError(number, os.strerror(number), '/some/file')
  with pytest.raises(SystemExit) as stopped:
    app._explain(fails, [])
  assert stopped.value.code == 2
  err = capsys.readouterr().err
  assert '/some/file' in err and os.strerror(number) in err


def test_other_errors_keep_their_traceback():
  with pytest.raises(ZeroDivisionError):
    app._explain(lambda argv: 1 / 0, [])
  with pytest.raises(FileNotFoundError):
    app._explain(lambda argv: pathlib.Path('/nowhere').read_text(), [])


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_no_write_permission(environment, tmp_path, data_dir):
  tmp_path.chmod(0o500)
  done = run(environment, '--config=lstm_jsb:tiny', f'--data_dir={data_dir}',
             f'--workdir={tmp_path}/w')
  assert done.returncode == 2 and f'{tmp_path}/w' in done.stderr
