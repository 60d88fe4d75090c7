"""Notes in bars and beats: REMI (Huang and Yang 2020), the modern alternative.

A piece is BAR (POSITION TEMPO? (PITCH VELOCITY DURATION)*)* BAR ...: sixteenths
of the bar, a tempo where it is another than before, and notes from low to high.
Ids in this order: 0 padding, 1 end, BAR, POSITION, TEMPO, PITCH, VELOCITY,
DURATION of 1...64 thirty-seconds. Chords are not told. What is ours: a POSITION
is told once for all that happens there, and TEMPO is one of 32 from 30 to 240
beats a minute, 7 % apart (REMI: three classes of 60).

Starts are rounded to sixteenths and lengths to thirty-seconds, two whole notes
at most.

Shapes: N notes, K beats, L tokens, B rows, V vocabulary.
"""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np

from common import errors, midi
from symbolic_jax import grammar, timeline

PAD, END, BAR, POSITION = 0, 1, 2, 3
TEMPOS = np.geomspace(30.0, 240.0, 32)  # Beats a minute.
VELOCITIES, VELOCITY_SIZE = 32, 4
DURATIONS = 64
STEPS, TICKS = 4, 8  # Of a beat: what starts and lengths are rounded to.


def beats(song: midi.Song) -> np.ndarray:
  """When each beat (quarter note) of a file comes, in seconds: [K].

  From the times of its notes; between two of them the tempo is even.
  """
  if not len(song.notes):
    raise errors.UserError('no notes; give a file in which some are played')
  if not song.ticks_per_beat:
    raise errors.UserError('a file timed in frames has no beats; export it '
                           'again with a tempo')
  tick, first = np.unique(song.ticks, return_index=True)
  time_s = np.stack([song.notes['start_s'], song.notes['end_s']], 1)
  beat = np.append(0, tick) / song.ticks_per_beat
  return _at(np.arange(int(beat[-1]) + 2), beat,
             np.append(0, time_s.reshape(-1)[first]))


@flax.struct.dataclass
class State:
  """What `Remi.grammar` carries: [B] each.

  Attributes:
    last: the token before; PAD at first, END for ever.
    bar, position, pitch, tempo: of the last ones told, -1 before any.
  """

  last: jax.Array
  bar: jax.Array
  position: jax.Array
  pitch: jax.Array
  tempo: jax.Array


@dataclasses.dataclass(frozen=True)
class Remi:
  """A vocabulary, and what is encoded with it.

  Attributes:
    low, high: lowest and highest pitch.
    meter: beats in a bar and their note value, such as (3, 4) or (6, 8).
  """

  low: int = 21
  high: int = 108
  meter: tuple[int, int] = (4, 4)

  def __post_init__(self):
    errors.require(0 <= self.low <= self.high <= 127,
                   f'low={self.low}, high={self.high}',
                   'pitches from 0 to 127')
    beats, value = self.meter
    errors.require(beats >= 1 and value in (1, 2, 4, 8, 16),
                   f'meter={beats}/{value}',
                   'one whose bar is made of sixteenths, such as 4/4')

  @property
  def positions(self) -> int:
    """Sixteenths in a bar."""
    return self.meter[0] * 16 // self.meter[1]

  @property
  def tempo(self) -> int:
    """Id of the slowest TEMPO."""
    return POSITION + self.positions

  @property
  def pitch(self) -> int:
    return self.tempo + len(TEMPOS)

  @property
  def velocity(self) -> int:
    return self.pitch + self.high - self.low + 1

  @property
  def duration(self) -> int:
    return self.velocity + VELOCITIES

  @property
  def vocab(self) -> int:
    return self.duration + DURATIONS

  def encode(self, notes, beats_s) -> np.ndarray:
    """Tokens [L] int32 of a table of notes (`midi.NOTE`) in any order.

    Args:
      notes: all programs go into one stream.
      beats_s: [K], when each quarter note comes; the first begins a bar. After
        the last two the tempo stays. `beats` has those of a file, and
        np.arange(k) / 2 are 120 a minute.
    """
    timeline.check(notes, self.low, self.high, 'these tokens')
    if notes['is_drum'].any():
      raise errors.UserError(
          f'{notes["is_drum"].sum()} of {len(notes)} notes are drums, which '
          'these tokens cannot tell; leave them out')
    beats_s = np.asarray(beats_s, np.float64)
    if len(beats_s) < 2 or (np.diff(beats_s) <= 0).any():
      raise errors.UserError('the times of the beats must be two or more, each '
                             'after the one before')
    if notes['start_s'].min() < beats_s[0]:
      raise errors.UserError(
          f'a note begins at {notes["start_s"].min():.2f} s, before the first '
          f'beat at {beats_s[0]:.2f} s; begin with an earlier beat')
    number = np.arange(len(beats_s))
    start, end = (_at(notes[field], beats_s, number)
                  for field in ('start_s', 'end_s'))
    step = (start * STEPS + 0.5).astype(np.int64)
    length = np.clip(((end - start) * TICKS + 0.5).astype(np.int64), 1,
                     DURATIONS)
    loud = (np.clip(notes['velocity'], 1, 127) - 1) // VELOCITY_SIZE
    order = np.lexsort((loud, length, notes['pitch'], step))
    beat, tempo = _changes(beats_s, step.max() // STEPS)
    # Rows of [POSITION, TEMPO or PITCH, VELOCITY, DURATION].
    rows = np.full((len(beat) + len(notes), 4), -1)
    rows[:len(beat), 1] = self.tempo + tempo
    rows[len(beat):, 1] = self.pitch + notes['pitch'][order] - self.low
    rows[len(beat):, 2] = self.velocity + loud[order]
    rows[len(beat):, 3] = self.duration + length[order] - 1
    step = np.concatenate([beat * STEPS, step[order]])
    order = np.argsort(step, kind='stable')
    rows, step = rows[order], step[order]
    new = np.diff(step, prepend=-1) != 0
    bar, position = np.divmod(step, self.positions)
    rows[new, 0] = POSITION + position[new]
    return timeline.lay_out(bar + 1, rows, BAR, 1)

  def decode(self, tokens) -> tuple[np.ndarray, np.ndarray]:
    """Notes in order of time, and when each beat comes; reads any tokens [L].

    What follows the first END, and notes that miss a part, are left out. Before
    any TEMPO there are 120 beats a minute.
    """
    tokens = timeline.check_tokens(tokens, self.vocab)
    tokens = tokens[:(np.append(tokens, END) == END).argmax()]
    tokens = tokens[tokens != PAD]
    at = np.arange(len(tokens))
    is_bar = tokens == BAR
    is_position = (tokens >= POSITION) & (tokens < self.tempo)
    bar = np.maximum(np.cumsum(is_bar) - 1, 0)
    # The last BAR or POSITION at or before each token.
    place = np.maximum.accumulate(np.where(is_bar | is_position, at, 0))
    position = np.where(is_position, tokens - POSITION, 0)[place]
    step = bar * self.positions + position

    is_tempo = (tokens >= self.tempo) & (tokens < self.pitch)
    next_two = np.append(tokens, [PAD, PAD])
    second, third = next_two[1:-1], next_two[2:]
    chosen = ((tokens >= self.pitch) & (tokens < self.velocity)
              & (second >= self.velocity) & (second < self.duration)
              & (third >= self.duration))
    start = step[chosen] / STEPS
    end = start + (third[chosen] - self.duration + 1) / TICKS
    beat, time_s = self._times(step[is_tempo], tokens[is_tempo] - self.tempo,
                               max(step.max(initial=0) / STEPS,
                                   end.max(initial=0)))
    notes = np.zeros(chosen.sum(), midi.NOTE)
    notes['start_s'], notes['end_s'] = (_at(x, beat, time_s)
                                        for x in (start, end))
    notes['pitch'] = tokens[chosen] - self.pitch + self.low
    notes['velocity'] = 1 + VELOCITY_SIZE * (second[chosen] - self.velocity)
    return midi.in_order(notes), _at(
        np.arange(int(np.ceil(beat[-1])) + 1), beat, time_s)

  def _times(self, step, tempo, last):
    """Beats at which the tempo changes, and the last; their seconds."""
    order = np.argsort(step, kind='stable')
    beat = np.concatenate([[0.0], step[order] / STEPS, [last + 1]])
    s_per_beat = 60 / np.append(120.0, TEMPOS[tempo[order]])
    time_s = np.append(0, np.cumsum(np.diff(beat) * s_per_beat))
    keep = np.append(np.diff(beat) > 0, True)
    return beat[keep], time_s[keep]

  def grammar(self, ends: bool = False) -> grammar.Grammar:
    """What `encode` can write.

    Positions go up in a bar, pitches in a position; a tempo is told on a beat,
    before the notes there, and is another than before. The first is told at
    once.

    Args:
      ends: whether the END may be drawn; then comes padding.
    """
    return grammar.Grammar(
        start=self._start, advance=self._advance,
        allowed=lambda state: self._allowed(state, ends))

  def _start(self, rows):
    full = lambda value: jnp.full(rows, value, jnp.int32)
    return State(last=full(PAD), bar=full(-1), position=full(-1),
                 pitch=full(-1), tempo=full(-1))

  def _advance(self, state, tokens):
    is_bar = tokens == BAR
    is_position = (tokens >= POSITION) & (tokens < self.tempo)
    is_tempo = (tokens >= self.tempo) & (tokens < self.pitch)
    is_pitch = (tokens >= self.pitch) & (tokens < self.velocity)
    is_event = (tokens > PAD) & (state.last != END)
    return State(
        last=jnp.where(is_event, tokens, state.last),
        bar=state.bar + is_bar,
        position=jnp.where(is_bar, -1, jnp.where(
            is_position, tokens - POSITION, state.position)),
        pitch=jnp.where(is_bar | is_position, -1, jnp.where(
            is_pitch, tokens - self.pitch, state.pitch)),
        tempo=jnp.where(is_tempo, tokens - self.tempo, state.tempo))

  def _allowed(self, state, ends):
    ids = jnp.arange(self.vocab)[None]
    last, bar, position, pitch, tempo = (x[:, None] for x in (
        state.last, state.bar, state.position, state.pitch, state.tempo))
    between = lambda x, a, b: (x >= a) & (x < b)
    after_position = between(last, POSITION, self.tempo)
    after_tempo = between(last, self.tempo, self.pitch)
    after_pitch = between(last, self.pitch, self.velocity)
    after_velocity = between(last, self.velocity, self.duration)
    after_note = last >= self.duration
    may_end = after_tempo | after_note
    on_beat = (bar * self.positions + position) % STEPS == 0
    untold = tempo < 0
    return (
        (ids == PAD) & (last == END)
        | (ids == END) & may_end & ends
        | (ids == BAR) & ((bar < 0) | may_end | (last == BAR) & ~untold)
        | between(ids, POSITION, self.tempo) & ((last == BAR) | may_end)
        & (ids - POSITION > position) & ((ids == POSITION) | ~untold)
        | between(ids, self.tempo, self.pitch) & after_position & on_beat
        & (ids - self.tempo != tempo)
        | between(ids, self.pitch, self.velocity)
        & (after_position & ~untold | after_tempo | after_note)
        & (ids - self.pitch >= pitch)
        | between(ids, self.velocity, self.duration) & after_pitch
        | (ids >= self.duration) & after_velocity)


def _at(x, known, values):
  """Even between what is known, and after it as between the last two."""
  i = np.clip(np.searchsorted(known, x, 'right') - 1, 0, len(known) - 2)
  slope = (values[i + 1] - values[i]) / (known[i + 1] - known[i])
  return values[i] + (x - known[i]) * slope


def _changes(beats_s, last):
  """Beats up to the last where the tempo is another, and which it is."""
  interval = np.diff(beats_s)
  interval = interval[np.minimum(np.arange(last + 1), len(interval) - 1)]
  distance = np.abs(np.log(60 / interval)[:, None] - np.log(TEMPOS))
  tempo = distance.argmin(1)
  beat = np.flatnonzero(np.diff(tempo, prepend=-1) != 0)
  return beat, tempo[beat]
