"""The 382 chorales of J. S. Bach (Boulanger-Lewandowski et al. 2012).

From github.com/czhuang/JSB-Chorales-dataset, in four forms. They hold the same
pieces in the same splits, but in three different orders, and 'quarter' is
another edition: each piece moved by 6 to 17 semitones to C major or C minor,
unisons merged. `id` is the index of a piece in the order of the separated form,
in all configs: join by it, and do not compare numbers of 'quarter' with those
of the others.

Held and repeated notes look alike in all of them.
"""

import dataclasses
import json
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from common import errors
from common.data import unpickle
from common.data.builders import base

F = tfds.features

SPLITS = ('train', 'valid', 'test')
LOWEST, PITCHES = 21, 88  # Of the rolls: a piano's keys.
REST = -1

_URL = 'https://github.com/czhuang/JSB-Chorales-dataset'
_PIECES = {'train': 229, 'valid': 76, 'test': 77}
# Steps of 16ths: multiples of 4.
_STEPS = {'train': 55_228, 'valid': 18_408, 'test': 18_900}
_LIMIT = 64 << 20  # Bytes of a file; the largest published has 2 MB.


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
  files: tuple[base.Archive, ...]  # The first that is there is read.
  steps_per_quarter: int


def _file(name, size=None, sha256=''):
  return base.Archive(name, _URL, size, sha256, optional=True)


class JsbChorales(base.Builder):
  """Bach's four-part chorales, as voices or as piano rolls."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = [
      Config(name='16th_separated', steps_per_quarter=4, files=(
          _file('Jsb16thSeparated.npz', 102_808,
                '2adcdf0d57880c3763f104555072285fe7f9e3d6049fcc4b9830557b8d4a78'
                '20'),
          _file('Jsb16thSeparated.json', 1_666_444,
                '79294cc374f9252e95ef4b703161524c1c53dc1f712c236f00f1c1f5d54af5'
                'a7')), description='soprano, alto, tenor and bass'),
      Config(name='16th', steps_per_quarter=4, files=(
          _file('jsb-chorales-16th.json', 1_741_172,
                '8730aca7b64e7d29493733d1cf19fad4a5b351d8f1845e57dac27728104fd3'
                '9f'),
          _file('jsb-chorales-16th.pkl')), description='rolls of 16ths'),
      Config(name='8th', steps_per_quarter=2, files=(
          _file('jsb-chorales-8th.json', 870_990,
                '88fb80b22829a815e8105da538d94ae803773158507e2145938351f3514239'
                '0a'),
          _file('jsb-chorales-8th.pkl')), description='rolls of eighths'),
      Config(name='quarter', steps_per_quarter=1, files=(
          _file('jsb-chorales-quarter.json', 407_200,
                '2db9329f1881a1d3f49703ec556bf1d6f84b4f6c1d702c156536e93cf31e1c'
                '91'),
          _file('jsb-chorales-quarter.pkl', 2_051_794)),
             description='rolls of quarters, in C, another edition'),
  ]
  PUBLISHED: ClassVar = {
      c.name: {s: {'examples': _PIECES[s],
                   'steps': _STEPS[s] * c.steps_per_quarter // 4}
               for s in SPLITS} for c in BUILDER_CONFIGS}

  def _info(self):
    content = {'roll': F.Tensor(shape=(None, PITCHES), dtype=np.uint8,
                                encoding='zlib')}
    if self._is_separated:
      # Soprano, alto, tenor, bass; -1 is a rest.
      content = {'voices': F.Tensor(shape=(None, 4), dtype=np.int16,
                                    encoding='bytes')}
    return tfds.core.DatasetInfo(
        builder=self, homepage=_URL,
        features=F.FeaturesDict({'id': np.int32, **content}),
        metadata=tfds.core.MetadataDict(
            steps_per_quarter=self.builder_config.steps_per_quarter))

  @property
  def _is_separated(self):
    return self.builder_config.name == '16th_separated'

  def archives(self):
    files = self.builder_config.files
    there = [file for file in files if self.find(file)]
    return there[:1] or [dataclasses.replace(files[0], optional=False)]

  def splits(self):
    return list(SPLITS)

  def units(self, split):
    path = self.find(self.archives()[0])
    pieces = _read(path, split)
    order = range(len(pieces))
    if len(pieces) == _PIECES[split] and not self._is_separated:
      order = _order(self.builder_config.name, split)
    # In order of their ids, so that the same index is the same piece.
    for i in sorted(range(len(pieces)), key=order.__getitem__):
      yield base.Unit(f'{path.name}:{split}[{i}]', (order[i], pieces[i]))

  def example(self, unit):
    number, piece = unit.data
    make = voices if self._is_separated else roll
    name = 'voices' if self._is_separated else 'roll'
    yield number, {'id': number, name: make(piece)}

  def tally(self, example):
    return {'steps': len(example['voices' if self._is_separated else 'roll'])}


def voices(piece) -> np.ndarray:
  """[T, 4] int16 of MIDI pitches; a rest is -1 (nan in the npz)."""
  try:
    steps = np.asarray(piece, np.float64)
  except (TypeError, ValueError, OverflowError):
    raise base.Skip('not a table of numbers') from None
  if steps.ndim != 2 or steps.shape[1] != 4 or not len(steps):
    raise base.Skip('not four voices at each step')
  steps = np.where(np.isnan(steps), REST, steps)
  if (steps != np.round(steps)).any() or (steps < REST).any() or (
      steps > 127).any():
    raise base.Skip('a number that is no MIDI pitch')
  return steps.astype(np.int16)


def roll(piece) -> np.ndarray:
  """[T, 88] uint8, from a list of sounding pitches at each step."""
  if not isinstance(piece, (list, tuple)) or not piece or not all(
      isinstance(step, (list, tuple)) for step in piece):
    raise base.Skip('not a list of pitches at each step')
  try:
    # Pieces with rests are stored as floats.
    pitches = np.array([p for step in piece for p in step], np.float64)
  except (TypeError, ValueError, OverflowError):
    raise base.Skip('not a table of numbers') from None
  keys = pitches - LOWEST
  # A step without a note is no error: 21 of the pieces have some.
  if pitches.ndim != 1 or not np.isin(keys, np.arange(PITCHES)).all():
    raise base.Skip('a number that is no key of a piano')
  steps = np.repeat(np.arange(len(piece)), [len(step) for step in piece])
  out = np.zeros((len(piece), PITCHES), np.uint8)
  out[steps, keys.astype(int)] = 1
  return out


def _read(path, split) -> list:
  """The pieces of a split."""
  try:
    if path.stat().st_size > _LIMIT:
      raise ValueError('it is far too large')
    data = path.read_bytes()
    splits = {'.npz': lambda d: unpickle.npz(d, _LIMIT), '.json': json.loads,
              '.pkl': unpickle.loads}[path.suffix](data)
    if not isinstance(splits, dict) or not isinstance(
        splits[split], (list, np.ndarray)):
      raise ValueError('it holds no lists of pieces')
    return list(splits[split])
  except KeyError:
    why = f'it has no split {split!r}'
  except (TypeError, ValueError, RecursionError) as e:
    why = str(e).splitlines()[0]
  raise errors.UserError(
      f'{path} is not the published file: {why}; download it again from {_URL}')


def _order(config: str, split: str) -> list[int]:
  """Index in the file -> index in the separated form."""
  if config == 'quarter':
    return _QUARTER[split]
  order = list(range(_PIECES[split]))
  # One piece is elsewhere.
  if split == 'train':
    order.insert(29, order.pop(107))
  elif split == 'valid':
    order.insert(34, order.pop(3))
  return order


# Found by comparing the music: no two pieces are nearly as close as these.
_QUARTER = {
    'train': [
        75, 57, 174, 223, 15, 94, 126, 105, 185, 218, 70, 171, 145, 177, 224,
        176, 222, 27, 228, 10, 31, 139, 204, 190, 195, 67, 52, 125, 113, 112,
        102, 87, 196, 169, 42, 205, 76, 16, 0, 59, 44, 179, 107, 68, 6, 192,
        193, 154, 83, 2, 189, 180, 103, 101, 60, 89, 199, 129, 140, 109, 93,
        207, 133, 213, 111, 13, 41, 128, 79, 98, 225, 8, 36, 80, 21, 147, 65,
        183, 143, 132, 208, 118, 164, 114, 108, 184, 33, 212, 148, 49, 153, 12,
        124, 119, 28, 4, 130, 151, 38, 77, 115, 88, 158, 66, 7, 26, 61, 46, 134,
        24, 142, 120, 23, 95, 173, 25, 226, 217, 127, 71, 62, 159, 201, 91, 122,
        96, 64, 152, 146, 18, 206, 149, 181, 55, 104, 202, 216, 32, 191, 150,
        160, 220, 211, 155, 19, 170, 51, 9, 198, 99, 72, 162, 203, 141, 20, 215,
        161, 1, 90, 138, 97, 157, 48, 100, 137, 43, 210, 178, 135, 168, 39, 136,
        3, 47, 123, 63, 29, 86, 81, 163, 194, 17, 34, 214, 166, 78, 110, 22,
        144, 11, 187, 56, 74, 188, 5, 92, 40, 53, 197, 209, 200, 117, 14, 82,
        165, 58, 172, 116, 54, 69, 73, 227, 167, 45, 50, 37, 121, 30, 85, 186,
        131, 175, 219, 156, 182, 106, 221, 84, 35],
    'valid': [
        16, 75, 41, 40, 69, 61, 1, 70, 47, 73, 53, 48, 0, 11, 45, 5, 38, 43, 24,
        67, 8, 50, 71, 59, 23, 26, 35, 52, 65, 36, 34, 33, 21, 74, 22, 57, 42,
        4, 72, 39, 27, 51, 46, 49, 30, 29, 64, 32, 55, 44, 15, 58, 56, 28, 13,
        2, 37, 7, 68, 12, 10, 63, 3, 6, 18, 60, 9, 54, 31, 66, 14, 17, 25, 20,
        62, 19],
    'test': [
        23, 75, 41, 14, 10, 19, 0, 60, 47, 35, 33, 39, 16, 22, 68, 59, 65, 38,
        45, 7, 42, 27, 57, 28, 52, 32, 48, 9, 74, 56, 1, 2, 40, 55, 61, 29, 66,
        3, 53, 44, 58, 20, 72, 8, 37, 50, 63, 13, 73, 70, 49, 30, 4, 54, 25, 67,
        24, 46, 5, 64, 51, 69, 15, 31, 6, 43, 76, 12, 17, 62, 34, 21, 71, 18,
        36, 26, 11],
}
