"""Protocol buffers as bytes: the fields of a message, without a schema."""

from collections.abc import Iterator

# How a value is written: the lower three bits of a tag.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Error(ValueError):
  """The data is broken."""


def fields(message) -> Iterator[tuple[int, int, int | memoryview]]:
  """(field number, how it is written, value) of each field of a message."""
  position, end = 0, len(message)
  while position < end:
    tag, position = varint(message, position)
    number, wire = tag >> 3, tag & 7
    if wire == VARINT:
      value, position = varint(message, position)
    elif wire in (FIXED32, FIXED64, BYTES):
      length = {FIXED32: 4, FIXED64: 8}.get(wire)
      if length is None:
        length, position = varint(message, position)
      if length > end - position:
        raise Error('field of a message that ends too early')
      value = message[position:position + length]
      position += length
    else:
      raise Error(f'field of a message of wire type {wire}')
    yield number, wire, value


def varint(message, position: int) -> tuple[int, int]:
  """An integer (7 bits a byte, lowest first), and where it ends."""
  value = 0
  for shift in range(0, 70, 7):
    if position >= len(message):
      break
    byte = message[position]
    position += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value & 0xFFFFFFFFFFFFFFFF, position
  raise Error('broken integer in a message')
