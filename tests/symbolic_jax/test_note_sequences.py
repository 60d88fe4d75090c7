"""Pitch, step and duration: by hand, and back again."""

import numpy as np
import pytest

from common import errors, midi
from symbolic_jax import note_sequences


def table(*rows):
  notes = np.zeros(len(rows), midi.NOTE)
  for note, (start, end, pitch) in zip(notes, rows, strict=True):
    note['start_s'], note['end_s'], note['pitch'] = start, end, pitch
  return notes


def test_steps_are_from_start_to_start_in_order_of_time():
  triples = note_sequences.encode(
      table((2.5, 3, 62), (1, 4, 60), (2.5, 2.75, 50)))
  assert triples.dtype == np.float32
  np.testing.assert_array_equal(
      triples, [[60, 0, 3], [50, 1.5, 0.25], [62, 0, 0.5]])


def test_notes_come_back_without_the_silence_before_them():
  rng = np.random.default_rng(0)
  start = np.sort(rng.uniform(3, 600, 5000))
  notes = table(*zip(start, start + rng.uniform(0.01, 9, 5000),
                     rng.integers(0, 128, 5000), strict=True))
  back = note_sequences.decode(note_sequences.encode(notes), velocity=70,
                               program=4)
  np.testing.assert_array_equal(back['pitch'], notes['pitch'])
  for field in ('start_s', 'end_s'):
    np.testing.assert_allclose(back[field], notes[field] - start[0], atol=1e-4)
  assert (back['velocity'] == 70).all() and (back['program'] == 4).all()
  again = note_sequences.encode(back)
  np.testing.assert_allclose(again, note_sequences.encode(notes), atol=2e-5)


def test_what_a_model_says_beyond_reason_is_mended():
  back = note_sequences.decode([[60.4, -1, 2], [200, 0.5, 1], [-3, 1, 1],
                                [64, 1, 0], [64, 1, -2], [65, 1, 1]])
  assert back['pitch'].tolist() == [60, 127, 0, 65]
  assert back['start_s'].tolist() == [0, 0.5, 1.5, 4.5]
  assert back['end_s'].tolist() == [2, 1.5, 2.5, 5.5]


def test_tables_without_notes_and_drums_are_refused():
  with pytest.raises(errors.UserError, match='no notes'):
    note_sequences.encode(table())
  drums = table((0, 1, 36))
  drums['is_drum'] = True
  with pytest.raises(errors.UserError, match='1 of 1 notes are drums'):
    note_sequences.encode(drums)
