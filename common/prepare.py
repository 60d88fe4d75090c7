"""Writes data sets to disk, where training finds them.

  python -m common.prepare --list
  python -m common.prepare --dataset=synthetic_notes/demo
  python -m common.prepare --dataset=synthetic_rolls/n2000,synthetic_notes/tiny

The synthetic sets are made up on the spot, of any size: nNUMBER has NUMBER
training examples and a tenth as many for validation and test.
"""

import pathlib
import sys
import time

import tensorflow_datasets as tfds
from absl import flags

from common import app, errors
from common.data import builders

_DATASET = flags.DEFINE_list(
    'dataset', [], 'What to prepare: BUILDER/CONFIG, several with commas '
    'between them. --list shows all.')
_LIST = flags.DEFINE_bool('list', False, 'List the data sets and stop.')
_DATA_DIR = app.define_data_dir()


def main(argv):
  del argv
  if _LIST.value:
    print(listing())
  elif not _DATASET.value:
    raise errors.UserError('--dataset is missing; give BUILDER/CONFIG, for '
                           'example --dataset=synthetic_notes/tiny, or --list')
  else:
    for name in _DATASET.value:  # A slip shows before hours of work.
      builders.make(name, _DATA_DIR.value)
    for name in _DATASET.value:
      prepare(name, _DATA_DIR.value)


def listing() -> str:
  """One line for each data set."""
  lines = []
  for name in sorted(builders.BUILDERS):
    cls = builders.builder_class(name)
    lines.append(f'{name:20} {cls.__doc__.splitlines()[0]} '
                 f'CONFIG: {", ".join(cls.config_names())}')
  return '\n'.join(lines)


def prepare(name: str, data_dir=None) -> None:
  """Writes a data set that is not there yet, and says what it wrote."""
  builder = builders.make(name, data_dir)
  folder = pathlib.Path(builder.data_dir)
  if _is_complete(folder):
    print(f'{name} is already complete in {folder}')
    return
  for stale in folder.parent.glob('incomplete.*'):
    print(f'{stale} is left from a preparation that was killed, unless one '
          'still runs; it can be deleted')
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  begin = time.perf_counter()
  try:
    builder.prepare()
  except OSError:
    if not _is_complete(folder):
      raise
    print(f'{name} was completed by another process in {folder}')
    return
  seconds = time.perf_counter() - begin
  size = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())
  records = ', '.join(f'{split} {info.num_examples}'
                      for split, info in builder.info.splits.items())
  print(f'{name}: {records} records, {size / 1e6:.1f} MB in {seconds:.1f} s, '
        f'in {folder}')


def _is_complete(folder: pathlib.Path) -> bool:
  return builders.newest(folder.parent) == folder


if __name__ == '__main__':
  app.run(main)
