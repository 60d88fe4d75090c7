"""Four virtual devices, no silent broadcasting, and small data sets."""

import hashlib
import os
import pathlib
import signal
import tempfile

import jax
import pytest

# A shell that starts us in the background has Ctrl-C ignored, in us and in all
# that we start; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = os.environ.get('JAX_COMPILATION_CACHE_DIR') or str(
    pathlib.Path('~/.cache/ostinato/jax').expanduser())

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', CACHE)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


@pytest.fixture(scope='session')
def data_dir() -> str:
  """The synthetic data sets at their smallest, made once for all workers."""
  from common import prepare
  from common.data import builders
  # Kept between runs; another generator makes another folder.
  code = hashlib.sha256(b''.join(
      path.read_bytes() for path in [
          ROOT / 'common' / 'synth.py',
          *sorted((ROOT / 'common' / 'data').rglob('*.py'))])).hexdigest()[:12]
  folder = os.path.join(tempfile.gettempdir(),
                        f'ostinato_tests_{os.getuid()}_{code}')
  for name in builders.BUILDERS:
    if name.startswith('synthetic_'):
      prepare.prepare(f'{name}/tiny', folder)
  return folder


@pytest.fixture(scope='session')
def environment() -> dict[str, str]:
  """For binaries in processes of their own: one device, the same cache."""
  return {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1',
          'JAX_COMPILATION_CACHE_DIR': CACHE, 'PYTHONPATH': str(ROOT)}
