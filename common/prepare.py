"""Writes data sets to disk.

  python -m common.prepare --dataset=synthetic_notes/demo
  python -m common.prepare --list
"""

import pathlib
import time

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
    prepare(_DATASET.value, _DATA_DIR.value)


def listing() -> str:
  lines = []
  for name in sorted(builders.BUILDERS):
    cls = builders.builder_class(name)
    configs = ', '.join(c.name for c in cls.BUILDER_CONFIGS)
    lines.append(f'{name}/CONFIG  {cls.__doc__.splitlines()[0]}'
                 f'  CONFIG: {configs}')
  return '\n'.join(lines)


def prepare(names: list[str], data_dir=None) -> None:
  made = [builders.make(name, data_dir) for name in names]
  for name, builder in zip(names, made, strict=True):
    folder = pathlib.Path(builder.data_dir)
    if builders.newest(folder.parent) == folder:
      print(f'{name}: already complete in {folder}')
      continue
    begin = time.perf_counter()
    builder.prepare()
    seconds = time.perf_counter() - begin
    size = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())
    records = ', '.join(f'{split} {info.num_examples}'
                        for split, info in builder.info.splits.items())
    print(f'{name}: {records} records, {size / 1e6:.1f} MB in {seconds:.1f} s, '
          f'in {folder}')


if __name__ == '__main__':
  app.run(main)
