"""What all builders share: TFDS without TensorFlow, ArrayRecord files."""

import importlib.util
import os
import resource
import types

import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from common import errors


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A TFDS builder that needs no TensorFlow.

  The first line of its docstring is what `common.prepare --list` shows.
  """

  # TFDS looks beside the code for checksums, through a package that it does
  # not declare; we have no such file.
  code_path = None

  def __init__(self, **kwargs):
    _install_shuffle()
    super().__init__(**kwargs)

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

  def prepare(self) -> None:
    """Writes the data set: under another name until it is complete."""
    self.download_and_prepare(file_format='array_record')

  # TFDS announces a download here, and there is none.
  def _log_download_bytes(self):
    pass

  def _log_download_done(self):
    pass


def _install_shuffle() -> None:
  """Lets TFDS write splits of more than 1000 MiB without TensorFlow.

  It sorts larger splits in bucket files, which it opens through tf.io.gfile.
  """
  if importlib.util.find_spec('tensorflow') is not None:
    return
  # All of its 1000 buckets stay open.
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  want = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
  if soft != resource.RLIM_INFINITY and soft < want:
    resource.setrlimit(resource.RLIMIT_NOFILE, (want, hard))
  gfile = types.SimpleNamespace(GFile=open, exists=os.path.exists,
                                remove=os.remove)
  never = type('Never', (Exception,), {})
  shuffle.tf = types.SimpleNamespace(
      io=types.SimpleNamespace(gfile=gfile),
      errors=types.SimpleNamespace(ResourceExhaustedError=never))
