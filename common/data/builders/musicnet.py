"""MusicNet (Thickstun et al. 2017): 330 classical recordings, 34 hours.

The published tar.gz holds 32-bit float wavs and one csv of labels for each;
the older npz holds the same as pickled arrays and interval trees. A recording
is stored in chunks of ten seconds or a little more, each with the notes that
sound in it, so that a window of one is read without the rest. The chunks of a
recording follow each other: a window may go on in the next record.
"""

import csv
import functools
import io
import pathlib
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from common import errors
from common.data import archives, chunks, unpickle, wav
from common.data.builders import base

F = tfds.features

SPLITS = ('train', 'valid', 'test')
# The ten recordings of the published test_data.
TEST = ('1759', '1819', '2106', '2191', '2298', '2303', '2382', '2416', '2556',
        '2628')
# There is no published validation set. These six are held out of train since
# Trabelsi et al. 2018 (Deep Complex Networks).
VALID = ('1792', '1876', '2131', '2384', '2514', '2567')

RATE = 44100

_URL = 'https://zenodo.org/records/5120004/files/'
_TAR = base.Archive('musicnet.tar.gz', f'{_URL}musicnet.tar.gz',
                    folder='musicnet', optional=True)
_NPZ = base.Archive('musicnet.npz', optional=True)
_METADATA = base.Archive('musicnet_metadata.csv',
                         f'{_URL}musicnet_metadata.csv')
# In the csv -> in an example.
_TEXT = {'composer': 'composer', 'composition': 'composition',
         'movement': 'movement', 'ensemble': 'ensemble', 'source': 'source',
         'transcriber': 'transcriber', 'catalog_name': 'catalog'}

_LABELS_LIMIT = 2 << 20  # Bytes; a real csv has some 200 kB.
_NPY_LIMIT = 1 << 29  # Bytes; 18 minutes of float64 are 376 MB.


class Labels(NamedTuple):
  """The notes of a recording or a chunk: L of them."""

  time: np.ndarray  # [L, 2] int64: [start, end) in samples.
  label: np.ndarray  # [L, 2] int32: instrument (General MIDI, from 1), pitch.
  beat: np.ndarray  # [L, 2] float32: start and length.
  value: list[str]  # [L] names such as 'Dotted Eighth'.

  def between(self, start: int, end: int) -> 'Labels':
    """Notes that sound there, with time counted from `start`."""
    found = np.flatnonzero((self.time[:, 0] < end) & (self.time[:, 1] > start))
    return Labels(self.time[found] - start, self.label[found],
                  self.beat[found], [self.value[i] for i in found])


class Musicnet(base.Builder):
  """Classical recordings with all their notes; audio in chunks of 10 s."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = [
      tfds.core.BuilderConfig(name='full_44k', description='as published'),
      tfds.core.BuilderConfig(name='16k', description='resampled'),
      tfds.core.BuilderConfig(name='11k', description='resampled to 11,025'),
      tfds.core.BuilderConfig(name='labels_only', description='no audio'),
  ]
  PUBLISHED: ClassVar = {c.name: {
      'train': {'recordings': 320 - len(VALID)},
      'valid': {'recordings': len(VALID)},
      'test': {'recordings': len(TEST)}} for c in BUILDER_CONFIGS}

  @property
  def sample_rate(self) -> int:
    return {'16k': 16000, '11k': 11025}.get(self.builder_config.name, RATE)

  @property
  def _has_audio(self):
    return self.builder_config.name != 'labels_only'

  def _info(self):
    pairs = lambda dtype: F.Tensor(shape=(None, 2), dtype=dtype,
                                   encoding='bytes')
    features = {
        'id': F.Text(), **{name: F.Text() for name in _TEXT.values()},
        'seconds': np.float32,  # Of the whole recording.
        'labels_time': pairs(np.int64), 'labels': pairs(np.int32),
        'labels_beat': pairs(np.float32), 'note_value': F.Text()}
    if self._has_audio:
      features |= {
          'audio': F.Tensor(shape=(None,), dtype=np.int16, encoding='bytes'),
          'chunk': np.int32,
          'offset': np.int64}  # Samples of the recording before this chunk.
    return tfds.core.DatasetInfo(
        builder=self, features=F.FeaturesDict(features),
        homepage='https://zenodo.org/records/5120004',
        metadata=tfds.core.MetadataDict(
            sample_rate=self.sample_rate, valid_ids=VALID, test_ids=TEST))

  def archives(self):
    for archive in (_TAR, _NPZ):
      if self.find(archive):
        return [archive, _METADATA]
    raise errors.UserError(
        f'dataset musicnet/{self.builder_config.name}: {_TAR.name} (11.1 GB) '
        f'is not in {self.manual_dir}; download it and {_METADATA.name} from '
        f'{_URL} into a folder, then: python -m common.prepare '
        f'--dataset=musicnet/{self.builder_config.name} --manual_dir=FOLDER')

  def splits(self):
    return list(SPLITS)

  def start(self):
    self._archive = self.archives()[0]
    self.info.metadata['release'] = self._archive.name
    self._metadata = _read_metadata(self.find(_METADATA))

  def units(self, split):
    """One for each chunk, or for each recording where there is no audio."""
    path = self.find(self._archive)
    read = self._npz if self._archive is _NPZ else self._tar
    for name, recording, sound, labels in read(path, split):
      try:
        if recording not in self._metadata:
          raise _Broken(f'not in {_METADATA.name}')
        labels = labels()
        texts = {'id': recording, **self._metadata[recording]}
        if sound is None:
          yield base.Unit(name, (texts, labels, None))
        else:
          for chunk in chunks.cut(sound()):
            yield base.Unit(name, (texts, labels.between(*chunk.span), chunk),
                            chunk.audio.nbytes)
      except (_Broken, wav.Error, unpickle.Error, archives.Broken) as e:
        self.skip(name, str(e))

  # The recordings of a split: name, id, sound (None without audio), labels.

  def _tar(self, path, split):
    """{train,test}_data/ID.wav and {train,test}_labels/ID.csv."""
    if not self._has_audio:
      for name, data in archives.read_members(
          path, self.skip, _wanted(split, '.csv'), _LABELS_LIMIT):
        yield (name, pathlib.PurePath(name).stem, None,
               lambda: _read_labels(data))
      return
    missing = {recording for recording in self._csvs
               if split_of(recording) == split}
    for name, reader in archives.open_members(
        path, self.skip, _wanted(split, '.wav')):
      recording = pathlib.PurePath(name).stem
      if recording in self._metadata and recording not in missing:
        self.skip(name, 'no labels, or a second time')
      else:
        missing.discard(recording)
        yield (name, recording, lambda: _Wav(reader),
               lambda: _read_labels(self._csvs[recording]))
    for recording in sorted(missing):
      self.skip(f'{recording}.csv', 'labels without audio')

  @functools.cached_property
  def _csvs(self):
    """{recording: csv of its labels}, 60 MB: they may come after the sound."""
    wanted = lambda name: any(_wanted(s, '.csv')(name) for s in SPLITS)
    return {recording: data for name, data in archives.read_members(
        self.find(self._archive), lambda *_: None, wanted, _LABELS_LIMIT)
            if (recording := pathlib.PurePath(name).stem) in self._metadata}

  def _npz(self, path, split):
    """ID.npy: a pickled array of [audio, interval tree]."""
    for name, reader in archives.open_members(
        path, self.skip, _wanted(split, '.npy')):
      sound = _Pickled(reader)
      yield (name, pathlib.PurePath(name).stem,
             (lambda: sound) if self._has_audio else None, sound.labels)

  def example(self, unit):
    texts, labels, chunk = unit.data
    out = {**texts, 'labels': labels.label, 'labels_beat': labels.beat,
           'note_value': '\n'.join(labels.value), 'labels_time': np.rint(
               labels.time * (self.sample_rate / RATE)).astype(np.int64)}
    if chunk is not None:
      offset, audio = chunk.at(self.sample_rate)
      out |= {'chunk': chunk.number, 'offset': offset, 'audio': audio}
    yield f'{texts["id"]}/{out.get("chunk", 0)}', out

  def tally(self, example):
    if not self._has_audio:
      return {'recordings': 1, 'seconds': float(example['seconds']),
              'notes': len(example['labels'])}
    return {'recordings': int(example['chunk'] == 0),
            'seconds': len(example['audio']) / self.sample_rate,
            # The others began in an earlier chunk.
            'notes': int((example['labels_time'][:, 0] >= 0).sum())}


def split_of(recording: str) -> str:
  return ('test' if recording in TEST else
          'valid' if recording in VALID else 'train')


class _Broken(ValueError):
  pass


class _Wav:
  """A mono wav at 44.1 kHz."""

  def __init__(self, reader):
    self._file = wav.Wav(reader)
    self.sample_rate = self._file.sample_rate
    if (self.sample_rate, self._file.channels) != (RATE, 1):
      raise _Broken(f'not mono at {RATE} Hz')
    self.samples = self._file.samples
    if not self.samples:
      raise _Broken('no samples')

  def read(self, samples):
    return self._file.read(samples)[:, 0]


class _Pickled:
  """A recording of the npz, unpickled when something of it is asked for."""

  sample_rate = RATE

  def __init__(self, reader):
    self._reader, self._at = reader, 0

  @functools.cached_property
  def _content(self):
    content = unpickle.npy(io.BufferedReader(_Bounded(self._reader)))
    if content.shape != (2,) or not isinstance(content[1], list):
      raise _Broken('not an array and a tree')
    audio = content[0]
    if not (isinstance(audio, np.ndarray) and audio.ndim == 1
            and audio.dtype.kind == 'f' and np.isfinite(audio).all()):
      raise _Broken('audio that is not an array of finite numbers')
    if not len(audio):
      raise _Broken('no samples')
    return audio, content[1]

  @property
  def samples(self):
    return len(self._content[0])

  def read(self, samples):
    self._at += samples
    return self._content[0][self._at - samples:self._at].astype(np.float32)

  def labels(self):
    """Here the beat is counted in its measure: there is no `Labels.beat`."""
    _, tree = self._content
    try:
      rows = [(start, end, instrument, note, np.nan, np.nan, value)
              for start, end, (instrument, note, _, _, value) in tree]
    except (TypeError, ValueError):
      raise _Broken('broken labels') from None
    return _labels(sorted(rows, key=lambda row: row[:4]))


class _Bounded(io.RawIOBase):
  """The file that unpickling wants; it ends where no real one is as long."""

  def __init__(self, reader):
    self._reader, self._at = reader, 0

  def readable(self):
    return True

  def tell(self):
    return self._at

  def readinto(self, buffer):
    data = self._reader.read(min(len(buffer), 1 << 20, _NPY_LIMIT - self._at))
    buffer[:len(data)] = data
    self._at += len(data)
    return len(data)


def _wanted(split, suffix):
  def wanted(name):
    path = pathlib.PurePath(name)
    return (path.suffix == suffix and split_of(path.stem) == split
            and path.name != _METADATA.name)
  return wanted


def _read_labels(data: bytes) -> Labels:
  """A csv of labels.

  Times are samples at 44.1 kHz, and `end_beat` is a length in beats.
  """
  try:
    header, *rows = csv.reader(io.StringIO(data.decode('utf-8-sig')))
    columns = [header.index(name) for name in (
        'start_time', 'end_time', 'instrument', 'note', 'start_beat',
        'end_beat', 'note_value')]
    kinds = (int, int, int, int, float, float, str)
    return _labels([tuple(kind(row[i]) for kind, i in zip(
        kinds, columns, strict=True)) for row in rows if row])
  except (ValueError, IndexError, csv.Error):
    raise _Broken('broken labels') from None


def _labels(rows):
  """Rows of start, end, instrument, note, start and length in beats, name."""
  try:
    numbers = np.array([row[:4] for row in rows], np.int64).reshape(-1, 4)
    beat = np.array([row[4:6] for row in rows], np.float32).reshape(-1, 2)
    value = [row[6] for row in rows]
    in_range = ((numbers >= (0, 0, 1, 0)) & (numbers <= (
        2**48, 2**48, 128, 127))).all()
    if not in_range or not all(v.isprintable() for v in value):
      raise ValueError('out of range')
  except (AttributeError, TypeError, ValueError, OverflowError):
    raise _Broken('broken labels') from None
  return Labels(numbers[:, :2], numbers[:, 2:].astype(np.int32), beat, value)


def _read_metadata(path):
  """{id: {'composer': ..., 'seconds': ...}} of the published table."""
  with open(path, encoding='utf-8-sig', errors='replace', newline='') as f:
    rows = csv.DictReader(f)
    out = {}
    try:
      for row in rows:
        out[row['id']] = {
            **{new: str(row[old]) for old, new in _TEXT.items()},
            'seconds': np.float32(float(row['seconds']))}
    except (KeyError, TypeError, ValueError, csv.Error):
      raise errors.UserError(
          f'{path}, line {rows.line_num}: not a row of id, '
          f'{", ".join(_TEXT)}, seconds; download it from {_METADATA.url}'
      ) from None
  return out
