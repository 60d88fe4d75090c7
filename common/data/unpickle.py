"""Reads pickled data without running what a pickle may ask for.

A pickle is a small program: it names functions and calls them. Here the few
names that published data sets use (arrays, their types, interval trees) stand
for plain Python below, which checks sizes; any other name is refused. NumPy's
own code for pickles never sees the file. The C unpickler is not used: one
byte in a file makes it fill gigabytes (LONG_BINPUT).
"""

import io
import math
import pickle
import re
import typing
import zipfile

import numpy as np

# A pickle may name one object many times. What that makes may be at most this
# many times larger than the file.
MOST_SHARING = 64
_TOO_OFTEN = 'pickle that holds itself, or one object far too often'
_NUMBER = re.compile(r'[iuf][1248]|b1')


class Error(ValueError):
  """The data is broken, or asks for what is not allowed."""


def loads(data: bytes):
  """What a pickle holds: numbers, text, lists, tuples, dicts and arrays.

  Arrays of objects come back as object arrays, an IntervalTree as a list of
  (begin, end, data), strings of Python 2 as text (latin1).
  """
  return load(io.BytesIO(data))


def load(f: typing.BinaryIO, unpickler: type['Unpickler'] | None = None):
  """As `loads`, from a file; never asks for more than it declares to hold."""
  try:
    reader = (unpickler or Unpickler)(f)
    whole = reader.load()
    _size(whole, {}, MOST_SHARING * f.tell())
    return reader.plain(whole)
  except Error:
    raise
  except Exception as e:  # Hostile bytes can make anything of it.
    raise Error(f'broken pickle ({type(e).__name__})') from None


def npy(f: typing.BinaryIO) -> np.ndarray:
  """An array in NumPy's own format, of numbers or of objects; read-only."""
  try:
    version = np.lib.format.read_magic(f)
    read = {(1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = read(f)
  except Exception:  # It parses Python there.
    raise Error('broken npy header') from None
  if not dtype.hasobject:
    if dtype.kind not in 'biuf':
      raise Error(f'npy array of {dtype}, not of numbers'[:80])
    return _array(f.read(), dtype, shape, fortran)
  array = load(f)
  if not isinstance(array, np.ndarray) or array.shape != shape:
    raise Error('npy header and content differ')
  return array


def npz(data: bytes, most_bytes: int) -> dict[str, np.ndarray | bytes]:
  """All members of a small npz file, unpacked no more than `most_bytes`.

  Members that are not arrays come back as bytes.
  """
  members, left = {}, most_bytes
  try:
    with zipfile.ZipFile(io.BytesIO(data)) as z:
      for info in z.infolist():
        if info.compress_type not in (zipfile.ZIP_STORED,
                                      zipfile.ZIP_DEFLATED):
          raise Error('npz is packed in another way than NumPy does')
        with z.open(info) as f:
          content = f.read(left + 1)  # Declared sizes may be lies.
        left -= len(content)
        if left < 0:
          raise Error(f'npz unpacks to more than {most_bytes} bytes')
        members[info.filename] = content
  except Error:
    raise
  except Exception as e:  # Of zipfile, zlib, struct, ...
    raise Error(f'broken npz ({type(e).__name__})') from None
  return {name.removesuffix('.npy'):
          npy(io.BytesIO(content)) if name.endswith('.npy') else content
          for name, content in members.items()}


class _Dtype:
  """Stands for numpy.dtype."""

  def __init__(self, name, *_):
    if name not in ('O8', 'O4', 'O') and not _NUMBER.fullmatch(name):
      raise Error(f'array of type {name!r:.20}, not of numbers')
    self.dtype = np.dtype(name[:1] if name[0] == 'O' else name)

  def __setstate__(self, state):
    _, order, *_ = state
    if order not in ('<', '>', '|', '='):
      raise Error(f'byte order {order!r:.20}')
    self.dtype = self.dtype.newbyteorder(order)


class _Array:
  """Stands for numpy.ndarray."""

  array = None  # Until its state comes.

  def __setstate__(self, state):
    _, shape, dtype, fortran, content = state
    dtype = dtype.dtype
    if dtype.hasobject:
      if len(shape) != 1 or shape[0] != len(content):
        raise Error(f'object array of shape {shape!r:.40} and {len(content)} '
                    'objects')
      self.array = content  # A list, until the whole pickle is read.
    else:
      if isinstance(content, str):  # Of Python 2.
        content = content.encode('latin1')
      self.array = _array(content, dtype, shape, fortran)


class Name:
  """What a pickle may call: by name, and nothing but its own function."""

  def __init__(self, function):
    self.function = function

  def __call__(self, *args):
    return self.function(*args)


def _array(content, dtype, shape, fortran):
  count = math.prod(shape)
  if len(shape) > 8 or min(shape, default=0) < 0 or (
      count * dtype.itemsize != len(content)):
    raise Error(f'array of shape {shape!r:.40} in {len(content)} bytes')
  array = np.frombuffer(content, dtype).reshape(
      shape, order='F' if fortran else 'C')
  return array.astype(dtype.newbyteorder('='), copy=False)


def _scalar(dtype, content):
  if isinstance(content, str):
    content = content.encode('latin1')
  return _array(content, dtype.dtype, (), False).item()


def _encode(text, encoding):  # How Python 3 writes bytes for Python 2.
  if encoding != 'latin1':
    raise Error(f'bytes as {encoding!r:.20}')
  return text.encode('latin1')


_ALLOWED = {
    ('numpy', 'ndarray'): Name(_Array),  # Only ever an argument.
    ('numpy', 'dtype'): Name(_Dtype),
    ('_codecs', 'encode'): Name(_encode),
    ('__builtin__', 'bytes'): Name(lambda: b''),  # Of protocols 0 to 2.
    ('intervaltree.intervaltree', 'IntervalTree'): Name(list),
    ('intervaltree.interval', 'Interval'): Name(lambda *a: a),
}
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
  _ALLOWED[_module, '_reconstruct'] = Name(lambda *_: _Array())
  _ALLOWED[_module, 'scalar'] = Name(_scalar)


class Unpickler(pickle._Unpickler):
  """The one written in Python: its memo is a dict.

  A subclass may know other names (`find_class`) and allow more (`dispatch`).
  """

  # Of dicts. No tuples: to hash tuples within tuples can overflow the stack.
  keys: typing.ClassVar[tuple[type, ...]] = (str,)

  def __init__(self, f):
    super().__init__(f, encoding='latin1')
    self._tell, self._spent = f.tell, 0

  def find_class(self, module, name):
    if (module, name) not in _ALLOWED:
      raise Error(f'pickle asks for {module}.{name}'[:80])
    return _ALLOWED[module, name]

  def plain(self, whole):
    """The value that the whole pickle stands for."""
    return _plain(whole, {})

  def _refuse(self):
    raise Error('pickle does more than hold data')

  def _reduce(self):
    self._spend(self.stack[-1])
    self.load_reduce()

  def _build(self):
    if not isinstance(self.stack[-2], (_Array, _Dtype)):
      self._refuse()
    self._spend(self.stack[-1])
    self.load_build()

  def _spend(self, arguments):
    """Counts what is copied: one long string can be made an array often."""
    self._spent += len(arguments) + sum(
        len(a) for a in arguments if isinstance(a, (str, bytes, list)))
    if self._spent > MOST_SHARING * self._tell():
      raise Error(_TOO_OFTEN)

  def _setitem(self):
    if not isinstance(self.stack[-2], self.keys):
      self._refuse()
    self.load_setitem()

  def _setitems(self):
    if not all(isinstance(key, self.keys) for key in self.stack[::2]):
      self._refuse()
    self.load_setitems()

  def _dict(self):
    if not all(isinstance(key, self.keys) for key in self.stack[::2]):
      self._refuse()
    self.load_dict()

  def _decode_string(self, value):  # A string of Python 2.
    # Long ones are the contents of arrays, and one copy is enough.
    return value if len(value) > 2**16 else super()._decode_string(value)

  dispatch: typing.ClassVar = {
      **dict.fromkeys(pickle._Unpickler.dispatch, _refuse),
      **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in (
          pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE,
          pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT,
          pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1,
          pickle.LONG4, pickle.FLOAT, pickle.BINFLOAT, pickle.STRING,
          pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES,
          pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.UNICODE,
          pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.EMPTY_LIST,
          pickle.LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_TUPLE,
          pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
          pickle.EMPTY_DICT, pickle.GLOBAL, pickle.STACK_GLOBAL,
          pickle.GET, pickle.BINGET, pickle.LONG_BINGET,
          pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE)},
      pickle.REDUCE[0]: _reduce,
      pickle.BUILD[0]: _build,
      pickle.SETITEM[0]: _setitem,
      pickle.SETITEMS[0]: _setitems,
      pickle.DICT[0]: _dict,
  }


def _size(value, sizes, most) -> float:
  """Objects in a value, each counted as often as it is named."""
  if isinstance(value, _Array):
    inside = value.array if isinstance(value.array, list) else []
  elif isinstance(value, dict):
    inside = value.values()
  elif isinstance(value, (list, tuple)):
    inside = value
  else:
    return 1
  if id(value) not in sizes:
    sizes[id(value)] = math.inf  # What contains itself has no end.
    total = 1
    for v in inside:
      total += _size(v, sizes, most)
      if total > most:
        raise Error(_TOO_OFTEN)
    sizes[id(value)] = total
  return sizes[id(value)]


def _plain(value, done):
  """The value with arrays in place of what stood for them."""
  if isinstance(value, (_Array, list, tuple, dict)):
    if id(value) not in done:
      done[id(value)] = _rebuilt(value, done)
    return done[id(value)]
  if isinstance(value, (_Dtype, Name)):
    raise Error('pickle of a type, not of data')
  return value


def _rebuilt(value, done):
  if isinstance(value, dict):
    return {k: _plain(v, done) for k, v in value.items()}
  if isinstance(value, _Array):
    if isinstance(value.array, np.ndarray):
      return value.array
    if value.array is None:
      raise Error('array without content')
    out = np.empty(len(value.array), object)
    for i, v in enumerate(value.array):
      out[i] = _plain(v, done)
    return out
  return type(value)([_plain(v, done) for v in value])
