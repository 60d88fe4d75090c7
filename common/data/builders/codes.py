"""Codes of a data set: what `common.encode` writes and priors learn."""

import dataclasses
import re
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from common import errors
from common.data.builders import base


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
  """What only the codec and its data set know."""

  features: dict[str, Any]
  metadata: dict[str, Any]  # Of the codec.
  splits: list[str]


class Codes(base.Builder):
  """Codes of another data set, made by common.encode."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = []

  @classmethod
  def config_names(cls):
    return ['any name (python -m common.encode --help)']

  @classmethod
  def find_config(cls, name):
    raise errors.UserError(
        f'dataset codes/{name} is not there; make it with: python -m '
        f'common.encode --workdir=CODEC --dataset=codes/{name}, where CODEC is '
        'the workdir of a run that has codes')

  @classmethod
  def make(cls, name: str, data_dir, **options) -> 'Codes':
    """The builder that common.encode fills."""
    builder, _, config = name.partition('/')
    if builder != cls.name or not re.fullmatch(r'[\w.-]+', config, re.ASCII):
      raise errors.UserError(
          f'--dataset={name} is no name for codes; write {cls.name}/NAME with '
          'NAME of letters, digits and _.-')
    return cls(config=Config(name=config, **options), data_dir=data_dir)

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(self.builder_config.features),
        metadata=tfds.core.MetadataDict(self.builder_config.metadata),
        disable_shuffling=True)  # In the order of what was encoded.

  def splits(self):
    return self.builder_config.splits
