import io
import struct

import numpy as np
import pytest
import soundfile

from common.data import wav


class Stream:
  """A file that only goes forward, as a member of a tar.gz does."""

  def __init__(self, data):
    self._file = io.BytesIO(data)

  def read(self, count):
    return self._file.read(count)


def wav_bytes(samples, kind=3, rate=44100, channels=1, before=b'', **header):
  """Every field of the header as told, right or wrong."""
  data = samples.tobytes()
  width = samples.dtype.itemsize
  fields = {'frame': channels * width, 'bits': 8 * width, 'size': len(data),
            **header}
  fmt = struct.pack('<HHIIHH', kind, channels, rate, rate * fields['frame'],
                    fields['frame'], fields['bits'])
  body = (b'WAVE' + before + b'fmt ' + struct.pack('<I', len(fmt)) + fmt
          + b'data' + struct.pack('<I', fields['size']) + data)
  return b'RIFF' + struct.pack('<I', len(body)) + body


def read(data):
  f = wav.Wav(Stream(data))
  return f.read(f.samples)


@pytest.mark.parametrize('subtype, dtype', [('PCM_16', np.int16),
                                            ('FLOAT', np.float32)])
@pytest.mark.parametrize('format', ['WAV', 'WAVEX'])
@pytest.mark.parametrize('channels', [1, 2])
def test_what_libsndfile_writes_is_read_bit_by_bit(
    subtype, dtype, format, channels):
  audio = np.random.default_rng(0).uniform(-1, 1, (1000, channels))
  out = io.BytesIO()
  soundfile.write(out, audio, 16000, subtype, format=format)
  f = wav.Wav(Stream(out.getvalue()))
  assert (f.sample_rate, f.channels, f.samples) == (16000, channels, 1000)
  got = f.read(1000)
  assert got.dtype == np.float32
  out.seek(0)
  expected, _ = soundfile.read(out, dtype='float32', always_2d=True)
  np.testing.assert_array_equal(got, expected)


def test_it_is_read_in_pieces():
  samples = np.arange(10, dtype='<f4')
  f = wav.Wav(Stream(wav_bytes(samples)))
  pieces = [f.read(4)[:, 0].tolist() for _ in range(4)]
  assert pieces == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], []]


def test_chunks_before_the_sound_are_passed_over():
  odd = b'LIST' + struct.pack('<I', 5) + b'notes\0'  # Padded to be even.
  samples = np.arange(3, dtype='<i2')
  got = read(wav_bytes(samples, kind=1, before=odd))
  np.testing.assert_array_equal(got[:, 0] * 32768, samples)


FLOATS = np.arange(100, dtype='<f4')


@pytest.mark.parametrize('data, message', [
    (b'', 'shorter'), (b'RIFF', 'shorter'), (bytes(100), 'not a wav'),
    (wav_bytes(FLOATS)[:-1], 'shorter'), (wav_bytes(FLOATS)[:40], 'shorter'),
    (wav_bytes(FLOATS, size=404), 'shorter'),
    (wav_bytes(FLOATS, size=0xFFFFFFFF), 'shorter'),
    (wav_bytes(FLOATS, kind=1), 'neither'),
    (wav_bytes(FLOATS, kind=85), 'neither'),
    (wav_bytes(FLOATS, bits=64, frame=8), 'neither'),
    (wav_bytes(FLOATS, channels=0), 'broken header'),
    (wav_bytes(FLOATS, channels=0, frame=4), 'broken header'),
    (wav_bytes(FLOATS, frame=1), 'broken header'),
    (wav_bytes(FLOATS, before=b'JUNK\xff\xff\xff\x7f'), 'without sound'),
    (wav_bytes(FLOATS, before=b'fmt \x04\0\0\0\1\0\1\0'), 'broken header'),
    (wav_bytes(FLOATS, before=b'data\x04\0\0\0\1\0\1\0'), 'broken header'),
    (wav_bytes(np.float32([0, np.inf, 0])), 'NaN or infinite'),
], ids=range(17))
def test_a_lying_header_is_an_error(data, message):
  with pytest.raises(wav.Error, match=message):
    read(data)


def test_a_file_of_no_samples_is_empty():
  assert read(wav_bytes(FLOATS[:0])).shape == (0, 1)
