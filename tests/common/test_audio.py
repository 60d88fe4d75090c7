import sys
import time

import numpy as np
import pytest
import soundfile

from common import audio, errors, midi, synth

RATE = 16000


@pytest.fixture(autouse=True)
def no_soundfont(monkeypatch):
  monkeypatch.delenv('OSTINATO_SOUNDFONT', raising=False)


def sine(hz, rate=RATE, seconds=1.0):
  t = np.arange(int(seconds * rate)) / rate
  return (0.5 * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def song(seconds=120, seed=0):
  """Eight notes a second on ten instruments and drums."""
  rng = np.random.default_rng(seed)
  notes = np.zeros(8 * seconds, midi.NOTE)
  notes['start_s'] = np.arange(len(notes)) / 8
  notes['end_s'] = notes['start_s'] + rng.uniform(0.1, 1.0, len(notes))
  notes['pitch'] = rng.integers(30, 90, len(notes))
  notes['velocity'] = rng.integers(1, 128, len(notes))
  notes['program'] = 13 * rng.integers(10, size=len(notes))
  notes['is_drum'] = rng.random(len(notes)) < 0.3
  return notes


def test_wav_keeps_16_bits_exactly(tmp_path):
  x = np.random.default_rng(0).integers(-32768, 32768, 5000) / 32768
  audio.write(tmp_path / 'a.wav', x, RATE)
  np.testing.assert_array_equal(audio.read(tmp_path / 'a.wav', RATE), x)
  info = soundfile.info(tmp_path / 'a.wav')
  assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, 'PCM_16')


def test_what_is_too_loud_is_clipped(tmp_path):
  audio.write(tmp_path / 'a.wav', np.array([2.0, -2.0, 1.0]), RATE)
  np.testing.assert_allclose(audio.read(tmp_path / 'a.wav', RATE), [1, -1, 1],
                             atol=2**-15)


def test_blocks_make_the_file_that_their_whole_makes(tmp_path):
  x = 1.2 * np.random.default_rng(0).uniform(-1, 1, 5000)
  audio.write(tmp_path / 'a.wav', x, RATE)
  audio.write_blocks(tmp_path / 'b.wav', iter(np.split(x, [1, 1700, 1700])),
                     RATE)
  a, b = (soundfile.read(tmp_path / name)[0] for name in ('a.wav', 'b.wav'))
  np.testing.assert_array_equal(a, b)
  assert not list(tmp_path.glob('*.tmp'))


def test_reading_resamples_and_takes_the_mean_of_channels(tmp_path):
  left = sine(440, 44100)
  soundfile.write(tmp_path / 'a.flac', np.stack([left, 0 * left], 1), 44100)
  got = audio.read(tmp_path / 'a.flac', RATE)
  assert got.dtype == np.float32 and got.shape == (RATE,)
  np.testing.assert_allclose(got[200:-200], sine(440)[200:-200] / 2, atol=2e-4)


def test_flac_is_lossless_at_16_bits(tmp_path):
  x = sine(440)
  (tmp_path / 'a.flac').write_bytes(audio.encode(x, RATE, 'flac'))
  np.testing.assert_allclose(audio.read(tmp_path / 'a.flac', RATE), x,
                             rtol=0, atol=2**-16)


@pytest.mark.parametrize('rate', [16000, 14000])  # mp3 has no 14 kHz.
def test_mp3_sounds_like_its_source(tmp_path, rate):
  x = sine(440, rate, 20.0)  # Longer than one block.
  (tmp_path / 'a.mp3').write_bytes(audio.encode(x, rate, 'mp3'))
  got = audio.read(tmp_path / 'a.mp3', rate)
  assert abs(len(got) - len(x)) < 0.2 * rate
  spectrum = np.abs(np.fft.rfft(got[:rate]))  # One bin a hertz.
  assert spectrum.argmax() == 440
  assert (spectrum[438:443]**2).sum() > 0.99 * (spectrum**2).sum()
  assert np.abs(got).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize('write, sentence', [
    (lambda p: None, 'does not exist'),
    (lambda p: p.write_text('words'), 'cannot be read as sound'),
    (lambda p: p.write_bytes(b''), 'cannot be read as sound'),
    (lambda p: soundfile.write(p, np.zeros(0), RATE), 'has no samples'),
    (lambda p: soundfile.write(p, np.array([0, np.nan]), RATE, 'FLOAT'),
     'NaN or infinite'),
    (lambda p: soundfile.write(p, np.zeros(9), 3), 'a sample rate of 3 Hz'),
])
def test_a_bad_file_gets_one_clear_sentence(tmp_path, write, sentence):
  path = tmp_path / 'sound.wav'
  write(path)
  with pytest.raises(errors.UserError, match=rf'sound\.wav .*{sentence}'):
    audio.read(path, RATE)


def test_a_header_that_claims_too_much_does_no_harm(tmp_path):
  soundfile.write(tmp_path / 'a.flac', sine(440), RATE)
  data = bytearray((tmp_path / 'a.flac').read_bytes())
  data[21] |= 0x0f  # The high bits of the number of samples.
  (tmp_path / 'a.flac').write_bytes(data)
  assert soundfile.info(tmp_path / 'a.flac').frames > 1 << 35
  try:
    assert len(audio.read(tmp_path / 'a.flac', RATE)) < 2 * RATE
  except errors.UserError as e:
    assert 'a.flac cannot be read as sound' in str(e)


def test_sound_that_is_not_finite_is_not_written(tmp_path):
  with pytest.raises(ValueError, match='NaN'):
    audio.write(tmp_path / 'a.wav', np.array([np.nan]), RATE)
  with pytest.raises(ValueError, match=r'\[N\], not \[2, 5\]'):
    audio.encode(np.zeros((2, 5)), RATE, 'flac')
  assert not any(tmp_path.iterdir())


def test_a_song_never_clips_and_is_the_same_each_time():
  notes = song(20)
  x = audio.synthesize(notes, RATE)
  assert x.dtype == np.float32 and np.isfinite(x).all()
  assert np.abs(x).max() == pytest.approx(0.9)
  np.testing.assert_array_equal(x, audio.synthesize(notes, RATE))


def test_two_minutes_take_no_minutes():
  notes = song(120)
  begin = time.process_time()  # Half a second on a free core.
  x = audio.synthesize(notes, RATE)
  assert time.process_time() - begin < 5.0
  assert len(x) / RATE == pytest.approx(notes['end_s'].max() + synth.TAIL_S,
                                        abs=1e-3)


def test_every_program_and_drum_plays_every_pitch():
  notes = np.zeros(2 * 128, midi.NOTE)
  notes['start_s'] = np.arange(256) / 100
  notes['end_s'] = notes['start_s'] + 0.02
  notes['pitch'] = np.arange(256) % 128
  notes['program'], notes['velocity'] = np.arange(256) * 29 % 128, 90
  notes['is_drum'] = np.arange(256) >= 128
  assert np.isfinite(audio.synthesize(notes, 8000)).all()


def test_no_notes_are_silence():
  x = audio.synthesize(np.empty(0, midi.NOTE), RATE)
  assert len(x) and not x.any()


@pytest.mark.parametrize('program', [0, 12, 19, 25, 33, 40, 52, 60, 71, 73,
                                     81, 105])
def test_notes_begin_when_they_should_and_end(program):
  notes = np.array([(0.5, 1.0, 57, 100, program, False)], midi.NOTE)
  x = audio.synthesize(notes, RATE)
  assert not x[:RATE // 2].any()
  onset = x[RATE // 2:]
  loud = np.abs(onset) > 0.25 * np.abs(onset).max()
  assert loud.argmax() < 0.12 * RATE
  assert np.abs(x[-10:]).max() < 1e-3
  spectrum = np.abs(np.fft.rfft(x[9600:14400], 1 << 18))
  hz = np.fft.rfftfreq(1 << 18, 1 / RATE)
  near = np.abs(hz - 220) < 6
  peak = hz[near][spectrum[near].argmax()]
  assert abs(1200 * np.log2(peak / 220)) < 12  # Vibrato has a mean.


def test_louder_notes_are_brighter():
  for _, kinds in synth.FAMILIES.items():
    for _, voice in kinds:
      soft, loud = (centroid(voice.tone(57, velocity, 0.5, 0.7, RATE,
                                        np.random.default_rng(0)))
                    for velocity in (30, 120))
      assert loud > soft or (
          isinstance(voice, synth.Held) and voice.drawbars)


def centroid(x):
  power = np.abs(np.fft.rfft(x))**2
  return (power * np.arange(len(power))).sum() / power.sum()


def test_a_flac_that_leaves_its_length_open_is_refused(tmp_path):
  data = bytearray(audio.encode(np.zeros(1000, np.float32), 16000, 'flac'))
  data[21] &= 0xF0  # The 36 bits that count the samples: unknown, says FLAC.
  data[22:26] = bytes(4)
  (tmp_path / 'open.flac').write_bytes(data)
  with pytest.raises(errors.UserError, match='cannot be read as sound'):
    audio.read(tmp_path / 'open.flac', 16000)


def test_a_weighting_has_its_published_values():
  got = np.interp([20, 100, 440, 1000, 2500, 8000],
                  np.fft.rfftfreq(2048, 1 / 20480), audio._a_weighting(20480))
  np.testing.assert_allclose(  # 10 Hz a bin: each is one.
      got, [-50.390085, -19.142432, -4.094556, 0.000344, 1.271013, -1.146782],
      rtol=0, atol=2e-6)


def test_loudness_of_a_sine_is_its_mean_square():
  for gain, expected in ((1.0, -3.0103), (0.1, -23.0103)):
    got = audio.loudness(gain * 2 * sine(1000, seconds=4), RATE)
    assert got.shape == (1000,) and got.dtype == np.float32
    # The last 31 frames go beyond the end of the sound.
    np.testing.assert_allclose(got[:969], expected, atol=2e-3)
    assert (got[980:] < expected - 0.5).all()
  for hz, weight in ((440, -4.0946), (2500, 1.2710), (8000, -1.1468)):
    got = audio.loudness(2 * sine(hz, 44100), 44100)[:600]
    np.testing.assert_allclose(got, -3.0103 + weight, atol=0.05)


def test_loudness_adds_up_over_sounds_and_silence_has_a_floor():
  a, b = 2 * sine(1000, seconds=4), 2 * sine(2500, seconds=4)
  got = audio.loudness(a + b, RATE)[:969].mean()
  assert got == pytest.approx(  # Powers of the two.
      10 * np.log10((10 ** 0.0000344 + 10 ** 0.1271013) / 2), abs=0.01)
  for measure in (audio.loudness, audio.mean_loudness):
    np.testing.assert_array_equal(measure(np.zeros(200), RATE), [-120] * 4)
    assert measure(np.zeros(0), RATE).shape == (0,)


def test_mean_loudness_is_that_of_tfds():
  tone = np.sin(2 * np.pi * 1000 * np.arange(64000) / RATE)
  got = audio.mean_loudness(tone, RATE)
  assert got.shape == (1000,)
  np.testing.assert_allclose(got[[0, 500, 999]],
                             [-119.5625, -119.5625, -70.2330], atol=1e-3)
  noise = np.random.default_rng(0).uniform(-1, 1, 64000)
  got = audio.mean_loudness(noise, RATE)
  assert got[:969].mean() == pytest.approx(0.28, abs=0.03)
  assert got.mean() == pytest.approx(-0.03, abs=0.03)


# Plays a sine at the rate that it is asked for, in two channels.
FAKE = """#!{python}
import math, struct, sys, wave
args = sys.argv[1:]
assert args[:2] == ['-ni', '-q'] and args[2] == '-r' and args[4] == '-F', args
assert args[6].endswith('.sf2') and open(args[7], 'rb').read(4) == b'MThd'
rate = int(args[3])
assert 8000 <= rate <= 96000
tone = [int(9000 * math.sin(2 * math.pi * 440 * t / rate)) for t in range(rate)]
with wave.open(args[5], 'wb') as f:
  f.setparams((2, 2, rate, 0, 'NONE', ''))
  f.writeframes(b''.join(struct.pack('<2h', x, x) for x in tone))
"""


def fluidsynth(folder, monkeypatch, script=FAKE):
  program, font = folder / 'fluidsynth', folder / 'my.sf2'
  program.write_text(script.replace('{python}', sys.executable))
  program.chmod(0o755)
  font.write_bytes(b'RIFF\x04\0\0\0sfbk')
  monkeypatch.setenv('PATH', str(folder))
  monkeypatch.setenv('OSTINATO_SOUNDFONT', str(font))
  return font


@pytest.mark.parametrize('rate', [4000, 16000, 192000])
def test_a_soundfont_is_played_by_fluidsynth(tmp_path, monkeypatch, rate):
  fluidsynth(tmp_path, monkeypatch)
  got = audio.synthesize(song(2), rate)
  assert got.dtype == np.float32 and len(got) == pytest.approx(rate, abs=2)
  assert np.abs(got).max() == pytest.approx(0.9, abs=1e-3)
  assert np.abs(np.fft.rfft(got[:rate])).argmax() == 440


def test_fluidsynth_alone_changes_nothing(tmp_path, monkeypatch):
  expected = audio.synthesize(song(2), RATE)
  fluidsynth(tmp_path, monkeypatch)
  monkeypatch.delenv('OSTINATO_SOUNDFONT')
  np.testing.assert_array_equal(audio.synthesize(song(2), RATE), expected)


@pytest.mark.parametrize('spoil, sentence', [
    (lambda font: font.unlink(), r'my\.sf2: No such file'),
    (lambda font: font.write_text('words'), 'not a SoundFont 2 file'),
    (lambda font: (font.parent / 'fluidsynth').unlink(),
     'fluidsynth: No such file'),
    (lambda font: (font.parent / 'fluidsynth').write_text('#!/bin/sh\nexit 3'),
     'could not play .*status 3'),
    # As the real program does it: status 0, and no file or another font.
    (lambda font: (font.parent / 'fluidsynth').write_text('#!/bin/sh'),
     'could not play .*status 0'),
    (lambda font: (font.parent / 'fluidsynth').write_text(
        FAKE.replace('{python}', sys.executable)
        + "print('fluidsynth: error: bad font', file=sys.stderr)\n"),
     'could not play .*error: bad font'),
])
def test_what_fluidsynth_lacks_is_named(tmp_path, monkeypatch, spoil, sentence):
  spoil(fluidsynth(tmp_path, monkeypatch))
  with pytest.raises(errors.UserError, match=sentence) as e:
    audio.synthesize(song(2), RATE)
  assert 'OSTINATO_SOUNDFONT' in str(e.value) and 'unset' in str(e.value)
