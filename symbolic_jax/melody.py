"""The melody of a performance, and its tokens: ten a second.

A token is a pitch where a note begins, OFF where one ends and no other begins,
and NO_EVENT else. Ids are those of score2perf, for 21 to 108: padding, one that
nothing has, NO_EVENT, OFF, pitches from low to high; 92 of them.

Which notes of many are the melody is found in one of two ways.

  likeliest  That of a hidden Markov model, as score2perf finds it: melodies
             like small steps and the highest notes, and rest only where nothing
             sounds. Quick notes are often passed over, and short rests. Of
             notes that begin in one step the last counts; an OFF of those
             before it stays where it was written.
  skyline    A note is of it that begins as the highest of all that sound, and
             lasts to its own end, or to the start of the next. For hands that
             let go late: an upper note that ends within a step does not hide a
             lower one that begins there and goes on. Of two notes of one pitch
             in one step the longer counts. A lower note that goes on when the
             melody has ended is not taken up again. A single line stays as it
             is.

Shapes: N notes, S steps, F frames, P pitches, M = 1 + 2 P states.
"""

import dataclasses

import numpy as np

from common import midi
from symbolic_jax import timeline

PAD, NO_EVENT, OFF, FIRST = 0, 2, 3, 4  # 1 is the end of score2perf's targets.
WAYS = ('likeliest', 'skyline')

# Of `likeliest`, as score2perf sets them.
SCALE = 2.0  # Semitones at which an interval is half as likely as none.
REST = 0.1  # A note is followed by a rest.
UNLIKELY = 1e-15  # For a second: not to be the highest; not to sound at all.


@dataclasses.dataclass(frozen=True)
class Melody:
  """A vocabulary, and what is encoded with it.

  Attributes:
    low, high: lowest and highest pitch.
    steps_per_s: steps of time in a second.
  """

  low: int = 21
  high: int = 108
  steps_per_s: int = 10

  @property
  def vocab(self) -> int:
    return FIRST + self.high - self.low + 1

  def steps(self, seconds: float) -> int:
    """At most so many tokens for so much music."""
    return int(seconds * self.steps_per_s + 0.5) + 1

  def encode(self, notes, melody=None) -> np.ndarray:
    """Tokens [S] int32 of the melody in a table of notes (`midi.NOTE`).

    Args:
      notes: time begins at 0, and the last of all, melody or not, ends it.
      melody: table of those that are the melody, in order, such as `likeliest`
        finds; without it they are the skyline.
    """
    timeline.check(notes, self.low, self.high, 'a melody')
    steps = int(notes['end_s'].max() * self.steps_per_s + 0.5)
    chosen = notes if melody is None else melody
    start, end = timeline.on_grid(chosen, self.steps_per_s)
    pitch = chosen['pitch'].astype(np.int64)
    if melody is None:
      start, end, pitch = skyline(start, end, pitch)
    steps = max(steps, end.max(initial=0))
    tokens = np.full(steps + 1, NO_EVENT, np.int32)
    # Note by note: of two tokens in one place the later counts.
    tokens[np.stack([start, end], 1).ravel()] = np.stack(
        [FIRST + pitch - self.low, np.full_like(pitch, OFF)], 1).ravel()
    return tokens[:steps]

  def decode(self, tokens) -> np.ndarray:
    """Notes in order; an OFF where nothing sounds says nothing."""
    tokens = timeline.check_tokens(tokens, self.vocab)
    tokens = tokens[tokens != PAD]
    at = np.append(np.flatnonzero(tokens >= OFF), len(tokens))
    begins = np.flatnonzero(tokens[at[:-1]] > OFF)
    notes = np.zeros(len(begins), midi.NOTE)
    notes['start_s'] = at[begins] / self.steps_per_s
    notes['end_s'] = at[begins + 1] / self.steps_per_s
    notes['pitch'] = tokens[at[begins]] - FIRST + self.low
    notes['velocity'] = midi.VELOCITY
    return notes


def skyline(start, end, pitch):
  """Starts, ends and pitches [N] of notes on a grid -> those of the melody.

  In order of time, and none overlaps the next.
  """
  steps = end.max(initial=0)
  # The highest pitch that begins in a step; that began before it and sounds
  # in it; and that also sounds in the next one.
  begins = np.full(steps, -1)
  np.maximum.at(begins, start, pitch)
  sounds = _highest(start + 1, end, pitch, steps)
  sounds_on = _highest(start + 1, end - 1, pitch, steps)
  above = np.where(end == start + 1, sounds[start], sounds_on[start])
  chosen = np.flatnonzero((pitch == begins[start]) & (pitch >= above))
  # Of those in one step the longest.
  chosen = chosen[np.lexsort((-end[chosen], start[chosen]))]
  chosen = chosen[np.diff(start[chosen], prepend=-1) > 0]
  start, end, pitch = start[chosen], end[chosen], pitch[chosen]
  return start, np.minimum(end, np.append(start[1:], steps)), pitch


def likeliest(notes) -> np.ndarray:
  """The melody of a table of notes by Viterbi's algorithm, as another table.

  Frames lie between two times at which notes begin or end. In each the melody
  rests, or begins a note that begins there, or goes on, even if what it played
  has ended; likelihoods are for a second.
  """
  pitches, column = np.unique(notes['pitch'], return_inverse=True)
  size, total = len(pitches), notes['end_s'].max()
  times = np.unique([notes['start_s'], notes['end_s']])
  times = times[(times > 0) & (times < total)]
  first = np.searchsorted(times, notes['start_s'], 'right')
  last = np.searchsorted(times, notes['end_s'], 'left')
  change = np.zeros((len(times) + 2, size), np.int64)
  np.add.at(change, (first, column), 1)
  np.add.at(change, (last + 1, column), -1)
  sounds = np.cumsum(change[:-1], 0) > 0  # [F, P]
  begins = np.zeros_like(sounds)
  begins[first, column] = True
  is_below = np.cumsum(sounds[:, ::-1], 1)[:, ::-1] - sounds > 0
  likely = np.where(is_below, UNLIKELY, 1 - UNLIKELY)
  silent = ~sounds.any(1, keepdims=True)
  frames = np.concatenate([silent, likely * begins, likely * ~begins * np.where(
      sounds, 1 - UNLIKELY, UNLIKELY)], 1)  # [F, M]
  edges = np.concatenate([[0], times, [total]])
  with np.errstate(divide='ignore'):
    frames = np.log(frames) * np.diff(edges)[:, None]
    moves = np.log(_moves(pitches)).T.copy()  # To a state, from each.
  score, back, every = moves[:, 0] + frames[0], [], np.arange(len(moves))
  for frame in frames[1:]:
    paths = score + moves
    back.append(paths.argmax(1))
    score = paths[every, back[-1]] + frame
  path = [score.argmax()]
  for parent in reversed(back):
    path.append(parent[path[-1]])
  path = np.array(path[::-1])
  # A note lasts until another begins, or a rest.
  at = np.flatnonzero(path <= size)
  stop = edges[np.append(at[1:], len(path))]
  keep = path[at] > 0
  melody = np.zeros(keep.sum(), notes.dtype)
  melody['start_s'], melody['end_s'] = edges[at][keep], stop[keep]
  melody['pitch'] = pitches[path[at][keep] - 1]
  return melody


def _moves(pitches):
  """[M, M] probabilities from state to state: rest, begin each, hold each."""
  size = len(pitches)
  interval = np.arange(128)[:, None] - np.arange(128)
  near = 1 / (1 + (interval / SCALE)**2)
  near /= near.sum(1, keepdims=True)
  near *= 1 - REST
  moves = np.zeros((1 + 2 * size, 1 + 2 * size))
  begin, hold = slice(1, 1 + size), slice(1 + size, None)
  moves[0, 0], moves[0, begin] = 1, 1 / 128
  for state in (begin, hold):
    moves[state, 0] = REST
    moves[state, begin] = near[np.ix_(pitches, pitches)]
    moves[state, hold] = np.eye(size)
  return moves


def _highest(first, end, pitch, steps):
  """[S]: the highest pitch at each step from `first` up to `end`; -1: none."""
  some = first < end
  change = np.zeros((steps + 1, 128), np.int64)
  np.add.at(change, (first[some], pitch[some]), 1)
  np.add.at(change, (end[some], pitch[some]), -1)
  sounds = np.cumsum(change[:-1], 0) > 0
  return np.where(sounds.any(1), 127 - sounds[:, ::-1].argmax(1), -1)
