"""Pictures of sound and of notes, as pixels and as PNG files.

Shapes: N samples, T steps of a roll, K tracks, H x W pixels of a picture. Time
runs to the right, frequency and pitch upwards.
"""

import struct
import zlib

import numpy as np

WIDTH = 640  # Of every spectrogram, and the least of a roll that has notes.
HEIGHT = 192
MAX_WIDTH = 1280  # A longer roll is pooled.
FLOOR_DB, CEILING_DB = -90.0, -10.0  # 0 dB: a sine of amplitude 1.

# Equal steps of CIE lightness, from 5 to 95: twice as bright is twice as loud.
_ANCHORS = np.array([
    (17, 16, 30), (51, 45, 93), (116, 63, 135), (191, 83, 132), (245, 131, 99),
    (248, 194, 117), (250, 241, 205)], np.float64)
COLOUR_MAP = np.stack([
    np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(_ANCHORS)), c)
    for c in _ANCHORS.T], -1).round().astype(np.uint8)  # [256, 3]
NOT_FINITE = np.array((110, 120, 120), np.uint8)  # A grey that is not in it.

# Of tracks, in order: blue, orange, green, pink, yellow, violet, cyan, grey.
TRACKS = np.array([
    (96, 165, 250), (251, 146, 60), (74, 222, 128), (244, 114, 182),
    (250, 204, 21), (167, 139, 250), (45, 212, 220), (190, 190, 200)],
    np.float64)
_WHITE_KEY, _BLACK_KEY = np.array([(30, 29, 46), (22, 21, 36)], np.float64)


def png(rgb) -> bytes:  # uint8 [H, W, 3]
  rgb = np.asarray(rgb, np.uint8)
  packed = rgb @ np.array([1 << 16, 1 << 8, 1], np.uint32)
  colours = np.unique(packed)
  if len(colours) <= 256:  # As indices: half the size and half the time.
    kind = 3
    pixels = np.searchsorted(colours, packed).astype(np.uint8)
    palette = colours[:, None] >> np.array([16, 8, 0], np.uint32)
    extra = _chunk(b'PLTE', palette.astype(np.uint8).tobytes())
  else:
    kind, pixels, extra = 2, rgb.reshape(len(rgb), -1), b''
  header = struct.pack(
      '>IIBBBBB', rgb.shape[1], rgb.shape[0], 8, kind, 0, 0, 0)
  rows = np.pad(pixels, ((0, 0), (1, 0)))  # Each row's filter: 0, none.
  return (b'\x89PNG\r\n\x1a\n' + _chunk(b'IHDR', header) + extra
          + _chunk(b'IDAT', zlib.compress(rows.tobytes(), 6))
          + _chunk(b'IEND', b''))


def spectrogram(audio, sample_rate: int) -> np.ndarray:
  """Mel spectrogram from 0 Hz to half the sample rate: uint8 [192, 640, 3].

  Any length fills the same width, and none is silence. Where a window holds a
  NaN or an infinity its column is grey.
  """
  audio = np.asarray(audio, np.float32)
  if audio.ndim != 1:
    raise ValueError(f'audio of shape {audio.shape} is not [N]')
  hop = len(audio) / WIDTH
  n_fft = 1 << int(np.ceil(np.log2(max(0.05 * sample_rate, hop, 16))))
  starts = ((np.arange(WIDTH) + 0.5) * hop).astype(int)  # Frames are centred.
  padded = np.pad(audio, n_fft // 2)
  frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[starts]
  bad = ~np.isfinite(frames).all(1)  # [W]
  window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
  window *= 2 / window.sum()  # A sine of amplitude 1 peaks at 1.
  # Clipped, as in the file that is heard.
  frames = np.where(bad[:, None], 0, frames).clip(-1, 1) * window
  power = np.abs(np.fft.rfft(frames)) ** 2  # [W, n_fft / 2 + 1]
  level = 10 * np.log10(power @ _mel_bands(n_fft, sample_rate) + 1e-12)
  shade = (level - FLOOR_DB) / (CEILING_DB - FLOOR_DB)
  rgb = COLOUR_MAP[(255 * np.clip(shade, 0, 1)).round().astype(int)]
  rgb[bad] = NOT_FINITE
  return rgb.transpose(1, 0, 2)[::-1]


def codes(codes) -> np.ndarray:  # [T, F] -> uint8 [H, W, 3]
  """A map of codes: a colour for each, neighbours in number far apart."""
  colours = COLOUR_MAP[np.asarray(codes).T[::-1] * 97 % len(COLOUR_MAP)]
  size = max(1, HEIGHT // len(colours))
  return colours.repeat(size, 0).repeat(size, 1)


def roll(roll) -> np.ndarray:
  """Piano roll [T, 128, K] -> uint8 [H, W, 3], cropped to what sounds.

  A colour per track, the loudest where tracks meet; brightness is velocity:
  up to 127 in whole numbers, up to 1 in floats, on or off in booleans and
  where there is only 0 and 1. Rows of black keys are darker. Cells that are
  NaN or infinite are grey.
  """
  roll = np.asarray(roll)
  if roll.ndim != 3 or roll.shape[1] != 128 or not roll.shape[2]:
    raise ValueError(f'roll of shape {roll.shape} is not [T, 128, K]')
  scale = 127 if roll.dtype.kind in 'iu' and roll.max(initial=0) > 1 else 1
  velocity = roll.astype(np.float32) / scale
  if not len(velocity):
    velocity = np.zeros((1,) + roll.shape[1:], np.float32)
  pool = -(-len(velocity) // MAX_WIDTH)
  # Of `pool` steps the loudest; a NaN stays one.
  velocity = np.maximum.reduceat(velocity, np.arange(0, len(velocity), pool))
  bad = ~np.isfinite(velocity).all(-1)  # [T, 128]
  velocity = np.where(np.isfinite(velocity), velocity, 0).clip(0, 1)

  sounding = np.flatnonzero(velocity.any((0, 2)) | bad.any(0))
  low, high = (sounding[0], sounding[-1]) if len(sounding) else (60, 60)
  middle = (low + high) // 2  # Two octaves at least.
  low, high = max(0, min(low - 2, middle - 12)), max(high + 2, middle + 12)
  keys = np.arange(low, min(high, 127) + 1)
  velocity, bad = velocity[:, keys], bad[:, keys]  # [T, P, K], [T, P]

  black = np.isin(keys % 12, (1, 3, 6, 8, 10))[:, None]  # [P, 1]
  paper = np.where(black, _BLACK_KEY, _WHITE_KEY)  # [P, 3]
  ink = TRACKS[velocity.argmax(-1) % len(TRACKS)]  # [T, P, 3]
  loudness = velocity.max(-1)[..., None]
  # The softest note is still seen.
  alpha = np.where(loudness > 0, 0.35 + 0.65 * loudness, 0)
  rgb = (paper + alpha * (ink - paper)).round().astype(np.uint8)
  rgb[bad] = NOT_FINITE
  wide = -(-WIDTH // len(rgb))
  tall = min(8, max(2, HEIGHT // len(keys)))
  return rgb.transpose(1, 0, 2)[::-1].repeat(tall, 0).repeat(wide, 1)


def _chunk(name, data) -> bytes:
  return (struct.pack('>I', len(data)) + name + data
          + struct.pack('>I', zlib.crc32(name + data)))


def _mel_bands(n_fft, sample_rate) -> np.ndarray:  # [n_fft / 2 + 1, H]
  """Triangles that meet at half height; where bins are sparser, in between."""
  mel = lambda hertz: 2595 * np.log10(1 + hertz / 700)
  centres = 700 * (10 ** (
      np.linspace(0, mel(sample_rate / 2), HEIGHT) / 2595) - 1)
  bin_hertz = sample_rate / n_fft
  widths = np.maximum(np.gradient(centres), bin_hertz)
  bins = np.arange(n_fft // 2 + 1) * bin_hertz
  bands = np.maximum(0, 1 - np.abs(bins[:, None] - centres) / widths)
  return (bands / bands.sum(0)).astype(np.float32)
