"""TFRecord files and the tf.train.Example messages in them.

A record is its length (8 bytes, little endian), a checksum of the length, the
payload, and a checksum of the payload; the payload is a protocol buffer.
"""

import functools
import itertools
import struct
from collections.abc import Iterator

import numpy as np

from common import protobuf

# NSynth's records have 256 kB. Unpacked, an Example of this size may take some
# hundreds of megabytes.
MOST_BYTES = 1 << 24
_POLYNOMIAL = np.uint32(0x82F63B78)  # Castagnoli's, reflected.
# Four zero bytes turn this state of the register into the initial one, all
# ones: a message that begins with it can be summed from a register of zeros.
_START = np.uint32(0x641F6454)

Error = protobuf.Error


# --- Framing ----------------------------------------------------------------


def frames(f) -> Iterator[tuple[bytes, int]]:
  """(payload, its stored checksum) of each record; `intact` compares them.

  Stops with an Error where the next record cannot be found.
  """
  position = 0
  while head := f.read(12):
    if len(head) < 12:
      raise Error('truncated TFRecord file')
    length, check = struct.unpack('<QI', head)
    if not intact(head[:8], check):
      raise Error('not a TFRecord file' if not position else
                  'wrong checksum of a length in a TFRecord file')
    if length > MOST_BYTES:
      raise Error(f'TFRecord of more than {MOST_BYTES} bytes')
    body = f.read(length + 4)
    if len(body) < length + 4:
      raise Error('truncated TFRecord file')
    position += len(head) + len(body)
    yield body[:-4], int.from_bytes(body[-4:], 'little')


def intact(data: bytes, check: int) -> bool:
  """Whether a stored checksum is that of the data."""
  crc = crc32c(data)
  rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
  return (rotated + 0xA282EAD8) & 0xFFFFFFFF == check


def crc32c(data: bytes) -> int:
  """Checksum of RFC 3720, with half as many words left after each round.

  The register is linear in the message (over GF(2)), so that neighbours merge
  as shift(left) ^ right, all pairs at once: 0.3 GB/s in NumPy.
  """
  pad = -len(data) % 4  # Leading zeros do not move a register of zeros.
  message = np.zeros(pad + 4 + len(data), np.uint8)
  message[pad:pad + 4].view('<u4')[:] = _START
  message[pad + 4:] = np.frombuffer(data, np.uint8)
  words = message.view('<u4')
  level = 0
  while len(words) > 1:
    if len(words) % 2:
      words = np.concatenate([np.zeros(1, np.uint32), words])
    words = _shift(words[0::2], level) ^ words[1::2]
    level += 1
  return int(_shift(words, 0)[0]) ^ 0xFFFFFFFF


def _shift(words, level):
  """Registers after 4 * 2**level more bytes of zeros."""
  low, high = _tables(level)
  return low[words & 0xFFFF] ^ high[words >> 16]


@functools.cache
def _tables(level):
  """`_shift` of each lower and of each upper half of a word."""
  bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
  if level == 0:
    for _ in range(32):
      bits = np.where(bits & 1, bits >> 1 ^ _POLYNOMIAL, bits >> 1)
  else:
    bits = _shift(_shift(bits, level - 1), level - 1)
  tables = []
  for half in (bits[:16], bits[16:]):
    table = np.zeros(1, np.uint32)
    for bit in half:
      table = np.concatenate([table, table ^ bit])
    tables.append(table)
  return tables


# --- tf.train.Example -------------------------------------------------------

# What a Feature holds: the field number.
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


def example(payload: bytes) -> dict[str, list[bytes] | np.ndarray]:
  """The features of an Example: lists of bytes, float32 or int64 [N]."""
  features = {}
  for number, wire, message in protobuf.fields(memoryview(payload)):
    if (number, wire) != (1, protobuf.BYTES):
      continue  # A field of a later version.
    for number, wire, entry in protobuf.fields(message):
      if (number, wire) != (1, protobuf.BYTES):
        continue
      key, feature = b'', b''
      for number, wire, value in protobuf.fields(entry):
        if (number, wire) == (1, protobuf.BYTES):
          key = bytes(value)
        elif (number, wire) == (2, protobuf.BYTES):
          feature = value
      features[key.decode('utf-8', 'replace')] = _feature(feature)
  return features


def _feature(message):
  kind, parts = _BYTES_LIST, []  # Nothing at all: an empty list.
  for number, wire, values in protobuf.fields(message):
    if wire != protobuf.BYTES or number not in _LISTS:
      continue
    if number != kind:  # The last kind counts.
      kind, parts = number, []
    parts.append(_LISTS[number](values))
  if kind == _BYTES_LIST:
    return list(itertools.chain(*parts))
  return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _bytes_list(message):
  return [bytes(value) for number, wire, value in protobuf.fields(message)
          if (number, wire) == (1, protobuf.BYTES)]


def _float_list(message):
  if len(message) % 5 == 0:
    # Each with a tag of its own, as old writers do.
    rows = np.frombuffer(message, [('tag', 'u1'), ('value', '<f4')])
    if (rows['tag'] == (1 << 3 | protobuf.FIXED32)).all():
      return rows['value'].copy()
  parts = [value for number, wire, value in protobuf.fields(message)
           if number == 1 and wire in (protobuf.BYTES, protobuf.FIXED32)]
  if any(len(p) % 4 for p in parts):
    raise Error('broken floats in an Example')
  return np.frombuffer(b''.join(parts), '<f4')


def _int64_list(message):
  parts = [np.zeros(0, np.int64)]
  for number, wire, value in protobuf.fields(message):
    if number == 1 and wire == protobuf.BYTES:
      parts.append(_varints(value))
    elif number == 1 and wire == protobuf.VARINT:
      parts.append(np.array([value], np.uint64).astype(np.int64))
  return np.concatenate(parts)


_LISTS = {_BYTES_LIST: _bytes_list, _FLOAT_LIST: _float_list,
          _INT64_LIST: _int64_list}


def _varints(data):
  """Packed integers: 7 bits a byte, lowest first; the last byte is < 128."""
  data = np.frombuffer(data, np.uint8)
  ends = np.flatnonzero(data < 128)
  if not len(ends):
    if len(data):
      raise Error('broken integer in an Example')
    return np.zeros(0, np.int64)
  starts = np.concatenate([[0], ends[:-1] + 1])
  lengths = ends + 1 - starts
  if ends[-1] != len(data) - 1 or lengths.max() > 10:
    raise Error('broken integer in an Example')
  place = np.arange(len(data)) - np.repeat(starts, lengths)
  bits = (data & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
  return np.bitwise_or.reduceat(bits, starts).astype(np.int64)
