import pathlib

import numpy as np
import pytest

from common import errors, tf_checkpoint
from tests import tf_writer


@pytest.fixture
def arrays():
  rng = np.random.default_rng(0)
  return {
      'Generator/block_1/conv0/kernel': rng.normal(size=(2, 16, 5, 3)).astype(
          np.float32),
      'Generator/block_1/conv0/bias': np.zeros(3, np.float32),
      'Generator/block_10/conv0/bias': rng.normal(size=300),
      'global_step': np.int64(11_000_000),
      'flags': np.array([True, False]),
      'empty': np.zeros((0, 4), np.float32),
      'half': rng.normal(size=(7, 1)).astype(np.float16),
      'few': np.arange(-3, 3, dtype=np.int32).reshape(2, 3)}


@pytest.mark.parametrize('shards, per_block, restart', [
    (1, 100, 16), (1, 3, 2), (3, 1, 1)])
def test_arrays_come_back(arrays, shards, per_block, restart, tmp_path):
  tf_writer.write(tmp_path / 'model.ckpt-5', arrays, shards, per_block, restart)
  found = tf_checkpoint.Checkpoint(tmp_path / 'model.ckpt-5')
  assert found.shapes == {k: np.shape(x) for k, x in arrays.items()}
  for name, array in arrays.items():
    got = found.read(name)
    assert got.dtype == np.asarray(array).dtype
    np.testing.assert_array_equal(got, array)


def test_a_missing_file_is_named(arrays, tmp_path):
  with pytest.raises(errors.UserError, match=r'none\.index does not exist'):
    tf_checkpoint.Checkpoint(tmp_path / 'none')
  tf_writer.write(tmp_path / 'm', arrays)
  (tmp_path / 'm.data-00000-of-00001').unlink()
  with pytest.raises(errors.UserError, match='data-00000-of-00001: No such'):
    tf_checkpoint.Checkpoint(tmp_path / 'm').read('few')


def test_a_changed_byte_is_found_wherever_it_is(arrays, tmp_path):
  tf_writer.write(tmp_path / 'm', arrays)
  data = tmp_path / 'm.data-00000-of-00001'
  changed = bytearray(data.read_bytes())
  changed[100] ^= 1
  data.write_bytes(changed)
  found = tf_checkpoint.Checkpoint(tmp_path / 'm')
  broken = 0
  for name in found.shapes:
    try:
      np.testing.assert_array_equal(found.read(name), arrays[name])
    except errors.UserError as e:
      broken += 1
      assert 'is broken' in str(e)
  assert broken == 1


@pytest.mark.parametrize('how', ['cut', 'noise', 'flip'])
def test_a_broken_index_is_one_sentence(arrays, how, tmp_path):
  tf_writer.write(tmp_path / 'm', arrays)
  index = tmp_path / 'm.index'
  whole, rng = index.read_bytes(), np.random.default_rng(0)
  for i in range(0, len(whole), 3):
    if how == 'cut':
      index.write_bytes(whole[:i])
    elif how == 'noise':
      index.write_bytes(rng.bytes(i) + whole[-8:])
    else:
      changed = bytearray(whole)
      changed[i] ^= 1 << int(rng.integers(8))
      index.write_bytes(changed)
    try:
      found = tf_checkpoint.Checkpoint(tmp_path / 'm')
    except errors.UserError as e:
      assert 'm.index is no index of a TensorFlow checkpoint' in str(e)
    else:  # A byte of padding, or of a key in the index of blocks.
      assert how == 'flip' and found.shapes.keys() == arrays.keys()


def test_types_that_are_no_numbers_are_refused(arrays, tmp_path):
  strings = 7
  path = pathlib.Path(tmp_path / 'm')
  old = tf_writer.DTYPES[np.dtype('i4')]
  tf_writer.DTYPES[np.dtype('i4')] = strings
  try:
    tf_writer.write(path, arrays)
  finally:
    tf_writer.DTYPES[np.dtype('i4')] = old
  found = tf_checkpoint.Checkpoint(path)
  with pytest.raises(errors.UserError, match='few is of TensorFlow type 7'):
    found.read('few')


@pytest.mark.parametrize('size, offset', [
    (2**62, 0), (2**63, 0), (24, 2**63 + 1), (24, 10**6)])
def test_sizes_that_lie_are_not_trusted(arrays, size, offset, tmp_path):
  tf_writer.write(tmp_path / 'm', arrays)
  found = tf_checkpoint.Checkpoint(tmp_path / 'm')
  entry = found._entries['few']
  found._entries['few'] = entry._replace(size=size, offset=offset)
  with pytest.raises(errors.UserError, match='few is broken'):
    found.read('few')
  found._entries['few'] = entry._replace(size=size, shape=(size // 4,),
                                         offset=offset)
  with pytest.raises(errors.UserError, match='few is broken'):
    found.read('few')
