"""The files inside a tar, tar.gz or zip archive or a folder, as a stream.

Nothing is extracted to disk and no name is ever used as a path, so an archive
of a stranger can write nowhere. What is unsafe (a link, a device, a name with
'..', a member larger than its bound) or not whole is left out and told to
`skip(name, reason)`; all else goes on.
"""

import bz2
import gzip
import lzma
import os
import pathlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

from common import errors

MEMBER_LIMIT = 256 << 20  # Bytes of one member that `read_members` will hold.

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error,
           lzma.LZMAError, ValueError, NotImplementedError)
_BLOCK = 1 << 20


class Broken(Exception):
  """What a reader raises where the bytes end or make no sense."""


class Reader:
  """A member, to be read before the next one is asked for."""

  def __init__(self, file, size: int):
    self._file, self.size = file, size  # As the archive declares it.

  def read(self, n: int = -1) -> bytes:
    """At most n bytes, b'' at the end; without n, all that is left."""
    with _explained():
      return self._file.read(n)


def open_members(path, skip: Callable[[str, str], None],
                 want: Callable[[str], bool] = lambda name: True
                 ) -> Iterator[tuple[str, Reader]]:
  """(name, reader) of each file that is wanted.

  Archives keep their order; a folder is read in order of its names, which are
  relative to it. A reader may raise `Broken`.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    members = _folder(path, skip, want)
  elif _begins(path, b'PK'):
    members = _zip(path, skip, want)
  else:
    members = _tar(path, skip, want)
  yield from members


def read_members(path, skip: Callable[[str, str], None],
                 want: Callable[[str], bool] = lambda name: True,
                 limit: int = MEMBER_LIMIT) -> Iterator[tuple[str, bytes]]:
  """(name, contents) of each file that is wanted, whole and within `limit`."""
  for name, reader in open_members(path, skip, want):
    if reader.size > limit:
      skip(name, f'larger than {limit >> 20} MiB')
      continue
    try:
      # Never more, whatever was declared.
      data = reader.read(limit + 1)
    except Broken as e:
      skip(name, str(e))
      continue
    if len(data) == reader.size:
      yield name, data
    else:
      skip(name, 'its size is not what the archive says')


def read_member(path, name: str, limit: int = MEMBER_LIMIT) -> bytes | None:
  """The first file whose name ends like this, None if there is none.

  It may come last in a tar, which is then read to its end.
  """
  ends = lambda found: f'/{found}'.endswith(f'/{name}')
  for _, data in read_members(path, lambda *_: None, ends, limit):
    return data
  return None


def unsafe(name: str) -> str:
  """Why no file should have this name, '' if it may."""
  parts = name.replace('\\', '/').split('/')
  if name.startswith(('/', '\\')) or parts[0][1:2] == ':':
    return 'absolute name'
  if '..' in parts:
    return "name with '..'"
  return '' if '\0' not in name else 'name with a zero byte'


class _explained:
  """Turns what damaged archives raise into `Broken`."""

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if isinstance(error, _DAMAGE) or (
        # Not of the disk: those have a number.
        isinstance(error, OSError) and error.errno is None):
      short = isinstance(error, EOFError) or 'unexpected end' in str(error)
      raise Broken('truncated' if short else 'damaged') from None


def _begins(path, magic: bytes) -> bool:
  try:
    with open(path, 'rb') as f:
      return f.read(len(magic)) == magic
  except FileNotFoundError:
    raise errors.UserError(f'{path} does not exist') from None


def files(folder, skip: Callable[[str, str], None],
          want: Callable[[str], bool] = lambda name: True
          ) -> Iterator[tuple[str, str, os.stat_result]]:
  """(name, path, stat) of the files in a folder, in order of their names.

  Links are skipped: what is in the folder is found anyway, and what is not
  does not belong to the data set.
  """
  for where, folders, names in os.walk(folder):
    for name in sorted([*folders, *names]):
      path = os.path.join(where, name)
      relative = pathlib.PurePath(path).relative_to(folder).as_posix()
      info = os.lstat(path)
      if stat.S_ISDIR(info.st_mode) or (name not in folders
                                        and not want(relative)):
        continue
      if stat.S_ISLNK(info.st_mode):
        skip(relative, 'link')
      elif not stat.S_ISREG(info.st_mode):
        skip(relative, 'not a file')
      elif not os.access(path, os.R_OK):
        skip(relative, 'no permission to read it')
      else:
        yield relative, path, info
    folders.sort()


def _folder(path, skip, want):
  for name, file, info in files(path, skip, want):
    with open(file, 'rb') as f:
      yield name, Reader(f, info.st_size)


def _zip(path, skip, want):
  try:
    archive = zipfile.ZipFile(path)
  except (zipfile.BadZipFile, ValueError, NotImplementedError) as e:
    raise errors.UserError(
        f'{path} is not a whole zip archive ({e}); it looks like this when a '
        'download broke off, for its index comes last: download it again'
    ) from None
  with archive:
    members = [m for m in archive.infolist() if not m.is_dir()]
    if sum(m.compress_size for m in members) > os.path.getsize(path):
      raise errors.UserError(
          f'{path} is no honest zip archive: its members overlap, as in a zip '
          'bomb; download it again from where it was published')
    for member in members:
      name = member.filename.removeprefix('./')
      if not want(name):
        continue
      mode = stat.S_IFMT(member.external_attr >> 16)
      if why := unsafe(name):
        skip(name, why)
      elif stat.S_ISLNK(mode):
        skip(name, 'link')
      elif mode and not stat.S_ISREG(mode):
        skip(name, 'not a file')
      elif member.flag_bits & 1:
        skip(name, 'encrypted')
      elif member.compress_type not in (zipfile.ZIP_STORED,
                                        zipfile.ZIP_DEFLATED):
        # One step of the others may unpack to any size.
        skip(name, 'compressed in another way than deflate')
      else:
        try:
          with _explained():
            f = archive.open(member)
        except Broken as e:
          skip(name, str(e))
          continue
        with f:
          yield name, Reader(f, member.file_size)


def _tar(path, skip, want):
  with open(path, 'rb') as raw:
    try:
      with _explained():
        stream = _Stream(_decompressed(raw))
        tar = tarfile.open(  # noqa: SIM115, of `raw`, which is closed.
            fileobj=stream, mode='r|', tarinfo=_TarInfo, bufsize=_BLOCK)
    except Broken:
      raise errors.UserError(
          f'{path} cannot be read as a tar, tar.gz or zip archive: it begins '
          f'with {_head(path)!r}; download it again') from None
    try:
      while True:
        with _explained():
          member = tar.next()
        if member is None:
          break
        tar.members.clear()  # Else it keeps all of them.
        name = member.name.removeprefix('./')
        if member.isdir() or not want(name):
          continue
        if why := unsafe(name):
          skip(name, why)
        elif member.issym() or member.islnk():
          skip(name, 'link')
        elif not member.isreg() or member.issparse():
          skip(name, 'not a file')
        else:
          yield name, Reader(tar.extractfile(member), member.size)
      with _explained():
        stream.read(_BLOCK)  # Its checksum comes after the end of the tar.
    except Broken as e:
      skip(os.path.basename(path), f'{e} archive')


def _decompressed(raw):
  magic = raw.read(6)
  raw.seek(0)
  if magic.startswith(b'\x1f\x8b'):
    return gzip.GzipFile(fileobj=raw)
  if magic.startswith(b'BZh'):
    return bz2.BZ2File(raw)
  if magic.startswith(b'\xfd7zXZ\0'):
    return lzma.LZMAFile(raw)
  return raw


class _Stream:
  """Gives what comes before an error first, and then the error."""

  def __init__(self, file):
    self._file, self._error = file, None

  def read(self, size):
    parts = []
    while size and not self._error:
      try:
        part = self._file.read1(size)
      except (*_DAMAGE, OSError) as e:
        self._error = e
        break
      if not part:
        break
      parts.append(part)
      size -= len(part)
    if self._error and not parts:
      raise self._error
    return b''.join(parts)


class _TarInfo(tarfile.TarInfo):
  """Without this, tarfile takes a cut or damaged header for the end."""

  @classmethod
  def fromtarfile(cls, tar):
    try:
      return super().fromtarfile(tar)
    except tarfile.EOFHeaderError:  # Two blocks of zeros: the true end.
      raise
    except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError):
      raise Broken('truncated') from None
    except tarfile.HeaderError:
      raise Broken('damaged') from None


def _head(path):
  with open(path, 'rb') as f:
    return f.read(16)
