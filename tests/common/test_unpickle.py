import contextlib
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from common.data import unpickle

ROOT = pathlib.Path(__file__).resolve().parents[2]
MUSICNET = ROOT.parent / 'shared' / 'data' / 'musicnet'


class Calls:
  """Pickles as a call of any function."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


def python2(array):
  """A float array as NumPy of Python 2 pickled it, without frame."""
  def text(b):
    return b'T' + struct.pack('<I', len(b)) + b  # BINSTRING
  return (b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85'
          + text(b'b') + b'tR(K\x01M' + struct.pack('<H', len(array))
          + b'\x85cnumpy\ndtype\n' + text(b'f8')
          + b'K\x00K\x01\x87R(K\x03' + text(b'<') + b'NNNJ\xff\xff\xff\xff'
          b'J\xff\xff\xff\xffK\x00tb\x89' + text(array.tobytes()) + b'tb')


def npz_bytes(**arrays):
  f = io.BytesIO()
  np.savez_compressed(f, **arrays)
  return f.getvalue()


def zipped(*members, method=zipfile.ZIP_DEFLATED):
  f = io.BytesIO()
  with zipfile.ZipFile(f, 'w', method) as z:
    for name, content in members:
      z.writestr(name, content)
  return f.getvalue()


@pytest.mark.parametrize('protocol', range(5))
def test_data_comes_back_as_it_was(protocol):
  value = {'train': [[(60, 64), ()], [(1.5, None, True)]], 'text': 'é',
           'big': -2**70}
  assert unpickle.loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize('protocol', range(1, 5))
def test_arrays_come_back_as_they_were(protocol):
  arrays = [np.arange(6.0).reshape(2, 3), np.arange(6, dtype='>i2'),
            np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(3, 2)),
            np.array([True, False]), np.zeros((0, 4), np.float16),
            np.array(2.5)]
  for got, expected in zip(unpickle.loads(pickle.dumps(arrays, protocol)),
                           arrays, strict=True):
    assert got.dtype == expected.dtype.newbyteorder('=')
    np.testing.assert_array_equal(got, expected)
  outer = np.empty(3, object)
  outer[:] = [np.ones(2), 'x', (np.int64(7), np.float32(0.5), np.bool_(True))]
  got = unpickle.loads(pickle.dumps(outer, protocol))
  np.testing.assert_array_equal(got[0], np.ones(2))
  assert list(got[1:]) == ['x', (7, 0.5, True)]


@pytest.mark.parametrize('size', [3, 20_000])  # Short and long strings.
def test_arrays_of_python_2_come_back(size):
  array = np.random.default_rng(0).standard_normal(size)
  np.testing.assert_array_equal(
      unpickle.loads(b'\x80\x02' + python2(array) + b'.'), array)


def test_an_interval_tree_becomes_a_list():
  data = (b'\x80\x02cintervaltree.intervaltree\nIntervalTree\n]('
          b'cintervaltree.interval\nInterval\nK\x01K\x05K\x2a\x87R'
          b'cintervaltree.interval\nInterval\nK\x07K\x09N\x87Re\x85R.')
  assert unpickle.loads(data) == [(1, 5, 42), (7, 9, None)]


def test_the_published_toy_of_musicnet_is_read():
  path = MUSICNET / 'musicnet_example.npz'
  if not path.exists():
    pytest.skip(f'no real MusicNet file in {MUSICNET}')
  with zipfile.ZipFile(path) as z, z.open('test.npy') as f:
    audio, notes = unpickle.npy(f)
  assert audio.shape == (66150,) and audio.dtype == np.float64
  assert sorted(notes) == [(0, 22050, (42, pitch, 1, 0.0, 'Quarter'))
                           for pitch in (72, 76, 79)]


@pytest.mark.parametrize('function, args', [
    (os.system, ('touch ran',)), (eval, ('open("ran", "w")',)),
    (exec, ('open("ran", "w")',)), (open, ('ran', 'w')),
    (subprocess.Popen, (['touch', 'ran'],)),
    (np.load, ('x',)), (getattr, ('x', 'y')), (bytearray, (2**62,)),
])
def test_nothing_is_called(tmp_path, monkeypatch, function, args):
  monkeypatch.chdir(tmp_path)
  for protocol in range(6):
    data = pickle.dumps([Calls(function, *args)], protocol)
    with pytest.raises(unpickle.Error, match='pickle asks for '):
      unpickle.loads(data)
  array = np.array([Calls(function, *args)], object)
  f = io.BytesIO()
  np.save(f, array, allow_pickle=True)
  with pytest.raises(unpickle.Error, match='pickle asks for '):
    unpickle.npy(io.BytesIO(f.getvalue()))
  with pytest.raises(unpickle.Error, match='pickle asks for '):
    unpickle.npz(npz_bytes(a=array), 2**20)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('data, reason', [
    (b'(S"touch ran"\nios\nsystem\n.', 'does more than hold data'),  # INST
    (b'cnumpy\nndarray\n)\x81.', 'does more than hold data'),  # NEWOBJ
    (b'Ptoken\n.', 'does more than hold data'),  # PERSID
    (b'(cnumpy\ndtype\no.', 'does more than hold data'),  # OBJ
    (b'\x82\x01.', 'does more than hold data'),  # EXT1
    (b'\x8f.', 'does more than hold data'),  # EMPTY_SET
    (b'}))s.', 'does more than hold data'),  # A tuple as a key.
    (b'}()Nu.', 'does more than hold data'),
    (b'()Nd.', 'does more than hold data'),
    # Attributes of the function itself: they would stay.
    (b'cnumpy\ndtype\n}S"function"\nNsb.', 'does more than hold data'),
    (b'cnumpy\ndtype\n.', 'of a type, not of data'),
    (b'cnumpy\ndtype\nS"f8"\n\x85R.', 'of a type, not of data'),
    (b'cnumpy\ndtype\nS"O"\n\x85R.', 'of a type, not of data'),
    (b'cnumpy\ndtype\nS"S9999999999"\n\x85R.', 'not of numbers'),
    (b'cnumpy\ndtype\n(S"f8"\ndR.', 'broken pickle'),
    (b'cnumpy\nndarray\n)R.', 'array without content'),
    (b'cnumpy.core.multiarray\n_reconstruct\n)R.', 'array without content'),
    (b'c_codecs\nencode\n(S"x"\nS"zlib"\ntR.', "bytes as 'zlib'"),
    (b'c__builtin__\neval\n(S"1"\ntR.', 'asks for __builtin__.eval'),
    (b'cnumpy\n_core.x\n.', 'asks for numpy._core.x'),
    (b'', 'broken pickle'), (b'.', 'broken pickle'), (b'N', 'broken pickle'),
    (b'garbage', 'broken pickle'),
    (b'I' + b'9' * 10**5 + b'\n.', 'broken pickle'),
])
def test_what_is_not_data_is_refused(tmp_path, monkeypatch, data, reason):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(unpickle.Error, match=reason):
    unpickle.loads(data)
  assert not list(tmp_path.iterdir())


def claims(shape, content):
  """A pickle that says it is an array of float64."""
  def inner(value):
    return pickle.dumps(value, 2)[2:-1]
  return (b'\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n'
          b'K\x00\x85C\x01btR(K\x01' + inner(shape)
          + b'cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R\x89' + inner(content)
          + b'tb.')


@pytest.mark.parametrize('shape, content', [
    ((3,), b'12345678'), ((-1,), b''), ((2**62, 4), b''), ((2**70,), b''),
    ((1,) * 9, b'12345678'), ('x', b''), ((1.0,), b'12345678'), (7, b''),
    ((1,), [1.0]), ((1,), None),
])
def test_an_array_that_lies_about_its_shape_is_refused(shape, content):
  assert unpickle.loads(claims((1,), b'12345678')).shape == (1,)
  with pytest.raises(unpickle.Error):
    unpickle.loads(claims(shape, content))


def test_deep_nesting_is_refused():
  n = 10**5
  for data in (b'(' * n + b't' * n + b'.', b')' + b'\x85' * n + b'.',
               b']' * n + b'a' * (n - 1) + b'.'):
    with pytest.raises(unpickle.Error):
      unpickle.loads(data)


def test_what_holds_itself_is_refused():
  loop = []
  loop.append(loop)
  with pytest.raises(unpickle.Error, match='holds itself'):
    unpickle.loads(pickle.dumps(loop, 2))


def test_one_list_named_far_too_often_is_refused():
  value = ['ha']
  for _ in range(40):  # 2**40 of them in 200 bytes.
    value = [value, value]
  with pytest.raises(unpickle.Error, match='far too often'):
    unpickle.loads(pickle.dumps(value, 2))
  shared = (60, 64)  # As in data, some sharing is fine.
  assert unpickle.loads(pickle.dumps([shared] * 50, 2)) == [shared] * 50


def test_one_text_made_an_array_far_too_often_is_refused():
  text = 'x' * 50_000
  call = b'c_codecs\nencode\nh\x00U\x06latin1\x86R'
  start = b'\x80\x02X' + struct.pack('<I', len(text)) + text.encode() + b'q\x00'
  assert unpickle.loads(start + b'](' + call * 50 + b'e.') == [
      text.encode()] * 50
  with pytest.raises(unpickle.Error, match='far too often'):
    unpickle.loads(start + b'](' + call * 10**4 + b'e.')


def test_a_memo_of_gigabytes_is_never_made():
  """In the C unpickler this asks for 64 GB."""
  code = ('import resource\n'
          'resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n'
          'from common.data import unpickle\n'
          'unpickle.loads(b"N" + b"r\\xff\\xff\\xff\\xff" + b".")\n'
          'for size in (b"X\\xff\\xff\\xff\\xff", b"\\x8e" + b"\\xff" * 7):\n'
          '  try:\n'
          '    unpickle.loads(size + b".")\n'
          '  except unpickle.Error:\n'
          '    continue\n'
          '  raise AssertionError(size)\n')
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_every_cut_and_every_flipped_byte_is_refused_or_read():
  outer = np.empty(2, object)
  outer[:] = [np.arange(4, dtype=np.float16), [(1, 2, 'x')]]
  f = io.BytesIO()
  np.save(f, outer, allow_pickle=True)
  data = f.getvalue()
  for i in range(len(data)):
    with pytest.raises(unpickle.Error):
      unpickle.npy(io.BytesIO(data[:i]))
    for flip in (0xff, 1 << i % 8):
      bad = data[:i] + bytes([data[i] ^ flip]) + data[i + 1:]
      with contextlib.suppress(unpickle.Error):
        unpickle.npy(io.BytesIO(bad))


def test_an_npz_comes_back_as_it_was():
  arrays = {'a': np.arange(5), 'b': np.ones((2, 3), bool)}
  got = unpickle.npz(npz_bytes(**arrays), 2**20)
  assert got.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(got[name], array)
  assert unpickle.npz(zipped(('info.json', b'{}')), 100) == {
      'info.json': b'{}'}


def test_a_zip_bomb_stops_at_the_bound():
  bomb = zipped(('a', bytes(10**7)), ('b', bytes(10**7)))
  assert len(bomb) < 30_000
  with pytest.raises(unpickle.Error, match='more than 15000000 bytes'):
    unpickle.npz(bomb, 15_000_000)
  # The same with a directory that declares a tenth of it.
  lying = bomb.replace(struct.pack('<I', 10**7), struct.pack('<I', 10**6))
  with pytest.raises(unpickle.Error):
    unpickle.npz(lying, 15_000_000)
  for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
    with pytest.raises(unpickle.Error, match='in another way than NumPy'):
      unpickle.npz(zipped(('a', bytes(10**6)), method=method), 2**20)


@pytest.mark.parametrize('data', [
    b'', b'PK', b'PK\x05\x06' + bytes(18), npz_bytes(a=np.arange(9))[:-30],
    npz_bytes(a=np.arange(9))[30:], zipped(('a.npy', b'')),
    zipped(('a.npy', b'\x93NUMPY\x01\x00')),
    zipped(('a.npy', b'\x93NUMPY\x09\x00' + bytes(90))),
    npz_bytes(a=np.array(['text'])), npz_bytes(a=np.array([1j])),
    npz_bytes(a=np.zeros(3, [('x', 'f4')])),
    npz_bytes(a=np.array(['2026-01-01'], 'M8')),
])
def test_a_broken_npz_is_refused(data):
  if data.startswith(b'PK\x05\x06'):  # An empty one is not broken.
    assert unpickle.npz(data, 100) == {}
    return
  with pytest.raises(unpickle.Error):
    unpickle.npz(data, 2**20)


@pytest.mark.parametrize('shape', ['(99999999999,)', '(-1,)', '(3, 7)',
                                   '(1e9,)', '()' * 3, '(' * 3000])
def test_an_npy_header_that_lies_is_refused(shape):
  header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
  data = (b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header))
          + header.encode() + bytes(80))
  with pytest.raises(unpickle.Error):
    unpickle.npy(io.BytesIO(data))
