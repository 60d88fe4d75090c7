import io
import os
import random
import struct
import tarfile
import tracemalloc
import zipfile

import pytest

from common import errors
from common.data import archives

FILES = {f'set/{i}.bin': bytes([i]) * (1000 * i + 7) for i in range(5)}


def tar(path, members, mode='w'):
  """members: {name: bytes, or a TarInfo}."""
  with tarfile.open(path, mode) as t:
    for name, data in members.items():
      if isinstance(data, tarfile.TarInfo):
        t.addfile(data)
      else:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        t.addfile(info, io.BytesIO(data))
  return path


def special(name, kind):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, '/etc/passwd'
  return info


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
  with zipfile.ZipFile(path, 'w', compression) as z:
    for name, data in members.items():
      z.writestr(name, data)
  return path


def read(path, **kwargs):
  """({name: data}, [(name, reason)])"""
  skipped = []
  found = list(archives.read_members(
      path, lambda *row: skipped.append(row), **kwargs))
  assert len(dict(found)) == len(found)
  return dict(found), skipped


def unpacked(folder):
  for name, data in FILES.items():
    path = folder / 'tree' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  return folder / 'tree'


@pytest.mark.parametrize('make', [
    lambda d: tar(d / 'a.tar', FILES),
    lambda d: tar(d / 'a.tar.gz', FILES, 'w:gz'),
    lambda d: tar(d / 'a.tar.bz2', FILES, 'w:bz2'),
    lambda d: tar(d / 'a.tar.xz', FILES, 'w:xz'),
    # What counts is what a file begins with, not what it is called.
    lambda d: tar(d / 'a.tar', FILES, 'w:gz'),
    lambda d: tar(d / 'a.tar', {f'./{k}': v for k, v in FILES.items()}),
    lambda d: zipped(d / 'a.zip', FILES),
    lambda d: zipped(d / 'a.zip', FILES, zipfile.ZIP_STORED),
    unpacked,
])
def test_every_container_gives_the_same_files(tmp_path, make):
  path = make(tmp_path)
  found, skipped = read(path)
  assert list(found.items()) == list(FILES.items())
  assert not skipped
  found, skipped = read(path, want=lambda name: name == 'set/3.bin')
  assert found == {'set/3.bin': FILES['set/3.bin']}
  assert archives.read_member(path, '4.bin') == FILES['set/4.bin']
  assert archives.read_member(path, 'set/4.bin') == FILES['set/4.bin']
  assert archives.read_member(path, 't/4.bin') is None


def test_long_and_foreign_names_arrive_whole(tmp_path):
  files = {'x' * 300 + '/é\udcff.wav': b'1', 'tab\tand\nline': b'2'}
  assert read(tar(tmp_path / 'a.tar', files)) == (files, [])


def test_a_reader_gives_a_large_member_piece_by_piece(tmp_path):
  path = tar(tmp_path / 'a.tar', FILES)
  for name, reader in archives.open_members(path, pytest.fail):
    pieces = list(iter(lambda: reader.read(100), b''))
    assert b''.join(pieces) == FILES[name]
    assert max(map(len, pieces), default=0) <= 100 and reader.read(5) == b''


BAD = {'../up': b'x', 'a/../../up': b'x', '/root': b'x', 'C:/x': b'x',
       'a\\..\\b': b'x'}


@pytest.mark.parametrize('make', [tar, zipped])
def test_names_that_lead_elsewhere_are_skipped(tmp_path, make):
  good = {'good': b'y', 'a..b': b''}
  found, skipped = read(make(tmp_path / 'a', {**BAD, **good}))
  assert found == good
  assert dict(skipped).keys() == BAD.keys()
  assert set(dict(skipped).values()) == {"name with '..'", 'absolute name'}
  assert list(tmp_path.iterdir()) == [tmp_path / 'a']


def test_links_and_devices_are_skipped(tmp_path):
  kinds = {'soft': tarfile.SYMTYPE, 'hard': tarfile.LNKTYPE,
           'tty': tarfile.CHRTYPE, 'disk': tarfile.BLKTYPE,
           'pipe': tarfile.FIFOTYPE, 'folder': tarfile.DIRTYPE}
  path = tar(tmp_path / 'a.tar', {
      **{k: special(k, kind) for k, kind in kinds.items()}, 'good': b'y'})
  assert read(path) == ({'good': b'y'}, [
      ('soft', 'link'), ('hard', 'link'), ('tty', 'not a file'),
      ('disk', 'not a file'), ('pipe', 'not a file')])


def test_links_in_a_zip_are_skipped(tmp_path):
  info = zipfile.ZipInfo('soft')
  info.external_attr = 0o120777 << 16
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as z:
    z.writestr(info, '/etc/passwd')
    z.writestr('good', b'y')
  assert read(tmp_path / 'a.zip') == ({'good': b'y'}, [('soft', 'link')])


def test_links_and_pipes_in_a_folder_are_skipped(tmp_path):
  (tmp_path / 'good').write_bytes(b'y')
  (tmp_path / 'out').symlink_to('/etc/passwd')
  (tmp_path / 'up').symlink_to(tmp_path.parent)
  os.mkfifo(tmp_path / 'pipe')  # To open it would wait for ever.
  assert read(tmp_path) == ({'good': b'y'}, [
      ('out', 'link'), ('pipe', 'not a file'), ('up', 'link')])


@pytest.mark.parametrize('mode', ['w', 'w:gz', 'w:xz'])
def test_what_comes_before_a_cut_is_kept_and_the_cut_reported(tmp_path, mode):
  rng = random.Random(0)
  files = {f'{i}': rng.randbytes(5000) for i in range(20)}
  whole = tar(tmp_path / 'whole', files, mode).read_bytes()
  path = tmp_path / 'cut.tar'
  seen = set()
  end = 20 * 5632 if mode == 'w' else len(whole) - 1
  for size in sorted({*range(700, end, end // 30), end}):
    path.write_bytes(whole[:size])
    found, skipped = read(path)
    assert found == dict(list(files.items())[:len(found)])
    assert skipped[-1] == ('cut.tar', 'truncated archive'), size
    assert skipped[:-1] in ([], [(str(len(found)), 'truncated')])
    seen.add(len(found))
  assert len(seen) > 5


@pytest.mark.parametrize('mode', ['w', 'w:gz'])
def test_a_damaged_tar_is_reported_and_its_beginning_kept(tmp_path, mode):
  rng = random.Random(0)
  files = {f'{i}': rng.randbytes(5000) for i in range(20)}
  data = bytearray(tar(tmp_path / 'whole', files, mode).read_bytes())
  middle = 10 * 5632 if mode == 'w' else len(data) // 2
  data[middle:middle + 100] = bytes(255 for _ in range(100))
  (tmp_path / 'bad.tar').write_bytes(data)
  found, skipped = read(tmp_path / 'bad.tar')
  assert len(found) >= 8 and all(files[k] == v for k, v in found.items()
                                 if k != '9')
  assert skipped[-1][0] == 'bad.tar' and 'archive' in skipped[-1][1]


def test_a_gzip_whose_checksum_is_wrong_is_reported(tmp_path):
  data = bytearray(tar(tmp_path / 'a.tar.gz', FILES, 'w:gz').read_bytes())
  data[-8] ^= 1
  (tmp_path / 'a.tar.gz').write_bytes(data)
  found, skipped = read(tmp_path / 'a.tar.gz')
  assert found == FILES
  assert skipped == [('a.tar.gz', 'damaged archive')]


def test_a_damaged_member_of_a_zip_is_skipped_alone(tmp_path):
  data = bytearray(zipped(tmp_path / 'a.zip', FILES,
                          zipfile.ZIP_STORED).read_bytes())
  data[data.index(b'\x02' * 100) + 50] ^= 1
  (tmp_path / 'a.zip').write_bytes(data)
  found, skipped = read(tmp_path / 'a.zip')
  assert found.keys() == FILES.keys() - {'set/2.bin'}
  assert skipped == [('set/2.bin', 'damaged')]


def test_a_cut_zip_and_what_is_no_archive_are_one_sentence(tmp_path):
  whole = zipped(tmp_path / 'a.zip', FILES).read_bytes()
  path = tmp_path / 'a.zip'
  path.write_bytes(whole[:-30])
  with pytest.raises(errors.UserError, match=r'not a whole zip .* again'):
    read(path)
  for text in (b'<!DOCTYPE html><html>' * 100, b'', b'x'):
    path.write_bytes(text)
    with pytest.raises(errors.UserError, match=r'cannot be read .* again'):
      read(path)
  with pytest.raises(errors.UserError, match='does not exist'):
    read(tmp_path / 'none.tar')


def declared(data: bytes, size: int) -> bytes:
  """A zip with one member, which says it had another size."""
  data = bytearray(data)
  for magic, offset in ((b'PK\3\4', 22), (b'PK\1\2', 24)):
    struct.pack_into('<I', data, data.index(magic) + offset, size)
  return bytes(data)


@pytest.mark.parametrize('said', [50 << 20, 1000, (1 << 32) - 2])
def test_a_member_is_never_larger_than_its_bound(tmp_path, said):
  path = zipped(tmp_path / 'a.zip', {'zeros': bytes(50 << 20)})
  assert path.stat().st_size < 60_000
  path.write_bytes(declared(path.read_bytes(), said))
  tracemalloc.start()
  try:
    found, skipped = read(path, limit=2 << 20)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
  finally:
    tracemalloc.stop()
  assert not found
  assert skipped == [('zeros', 'larger than 2 MiB' if said > 2 << 20
                      else 'damaged')]


@pytest.mark.parametrize('mode', ['w', 'w:gz'])
def test_a_large_member_of_a_tar_is_skipped_and_the_next_one_read(
    tmp_path, mode):
  path = tar(tmp_path / 'a', {'zeros': bytes(3 << 20), 'small': b'y'}, mode)
  assert read(path, limit=2 << 20) == (
      {'small': b'y'}, [('zeros', 'larger than 2 MiB')])


def test_overlapping_members_are_refused_as_a_bomb(tmp_path):
  # Every entry of the index points to the same compressed megabyte.
  path = zipped(tmp_path / 'a.zip', {'kernel': os.urandom(1 << 20)})
  data = path.read_bytes()
  index = data.index(b'PK\1\2')
  end = data.index(b'PK\5\6')
  entry, tail = data[index:end], bytearray(data[end:])
  struct.pack_into('<HH', tail, 8, 100, 100)
  struct.pack_into('<I', tail, 12, 100 * len(entry))
  path.write_bytes(data[:index] + 100 * entry + tail)
  with pytest.raises(errors.UserError, match='overlap'):
    read(path)


def test_other_compressions_and_encryption_are_skipped(tmp_path):
  path = zipped(tmp_path / 'a.zip', {'x': b'y' * 100}, zipfile.ZIP_BZIP2)
  assert read(path) == ({}, [('x', 'compressed in another way than deflate')])
  data = bytearray(zipped(path, {'x': b'y'}).read_bytes())
  data[data.index(b'PK\1\2') + 8] |= 1
  path.write_bytes(data)
  assert read(path) == ({}, [('x', 'encrypted')])


def test_a_sparse_member_is_skipped(tmp_path):
  # GNU's old sparse header: 512 bytes that say they are a terabyte.
  info = tarfile.TarInfo('sparse')
  info.size = 512
  block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
  block[156:157] = b'S'
  block[386:386 + 12] = b'%011o\0' % 0
  block[398:398 + 12] = b'%011o\0' % 512
  block[483:483 + 12] = b'%011o ' % (1 << 32)
  block[148:156] = b' ' * 8
  block[148:156] = b'%06o\0 ' % sum(block)
  path = tar(tmp_path / 'a.tar', {'good': b'y'})
  path.write_bytes(bytes(block) + bytes(512) + path.read_bytes())
  found, skipped = read(path)
  assert found == {'good': b'y'} and skipped == [('sparse', 'not a file')]


def test_many_members_take_little_memory(tmp_path):
  empty = tarfile.TarInfo('name/of/a/member').tobuf()
  path = tmp_path / 'a.tar'
  path.write_bytes(empty * 8000 + bytes(1024))
  tracemalloc.start()
  try:
    count = sum(1 for _ in archives.open_members(path, pytest.fail))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
  finally:
    tracemalloc.stop()
  assert count == 8000
