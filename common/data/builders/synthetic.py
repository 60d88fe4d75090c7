"""Made-up notes, pieces, songs, chorales and performances, as TFDS data sets.

They have the schemas of the real sets (NSynth, MusicNet, Lakh Pianoroll LPD-5,
JSB chorales, MAESTRO; codes: what common.encode makes of NSynth with the
VQ-VAE-2), so that what trains on one trains on the other. Configs:
'tiny' for tests, 'demo', and 'n5000' or any other number of training examples,
with a tenth as many in each of the other splits. Larger sets begin with the
same examples as smaller ones.
"""

import dataclasses
import re
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from common import errors
from common.data import synthetic
from common.data.builders import base

F = tfds.features


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
  train: int
  valid: int
  test: int


def _configs(**demo):
  return [
      # Sizes that divide nothing: uneven batches show.
      Config(name='tiny', train=37, valid=11, test=5,
             description='for tests'),
      Config(name='demo', **demo, description='for a first run'),
  ]


class _Synthetic(base.Builder, skip_registration=True):
  VERSION = tfds.core.Version('1.0.0')
  NEEDS_FILES = False
  METADATA: ClassVar = {}
  MOST = 10**9  # Different examples of the training split.

  @classmethod
  def config_names(cls):
    return [*super().config_names(), 'nNUMBER']

  @classmethod
  def find_config(cls, name):
    sized = re.fullmatch(r'n([1-9]\d*)', name)
    if not sized:
      return super().find_config(name)
    n = int(sized[1])
    if n > cls.MOST:
      raise errors.UserError(f'dataset {cls.name}/{name}: there are {cls.MOST} '
                             f'different training examples; use n{cls.MOST}')
    return Config(name=name, train=n, valid=-(-n // 10), test=-(-n // 10))

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, features=F.FeaturesDict(self.features()),
        metadata=tfds.core.MetadataDict(self.METADATA),
        disable_shuffling=True)  # Stored in order: n5000 begins like n500.

  def splits(self):
    return list(synthetic.SPLITS)

  def units(self, split):
    for index in range(getattr(self.builder_config, split)):
      yield base.Unit(f'{split} {index}', (split, index))

  def example(self, unit):
    yield unit.data[1], self.make(*unit.data)


class SyntheticNotes(_Synthetic):
  """Single notes of 4 s at 16 kHz with pitch and instrument, as in NSynth."""

  BUILDER_CONFIGS = _configs(train=600, valid=60, test=60)
  SHARD_UNITS = 512  # 131 MB.
  METADATA: ClassVar = {'sample_rate': synthetic.NOTE_RATE}
  MOST = synthetic.MOST_NOTES

  @staticmethod
  def features():
    return {
        'id': F.Text(),
        'audio': F.Tensor(shape=(synthetic.NOTE_SAMPLES,), dtype=np.float32,
                          encoding='bytes'),
        'pitch': F.ClassLabel(num_classes=128),
        'velocity': F.ClassLabel(num_classes=128),
        'instrument': {
            'label': F.ClassLabel(names=synthetic.instrument_names()),
            'family': F.ClassLabel(names=synthetic.FAMILIES),
            'source': F.ClassLabel(names=synthetic.SOURCES)},
        'qualities': {name: np.bool_ for name in synthetic.QUALITIES},
    }

  make = staticmethod(synthetic.note)


class SyntheticPieces(_Synthetic):
  """Pieces of 10 to 20 s at 16 kHz with all their notes, as in MusicNet."""

  BUILDER_CONFIGS = _configs(train=60, valid=10, test=10)
  SHARD_UNITS = 256  # 130 MB or less.
  METADATA: ClassVar = {'sample_rate': synthetic.PIECE_RATE}

  @staticmethod
  def features():
    text = ('id', 'composer', 'composition', 'movement', 'ensemble', 'source',
            'transcriber', 'catalog', 'note_value')
    return {
        **{name: F.Text() for name in text},
        'seconds': np.float32,
        'audio': F.Tensor(shape=(None,), dtype=np.int16, encoding='bytes'),
        # [start, end) in samples of `audio`.
        'labels_time': F.Tensor(shape=(None, 2), dtype=np.int64,
                                encoding='bytes'),
        # [instrument, note]; instruments are General MIDI's, from 1.
        'labels': F.Tensor(shape=(None, 2), dtype=np.int32, encoding='bytes'),
        # [start, length] in beats.
        'labels_beat': F.Tensor(shape=(None, 2), dtype=np.float32,
                                encoding='bytes'),
    }

  make = staticmethod(synthetic.piece)


class SyntheticRolls(_Synthetic):
  """Songs as five-track piano rolls, 24 steps a beat, as in LPD-5."""

  BUILDER_CONFIGS = _configs(train=200, valid=20, test=20)
  METADATA: ClassVar = {'steps_per_beat': 24,
              'tracks': ['Drums', 'Piano', 'Guitar', 'Bass', 'Strings']}

  @staticmethod
  def features():
    return {
        'id': F.Text(),
        'msd_id': F.Text(),
        'tempo': F.Tensor(shape=(None,), dtype=np.float32, encoding='zlib'),
        'n_steps': np.int32,
        'roll': F.Tensor(shape=(None, 128, 5), dtype=np.uint8,
                         encoding='zlib'),
    }

  make = staticmethod(synthetic.roll)


class SyntheticChorales(_Synthetic):
  """Chorales of four voices on a grid of 16ths, as in the JSB chorales."""

  BUILDER_CONFIGS = _configs(train=300, valid=60, test=60)

  @staticmethod
  def features():
    return {
        'id': np.int32,
        # Soprano, alto, tenor, bass; -1 is a rest.
        'voices': F.Tensor(shape=(None, 4), dtype=np.int16, encoding='bytes'),
    }

  make = staticmethod(synthetic.chorale)


class SyntheticPerformances(_Synthetic):
  """The same chorales played by hand on a piano, as MIDI, as in MAESTRO."""

  BUILDER_CONFIGS = _configs(train=300, valid=60, test=60)

  @staticmethod
  def features():
    return {
        'id': F.Text(), 'canonical_composer': F.Text(),
        'canonical_title': F.Text(), 'year': np.int32, 'duration': np.float32,
        'midi': F.Text(),  # The bytes of the file.
        'notes': np.int32}

  make = staticmethod(synthetic.performance)


class SyntheticCodes(_Synthetic):
  """Notes as two maps of 512 codes, as a VQ-VAE-2 has them."""

  BUILDER_CONFIGS = _configs(train=600, valid=60, test=60)
  METADATA: ClassVar = {
      'sizes': dict.fromkeys(synthetic.CODE_SHAPES, synthetic.CODES),
      'shapes': {k: list(v) for k, v in synthetic.CODE_SHAPES.items()}}

  @staticmethod
  def features():
    return {
        'id': F.Text(), 'codec': np.int64, 'pitch': np.int32,
        'instrument_family': np.int32,
        **{name: F.Tensor(shape=shape, dtype=np.int16, encoding='bytes')
           for name, shape in synthetic.CODE_SHAPES.items()}}

  make = staticmethod(synthetic.codes)
