"""What a data set defines, and how it is written: TFDS without TensorFlow.

A builder names its splits, streams the raw pieces of each (`units`) and
decodes one piece (`example`). The rest is here and in `shards`: worker
processes, shards, going on after a kill, the report.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds

from common import errors


class Skip(Exception):
  """Raised by `example` for what is broken or filtered out.

  The reason is short and the same for all files that have it: they are counted
  by it. The name of the file is added.
  """


class Unit(NamedTuple):
  """A raw piece of a data set: what one call of `example` decodes."""

  name: str  # The file it is from, as the report shows it.
  data: Any  # Bytes or a path, and what else decoding needs; picklable.
  size: int = 0  # Bytes; bounds the memory in flight and cuts the shards.


class LeftOut(NamedTuple):
  """Stands in the stream for what `units` told to `self.skip`."""

  name: str
  reason: str
  size: int = 0


@dataclasses.dataclass(frozen=True)
class Archive:
  """A published file that a data set is read from."""

  name: str
  url: str = ''
  size: int | None = None  # Bytes.
  sha256: str = ''
  folder: str = ''  # Its unpacked tree, which may be there in its place.
  optional: bool = False


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A TFDS builder that needs no TensorFlow.

  The first line of its docstring is what `common.prepare --list` shows.
  """

  NEEDS_FILES = True  # Of the user's, in `manual_dir`.
  # A shard is closed before it would exceed either; the bytes are `Unit.size`.
  SHARD_UNITS = 4096
  SHARD_BYTES = 128 << 20
  # {config: {split: {'examples': 229, 'hours': 159.24}}}, to check against; the
  # split 'all' is the sum of all.
  PUBLISHED: ClassVar[dict[str, dict[str, dict[str, float]]]] = {}

  # TFDS looks beside the code for checksums, through a package that it does
  # not declare; we have no such file.
  code_path = None

  # What a data set defines.

  def splits(self) -> list[str]:
    """In the order in which they are written."""
    raise NotImplementedError

  def archives(self) -> list[Archive]:
    """What the data set is read from, in `manual_dir`."""
    return []

  def start(self) -> None:
    """Called once before `splits` and `units`: may look at the archives.

    Names of labels that only the data know are set here, in
    `self.info.features`.
    """

  def inputs(self) -> list:
    """What a restart compares, as json: are these the same files?"""
    paths = filter(None, map(self.find, self.archives()))
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]

  def units(self, split: str) -> Iterator[Unit]:
    """The raw pieces of a split, the same ones in the same order each time.

    Runs in one process. What it leaves out, it tells to `self.skip`.
    """
    raise NotImplementedError

  def example(self, unit: Unit) -> Iterable[tuple[Any, dict]]:
    """(key, example) of each example in a unit, or raises `Skip`.

    Runs in worker processes: it may use `self.builder_config`, but nothing
    that `start` has found. A unit that is skipped leaves no examples.
    """
    raise NotImplementedError

  def tally(self, example: dict) -> dict[str, float]:
    """What the report adds up: 'seconds' (shown as hours), 'notes', ..."""
    del example
    return {}

  # What its methods may use.

  def find(self, archive: Archive) -> pathlib.Path | None:
    """Where an archive or its unpacked folder is; None if it is optional."""
    for name in filter(None, (archive.name, archive.folder)):
      if (self.manual_dir / name).exists():
        return self.manual_dir / name
      if self.manual_dir.name == name and self.manual_dir.exists():
        return self.manual_dir  # It was given itself.
    if archive.optional:
      return None
    size = f' ({archive.size / 1e6:,.1f} MB)' if archive.size else ''
    raise errors.UserError(
        f'dataset {self._full()}: {archive.name} is not in {self.manual_dir}; '
        f'download it{size} from {archive.url} into a folder, then: python -m '
        f'common.prepare --dataset={self._full()} --manual_dir=FOLDER')

  def skip(self, name: str, reason: str) -> None:
    """For `units`: notes in the report what it leaves out."""
    self.left_out.append(LeftOut(name, reason))

  # The rest is not for data sets.

  def __init__(self, manual_dir=None, **kwargs):
    self.left_out: list[LeftOut] = []
    super().__init__(file_format='array_record', **kwargs)
    self.manual_dir = pathlib.Path(
        manual_dir or pathlib.Path(self._data_dir_root) / 'downloads/manual'
    ).expanduser().absolute()

  @property
  def info(self):
    info = super().info
    # It would leave an empty folder in /tmp each time.
    info.initialize_from_bucket = lambda: None
    return info

  def __reduce__(self):
    return _make, (type(self), self.builder_config.name, self._data_dir_root,
                   self.manual_dir)

  @classmethod
  def config_names(cls) -> list[str]:
    """What may follow the slash in the name of a data set."""
    return [c.name for c in cls.BUILDER_CONFIGS]

  @classmethod
  def find_config(cls, name: str) -> tfds.core.BuilderConfig:
    for config in cls.BUILDER_CONFIGS:
      if config.name == name:
        return config
    raise errors.UserError(
        f'dataset {cls.name!r} has no config {name!r}; write {cls.name}/CONFIG '
        f'with CONFIG one of {", ".join(cls.config_names())}')

  def _create_builder_config(self, builder_config, version):
    # `find_config` has chosen it; TFDS would warn of one that is not listed.
    del version
    return builder_config

  def prepare(self, **options) -> dict | None:
    """Writes the data set; see `shards.prepare`."""
    from common.data import shards  # Which imports this file.
    return shards.prepare(self, **options)

  def download_and_prepare(self, **kwargs) -> None:
    del kwargs
    self.prepare()

  def _full(self):
    return f'{self.name}/{self.builder_config.name}'

  # TFDS's own way of writing, which we do not go.
  _split_generators = _generate_examples = None


def _make(cls, config, data_dir, manual_dir):
  return cls(config=cls.find_config(config), data_dir=data_dir,
             manual_dir=manual_dir)
