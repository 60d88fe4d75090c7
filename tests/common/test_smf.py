import contextlib
import pathlib
import struct
import subprocess
import sys

import mido
import numpy as np
import pytest

from common import smf

ROOT = pathlib.Path(__file__).resolve().parents[2]

END = b'\x00\xff\x2f\x00'


def chunk(content, name=b'MTrk'):
  return name + struct.pack('>I', len(content)) + content


def file(*tracks, form=1, division=480):
  """Bytes of a MIDI file from the bytes of its tracks."""
  return (b'MThd' + struct.pack('>IHHH', 6, form, len(tracks), division)
          + b''.join(chunk(track + END) for track in tracks))


def rows(events):
  """[(tick, line, kind, first, second)]"""
  return list(zip(events.tick.tolist(), events.line.tolist(),
                  events.kind.tolist(), *events.data.T.tolist(), strict=True))


def random_file(seed):
  """A file by mido, with all kinds of messages, and its channel messages."""
  rng = np.random.default_rng(seed)
  out = mido.MidiFile(type=1, ticks_per_beat=int(rng.integers(1, 2000)))
  expected = []
  for number in range(rng.integers(1, 5)):
    track, now = mido.MidiTrack(), 0
    for _ in range(rng.integers(0, 200)):
      wait = int(rng.choice([0, 1, 100, 127, 128, 16383, 16384]))
      a, b, channel = (int(rng.integers(n)) for n in (128, 128, 16))
      now += wait
      kind, message = [
          (8, mido.Message('note_off', note=a, velocity=b)),
          (9, mido.Message('note_on', note=a, velocity=b)),
          (10, mido.Message('polytouch', note=a, value=b)),
          (11, mido.Message('control_change', control=a, value=b)),
          (12, mido.Message('program_change', program=a)),
          (13, mido.Message('aftertouch', value=a)),
          (14, mido.Message('pitchwheel', pitch=(b << 7 | a) - 8192)),
          (0, mido.Message('sysex', data=rng.integers(128, size=a).tolist())),
          (0, mido.MetaMessage('text', text='x' * b)),
          (0, mido.MetaMessage('key_signature', key='Ab')),
      ][rng.integers(10)]
      message.time = wait
      if kind:
        message.channel = channel
        expected.append((now, number * 16 + channel, kind, a,
                         0 if kind in (12, 13) else b))
      track.append(message)
    out.tracks.append(track)
  return out, expected


@pytest.mark.parametrize('seed', range(20))
def test_all_kinds_of_messages_are_read(tmp_path, seed):
  out, expected = random_file(seed)
  out.save(tmp_path / 'a.mid')  # mido leaves out a status that repeats.
  assert rows(smf.events((tmp_path / 'a.mid').read_bytes())) == expected


def test_a_status_goes_on_where_it_is_left_out():
  full = (b'\x00\x90\x3c\x40' b'\x81\x00\x90\x3c\x00' b'\x00\xc1\x05'
          b'\x03\xc1\x06' b'\x00\xff\x01\x01x' b'\x02\xc1\x07' b'\x00\xd0\x09'
          b'\x00\xd0\x08' b'\x00\xb0\x40\x7f' b'\x00\xb0\x40\x00')
  short = (b'\x00\x90\x3c\x40' b'\x81\x00\x3c\x00' b'\x00\xc1\x05'
           b'\x03\x06' b'\x00\xff\x01\x01x' b'\x02\x07' b'\x00\xd0\x09'
           b'\x00\x08' b'\x00\xb0\x40\x7f' b'\x00\x40\x00')
  expected = [(0, 0, 9, 60, 64), (128, 0, 9, 60, 0), (128, 1, 12, 5, 0),
              (131, 1, 12, 6, 0), (133, 1, 12, 7, 0), (133, 0, 13, 9, 0),
              (133, 0, 13, 8, 0), (133, 0, 11, 64, 127), (133, 0, 11, 64, 0)]
  assert rows(smf.events(file(full))) == expected
  assert rows(smf.events(file(short))) == expected


def test_a_status_does_not_go_on_in_the_next_track():
  with pytest.raises(smf.Error, match='without a status'):
    smf.events(file(b'\x00\x90\x3c\x40', b'\x00\x3c\x00'))


def test_system_messages_are_stepped_over():
  track = (b'\x00\xf0\x03\xff\x91\xf7' b'\x00\xf7\x02\xc0\xc0' b'\x05\xf8'
           b'\x00\xf1\x01' b'\x00\xf2\x01\x02' b'\x00\xf3\x01' b'\x00\xf6'
           b'\x00\xff\x7f\x81\x00' + b'\x90' * 128 + b'\x01\x80\x3c\x40')
  assert rows(smf.events(file(track))) == [(6, 0, 8, 60, 64)]


def test_nothing_is_read_after_the_end_of_a_track():
  note = b'\x00\x90\x3c\x40'
  data = file(note + END + note + b'\xff\xff\xff\xff', note)
  assert rows(smf.events(data)) == [(0, 0, 9, 60, 64), (0, 16, 9, 60, 64)]


def test_a_track_needs_no_end_and_no_events():
  data = (b'MThd' + struct.pack('>IHHH', 6, 1, 3, 96) + chunk(b'')
          + chunk(b'\x00\x90\x3c\x40') + chunk(END))
  assert rows(smf.events(data)) == [(0, 16, 9, 60, 64)]
  assert rows(smf.events(file())) == []


def test_other_chunks_and_longer_headers_are_legal():
  data = (b'MThd' + struct.pack('>IHHH', 8, 0, 1, 96) + b'xx'
          + chunk(b'\xff' * 9, b'XFIH') + chunk(b'\x00\x90\x3c\x40')
          + b'whatever comes then')
  assert rows(smf.events(data)) == [(0, 0, 9, 60, 64)]


@pytest.mark.parametrize('before', [
    b'RIFF\x00\x00\x00\x00RMIDdata\x00\x00\x00\x00', bytes(128)])
def test_a_wrapper_is_stripped(before):
  data = file(b'\x00\x90\x3c\x40')
  assert rows(smf.events(before + data)) == rows(smf.events(data))


def tempo(us, wait=b'\x00'):
  return wait + b'\xff\x51\x03' + us.to_bytes(3, 'big')


NOTES = b''.join(b'\x83\x60\x90\x3c\x40' for _ in range(5))  # 480 ticks apart.


def test_the_tempo_map_of_the_first_track_gives_seconds():
  first = tempo(1_000_000) + tempo(250_000, b'\x87\x40')  # After 960 ticks.
  other = tempo(999_999)
  np.testing.assert_allclose(
      smf.events(file(first, other + NOTES)).time_s,
      [1.0, 2.0, 2.25, 2.5, 2.75], rtol=1e-15)
  # 120 beats a minute until there is another.
  np.testing.assert_allclose(smf.events(file(b'', NOTES)).time_s,
                             [0.5, 1.0, 1.5, 2.0, 2.5], rtol=1e-15)
  np.testing.assert_allclose(
      smf.events(file(tempo(0) + tempo(2_000_000, b'\x83\x60') + NOTES)).time_s,
      [2.5, 4.5, 6.5, 8.5, 10.5], rtol=1e-15)


def test_tracks_of_format_2_follow_each_other_with_their_own_tempo():
  data = file(tempo(1_000_000) + NOTES, NOTES, b'', tempo(2_000_000) + NOTES,
              form=2)
  np.testing.assert_allclose(smf.events(data).time_s, np.concatenate([
      [1, 2, 3, 4, 5], [5.5, 6, 6.5, 7, 7.5], [9.5, 11.5, 13.5, 15.5, 17.5]]))


@pytest.mark.parametrize('frames, ticks, rate', [
    (24, 4, 96), (25, 40, 1000), (29, 100, 100 * 30000 / 1001), (30, 80, 2400)])
def test_smpte_frames_give_seconds(frames, ticks, rate):
  division = (256 - frames) << 8 | ticks
  events = smf.events(file(tempo(1) + NOTES, division=division))
  np.testing.assert_allclose(events.time_s, np.arange(1, 6) * 480 / rate)
  assert events.ticks_per_beat == 0


@pytest.mark.parametrize('data, reason', [
    (b'', 'empty file'), (b'MThd', 'no MIDI header'),
    (b'not music at all, but long enough', 'no MIDI header'),
    (file(form=3), 'format that is not'),
    (b'MThd' + struct.pack('>IHHH', 5, 0, 0, 96), 'header too short'),
    (file(NOTES, division=0), 'neither ticks'),
    (file(NOTES, division=0xe700), 'neither ticks'),
    (file(NOTES, division=0x8000), 'neither ticks'),
    (file(NOTES).replace(b'\x00\x01\x00\x01', b'\x00\x01\x00\x02'), 'fewer'),
    (file(NOTES).replace(b'MTrk', b'MTrx'), 'fewer tracks'),
    (file(NOTES)[:-1], 'ends within a track'),
    (file(NOTES).replace(b'MTrk\x00', b'MTrk\xff'), 'ends within a track'),
    (file(b'\x00\x90\x3c\x80'), 'data byte over 127'),
    (file(b'\x00\x90\xff\x40'), 'data byte over 127'),
    (file(b'\x00\xc0\x80'), 'data byte over 127'),
    (file(b'\x00\x3c\x40'), 'without a status'),
    (file(b'\x00\xff\x01\x01x\x00\x3c\x40'), 'without a status'),
    (file(b'\x80\x80\x80\x80\x00\x90\x3c\x40'), 'more than four bytes'),
    (file(b'\x00\xff\x01\x80\x80\x80\x80\x00'), 'more than four bytes'),
    (file(b'\x00\xf0\xff\xff\xff\x7f'), 'ends within an event'),
    (file(b'\x00\xff\x01\x7f'), 'ends within an event'),
    (file(b'\xff\xff\xff\x7f\x90\x3c\x40'), 'longer than a day'),
    (bytes(smf.MOST_BYTES + 1), 'larger than 16 MiB'),
])
def test_a_broken_file_has_a_reason(data, reason):
  with pytest.raises(smf.Error, match=reason):
    smf.events(data)


def test_an_event_may_not_go_beyond_its_track():
  note = b'\x00\x90\x3c\x40'
  for n in (1, 2, 3):
    data = (b'MThd' + struct.pack('>IHHH', 6, 1, 1, 96)
            + b'MTrk' + struct.pack('>I', n) + note)
    with pytest.raises(smf.Error, match='ends within an event'):
      smf.events(data)


def test_no_cut_file_is_taken_for_a_whole_one():
  data = file(tempo(500_000), b'\x00\xc0\x05' + NOTES)
  for i in range(len(data)):
    with pytest.raises(smf.Error):
      smf.events(data[:i])


def test_no_changed_byte_raises_anything_else():
  data = file(tempo(500_000) + b'\x00\xf0\x02\x01\xf7', b'\x00\xc0\x05' + NOTES)
  for i in range(len(data)):
    for value in (0, 3, 0x7f, 0x80, 0x90, 0xc0, 0xf0, 0xff):
      with contextlib.suppress(smf.Error):
        smf.events(data[:i] + bytes([value]) + data[i + 1:])


def test_the_largest_file_stays_within_a_gigabyte():
  code = ('import re, struct\n'
          'from common import smf\n'
          'n = (smf.MOST_BYTES - 30) // 3\n'
          "track = b'\\x00\\x90\\x3c\\x40' + b'\\x00\\x3c\\x40' * n\n"
          "data = (b'MThd' + struct.pack('>IHHH', 6, 0, 1, 96)\n"
          "        + b'MTrk' + struct.pack('>I', len(track)) + track)\n"
          'assert len(smf.events(data).tick) == n + 1\n'
          # In kB. Not getrusage: its maximum begins with the parent's.
          "status = open('/proc/self/status').read()\n"
          "used = int(re.search(r'VmHWM:\\s+(\\d+)', status)[1])\n"
          'assert used < 1 << 20, used\n')
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
