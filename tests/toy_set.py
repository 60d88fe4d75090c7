"""A data set from an archive, with what can go wrong with its files."""

import io
import os
import sys
import tarfile
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from common.data import archives
from common.data.builders import base

NAMES = {'train': 23, 'valid': 4}


class ToySet(base.Builder):
  """Numbers in a tar, one to a file: NUMBER or NUMBER*TIMES."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name='tiny')]
  SHARD_UNITS = 5

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict({
            'id': tfds.features.Text(), 'label': tfds.features.ClassLabel(),
            'x': np.int32, 'y': tfds.features.Tensor(
                shape=(None,), dtype=np.float32, encoding='bytes')}))

  def archives(self):
    return [base.Archive(
        'toy.tar', 'https://example.com/toy.tar', 30_720, 'abc',
        folder='toy')]

  def start(self):
    self.info.features['label'].names = ['even', 'odd']

  def splits(self):
    return list(NAMES)

  def units(self, split):
    for name, data in archives.read_members(
        self.find(self.archives()[0]), self.skip,
        lambda name: name.startswith(split)):
      if name.endswith('.md'):
        self.skip(name, 'not a number')
      else:
        yield base.Unit(name, data, len(data))

  def example(self, unit):
    sys.audit('toy_set.example', unit.name)
    text = unit.data.decode()
    if text == 'kill':
      os.kill(os.getpid(), 9)
    if text == 'filtered':
      raise base.Skip('filtered out')
    x, _, times = text.partition('*')
    for i in range(int(times or 1)):
      number = int(x) + i
      yield number, {'id': unit.name, 'label': ['even', 'odd'][number % 2],
                     'x': 'wrong' if text == '13' else number,
                     'y': np.full(2000, number, np.float32)}
      if text == '7*2':
        raise base.Skip('broken in the middle')

  def tally(self, example):
    return {'seconds': 1.5, 'numbers': 1}


def files(**changed) -> dict[str, bytes]:
  """{name: contents} of the archive; train_3=b'..' changes a file."""
  out = {f'{split}/{i}': str(i).encode()
         for split, count in NAMES.items() for i in range(count)}
  out['train/13'] = b'14'
  return {**out, **{k.replace('_', '/'): v for k, v in changed.items()}}


def archive(folder, members: dict[str, bytes]) -> None:
  folder.mkdir(exist_ok=True)
  with tarfile.open(folder / 'toy.tar', 'w') as t:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      t.addfile(info, io.BytesIO(data))


def make(tmp_path, **changed) -> ToySet:
  """The builder over an archive with these files."""
  archive(tmp_path / 'manual', files(**changed))
  return ToySet(config=ToySet.find_config('tiny'), data_dir=tmp_path / 'data',
                manual_dir=tmp_path / 'manual')
