"""Melodies against their rules, one by one; round trips of them."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from common import errors, midi
from common.data import synthetic
from symbolic_jax import melody

PIANO = melody.Melody()
WIDE = melody.Melody(low=0, high=127)


def table(*rows):
  """Of (start in steps, end, pitch)."""
  notes = np.zeros(len(rows), midi.NOTE)
  for n, (start, end, pitch) in zip(notes, rows, strict=True):
    n['start_s'], n['end_s'], n['pitch'] = start / 10, end / 10, pitch
    n['velocity'] = 80
  return notes


def in_steps(notes):
  return [(round(n['start_s'] * 10), round(n['end_s'] * 10), int(n['pitch']))
          for n in notes]


def tune(*rows):
  """What is the melody of (start, end, pitch)."""
  return in_steps(PIANO.decode(PIANO.encode(table(*rows))))


@strategies.composite
def chords(draw):
  """(start, end, pitch), many of them at once."""
  rows = draw(strategies.lists(strategies.tuples(
      strategies.integers(0, 20), strategies.integers(1, 8),
      strategies.integers(60, 67)), min_size=1, max_size=25))
  return [(start, start + length, pitch) for start, length, pitch in rows]


@strategies.composite
def lines(draw):
  """(start, end, pitch), one after the other."""
  rows, now = [], 0
  for rest, length, pitch in draw(strategies.lists(strategies.tuples(
      strategies.integers(0, 3), strategies.integers(1, 9),
      strategies.integers(21, 108)), min_size=1, max_size=25)):
    rows.append((now + rest, now + rest + length, pitch))
    now += rest + length
  return rows


def skyline_slowly(rows):
  """The rules, one pair of notes after the other."""
  found = {}
  for start, end, pitch in rows:
    hidden = False
    for other_start, other_end, other in rows:
      if other <= pitch:
        continue
      if other_start == start:
        hidden = True
      elif other_start < start < other_end:
        goes_on = end > start + 1
        hidden |= not (goes_on and other_end == start + 1)
    if not hidden:
      assert found.get(start, (0, pitch))[1] == pitch
      found[start] = max(found.get(start, (0, pitch)), (end, pitch))
  starts = sorted(found)
  return [(a, min(found[a][0], b), found[a][1]) for a, b in zip(
      starts, [*starts[1:], max(end for _, end, _ in rows)], strict=True)]


def test_there_are_92_tokens_in_the_order_of_score2perf():
  assert PIANO.vocab == 92 and WIDE.vocab == 132
  tokens = PIANO.encode(table((1, 2, 21), (3, 5, 108), (3, 6, 40)))
  assert tokens.dtype == np.int32
  assert tokens.tolist() == [2, 4, 3, 91, 2, 3]


def test_a_token_is_a_tenth_of_a_second_and_halves_are_rounded_up():
  notes = table((0.4, 1.5, 60), (1.5, 1.6, 62))
  assert PIANO.encode(notes).tolist() == [4 + 39, 2, 4 + 41]


@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
@hypothesis.given(rows=chords())
def test_the_skyline_is_that_of_its_rules(rows):
  start, end, pitch = np.array(rows).T
  got = np.stack(melody.skyline(start, end, pitch), 1)
  assert [tuple(x) for x in got.tolist()] == skyline_slowly(rows)


@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
@hypothesis.given(rows=chords())
def test_the_melody_of_a_melody_is_itself(rows):
  once = PIANO.decode(PIANO.encode(table(*rows)))
  np.testing.assert_array_equal(PIANO.decode(PIANO.encode(once)), once)


@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
@hypothesis.given(rows=lines())
def test_single_lines_come_back_as_they_were(rows):
  tokens = PIANO.encode(table(*rows))
  assert in_steps(PIANO.decode(tokens)) == rows
  assert len(tokens) == rows[-1][1]
  np.testing.assert_array_equal(
      PIANO.encode(PIANO.decode(tokens)), tokens)


@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
@hypothesis.given(tokens=strategies.lists(strategies.integers(0, 9)))
def test_any_tokens_can_be_read(tokens):
  want, now = [], 0
  for token in tokens:
    if token == melody.PAD:
      continue
    if token >= melody.OFF and want and want[-1][1] is None:
      want[-1][1] = now
    if token > melody.OFF:
      want.append([now, None, 21 + token - melody.FIRST])
    now += 1
  want = [(a, now if b is None else b, p) for a, b, p in want]
  assert in_steps(PIANO.decode(tokens)) == want


def test_of_a_chord_the_highest_is_the_melody():
  assert tune((0, 4, 60), (0, 4, 67), (0, 4, 64), (4, 6, 62)) == [
      (0, 4, 67), (4, 6, 62)]


def test_what_lies_below_a_note_that_is_held_is_not():
  assert tune((0, 9, 72), (2, 5, 60), (4, 12, 64)) == [(0, 9, 72)]


def test_a_note_that_is_let_go_late_hides_nothing():
  assert tune((0, 5, 72), (4, 8, 71)) == [(0, 4, 72), (4, 8, 71)]
  assert tune((0, 6, 72), (4, 8, 71)) == [(0, 6, 72)]
  # A note that is over as early is none that takes its place.
  assert tune((0, 5, 72), (4, 5, 71)) == [(0, 5, 72)]


def test_the_last_note_of_all_ends_the_time():
  tokens = PIANO.encode(table((0, 2, 72), (0, 5, 60)))
  assert tokens.tolist() == [4 + 51, 2, 3, 2, 2]


def likeliest_slowly(rows):
  """All ways to rest, begin or hold in each frame; times in seconds."""
  ends = sorted({t for a, b, _ in rows for t in (a, b)} | {0})
  frames = list(itertools.pairwise(ends))
  pitches = sorted({p for _, _, p in rows})
  weights = {p: sum(1 / (1 + ((p - q) / 2)**2) for q in range(128))
             for p in pitches}
  states = [None, *((p, new) for p in pitches for new in (True, False))]

  def value(path):
    total, before = 0.0, None
    for (a, b), state in zip(frames, path, strict=True):
      sound = {p for s, e, p in rows if s <= a < e}
      new = {p for s, _, p in rows if s == a}
      p = 1.0
      if state is None:
        p, move = float(not sound), 1.0 if before is None else 0.1
      elif state[1]:
        p *= state[0] in new
        move = 1 / 128 if before is None else 0.9 / weights[before] / (
            1 + ((state[0] - before) / 2)**2)
      else:
        p *= state[0] not in new
        p *= 1.0 if state[0] in sound else 1e-15
        move = float(before == state[0])
      if state and any(q > state[0] for q in sound):
        p *= 1e-15
      if not p or not move:
        return -math.inf
      total += math.log(move) + (b - a) * math.log(p)
      before = state and state[0]
    return total

  best = max(itertools.product(states, repeat=len(frames)), key=value)
  found = []
  for (a, b), state in zip(frames, best, strict=True):
    if state and state[1]:
      found.append((a, b, state[0]))
    elif state:
      found[-1] = (found[-1][0], b, state[0])
  return found


@pytest.mark.parametrize('rows', [
    [(0, 1, 60)], [(0.25, 1, 60), (1, 2, 62)],
    [(0, 0.5, 60), (0.53, 1, 62)],  # So short a rest is none.
    [(0, 0.5, 60), (1.5, 2, 62)],  # This is one.
    [(0, 1, 60), (0.4, 0.45, 84)],  # A quick note is passed over,
    [(0, 1, 60), (0.4, 0.9, 84)],  # another is not.
    [(0, 1, 72), (0.95, 2, 60)], [(0, 1, 72), (0.5, 2, 60)],
    [(0, 0.3, 60), (0, 2, 48), (0.3, 0.6, 64)]], ids=str)
def test_the_likeliest_melody_is_that_of_all_there_are(rows):
  notes = table(*((10 * a, 10 * b, p) for a, b, p in rows))
  got = melody.likeliest(notes)
  want = likeliest_slowly(rows)
  assert got['pitch'].tolist() == [p for *_, p in want]
  np.testing.assert_allclose(
      np.stack([got['start_s'], got['end_s']], 1),
      [x[:2] for x in want], atol=1e-9)


def test_likeliest_melodies_have_tokens_too():
  notes = table((0, 10, 60), (4, 4.5, 84), (11, 15, 62), (0, 20, 40))
  assert melody.likeliest(notes)['pitch'].tolist() == [60, 62]
  tokens = PIANO.encode(notes, melody.likeliest(notes)).tolist()
  assert tokens == [43, *[2] * 10, 45, *[2] * 8]
  assert PIANO.encode(notes)[4] == 67


@pytest.mark.parametrize('rows, tokens', [
    # A quick note is passed over; one of the same pitch is not.
    ([(0, 4, 76), (0, 12, 48), (4.1, 8, 77), (6.2, 6.6, 90), (8, 12, 79)],
     [59, *[2] * 3, 60, *[2] * 3, 62, *[2] * 3]),
    ([(0, 3, 60), (3, 6, 60), (6, 6.3, 60), (6.3, 9, 60), (0, 9, 40)],
     [43, 2, 2, 43, 2, 2, 43, 3, 2]),
    # Of two in one step the later counts, and what ended before it.
    ([(0, 4.6, 72), (4.6, 5.4, 67), (5.4, 13, 71), (13, 13.4, 72),
      (13.4, 16, 69)], [55, *[2] * 4, 54, *[2] * 7, 52, 3, 2]),
    ([(7, 11, 60), (11, 11.2, 64), (12, 12.1, 64), (20, 23, 62)],
     [*[2] * 7, 43, *[2] * 4, 3, *[2] * 7, 45, 2, 2]),
    # Only a note of the melody takes a whole step at the end.
    ([(0, 10, 72), (9.6, 10, 50)], [55, *[2] * 9]),
    ([(0, 10, 72), (9.6, 10.4, 74)], [55, *[2] * 9, 57])], ids=str)
def test_likeliest_melodies_are_told_as_the_released_code_tells_them(
    rows, tokens):
  """What score2perf and note-seq 0.0.5 make of these notes."""
  notes = table(*rows)
  assert PIANO.encode(notes, melody.likeliest(notes)).tolist() == tokens


def test_of_a_chorale_played_by_hand_the_soprano_is_found():
  """But where it lies below another voice, or is held a little longer."""
  example = synthetic.performance('train', 0)
  notes = midi.parse(example['midi']).notes
  voices = synthetic.chorale('train', 0)['voices'].T
  soprano = voices[0][np.flatnonzero(np.diff(voices[0], prepend=-2))]
  got = PIANO.decode(PIANO.encode(notes))['pitch']
  want = set(itertools.pairwise(soprano.tolist()))
  found = want & set(itertools.pairwise(got.tolist()))
  assert len(found) >= 0.8 * len(want)


@pytest.mark.parametrize('rows, message', [
    ([], 'no notes'),
    ([(0, 1, 20), (0, 1, 60)], r'from 20 to 60.*a melody from 21 to 108; '
     r'transpose by \+1')])
def test_what_has_no_melody_is_refused(rows, message):
  with pytest.raises(errors.UserError, match=message):
    PIANO.encode(table(*rows))


def test_tokens_of_another_vocabulary_are_refused():
  with pytest.raises(errors.UserError, match='token 92 is none'):
    PIANO.decode([92])
