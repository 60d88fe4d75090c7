"""Writes TensorFlow's checkpoint format, as its BundleWriter lays it out."""

import struct

import numpy as np

from common.data import tfrecord

DTYPES = {np.dtype('f4'): 1, np.dtype('f8'): 2, np.dtype('i4'): 3,
          np.dtype('i8'): 9, np.dtype('?'): 10, np.dtype('f2'): 19}


def write(prefix, arrays, shards=1, per_block=5, restart=3):
  """`arrays` by name; blocks of a few entries, so that there are several."""
  offsets, files = [0] * shards, [b''] * shards
  rows = [(b'', field(1, shards) + field(3, field(1, 1)))]
  for i, (name, array) in enumerate(sorted(arrays.items())):
    array = np.asarray(array)
    data, shard = array.tobytes(), i % shards
    shape = b''.join(field(2, field(1, n)) for n in array.shape)
    rows.append((name.encode(), field(1, DTYPES[array.dtype])
                 + field(2, shape) + (field(3, shard) if shard else b'')
                 + (field(4, offsets[shard]) if offsets[shard] else b'')
                 + field(5, len(data)) + bytes([6 << 3 | 5])
                 + checksum(data)))
    files[shard] += data
    offsets[shard] += len(data)
  for i, data in enumerate(files):
    with open(f'{prefix}.data-{i:05d}-of-{shards:05d}', 'wb') as f:
      f.write(data)
  out, index = b'', []
  for i in range(0, len(rows), per_block):
    part = rows[i:i + per_block]
    encoded = block(part, restart)
    # A key not before the block's last, as an index needs.
    index.append((part[-1][0] + b'~', handle(len(out), encoded)))
    out += encoded
  meta = block([], restart)
  tail = handle(len(out), meta)
  out += meta
  top = block(index, 1)
  tail += handle(len(out), top)
  out += top + tail.ljust(40, b'\0') + struct.pack('<Q', 0xDB4775248B80FB57)
  with open(f'{prefix}.index', 'wb') as f:
    f.write(out)


def block(rows, restart):
  out, starts, last = b'', [], b''
  for i, (key, value) in enumerate(rows):
    shared = 0
    if i % restart:
      while shared < min(len(key), len(last)) and key[shared] == last[shared]:
        shared += 1
    else:
      starts.append(len(out))
    out += (varint(shared) + varint(len(key) - shared) + varint(len(value))
            + key[shared:] + value)
    last = key
  starts = starts or [0]
  out += struct.pack(f'<{len(starts) + 1}I', *starts, len(starts)) + b'\0'
  return out + checksum(out)


def handle(offset, encoded):
  return varint(offset) + varint(len(encoded) - 5)


def checksum(data):
  crc = tfrecord.crc32c(data)
  return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def field(number, value):
  if isinstance(value, bytes):
    return varint(number << 3 | 2) + varint(len(value)) + value
  return varint(number << 3) + varint(value)


def varint(value):
  out = b''
  while value > 127:
    out += bytes([value & 127 | 128])
    value >>= 7
  return out + bytes([value])
