"""One TFDS builder per data set; `common.prepare` runs them.

A data set is named 'builder/config', as in `config.data.name`, and lies in
<data_dir>/<builder>/<config>/<version>/.
"""

import importlib
import os
import pathlib
import re

import tensorflow_datasets as tfds

from common import errors
from common.data import chunks

# Builder: where its class is. Imported when it is needed.
BUILDERS = {
    'audio_folder': 'common.data.builders.folder:AudioFolder',
    'codes': 'common.data.builders.codes:Codes',
    'jsb_chorales': 'common.data.builders.jsb_chorales:JsbChorales',
    'lakh_midi': 'common.data.builders.lakh:LakhMidi',
    'lpd': 'common.data.builders.lakh:Lpd',
    'lpd17': 'common.data.builders.lakh:Lpd17',
    'lpd5': 'common.data.builders.lakh:Lpd5',
    'maestro': 'common.data.builders.maestro:Maestro',
    'midi_folder': 'common.data.builders.folder:MidiFolder',
    'musicnet': 'common.data.builders.musicnet:Musicnet',
    'nsynth': 'common.data.builders.nsynth:Nsynth',
    'synthetic_chorales':
        'common.data.builders.synthetic:SyntheticChorales',
    'synthetic_codes': 'common.data.builders.synthetic:SyntheticCodes',
    'synthetic_notes': 'common.data.builders.synthetic:SyntheticNotes',
    'synthetic_performances':
        'common.data.builders.synthetic:SyntheticPerformances',
    'synthetic_pieces': 'common.data.builders.synthetic:SyntheticPieces',
    'synthetic_rolls': 'common.data.builders.synthetic:SyntheticRolls',
}


def default_data_dir() -> pathlib.Path:
  return pathlib.Path(os.environ.get('TFDS_DATA_DIR')
                      or '~/tensorflow_datasets').expanduser()


def builder_class(builder: str) -> type:
  if builder not in BUILDERS:
    raise errors.UserError(f'dataset {builder!r} does not exist'
                           f'{errors.suggest(builder, BUILDERS)}')
  module, name = BUILDERS[builder].split(':')
  return getattr(importlib.import_module(module), name)


def make(name: str, data_dir=None, manual_dir=None):
  """The builder of a data set, prepared or not."""
  builder, _, config = name.partition('/')
  cls = builder_class(builder)
  return cls(config=cls.find_config(config), manual_dir=manual_dir,
             data_dir=data_dir or default_data_dir())


def open_split(name: str, split: str, data_dir=None):
  """A prepared split as a sequence of examples; 'train[:10%]' works too."""
  builder = _prepared(name, data_dir)
  known = list(builder.info.splits)
  for part in re.findall(r'(?:^|\+)\s*(\w*)', split):
    if part not in known:
      raise errors.UserError(
          f'dataset {name} has no split {part!r}; known: {", ".join(known)}')
  try:
    return builder.as_data_source(split)
  except ValueError as e:
    raise errors.UserError(
        f'{split!r} is not a part of dataset {name} ({e}); write a split, or '
        "a slice like 'train[:10%]'") from None


class _Example(dict):
  """A stored example that says so if it lacks something."""

  def __missing__(self, name):
    raise errors.UserError(
        f'the data have no {name!r}, which this model is made for, but '
        f'{", ".join(sorted(self))}; set data.name to others')


def check(source, data, read) -> None:
  """Refuses data that a model cannot use.

  Args:
    source: of `open_split`.
    data: config.data; its sample_rate, if it has one, must be the data's.
    read: what the model makes of an example.
  """
  info = getattr(source, 'dataset_info', None)
  stored = info and (info.metadata or {}).get('sample_rate')
  wanted = data.get('sample_rate')
  if stored and wanted and stored != wanted:
    raise errors.UserError(
        f'the data ({info.full_name}) are at {stored} Hz; prepare them at '
        f'data.sample_rate={wanted}, or set that')
  if len(source):
    read(_Example(chunks.Recordings(source)[0]))


def splits_of(name: str, data_dir=None) -> list[str]:
  """Names of a prepared data set's splits."""
  return list(_prepared(name, data_dir).info.splits)


def _prepared(name, data_dir):
  data_dir = pathlib.Path(data_dir or default_data_dir())
  folder = newest(data_dir / name)
  if folder is None:
    builder, _, config = name.partition('/')
    cls = builder_class(builder)
    cls.find_config(config)  # Is there such a data set?
    raise errors.UserError(
        f'dataset {name} is not in {data_dir}; prepare it with: '
        f'python -m common.prepare --dataset={name} --data_dir={data_dir}'
        + ' --manual_dir=FOLDER' * cls.NEEDS_FILES)
  return tfds.builder_from_directory(folder)


def newest(folder: pathlib.Path) -> pathlib.Path | None:
  """The folder of the newest complete version, None if there is none."""
  versions = [p for p in folder.glob('*/')
              if re.fullmatch(r'\d+\.\d+\.\d+', p.name)
              and (p / 'dataset_info.json').is_file()]
  return max(versions, default=None,
             key=lambda p: [int(n) for n in p.name.split('.')])
