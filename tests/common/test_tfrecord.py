import io
import struct

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2 as pb

from common.data import tfrecord


def slow_crc32c(data):  # Bit by bit, as it is defined.
  register = 0xFFFFFFFF
  for byte in data:
    register ^= byte
    for _ in range(8):
      register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
  return register ^ 0xFFFFFFFF


def checksum(data):
  crc = slow_crc32c(data)
  return struct.pack(
      '<I', ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(payload):
  length = struct.pack('<Q', len(payload))
  return length + checksum(length) + payload + checksum(payload)


def field(number, payload):
  assert len(payload) < 128 and number < 16
  return bytes([number << 3 | 2, len(payload)]) + payload


def example_of(feature, key=b'x'):
  return field(1, field(1, field(1, key) + field(2, feature)))


def random_example(rng):
  message = pb.Example()
  features = message.features.feature
  features['audio'].float_list.value.extend(
      rng.normal(size=rng.integers(300)).astype(np.float32).tolist())
  features['pitch'].int64_list.value.extend(
      rng.integers(-2**63, 2**63 - 1, rng.integers(20), np.int64).tolist())
  features['qualities'].int64_list.value.extend(
      rng.integers(0, 2, 10).tolist())
  features['name'].bytes_list.value.extend(
      rng.bytes(n) for n in rng.integers(0, 200, rng.integers(4)))
  features['nothing'].Clear()
  return message


def as_dict(message):
  out = {}
  for key, feature in message.features.feature.items():
    kind = feature.WhichOneof('kind')
    out[key] = list(getattr(feature, kind).value) if kind else []
  return out


def same(got, expected):
  assert got.keys() == expected.keys()
  for key, values in expected.items():
    assert list(got[key]) == values


@pytest.mark.parametrize('data, crc', [
    (b'', 0), (b'123456789', 0xE3069283),
    # RFC 3720, B.4.
    (bytes(32), 0x8A9136AA), (b'\xff' * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E), (bytes(range(31, -1, -1)), 0x113FDB5C)])
def test_checksums_are_those_of_the_standard(data, crc):
  assert tfrecord.crc32c(data) == crc


def test_checksums_equal_the_definition_for_all_lengths():
  data = np.random.default_rng(0).bytes(4099)
  for length in (*range(70), 127, 1000, 4099):
    assert tfrecord.crc32c(data[:length]) == slow_crc32c(data[:length])


def test_frames_are_read_back():
  payloads = [b'', b'a', bytes(1000), b'\xff' * 77]
  f = io.BytesIO(b''.join(map(record, payloads)))
  frames = list(tfrecord.frames(f))
  assert [p for p, _ in frames] == payloads
  assert all(tfrecord.intact(*frame) for frame in frames)


def test_every_flipped_bit_is_noticed():
  data = record(b'a note') + record(b'another')
  for bit in range(8 * len(data)):
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    try:
      frames = list(tfrecord.frames(io.BytesIO(broken)))
    except tfrecord.Error:
      continue
    assert not all(tfrecord.intact(*frame) for frame in frames)


def test_a_wrong_checksum_costs_one_record_only():
  middle = bytearray(record(b'b'))
  middle[12] ^= 1
  frames = tfrecord.frames(io.BytesIO(record(b'a') + middle + record(b'c')))
  assert [tfrecord.intact(*frame) for frame in frames] == [True, False, True]


def test_records_before_the_end_of_a_truncated_file_are_read():
  first, second = record(b'first'), record(b'second one')
  for length in range(len(second)):
    frames = tfrecord.frames(io.BytesIO(first + second[:length]))
    assert next(frames)[0] == b'first'
    if length == 0:
      assert not list(frames)
      continue
    with pytest.raises(tfrecord.Error, match='truncated'):
      list(frames)


def test_a_record_of_exabytes_is_refused_unread():
  length = struct.pack('<Q', 1 << 60)
  f = io.BytesIO(length + checksum(length) + b'some')
  with pytest.raises(tfrecord.Error, match='more than'):
    list(tfrecord.frames(f))


def test_other_files_are_named_as_such():
  with pytest.raises(tfrecord.Error, match='not a TFRecord file'):
    list(tfrecord.frames(io.BytesIO(b'RIFF and so on, a wav file')))


def test_examples_equal_what_protobuf_wrote():
  rng = np.random.default_rng(0)
  for _ in range(50):
    message = random_example(rng)
    got = tfrecord.example(message.SerializeToString())
    assert got['audio'].dtype == np.float32
    assert got['pitch'].dtype == np.int64
    same(got, as_dict(message))


@pytest.mark.parametrize('feature', [
    # Floats: packed, each with its tag, both, in two lists.
    field(2, field(1, struct.pack('<2f', 1.5, -2))),
    field(2, b''.join(b'\x0d' + struct.pack('<f', x) for x in (1.5, -2))),
    field(2, field(1, struct.pack('<f', 3)) + b'\x0d' + struct.pack('<f', 4)),
    field(2, field(1, struct.pack('<f', 3))) * 2,
    # Integers: the same; 5, 300, -1.
    field(3, field(1, b'\x05\xac\x02' + b'\xff' * 9 + b'\x01')),
    field(3, b'\x08\x05\x08\xac\x02\x08' + b'\xff' * 9 + b'\x01'),
    field(3, b'\x08\x05' + field(1, b'\xac\x02') + b'\x08\x07'),
    # Empty lists of each kind, and no list.
    field(1, b''), field(2, b''), field(3, b''), field(2, field(1, b'')),
    field(3, field(1, b'')), b'',
    # The last kind counts.
    field(3, b'\x08\x05') + field(1, field(1, b'text')),
    field(1, field(1, b'text')) + field(3, b'\x08\x05'),
    # Fields that nobody knows: one of each way of writing.
    b'\x78\x01' + field(3, b'\x08\x05') + b'\x79' + bytes(8)
    + field(14, b'later') + b'\x7d' + bytes(4),
], ids=range(16))
def test_all_ways_to_write_a_feature_are_read_as_protobuf_does(feature):
  data = example_of(feature)
  same(tfrecord.example(data), as_dict(pb.Example.FromString(data)))


def test_a_key_that_comes_twice_has_its_last_value():
  data = (example_of(field(3, b'\x08\x05')) + field(9, b'unknown')
          + example_of(field(3, b'\x08\x06'))
          + example_of(field(3, b'\x08\x07'), b'y'))
  same(tfrecord.example(data), {'x': [6], 'y': [7]})
  same(tfrecord.example(data), as_dict(pb.Example.FromString(data)))


@pytest.mark.parametrize('data', [
    b'\x0a', b'\x0a\x05', b'\x0b', b'\x0a' + b'\xff' * 11, b'\xff' * 10,
    example_of(field(2, field(1, b'123'))),
    example_of(field(2, b'\x0d123')),
    example_of(field(3, field(1, b'\x05\x80'))),
    example_of(field(3, field(1, b'\x80' * 3))),
    example_of(field(3, field(1, b'\xff' * 10 + b'\x01'))),
    example_of(field(3, b'\x08')),
    example_of(b'\x12\x7f'),
], ids=range(12))
def test_broken_examples_are_an_error(data):
  with pytest.raises(tfrecord.Error):
    tfrecord.example(data)


def test_mutated_examples_raise_nothing_else():
  rng = np.random.default_rng(1)
  whole = random_example(rng).SerializeToString()
  errors = 0
  for _ in range(3000):
    data = bytearray(whole[:rng.integers(1, len(whole) + 1)])
    for at in rng.integers(0, len(data), 3):
      data[at] = rng.integers(256)
    try:
      tfrecord.example(bytes(data))
    except tfrecord.Error:
      errors += 1
  assert 1000 < errors < 3000
