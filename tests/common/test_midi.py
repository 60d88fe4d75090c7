import mido
import numpy as np
import pytest

from common import errors, midi

HALF_TICK_S = 0.5 / midi.TICKS_PER_S


def table(*rows):
  return midi.in_order(np.array(list(rows), midi.NOTE))


def some_notes(count=300, seed=0):
  """Notes on several programs, none struck while its pitch still sounds."""
  rng = np.random.default_rng(seed)
  notes = np.zeros(count, midi.NOTE)
  free = {}
  for note in notes:
    note['is_drum'] = rng.random() < 0.2
    note['program'] = 0 if note['is_drum'] else rng.choice([0, 25, 40, 127])
    note['pitch'] = rng.integers(128)
    key = tuple(note[['is_drum', 'program', 'pitch']].tolist())
    note['start_s'] = free.get(key, 0) + rng.uniform(0, 4)
    note['end_s'] = note['start_s'] + rng.uniform(0.01, 2)
    note['velocity'] = rng.integers(1, 128)
    free[key] = note['end_s'] + 0.01
  return midi.in_order(notes)


def test_what_is_written_is_read_back(tmp_path):
  notes = some_notes()
  midi.write(tmp_path / 'a.mid', notes)
  again = midi.read(tmp_path / 'a.mid')
  # Rounding to ticks may swap notes that begin at nearly the same time.
  order = ('is_drum', 'program', 'pitch', 'start_s')
  notes, again = np.sort(notes, order=order), np.sort(again, order=order)
  for field in ('pitch', 'velocity', 'program', 'is_drum'):
    np.testing.assert_array_equal(again[field], notes[field])
  for field in ('start_s', 'end_s'):
    np.testing.assert_allclose(again[field], notes[field], rtol=0,
                               atol=1.01 * HALF_TICK_S)


def test_another_reader_finds_the_same_notes(tmp_path):
  notes = some_notes()
  midi.write(tmp_path / 'a.mid', notes)
  file = mido.MidiFile(tmp_path / 'a.mid')
  assert file.type == 1
  assert len(file.tracks) == 1 + len(np.unique(notes[['is_drum', 'program']]))
  found, now, sounding, program = [], 0.0, {}, {}
  for message in file:  # In order of time, in seconds.
    now += message.time
    if message.type == 'program_change':
      program[message.channel] = message.program
    elif message.type == 'note_on':
      sounding[message.channel, message.note] = now, message.velocity
    elif message.type == 'note_off':
      start, velocity = sounding.pop((message.channel, message.note))
      found.append((start, now, message.note, velocity,
                    program[message.channel], message.channel == 9))
  assert not sounding
  found, notes = table(*found), np.sort(notes, order=('pitch', 'start_s'))
  found = np.sort(found, order=('pitch', 'start_s'))
  for field in ('pitch', 'velocity', 'program', 'is_drum'):
    np.testing.assert_array_equal(found[field], notes[field])
  np.testing.assert_allclose(found['end_s'], notes['end_s'], rtol=0,
                             atol=1.01 * HALF_TICK_S)


def test_the_tempo_map_gives_seconds(tmp_path):
  file = mido.MidiFile(type=1, ticks_per_beat=480)
  tempo = mido.MidiTrack([
      mido.MetaMessage('set_tempo', tempo=1_000_000, time=480),
      mido.MetaMessage('set_tempo', tempo=250_000, time=960)])
  notes = mido.MidiTrack()
  for _ in range(5):  # Each one beat long, one after the other.
    notes.append(mido.Message('note_on', note=60, velocity=64))
    notes.append(mido.Message('note_off', note=60, time=480))
  file.tracks += [tempo, notes]
  file.save(tmp_path / 'a.mid')
  got = midi.read(tmp_path / 'a.mid')
  # 120 beats a minute until the first tempo, then 60, then 240.
  np.testing.assert_allclose(got['start_s'], [0, 0.5, 1.5, 2.5, 2.75])
  np.testing.assert_allclose(got['end_s'], [0.5, 1.5, 2.5, 2.75, 3.0])


def test_notes_without_length_are_left_out(tmp_path):
  file = mido.MidiFile()
  file.tracks.append(mido.MidiTrack([
      mido.Message('note_on', note=60), mido.Message('note_off', note=60),
      mido.Message('note_on', note=62),
      mido.Message('note_off', note=62, time=10)]))
  file.save(tmp_path / 'a.mid')
  assert midi.read(tmp_path / 'a.mid')['pitch'].tolist() == [62]


def test_the_same_notes_give_the_same_bytes_in_any_order(tmp_path):
  notes = some_notes()
  midi.write(tmp_path / 'a.mid', notes)
  midi.write(tmp_path / 'b.mid', notes[::-1])
  assert (tmp_path / 'a.mid').read_bytes() == (tmp_path / 'b.mid').read_bytes()


def test_seventeen_programs_stay_apart(tmp_path):
  notes = table(*[(0, 1, 60, 90, p, False) for p in range(0, 128, 8)],
                (0, 1, 36, 90, 0, True))
  midi.write(tmp_path / 'a.mid', notes)
  np.testing.assert_array_equal(midi.read(tmp_path / 'a.mid'), notes)
  ports = {(m.port, n.channel) for track in mido.MidiFile(
      tmp_path / 'a.mid').tracks for m in track if m.type == 'midi_port'
           for n in track if n.type == 'note_on'}
  assert len(ports) == 17


def test_a_note_struck_again_ends_there(tmp_path):
  notes = table((0, 3, 60, 90, 0, False), (1, 2, 60, 80, 0, False))
  midi.write(tmp_path / 'a.mid', notes)
  got = midi.read(tmp_path / 'a.mid')
  np.testing.assert_allclose(got['end_s'], [1, 2])


def test_no_notes_make_a_file_without_notes(tmp_path):
  midi.write(tmp_path / 'a.mid', np.empty(0, midi.NOTE))
  assert len(midi.read(tmp_path / 'a.mid')) == 0


def test_a_file_in_a_riff_wrapper_is_read(tmp_path):
  notes = some_notes(20)
  midi.write(tmp_path / 'a.mid', notes)
  data = (tmp_path / 'a.mid').read_bytes()
  size = len(data).to_bytes(4, 'little')
  (tmp_path / 'b.rmi').write_bytes(
      b'RIFF' + (len(data) + 12).to_bytes(4, 'little') + b'RMIDdata' + size
      + data)
  np.testing.assert_array_equal(midi.read(tmp_path / 'b.rmi'),
                                midi.read(tmp_path / 'a.mid'))


@pytest.mark.parametrize('data', [b'', b'not music at all, but long enough',
                                  b'MThd\x00\x00\x00\x06\x00\x01'])
def test_a_broken_file_is_named(tmp_path, data):
  (tmp_path / 'bad.mid').write_bytes(data)
  with pytest.raises(errors.UserError, match=r'bad\.mid is not a valid MIDI'):
    midi.read(tmp_path / 'bad.mid')


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(errors.UserError, match=r'no\.mid cannot be read: No suc'):
    midi.read(tmp_path / 'no.mid')


@pytest.mark.parametrize('kind', ['bool', 'velocities'])
def test_rolls_survive_notes_and_a_file(tmp_path, kind):
  rng = np.random.default_rng(0)
  roll = np.repeat(rng.random((40, 128, 3)) < 0.1, 3, 0)
  if kind == 'velocities':
    roll = roll * rng.integers(1, 128, roll.shape, np.uint8)
  programs, step_s = [0, 48, 24], 0.125
  notes = midi.from_roll(roll, step_s, programs)
  expected = roll * np.uint8(midi.VELOCITY) if kind == 'bool' else roll
  np.testing.assert_array_equal(
      midi.to_roll(notes, step_s, programs),
      expected[:np.flatnonzero(roll.any((1, 2)))[-1] + 1])
  midi.write(tmp_path / 'a.mid', notes)
  np.testing.assert_array_equal(
      midi.to_roll(midi.read(tmp_path / 'a.mid'), step_s, programs),
      midi.to_roll(notes, step_s, programs))


def test_a_run_in_a_roll_is_one_note():
  roll = np.zeros((8, 128, 2), np.float32)
  roll[2:5, 60, 0] = 0.9
  roll[5:, 60, 0] = 0.4  # Less than half is off.
  roll[7, 38, 1] = 1.0
  notes = midi.from_roll(roll, 0.5, [40, midi.DRUMS])
  np.testing.assert_array_equal(notes, table(
      (1.0, 2.5, 60, midi.VELOCITY, 40, False),
      (3.5, 4.0, 38, midi.VELOCITY, 0, True)))


def test_notes_struck_twice_stay_two_in_a_roll():
  notes = table((0, 1, 60, 90, 0, False), (1, 2, 60, 90, 0, False))
  roll = midi.to_roll(notes, 0.25, [0])
  np.testing.assert_array_equal(roll[:, 60, 0], [90, 90, 90, 0] + [90] * 4)
  assert len(midi.from_roll(roll, 0.25, [0])) == 2


def test_drums_last_one_step_in_a_roll():
  roll = midi.to_roll(table((0.5, 2, 36, 90, 0, True)), 0.25, [midi.DRUMS])
  np.testing.assert_array_equal(roll[:, 36, 0], [0, 0, 90])


def test_notes_go_to_their_program_or_its_family():
  notes = table((0, 1, 60, 1, 48, False), (0, 1, 61, 2, 50, False),
                (0, 1, 62, 3, 56, False), (0, 1, 63, 4, 0, True))
  roll = midi.to_roll(notes, 1.0, [0, 50, 48, midi.DRUMS])
  assert {tuple(int(i) for i in at): int(roll[tuple(at)])
          for at in np.argwhere(roll)} == {
              (0, 60, 2): 1, (0, 61, 1): 2, (0, 63, 3): 4}
  roll = midi.to_roll(notes, 1.0, [52])  # Both strings are of its family.
  assert sorted(np.flatnonzero(roll[0, :, 0])) == [60, 61]
  assert midi.to_roll(notes, 1.0, [8]).shape == (0, 128, 1)


def test_a_roll_of_another_shape_is_refused():
  with pytest.raises(ValueError, match=r'\[T, 128, 2\], not \[4, 88, 2\]'):
    midi.from_roll(np.zeros((4, 88, 2)), 0.1, [0, 1])
