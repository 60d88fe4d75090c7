"""The bytes of a standard MIDI file -> a table of its events.

Most is NumPy over all bytes at once. What depends on what came before, where
an event begins, is one look-up for each event.

Shapes: E events.
"""

import array
import itertools
import struct
from typing import NamedTuple

import numpy as np

MOST_BYTES = 16 << 20  # A larger file is refused: it would not fit in memory.
MOST_S = 24 * 3600.0  # So is a longer one: no music, and it would fill memory.

_WRAPPER = 1024  # Bytes before the header, of RIFF (.rmi) or a Macintosh.
_BAD_TIMING = 'neither ticks a beat nor frames a second'


class Error(ValueError):
  """The bytes are no MIDI file, or a broken one. The reason is short."""


class Events(NamedTuple):
  """The channel events of all tracks, one track after the other: [E] each."""

  ticks_per_beat: int  # 0 where time is in SMPTE frames.
  time_s: np.ndarray
  tick: np.ndarray
  line: np.ndarray  # track * 16 + channel
  kind: np.ndarray  # 8 note off, 9 note on, 11 control, 12 program, ...
  data: np.ndarray  # [E, 2]; the second is 0 where there is only one.


def events(data: bytes) -> Events:
  """Format 0, 1 or 2, timed in beats or in SMPTE frames; may raise `Error`.

  The tempo is that of the first track. In format 2, whose tracks are played
  one after the other, each has its own.
  """
  form, division, chunks = _chunks(data)
  # Zeros, so that what looks a few bytes ahead needs no bounds.
  padded = np.frombuffer(data + bytes(8), np.uint8)
  jump = _jumps(padded)
  starts = [_walk(data, jump, *chunk) for chunk in chunks]
  track = np.repeat(np.arange(len(starts)), [len(s) for s in starts])
  start = np.concatenate([np.zeros(0, np.int64), *starts])
  size, delta = _deltas(padded, start)
  at = start + size  # Of the status byte, or of the data if there is none.
  tick = np.cumsum(delta)
  first = np.searchsorted(track, track)  # Event with which a track begins.
  tick -= (tick - delta)[first] if len(tick) else 0
  time_s = _times(form, division, padded, at, track, tick)

  status = padded[at].astype(np.int64)
  is_own = (status >= 0x80) & (status < 0xf0)
  last = np.maximum.accumulate(np.where(is_own, np.arange(len(at)), -1))
  runs = status < 0x80  # The status is that of the event before.
  if (runs & (last < first)).any():
    raise Error('data without a status')
  status[runs] = status[last[runs]]
  is_channel = status < 0xf0
  status, at = status[is_channel], at[is_channel] + ~runs[is_channel]
  values = np.stack([padded[at], padded[at + 1]], 1)
  values[(status >> 5) == 6, 1] = 0  # Programs and pressure have one byte.
  if (values > 127).any():
    raise Error('data byte over 127')
  time_s = time_s[is_channel]
  if time_s.max(initial=0) > MOST_S:
    raise Error('longer than a day')
  return Events(division if division < 0x8000 else 0, time_s,
                tick[is_channel], track[is_channel] * 16 + (status & 15),
                status >> 4, values)


def _chunks(data):
  """Format, division and the bounds of the tracks."""
  if not data:
    raise Error('empty file')
  if len(data) > MOST_BYTES:
    raise Error(f'larger than {MOST_BYTES >> 20} MiB')
  at = data.find(b'MThd', 0, _WRAPPER)
  if at < 0 or len(data) < at + 14:
    raise Error('no MIDI header')
  size, form, count, division = struct.unpack_from('>IHHH', data, at + 4)
  if form > 2:
    raise Error('format that is not 0, 1 or 2')
  if size < 6:
    raise Error('header too short')
  at += 8 + size
  chunks = []
  while len(chunks) < count:
    if at + 8 > len(data):
      raise Error('fewer tracks than its header says')
    size = int.from_bytes(data[at + 4:at + 8], 'big')
    if data[at:at + 4] == b'MTrk':
      if at + 8 + size > len(data):
        raise Error('ends within a track')
      chunks.append((at + 8, at + 8 + size))
    at += 8 + size  # Chunks of another kind are legal.
  return form, division, chunks


def _jumps(padded) -> bytes:
  """From each byte to the next event, if an event begins at this byte.

  0 where that takes more than a look at the byte: other kinds of events.
  """
  more = padded >= 0x80
  a, b, c, d = (more[n:n - 8] for n in range(4))
  size = 1 + a.astype(np.uint8) + (a & b) + (a & b & c)  # Of the time.
  status = np.zeros(len(size), np.uint8)
  for n in range(1, 5):
    here = size == n
    status[here] = padded[n:n + len(size)][here]
  step = np.full(256, 2, np.uint8)  # Data alone: the status stays the same.
  step[0x80:] = 3
  step[0xc0:0xe0] = step[0xf0:] = 0
  step = step[status]
  step[a & b & c & d] = 0  # More than four bytes.
  return np.where(step == 0, 0, size + step).astype(np.uint8).tobytes()


def _walk(data, jump, start, end) -> np.ndarray:
  """Where the events of one track begin."""
  starts, at, short = array.array('q'), start, False
  try:
    while at < end:
      starts.append(at)
      step = jump[at]
      if short or not step:
        step, short = _step(data, at, end, short)
      at += step
  except IndexError:
    at = end + 1
  if at > end:
    raise Error('ends within an event')
  return np.frombuffer(starts, np.int64) if starts else np.zeros(0, np.int64)


def _step(data, start, end, short):
  """To the next event; and whether data alone would now be one byte."""
  at = _after_number(data, start)
  status = data[at]
  if status == 0xff:
    if data[at + 1] == 0x2f:  # End of the track.
      return end - start, short
    length, at = _number(data, at + 2)
  elif status in (0xf0, 0xf7):
    length, at = _number(data, at + 1)
  elif status > 0xf0:  # Nothing a file should have.
    length, at = {0xf1: 1, 0xf2: 2, 0xf3: 1}.get(status, 0), at + 1
  else:
    if status >= 0x80:
      short, at = 0xc0 <= status < 0xe0, at + 1
    length = 1 if short else 2
  return at + length - start, short


def _number(data, at):
  """A number of seven bits a byte, and what comes after it."""
  end = _after_number(data, at)
  value = 0
  for byte in data[at:end]:
    value = value << 7 | byte & 0x7f
  return value, end


def _after_number(data, at):
  for end in range(at, at + 4):
    if data[end] < 0x80:
      return end + 1
  raise Error('number of more than four bytes')


def _deltas(padded, start):
  """Bytes and value of the number that begins each event."""
  size, value = np.ones(len(start), np.int64), np.zeros(len(start), np.int64)
  rest = np.arange(len(start))
  for i in range(4):
    byte = padded[start[rest] + i]
    value[rest] = value[rest] << 7 | byte & 0x7f
    rest = rest[byte >= 0x80]
    size[rest] += 1
  return size, value


def _seconds(division, tick, tempo_tick, tempo_us):
  """Times of ticks, under tempos in microseconds a beat."""
  if division >= 0x8000:  # SMPTE: frames a second, ticks a frame.
    frames = {24: 24, 25: 25, 29: 30000 / 1001, 30: 30}.get(
        256 - (division >> 8), 0)
    rate = frames * (division & 0xff)
    if not rate:
      raise Error(_BAD_TIMING)
    return tick / rate
  if not division:
    raise Error(_BAD_TIMING)
  at, scale = [0], [60 / (120 * division)]  # Until the first tempo.
  for t, us in zip(tempo_tick.tolist(), tempo_us.tolist(), strict=True):
    if not us:  # No tempo.
      continue
    value = 60 / (6e7 / us * division)
    if t == 0:
      at, scale = [0], [value]
    elif value != scale[-1]:
      at.append(t)
      scale.append(value)
  at, scale = np.array(at), np.array(scale)
  begin = np.concatenate([[0.0], np.cumsum(np.diff(at) * scale[:-1])])
  i = np.searchsorted(at, tick, 'right') - 1
  return begin[i] + (tick - at[i]) * scale[i]


def _times(form, division, padded, at, track, tick):
  """When each event happens."""
  is_tempo = (padded[at] == 0xff) & (padded[at + 1] == 0x51) & (
      padded[at + 2] == 3)
  tempo = np.flatnonzero(is_tempo)
  tempo_us = padded[at[tempo, None] + np.arange(3, 6)] @ [1 << 16, 1 << 8, 1]
  if form < 2:
    tempo = tempo[track[tempo] == 0]
    return _seconds(division, tick, tick[tempo], tempo_us[:len(tempo)])
  time_s, offset = np.zeros(len(tick)), 0.0
  bounds = np.searchsorted(track, np.arange(track.max(initial=0) + 2))
  for a, b in itertools.pairwise(bounds.tolist()):
    c, d = np.searchsorted(tempo, [a, b])
    time_s[a:b] = offset + _seconds(division, tick[a:b], tick[tempo[c:d]],
                                    tempo_us[c:d])
    offset = time_s[b - 1] if b > a else offset
  return time_s
