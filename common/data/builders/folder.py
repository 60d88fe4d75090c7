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
import functools
import hashlib
import json
import math
import os
import pathlib
import re
from typing import ClassVar

import numpy as np
import soundfile
import soxr
import tensorflow_datasets as tfds

from common import errors, midi
from common.data import archives
from common.data.builders import base

F = tfds.features

SPLITS = ('train', 'valid', 'test')
RATE = 16000  # Where the name does not say another.
CHUNK = 1 << 16  # Samples of a record.
_SEGMENT = 32 * CHUNK  # Decoded at a time, so that a day of sound fits too.
_EDGE_S = 0.25  # Decoded around a segment: its resampling sees its neighbours.


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
  sample_rate: int = RATE


@dataclasses.dataclass(frozen=True)
class File:
  """What is known of a file before it is decoded."""

  name: str
  path: str
  label: str
  frames: int = 0
  rate: int = 0
  stat: tuple[int, int] = ()


class _Folder(base.Builder, skip_registration=True):
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = []
  SUFFIXES: tuple[str, ...]

  @classmethod
  def config_names(cls):
    return ['NAME']

  @classmethod
  def find_config(cls, name):
    if not re.fullmatch('[a-z][a-z0-9_]*', name):
      raise errors.UserError(
          f'dataset {cls.name}/{name}: the name after the slash is yours to '
          'choose; use small letters, digits and _, and begin with a letter')
    return Config(name=name)

  def start(self):
    if not self.manual_dir.is_dir():
      raise errors.UserError(
          f'dataset {self.name}/{self.builder_config.name}: there is no folder '
          f'{self.manual_dir}; give the one with your files as --manual_dir')
    self._splits = {split: [] for split in SPLITS}
    self._left_out, listing = [], hashlib.sha256()
    own_splits = (self.manual_dir / 'train').is_dir()
    lost = lambda name, reason: self._left_out.append((name, reason))
    is_ours = lambda name: name.lower().endswith(self.SUFFIXES)
    for name, path, info in archives.files(self.manual_dir, lost, is_ours):
      listing.update(json.dumps(
          [name, info.st_size, info.st_mtime_ns]).encode())
      parts = name.split('/')
      split = parts.pop(0) if own_splits else ''
      if own_splits and split not in SPLITS:
        lost(name, 'not in train, valid or test')
        continue
      try:
        # Where it is given, the split is not looked up in the contents.
        split = self.look_at(path, split)
      except base.Skip as e:
        lost(name, str(e))
        continue
      label = parts[0] if len(parts) > 1 else '.'
      self._splits[split].append((name, path, label))
    self._listing = listing.hexdigest()
    if not self._splits['train']:
      raise errors.UserError(self._too_few())
    self.info.features['label'].names = sorted(
        {f[2] for files in self._splits.values() for f in files})

  def inputs(self):
    return [str(self.manual_dir), self._listing]

  def splits(self):
    return [split for split in SPLITS if self._splits[split]]

  def _too_few(self):
    found = sum(map(len, self._splits.values()))
    if found:
      return (f'{self.manual_dir} has {found} usable {self.KIND} files, too few '
              'to be split by their contents; put them into folders train, '
              'valid and test')
