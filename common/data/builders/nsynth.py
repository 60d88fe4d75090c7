"""NSynth (Engel et al. 2017): 305,979 notes of four seconds.

Both releases are read: the TFRecord one, whose audio is finer than 16 bits,
and the json-wav one, a third as large. Keys, shapes and labels are those of
the official TFDS builder, with a Tensor for its Audio feature.
"""

import codecs
import contextlib
import csv
import hashlib
import io
import json
import operator
import pathlib
import re
import struct
import sys
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from common import errors
from common.data import archives, synthetic, tfrecord, wav
from common.data.builders import base

F = tfds.features

SPLITS = ('train', 'valid', 'test')
RATE = 16000
SAMPLES = 4 * RATE
INSTRUMENTS = 1006
FAMILIES = synthetic.FAMILIES
SOURCES = synthetic.SOURCES
QUALITIES = synthetic.QUALITIES

_URL = 'http://download.magenta.tensorflow.org/datasets/nsynth/'
_TFRECORD = {  # Bytes and sha256, as TFDS has recorded them.
    'train': (74_159_943_680,
              '09149ea1420f01a65de10a310b9e94ecc74f1640b85f68fb9122bbca0b5d207a'),
    'valid': (3_250_995_200,
              'eb535520a9643db461c0cd177307d7fe691c32fe6a4da60fd23ac75f6e18ae07'),
    'test': (1_050_327_040,
             '65df0d0ada540ca1983849a051cbec4d0d9c51900b6acb8a4c06492560680a71')}
_LABELS = base.Archive(
    'nsynth-instrument_labels.txt', f'{_URL}nsynth-instrument_labels.txt',
    20_577, 'c38883696542209bc2401077ac80c6ab75108f9f29ac9566d57e1b35416ee087',
    optional=True)
_SUBSET = base.Archive(
    'nsynth-gansynth_splits.csv', f'{_URL}nsynth-gansynth_splits.csv',
    2_952_153,
    'b6e77ff861c82822c63f94e91d62fc6a48f514d0a7a7bed517752f87bc7ac4a9',
    optional=True)
_PITCHES = range(24, 85)  # Of the subset.

_LIMIT = 1 << 20  # Bytes of a wav file; real ones have 128,044.
_AHEAD = 1 << 16  # Bytes of a record in examples.json; real ones have 700.
# pitch, velocity, family, source, qualities: what is kept of a record.
_NOTE = struct.Struct('<BBBBH')
_NAME = re.compile(r'[\w.-]{1,100}', re.ASCII)
_SPACE = re.compile(r'\s*')


class Nsynth(base.Builder):
  """Notes of 4 s at 16 kHz with pitch, velocity and instrument."""

  VERSION = tfds.core.Version('2.3.3')  # Of the official builder.
  BUILDER_CONFIGS: ClassVar = [
      tfds.core.BuilderConfig(
          name='full', description='no instrument is in train and in another '
          'split'),
      tfds.core.BuilderConfig(
          name='gansynth_subset', description='acoustic notes of pitch 24 to '
          '84, split so that instruments are in all splits'),
  ]
  PUBLISHED: ClassVar = {
      'full': {'train': {'examples': 289_205}, 'valid': {'examples': 12_678},
               'test': {'examples': 4_096}},
      'gansynth_subset': {
          'train': {'examples': 60_788}, 'valid': {'examples': 17_469},
          'test': {'examples': 8_518}}}

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, homepage='https://magenta.tensorflow.org/datasets/nsynth',
        features=F.FeaturesDict({
            'id': F.Text(),
            'audio': F.Tensor(shape=(SAMPLES,), dtype=np.float32,
                              encoding='bytes'),
            'pitch': F.ClassLabel(num_classes=128),
            'velocity': F.ClassLabel(num_classes=128),
            'instrument': {
                'label': F.ClassLabel(num_classes=INSTRUMENTS),
                'family': F.ClassLabel(names=FAMILIES),
                'source': F.ClassLabel(names=SOURCES)},
            'qualities': {name: np.bool_ for name in QUALITIES}}),
        metadata=tfds.core.MetadataDict(sample_rate=RATE))

  @property
  def _is_subset(self):
    return self.builder_config.name == 'gansynth_subset'

  def _releases(self):
    """{release: {split: archive}}; one is read, never a mixture."""
    return {
        'tfrecord': {s: base.Archive(
            f'nsynth-{s}.tfrecord.tar', f'{_URL}nsynth-{s}.tfrecord.tar',
            *_TFRECORD[s], folder=f'nsynth-{s}.tfrecord', optional=True)
                     for s in SPLITS},
        'json-wav': {s: base.Archive(
            f'nsynth-{s}.jsonwav.tar.gz', f'{_URL}nsynth-{s}.jsonwav.tar.gz',
            folder=f'nsynth-{s}', optional=True) for s in SPLITS}}

  def _release(self):
    """The release of which the most is there, and what of it is there."""
    found = {release: {s: a for s, a in by_split.items() if self.find(a)}
             for release, by_split in self._releases().items()}
    release = max(found, key=lambda r: len(found[r]))
    return release, found[release]

  def archives(self):
    release, found = self._release()
    missing = [a.name for split, a in self._releases()[release].items()
               if split not in found]
    if not found or (self._is_subset and missing):
      raise errors.UserError(
          f'dataset nsynth/{self.builder_config.name}: not in '
          f'{self.manual_dir}: {", ".join(missing)} (or, smaller, the '
          f'.jsonwav.tar.gz files); download from {_URL} into a folder, then: '
          'python -m common.prepare '
          f'--dataset=nsynth/{self.builder_config.name} --manual_dir=FOLDER')
    return [*found.values(), _LABELS, *([_SUBSET] if self._is_subset else [])]

  def splits(self):
    return [s for s in SPLITS if self._is_subset or s in self._release()[1]]

  def start(self):
    release, self._archives = self._release()
    self._is_tfrecord = release == 'tfrecord'
    self.info.metadata['release'] = release
    names = self._instrument_names()
    self.info.features['instrument']['label'].names = names
    self._labels = {name: i for i, name in enumerate(names)}
    self._subset = None
    if self._is_subset:
      self._subset, rule = _subset_split, (
          'sha256 of the id, 70/20/10: the published csv was not there')
      if path := self.find(_SUBSET):
        self._subset, rule = _read_csv(path).get, path.name
      self.info.metadata['split_by'] = rule

  def _instrument_names(self):
    if path := self.find(_LABELS):
      names = path.read_text('utf-8', errors='replace').split()
      if not len(names) == len(set(names)) == INSTRUMENTS:
        raise errors.UserError(
            f'{path} does not hold {INSTRUMENTS} different names of '
            f'instruments; download it again from {_LABELS.url}')
      return names
    if self._is_tfrecord:
      raise errors.UserError(
          f'{_LABELS.name} (20 kB) is not in {self.manual_dir}, which the '
          f'TFRecord release needs; download it from {_LABELS.url}')
    # The json files say it too, but for the splits that are not there.
    numbers = {}
    for archive in self._archives.values():
      self._index(self.find(archive), numbers)
    names = [f'unknown_{i:04d}' for i in range(INSTRUMENTS)]
    free = set(range(INSTRUMENTS))
    others = []
    for name, number in sorted(numbers.items(), key=lambda x: x[::-1]):
      if number in free:
        free.remove(number)
        names[number] = name
      else:
        others.append(name)
    for name, number in zip(others, sorted(free), strict=False):
      names[number] = name
    return names

  def units(self, split):
    for archive in (self._archives.values() if self._is_subset
                    else [self._archives[split]]):
      path = self.find(archive)
      read = self._tfrecord_units if self._is_tfrecord else self._wav_units
      yield from read(path, split)

  def _has(self, split, note_str, note):
    """Whether a note belongs to a split of the config."""
    if not self._is_subset:
      return True
    pitch, _, _, source, _ = _NOTE.unpack(note)
    return (pitch in _PITCHES and SOURCES[source] == 'acoustic'
            and self._subset(note_str) == split)

  # --- The json-wav release: nsynth-SPLIT/{examples.json, audio/ID.wav} -----

  def _wav_units(self, path, split):
    index = self._index(path, {}, self.skip)
    missing = {i for i, (note, _) in index.items()
               if self._has(split, i, note)}
    elsewhere = index.keys() - missing
    want = lambda name: (name.endswith('.wav')
                         and pathlib.PurePath(name).stem not in elsewhere)
    for name, data in archives.read_members(path, self.skip, want, _LIMIT):
      note_str = pathlib.PurePath(name).stem
      note, instrument = index.get(note_str, (None, None))
      if note is None:
        self.skip(name, 'not in examples.json')
      elif note_str not in missing:
        self.skip(name, 'a second time')
      else:
        missing.remove(note_str)
        yield base.Unit(name, (note_str, data, note,
                               self._labels.get(instrument)), len(data))
    for note_str in sorted(missing):
      self.skip(f'{note_str}.wav', 'in examples.json, but not there')

  def _index(self, path, numbers, skip=lambda name, reason: None):
    """{id: (note, instrument)} from examples.json, which may come last.

    The numbers that it gives to instruments are added to `numbers`.
    """
    index = {}
    for name, reader in archives.open_members(
        path, skip, lambda n: n.split('/')[-1] == 'examples.json'):
      try:
        for note_str, record in _json_records(reader):
          try:
            note, instrument, number = _note(note_str, record)
          except _BROKEN:
            skip(f'{name}: {note_str}'[:200], 'broken record')
          else:
            index[note_str] = note, instrument
            numbers.setdefault(instrument, number)
      except _BrokenJson:
        skip(name, 'broken JSON; what comes before is used')
      except archives.Broken as e:
        skip(name, f'{e} JSON; what comes before is used')
      return index
    skip(path.name, 'no examples.json')
    return index

  # --- The TFRecord release: any number of files, each of any length --------

  def _tfrecord_units(self, path, split):
    with contextlib.ExitStack() as stack:
      if path.is_file() and path.suffix == '.tfrecord':  # An older release.
        files = [(path.name, stack.enter_context(open(path, 'rb')))]
      else:
        files = archives.open_members(path, self.skip)
      for name, file in files:
        try:
          for number, frame in enumerate(tfrecord.frames(file)):
            label = None
            # What is broken becomes a unit, for `example` to say how.
            with contextlib.suppress(tfrecord.Error, *_BROKEN):
              record = _record(frame[0])
              note, instrument, _ = _note(record['note_str'], record)
              if not self._has(split, record['note_str'], note):
                continue
              label = self._labels.get(instrument)
            yield base.Unit(f'{name}: {number}', (*frame, label),
                            len(frame[0]))
        except (tfrecord.Error, archives.Broken) as e:
          self.skip(name, str(e))

  def example(self, unit):
    read = _from_wav if isinstance(unit.data[0], str) else _from_tfrecord
    note_str, audio, note, label = read(*unit.data)
    if label is None:
      raise base.Skip('unknown instrument')
    if audio.shape != (SAMPLES,):
      raise base.Skip(f'not {SAMPLES} samples')
    if not np.isfinite(audio).all():
      raise base.Skip('samples that are NaN or infinite')
    pitch, velocity, family, source, qualities = _NOTE.unpack(note)
    yield note_str, {
        'id': note_str, 'audio': audio, 'pitch': pitch, 'velocity': velocity,
        'instrument': {'label': label, 'family': family, 'source': source},
        'qualities': {name: bool(qualities >> i & 1)
                      for i, name in enumerate(QUALITIES)}}

  def tally(self, example):
    return {'seconds': SAMPLES / RATE, 'notes': 1}


def _from_wav(note_str, data, note, label):
  try:
    f = wav.Wav(io.BytesIO(data))
    if (f.sample_rate, f.channels) != (RATE, 1):
      raise base.Skip(f'not mono at {RATE} Hz')
    return note_str, f.read(f.samples)[:, 0], note, label
  except wav.Error as e:
    raise base.Skip(str(e)) from None


def _from_tfrecord(payload, check, label):
  if not tfrecord.intact(payload, check):
    raise base.Skip('wrong checksum of a record')
  try:
    record = _record(payload)
    note, _, _ = _note(record['note_str'], record)
  except (tfrecord.Error, *_BROKEN):
    raise base.Skip('broken record') from None
  return record['note_str'], record['audio'], note, label


# What a record of another shape may raise.
_BROKEN = (AttributeError, IndexError, KeyError, TypeError, ValueError,
           struct.error)


def _note(note_str: str, record: dict) -> tuple[bytes, str, int]:
  """The labels of a record, packed; its instrument's name and number."""
  instrument, qualities = record['instrument_str'], record['qualities']
  if record['note_str'] != note_str or not (
      _NAME.fullmatch(note_str) and _NAME.fullmatch(instrument)):
    raise ValueError('name of a note or an instrument')
  if len(qualities) != len(QUALITIES) or not set(qualities) <= {0, 1}:
    raise ValueError('qualities')
  note = _NOTE.pack(
      record['pitch'], record['velocity'],
      FAMILIES.index(record['instrument_family_str']),
      SOURCES.index(record['instrument_source_str']),
      sum(int(q) << i for i, q in enumerate(qualities)))
  if max(note[:2]) > 127:
    raise ValueError('pitch or velocity')
  # One string for each instrument, not for each note.
  return note, sys.intern(instrument), operator.index(record['instrument'])


def _record(payload):
  """A TFRecord's fields as those of examples.json, and the audio."""
  features = tfrecord.example(payload)
  text = ('note_str', 'instrument_str', 'instrument_family_str',
          'instrument_source_str')
  return {
      **{k: features[k][0].decode() for k in text},
      **{k: int(features[k][0]) for k in ('pitch', 'velocity', 'instrument')},
      'qualities': features['qualities'].tolist(), 'audio': features['audio']}


class _BrokenJson(Exception):
  pass


def _json_records(reader):
  """(key, value) of a JSON object of any size, one after the other."""
  decode = codecs.getincrementaldecoder('utf-8')('replace').decode
  parse = json.JSONDecoder().raw_decode
  text, at, expected = '', 0, '{'
  while True:
    if len(text) - at < _AHEAD:
      data = reader.read(1 << 20)
      text, at = text[at:] + decode(data, not data), 0
    try:
      at = _SPACE.match(text, at).end()
      if expected == ',' and text[at] == '}':
        return
      at = _SPACE.match(text, text.index(expected, at, at + 1) + 1).end()
      if expected == '{' and text[at] == '}':
        return
      key, at = parse(text, at)
      at = _SPACE.match(text, at).end()
      at = _SPACE.match(text, text.index(':', at, at + 1) + 1).end()
      value, at = parse(text, at)
    except (IndexError, RecursionError, ValueError):
      raise _BrokenJson from None
    yield key, value
    expected = ','


def _subset_split(note_str):
  share = int.from_bytes(hashlib.sha256(note_str.encode()).digest()[:8])
  return SPLITS[sum(share >= bound * 2**64 for bound in (0.7, 0.9))]


def _read_csv(path):
  """{id: split} of the published split of the subset."""
  with open(path, encoding='utf-8', errors='replace', newline='') as f:
    rows = csv.DictReader(f)
    if not {'id', 'split'} <= set(rows.fieldnames or ()):
      raise errors.UserError(
          f"{path} does not begin with 'id,split'; download it again from "
          f'{_SUBSET.url}, or remove it to split by a hash')
    return {row['id']: row['split'] for row in rows}
