"""Chorale tokens: order, ids, round trips, notes of a user's file."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from common import errors, midi
from symbolic_jax import chorales

PROGRAMS = [40, 41, 42, 43]
JSB = (pathlib.Path(__file__).resolve().parents[3]
       / 'shared/data/jsb_chorales/Jsb16thSeparated.json')


def random_voices(rng, steps):
  voices = rng.integers(36, 82, (steps, 4))
  return np.where(rng.random((steps, 4)) < 0.2, chorales.REST, voices)


def table(*rows):
  """Notes of (start, end, pitch[, program[, is_drum]]) in steps of 0.25 s."""
  notes = np.zeros(len(rows), midi.NOTE)
  for note, (start, end, pitch, *rest) in zip(notes, rows, strict=True):
    note['start_s'], note['end_s'] = start * 0.25, end * 0.25
    note['pitch'], note['velocity'] = pitch, 80
    if rest:
      note['program'] = rest[0]
    note['is_drum'] = len(rest) > 1
  return notes


def read(*rows):
  return chorales.from_notes(table(*rows), 0.25, PROGRAMS)


def test_three_steps_are_twelve_tokens_in_order_s_a_t_b():
  voices = np.array([[72, 67, 64, 48], [74, 67, 62, -1], [81, 52, 46, 36]])
  np.testing.assert_array_equal(
      chorales.encode(voices),
      [38, 33, 30, 14, 40, 33, 28, 1, 47, 18, 12, 2])


def test_forty_eight_ids():
  assert chorales.VOCAB == 48
  ids = chorales.encode(np.array([[-1, 36, 60, 81]]))
  np.testing.assert_array_equal(ids, [1, 2, 26, 47])
  assert chorales.PAD == 0


@pytest.mark.parametrize('seed', range(5))
def test_decode_inverts_encode(seed):
  rng = np.random.default_rng(seed)
  voices = random_voices(rng, int(rng.integers(1, 300)))
  tokens = chorales.encode(voices)
  assert tokens.dtype == np.int32 and tokens.shape == (4 * len(voices),)
  np.testing.assert_array_equal(chorales.decode(tokens), voices)


def test_decoding_jax_arrays_and_batches_is_the_same():
  voices = random_voices(np.random.default_rng(0), 24)
  tokens = chorales.encode(voices).reshape(2, 48)
  decoded = chorales.decode(jnp.asarray(tokens))
  np.testing.assert_array_equal(decoded, voices.reshape(2, 12, 4))
  np.testing.assert_array_equal(
      chorales.roll(decoded),
      chorales.roll(voices.reshape(2, 12, 4)))


def test_padding_is_silent():
  voices = chorales.decode(np.zeros(8, np.int32))
  np.testing.assert_array_equal(voices, np.full((2, 4), chorales.REST))
  assert not chorales.roll(voices).any()


def test_the_roll_has_one_pitch_per_sounding_voice():
  voices = random_voices(np.random.default_rng(1), 50)
  roll = chorales.roll(voices)
  assert roll.shape == (50, 128, 4) and roll.dtype == bool
  want = np.zeros((50, 128, 4), bool)
  for t, row in enumerate(voices):
    for v, pitch in enumerate(row):
      if pitch != chorales.REST:
        want[t, pitch, v] = True
  np.testing.assert_array_equal(roll, want)


def test_voices_survive_notes_and_a_midi_file(tmp_path):
  voices = random_voices(np.random.default_rng(2), 64)
  voices[0] = [72, 66, 60, 40]  # No silence at either end.
  voices[-1] = voices[0]
  notes = midi.from_roll(chorales.roll(voices), 0.125, PROGRAMS)
  midi.write(tmp_path / 'a.mid', notes)
  for given in (notes, midi.read(tmp_path / 'a.mid')):
    np.testing.assert_array_equal(
        chorales.from_notes(given, 0.125, PROGRAMS), voices)


def test_programs_of_the_model_name_the_voices_even_where_they_cross():
  np.testing.assert_array_equal(
      read((0, 2, 50, 40), (0, 1, 60, 43)), [[50, -1, -1, 60],
                                             [50, -1, -1, -1]])


def test_other_programs_are_ranked_by_pitch():
  np.testing.assert_array_equal(
      read((0, 2, 50, 40), (0, 1, 60, 0), (1, 2, 70, 0), (1, 2, 40, 0)),
      [[60, 50, -1, -1], [70, 50, 40, -1]])


def test_chords_of_one_program_are_ranked_by_pitch():
  np.testing.assert_array_equal(
      read((0, 1, 48, 42), (0, 1, 72, 42), (0, 1, 64, 42), (0, 1, 67, 42)),
      [[72, 67, 64, 48]])


def test_a_melody_is_the_soprano_and_leading_silence_is_cut():
  np.testing.assert_array_equal(
      read((3, 4, 60), (5, 5.1, 62)),  # Short notes last a step.
      [[60, -1, -1, -1], [-1, -1, -1, -1], [62, -1, -1, -1]])


def test_drums_are_left_out():
  np.testing.assert_array_equal(
      read((0, 1, 60), (0, 4, 10, 0, 'drum')), [[60, -1, -1, -1]])


def test_files_without_notes_are_refused():
  with pytest.raises(errors.UserError, match='no notes'):
    read()
  with pytest.raises(errors.UserError, match='no notes'):
    read((0, 1, 40, 0, 'drum'))


def test_more_than_four_notes_at_once_are_refused_with_the_time():
  chord = [(4, 6, pitch) for pitch in (50, 55, 60, 65)]
  with pytest.raises(errors.UserError, match=r'^5 notes sound .* 1\.00 s'):
    read((0, 8, 38), *chord)


@pytest.mark.parametrize('pitches, mend', [
    ((30, 50), r'from 30 to 50.*36 to 81; transpose by \+6 semitones'),
    ((60, 90), r'from 60 to 90.*transpose by -9 semitones'),
    ((30, 90), r'from 30 to 90.*leave out')])
def test_pitches_out_of_range_are_refused_with_what_would_work(pitches, mend):
  with pytest.raises(errors.UserError, match=mend):
    read(*((0, 1, p) for p in pitches))
  with pytest.raises(errors.UserError, match=mend):
    chorales.encode(np.array([[*pitches, -1, -1]]))


def test_transposition_moves_all_voices_and_stops_at_the_range():
  voices = np.array([[79, 60, -1, 38]])
  np.testing.assert_array_equal(
      chorales.transpose(voices, 1), [[80, 61, -1, 39]])
  np.testing.assert_array_equal(
      chorales.transpose(voices, 5), [[81, 62, -1, 40]])
  np.testing.assert_array_equal(
      chorales.transpose(voices, -5), [[77, 58, -1, 36]])
  rests = np.full((3, 4), -1)
  np.testing.assert_array_equal(chorales.transpose(rests, 5), rests)


def test_anything_but_padding_may_be_drawn():
  rules = chorales.GRAMMAR
  state = rules.advance(rules.start(2), jnp.array([3, 40]))
  np.testing.assert_array_equal(rules.allowed(state), [[0] + [1] * 47] * 2)


@pytest.fixture(scope='module')
def jsb():
  if not JSB.exists():
    pytest.skip('needs Jsb16thSeparated.json')
  return {name: [chorales.encode(np.array(piece)) for piece in pieces]
          for name, pieces in json.loads(JSB.read_text()).items()}


def test_the_jsb_chorales_have_the_published_sizes(jsb):
  assert {name: (len(pieces), sum(map(len, pieces)))
          for name, pieces in jsb.items()} == {
              'train': (229, 220_912), 'valid': (76, 73_632),
              'test': (77, 75_600)}
  assert {name: [sum(len(p) > n for p in pieces) for n in (1024, 2048)]
          for name, pieces in jsb.items()} == {
              'train': [86, 1], 'valid': [24, 3], 'test': [25, 2]}
  assert len(np.unique(np.concatenate(jsb['train']))) == 47
  steps = np.concatenate([
      tokens for pieces in jsb.values() for tokens in pieces]).reshape(-1, 4)
  assert (steps == chorales.REST_ID).sum(0).tolist() == [281, 316, 347, 340]


@pytest.mark.parametrize('model, prior, valid, test', [
    ('unigram', 1.0, 3.391, 3.403), ('voice', 1.0, 2.611, 2.639),
    ('bigram', 0.1, 0.934, 0.983), ('bigram', 1.0, 0.944, 0.994)])
def test_trivial_models_of_jsb_have_the_published_likelihoods(
    jsb, model, prior, valid, test):
  """Nats per token, counts over 47 symbols fitted on train.

  The bigram is one of each voice, with a symbol of its own (0) before a piece.
  """
  def places(split):  # Voice, symbol before, symbol: [T, 4] of each piece.
    for tokens in jsb[split]:
      steps = tokens.reshape(-1, 4)
      voice = np.broadcast_to(np.arange(4), steps.shape)
      before = np.concatenate([np.zeros((1, 4), int), steps[:-1]])
      yield (voice * (model != 'unigram'), before * (model == 'bigram'), steps)

  count = np.full((4, 48, 48), prior)
  count[..., 0] = 0
  for where in places('train'):
    np.add.at(count, where, 1)
  nll = -np.log(count[..., 1:] / count[..., 1:].sum(-1, keepdims=True))
  for split, want in (('valid', valid), ('test', test)):
    found = [nll[v, b, s - 1] for v, b, s in places(split)]
    np.testing.assert_allclose(np.concatenate(found).mean(), want, atol=5e-4)
