import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from common import errors, launch


def python(code):
  return [sys.executable, '-c', code]


def job(folder, *codes, name='run'):
  return launch.Job(name, folder / name, [python(c) for c in codes])


def wait_for(path, seconds=20):
  end = time.monotonic() + seconds
  while not path.exists():
    assert time.monotonic() < end, f'{path} never came'
    time.sleep(0.02)


def test_commands_run_in_order_with_their_output_in_one_log(tmp_path):
  assert job(tmp_path, 'print("one")', 'import sys\n'
             'print("two", file=sys.stderr)')() == ''
  log = (tmp_path / 'run' / 'log.txt').read_text()
  lines = [line for line in log.splitlines() if line in ('one', 'two')]
  assert lines == ['one', 'two']
  assert f'$ {sys.executable} -c' in log


def test_a_failure_ends_the_job_and_names_the_end_of_its_log(tmp_path):
  reason = job(tmp_path, 'for i in range(100): print("line", i)\nexit(3)',
               'open("never", "w")')()
  assert reason.startswith('status 3 of ')
  assert 'line 99' in reason and 'line 80' not in reason
  assert not (tmp_path / 'never').exists()


def test_only_one_process_runs_a_job(tmp_path):
  code = f'open({str(tmp_path / "on")!r}, "w"); input()'
  busy = subprocess.Popen(
      python('import fcntl, pathlib, sys\n'
             f'path = pathlib.Path({str(tmp_path)!r}, "run", "log.txt")\n'
             'path.parent.mkdir()\n'
             'f = path.open("ab")\n'
             'fcntl.flock(f, fcntl.LOCK_EX)\n' + code), stdin=subprocess.PIPE)
  wait_for(tmp_path / 'on')
  assert 'another process runs it now' in job(tmp_path, '')()
  busy.communicate(b'\n', timeout=20)
  assert job(tmp_path, '')() == ''


def test_no_more_jobs_at_once_than_allowed_and_failures_stop_none(tmp_path):
  # Each says when it ran.
  code = 'import time; a = time.time(); time.sleep(0.3); print(a, time.time())'
  jobs = [job(tmp_path, f'{code}\nexit({int(i == 1)})', name=str(i))
          for i in range(5)]
  said = []
  failures = launch.local(jobs, parallel=2, say=said.append)
  assert list(failures) == ['1'] and failures['1'].startswith('status 1')
  spans = []
  for i in range(5):
    log = (tmp_path / str(i) / 'log.txt').read_text()
    spans.append([float(x) for x in log.splitlines()[-1].split()])
  most = max(sum(a <= start < b for a, b in spans) for start, _ in spans)
  assert most == 2
  assert sorted(s.split()[0] for s in said) == (
      ['FAILED'] + ['done'] * 4 + ['start'] * 5)


def test_a_folder_that_cannot_be_made_fails_one_job_only(tmp_path):
  (tmp_path / 'a').write_text('a file')
  jobs = [job(tmp_path, '', name='a'), job(tmp_path, '', name='b')]
  assert list(launch.local(jobs, 1, say=lambda _: None)) == ['a']


@pytest.mark.parametrize('visible, parallel, shares', [
    ('', 2, [None, None]), ('0,1,2,3', 2, ['0,2', '1,3']),
    ('4,7', 2, ['4', '7']), ('5', 3, ['5', '5', '5'])])
def test_devices_are_dealt_out_to_jobs(visible, parallel, shares):
  assert [s.get('CUDA_VISIBLE_DEVICES')
          for s in launch._slots(visible, parallel)] == shares


@pytest.mark.parametrize('visible, parallel, parts', [
    ('', 1, [None]), ('', 2, ['0.450', '0.450']), ('4,7', 2, [None, None]),
    ('5', 3, ['0.300'] * 3), ('4,7', 3, ['0.450'] * 3)])
def test_jobs_that_share_a_gpu_share_its_memory(
    visible, parallel, parts, monkeypatch):
  name = 'XLA_PYTHON_CLIENT_MEM_FRACTION'
  monkeypatch.delenv(name, raising=False)
  assert [s.get(name) for s in launch._slots(visible, parallel)] == parts
  monkeypatch.setenv(name, '.2')
  assert all(name not in s for s in launch._slots(visible, parallel))


def test_each_job_sees_its_device(tmp_path, monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
  code = 'import os, time; print(os.environ["CUDA_VISIBLE_DEVICES"])'
  jobs = [job(tmp_path, code + '; time.sleep(0.5)', name=n) for n in 'ab']
  assert launch.local(jobs, 2, say=lambda _: None) == {}
  logs = [(tmp_path / n / 'log.txt').read_text().split()[-1] for n in 'ab']
  assert sorted(logs) == ['3', '5']


# Says that it runs, and when asked to stop, that it stops.
PATIENT = '''
import pathlib, signal, sys, time
here = pathlib.Path(%r)
def stop(*_):
  (here / 'stopped').touch()
  sys.exit(1)
signal.signal(signal.SIGTERM, stop)
(here / 'running').touch()
time.sleep(60)
'''


def test_interrupting_the_launcher_stops_its_jobs_and_starts_no_other(
    tmp_path, environment):
  code = f'''
import sys
from common import launch
run = lambda name, code: launch.Job(name, {str(tmp_path)!r} + '/' + name,
                                    [[sys.executable, '-c', code]])
launch.local([run('a', {PATIENT % str(tmp_path)!r}), run('b', '')], 1)
'''
  process = subprocess.Popen(
      python(code), stderr=subprocess.PIPE, env=environment)
  wait_for(tmp_path / 'running')
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=20)
  assert b'KeyboardInterrupt' in err
  assert (tmp_path / 'stopped').exists()
  assert not (tmp_path / 'b').exists()


def test_a_command_that_will_not_stop_is_killed(tmp_path, monkeypatch):
  monkeypatch.setattr(launch, '_GRACE_S', 0.2)
  path = tmp_path / 'running'
  deaf = job(tmp_path, 'import pathlib, signal, time\n'
             'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
             f'pathlib.Path({str(path)!r}).touch()\ntime.sleep(60)')
  reasons = []
  thread = threading.Thread(target=lambda: reasons.append(deaf()))
  thread.start()
  wait_for(path)
  began = time.monotonic()
  deaf.stop()
  thread.join(20)
  assert reasons == ['stopped'] and time.monotonic() - began < 10


def test_a_job_survives_pickling(tmp_path):
  copy = pickle.loads(pickle.dumps(job(tmp_path, 'print("here")')))
  assert copy() == '' and 'here' in (tmp_path / 'run' / 'log.txt').read_text()


def test_submitit_runs_the_jobs(tmp_path, monkeypatch, environment):
  pytest.importorskip('submitit')
  monkeypatch.setattr(launch, '_POLL_S', 0.05)
  monkeypatch.setenv('PYTHONPATH', environment['PYTHONPATH'])
  said = []
  failures = launch.slurm(
      [job(tmp_path, 'print("out there")', name='good'),
       job(tmp_path, 'exit(4)', name='bad')],
      None, tmp_path / 'slurm', {'timeout_min': 1}, said.append, 'local')
  assert list(failures) == ['bad'] and 'status 4' in failures['bad']
  assert 'out there' in (tmp_path / 'good' / 'log.txt').read_text()
  assert sorted(s.split()[0] for s in said) == [
      'FAILED', 'done', 'queued', 'queued']


def test_a_preempted_job_stops_its_command_and_is_queued_again(
    tmp_path, monkeypatch, environment):
  submitit = pytest.importorskip('submitit')
  monkeypatch.setenv('PYTHONPATH', environment['PYTHONPATH'])
  code = (f'import pathlib\nif pathlib.Path({str(tmp_path)!r}, "stopped")'
          '.exists(): print("second time"); exit(0)\n'
          + PATIENT % str(tmp_path))
  executor = submitit.AutoExecutor(tmp_path / 'slurm', cluster='local')
  executor.update_parameters(timeout_min=1)
  future = executor.submit(job(tmp_path, code))
  wait_for(tmp_path / 'running')
  # The controller passes it on, as Slurm does before a time limit.
  controller = future._process.pid
  children = f'/proc/{controller}/task/{controller}/children'
  os.kill(int(pathlib.Path(children).read_text()), signal.SIGUSR2)
  assert future.result() == ''
  log = (tmp_path / 'run' / 'log.txt').read_text()
  assert 'second time' in log


def test_slurm_without_slurm_is_refused(tmp_path):
  pytest.importorskip('submitit')
  with pytest.raises(errors.UserError, match=r'launcher=slurm: .*srun'):
    launch.slurm([job(tmp_path, '')], 1, tmp_path, {})


def test_a_wrong_slurm_parameter_is_refused(tmp_path):
  pytest.importorskip('submitit')
  with pytest.raises(errors.UserError, match=r'--slurm: .*slurm_partitoin'):
    launch.slurm([job(tmp_path, '')], 1, tmp_path, {'partitoin': 'gpu'},
                 cluster='local')


def test_slurm_without_submitit_names_the_command_to_install_it(
    tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'submitit', None)
  with pytest.raises(errors.UserError, match='pip install'):
    launch.slurm([], 1, tmp_path, {})
