"""MIDI files, tables of notes and piano rolls.

Shapes: E events, N notes, T steps, K tracks.
"""

import itertools
import struct
from typing import NamedTuple

import numpy as np

from common import errors, files, smf

# A table of notes. Times are seconds, `program` is General MIDI's, from 0.
NOTE = np.dtype([('start_s', 'f8'), ('end_s', 'f8'), ('pitch', 'i2'),
                 ('velocity', 'i2'), ('program', 'i2'), ('is_drum', '?')])
# A line is one channel of one track: what a sustain pedal belongs to.
PEDAL = np.dtype([('time_s', 'f8'), ('line', 'i4'), ('is_down', '?')])

DRUMS = -1  # Stands for the drum kit in a list of programs.
TICKS_PER_S = 1920  # What `write` rounds to: 960 ticks a beat, 120 beats/min.
VELOCITY = 100  # Of notes from a roll that knows only on and off.


class Song(NamedTuple):
  """What a MIDI file says of its notes.

  Attributes:
    notes: [N] of NOTE, part after part. Parts come in the order in which they
      first end a note; in each, notes come in the order of their ends.
    ticks: [N, 2], start and end of each note.
    ticks_per_beat: 0 where time is in SMPTE frames.
    part: [N], from 0; a part is one program on one line.
    line: [N], whose pedal the note has.
    pedal: [E] of PEDAL, one track after the other.
  """

  notes: np.ndarray
  ticks: np.ndarray
  ticks_per_beat: int
  part: np.ndarray
  line: np.ndarray
  pedal: np.ndarray


def read(path) -> np.ndarray:
  """The notes of a MIDI file in order of time, without the sustain pedal."""
  return in_order(load(path).notes)


def read_steady(path) -> np.ndarray:
  """As `read`, but with 120 beats a minute, whatever the tempo in the file.

  What is on a grid of beats is then on a grid of seconds. A file timed in
  frames has no beats, and is read as it is.
  """
  song = load(path)
  if song.ticks_per_beat:
    for name, ticks in zip(('start_s', 'end_s'), song.ticks.T, strict=True):
      song.notes[name] = ticks / song.ticks_per_beat * (60 / 120)
    if song.notes['end_s'].max(initial=0) > smf.MOST_S:
      raise errors.UserError(
          f'{path} has notes after {smf.MOST_S / 3600:.0f} hours at 120 beats '
          'a minute; export it again with fewer empty bars')
  return in_order(song.notes)


def load(path) -> Song:
  """`parse` of a file, with errors that name it."""
  try:
    with open(path, 'rb') as f:
      return parse(f.read(smf.MOST_BYTES + 1))
  except OSError as e:
    raise errors.UserError(
        f'MIDI file {path} cannot be read: {e.strerror}') from None
  except smf.Error as e:
    raise errors.UserError(
        f'{path} is not a valid MIDI file ({e}); export it again from a '
        'sequencer, or leave it out') from None


def parse(data: bytes) -> Song:
  """The notes in the bytes of a MIDI file; raises `smf.Error`.

  An end ends all notes of its line and pitch. Notes struck on the same tick
  as the end go on if it ended another one, else they are dropped, and so are
  notes without an end. pretty_midi reads files like this, and with it most of
  the field.
  """
  events = smf.events(data)
  start, end = _pairs(events)
  notes = np.empty(len(start), NOTE)
  notes['start_s'], notes['end_s'] = events.time_s[start], events.time_s[end]
  notes['pitch'], notes['velocity'] = events.data[start].T
  notes['program'] = _programs(events, end)
  notes['is_drum'] = events.line[start] % 16 == 9
  line = events.line[start]
  _, first, part = np.unique(line * 128 + notes['program'], return_index=True,
                             return_inverse=True)
  part = np.argsort(np.argsort(first))[part]
  order = np.argsort(part, kind='stable')
  is_pedal = (events.kind == 11) & (events.data[:, 0] == 64)
  pedal = np.empty(is_pedal.sum(), PEDAL)
  pedal['time_s'], pedal['line'] = (events.time_s[is_pedal],
                                    events.line[is_pedal])
  pedal['is_down'] = events.data[is_pedal, 1] >= 64
  ticks = np.stack([events.tick[start], events.tick[end]], 1)
  return Song(notes[order], ticks[order], events.ticks_per_beat, part[order],
              line[order], pedal)


def sustained(song: Song) -> np.ndarray:
  """The notes of a song, held by the sustain pedal; in their order.

  As Magenta's note-seq does it, each part for itself. A pedal that goes up
  ends what it held; a note struck while it is down ends all of its pitch, even
  one whose key is down; what it still holds at the end lasts to the last
  event. At one time pedals go down, then up, then notes begin, then end. Drums
  are left alone. Notes that keep no length are dropped.
  """
  notes = song.notes.copy()
  end_s = notes['end_s']
  pedal = song.pedal[np.isin(song.pedal['line'], song.line)]
  pitched = ~notes['is_drum']
  last_s = max(end_s[pitched].max(initial=0), pedal['time_s'].max(initial=0))
  pedal = pedal[np.lexsort((~pedal['is_down'], pedal['time_s'],
                            pedal['line']))]
  parts = np.arange(song.part.max(initial=-1) + 2)
  for a, b in itertools.pairwise(np.searchsorted(song.part, parts).tolist()):
    mine = pedal[slice(*np.searchsorted(
        pedal['line'], [song.line[a], song.line[a] + 1]))]
    mine = mine[np.diff(mine['is_down'], prepend=False)]  # What changes it.
    if len(mine) and pitched[a]:
      end_s[a:b] = _held(notes[a:b], mine, last_s)
  return notes[end_s > notes['start_s']]


def write(path, notes: np.ndarray) -> None:
  """The bytes of `encode`, as a file."""
  files.write(path, encode(notes))


def encode(notes: np.ndarray) -> bytes:
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
  return header + b''.join(chunks)


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
  return notes[np.lexsort([notes[field] for field in (
      'velocity', 'end_s', 'pitch', 'program', 'is_drum', 'start_s')])]


def _pairs(events) -> tuple[np.ndarray, np.ndarray]:
  """The events that begin and end each note, in order of the ends."""
  velocity = events.data[:, 1]
  is_on = (events.kind == 9) & (velocity > 0)
  at = np.flatnonzero(is_on | (events.kind == 8) | (events.kind == 9))
  # All of one line and pitch side by side.
  key = events.line[at] * 128 + events.data[at, 0]
  order = np.argsort(key, kind='stable')
  at, key = at[order], key[order]
  tick, is_on = events.tick[at], is_on[at]
  # The next end of the same key from each event on; `none` if there is none.
  none = len(at)
  following = np.append(np.where(is_on, none, np.arange(none)), none)
  following = np.minimum.accumulate(following[::-1])[::-1]
  key, tick = np.append(key, -1), np.append(tick, -1)
  start = np.flatnonzero(is_on)
  end = following[start]
  start, end = start[key[start] == key[end]], end[key[start] == key[end]]
  keep = np.ones(len(start), bool)
  # `end` stays sorted in this loop.
  for off in np.unique(end[tick[start] == tick[end]]).tolist():
    a, b = np.searchsorted(end, [off, off + 1])
    late = a + np.flatnonzero(tick[start[a:b]] == tick[off])
    after = following[off + 1]
    if len(late) < b - a and key[after] == key[off] and tick[after] > tick[off]:
      end[late] = after
    else:
      keep[late] = False
  start, end = start[keep], end[keep]
  order = np.lexsort((at[start], at[end]))
  return at[start][order], at[end][order]


def _programs(events, end) -> np.ndarray:
  """The program of a line at each end of a note; 0 before any."""
  place = events.line * len(events.line) + np.arange(len(events.line))
  change = np.flatnonzero(events.kind == 12)
  change = change[np.argsort(place[change])]
  i = np.searchsorted(place[change], place[end])
  change = np.append(change, 0)[i - 1]  # Where i is 0, of another line.
  return np.where((i > 0) & (events.line[change] == events.line[end]),
                  events.data[change, 0], 0)


def _held(notes, pedal, last_s) -> list[float]:
  """Where the notes of one part end under its pedal."""
  # Kinds: 0 pedal down, 1 up, 2 note on, 3 note off.
  n = np.arange(len(notes))
  time_s = np.concatenate([notes['start_s'], notes['end_s'], pedal['time_s']])
  kind = np.repeat([2, 3], len(notes))
  kind = np.concatenate([kind, np.where(pedal['is_down'], 0, 1)])
  number = np.concatenate([n, n, np.zeros(len(pedal), int)])
  order = np.lexsort((kind, time_s))
  end_s, pitch = notes['end_s'].tolist(), notes['pitch'].tolist()
  sounds = [[] for _ in range(128)]  # Notes of a pitch that may sound.
  is_on = [False] * len(notes)
  released, down = [], False  # `released`: only the pedal holds them.
  for now, what, i in zip(time_s[order].tolist(), kind[order].tolist(),
                          number[order].tolist(), strict=True):
    if what == 0:
      down = True
    elif what == 1:
      down = False
      for j in released:
        if is_on[j]:
          end_s[j], is_on[j] = now, False
      released = []
    elif what == 2:
      same = sounds[pitch[i]]
      if down:
        for j in same:
          if is_on[j]:
            end_s[j], is_on[j] = now, False
        same.clear()
      same.append(i)
      is_on[i] = True
    elif is_on[i]:
      if down:
        released.append(i)
      else:
        is_on[i] = False
  for j in released:
    if is_on[j]:
      end_s[j] = last_s
  return end_s


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

