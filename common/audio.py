"""Sound: files, encoded bytes, and notes made audible."""

import io
import os
import pathlib
import subprocess
import tempfile

import numpy as np
import soundfile
import soxr

from common import errors, files, midi, synth

# What an mp3 can hold; `encode` resamples other rates up to the next one.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_BLOCK = 1 << 16  # libsndfile's lossy encoders overflow the stack on more.
_FLUIDSYNTH_RATES = (8000, 96000)
_FRAME, _HOP = 2048, 64  # Of loudness, as in TFDS's NSynth and DDSP.


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
  files.write(path, data)


def write_blocks(path, blocks, sample_rate: int) -> None:
  """As `write`, of blocks [N] that follow each other; memory holds one."""
  temporary = f'{path}.tmp'
  with (open(temporary, 'wb') as f,
        soundfile.SoundFile(f, 'w', sample_rate, 1, 'PCM_16', format='WAV'
                            ) as out):
    for block in blocks:
      out.write(_pcm16(_checked(block)))
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
  """A table of notes (`midi.NOTE`) as sound, float32 [N], peak below 1.

  By FluidSynth where $OSTINATO_SOUNDFONT names an .sf2 file, else by `synth`:
  what happens to be installed makes no difference.
  """
  if font := os.environ.get('OSTINATO_SOUNDFONT'):
    return _fluidsynth(notes, sample_rate, pathlib.Path(font))
  return synth.render(notes, sample_rate)


def loudness(audio, sample_rate: int) -> np.ndarray:
  """A-weighted level of [N] samples, float32 [ceil(N / 64)], in dB.

  Of frames of 2048 samples, not centred, zeros after the end; -120 or more. 0
  is a mean square of 1: a full-scale sine at 1 kHz has -3.01.
  """
  weight = 10 ** (_a_weighting(sample_rate) / 10)
  weight[1:-1] *= 2  # Bins that stand for negative frequencies, too.
  weight /= _FRAME * (_window()**2).sum()
  return _by_frame(audio, lambda power: 10 * np.log10(
      np.maximum(power @ weight, 1e-12)))


def mean_loudness(audio, sample_rate: int) -> np.ndarray:
  """`loudness/db` of TFDS's NSynth: the mean over frequencies of their dB.

  Frames as in `loudness`. A pure tone is near -120, however loud; noise
  between -1 and 1 near 0.
  """
  weight = _a_weighting(sample_rate) - 20.7
  return _by_frame(audio, lambda power: np.maximum(
      10 * np.log10(np.maximum(power, 1e-40)) + weight, -120).mean(1))


def _by_frame(audio, fn):
  """fn(power [T, F] of some frames) -> [T], of all frames."""
  audio = np.asarray(audio, np.float64)
  count = -(-len(audio) // _HOP)
  audio = np.pad(audio, (0, _FRAME + count * _HOP - len(audio)))
  frames = np.lib.stride_tricks.sliding_window_view(audio, _FRAME)[::_HOP]
  out = np.empty(count, np.float32)
  for i in range(0, count, 1024):  # 17 MB each.
    block = frames[i:min(i + 1024, count)] * _window()
    out[i:i + 1024] = fn(np.abs(np.fft.rfft(block))**2)
  return out


def _window():
  return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME) / _FRAME)  # Hann.


def _a_weighting(sample_rate):
  """dB of each bin (IEC 61672), not below -80, as librosa has it."""
  square = np.fft.rfftfreq(_FRAME, 1 / sample_rate)**2
  a, b, c, d = np.square([12194.217, 20.598997, 107.65265, 737.86223])
  gain = a * square**2 / ((square + a) * (square + b) * np.sqrt(
      (square + c) * (square + d)))
  return np.maximum(2 + 20 * np.log10(np.maximum(gain, 1e-9)), -80)


def _fluidsynth(notes, sample_rate, font):
  """Needs the program; it says 0 to the shell where it has failed, too."""
  with tempfile.TemporaryDirectory() as folder:
    out, song = os.path.join(folder, 'a.wav'), os.path.join(folder, 'a.mid')
    midi.write(song, notes)
    low, high = _FLUIDSYNTH_RATES
    try:
      with open(font, 'rb') as f:
        head = f.read(12)
      if (head[:4], head[8:]) != (b'RIFF', b'sfbk'):  # It would take another.
        raise errors.UserError(f'$OSTINATO_SOUNDFONT: {font} is not a '
                               'SoundFont 2 file; name another, or unset it')
      done = subprocess.run(
          ['fluidsynth', '-ni', '-q', '-r',
           str(min(max(sample_rate, low), high)), '-F', out, font, song],
          capture_output=True, text=True, errors='replace', check=False)
    except OSError as e:
      raise errors.UserError(
          '$OSTINATO_SOUNDFONT is set, which needs that file and the program '
          f'fluidsynth, but {e.filename}: {e.strerror}; install it or unset '
          'the variable') from None
    problems = [line for line in done.stderr.splitlines()
                if line.startswith('fluidsynth: error')]
    if done.returncode or problems or not os.path.exists(out):
      raise errors.UserError(
          f'fluidsynth could not play with $OSTINATO_SOUNDFONT={font}: '
          f'{"; ".join(problems) or f"status {done.returncode}"}; try another '
          'soundfont, or unset the variable')
    audio = read(out, sample_rate)
  peak = np.abs(audio).max()
  return audio * (0.9 / peak) if peak > 1e-3 else audio  # Silence has dither.


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
