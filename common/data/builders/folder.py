"""Your own sound or MIDI files, as data sets.

  python -m common.prepare --dataset=audio_folder/drums --manual_dir=FOLDER
  python -m common.prepare --dataset=audio_folder/drums-44100 \
      --manual_dir=FOLDER
  python -m common.prepare --dataset=midi_folder/hymns --manual_dir=FOLDER

The word after the slash is a name of your choice; a number after it is the
sample rate, else that is 16000. Files may lie in folders of any depth; the
first folder is the label. If the first folders are called train, valid and
test, they are the splits. Otherwise the contents of a file choose its split,
80:10:10, so that it stays where it is when others are added.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
from typing import ClassVar

import numpy as np
import soundfile
import tensorflow_datasets as tfds

from common import errors, midi
from common.data import archives, chunks
from common.data.builders import base

F = tfds.features

SPLITS = ('train', 'valid', 'test')
RATE = 16000  # Where the name does not say another.
_SEGMENT = 12  # Chunks that are decoded at a time: a day of sound fits too.
_BLOCK = 1 << 20  # Values read from a sound file at a time.


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
  sample_rate: int = RATE


class _Folder(base.Builder, skip_registration=True):
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = []
  KIND: str
  SUFFIXES: tuple[str, ...]
  UNIQUE = False  # Of two files with the same digest, the first is kept.

  def digest(self, path: str) -> bytes:
    """Of what makes a file the same as another; may raise `Skip`."""
    raise NotImplementedError

  @classmethod
  def config_names(cls):
    return ['NAME']

  @classmethod
  def find_config(cls, name):
    if not re.fullmatch('[a-z][a-z0-9_]*', name):
      raise errors.UserError(
          f'dataset {cls.name}/{name}: the name after the slash is yours to '
          'choose, of small letters, digits and _, a letter first; for example '
          f'{cls.name}/mine')
    return Config(name=name)

  def start(self):
    if not self.manual_dir.is_dir():
      raise errors.UserError(
          f'dataset {self.name}/{self.builder_config.name}: there is no folder '
          f'{self.manual_dir}; give the one with your files as --manual_dir')
    self._files = {split: [] for split in SPLITS}  # [(name, path, label)]
    self._lost, listing, seen = [], hashlib.sha256(), set()
    own_splits = (self.manual_dir / 'train').is_dir()
    lose = lambda name, reason: self._lost.append((name, reason))
    for name, path, info in archives.files(
        self.manual_dir, lose, lambda n: n.lower().endswith(self.SUFFIXES)):
      listing.update(repr((name, info.st_size, info.st_mtime_ns)).encode())
      folders = name.split('/')[:-1]
      if own_splits and (not folders or folders[0] not in SPLITS):
        lose(name, 'not in train, valid or test')
        continue
      digest = b''
      if self.UNIQUE or not own_splits:
        try:
          digest = self.digest(path)
        except base.Skip as e:
          lose(name, str(e))
          continue
      if self.UNIQUE:
        if digest in seen:
          lose(name, 'same notes as another file')
          continue
        seen.add(digest)
      split = folders.pop(0) if own_splits else _split_of(digest)
      self._files[split].append((name, path, folders[0] if folders else '.'))
    self._listing = listing.hexdigest()
    if not self._files['train']:
      raise errors.UserError(
          f'{self.manual_dir} has {sum(map(len, self._files.values()))} usable '
          f'{self.KIND} files ({", ".join(self.SUFFIXES)}), none for training; '
          'add more, or sort them into folders train, valid and test')
    self.info.features['label'].names = sorted(
        {label for files in self._files.values() for _, _, label in files})

  def inputs(self):
    return [str(self.manual_dir), self._listing]

  def splits(self):
    return [split for split in SPLITS if self._files[split]]

  def units(self, split):
    if split == self.splits()[0]:
      for name, reason in self._lost:
        self.skip(name, reason)
    for name, path, label in self._files[split]:
      yield from self.pieces(name, path, label)


class AudioFolder(_Folder):
  """Your wav, flac, ogg and mp3 files, mono, in chunks of 10 s (the last: 20).

  A shorter file is one record. The chunks of a file follow each other, so that
  a window is read without the rest.
  """

  KIND = 'sound'
  SUFFIXES = ('.wav', '.flac', '.ogg', '.mp3')

  @classmethod
  def config_names(cls):
    return ['NAME', 'NAME-SAMPLE_RATE']

  @classmethod
  def find_config(cls, name):
    name, dash, rate = name.partition('-')
    config = super().find_config(name)
    if not dash:
      return config
    if not re.fullmatch('[1-9][0-9]{3,5}', rate):
      raise errors.UserError(
          f'dataset {cls.name}/{name}-{rate}: {rate!r} is no sample rate from '
          f'1000 to 999999; write {cls.name}/{name}-44100')
    return Config(name=f'{name}-{rate}', sample_rate=int(rate))

  def _info(self):
    rate = self.builder_config.sample_rate
    return tfds.core.DatasetInfo(
        builder=self, features=F.FeaturesDict({
            'id': F.Text(),  # Name of the file in its folder.
            'label': F.ClassLabel(),
            'chunk': np.int32,  # Its number in the file.
            'offset': np.int64,  # Samples of the file before it.
            'audio': F.Tensor(shape=(None,), dtype=np.int16, encoding='bytes'),
            'sample_rate': np.int32,
        }), metadata=tfds.core.MetadataDict(sample_rate=rate))

  def digest(self, path):
    with open(path, 'rb') as f:
      return hashlib.file_digest(f, 'sha256').digest()

  def pieces(self, name, path, label):
    try:
      header = soundfile.info(path)
      count = max(1, header.frames // (chunks.SECONDS * header.samplerate))
    except (soundfile.LibsndfileError, ZeroDivisionError):
      count = 1  # Decoding it will say what is wrong.
    for first in range(0, count, _SEGMENT):
      numbers = range(first, min(first + _SEGMENT, count))
      size = 2 * chunks.SECONDS * self.builder_config.sample_rate * len(numbers)
      yield base.Unit(name if not first else f'{name} from chunk {first}',
                      (name, path, label, numbers, count), size)

  def example(self, unit):
    name, path, label, numbers, count = unit.data
    rate = self.builder_config.sample_rate
    try:
      with soundfile.SoundFile(path) as f:
        if not 1000 <= f.samplerate <= 1_000_000:
          raise base.Skip('sample rate not from 1000 to 1000000')
        for number in numbers:
          offset, audio = _chunk(f, number, number == count - 1).at(rate)
          if len(audio):
            yield f'{name} {number}', {
                'id': name, 'label': label, 'chunk': number, 'offset': offset,
                'audio': audio, 'sample_rate': rate}
          elif number == 0:
            raise base.Skip('no samples')
    except soundfile.LibsndfileError:
      raise base.Skip('cannot be read as sound') from None

  def tally(self, example):
    return {'seconds': len(example['audio']) / example['sample_rate']}


class MidiFolder(_Folder):
  """Your MIDI files, without those that have the same notes as another.

  Two files have the same notes if they strike the same pitches in the same
  order: tempo, loudness, instruments and names make no difference.
  """

  KIND = 'MIDI'
  SUFFIXES = ('.mid', '.midi', '.rmi')
  UNIQUE = True

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict({
        'id': F.Text(),  # Name of the file in its folder.
        'label': F.ClassLabel(),
        'midi': F.Text(),  # The bytes of the file.
        'notes': np.int32,
        'seconds': np.float32,
    }))

  def digest(self, path):
    notes = _notes(path)
    order = np.lexsort((notes['pitch'], notes['is_drum'], notes['start_s']))
    struck = notes['pitch'] + 128 * notes['is_drum']
    return hashlib.sha256(struck[order].astype('<i2').tobytes()).digest()

  def pieces(self, name, path, label):
    yield base.Unit(name, (path, label), os.path.getsize(path))

  def example(self, unit):
    path, label = unit.data
    notes = _notes(path)
    yield unit.name, {
        'id': unit.name, 'label': label,
        'midi': pathlib.Path(path).read_bytes(), 'notes': len(notes),
        'seconds': notes['end_s'].max()}

  def tally(self, example):
    return {'notes': example['notes'], 'seconds': float(example['seconds'])}


def _split_of(digest):
  part = int.from_bytes(digest[:8], 'big') / 2**64
  return 'train' if part < 0.8 else 'valid' if part < 0.9 else 'test'


def _notes(path):
  try:
    notes = midi.read(path)
  except errors.UserError:
    raise base.Skip('not a valid MIDI file') from None
  if not len(notes):
    raise base.Skip('no notes')
  return notes


def _chunk(f, number, is_last):
  """Chunk of a sound file, with a second more on each side."""
  start = number * chunks.SECONDS * f.samplerate
  end = f.frames if is_last else start + chunks.SECONDS * f.samplerate
  begin = max(0, start - f.samplerate)
  f.seek(begin)
  audio = _mono(f, min(end + f.samplerate, f.frames) - begin)
  if not np.isfinite(audio).all():
    raise base.Skip('samples that are NaN or infinite')
  return chunks.Chunk(number, (start, end), audio, start - begin, f.samplerate)


def _mono(f, frames):
  blocks = []
  while frames > 0:
    block = f.read(min(frames, -(-_BLOCK // f.channels)), 'float32',
                   always_2d=True)
    if not len(block):
      break
    blocks.append(block.mean(1))
    frames -= len(block)
  return np.concatenate(blocks or [np.empty(0, np.float32)])
