"""Piano performances as events: Performance RNN, Music Transformer.

A note is NOTE_ON ... NOTE_OFF of its pitch, time passes by TIME_SHIFT, and
VELOCITY holds for the notes after it. Ids in this order: reserved (0 padding,
1 end), NOTE_ON from low to high, NOTE_OFF, TIME_SHIFT of 1 step and more,
VELOCITY.

  Events()                                       310  score2perf
  Events(low=0, high=127)                        390
  Events(low=0, high=127, reserved=0)            388  Huang et al. 2018
  Events(low=0, high=127, reserved=0,
         steps_per_s=125)                        413  Oore et al. 2018
  Events(low=0, high=127, reserved=0,
         velocities=0)                           356  "performance"

The rules are those of Magenta's encoders, to the token. What they are given are
notes held by the pedal: `Events.select`, or `midi.sustained` (their own encoder
of MIDI files forgets it).

Shapes: N notes, L tokens, B rows, P pitches, V vocabulary.
"""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np

from common import errors, midi
from symbolic_jax import grammar, timeline

PAD, END = 0, 1  # Where ids are reserved.


@flax.struct.dataclass
class State:
  """What `Events.grammar` carries.

  Attributes:
    held: [B, P], how many notes sound that began in an earlier step.
    fresh: [B, P], how many began in this one.
    level: [B], the velocity told last, -1 before any.
    is_told: [B], whether it was told just now.
    may_shift: [B], whether time may pass.
    has_begun: [B], whether there was a note.
    is_over: [B]
  """

  held: jax.Array
  fresh: jax.Array
  level: jax.Array
  is_told: jax.Array
  may_shift: jax.Array
  has_begun: jax.Array
  is_over: jax.Array


@dataclasses.dataclass(frozen=True)
class Events:
  """A vocabulary, and what is encoded with it.

  Attributes:
    low, high: lowest and highest pitch.
    steps_per_s: steps of time in a second, the longest shift.
    velocities: bins of velocity; 0 leaves it out.
    reserved: ids before the events: 2 or 0.
  """

  low: int = 21
  high: int = 108
  steps_per_s: int = 100
  velocities: int = 32
  reserved: int = 2

  def __post_init__(self):
    errors.require(0 <= self.low <= self.high <= 127,
                   f'low={self.low}, high={self.high}', 'pitches from 0 to 127')
    errors.require(self.steps_per_s > 0, f'steps_per_s={self.steps_per_s}',
                   '100')
    errors.require(0 <= self.velocities <= 127,
                   f'velocities={self.velocities}', '32, or 0 for none')
    errors.require(self.reserved in (0, 2), f'reserved={self.reserved}',
                   '0 or 2')

  @property
  def pitches(self) -> int:
    return self.high - self.low + 1

  @property
  def on(self) -> int:
    """Id of the NOTE_ON of the lowest pitch."""
    return self.reserved

  @property
  def off(self) -> int:
    return self.on + self.pitches

  @property
  def shift(self) -> int:
    """Id of the TIME_SHIFT of one step."""
    return self.off + self.pitches

  @property
  def velocity(self) -> int:
    """Id of the softest VELOCITY."""
    return self.shift + self.steps_per_s

  @property
  def vocab(self) -> int:
    return self.velocity + self.velocities

  @property
  def bin_size(self) -> int:
    return -(-127 // max(self.velocities, 1))  # 4 for 32 bins.

  def name(self, token: int) -> str:
    """'ON 60', 'OFF 60', 'SHIFT 100', 'VELOCITY 16'; for people."""
    if token < self.reserved:
      return ('PAD', 'END')[token]
    for kind, start, first in (('VELOCITY', self.velocity, 1),
                               ('SHIFT', self.shift, 1),
                               ('OFF', self.off, self.low),
                               ('ON', self.on, self.low)):
      if token >= start:
        return f'{kind} {token - start + first}'
    raise ValueError(token)

  def select(self, song: midi.Song) -> np.ndarray:
    """The notes of a file held by its pedal, those out of range left out.

    They leave before the pedal acts, as in score2perf's vocabulary of 310.
    """
    pitch = song.notes['pitch']
    keep = (pitch >= self.low) & (pitch <= self.high)
    return midi.sustained(song._replace(
        notes=song.notes[keep], ticks=song.ticks[keep], part=song.part[keep],
        line=song.line[keep]))

  def encode(self, notes) -> np.ndarray:
    """Tokens [L] int32 of a table of notes (`midi.NOTE`) in any order.

    All programs go into one stream. Time begins at 0: a silence before the
    first note is told.
    """
    timeline.check(notes, self.low, self.high, 'these events')
    if notes['is_drum'].any():
      raise errors.UserError(
          f'{notes["is_drum"].sum()} of {len(notes)} notes are drums, which '
          'events of a piano cannot tell; leave them out')
    # Sorted by where they begin before that is rounded.
    notes = notes[np.lexsort((notes['pitch'], notes['start_s']))]
    step, number, is_end = timeline.in_order(
        *timeline.on_grid(notes, self.steps_per_s))
    pitch = notes['pitch'].astype(np.int64)[number] - self.low
    events = np.full((len(step), 2), -1)
    events[:, 1] = np.where(is_end, self.off, self.on) + pitch
    if self.velocities:
      level = np.clip(notes['velocity'].astype(np.int64), 1, 127) - 1
      level //= self.bin_size
      begins = np.flatnonzero(~is_end)
      level = level[number[begins]]
      new = np.diff(level, prepend=-1) != 0
      events[begins[new], 0] = self.velocity + level[new]
    return timeline.lay_out(step, events, self.shift, self.steps_per_s)

  def decode(self, tokens, hang_s: float | None = None) -> np.ndarray:
    """Notes in order of start and pitch; any tokens [L] can be read.

    An end without a start says nothing, of two notes of one pitch the first
    ends first, and notes without length are dropped. Velocity is 100 until it
    is told.

    Args:
      tokens: what follows the first END, and padding, is left out.
      hang_s: notes that never end last so long (Performance RNN: 5), at most
        to the last step; None for all the way.
    """
    tokens = timeline.check_tokens(tokens, self.vocab)
    if self.reserved:
      tokens = tokens[:(np.append(tokens, END) == END).argmax()]
      tokens = tokens[tokens != PAD]
    is_shift = (tokens >= self.shift) & (tokens < self.velocity)
    step = np.cumsum(np.where(is_shift, tokens - self.shift + 1, 0))
    last = step[-1] if len(step) else 0
    is_velocity = tokens >= self.velocity
    # The last VELOCITY at or before each token; -1: none.
    at = np.maximum.accumulate(
        np.where(is_velocity, np.arange(len(tokens)), -1))
    level = np.where(at < 0, midi.VELOCITY, np.minimum(
        1 + self.bin_size * (tokens[at] - self.velocity), 127))
    plays = np.flatnonzero(tokens < self.shift)
    pitch = (tokens[plays] - self.on) % self.pitches
    start, end = timeline.pair(pitch, tokens[plays] >= self.off)
    begin = step[plays[start]]
    limit = last if hang_s is None else np.minimum(
        last, begin + round(hang_s * self.steps_per_s))
    finish = np.where(end < 0, limit, step[plays[end]])
    notes = np.zeros(len(start), midi.NOTE)
    notes['start_s'], notes['end_s'] = (x / self.steps_per_s
                                        for x in (begin, finish))
    notes['pitch'] = pitch[start] + self.low
    notes['velocity'] = level[plays[start]]
    notes = notes[finish > begin]
    return notes[np.lexsort((notes['pitch'], notes['start_s']))]

  def grammar(self, ends: bool = False) -> grammar.Grammar:
    """What `encode` can write.

    A note ends only if it sounds, and not in the step of its start; VELOCITY
    comes before a start, and is another than before; a shift that is not the
    longest has no other after it. The end of the piece comes after a note, when
    nothing sounds; then padding.

    Args:
      ends: whether the END may be drawn.
    """
    return grammar.Grammar(
        start=self._start, advance=self._advance,
        allowed=lambda state: self._allowed(state, ends))

  def _start(self, rows):
    count = jnp.zeros((rows, self.pitches), jnp.int32)
    return State(held=count, fresh=count, level=jnp.full(rows, -1),
                 is_told=jnp.zeros(rows, bool), may_shift=jnp.ones(rows, bool),
                 has_begun=jnp.zeros(rows, bool),
                 is_over=jnp.zeros(rows, bool))

  def _advance(self, state, tokens):
    is_on = (tokens >= self.on) & (tokens < self.off)
    is_off = (tokens >= self.off) & (tokens < self.shift)
    is_shift = (tokens >= self.shift) & (tokens < self.velocity)
    is_velocity = tokens >= self.velocity
    is_event = tokens >= self.reserved
    column = jnp.arange(self.pitches)[None]
    here = lambda first, kind: (
        kind[:, None] & (column == (tokens - first)[:, None]))
    held = jnp.maximum(state.held - here(self.off, is_off), 0)
    fresh = state.fresh + here(self.on, is_on)
    passes = is_shift[:, None]
    return State(
        held=jnp.where(passes, held + fresh, held),
        fresh=jnp.where(passes, 0, fresh),
        level=jnp.where(is_velocity, tokens - self.velocity, state.level),
        is_told=jnp.where(is_event, is_velocity, state.is_told),
        may_shift=jnp.where(is_event, ~is_shift | (tokens == self.velocity - 1),
                            state.may_shift),
        has_begun=state.has_begun | is_on,
        is_over=state.is_over | (tokens == END if self.reserved else False))

  def _allowed(self, state, ends):
    told = state.is_told[:, None]
    knows = told | (state.level >= 0)[:, None] | (self.velocities == 0)
    block = lambda may, width: jnp.broadcast_to(may, (may.shape[0], width))
    mask = jnp.concatenate([
        block(jnp.zeros_like(told), self.reserved),
        block(knows, self.pitches),
        (state.held > 0) & ~told,
        block(state.may_shift[:, None] & ~told, self.steps_per_s),
        (jnp.arange(self.velocities)[None] != state.level[:, None]) & ~told,
    ], axis=1)
    if not self.reserved:
      return mask
    silent = ~((state.held + state.fresh) > 0).any(1)
    mask = mask.at[:, END].set(
        silent & state.has_begun & ~state.is_told & ends)
    return jnp.where(state.is_over[:, None],
                     jnp.arange(self.vocab)[None] == PAD, mask)
