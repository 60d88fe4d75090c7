"""What every binary does before its own work.

Parses flags, joins a cluster if asked, switches the compilation cache on, and
turns what a user can mend into one sentence and exit status 2.
"""

import errno
import functools
import os
import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

from common import config as config_lib
from common import errors

_CACHE = flags.DEFINE_string(
    'cache_dir', os.environ.get('JAX_COMPILATION_CACHE_DIR',
                                '~/.cache/ostinato/jax'),
    "Folder of compiled programs, kept between runs; '' switches it off.")


class _Step(flags.ArgumentParser):
  """Which checkpoint: its number, or 'best'."""

  syntactic_help = "a number or 'best'"

  def parse(self, argument):
    if argument == 'best' or isinstance(argument, int):
      return argument
    if not argument.isdecimal():
      raise ValueError(f"{argument!r} is neither a number nor 'best'")
    return int(argument)


# Shared flags, defined once however many binaries a process imports.


@functools.cache
def define_workdir() -> flags.FlagHolder:
  return flags.DEFINE_string('workdir', None, 'Folder of the run.',
                             required=True)


@functools.cache
def define_data_dir() -> flags.FlagHolder:
  return flags.DEFINE_string(
      'data_dir', None, 'Folder of prepared data sets (common.prepare). '
      'Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.')


@functools.cache
def define_batch_size() -> flags.FlagHolder:
  return flags.DEFINE_integer(
      'batch_size', None, "Rows at a time; changes no result. Default: the "
      "config's.", lower_bound=1)


@functools.cache
def define_step() -> flags.FlagHolder:
  return flags.DEFINE(
      _Step(), 'step', None, "A number, or 'best' where config.checkpoint.best "
      'is set. Default: the newest checkpoint.')


@functools.cache
def define_distributed() -> flags.FlagHolder:
  return flags.DEFINE_string(
      'distributed', None, "Join the other processes of this run: 'auto' "
      'finds Slurm, TPU pods, GKE and MPI; elsewhere HOST:PORT,COUNT,ID (the '
      'address of process 0, how many processes, the number of this one).')


@functools.cache
def define_config() -> None:
  config_flags.DEFINE_config_file(
      'config', None, 'Name of a config (lstm_jsb:tiny) or path to one; '
      'settings are changed by --config.NAME=VALUE.')


def run(main: Callable[[list[str]], None]) -> None:
  """Like absl.app.run, with errors a person can read."""
  logging.set_verbosity(logging.WARNING)
  logging.use_absl_handler()

  def guarded(argv):
    if len(argv) > 1:
      raise errors.UserError(f'unexpected argument {argv[1]!r}; flags are '
                             'written --name=value (see --help)')
    _start_jax()
    main(argv)

  for name in ('config', 'workdir', 'data_dir', 'step', 'distributed',
               'cache_dir'):
    if name in flags.FLAGS:  # Flags of ours that --help should show.
      flags.FLAGS.register_key_flag_for_module(
          sys.argv[0], flags.FLAGS._flags()[name])
  sys.unraisablehook = _unraisable
  app.run(lambda argv: _explain(guarded, argv),
          flags_parser=lambda argv: _explain(_parse, argv))


_WORKS = {  # What to do about it.
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT),
                    'free some space, or choose another folder'),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS),
                    'change its permissions, or choose another folder'),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
                    'give another path'),
}


def _unraisable(what):
  # Storage callbacks that come after a failed save; the failure is reported.
  if 'Event loop is closed' not in str(what.exc_value):
    sys.__unraisablehook__(what)


def _explain(fn, argv):
  try:
    return fn(argv)
  except errors.UserError as e:
    sys.stdout.flush()
    print(f'error: {e}', file=sys.stderr)
    sys.exit(2)
  except OSError as e:
    works = _WORKS.get(e.errno)
    if not works:
      raise
    print(f'error: cannot use {e.filename or "a file"}: {e.strerror}; {works}',
          file=sys.stderr)
    sys.exit(2)


def _parse(argv: list[str]) -> list[str]:
  argv = [_resolve(a, previous) for a, previous in zip(
      argv, ['', *argv], strict=False)]
  if spec := _given_config(argv):
    config_lib.load(spec)  # Its own errors are clearer than the flag's.
  try:
    return flags.FLAGS(argv)
  except flags.IllegalFlagValueError as e:
    raise errors.UserError(f'{e}; see --help') from None
  except flags.UnrecognizedFlagError as e:
    raise errors.UserError(_unknown(e.flagname, argv)) from None
  except flags.Error as e:
    raise errors.UserError(f'{e}; see --help') from None
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    # A wrong --config.KEY or a value of another type: config_flags says only
    # the name.
    raise errors.UserError(_bad_setting(argv, e)) from e


def _resolve(argument: str, previous: str) -> str:
  """--config=lstm_jsb:tiny -> --config=/.../configs/lstm_jsb.py:tiny."""
  flag, equals, value = argument.partition('=')
  if previous in ('--config', '-config'):
    flag, equals, value = '', '', argument
  elif flag not in ('--config', '-config') or not equals:
    return argument
  name, colon, size = value.partition(':')
  return f'{flag}{equals}{config_lib.find(name)}{colon}{size}'


def _given_config(argv: list[str]):
  for previous, a in zip(['', *argv], argv, strict=False):
    if a.startswith(('--config=', '-config=')):
      return a.partition('=')[2]
    if previous in ('--config', '-config'):
      return a
  return None


def _unknown(flag: str, argv: list[str]) -> str:
  if flag.startswith('config.'):
    if _given_config(argv):
      return _bad_setting(argv, None)
    return f'--{flag} needs a --config before it, like --config=lstm_jsb:tiny'
  return f'unknown flag --{flag}{errors.suggest(flag, flags.FLAGS)}'


def _bad_setting(argv: list[str], error: Exception | None) -> str:
  spec = _given_config(argv)
  known = config_lib.flatten(config_lib.load(spec)) if spec else {}
  for a in argv:
    key = a.lstrip('-').partition('=')[0]
    if key.startswith('config.'):
      key = key.removeprefix('config.')
      if key not in known:
        return (f'--config.{key}: {spec} has no setting {key!r}'
                f'{errors.suggest(key, known)}')
  return f'{type(error).__name__}: {error}; see --help'


def _start_jax() -> None:
  import jax  # Late: --help and a wrong flag should answer at once.

  if _CACHE.value:
    # A user without a home keeps the ~, which is then a folder's name.
    jax.config.update('jax_compilation_cache_dir',
                      os.path.expanduser(_CACHE.value))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  where = getattr(flags.FLAGS, 'distributed', None)
  if not where:
    return
  if where == 'auto':
    try:
      jax.distributed.initialize()
    except ValueError as e:
      raise errors.UserError(
          f'--distributed=auto found no cluster here ({e}); give '
          '--distributed=HOST:PORT,COUNT,ID') from None
    return
  try:
    address, count, number = where.split(',')
    count, number = int(count), int(number)
  except ValueError:
    raise errors.UserError(
        f"--distributed={where} is neither 'auto' nor HOST:PORT,COUNT,ID, for "
        'example 10.0.0.1:1234,2,0') from None
  jax.distributed.initialize(address, count, number)
