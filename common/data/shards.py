"""Writes a data set: units -> examples -> shards of ArrayRecord -> TFDS.

Where a shard ends depends on the stream of units alone, so the files are the
same with any number of workers and however often the work was interrupted: a
shard that is done has a small json file beside it and is not made again.
"""

import collections
import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_serializer, naming

from common import errors
from common.data.builders import base

IN_FLIGHT_BYTES = 64 << 20  # Of units that workers have or that wait for them.
_PROGRESS = 'progress'  # Folder of what a restart needs.


def prepare(builder: base.Builder, *, workers: int = 0, verify: bool = False,
            progress: Callable[[str, int, int], None] = lambda *_: None,
            say: Callable[[str], None] = lambda line: None) -> dict | None:
  """Writes the data set, or goes on where an earlier call was stopped.

  Returns the report, None if all was there already. `progress` is told split,
  units and skipped units. verify: compare the archives' sha256.
  """
  final = pathlib.Path(builder.data_dir)
  work = final.parent / f'incomplete.{final.name}'
  final.parent.mkdir(parents=True, exist_ok=True)
  with _lock(work.with_name(f'{work.name}.lock')):
    if is_complete(final):
      shutil.rmtree(final / _PROGRESS, ignore_errors=True)
      return None
    warnings = check_archives(builder, verify)
    builder.start()
    begin(builder, work, say)
    for split in builder.splits():
      _write_split(builder, split, work, workers, progress)
    return finish(builder, work, warnings)


def is_complete(folder: pathlib.Path) -> bool:
  return (folder / 'dataset_info.json').is_file()


def check_archives(builder, verify: bool) -> list[str]:
  """What differs from the published archives."""
  warnings = []
  for archive in builder.archives():
    path = builder.find(archive)
    if path is None or path.is_dir():
      continue
    size = path.stat().st_size
    if archive.size and size != archive.size:
      warnings.append(f'{path} has {size:,} bytes, the published one has '
                      f'{archive.size:,}')
    elif verify and archive.sha256:
      with open(path, 'rb') as f:
        digest = hashlib.file_digest(f, 'sha256').hexdigest()
      if digest != archive.sha256:
        warnings.append(f'{path} has sha256 {digest}, the published one has '
                        f'{archive.sha256}')
  return warnings


def begin(builder, work: pathlib.Path, say) -> None:
  """Makes the working folder, or empties it if it is of other inputs."""
  made_of = json.dumps({
      'name': builder.info.full_name, 'config': repr(builder.builder_config),
      'features': builder.info.features.to_json(),
      'inputs': [_identity(builder.find(a)) for a in builder.archives()],
      'shards': [builder.SHARD_UNITS, builder.SHARD_BYTES]}, sort_keys=True)
  note = work / _PROGRESS / 'made_of.json'
  if note.is_file() and note.read_text() == made_of:
    say(f'going on in {work}')
    return
  if work.exists():
    say(f'{work} was begun from other files or by another version: begun anew')
    shutil.rmtree(work)
  note.parent.mkdir(parents=True)
  _write_text(note, made_of)


def numbered(builder, split: str
             ) -> Iterator[tuple[int, base.Unit | tuple[str, str]]]:
  """(shard, unit) in order, and (shard, (name, reason)) for what is left out.
  """
  shard = units = size = 0
  stream = iter(builder.units(split))
  while True:
    unit = next(stream, None)
    for skipped in builder.skipped:
      yield shard, skipped
    builder.skipped.clear()
    if unit is None:
      return
    if units and (units == builder.SHARD_UNITS
                  or size + unit.size > builder.SHARD_BYTES):
      shard, units, size = shard + 1, 0, 0
    units, size = units + 1, size + unit.size
    yield shard, unit


class Decoder:
  """unit -> its records, or why it is skipped. Works in any process."""

  def __init__(self, builder):
    self._builder, self._features = builder, builder.info.features
    self._serializer = example_serializer.ExampleSerializer(
        self._features.get_serialized_info())

  def __call__(self, unit) -> dict:
    records, tally = [], collections.Counter()
    try:
      examples = list(self._builder.example(unit))
    except base.Skip as e:
      return {'skipped': str(e)}
    except Exception as e:  # One odd file must not end hours of work.
      return {'skipped': _unexpected(e)}
    for key, example in examples:
      try:
        records.append(self._serializer.serialize_example(
            self._features.encode_example(example)))
      except Exception as e:
        raise RuntimeError(f'{unit.name}: example {key!r} does not have the '
                           'features of its data set') from e
      tally.update(self._builder.tally(example))
    return {'records': records, 'tally': dict(tally)}


def write_shard(work: pathlib.Path, split: str, shard: int,
                items: Iterable[tuple[base.Unit | tuple[str, str], dict]]
                ) -> None:
  """Writes one shard from (unit, what `Decoder` made of it) in order."""
  path = work / f'{split}-{shard:05d}.array_record'
  note = {'units': 0, 'examples': 0, 'bytes': 0, 'skipped': []}
  tally = collections.Counter()
  # One record can be read without its neighbours, as TFDS writes them.
  writer = array_record_module.ArrayRecordWriter(f'{path}.part', 'group_size:1')
  try:
    for unit, result in items:
      note['units'] += 1
      if 'skipped' in result:
        note['skipped'].append([unit[0], result['skipped']])
        continue
      for record in result['records']:
        writer.write(record)
        note['examples'] += 1
        note['bytes'] += len(record)
      tally.update(result['tally'])
  finally:
    writer.close()
  with open(f'{path}.part', 'rb') as f:
    os.fsync(f.fileno())
  os.replace(f'{path}.part', path)
  _write_text(_note(work, split, shard), json.dumps({**note, 'tally': tally}))


def shard_is_done(work, split: str, shard: int) -> bool:
  return _note(work, split, shard).is_file()


def split_is_read(work, split: str, shards: int) -> None:
  """Notes that the stream of units ended, with so many shards."""
  _write_text(work / _PROGRESS / f'{split}.json', json.dumps(shards))


def finish(builder, work: pathlib.Path, warnings: list[str]) -> dict:
  """Names the shards as TFDS does, writes its metadata and the report."""
  final = pathlib.Path(builder.data_dir)
  infos, splits, skipped = [], {}, []
  for split in builder.splits():
    count = json.loads((work / _PROGRESS / f'{split}.json').read_text())
    notes = [json.loads(_note(work, split, i).read_text())
             for i in range(count)]
    lost = [(split, *row) for note in notes for row in note['skipped']]
    skipped += lost
    splits[split] = _sum(notes, lost)
    full = [i for i in range(count) if notes[i]['examples']]
    if not full:
      raise errors.UserError(
          f'dataset {builder.info.full_name}: no examples for split {split!r}; '
          f'{_reasons(splits[split])}')
    template = naming.ShardedFileTemplate(
        data_dir=final, dataset_name=builder.name, split=split,
        filetype_suffix='array_record')
    for number, i in enumerate(full):
      name = template.sharded_filepath(
          shard_index=number, num_shards=len(full)).name
      with contextlib.suppress(FileNotFoundError):  # Renamed before a kill.
        os.rename(work / f'{split}-{i:05d}.array_record', work / name)
    infos.append(tfds.core.SplitInfo(
        name=split, shard_lengths=[notes[i]['examples'] for i in full],
        num_bytes=sum(n['bytes'] for n in notes), filename_template=template))
  for stale in work.glob('*.array_record'):  # Shards without examples.
    stale.unlink()
  builder.info.set_splits(tfds.core.SplitDict(infos))
  builder.info.write_to_directory(work)
  report = {'dataset': builder.info.full_name, 'splits': splits,
            'warnings': warnings + _unlike_published(builder, splits)}
  _write_text(work / 'report.json', json.dumps(report, indent=2) + '\n')
  _write_text(work / 'skipped.tsv', 'split\tfile\treason\n' + ''.join(
      '\t'.join(map(_cell, row)) + '\n' for row in skipped))
  os.rename(work, final)
  shutil.rmtree(final / _PROGRESS)
  return report


# --- Decoding in order, in this process or in others ------------------------


def _write_split(builder, split, work, workers, progress):
  if (work / _PROGRESS / f'{split}.json').is_file():
    return  # All of its units were read, so all its shards are there.
  last, read, lost = 0, 0, 0

  def items():
    nonlocal last
    for last, unit in numbered(builder, split):
      if not shard_is_done(work, split, last):
        yield last, unit

  def shown(stream):
    nonlocal read, lost
    for item in stream:
      read += 1
      lost += 'skipped' in item[2]
      progress(split, read, lost)
      yield item

  with contextlib.closing(_decoded(builder, items(), workers)) as stream:
    groups = _grouped(shown(stream))
    for shard, group in groups:
      write_shard(work, split, shard, group)
  if not read and not shard_is_done(work, split, 0):
    write_shard(work, split, 0, [])
  split_is_read(work, split, last + 1)


def _grouped(stream):
  import itertools
  for shard, group in itertools.groupby(stream, lambda item: item[0]):
    yield shard, ((unit, result) for _, unit, result in group)


def _decoded(builder, items, workers):
  """(shard, unit, result) in order; a bounded number of units in flight."""
  if not workers:
    decode = Decoder(builder)
    for shard, unit in items:
      yield shard, unit, (decode(unit) if isinstance(unit, base.Unit)
                          else {'skipped': unit[1]})
    return
  pool = concurrent.futures.ProcessPoolExecutor(
      workers, multiprocessing.get_context('spawn'), _start_worker,
      (Decoder(builder),))
  waiting, flying = collections.deque(), 0
  try:
    for shard, unit in items:
      size = unit.size if isinstance(unit, base.Unit) else 0
      while waiting and (len(waiting) >= 8 * workers
                         or flying + size > IN_FLIGHT_BYTES):
        s, u, n, future = waiting.popleft()
        yield s, u, future.result()
        flying -= n
      flying += size
      if isinstance(unit, base.Unit):
        future = pool.submit(_decode, unit)
        unit = unit._replace(data=None)
      else:
        future = concurrent.futures.Future()
        future.set_result({'skipped': unit[1]})
      waiting.append((shard, unit, size, future))
    for s, u, _, future in waiting:
      yield s, u, future.result()
  except concurrent.futures.process.BrokenProcessPool:
    raise errors.UserError(
        'a worker process died, perhaps for want of memory; the same command '
        'goes on from here, with fewer --workers if need be') from None
  finally:
    pool.shutdown(cancel_futures=True)


def _start_worker(decoder):
  global _decoder
  _decoder = decoder


def _decode(unit):
  return _decoder(unit)


def _unexpected(error):
  frame = error.__traceback__
  while frame.tb_next:
    frame = frame.tb_next
  file = os.path.basename(frame.tb_frame.f_code.co_filename)
  return f'unexpected {type(error).__name__} ({file}:{frame.tb_lineno})'


# --- Files and the report ---------------------------------------------------


@contextlib.contextmanager
def _lock(path):
  """Held by one process at a time; a second one waits."""
  while True:
    f = open(path, 'w')
    fcntl.flock(f, fcntl.LOCK_EX)
    try:
      if os.fstat(f.fileno()).st_ino == os.stat(path).st_ino:
        break
    except FileNotFoundError:
      pass  # Whoever had it removed it.
    f.close()
  try:
    yield
  finally:
    os.unlink(path)
    f.close()


def _note(work, split, shard):
  return work / _PROGRESS / f'{split}-{shard:05d}.json'


def _write_text(path, text):
  temporary = path.with_name(f'{path.name}.part')
  temporary.write_text(text, encoding='utf-8')
  os.replace(temporary, path)


def _identity(path):
  if path is None:
    return None
  info = path.stat()
  return [str(path), info.st_size, info.st_mtime_ns]


def _sum(notes, lost):
  total = {k: sum(n[k] for n in notes) for k in ('units', 'examples', 'bytes')}
  tally = collections.Counter()
  for note in notes:
    tally.update(note['tally'])
  if 'seconds' in tally:
    tally['hours'] = tally.pop('seconds') / 3600
  reasons = collections.Counter(reason for _, _, reason in lost)
  return {**total, **tally, 'skipped': dict(reasons.most_common())}


def _reasons(split):
  if not split['units']:
    return 'nothing was read'
  return f'{split["units"]} read, skipped: ' + ', '.join(
      f'{n} {reason}' for reason, n in split['skipped'].items())


def _unlike_published(builder, splits):
  out = []
  for split, counts in builder.PUBLISHED.get(
      builder.builder_config.name, {}).items():
    for what, expected in counts.items():
      got = splits.get(split, {}).get(what, 0)
      if not math.isclose(got, expected, rel_tol=0, abs_tol=(
          0.005 if isinstance(expected, float) else 0)):
        out.append(f'{split} has {got:,} {what}, published are {expected:,}')
  return out


def _cell(text):
  return text.encode('utf-8', 'backslashreplace').decode().translate(
      {9: '\\t', 10: '\\n', 13: '\\r'})
