"""Writes data sets to disk, where training finds them.

  python -m common.prepare --list
  python -m common.prepare --dataset=synthetic_notes/demo
  python -m common.prepare --dataset=nsynth/full --manual_dir=downloads
  python -m common.prepare --dataset=audio_folder/drums --manual_dir=my/drums

--manual_dir is the folder with the published archives, as they were downloaded
or unpacked; for audio_folder and midi_folder it is the folder with your files.
Stopped or killed, the same command goes on where it was. Beside the data lie
report.json and skipped.tsv, which names each file that was left out, and why.

The synthetic sets are made up on the spot, of any size: nNUMBER has NUMBER
training examples and a tenth as many for validation and test.
"""

import os
import pathlib
import sys
import time

from absl import flags

from common import app, errors
from common.data import builders

_DATASET = flags.DEFINE_list(
    'dataset', [], 'What to prepare: BUILDER/CONFIG, several with commas '
    'between them. --list shows all.')
_LIST = flags.DEFINE_bool('list', False, 'List the data sets and stop.')
_DATA_DIR = app.define_data_dir()
_MANUAL_DIR = flags.DEFINE_string(
    'manual_dir', None, 'Folder with the archives or files to read. Default: '
    'downloads/manual in the data folder.')
# Those that this process may use, where the system tells.
_CORES = (len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
          else os.cpu_count() or 1)
_WORKERS = flags.DEFINE_integer(
    'workers', _CORES, 'Processes that decode beside '
    'this one; 0: none. What is written does not depend on it.', lower_bound=0)
_VERIFY = flags.DEFINE_bool(
    'verify', False, "Compare the archives' sha256 with the published ones, "
    'too; sizes are always compared.')
_BEAM = flags.DEFINE_string(
    'beam', None, 'Decode on Apache Beam with these options of its own, for '
    "example '--runner=FlinkRunner --flink_master=HOST:PORT'. All machines "
    'must see the data folder and the manual folder by the same names.')


def main(argv):
  del argv
  if _LIST.value:
    print(listing())
    return
  if not _DATASET.value:
    raise errors.UserError('--dataset is missing; give BUILDER/CONFIG, for '
                           'example --dataset=synthetic_notes/tiny, or --list')
  options = {'workers': _WORKERS.value, 'verify': _VERIFY.value}
  if _BEAM.value is not None:
    from common.data import beam
    options['write'] = beam.writer(_BEAM.value)
  for name in _DATASET.value:  # A slip shows before hours of work.
    builders.make(name, _DATA_DIR.value, _MANUAL_DIR.value)
  try:
    for name in _DATASET.value:
      prepare(name, _DATA_DIR.value, _MANUAL_DIR.value, **options)
  except KeyboardInterrupt:
    print('\nstopped; the same command goes on from here', file=sys.stderr)
    sys.exit(130)


def listing() -> str:
  """One line for each data set."""
  lines = []
  for name in sorted(builders.BUILDERS):
    cls = builders.builder_class(name)
    lines.append(f'{name:20} {cls.__doc__.splitlines()[0]} '
                 f'CONFIG: {", ".join(cls.config_names())}')
  return '\n'.join(lines)


def prepare(name: str, data_dir=None, manual_dir=None, **options) -> None:
  """Writes a data set that is not there yet, and says what it wrote.

  The options are those of `shards.prepare`.
  """
  builder = builders.make(name, data_dir, manual_dir)
  folder = pathlib.Path(builder.data_dir)
  bar = _Bar(name, builder.PUBLISHED.get(builder.builder_config.name, {}))
  began = time.perf_counter()
  try:
    report = builder.prepare(progress=bar, say=bar.say, **options)
  finally:
    bar.clear()
  if report is None:
    print(f'{name} is already complete in {folder}')
    return
  print(summary(name, report, folder, time.perf_counter() - began))


def summary(name: str, report: dict, folder: pathlib.Path, seconds: float
            ) -> str:
  """What a person wants to know at the end."""
  size = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())
  records = ', '.join(f'{split} {count["examples"]}'
                      for split, count in report['splits'].items())
  lines = [f'{name}: {records} records, {size / 1e6:.1f} MB in {seconds:.1f} '
           f's, in {folder}']
  lost = 0
  for split, count in report['splits'].items():
    more = [f'{v:,.2f} {k}' if isinstance(v, float) else f'{v:,} {k}'
            for k, v in count.items()
            if k not in ('units', 'examples', 'bytes', 'skipped')]
    for reason, n in count['skipped'].items():
      more.append(f'{n:,} skipped: {reason}')
      lost += n
    if more:
      lines.append(f'  {split}: {count["units"]:,} read, ' + ', '.join(more))
  if lost:
    lines.append(f'  {folder / "skipped.tsv"} names the {lost:,} skipped')
  lines += [f'  warning: {warning}' for warning in report['warnings']]
  if report['checked'] and not report['warnings']:
    lines.append(f'  as published: {", ".join(report["checked"])}')
  return '\n'.join(lines)


class _Bar:
  """One line that changes on a terminal; in a file, a line now and then."""

  def __init__(self, name, published):
    self._name, self._published = name, published
    self._is_terminal = sys.stderr.isatty()
    self._every_s = 0.2 if self._is_terminal else 60.0
    self._split, self._began = '', (0, 0.0)
    self._last = time.perf_counter()

  def __call__(self, split, read, examples, skipped):
    now = time.perf_counter()
    if split != self._split:
      self._split, self._began = split, (read, now)
    if now - self._last < self._every_s:
      return
    self._last = now
    rate = (read - self._began[0]) / max(now - self._began[1], 1e-3)
    line = (f'{self._name} {split}: {read:,} read, {examples:,} written, '
            f'{skipped:,} skipped, {rate:,.0f}/s')
    if whole := self._published.get(split, {}).get('examples'):
      line += f', {examples / whole:.0%}'
    self._print(line)

  def say(self, line):
    self.clear()
    print(line, file=sys.stderr)

  def clear(self):
    if self._is_terminal:
      self._print('')

  def _print(self, line):
    print(f'\r\033[K{line}' if self._is_terminal else line, file=sys.stderr,
          end='' if self._is_terminal else '\n', flush=True)


if __name__ == '__main__':
  app.run(main)
