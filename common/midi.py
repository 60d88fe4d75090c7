"""MIDI files, tables of notes and piano rolls.

Shapes: T steps, K tracks.
"""

import os
import struct

import numpy as np
import symusic

from common import errors

# A table of notes. Times are seconds, `program` is General MIDI's, from 0.
NOTE = np.dtype([('start_s', 'f8'), ('end_s', 'f8'), ('pitch', 'i2'),
                 ('velocity', 'i2'), ('program', 'i2'), ('is_drum', '?')])

DRUMS = -1  # Stands for the drum kit in a list of programs.
TICKS_PER_S = 1920  # What `write` rounds to: 960 ticks a beat, 120 beats/min.
VELOCITY = 100  # Of notes from a roll that knows only on and off.


def read(path) -> np.ndarray:
  """The notes of a MIDI file in order of time; the tempo map is applied.

  Notes that end where they begin are left out.
  """
  try:
    with open(path, 'rb') as f:
      data = f.read()
    if data[:4] == b'RIFF':  # The same, wrapped for Windows (.rmi).
      data = data[max(data.find(b'MThd'), 0):]
    score = symusic.Score.from_midi(data)
  except OSError as e:
    raise errors.UserError(
        f'MIDI file {path} cannot be read: {e.strerror}') from None
  except (RuntimeError, ValueError) as e:  # What the parser throws.
    raise errors.UserError(
        f'{path} is not a valid MIDI file ({_first_line(e)}); export it again '
        'from a sequencer, or leave it out') from None
  tables = [np.empty(0, NOTE)]
  for track in score.tracks:
    columns = track.notes.numpy()
    table = np.empty(len(columns['time']), NOTE)
    ticks = columns['time'].astype(np.int64)
    table['start_s'] = _seconds(score, ticks)
    table['end_s'] = _seconds(score, ticks + columns['duration'])
    table['pitch'], table['velocity'] = columns['pitch'], columns['velocity']
    table['program'], table['is_drum'] = track.program, track.is_drum
    tables.append(table[columns['duration'] > 0])
  return in_order(np.concatenate(tables))


def write(path, notes: np.ndarray) -> None:
  """A format-1 file with one track for each (program, is_drum).

  A note that is still held when its pitch is struck again ends there, as it
  would on any synthesiser: MIDI cannot tell the two apart.
  """
  tempo = b'\x00\xff\x51\x03' + (960_000_000 // TICKS_PER_S).to_bytes(3, 'big')
  chunks = [_chunk(tempo)]
  melodic = 0
  for part in np.unique(notes['is_drum'] * 128 + notes['program']).tolist():
    is_drum, program = divmod(part, 128)
    rows = notes[(notes['program'] == program) & (notes['is_drum'] == is_drum)]
    # 15 channels are free beside the drums' one; more programs take further
    # ports.
    port, channel = (0, 9) if is_drum else divmod(melodic, 15)
    if not is_drum:
      melodic += 1
      channel += channel >= 9
    chunks.append(_chunk(
        bytes([0, 0xff, 0x21, 1, port, 0, 0xc0 | channel, program])
        + _note_events(rows, channel)))
  header = b'MThd' + struct.pack('>IHHH', 6, 1, len(chunks), TICKS_PER_S // 2)
  temporary = f'{path}.tmp'
  with open(temporary, 'wb') as f:
    f.write(header + b''.join(chunks))
  os.replace(temporary, path)


def from_roll(roll, step_s: float, programs) -> np.ndarray:
  """Notes of a piano roll [T, 128, K], whose track k plays programs[k].

  Whole numbers are velocities, and another velocity starts another note, as
  in the Lakh pianoroll data set. Booleans, floats (on from 0.5) and whole
  numbers that are only 0 and 1 say on or off.
  """
  roll = np.asarray(roll)
  if roll.ndim != 3 or roll.shape[1:] != (128, len(programs)):
    raise ValueError(f'a roll for {len(programs)} programs has shape [T, 128, '
                     f'{len(programs)}], not {list(roll.shape)}')
  if roll.dtype.kind == 'f':
    roll = roll >= 0.5
  if roll.max(initial=0) <= 1:
    roll = roll.astype(np.int16) * VELOCITY
  edge = np.zeros((1, *roll.shape[1:]), np.int16)
  padded = np.concatenate([edge, roll, edge]).astype(np.int16)
  change = padded[1:] != padded[:-1]  # [T+1, 128, K]
  # Both in order of track, pitch, time, so that they pair up.
  track, pitch, start = np.nonzero((change & (padded[1:] > 0)).T)
  end = np.nonzero((change & (padded[:-1] > 0)).T)[2]
  notes = np.empty(len(start), NOTE)
  notes['start_s'], notes['end_s'] = start * step_s, end * step_s
  notes['pitch'] = pitch
  notes['velocity'] = np.minimum(roll[start, pitch, track], 127)
  program = np.asarray(programs, np.int16)[track]
  notes['program'] = np.maximum(program, 0)
  notes['is_drum'] = program == DRUMS
  return in_order(notes)


def to_roll(notes: np.ndarray, step_s: float, programs) -> np.ndarray:
  """Piano roll [T, 128, K] uint8 of velocities, 0 where nothing sounds.

  A note goes to the track of its program, else to the first of the same
  General MIDI family (eight programs each); other notes are left out. As in
  the Lakh pianoroll data set, drums last one step, and a note that is struck
  again at once gives up its last step, so that both stay visible.
  """
  start = np.round(notes['start_s'] / step_s).astype(np.int64)
  end = np.round(notes['end_s'] / step_s).astype(np.int64)
  end = np.where(notes['is_drum'], start + 1, np.maximum(end, start + 1))
  tracks = np.array([_track(n, list(programs)) for n in notes], np.int64)
  keep = tracks >= 0
  roll = np.zeros((end[keep].max(initial=0), 128, len(programs)), np.uint8)
  for i in np.flatnonzero(keep)[np.argsort(start[keep], kind='stable')]:
    column = roll[:, notes['pitch'][i], tracks[i]]
    velocity = np.clip(notes['velocity'][i], 1, 127)
    begin = start[i]
    if begin > 1 and (column[begin - 2:begin] == velocity).all():
      column[begin - 1] = 0
    column[begin:end[i]] = velocity
  return roll


def in_order(notes: np.ndarray) -> np.ndarray:
  """Sorted by start, then by all that makes the order unique."""
  return np.sort(notes, order=('start_s', 'is_drum', 'program', 'pitch',
                               'end_s', 'velocity'))


def _seconds(score, ticks):
  tempos = score.tempos.numpy()
  at = tempos['time'].astype(np.int64)
  order = np.argsort(at, kind='stable')
  # 120 beats a minute until the first tempo.
  at = np.concatenate([[0], at[order]])
  rate = np.concatenate([[500_000], tempos['mspq'][order]]) * (
      1e-6 / score.ticks_per_quarter)
  begin = np.concatenate([[0.0], np.cumsum(np.diff(at) * rate[:-1])])
  i = np.searchsorted(at, ticks, 'right') - 1
  return begin[i] + (ticks - at[i]) * rate[i]


def _note_events(rows, channel):
  start = np.round(rows['start_s'] * TICKS_PER_S).astype(np.int64)
  end = np.maximum(np.round(rows['end_s'] * TICKS_PER_S).astype(np.int64),
                   start + 1)
  events = []
  struck = {}  # Pitch: index of its latest note.
  for i in np.lexsort((rows['pitch'], start)):
    pitch = int(rows['pitch'][i])
    if pitch in struck:
      end[struck[pitch]] = min(end[struck[pitch]], start[i])
    struck[pitch] = i
    velocity = int(np.clip(rows['velocity'][i], 1, 127))
    events.append((start[i], 1, pitch, velocity))
  # Ends come before starts: a repeated note is released, then struck.
  events += [(end[i], 0, int(rows['pitch'][i]), 0) for i in range(len(rows))]
  out, now = [], 0
  for tick, on, pitch, velocity in sorted(events):
    out.append(_varint(int(tick) - now)
               + bytes([(0x90 if on else 0x80) | channel, pitch, velocity]))
    now = int(tick)
  return b''.join(out)


def _varint(value):
  out = [value & 0x7f]
  while value := value >> 7:
    out.append(value & 0x7f | 0x80)
  return bytes(reversed(out))


def _chunk(events):
  events += b'\x00\xff\x2f\x00'
  return b'MTrk' + struct.pack('>I', len(events)) + events


def _track(note, programs):
  if note['is_drum']:
    return programs.index(DRUMS) if DRUMS in programs else -1
  if note['program'] in programs:
    return programs.index(note['program'])
  family = [-1 if p == DRUMS else p // 8 for p in programs]
  mine = note['program'] // 8
  return family.index(mine) if mine in family else -1


def _first_line(error):
  return (str(error).strip() or type(error).__name__).splitlines()[0]
