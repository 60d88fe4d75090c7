"""Commands side by side: on this machine, or as an array of Slurm jobs."""

import concurrent.futures
import contextlib
import fcntl
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import threading
import time

from common import errors

_GRACE_S = 120  # From SIGTERM to SIGKILL: a trainer saves in between.
_POLL_S = 5.0  # Between looks at Slurm's queue.
_STOPPED = 'stopped'
_LOG_LINES = 12  # Of a failed command's log that are shown.


class Job:
  """Commands one after the other, with one log; the first failure ends it."""

  def __init__(self, name: str, folder, commands: list[list[str]]):
    self.name, self.folder = name, pathlib.Path(folder)
    self.commands = commands
    self._process, self._stopped = None, False
    # Signal handlers of this thread may ask for it again.
    self._lock = threading.RLock()

  def __reduce__(self):
    return Job, (self.name, self.folder, self.commands)

  def __call__(self, environment=None) -> str:
    """Returns '' on success, else what went wrong."""
    self.folder.mkdir(parents=True, exist_ok=True)
    path = self.folder / 'log.txt'
    with path.open('ab') as log:
      # The commands inherit the lock with the file: a trainer that outlives
      # its sweep keeps a second one out.
      try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        return f'another process runs it now ({path} is locked)'
      except OSError:
        pass  # A file system without locks.
      for command in self.commands:
        with self._lock:
          if self._stopped:
            return _STOPPED
          log.write(f'\n$ {shlex.join(command)}\n'.encode())
          log.flush()
          # In a session of its own, Ctrl-C and Slurm's signals reach it only
          # through `stop`.
          self._process = subprocess.Popen(
              command, stdin=subprocess.DEVNULL, stdout=log,
              stderr=subprocess.STDOUT, start_new_session=True,
              env={**os.environ, **(environment or {})})
        status = self._process.wait()
        if self._stopped:
          return _STOPPED
        if status:
          return (f'status {status} of {shlex.join(command)}\n'
                  f'{path} ends in\n{_tail(path)}')
    return ''

  def stop(self) -> None:
    """Ends the command that runs, and starts no other; waits for it."""
    self.terminate()
    if self._process is None:
      return
    # The worker collects the process; this only watches it end.
    end = time.monotonic() + _GRACE_S
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
      while not os.waitid(os.P_PID, self._process.pid,
                          os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.monotonic() > end:
          os.killpg(self._process.pid, signal.SIGKILL)
        time.sleep(0.05)

  def terminate(self) -> None:
    with self._lock:
      self._stopped = True
      if self._process is not None and self._process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
          os.killpg(self._process.pid, signal.SIGTERM)

  def checkpoint(self):
    """submitit's hook before a time limit or preemption: queue it again."""
    import submitit

    self.stop()
    return submitit.helpers.DelayedSubmission(self)


def local(jobs: list[Job], parallel: int, say=print) -> dict[str, str]:
  """Runs at most `parallel` jobs at once; returns {name: reason} of failures.

  Where CUDA_VISIBLE_DEVICES lists devices, each job gets its share of them;
  jobs that share a GPU share its memory.
  When this is interrupted, the jobs are too.
  """
  slots = queue.SimpleQueue()
  for slot in _slots(os.environ.get('CUDA_VISIBLE_DEVICES', ''), parallel):
    slots.put(slot)

  def work(job):
    slot = slots.get()
    say(f'start   {job.name}')
    began = time.monotonic()
    try:
      reason = job(slot)
    except OSError as e:  # Its folder or its log cannot be written.
      reason = str(e)
    finally:
      slots.put(slot)
    say(_status(job, reason, time.monotonic() - began))
    return reason

  pool = concurrent.futures.ThreadPoolExecutor(parallel)
  futures = {job.name: pool.submit(work, job) for job in jobs}
  try:
    reasons = {name: future.result() for name, future in futures.items()}
  except BaseException:
    pool.shutdown(wait=False, cancel_futures=True)
    for job in jobs:
      job.terminate()
    for job in jobs:
      job.stop()
    pool.shutdown()
    raise
  pool.shutdown()
  return {name: reason for name, reason in reasons.items() if reason}


def slurm(jobs: list[Job], parallel: int | None, folder, parameters,
          say=print, cluster='slurm') -> dict[str, str]:
  """The same as an array of Slurm jobs; `parameters` are submitit's.

  Waits for them; when this is interrupted, they are cancelled.
  """
  try:
    import submitit
  except ImportError:
    raise errors.UserError('--launcher=slurm needs submitit: '
                           "pip install 'ostinato[sweep]'") from None
  try:
    executor = submitit.AutoExecutor(folder, cluster=cluster)
    executor.update_parameters(
        **{_named(k): v for k, v in parameters.items()},
        slurm_array_parallelism=parallel or len(jobs))
  except RuntimeError as e:  # No sbatch here.
    raise errors.UserError(
        f'--launcher=slurm: {e}; run it on a machine that submits to Slurm, or '
        'use --launcher=local') from None
  except (NameError, TypeError, ValueError) as e:
    raise errors.UserError(f'--slurm: {e}') from None
  with executor.batch():  # One array; each job is queued again by itself.
    submitted = [executor.submit(job) for job in jobs]
  waiting = dict(zip(jobs, submitted, strict=True))
  for job, future in waiting.items():
    say(f'queued  {job.name} as {future.job_id}')
  failures, began = {}, time.monotonic()
  try:
    while waiting:
      for job, future in list(waiting.items()):
        if not future.done():
          continue
        del waiting[job]
        try:
          reason = future.result()
        except Exception as e:  # Whatever made the job die out there.
          reason = f'{type(e).__name__}: {e}'
        say(_status(job, reason, time.monotonic() - began))
        if reason:
          failures[job.name] = reason
      if waiting:
        time.sleep(_POLL_S)
  except BaseException:
    for future in waiting.values():
      future.cancel()
    raise
  return failures


def _named(key: str) -> str:
  """'partition' -> 'slurm_partition', what submitit calls it."""
  shared = ('name', 'timeout_min', 'mem_gb', 'nodes', 'cpus_per_task',
            'gpus_per_node', 'tasks_per_node')
  return key if key in shared or key.startswith('slurm_') else f'slurm_{key}'


def _slots(visible: str, parallel: int) -> list[dict[str, str]]:
  """Environments of jobs that run at the same time: who sees which device."""
  devices = [d for d in visible.split(',') if d]
  if not devices:
    return [_of_memory(parallel)] * parallel
  shares = [devices[i::parallel] or [devices[i % len(devices)]]
            for i in range(parallel)]
  return [{'CUDA_VISIBLE_DEVICES': ','.join(s),
           **_of_memory(-(-parallel // len(devices)))} for s in shares]


def _of_memory(jobs: int) -> dict[str, str]:
  """JAX takes three quarters of a GPU, where other jobs need theirs."""
  name = 'XLA_PYTHON_CLIENT_MEM_FRACTION'
  if jobs == 1 or name in os.environ:
    return {}
  return {name: f'{0.9 / jobs:.3f}'}


def _status(job, reason, seconds) -> str:
  if not reason:
    return f'done    {job.name} in {seconds:.0f} s'
  if reason == _STOPPED:
    return f'stopped {job.name}'
  return f'FAILED  {job.name}: {reason}'


def _tail(path) -> str:
  with path.open('rb') as f:
    f.seek(max(0, path.stat().st_size - 8192))
    lines = f.read().decode(errors='replace').splitlines()
  return '\n'.join(f'  {line}' for line in lines[-_LOG_LINES:])
