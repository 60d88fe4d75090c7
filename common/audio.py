"""Sound: files, encoded bytes, and notes made audible."""

import io
import os

import numpy as np
import soundfile
import soxr

from common import errors, synth

# What an mp3 can hold; `encode` resamples other rates up to the next one.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_BLOCK = 1 << 16  # libsndfile's lossy encoders overflow the stack on more.


def read(path, sample_rate: int) -> np.ndarray:
  """Any sound file as float32 [N]: mean of its channels, resampled."""
  if not os.path.isfile(path):
    raise errors.UserError(f'sound file {path} does not exist')
  try:
    # At once: piece by piece, soundfile seeks, and an mp3 does not decode well
    # after that.
    audio, rate = soundfile.read(path, dtype='float32', always_2d=True)
  except (soundfile.LibsndfileError, OSError, MemoryError, ValueError) as e:
    raise errors.UserError(
        f'{path} cannot be read as sound ({str(e).rstrip(".")}); use wav, '
        'flac, ogg or mp3') from None
  if not 1000 <= rate <= 1_000_000:
    raise errors.UserError(f'{path} has a sample rate of {rate} Hz; use one '
                           'from 1000 to 1000000')
  if not len(audio):
    raise errors.UserError(f'{path} has no samples; leave it out')
  audio = audio.mean(1)
  if not np.isfinite(audio).all():
    raise errors.UserError(
        f'{path} has samples that are NaN or infinite; export it again')
  if rate != sample_rate:
    audio = soxr.resample(audio, rate, sample_rate)
  return audio


def write(path, audio, sample_rate: int) -> None:
  """A mono 16-bit wav file; what is beyond [-1, 1] is clipped."""
  data = _encode(_pcm16(_checked(audio)), sample_rate, 'WAV', 'PCM_16')
  temporary = f'{path}.tmp'
  with open(temporary, 'wb') as f:
    f.write(data)
  os.replace(temporary, path)


def encode(audio, sample_rate: int, format: str) -> bytes:
  """`audio` [N] as the bytes of a 'wav', 'flac' (16 bit) or 'mp3' file."""
  audio = _checked(audio)
  if format in ('wav', 'flac'):
    return _encode(_pcm16(audio), sample_rate, format.upper(), 'PCM_16')
  if format != 'mp3':
    raise ValueError(f"format is 'wav', 'flac' or 'mp3', not {format!r}")
  rate = next((r for r in _MP3_RATES if r >= sample_rate), _MP3_RATES[-1])
  if rate != sample_rate:
    audio = soxr.resample(audio, sample_rate, rate)
  return _encode(audio, rate, 'MP3', 'MPEG_LAYER_III')


def synthesize(notes: np.ndarray, sample_rate: int) -> np.ndarray:
  """A table of notes (`midi.NOTE`) as sound, float32 [N], peak below 1."""
  return synth.render(notes, sample_rate)


def _checked(audio):
  audio = np.asarray(audio, np.float32)
  if audio.ndim != 1:
    raise ValueError(f'audio has shape [N], not {list(audio.shape)}')
  if not np.isfinite(audio).all():
    raise ValueError('audio has samples that are NaN or infinite')
  return np.clip(audio, -1.0, 1.0)


def _pcm16(audio):
  # The scale of `read`, so that what came from 16 bits returns to the same.
  return np.clip(np.round(audio * 32768), -32768, 32767).astype(np.int16)


def _encode(audio, sample_rate, format, subtype):
  out = io.BytesIO()
  with soundfile.SoundFile(out, 'w', sample_rate, 1, subtype,
                           format=format) as f:
    for i in range(0, len(audio), _BLOCK):
      f.write(audio[i:i + _BLOCK])
  return out.getvalue()
