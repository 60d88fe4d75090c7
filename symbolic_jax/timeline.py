"""What the token streams of notes share: a grid, an order, waits, pairs.

Shapes: N notes, E events.
"""

import numpy as np

from common import errors


def check(notes, low: int, high: int, what: str) -> None:
  """Refuses tables (`midi.NOTE`) without notes, or with pitches beyond."""
  if not len(notes):
    raise errors.UserError('no notes; give a file in which some are played')
  check_pitches(notes['pitch'], low, high, what)


def check_pitches(pitches, low: int, high: int, what: str) -> None:
  if not len(pitches):
    return
  least, most = int(pitches.min()), int(pitches.max())
  if least >= low and most <= high:
    return
  down, up = high - most, low - least  # Shifts that would fit.
  shift = down if down < 0 else up
  mend = (f'transpose by {shift:+d} semitones' if up <= down else
          'leave out the notes beyond')
  raise errors.UserError(f'pitches reach from {least} to {most}, those of '
                         f'{what} from {low} to {high}; {mend}')


def check_tokens(tokens, vocab: int) -> np.ndarray:
  """The tokens as int64 [E]; refuses ids that are none."""
  tokens = np.asarray(tokens, np.int64).reshape(-1)
  if len(tokens) and (tokens.min() < 0 or tokens.max() >= vocab):
    bad = tokens[(tokens < 0) | (tokens >= vocab)][0]
    raise errors.UserError(
        f'token {bad} is none of this vocabulary of {vocab}; decode with the '
        'settings that the tokens were made with')
  return tokens


def on_grid(notes, steps_per_s: float) -> tuple[np.ndarray, np.ndarray]:
  """Start and end of each note in steps, halves up; a step long at least."""
  start, end = ((notes[field] * steps_per_s + 0.5).astype(np.int64)
                for field in ('start_s', 'end_s'))
  return start, np.maximum(end, start + 1)


def in_order(start, end) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The starts and ends of notes as one stream.

  Ordered by step; at one step by number of the note, so that ends of earlier
  notes come before starts of later ones.

  Args:
    start, end: [N] steps, from 0.

  Returns:
    The step, the number of the note and whether it is an end: [2 N] each.
  """
  bits = 1 + max(len(start) - 1, 0).bit_length()
  number = np.arange(len(start)) << 1
  key = np.sort(np.concatenate([start << bits | number,
                                end << bits | number | 1]))
  return key >> bits, (key & (1 << bits) - 1) >> 1, (key & 1).astype(bool)


def lay_out(step, events, first_wait: int, longest_wait: int) -> np.ndarray:
  """Tokens int32 of events with the waits between them.

  A gap longer than the longest wait is as many of these as leave something,
  and then the rest.

  Args:
    step: [E], when each happens; time begins at 0.
    events: [E, K], the tokens of each, -1 for none.
    first_wait: id of the wait of one step; longer ones follow it.
    longest_wait: in steps.
  """
  gap = np.diff(step, prepend=0)
  waits = -(-gap // longest_wait)
  is_real = events >= 0
  # Where the tokens of an event end; its waits come first.
  end = np.cumsum(waits + is_real.sum(1))
  out = np.full(end[-1] if len(end) else 0, first_wait + longest_wait - 1,
                np.int32)
  at = end
  for k in reversed(range(events.shape[1])):
    at = at - is_real[:, k]
    out[at[is_real[:, k]]] = events[is_real[:, k], k]
  rest = first_wait - 1 + gap - longest_wait * (waits - 1)
  out[at[waits > 0] - 1] = rest[waits > 0]
  return out


def pair(key, is_end) -> tuple[np.ndarray, np.ndarray]:
  """Which end ends which start: the first of a key to begin ends first.

  Ends of what does not sound are ignored.

  Args:
    key: [E] int, what starts and ends (a pitch, of an instrument), in order
      of time.
    is_end: [E] bool.

  Returns:
    The starts in order, and for each its end; -1 where it has none.
  """
  order = np.argsort(key, kind='stable')  # All of one key side by side.
  key, is_end = key[order], is_end[order]
  is_start = ~is_end
  new = np.diff(key, prepend=-1) != 0  # The first of its key.
  group = np.cumsum(new) - 1
  total = np.cumsum(np.where(is_end, -1, 1))
  before = np.append(0, total)[np.flatnonzero(new)]
  level = total - before[group]  # Starts minus ends of this key so far.
  # An end that takes it below all levels of its key before ends nothing. Each
  # key lies below the one before, so that no minimum reaches over.
  drop = group * (2 * len(key) + 2)
  lowest = np.minimum(np.minimum.accumulate(level - drop) + drop, 0)
  fresh = np.where(new, 0, np.append(0, lowest)[:-1])
  counts = is_end & (level >= fresh)
  # The n-th start of a key with its n-th end.
  starts, ends = np.flatnonzero(is_start), np.flatnonzero(counts)

  def rank(chosen):
    n = np.arange(len(chosen))
    return n - np.searchsorted(group[chosen], group[chosen])

  size = len(key) + 1
  place = group[ends] * size + rank(ends)
  wanted = group[starts] * size + rank(starts)
  i = np.searchsorted(place, wanted)
  found = np.append(place, -1)[i] == wanted
  ended_by = np.where(found, order[np.append(ends, 0)[i]], -1)
  back = np.argsort(order[starts])
  return order[starts][back], ended_by[back]
