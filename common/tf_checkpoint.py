"""TensorFlow's checkpoints, read without TensorFlow.

`model.ckpt-5` stands for two kinds of files. `model.ckpt-5.index` is a sorted
table (LevelDB's format) from names to where arrays lie; the arrays are plain
bytes in `model.ckpt-5.data-00000-of-00001` and so on. Nothing in them is code.
"""

import math
import pathlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from common import errors, protobuf
from common.data import tfrecord

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_DTYPES = {1: '<f4', 2: '<f8', 3: '<i4', 4: 'u1', 5: '<i2', 6: 'i1',
           9: '<i8', 10: '?', 17: '<u2', 19: '<f2', 22: '<u4', 23: '<u8'}


class Entry(NamedTuple):
  dtype: int  # A number of tensorflow.DataType.
  shape: tuple[int, ...]
  shard: int
  offset: int
  size: int
  checksum: int
  sliced: bool


class Checkpoint:
  """`shapes` has the shape of every array; `read` reads one."""

  def __init__(self, prefix):
    self._prefix = pathlib.Path(prefix)
    index = pathlib.Path(f'{prefix}.index')
    if not index.is_file():
      raise errors.UserError(
          f'{index} does not exist; give the common part of the names of a '
          'TensorFlow checkpoint, as in model.ckpt-11000000 for the files '
          'model.ckpt-11000000.index and model.ckpt-11000000.data-00000-of-'
          '00001 (an older checkpoint, a single file, cannot be read)')
    try:
      table = dict(_table(index.read_bytes()))
      header = {n: v for n, _, v in protobuf.fields(table.pop(b'', b''))}
      if header.get(2, 0):
        raise protobuf.Error('numbers of the other byte order')
      self._shards = header.get(1, 1)
      self._entries = {
          name.decode('utf-8', 'replace'): _entry(value)
          for name, value in table.items()}
    except (protobuf.Error, struct.error, TypeError) as e:
      raise errors.UserError(
          f'{index} is no index of a TensorFlow checkpoint, or is broken: {e}'
      ) from None

  @property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    return {name: e.shape for name, e in self._entries.items()}

  def read(self, name: str) -> np.ndarray:
    entry = self._entries[name]
    path = pathlib.Path(
        f'{self._prefix}.data-{entry.shard:05d}-of-{self._shards:05d}')
    dtype = np.dtype(_DTYPES.get(entry.dtype, 'V'))
    if not dtype.itemsize or entry.sliced:
      raise errors.UserError(
          f'{path}: {name} is ' + ('cut into slices' if entry.sliced else
                                   f'of TensorFlow type {entry.dtype}')
          + '; only whole arrays of numbers can be read')
    data = None
    try:
      with path.open('rb') as f:
        if (entry.size == math.prod(entry.shape) * dtype.itemsize
            and entry.offset + entry.size <= path.stat().st_size):
          f.seek(entry.offset)
          data = f.read(entry.size)
    except OSError as e:
      raise errors.UserError(f'{path}: {e.strerror}; it belongs to '
                             f'{self._prefix}.index') from None
    if data is None or not tfrecord.intact(data, entry.checksum):
      raise errors.UserError(f'{path}: {name} is broken (wrong checksum or '
                             'length); copy or download the file again')
    return np.frombuffer(data, dtype).reshape(entry.shape)


def _entry(message: bytes) -> Entry:
  values = {1: 0, 2: b'', 3: 0, 4: 0, 5: 0, 6: b'\0' * 4}
  sliced = False
  for number, _, value in protobuf.fields(message):
    values[number] = value
    sliced |= number == 7
  shape = tuple(
      {n: v for n, _, v in protobuf.fields(dim)}.get(1, 0)
      for number, _, dim in protobuf.fields(values[2]) if number == 2)
  return Entry(values[1], shape, *(values[i] for i in (3, 4, 5)),
               int.from_bytes(values[6], 'little'), sliced)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """(key, value) of a sorted table."""
  if len(data) < _FOOTER or struct.unpack('<Q', data[-8:])[0] != _MAGIC:
    raise protobuf.Error('it has another ending')
  _, position = _handle(data, len(data) - _FOOTER)
  index, _ = _handle(data, position)
  for _, handle in _block(data, *index):
    yield from _block(data, *_handle(handle, 0)[0])


def _handle(data, position) -> tuple[tuple[int, int], int]:
  """Offset and size of a block."""
  offset, position = protobuf.varint(data, position)
  size, position = protobuf.varint(data, position)
  return (offset, size), position


def _block(data, offset, size) -> Iterator[tuple[bytes, bytes]]:
  """Entries: a key is what it shares with the one before, and the rest."""
  whole = data[offset:offset + size + 5]
  if len(whole) < size + 5 or size < 4:
    raise protobuf.Error('a block ends too early')
  if not tfrecord.intact(whole[:-4], int.from_bytes(whole[-4:], 'little')):
    raise protobuf.Error('a block has the wrong checksum')
  if whole[size]:
    raise protobuf.Error('a block is compressed')
  restarts, = struct.unpack('<I', whole[size - 4:size])
  end, position, key = size - 4 - 4 * restarts, 0, b''
  while position < end:
    (shared, rest, length), position = _integers(whole, position, 3)
    if shared > len(key) or position + rest + length > end:
      raise protobuf.Error('an entry ends too early')
    key = key[:shared] + whole[position:position + rest]
    position += rest + length
    yield key, whole[position - length:position]


def _integers(data, position, count):
  out = []
  for _ in range(count):
    value, position = protobuf.varint(data, position)
    out.append(value)
  return out, position
