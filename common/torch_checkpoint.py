"""PyTorch's checkpoints, read without PyTorch and without running code.

What `torch.save` writes is a pickle, in which a tensor is a view of a storage,
and the storages beside it as plain bytes: since 1.6 as members of a zip file,
before that (and where asked for) one after the other at the end of the file.
The pickle is read as `common.data.unpickle` does: nothing is imported, nothing
is called. Tensors become arrays; what else is in the file (settings, a class
of whoever wrote it) is left out.
"""

import dataclasses
import io
import math
import pathlib
import pickle
import re
import struct
import typing
import zipfile
import zlib
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from common import errors
from common.data import unpickle

# A pickle is a hundred bytes a tensor; in memory it is a hundred times that.
_MOST_PICKLE = 1 << 24
_MOST_NAME = 1000
_MOST_NUMBERS = 1 << 48  # Of a tensor.
_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, 'little')  # Before 1.6.
_DTYPES = {
    'FloatStorage': np.float32, 'HalfStorage': np.float16,
    'BFloat16Storage': ml_dtypes.bfloat16, 'DoubleStorage': np.float64,
    'IntStorage': np.int32, 'LongStorage': np.int64, 'ShortStorage': np.int16,
    'CharStorage': np.int8, 'ByteStorage': np.uint8, 'BoolStorage': np.bool_}
# Only to say so: what is not known is never called, whatever its name.
_CODE = re.compile(
    r'(os|posix|nt|subprocess|pty|socket|sys|runpy|importlib|shutil|ctypes|'
    r'pickle|webbrowser)\..*|(builtins|__builtin__|_?io)\.(eval|exec|execfile|'
    r'compile|open|file|input|apply|getattr|setattr|__import__|breakpoint)')


@dataclasses.dataclass(frozen=True)
class _Storage:
  key: str
  dtype: np.dtype
  size: int  # Numbers, not bytes.


@dataclasses.dataclass(frozen=True)
class _Tensor:
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Place(typing.NamedTuple):
  """Where in the file some bytes are."""

  offset: int
  size: int
  checksum: int = 0  # CRC32; 0 where there is none.


class Checkpoint:
  """`shapes` has the shape of every array; `read` reads one.

  Names are keys of dicts within dicts (or numbers in lists) with a / between:
  'model/encoders.0.weight' for {'model': {'encoders.0.weight': ...}}. The
  'module.' is left out that a parallel model puts before all its names.
  """

  def __init__(self, path):
    self._path = pathlib.Path(path)
    try:
      with self._path.open('rb') as f:
        is_zip = f.read(4) == b'PK\3\4'
        f.seek(0)
        self._tensors, self._places, self._swapped = (
            _read_zip if is_zip else _read_stream)(f)
    except OSError as e:
      raise errors.UserError(f'{path}: {e.strerror}') from None
    except unpickle.Error as e:
      raise errors.UserError(
          f'{path} cannot be read as a checkpoint of PyTorch: {e}') from None
    if not self._tensors:
      raise errors.UserError(
          f'{path} has no tensors in dicts or lists; a checkpoint is written '
          'by torch.save(model.state_dict(), path)')

  @property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    return {name: t.shape for name, t in self._tensors.items()}

  def read(self, name: str) -> np.ndarray:
    if name not in self._tensors:
      raise errors.UserError(f'{self._path} has no {name!r}'
                             + errors.suggest(name, self._tensors))
    tensor = self._tensors[name]
    storage = tensor.storage
    if math.prod(tensor.shape) > storage.size:
      raise errors.UserError(
          f'{self._path}: {name!r} is {list(tensor.shape)}, made of only '
          f'{storage.size} numbers; save its .contiguous()')
    try:
      with self._path.open('rb') as f:
        data = np.frombuffer(_bytes(f, self._places[storage.key]), np.uint8)
    except OSError as e:
      raise errors.UserError(f'{self._path}: {e.strerror}') from None
    except unpickle.Error as e:
      raise errors.UserError(f'{self._path}: {name}: {e}') from None
    if self._swapped:
      data = data.view(f'u{storage.dtype.itemsize}').byteswap()
    view = np.lib.stride_tricks.as_strided(
        data.view(storage.dtype)[tensor.offset:], tensor.shape,
        [s * storage.dtype.itemsize for s in tensor.strides], writeable=False)
    return np.array(view, order='C')


def _read_zip(f):
  """(tensors by name, places of storages by key, other byte order?)."""
  try:
    with zipfile.ZipFile(f) as z:
      members = {info.filename: info for info in z.infolist()}
  except Exception as e:  # Hostile bytes can make anything of it.
    raise unpickle.Error(f'broken zip file ({type(e).__name__}); it may have '
                         'been cut short') from None
  roots = [n.removesuffix('data.pkl') for n in members
           if re.fullmatch(r'[^/]+/data\.pkl', n)]
  if len(roots) != 1:
    raise unpickle.Error('a zip file without its data.pkl')
  root, = roots
  if any(n.startswith((f'{root}code/', f'{root}constants.pkl'))
         for n in members):
    raise unpickle.Error('it is a TorchScript program; save the state_dict() '
                         'of torch.jit.load(path) with torch.save')

  def member(name):
    if name not in members:
      raise unpickle.Error(f'{name} is missing'[:80])
    return _place(f, members[name])

  place = member(f'{root}data.pkl')
  if place.size > _MOST_PICKLE:
    raise unpickle.Error(f'data.pkl has more than {_MOST_PICKLE} bytes')
  tensors, storages = unpickle.load(io.BytesIO(_bytes(f, place)), _Unpickler)
  order = b'little'
  if f'{root}byteorder' in members:
    order = _bytes(f, member(f'{root}byteorder'))
  places = {}
  for key in {t.storage.key for t in tensors.values()}:
    places[key] = place = member(f'{root}data/{key}')
    expected = storages[key].size * storages[key].dtype.itemsize
    if place.size != expected:
      raise unpickle.Error(f'data/{key} has {place.size} bytes, not '
                           f'{expected}'[:80])
  return tensors, places, order == b'big'


def _place(f, info) -> _Place:
  """Of a member of a zip file."""
  if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
    raise unpickle.Error(f'{info.filename} is packed, which PyTorch never does'
                         [:80])
  f.seek(_inside(f, _Place(info.header_offset, 30)).offset)
  header = f.read(30)
  if header[:4] != b'PK\3\4':
    raise unpickle.Error('broken zip file')
  offset = info.header_offset + 30 + sum(struct.unpack('<HH', header[26:]))
  # Without checksums (a setting of torch.save) it is 0.
  return _inside(f, _Place(offset, info.file_size, info.CRC))


def _read_stream(f):
  """As `_read_zip`. Here the byte order is always the little one."""
  head = io.BytesIO(f.read(_MOST_PICKLE))
  if _MAGIC not in head.getvalue()[:32]:
    raise unpickle.Error(
        'it begins in another way. Of a TensorFlow checkpoint, give the name '
        'without .index or .data-...')
  for _ in range(3):  # The magic number, a version, sizes of C types.
    unpickle.load(head)
  tensors, storages = unpickle.load(head, _Unpickler)
  keys, offset, places = unpickle.load(head), head.tell(), {}
  if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
    raise unpickle.Error('its list of storages is broken')
  for key in keys:
    storage = storages.get(key)
    if storage is None:
      raise unpickle.Error('it has a storage of a type that is not known')
    f.seek(_inside(f, _Place(offset, 8)).offset)
    if int.from_bytes(f.read(8), 'little') != storage.size:
      raise unpickle.Error('a storage has another size than its tensors say')
    places[key] = _inside(
        f, _Place(offset + 8, storage.size * storage.dtype.itemsize))
    offset += 8 + places[key].size
  if not places.keys() >= {t.storage.key for t in tensors.values()}:
    raise unpickle.Error('a storage is missing')
  return tensors, places, False


def _inside(f, place: _Place) -> _Place:
  if place.offset < 0 or place.offset + place.size > f.seek(0, io.SEEK_END):
    raise unpickle.Error('it ends too early; copy or download it again')
  return place


def _bytes(f, place: _Place) -> bytes:
  f.seek(place.offset)
  data = f.read(place.size)
  if len(data) != place.size or (
      place.checksum and zlib.crc32(data) != place.checksum):
    raise unpickle.Error('wrong checksum or length; copy or download the file '
                         'again')
  return data


class _Other:
  """Stands for all that is not known: classes, functions, what they make."""

  def __call__(self, *_):
    return self

  def __setitem__(self, *_):
    pass

  append = extend = __call__


_OTHER = _Other()


def _rebuilt(storage, offset, shape, strides, *_):
  """A tensor; its other arguments are of no use here."""
  if not isinstance(storage, _Storage):
    return _OTHER
  if not (isinstance(shape, tuple) and isinstance(strides, tuple)
          and len(shape) == len(strides) <= 32
          and all(type(n) is int and 0 <= n < _MOST_NUMBERS
                  for n in (offset, *shape, *strides))
          and math.prod(n or 1 for n in shape) < _MOST_NUMBERS):
    raise unpickle.Error(f'tensor of shape {shape!r:.40}')
  if math.prod(shape) and offset + sum(
      (n - 1) * s for n, s in zip(shape, strides, strict=True)) >= storage.size:
    raise unpickle.Error(f'tensor of shape {shape!r:.40} in {storage.size} '
                         'numbers')
  return _Tensor(storage, offset, shape, strides)


def _ordered(pairs=()):  # Python 2 gives them here, 3 afterwards.
  if not all(isinstance(key, str) for key, _ in pairs):
    raise unpickle.Error('OrderedDict with other keys than text')
  return {key: value for key, value in pairs}


_KNOWN = {
    ('collections', 'OrderedDict'): unpickle.Name(_ordered),
    ('torch._utils', '_rebuild_tensor'): unpickle.Name(_rebuilt),
    ('torch._utils', '_rebuild_tensor_v2'): unpickle.Name(_rebuilt),
    ('torch._utils', '_rebuild_parameter'): unpickle.Name(lambda t, *_: t),
    ('torch._utils', '_rebuild_parameter_with_state'): unpickle.Name(
        lambda t, *_: t),
    **{('torch', name): np.dtype(dtype) for name, dtype in _DTYPES.items()}}


class _Unpickler(unpickle.Unpickler):
  """Gives (tensors by name, storages by key)."""

  keys = (str, int, float, type(None))

  def __init__(self, f):
    super().__init__(f)
    self._storages = {}  # None for one of a type that is not known.

  def find_class(self, module, name):
    if _CODE.fullmatch(f'{module}.{name}'):
      raise unpickle.Error(f'it asks for {module}.{name}'[:60] + ', which is '
                           'code and not data; open it with nothing else')
    return _KNOWN.get((module, name), _OTHER)

  def persistent_load(self, pid):
    # (.., type, key, device, size), and of old ones a part of it, or None.
    if (not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != 'storage'
        or not isinstance(pid[2], str)):
      return _OTHER  # The source code of a class.
    _, dtype, key, _, size, *part = pid
    if isinstance(dtype, np.dtype):
      if not isinstance(size, int) or size < 0 or part not in ([], [None]):
        raise unpickle.Error(f'storage of {size!r:.20} numbers')
      storage = _Storage(key, dtype, size)
    else:
      storage = None
    if self._storages.setdefault(key, storage) != storage:
      raise unpickle.Error('one storage of two types or sizes')
    return storage

  def plain(self, whole):
    tensors = {}
    for name, tensor in _named(whole, ''):
      if name in tensors:
        raise unpickle.Error(f'two arrays are called {name!r:.60}')
      tensors[name] = tensor
    return tensors, self._storages

  def _attributes(self):
    """Drops them: those of an OrderedDict, or of something not known."""
    self.stack.pop()
    if not isinstance(self.stack[-1], (dict, _Other)):
      self._refuse()

  dispatch: typing.ClassVar = {
      **unpickle.Unpickler.dispatch,
      pickle.BINPERSID[0]: pickle._Unpickler.load_binpersid,
      pickle.NEWOBJ[0]: unpickle.Unpickler._reduce,
      pickle.BUILD[0]: _attributes,
      pickle.EMPTY_SET[0]: lambda self: self.append(_OTHER),
      pickle.ADDITEMS[0]: lambda self: self.pop_mark(),
  }


def _named(value, name) -> Iterator[tuple[str, _Tensor]]:
  if len(name) > _MOST_NAME:
    raise unpickle.Error(f'a name of more than {_MOST_NAME} characters')
  if isinstance(value, _Tensor):
    yield name, value
    return
  if isinstance(value, dict):
    items, prefix = value.items(), 'module.'
    if not all(isinstance(k, str) and k.startswith(prefix) for k in value):
      prefix = ''
  elif isinstance(value, (list, tuple)):
    items, prefix = enumerate(value), ''
  else:
    return
  for key, inner in items:
    key = str(key).removeprefix(prefix)
    yield from _named(inner, f'{name}/{key}' if name else key)
