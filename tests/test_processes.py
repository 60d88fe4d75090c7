"""Runs that are killed, stopped, starved of disk, or spread over processes.

All through the real binary, in processes of their own.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from common import runs

CONFIG = ('--config=lstm_jsb:tiny', '--config.log_every=5',
          '--config.eval_every=50', '--config.sample_every=0',
          '--config.num_samples=0')


def start(environment, workdir, data_dir, *flags, prefix=()):
  return subprocess.Popen(
      [*prefix, sys.executable, '-m', 'common.train', *CONFIG,
       f'--workdir={workdir}', f'--data_dir={data_dir}', *flags],
      env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      text=True)


def finish(process, status=0):
  out, _ = process.communicate(timeout=240)
  assert process.returncode == status, out
  return out


def wait_for(condition, process, seconds=120):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end and process.poll() is None, (
        process.communicate()[0])
    time.sleep(0.001)


def assert_same_run(a, b):
  metrics = [(w / 'metrics.jsonl').read_bytes() for w in (a, b)]
  assert metrics[0] == metrics[1]
  x, y = runs.load(a), runs.load(b)
  assert x.step == y.step
  jax.tree.map(np.testing.assert_array_equal, x.state, y.state)


def test_killed_at_twenty_moments_a_run_ends_bit_equal(
    environment, data_dir, tmp_path):
  steps = 800
  flags = (f'--config.steps={steps}', '--config.checkpoint.every=8')
  finish(start(environment, tmp_path / 'whole', data_dir, *flags))

  workdir, inside_a_save = tmp_path / 'killed', 0
  checkpoints = workdir / 'checkpoints'
  rng = random.Random(0)
  newest = lambda: max((int(p.name) for p in checkpoints.glob('*')
                        if p.name.isdigit()), default=0)
  saving = lambda: any(checkpoints.glob('*tmp*'))
  for kill in range(20):
    process = start(environment, workdir, data_dir, *flags)
    # Let it get one save further at the least, then kill it: every other time
    # inside a save, else at a random moment.
    begun = newest()
    wait_for(lambda b=begun: newest() > b, process)
    if kill % 2:
      wait_for(saving, process)
    time.sleep(rng.random() * (0.004 if kill % 2 else 0.03))
    inside_a_save += saving()
    process.kill()
    process.communicate()
    assert newest() < steps, 'too fast to be killed twenty times'
  finish(start(environment, workdir, data_dir, *flags))
  assert inside_a_save >= 3
  assert_same_run(tmp_path / 'whole', workdir)


@pytest.mark.parametrize('joined', [False, True])
def test_sigterm_saves_and_the_same_command_goes_on(
    joined, environment, data_dir, tmp_path):
  flags = ('--config.steps=3000', '--config.checkpoint.every=0')
  alone = [f'--distributed=127.0.0.1:{free_port()},1,0'] * joined
  process = start(environment, tmp_path / 'w', data_dir, *flags, *alone)
  metrics = tmp_path / 'w' / 'metrics.jsonl'
  wait_for(lambda: metrics.exists() and metrics.read_text().count('\n') > 5,
           process)
  process.send_signal(signal.SIGTERM)
  sent = time.monotonic()
  out = finish(process, status=128 + signal.SIGTERM)
  assert time.monotonic() - sent < 10
  saved = runs.load(tmp_path / 'w').step
  assert f'step {saved} is saved' in out
  last = json.loads(metrics.read_text().splitlines()[-1])['step']
  assert last <= saved <= last + 10
  out = finish(start(environment, tmp_path / 'w', data_dir,
                     f'--config.steps={saved + 2}', *flags[1:]))
  assert f'from step {saved} to {saved + 2}' in out


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def test_two_processes_of_two_devices_train_as_one(
    environment, data_dir, tmp_path):
  flags = ('--config.steps=20', '--config.checkpoint.every=10',
           '--config.mesh.fsdp=2')
  one = finish(start(environment, tmp_path / 'one', data_dir, *flags[:2]))
  two = {**environment, 'JAX_NUM_CPU_DEVICES': '2'}
  port = free_port()
  both = [start(two, tmp_path / 'two', data_dir, *flags,
                f'--distributed=127.0.0.1:{port},2,{i}') for i in range(2)]
  outs = [finish(p) for p in both]
  assert 'processes 2' in outs[0] and 'step' not in outs[1]  # One speaks.
  rows = lambda out: re.findall(r'\((\d+) rows\)', out)
  assert rows(one) and rows(one) == rows(outs[0])
  read = lambda w: [json.loads(x) for x in
                    (tmp_path / w / 'metrics.jsonl').read_text().splitlines()]
  for a, b in zip(read('one'), read('two'), strict=True):
    assert a.keys() == b.keys()
    for k in a:
      np.testing.assert_allclose(b[k], a[k], rtol=1e-5, err_msg=k)

  # The checkpoint of two processes goes on in one, on one device.
  for w in ('one', 'two'):
    out = finish(start(environment, tmp_path / w, data_dir,
                       '--config.steps=25', flags[1]))
    assert 'from step 20 to 25' in out
  a, b = read('one')[-1], read('two')[-1]
  assert a['step'] == 25
  np.testing.assert_allclose([b[k] for k in a], [a[k] for k in a], rtol=1e-5)


def can_mount():
  return shutil.which('unshare') and subprocess.run(
      ['unshare', '-Urm', 'true'], capture_output=True,
      check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason='needs user namespaces')
def test_a_full_disk_is_one_sentence_and_keeps_the_last_checkpoint(
    environment, data_dir, tmp_path):
  small = tmp_path / 'small'
  small.mkdir()
  script = (f'mount -t tmpfs -o size=2m tmpfs {small} && "$@"; s=$?; '
            f'ls {small}/w/checkpoints; exit $s')
  out = finish(start(
      environment, small / 'w', data_dir, '--config.steps=2000',
      '--config.checkpoint.every=2', '--config.checkpoint.keep_last=100',
      prefix=('unshare', '-Urm', 'sh', '-c', script, 'sh')), status=2)
  error, = [x for x in out.splitlines() if x.startswith('error: ')]
  assert str(small / 'w') in error and 'space' in error
  assert 'Traceback' not in out
  kept = [x for x in out.splitlines() if x.isdigit()]
  assert kept, out


def test_binaries_say_nothing_on_stderr_when_all_is_well(
    environment, data_dir, tmp_path):
  done = subprocess.run(
      [sys.executable, '-m', 'common.train', *CONFIG, '--config.steps=2',
       f'--workdir={tmp_path}', f'--data_dir={data_dir}'],
      env=environment, capture_output=True,
      text=True, timeout=240, check=True)
  assert done.stderr == ''
  assert os.path.exists(tmp_path / 'checkpoints' / '2')
