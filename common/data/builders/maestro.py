"""MAESTRO (Hawthorne et al. 2019): some 200 hours of piano competitions.

Version 1, 2 or 3, as a zip with MIDI alone, as the whole zip, or unpacked.
Splits come from the published table, never from the folders. The `midi` of an
example is the published file; its sustain pedal is in it, not in the notes.
`duration` is the last end of a note: pedals go on for up to seven seconds.
"""

import csv
import dataclasses
import io
import json
import math
import pathlib
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from common import errors, midi, smf
from common.data import archives, chunks, wav
from common.data.builders import base

F = tfds.features

SPLITS = ('train', 'valid', 'test')
_SPLITS = {'train': 'train', 'validation': 'valid', 'test': 'test'}
_URL = 'https://storage.googleapis.com/magentadata/datasets/maestro/'
_MIDI_ZIP = {  # Bytes and sha256.
    1: (46_579_421,
        'f620f9e1eceaab8beea10617599add2e9c83234199b550382a2f603098ae7135'),
    2: (59_243_107,
        'ec2cc9d94886c6b376db1eaa2b8ad1ce62ff9f0a28b3744782b13163295dadf3'),
    3: (58_416_533,
        '70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c')}
_PUBLISHED = {
    1: {'train': {'performances': 954}, 'valid': {'performances': 105},
        'test': {'performances': 125}},
    2: {'train': {'performances': 967}, 'valid': {'performances': 137},
        'test': {'performances': 178}},
    3: {'train': {'performances': 962, 'hours': 159.24, 'notes': 5_659_329},
        'valid': {'performances': 137, 'hours': 19.43, 'notes': 639_425},
        'test': {'performances': 177, 'hours': 19.98, 'notes': 741_410}}}
_COLUMNS = ('canonical_composer', 'canonical_title', 'split', 'year',
            'midi_filename', 'audio_filename', 'duration')
_TABLE_LIMIT = 8 << 20  # Bytes; the real ones have half a megabyte.


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
  release: int
  sample_rate: int = 0  # 0: no audio.


class Row(NamedTuple):
  """A performance, in the words of the table."""

  composer: str
  title: str
  split: str
  year: int
  midi: str
  audio: str
  duration: float


class Maestro(base.Builder):
  """Piano performances as MIDI, or as audio in chunks of 10 s with notes."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = [
      Config(name=f'v{release}{suffix}', release=release, sample_rate=rate,
             description=text)
      for release in (3, 2, 1) for suffix, rate, text in (
          ('', 0, 'MIDI'), ('_16k', 16000, 'audio at 16 kHz'),
          ('_44k', 44100, 'audio at 44.1 kHz'))]
  PUBLISHED: ClassVar = {
      c.name: _PUBLISHED[c.release] for c in BUILDER_CONFIGS}

  @property
  def _rate(self):
    return self.builder_config.sample_rate

  def _info(self):
    features = {
        'id': F.Text(),  # midi_filename of the table.
        'canonical_composer': F.Text(), 'canonical_title': F.Text(),
        'year': np.int32, 'duration': np.float32}
    if self._rate:
      features |= {
          'audio': F.Tensor(shape=(None,), dtype=np.int16, encoding='bytes'),
          'chunk': np.int32,
          'offset': np.int64,  # Samples of the recording before this chunk.
          # Of the notes that sound in it: [start, end) in its seconds, and
          # [pitch, velocity].
          'notes_s': F.Tensor(shape=(None, 2), dtype=np.float32,
                              encoding='bytes'),
          'notes': F.Tensor(shape=(None, 2), dtype=np.int16,
                            encoding='bytes')}
    else:
      features |= {'midi': F.Text(),  # The bytes of the file.
                   'notes': np.int32}
    return tfds.core.DatasetInfo(
        builder=self, features=F.FeaturesDict(features),
        homepage='https://magenta.tensorflow.org/datasets/maestro',
        metadata=tfds.core.MetadataDict(sample_rate=self._rate or None))

  def archives(self):
    release = self.builder_config.release
    name = f'maestro-v{release}.0.0'
    url = f'{_URL}v{release}.0.0/{name}'
    whole = base.Archive(f'{name}.zip', f'{url}.zip', folder=name,
                         optional=True)
    small = base.Archive(f'{name}-midi.zip', f'{url}-midi.zip',
                         *_MIDI_ZIP[release], optional=True)
    usable = [whole] if self._rate else [small, whole]
    there = [archive for archive in usable if self.find(archive)]
    return there[:1] or [dataclasses.replace(usable[0], optional=False)]

  def start(self):
    self._path = self.find(self.archives()[0])
    self._rows = _read_table(self._path, self.builder_config.release)

  def splits(self):
    found = {row.split for row in self._rows if isinstance(row, Row)}
    return [split for split in SPLITS if split in found]

  def units(self, split):
    rows = {}
    for row in self._rows:
      if isinstance(row, base.LeftOut):
        if split == self.splits()[0]:
          self.skip(row.name, row.reason)
      elif row.split == split:
        rows[_key(row.audio if self._rate else row.midi)] = row
    wanted = frozenset(rows)
    for name, reader in archives.open_members(
        self._path, self.skip, lambda name: _key(name) in wanted):
      row = rows.pop(_key(name), None)
      if row is None:
        self.skip(name, 'a second time')
        continue
      try:
        if self._rate:
          yield from self._chunks(name, row, reader)
        else:
          data = reader.read(smf.MOST_BYTES + 1)
          yield base.Unit(name, (row, data), len(data))
      except (wav.Error, archives.Broken) as e:
        self.skip(name, str(e))
      except smf.Error as e:
        self.skip(name, f'its MIDI file: {e}')
    for row in rows.values():
      self.skip(row.midi, 'not in the archive')

  def _chunks(self, name, row, reader):
    """Units of one recording: the row, the notes of a chunk and its sound."""
    data = archives.read_member(self._path, row.midi, smf.MOST_BYTES)
    if data is None:
      raise smf.Error('not in the archive')
    notes = midi.in_order(midi.parse(data).notes)
    for chunk in chunks.cut(_Mono(reader)):
      start, end = (n / chunk.sample_rate for n in chunk.span)
      here = notes[(notes['start_s'] < end) & (notes['end_s'] > start)]
      yield base.Unit(name, (row, here, start, chunk), chunk.audio.nbytes)

  def example(self, unit):
    row, *rest = unit.data
    out = {'id': row.midi, 'canonical_composer': row.composer,
           'canonical_title': row.title, 'year': row.year,
           'duration': row.duration}
    if self._rate:
      notes, start_s, chunk = rest
      offset, audio = chunk.at(self._rate)
      columns = lambda a, b, dtype: np.stack([a, b], 1).astype(dtype)
      out |= {'audio': audio, 'chunk': chunk.number, 'offset': offset,
              'notes_s': columns(notes['start_s'] - start_s,
                                 notes['end_s'] - start_s, np.float32),
              'notes': columns(notes['pitch'], notes['velocity'], np.int16)}
    else:
      try:
        notes = len(midi.parse(rest[0]).notes)
      except smf.Error as e:
        raise base.Skip(str(e)) from None
      if not notes:
        raise base.Skip('no notes')
      out |= {'midi': rest[0], 'notes': notes}
    yield row.midi, out

  def tally(self, example):
    if not self._rate:
      return {'performances': 1, 'seconds': example['duration'],
              'notes': example['notes']}
    return {'performances': int(example['chunk'] == 0),
            'seconds': len(example['audio']) / self._rate,
            # The others began in an earlier chunk.
            'notes': int((example['notes_s'][:, 0] >= 0).sum())}


class _Mono:
  """The mean of the channels of a wav."""

  def __init__(self, reader):
    self._file = wav.Wav(reader)
    self.sample_rate = self._file.sample_rate
    self.samples = self._file.samples
    if not 1000 <= self.sample_rate <= 1_000_000 or not self.samples:
      raise wav.Error('wav file without sound')

  def read(self, samples):
    return self._file.read(samples).mean(1)


def _key(name: str) -> str:
  """'2018/x.midi', wherever the folder of the release may be."""
  return '/'.join(name.split('/')[-2:])


def _read_table(path: pathlib.Path, release: int) -> list[Row | base.LeftOut]:
  """The rows of the table, a broken one as why it is left out."""
  name = f'maestro-v{release}.0.0'
  for suffix, read in (('csv', _csv_rows), ('json', _json_rows)):
    data = archives.read_member(path, f'{name}.{suffix}', _TABLE_LIMIT)
    if data is None:
      continue
    try:
      rows = read(data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError,
            csv.Error):
      raise errors.UserError(
          f'{path}: its {name}.{suffix} is not the published table; download '
          f'it again from {_URL}') from None
    return [_row(number, row) for number, row in enumerate(rows)]
  raise errors.UserError(
      f'{path} has neither {name}.csv nor {name}.json, which say what belongs '
      f'to which split; download it again from {_URL}')


def _csv_rows(data):
  rows = csv.DictReader(io.StringIO(data.decode('utf-8-sig'), newline=''))
  if not set(_COLUMNS) <= set(rows.fieldnames or ()):
    raise ValueError('columns are missing')
  return list(rows)


def _json_rows(data):
  """A list of records (versions 1 and 2), or columns of numbered fields."""
  table = json.loads(data)
  if isinstance(table, list):
    return table
  columns = [table[name] for name in _COLUMNS]
  return [dict(zip(_COLUMNS, (column.get(number) for column in columns),
                   strict=True)) for number in columns[0]]


def _row(number, row):
  try:
    row = Row(*(row[name] for name in _COLUMNS))
    row = row._replace(split=_SPLITS[row.split], year=int(row.year),
                       duration=float(row.duration))
    texts = (row.composer, row.title, row.midi, row.audio)
    if not (all(isinstance(text, str) and text for text in texts)
            and 0 < row.duration < math.inf and 0 < row.year < 10_000):
      raise ValueError('out of range')
    return row
  except (KeyError, TypeError, ValueError, OverflowError):
    return base.LeftOut(f'row {number + 1} of the table', 'broken row')
