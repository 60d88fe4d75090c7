"""Runs a codec over a data set and writes its codes; see common/encode.py.

A record holds the codes by name, `codec` (a digest of the codec's weights),
and what the batch or the stored example say of the sound: pitch, instrument.
"""

import collections
import hashlib
import itertools
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from common import errors, runs, sharding
from common.data import builders, decoding, pipeline, shards
from common.data.builders import codes as codes_builder

SHARD_ROWS = 4096  # Or the next multiple of a batch.
# Names in records of what a stored example says, and where it says it.
LABELS = {
    'pitch': ('pitch',), 'velocity': ('velocity',), 'label': ('label',),
    'instrument': ('instrument', 'label'),
    'instrument_family': ('instrument', 'family'),
    'instrument_source': ('instrument', 'source')}
_NOT_LABELS = {'index', 'mask', 'chunk', 'start'}


def of(module, config):
  """The Codec of a run's model file."""
  if not hasattr(module, 'codec'):
    raise errors.UserError(
        f'{config.module} has no codes; give the workdir of a run of a VQ-VAE '
        '(vqvae_jax)')
  return module.codec(config)


def digest(state) -> int:
  """Tells a codec's weights from all others: 63 bits."""
  found = hashlib.sha256()
  tree = jax.device_get((state.params, state.vars, state.ema))
  for path, x in jax.tree.leaves_with_path(tree):
    found.update(f'{jax.tree_util.keystr(path)} {x.dtype}{x.shape}'.encode())
    found.update(np.ascontiguousarray(x).tobytes())
  return int.from_bytes(found.digest()[:8]) >> 1


def write(run: runs.Run, workdir, name: str, data_dir=None, *,
          source: str | None = None, splits: list[str] | None = None,
          windows: int = 0, say: Callable[[str], None] = lambda line: None
          ) -> dict | None:
  """Encodes splits of `source` into the data set codes/NAME.

  Stopped, it goes on where it was. Returns the report of `shards.prepare`, None
  if the codes are all there.

  Args:
    run: of the codec.
    workdir: where it is from, for the record.
    name: 'codes/NAME'.
    data_dir: of both data sets.
    source: default: what the codec was trained on.
    splits: default: all that `source` has.
    windows: 0 takes what an evaluation sees of each example; otherwise so many
      draws of what training sees, of which each is a record.
    say: is told of the progress.
  """
  if jax.process_count() > 1:
    raise errors.UserError('encoding runs in one process, on all its devices; '
                           'start it without --distributed')
  source = source or run.config.data.name
  codec = of(run.module, run.config)
  data_dir = pathlib.Path(data_dir or builders.default_data_dir())
  splits = splits or builders.splits_of(source, data_dir)
  rows = _rows_of(run, windows)
  opened = {s: builders.open_split(source, s, data_dir) for s in splits}
  builders.check(opened[splits[0]], run.config.data, rows)
  first = next((row for example in opened[splits[0]] for row in rows(example)),
               None)
  if first is None:
    raise errors.UserError(f'dataset {source}: {splits[0]} holds nothing that '
                           'this codec could encode')
  metadata = {
      'codec': digest(run.state), 'workdir': str(workdir), 'step': run.step,
      'module': run.config.module, 'source': source, 'windows': windows,
      'sizes': dict(codec.sizes),
      'shapes': {k: list(v) for k, v in codec.shapes.items()}}
  builder = codes_builder.Codes.make(
      name, data_dir, metadata=metadata, splits=list(splits),
      features=_features(codec, first))
  _check_same(name, data_dir, metadata, splits)

  def fill(builder, work):
    encode = _Encoder(run, codec)
    for split in splits:
      _write_split(builder, work, split, encode, pipeline.evaluate(
          opened[split], rows, batch_size=encode.rows, process=(0, 1)), say)

  return shards.prepare(builder, write=fill, say=say)


def _rows_of(run, windows):
  """fn(example) -> rows of what the codec sees, with the labels that there are.

  The same for an example wherever it is in its split.
  """
  segments = pipeline.segments_of(run.module, run.config)
  if windows:
    draw = run.module.preprocess(run.config)

    def segments(example):
      drawn = [draw(example, np.random.default_rng([i, _seed(example)]))
               for i in range(windows)]
      if windows > 1 and np.array_equal(
          drawn[0]['audio'], drawn[1]['audio']) and drawn[0]['audio'].any():
        raise errors.UserError(
            f'--windows={windows}: {run.config.module} always sees the same '
            'window of a sound; drop it')
      return drawn

  def fn(example):
    labels = {}
    for name, path in LABELS.items():
      found = example
      for key in path:
        found = found.get(key) if isinstance(found, dict) else None
      if np.asarray(found).dtype.kind in 'iu':
        labels[name] = np.int32(found)
    if isinstance(example.get('id'), bytes | str | int | np.integer):
      labels['id'] = example['id']
    return [{**labels, **row} for row in segments(example)]

  return fn


def _seed(example):
  return zlib.crc32(np.ascontiguousarray(example['audio']).tobytes())


def _features(codec, row) -> dict[str, Any]:
  features = {'codec': np.int64}
  for name, shape in codec.shapes.items():
    size = codec.sizes[name]
    dtype = (np.uint8 if size <= 2**8 else np.int16 if size <= 2**15
             else np.int32)
    features[name] = tfds.features.Tensor(
        shape=shape, dtype=dtype, encoding='bytes')
  for name, value in row.items():
    value = np.asarray(value)
    if value.ndim or name in features or name in _NOT_LABELS:
      continue
    if value.dtype.kind in 'SU':
      features[name] = tfds.features.Text()
    elif value.dtype.kind in 'iu':
      features[name] = np.int64 if value.dtype.itemsize == 8 else np.int32
  return features


def _check_same(name, data_dir, metadata, splits):
  """Refuses to mix up what two codecs have made."""
  folder = builders.newest(data_dir / name)
  if folder is None:
    return
  info = tfds.builder_from_directory(folder).info
  there, now = dict(info.metadata), {**metadata}
  there['splits'], now['splits'] = sorted(info.splits), sorted(splits)
  differ = [k for k in ('codec', 'step', 'module', 'source', 'windows',
                        'splits')
            if there.get(k) != now[k]]
  if differ:
    raise errors.UserError(
        f'dataset {name} is there already, of another codec or other data: '
        + ', '.join(f'{k} {there.get(k)} there, {now[k]} now' for k in differ)
        + f'; choose another name, or remove {folder}')


class _Encoder:
  """Host batches -> host codes, compiled once."""

  def __init__(self, run, codec):
    mesh = run.mesh
    self.rows = -(-run.config.batch_size // mesh.size) * mesh.size
    self._place = lambda batch: sharding.place(batch, sharding.by_row(mesh))
    self._state = run.state.replace(opt={})

    def encode(state, batch):
      with sharding.tracing(mesh):
        return codec.encode(sharding.gather(state, mesh), batch)

    self._encode = jax.jit(encode, out_shardings=sharding.by_row(mesh))

  def __call__(self, batch):
    batch = {k: x for k, x in batch.items() if x.dtype.kind not in 'SUO'}
    return self._encode(self._state, self._place(batch))


def _write_split(builder, work, split, encode, batches, say):
  """Shard after shard; those that are done are read, but not encoded."""
  per_shard = -(-SHARD_ROWS // encode.rows)
  serializer = example_serializer.ExampleSerializer(
      builder.info.features.get_serialized_info())
  for shard in itertools.count():
    first = next(batches, None)
    if first is None:
      break
    mine = itertools.chain([first], itertools.islice(batches, per_shard - 1))
    if shards.is_done(work, split, shard):
      collections.deque(mine, maxlen=0)
    else:
      shards.write_shard(work, split, shard,
                         _records(builder, serializer, encode, mine))
    say(f'{builder.info.name}/{builder.builder_config.name} {split}: '
        f'{shard + 1} shards')
  shards.end_split(work, split, shard)


def _records(builder, serializer, encode, batches
             ) -> Iterator[tuple[str, decoding.Decoded]]:
  features, metadata = builder.info.features, builder.info.metadata
  previous = None
  for batch in itertools.chain(batches, [None]):
    codes = None if batch is None else encode(batch)
    if previous:  # Fetched while the device encodes the next batch.
      rows, found = previous[0], jax.device_get(previous[1])
      for name, size in metadata['sizes'].items():
        if found[name].min() < 0 or found[name].max() >= size:
          raise ValueError(f'codec made {name!r} codes from '
                           f'{found[name].min()} to {found[name].max()}, but '
                           f'says that there are {size}')
        found[name] = found[name].astype(features[name].np_dtype)
      for i in np.flatnonzero(rows['mask'] > 0):
        example = {k: found[k][i] if k in found else rows[k][i]
                   for k in features if k != 'codec'}
        record = serializer.get_tf_example(features.encode_example(
            {**example, 'codec': metadata['codec']}))
        yield str(rows['index'][i]), decoding.Decoded(
            [record.SerializeToString(deterministic=True)], {})
    previous = batch and (batch, codes)
