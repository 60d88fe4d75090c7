"""common/metrics/pitch.py: by hand, and on notes of known pitch."""

import numpy as np
import pytest

from common.data import synthetic
from common.metrics import pitch

P = [(.9, .1, 0), (.2, .7, .1), (.1, .1, .8)]


def test_accuracy_and_entropy_of_three_rows():
  assert pitch.accuracy(P, [0, 1, 0]) == pytest.approx(2 / 3)
  assert pitch.entropy(P) == pytest.approx(.588644, abs=1e-6)  # Nats.


def test_entropy_is_of_each_row_not_of_their_mean():
  assert pitch.entropy(np.eye(5)) == 0
  assert pitch.entropy(np.full((3, 5), .2)) == pytest.approx(np.log(5))


def tone(midi, rate=16000, seconds=1.0):
  t = np.arange(int(rate * seconds)) / rate
  f = 440 * 2 ** ((midi - 69) / 12)
  return sum(np.sin(2 * np.pi * f * k * t) / k for k in range(1, 7)
             if k * f < rate / 2)


@pytest.mark.parametrize('rate', [16000, 22050, 48000])
def test_estimates_of_tones_are_right_to_a_quarter_of_a_semitone(rate):
  want = np.array([24, 36.3, 60, 84, 100])
  got = pitch.estimate(np.stack([tone(m, rate) for m in want]), rate)
  np.testing.assert_allclose(got, want, atol=0.25)


def test_estimates_of_notes_are_their_pitch():
  notes = [synthetic.note('valid', i) for i in range(8)]
  got = pitch.estimate([n['audio'] for n in notes], 16000)
  assert pitch.agreement(got, [n['pitch'] for n in notes]) == 1


def test_silence_has_no_pitch_and_agrees_with_none():
  got = pitch.estimate(np.zeros((1, 16000)), 16000)
  assert np.isnan(got).all() and pitch.agreement(got, [60]) == 0


def test_agreement_is_within_half_a_semitone():
  assert pitch.agreement([60.4, 59.6, 60.6, np.nan, 72], [60] * 5) == .4
