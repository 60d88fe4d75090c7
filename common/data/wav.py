"""Wav files from a stream that cannot go back, such as a member of a tar.

`common.audio` reads every kind of sound file, but only whole ones.
"""

import struct

import numpy as np

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# The sample format of the sets published as wav: NSynth's, and MusicNet's.
_DTYPES = {(_PCM, 16): np.dtype('<i2'), (_FLOAT, 32): np.dtype('<f4')}
_MOST_BEFORE = 1 << 20  # Bytes of chunks before the sound.


class Error(ValueError):
  """The file is broken, or of a kind that is not read here."""


class Wav:
  """The sound of a wav file, to be read from its beginning.

  sample_rate, channels, and `samples` (of each channel) as the header says.
  """

  def __init__(self, f):
    self._file = f
    riff, _, wave = struct.unpack('<4sI4s', self._bytes(12))
    if (riff, wave) != (b'RIFF', b'WAVE'):
      raise Error('not a wav file')
    layout, before = None, 0
    while True:
      name, size = struct.unpack('<4sI', self._bytes(8))
      if name == b'data':
        break
      before += size
      if before > _MOST_BEFORE:
        raise Error('wav file without sound')
      content = self._bytes(size + size % 2)
      if name == b'fmt ':
        if size < 16:
          raise Error('wav file with a broken header')
        layout = struct.unpack('<HHIIHH', content[:16])
        if layout[0] == _EXTENSIBLE and size >= 26:
          layout = struct.unpack('<H', content[24:26]) + layout[1:]
    if layout is None:
      raise Error('wav file with a broken header')
    kind, self.channels, self.sample_rate, _, frame, bits = layout
    self._dtype = _DTYPES.get((kind, bits))
    if self._dtype is None:
      raise Error('wav file of neither 16-bit integers nor 32-bit floats')
    if not self.channels or frame != self.channels * self._dtype.itemsize:
      raise Error('wav file with a broken header')
    self._frame, self._left = frame, size // frame
    self.samples = self._left

  def read(self, samples: int) -> np.ndarray:
    """The next samples, float32 [N, channels]; fewer at the end."""
    samples = min(samples, self._left)
    data = np.frombuffer(self._bytes(samples * self._frame), self._dtype)
    self._left -= samples
    data = data.reshape(samples, self.channels)
    if data.dtype.kind == 'i':
      return data.astype(np.float32) / 32768
    if not np.isfinite(data).all():
      raise Error('wav file with samples that are NaN or infinite')
    return data

  def _bytes(self, count):
    data = self._file.read(count)
    if len(data) < count:
      raise Error('wav file that is shorter than its header says')
    return data
