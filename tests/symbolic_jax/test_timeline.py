"""What the token streams share, against plain loops."""

import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from common import errors, midi
from symbolic_jax import timeline


@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
@hypothesis.given(events=strategies.lists(strategies.tuples(
    strategies.integers(0, 3), strategies.booleans()), max_size=40))
def test_the_first_of_a_key_to_begin_ends_first(events):
  key = np.array([k for k, _ in events], int)
  is_end = np.array([e for _, e in events], bool)
  sounds, want = collections.defaultdict(list), {}
  for i, (k, e) in enumerate(events):
    if not e:
      sounds[k].append(i)
      want[i] = -1
    elif sounds[k]:
      want[sounds[k].pop(0)] = i
  start, end = timeline.pair(key, is_end)
  assert dict(zip(start.tolist(), end.tolist(), strict=True)) == want
  assert (np.diff(start) > 0).all()


@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
@hypothesis.given(gaps=strategies.lists(strategies.integers(0, 25)),
                  longest=strategies.integers(1, 10))
def test_waits_fill_the_gaps(gaps, longest):
  step = np.cumsum(np.array(gaps, int))
  events = np.array([[900 + i, -1 if i % 3 else 950, 1000 + i]
                     for i in range(len(gaps))], int).reshape(-1, 3)
  want = []
  for gap, row in zip(gaps, events.tolist(), strict=True):
    while gap > longest:
      want.append(10 + longest - 1)
      gap -= longest
    want += [10 + gap - 1] if gap else []
    want += [x for x in row if x >= 0]
  got = timeline.lay_out(step, events, first_wait=10, longest_wait=longest)
  assert got.tolist() == want and got.dtype == np.int32


def test_ends_of_earlier_notes_come_before_starts_of_later_ones():
  step, number, is_end = timeline.in_order(np.array([0, 3, 3]),
                                           np.array([3, 5, 4]))
  assert list(zip(step.tolist(), number.tolist(), is_end.tolist(),
                  strict=True)) == [
      (0, 0, False), (3, 0, True), (3, 1, False), (3, 2, False), (4, 2, True),
      (5, 1, True)]


def test_halves_of_steps_are_rounded_up_and_notes_last_one_step():
  notes = np.zeros(3, midi.NOTE)
  notes['start_s'] = [0.5, 1.5, 2.4]
  notes['end_s'] = [1.5, 1.6, 2.41]
  start, end = timeline.on_grid(notes, 1)
  assert start.tolist() == [1, 2, 2] and end.tolist() == [2, 3, 3]


@pytest.mark.parametrize('pitches, mend', [
    ((3, 9), r'transpose by \+7'), ((15, 25), 'transpose by -5'),
    ((3, 25), 'leave out the notes beyond')])
def test_pitches_beyond_are_refused_with_what_would_work(pitches, mend):
  with pytest.raises(errors.UserError, match=f'of a toy from 10 to 20; {mend}'):
    timeline.check_pitches(np.array(pitches), 10, 20, 'a toy')
  timeline.check_pitches(np.array([10, 20]), 10, 20, 'a toy')
