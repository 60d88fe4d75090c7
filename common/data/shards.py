"""Writes a data set: units -> examples -> shards of ArrayRecord -> TFDS.

Where a shard ends depends on the stream of units alone, so the files are the
same with any number of workers and however often the work was interrupted: a
shard that is done has a small json file beside it and is not made again.
"""

import collections
import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import naming

from common import errors, files
from common.data import decoding
from common.data.builders import base

_PROGRESS = 'progress'  # Folder of what a restart needs.


def prepare(builder: base.Builder, *, workers: int = 0, verify: bool = False,
            progress: Callable[[str, int, int, int], None] = lambda *_: None,
            say: Callable[[str], None] = lambda line: None,
            write: Callable | None = None) -> dict | None:
  """Writes the data set, or goes on where an earlier call was stopped.

  Returns the report, None if all was there already. `progress` is told the
  split, and how many units are read, examples written and units skipped.
  verify: compare the archives' sha256. `write` fills the working folder in
  place of this process and its workers.
  """
  final = pathlib.Path(builder.data_dir)
  work = final.parent / f'incomplete.{final.name}'
  lock = work.with_name(f'{work.name}.lock')
  if is_complete(final):
    # It may have been killed before it had tidied up.
    shutil.rmtree(final / _PROGRESS, ignore_errors=True)
    if lock.exists():
      lock.unlink(missing_ok=True)
    return None
  final.parent.mkdir(parents=True, exist_ok=True)
  with _lock(lock, say):
    if is_complete(final):
      return None
    warnings = check_archives(builder, verify)
    builder.start()
    _begin(builder, work, say)
    if write:
      write(builder, work)
    else:
      with decoding.Workers(decoding.Decoder(builder), workers) as decoded:
        for split in builder.splits():
          _write_split(builder, split, work, decoded, progress)
    return _finish(builder, work, warnings)


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


def numbered(builder, split: str
             ) -> Iterator[tuple[int, base.Unit | base.LeftOut]]:
  """(shard, unit) in order."""
  shard = units = size = 0
  builder.left_out.clear()
  stream = iter(builder.units(split))
  while True:
    unit = next(stream, None)
    for left_out in builder.left_out:
      yield shard, left_out
    builder.left_out.clear()
    if unit is None:
      return
    if units and (units == builder.SHARD_UNITS
                  or size + unit.size > builder.SHARD_BYTES):
      shard, units, size = shard + 1, 0, 0
    units, size = units + 1, size + unit.size
    yield shard, unit


def is_done(work: pathlib.Path, split: str, shard: int) -> bool:
  return _note(work, split, shard).is_file()


def write_shard(work: pathlib.Path, split: str, shard: int,
                units: Iterable[tuple[str, decoding.Decoded]]) -> None:
  """Writes one shard from (name, what became of it) in order."""
  path = work / f'{split}-{shard:05d}.array_record'
  note = {'units': 0, 'examples': 0, 'bytes': 0, 'skipped': []}
  tally = collections.Counter()
  # Each record can be read without its neighbours, as TFDS writes them.
  writer = array_record_module.ArrayRecordWriter(f'{path}.part', 'group_size:1')
  try:
    for name, decoded in units:
      note['units'] += 1
      if decoded.skipped:
        note['skipped'].append([name, decoded.skipped])
      for record in decoded.records:
        writer.write(record)
        note['examples'] += 1
        note['bytes'] += len(record)
      tally.update(decoded.tally)
  finally:
    _close(writer, path)
  with open(f'{path}.part', 'rb') as f:
    os.fsync(f.fileno())
  os.replace(f'{path}.part', path)
  files.write(_note(work, split, shard), json.dumps({**note, 'tally': tally}))


def end_split(work: pathlib.Path, split: str, count: int) -> None:
  """Notes that the units of a split came to their end, in so many shards."""
  files.write(_end(work, split), json.dumps(count))


def _begin(builder, work, say):
  made_of = json.dumps({
      'name': builder.info.full_name, 'config': repr(builder.builder_config),
      'features': builder.info.features.to_json(),
      'inputs': builder.inputs(),
      'shards': [builder.SHARD_UNITS, builder.SHARD_BYTES]}, sort_keys=True)
  note = work / _PROGRESS / 'made_of.json'
  if note.is_file() and note.read_text(encoding='utf-8') == made_of:
    say(f'going on with what is in {work}')
    return
  if work.exists():
    say(f'{work} was begun from other files or by other code: beginning anew')
    shutil.rmtree(work)
  note.parent.mkdir(parents=True)
  files.write(note, made_of)


def _close(writer, path):
  try:
    writer.close()  # What went wrong before shows here.
  except RuntimeError as e:
    for code in (errno.ENOSPC, errno.EDQUOT):
      if os.strerror(code) in str(e):
        raise OSError(code, os.strerror(code), str(path)) from None
    raise


def _write_split(builder, split, work, decoded, progress):
  if _end(work, split).is_file():
    return
  count = read = 0
  done = [json.loads(p.read_text(encoding='utf-8'))
          for p in (work / _PROGRESS).glob(f'{split}-*.json')]
  examples = sum(note['examples'] for note in done)
  lost = sum(len(note['skipped']) for note in done)

  def missing():
    nonlocal count, read
    for shard, unit in numbered(builder, split):
      count = shard + 1
      if is_done(work, split, shard):
        read += 1
      else:
        yield shard, unit

  def shown(rows):
    nonlocal read, examples, lost
    for shard, unit, result in rows:
      read += 1
      examples += len(result.records)
      lost += bool(result.skipped)
      progress(split, read, examples, lost)
      yield shard, unit.name, result

  rows = shown(decoded(missing()))
  for shard, group in itertools.groupby(rows, lambda row: row[0]):
    write_shard(work, split, shard, (row[1:] for row in group))
  end_split(work, split, count)


def _finish(builder, work, warnings):
  """Names the shards as TFDS does, writes its metadata and the report."""
  final = pathlib.Path(builder.data_dir)
  infos, counts, skipped = [], {}, []
  for split in builder.splits():
    notes = _notes(work, split)
    counts[split] = _count(notes)
    skipped += [(split, *row) for note in notes for row in note['skipped']]
    full = [i for i, note in enumerate(notes) if note['examples']]
    if not full:
      raise errors.UserError(
          f'dataset {builder.info.full_name}: split {split!r} got no examples '
          f'({_what_happened(counts[split])}); see what is in '
          f'{builder.manual_dir}')
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
        num_bytes=counts[split]['bytes'], filename_template=template))
  for left in itertools.chain(work.glob('*.array_record'), work.glob('*.part')):
    left.unlink()  # A shard without examples, or what a kill cut short.
  builder.info.set_splits(tfds.core.SplitDict(infos))
  builder.info.write_to_directory(work)
  checked, unlike = _compare(builder, counts)
  report = {'dataset': builder.info.full_name, 'splits': counts,
            'checked': checked, 'warnings': warnings + unlike}
  files.write(work / 'report.json', json.dumps(report, indent=2) + '\n')
  files.write(work / 'skipped.tsv', 'split\tfile\treason\n' + ''.join(
      '\t'.join(map(_cell, row)) + '\n' for row in skipped))
  os.rename(work, final)
  shutil.rmtree(final / _PROGRESS)
  return report


def _notes(work, split):
  count = json.loads(_end(work, split).read_text(encoding='utf-8'))
  return [json.loads(_note(work, split, i).read_text(encoding='utf-8'))
          for i in range(count)]


def _count(notes):
  tally, reasons = collections.Counter(), collections.Counter()
  for note in notes:
    tally.update(note['tally'])
    reasons.update(reason for _, reason in note['skipped'])
  if 'seconds' in tally:
    tally['hours'] = tally.pop('seconds') / 3600
  total = {k: sum(n[k] for n in notes) for k in ('units', 'examples', 'bytes')}
  return {**total, **tally, 'skipped': dict(reasons.most_common())}


def _what_happened(count):
  if not count['units']:
    return 'nothing was found'
  return f'{count["units"]} read, skipped: ' + ', '.join(
      f'{n} {reason}' for reason, n in count['skipped'].items())


def _compare(builder, counts):
  """(what was published about this data set, how ours is not like it)."""
  checked, unlike = [], []
  for split, published in builder.PUBLISHED.get(
      builder.builder_config.name, {}).items():
    for what, expected in published.items():
      checked.append(f'{split} {expected:,} {what}')
      got = sum(c.get(what, 0) for s, c in counts.items()
                if split in (s, 'all'))
      # Published hours are rounded.
      slack = 0.0051 if isinstance(expected, float) else 0
      if abs(got - expected) > slack:
        unlike.append(f'{split} has {got:,} {what}, the published data set '
                      f'has {expected:,}')
  return checked, unlike


@contextlib.contextmanager
def _lock(path, say):
  """Held by one process at a time; a second one waits."""
  while True:
    with open(path, 'w', encoding='utf-8') as f:
      try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        say(f'another process is preparing {path.parent}: waiting for it')
        fcntl.flock(f, fcntl.LOCK_EX)
      except OSError:
        say(f'{path.parent} is on a file system without locks: let no other '
            'process prepare this data set now')
      # Whoever had it has removed it, and there may be a new one.
      if path.exists() and os.path.samestat(os.fstat(f.fileno()),
                                            os.stat(path)):
        try:
          yield
        finally:
          path.unlink(missing_ok=True)
        return


def _note(work, split, shard):
  return work / _PROGRESS / f'{split}-{shard:05d}.json'


def _end(work, split):
  return work / _PROGRESS / f'{split}.json'


def _cell(text):
  text = text.encode('utf-8', 'backslashreplace').decode()
  return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)
