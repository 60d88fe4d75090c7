import struct
import zlib

import numpy as np
import pytest

from common import image


def decode(data):
  """A PNG read by the standard (RFC 2083), for 8 bits without filters."""
  assert data[:8] == b'\x89PNG\r\n\x1a\n'
  chunks, at = [], 8
  while at < len(data):
    size, = struct.unpack('>I', data[at:at + 4])
    name, body = data[at + 4:at + 8], data[at + 8:at + 8 + size]
    crc, = struct.unpack('>I', data[at + 8 + size:at + 12 + size])
    assert crc == zlib.crc32(name + body)
    chunks.append((name, body))
    at += 12 + size
  names = [name for name, _ in chunks]
  parts = dict(chunks)
  width, height, depth, kind, *rest = struct.unpack('>IIBBBBB', parts[b'IHDR'])
  assert (depth, rest) == (8, [0, 0, 0])
  rows = np.frombuffer(zlib.decompress(parts[b'IDAT']), np.uint8)
  rows = rows.reshape(height, -1)
  assert not rows[:, 0].any()
  if kind == 3:
    assert names == [b'IHDR', b'PLTE', b'IDAT', b'IEND']
    rgb = np.frombuffer(parts[b'PLTE'], np.uint8).reshape(-1, 3)[rows[:, 1:]]
  else:
    assert kind == 2 and names == [b'IHDR', b'IDAT', b'IEND']
    rgb = rows[:, 1:].reshape(height, width, 3)
  assert rgb.shape == (height, width, 3)
  return rgb


def lightness(rgb):
  """CIE L* of sRGB, 0 to 100."""
  c = np.asarray(rgb, np.float64) / 255
  c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
  y = c @ [0.2126, 0.7152, 0.0722]
  return np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27)


@pytest.mark.parametrize('colours', [1, 2, 256, 257, 5000])
def test_png_holds_the_pixels(colours):
  rng = np.random.default_rng(0)
  # Distinct: a multiple of an odd number, modulo 2^24.
  packed = np.arange(colours) * 9_999_991 % (1 << 24)
  pixels = packed[rng.permutation(np.arange(7000) % colours)].reshape(70, 100)
  rgb = (pixels[..., None] >> np.array([16, 8, 0]) & 255).astype(np.uint8)
  np.testing.assert_array_equal(decode(image.png(rgb)), rgb)


def test_colour_map_rises_evenly_in_lightness():
  levels = lightness(image.COLOUR_MAP)
  np.testing.assert_allclose(levels, np.linspace(5, 95, 256), atol=2.5)
  assert (np.diff(levels) > 0).all()


@pytest.mark.parametrize('hertz', [100.0, 440.0, 3000.0, 7000.0])
@pytest.mark.parametrize('seconds', [0.5, 4.0, 60.0])
def test_ridge_of_a_tone_is_at_its_mel_frequency(hertz, seconds):
  time = np.arange(int(seconds * 16000)) / 16000
  rgb = image.spectrogram(0.5 * np.sin(2 * np.pi * hertz * time), 16000)
  rows = lightness(rgb[:, 50:-50]).argmax(0)
  mel = lambda f: 2595 * np.log10(1 + f / 700)
  expected = (image.HEIGHT - 1) * (1 - mel(hertz) / mel(8000))
  np.testing.assert_allclose(rows, expected, atol=1.0)


def test_twenty_decibels_are_a_quarter_of_the_colour_map():
  time = np.arange(16000) / 16000
  tone = np.sin(2 * np.pi * 1000 * time)
  peaks = [lightness(image.spectrogram(gain * tone, 16000)).max()
           for gain in (1e-1, 1e-2, 1e-3)]
  np.testing.assert_allclose(np.diff(peaks), -90 * 20 / 80, atol=3)


def test_an_onset_is_at_its_time():
  audio = np.zeros(64000, np.float32)
  audio[48000:] = np.random.default_rng(0).standard_normal(16000) * 0.1
  energy = lightness(image.spectrogram(audio, 16000)).mean(0)
  onset = (energy > energy.max() / 2).argmax()
  # Half a window, 32 ms, is 5 columns here.
  assert abs(onset - 0.75 * image.WIDTH) <= 5


def test_frequencies_above_half_the_rate_are_not_shown():
  time = np.arange(8000) / 8000
  rgb = image.spectrogram(np.sin(2 * np.pi * 3900 * time), 8000)
  assert lightness(rgb[:, 300]).argmax() < 4


@pytest.mark.parametrize('length', [0, 1, 100])
def test_silence_of_any_length_is_a_dark_picture(length):
  rgb = image.spectrogram(np.zeros(length), 16000)
  assert rgb.shape == (image.HEIGHT, image.WIDTH, 3)
  assert (rgb == image.COLOUR_MAP[0]).all()


def test_columns_that_hold_nan_are_grey_and_others_are_not():
  audio = np.zeros(64000, np.float32)
  audio[32000] = np.nan
  grey = (image.spectrogram(audio, 16000) == image.NOT_FINITE).all(-1)
  np.testing.assert_array_equal(grey.any(0), grey.all(0))
  columns = np.flatnonzero(grey.any(0))
  # A window of 1024 samples touches it from 10 columns of 100 samples.
  assert 10 <= len(columns) <= 11
  assert abs(columns.mean() - 320) < 1


def test_audio_beyond_one_is_shown_clipped():
  loud = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
  np.testing.assert_array_equal(
      image.spectrogram(1e30 * loud, 16000),
      image.spectrogram(np.sign(loud), 16000))


def test_audio_that_is_not_mono_is_refused():
  with pytest.raises(ValueError, match='not \\[N\\]'):
    image.spectrogram(np.zeros((2, 100)), 16000)


def test_roll_shows_each_track_in_its_colour_high_notes_on_top():
  roll = np.zeros((10, 128, 2), bool)
  roll[0:2, 60, 0] = True
  roll[5:8, 72, 1] = True
  rgb = image.roll(roll)
  wide = rgb.shape[1] // 10
  first = (rgb == image.TRACKS[0].astype(np.uint8)).all(-1)
  second = (rgb == image.TRACKS[1].astype(np.uint8)).all(-1)
  np.testing.assert_array_equal(
      np.flatnonzero(first.any(0)), np.arange(0, 2 * wide))
  np.testing.assert_array_equal(
      np.flatnonzero(second.any(0)), np.arange(5 * wide, 8 * wide))
  assert np.flatnonzero(second.any(1)).max() < np.flatnonzero(
      first.any(1)).min()


def test_roll_is_cropped_to_two_octaves_around_what_sounds():
  roll = np.zeros((4, 128, 1), np.uint8)
  roll[:, 0] = roll[:, 127] = 100
  assert image.roll(roll).shape[0] == 128 * 2
  roll[:, 127] = 0
  assert image.roll(roll).shape[0] == 13 * 8  # Keys 0 to 12.
  roll[:, 0], roll[:, 60] = 0, 100
  assert image.roll(roll).shape[0] == 25 * 7  # Keys 48 to 72.


def test_velocity_is_brightness_and_the_softest_note_is_seen():
  velocities = np.array([1, 40, 80, 127])
  roll = np.zeros((4, 128, 1), np.uint8)
  roll[np.arange(4), 60, 0] = velocities
  rgb = image.roll(roll)
  levels = lightness(rgb).max(0)[::rgb.shape[1] // 4]
  assert (np.diff(levels) > 5).all()
  assert levels[0] > lightness(image.roll(0 * roll)).max() + 10


def test_whole_numbers_zero_and_one_are_off_and_on():
  on = np.random.default_rng(0).random((16, 128, 3)) < 0.1
  np.testing.assert_array_equal(
      image.roll(on.astype(np.uint8)), image.roll(on))
  np.testing.assert_array_equal(
      image.roll(on.astype(np.float32)), image.roll(on))


def test_the_louder_track_covers_the_softer():
  roll = np.zeros((1, 128, 2), np.uint8)
  roll[0, 60] = 50, 127
  colours = image.roll(roll).reshape(-1, 3)
  assert (colours == image.TRACKS[1].astype(np.uint8)).all(-1).any()


def test_no_short_note_of_a_long_roll_is_lost():
  roll = np.zeros((10 * image.MAX_WIDTH + 3, 128, 1), bool)
  roll[7777, 60] = roll[-1, 60] = True
  rgb = image.roll(roll)
  assert rgb.shape[1] <= image.MAX_WIDTH
  lit = (rgb == image.TRACKS[0].astype(np.uint8)).all(-1).any(0)
  # 11 steps a column.
  np.testing.assert_array_equal(
      np.flatnonzero(lit), [7777 // 11, (len(roll) - 1) // 11])


def test_nan_in_a_roll_is_grey():
  roll = np.zeros((8, 128, 1), np.float32)
  roll[3, 64] = np.nan
  rgb = image.roll(roll)
  grey = (rgb == image.NOT_FINITE).all(-1)
  wide = rgb.shape[1] // 8
  np.testing.assert_array_equal(
      np.flatnonzero(grey.any(0)), np.arange(3 * wide, 4 * wide))


@pytest.mark.parametrize('steps', [0, 1, 5])
def test_an_empty_roll_is_an_empty_picture(steps):
  rgb = image.roll(np.zeros((steps, 128, 4), np.uint8))
  assert rgb.shape[1] >= image.WIDTH
  assert lightness(rgb).max() < 15
  decode(image.png(rgb))


@pytest.mark.parametrize('shape', [(4, 128), (4, 88, 1), (4, 128, 0)])
def test_what_is_no_roll_is_refused(shape):
  with pytest.raises(ValueError, match='not \\[T, 128, K\\]'):
    image.roll(np.zeros(shape))
