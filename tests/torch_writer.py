"""Writes PyTorch's checkpoint formats, as torch.save lays them out.

Arrays become tensors; arrays that are views of one array share a storage.
"""

import collections
import io
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype('f4'): 'Float', np.dtype('f2'): 'Half', np.dtype('f8'): 'Double',
    np.dtype('i4'): 'Int', np.dtype('i8'): 'Long', np.dtype('i2'): 'Short',
    np.dtype('i1'): 'Char', np.dtype('u1'): 'Byte', np.dtype('?'): 'Bool',
    np.dtype(ml_dtypes.bfloat16): 'BFloat16'}
MAGIC = 0x1950A86A20F9469CFC6C


def named(module, name):
  """A class that is pickled by a name which need not exist."""
  return type(name, (), {'__module__': module, '__qualname__': name})


class Parameter:
  def __init__(self, array):
    self.array = array


class _Storage:
  def __init__(self, array):
    self.array = array


class _Pickler(pickle._Pickler):

  def __init__(self, f, protocol, more):
    super().__init__(f, protocol)
    self.storages, self._more, self._by_name = {}, more, {}

  def save_global(self, obj, name=None):  # As it is called, without a look.
    self.write(b'c%s\n%s\n' % (obj.__module__.encode(),
                               (name or obj.__qualname__).encode()))
    self.memoize(obj)

  def persistent_id(self, obj):
    if not isinstance(obj, _Storage):
      return None
    keys = [k for k, a in self.storages.items() if a is obj.array]
    key = keys[0] if keys else str(len(self.storages))
    self.storages[key] = obj.array
    storage = self._class('torch', f'{STORAGES[obj.array.dtype]}Storage')
    return ('storage', storage, key, 'cpu', obj.array.size, *self._more)

  def reducer_override(self, obj):
    if isinstance(obj, Parameter):
      return self._class('torch._utils', '_rebuild_parameter'), (
          obj.array, True, collections.OrderedDict())
    if not isinstance(obj, np.ndarray):
      return NotImplemented
    root = obj
    while root.base is not None:
      root = root.base
    offset = (obj.__array_interface__['data'][0]
              - root.__array_interface__['data'][0]) // obj.itemsize
    return self._class('torch._utils', '_rebuild_tensor_v2'), (
        _Storage(root), offset if obj.size else 0, obj.shape,
        tuple(s // obj.itemsize for s in obj.strides), False,
        collections.OrderedDict())

  def _class(self, *name):
    return self._by_name.setdefault(name, named(*name))


def pickled(value, protocol=2, more=()):
  """The pickle, and the storages by key."""
  f = io.BytesIO()
  pickler = _Pickler(f, protocol, more)
  pickler.dump(value)
  return f.getvalue(), pickler.storages


def write(path, value, legacy=False, protocol=2, order='little'):
  data, storages = pickled(value, protocol, (None,) if legacy else ())
  (legacy_parts if legacy else zip_parts)(
      path, data, {k: _contents(a, order) for k, a in storages.items()}, order)


def _contents(array, order):
  if order == 'big' and array.itemsize > 1:
    array = array.view(f'u{array.itemsize}').byteswap()
  return array.size, array.tobytes()


def zip_parts(path, data, storages, order='little', root=None):
  """From the pickle's bytes and {key: (numbers, bytes)}."""
  root = pathlib.Path(path).stem if root is None else root
  with zipfile.ZipFile(path, 'w') as z:
    z.writestr(f'{root}/data.pkl', data)
    z.writestr(f'{root}/byteorder', order)
    for key, (_, content) in storages.items():
      z.writestr(f'{root}/data/{key}', content)
    z.writestr(f'{root}/version', '3\n')


def legacy_parts(path, data, storages, order='little'):
  del order  # It is always the little one.
  sizes = {'protocol_version': 1001, 'little_endian': True,
           'type_sizes': {'short': 2, 'int': 4, 'long': 4}}
  with open(path, 'wb') as f:
    for value in (MAGIC, 1001, sizes):
      pickle.dump(value, f, 2)
    f.write(data)
    pickle.dump(sorted(storages), f, 2)
    for _, (size, content) in sorted(storages.items()):
      f.write(size.to_bytes(8, 'little') + content)
