"""Bars and beats: by hand, other meters and tempos, round trips, grammar."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from common import errors, midi, sampling
from symbolic_jax import grammar, remi

R = remi.Remi()
AT_120 = np.arange(400) / 2
TEMPO_120 = 21  # Of TEMPOS: 121.5 beats a minute.


def table(*rows):
  """Notes of (start, length, pitch[, velocity]) in beats of 0.5 s."""
  notes = np.zeros(len(rows), midi.NOTE)
  for note, (start, length, pitch, *velocity) in zip(notes, rows, strict=True):
    note['start_s'], note['end_s'] = start / 2, (start + length) / 2
    note['pitch'] = pitch
    note['velocity'] = velocity[0] if velocity else 64
  return notes


def words(tokens, r=R):
  """'BAR', 'POSITION 0', ...; velocities from 1, durations in 1/32."""
  out = []
  for token in np.asarray(tokens).tolist():
    kind, first = max(
        (x for x in (('PAD', 0), ('END', 1), ('BAR', 2), ('POSITION', 3),
                     ('TEMPO', r.tempo), ('PITCH', r.pitch),
                     ('VELOCITY', r.velocity), ('DURATION', r.duration))
         if x[1] <= token), key=lambda x: x[1])
    base = {'POSITION': 0, 'TEMPO': 0, 'PITCH': r.low}.get(kind, 1)
    out.append(kind if token < 3 else f'{kind} {token - first + base}')
  return out


@strategies.composite
def tables(draw):
  return table(*draw(strategies.lists(strategies.tuples(
      strategies.one_of(strategies.integers(0, 12), strategies.integers(0, 200))
      .map(lambda x: x / 8 + 0.01),
      strategies.one_of(strategies.integers(0, 9), strategies.integers(0, 300))
      .map(lambda x: x / 16),
      strategies.sampled_from([21, 60, 61, 108]), strategies.integers(1, 127)),
      min_size=1, max_size=20)))


def grids():
  """Times of 80 beats, slower and faster ones, some beyond all tempos."""
  return strategies.lists(
      strategies.sampled_from([0.1, 0.26, 0.4, 0.5, 0.5, 0.51, 1.0, 3.0]),
      min_size=80, max_size=80).map(
          lambda x: np.append(0.0, np.cumsum(np.array(x))))


def test_sizes_of_the_vocabulary():
  assert R.vocab == 3 + 16 + 32 + 88 + 32 + 64
  assert remi.Remi(low=0, high=127, meter=(3, 4)).vocab == (
      3 + 12 + 32 + 128 + 32 + 64)


def test_a_piece_by_hand():
  tokens = R.encode(table((0, 1, 60), (0, 0.5, 64, 127), (2.25, 8, 21),
                          (8, 20, 108), (8, 0.01, 60, 1)), AT_120)
  assert words(tokens) == [
      'BAR', 'POSITION 0', f'TEMPO {TEMPO_120}',
      'PITCH 60', 'VELOCITY 16', 'DURATION 8',
      'PITCH 64', 'VELOCITY 32', 'DURATION 4',
      'POSITION 9', 'PITCH 21', 'VELOCITY 16', 'DURATION 64',
      'BAR', 'BAR', 'POSITION 0', 'PITCH 60', 'VELOCITY 1', 'DURATION 1',
      'PITCH 108', 'VELOCITY 16', 'DURATION 64']


@pytest.mark.parametrize('meter, positions, bar, position', [
    ((4, 4), 16, 2, 10), ((3, 4), 12, 3, 6), ((6, 8), 12, 3, 6),
    ((7, 8), 14, 3, 0), ((5, 4), 20, 2, 2), ((2, 2), 16, 2, 10)])
def test_other_meters_have_other_bars(meter, positions, bar, position):
  r = remi.Remi(meter=meter)
  assert r.positions == positions
  # Sixteenth 42 of the piece.
  tokens = words(r.encode(table((10.5, 1, 60)), AT_120), r)
  assert tokens[:3] == ['BAR', 'POSITION 0', f'TEMPO {TEMPO_120}']
  assert tokens.count('BAR') == bar + 1
  assert tokens[-4] == f'POSITION {position}'


def test_tempos_are_told_on_the_beats_where_they_change():
  beats_s = np.cumsum([0, 0.5, 0.5, 1.0, 1.0, 1.0, 0.25, 0.25])
  notes = table((0, 1, 60))
  notes = np.concatenate([notes, notes])
  notes['start_s'][1], notes['end_s'][1] = beats_s[5], beats_s[5] + 0.125
  assert words(R.encode(notes, beats_s)) == [
      'BAR', 'POSITION 0', f'TEMPO {TEMPO_120}', 'PITCH 60', 'VELOCITY 16',
      'DURATION 8', 'POSITION 8', 'TEMPO 10', 'BAR', 'POSITION 4', 'TEMPO 31',
      'PITCH 60', 'VELOCITY 16', 'DURATION 4']
  assert abs(remi.TEMPOS[10] / 60 - 1) < 0.04 and remi.TEMPOS[31] == 240


def test_decoded_times_follow_the_tempo():
  tokens = R.encode(table((0, 1, 60), (6, 2, 62)), AT_120)
  slow = R.tempo + 0  # 30 a minute: 2 s a beat.
  tokens[tokens == R.tempo + TEMPO_120] = slow
  notes, beats_s = R.decode(tokens)
  np.testing.assert_allclose(notes['start_s'], [0, 12])
  np.testing.assert_allclose(notes['end_s'], [2, 16])
  np.testing.assert_allclose(np.diff(beats_s), 2.0)
  assert len(beats_s) >= 9


@hypothesis.settings(deadline=None, max_examples=150, derandomize=True)
@hypothesis.given(notes=tables(), beats_s=grids(),
                  meter=strategies.sampled_from([(4, 4), (3, 4), (7, 8),
                                                 (5, 16)]))
def test_tokens_are_a_fixed_point(notes, beats_s, meter):
  r = remi.Remi(meter=meter)
  tokens = r.encode(notes, beats_s)
  assert tokens.dtype == np.int32
  np.testing.assert_array_equal(r.encode(*r.decode(tokens)), tokens)


@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
@hypothesis.given(notes=tables())
def test_notes_come_back_on_the_grid(notes):
  back, _ = R.decode(R.encode(notes, AT_120))
  beat = 60 / remi.TEMPOS[TEMPO_120]
  want = sorted(
      (int(n['start_s'] * 8 + 0.5), min(max(int(
          (n['end_s'] - n['start_s']) * 16 + 0.5), 1), 64), int(n['pitch']),
       (int(n['velocity']) - 1) // 4 * 4 + 1) for n in notes)
  got = sorted(
      (round(n['start_s'] / beat * 4),
       round((n['end_s'] - n['start_s']) / beat * 8), int(n['pitch']),
       int(n['velocity'])) for n in back)
  assert got == want


@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
@hypothesis.given(tokens=strategies.lists(strategies.integers(0, R.vocab - 1),
                                          max_size=60))
def test_any_tokens_can_be_decoded(tokens):
  notes, beats_s = R.decode(tokens)
  kinds = [word.partition(' ')[0] for word in words(tokens)]
  kinds = [k for k in kinds[:(kinds + ['END']).index('END')] if k != 'PAD']
  assert len(notes) == sum(
      kinds[i:i + 3] == ['PITCH', 'VELOCITY', 'DURATION']
      for i in range(len(kinds)))
  assert (notes['end_s'] > notes['start_s']).all()
  assert (np.diff(beats_s) > 0).all()


def test_beats_of_a_file_are_those_of_its_ticks():
  notes = table((0, 1, 60), (4, 1, 60), (8, 2, 62))
  # 480 ticks a beat, half as fast from beat 4 on.
  ticks = np.array([[0, 480], [1920, 2160], [2880, 3360]])
  notes['start_s'], notes['end_s'] = np.where(
      ticks < 1920, ticks / 960, 2 + (ticks - 1920) / 480).T
  song = midi.Song(notes, ticks, 480, np.zeros(3, int), np.zeros(3, int),
                   np.zeros(0, midi.PEDAL))
  np.testing.assert_allclose(remi.beats(song),
                             [0, 0.5, 1, 1.5, 2, 3, 4, 5, 6])
  tokens = words(R.encode(notes, remi.beats(song)))
  assert tokens.count('TEMPO 10') == 1  # 60 a minute, once.
  with pytest.raises(errors.UserError, match='timed in frames'):
    remi.beats(song._replace(ticks_per_beat=0))
  with pytest.raises(errors.UserError, match='no notes'):
    remi.beats(song._replace(notes=notes[:0]))


def test_a_file_that_we_wrote_has_its_beats(tmp_path):
  notes = table((0, 1, 60), (1, 1, 62), (7, 1, 64))
  midi.write(tmp_path / 'a.mid', notes)
  song = midi.parse((tmp_path / 'a.mid').read_bytes())
  np.testing.assert_allclose(remi.beats(song), np.arange(10) / 2)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize('beats_s', [[0.0], [0, 1, 1], [0, 1, 0.5]])
def test_beats_that_are_no_grid_are_refused(beats_s):
  with pytest.raises(errors.UserError, match='times of the beats'):
    R.encode(table((0, 1, 60)), beats_s)


def test_notes_that_cannot_be_told_are_refused():
  with pytest.raises(errors.UserError, match='no notes'):
    R.encode(table(), AT_120)
  with pytest.raises(errors.UserError, match='from 10 to 10'):
    R.encode(table((0, 1, 10)), AT_120)
  with pytest.raises(errors.UserError, match=r'0\.50 s, before .* 1\.00 s'):
    R.encode(table((1, 1, 60)), AT_120 + 1)
  drums = table((0, 1, 60))
  drums['is_drum'] = True
  with pytest.raises(errors.UserError, match='1 of 1 notes are drums'):
    R.encode(drums, AT_120)
  with pytest.raises(errors.UserError, match='token 235 is none'):
    R.decode([235])


@pytest.mark.parametrize('changes, message', [
    (dict(meter=(4, 3)), 'meter=4/3'), (dict(meter=(0, 4)), 'meter=0/4'),
    (dict(low=70, high=60), 'low=70')])
def test_vocabularies_that_cannot_be_are_refused(changes, message):
  with pytest.raises(errors.UserError, match=message):
    remi.Remi(**changes)


# ---------------------------------------------------------------- grammar

ACCEPTS = jax.jit(lambda r, ends, tokens: grammar.accepts(
    r.grammar(ends), tokens), static_argnums=(0, 1))


def accepted(tokens, r=R, ends=True, pad=128):
  row = np.full((1, -(-len(tokens) // pad) * pad), -1)
  row[0, :len(tokens)] = tokens
  return np.asarray(ACCEPTS(r, ends, row))[0, :len(tokens)]


@hypothesis.settings(deadline=None, max_examples=80, derandomize=True)
@hypothesis.given(notes=tables(), beats_s=grids(),
                  meter=strategies.sampled_from([(4, 4), (7, 8)]))
def test_the_grammar_accepts_whatever_encode_writes(notes, beats_s, meter):
  r = remi.Remi(meter=meter)
  tokens = [*r.encode(notes, beats_s), remi.END, remi.PAD]
  assert accepted(tokens, r).all()


def ids(text):
  of = {word: token for token, word in enumerate(words(range(R.vocab)))}
  return [of[word.strip()] for word in text.split(',') if word.strip()]


@pytest.mark.parametrize('good, bad', [
    ('', 'POSITION 0'), ('', 'PAD'), ('', 'END'),
    ('BAR', 'BAR'),  # The first tempo is told at once.
    ('BAR', 'POSITION 1'), ('BAR', 'PITCH 60'), ('BAR, POSITION 0', 'PITCH 60'),
    ('BAR, POSITION 0, TEMPO 3', 'TEMPO 4'),
    ('BAR, POSITION 0, TEMPO 3', 'POSITION 0'),
    ('BAR, POSITION 0, TEMPO 3, POSITION 4', 'TEMPO 3'),
    ('BAR, POSITION 0, TEMPO 3, POSITION 5', 'TEMPO 4'),  # Not on a beat.
    ('BAR, POSITION 0, TEMPO 3, POSITION 4', 'BAR'),  # With nothing there.
    ('BAR, POSITION 0, TEMPO 3, PITCH 60', 'DURATION 1'),
    ('BAR, POSITION 0, TEMPO 3, PITCH 60, VELOCITY 1', 'PITCH 61'),
    ('BAR, POSITION 0, TEMPO 3, PITCH 60, VELOCITY 1, DURATION 1', 'PITCH 59'),
    ('BAR, POSITION 0, TEMPO 3, PITCH 60, VELOCITY 1, DURATION 1', 'TEMPO 2'),
    ('BAR, POSITION 0, TEMPO 3, BAR, BAR, POSITION 3', 'POSITION 4'),
    ('BAR, POSITION 0, TEMPO 3, BAR', 'END'),
    ('BAR, POSITION 0, TEMPO 3, END', 'BAR'),
    ('BAR, POSITION 0, TEMPO 3, END', 'END')])
def test_the_grammar_refuses(good, bad):
  tokens = ids(f'{good}, {bad}')
  assert accepted(tokens).tolist() == [*[True] * (len(tokens) - 1), False]


def test_the_end_may_be_switched_off():
  tokens = ids('BAR, POSITION 0, TEMPO 3, END')
  assert accepted(tokens)[-1] and not accepted(tokens, ends=False)[-1]


def test_what_is_drawn_under_the_grammar_is_a_fixed_point_after_one_pass():
  r = remi.Remi(meter=(3, 4))
  rules = r.grammar()

  @jax.jit
  def draw(keys):
    def step(state, token):
      state = rules.advance(state, token)
      return state, jnp.where(rules.allowed(state), 0.0, -jnp.inf)

    return sampling.decode(step, rules.start(4), jnp.full(4, -1), keys, 200)

  for row in np.asarray(draw(jax.random.split(jax.random.key(0), 4))):
    assert accepted(row, r, False, pad=200).all()
    kinds = [word.partition(' ')[0] for word in words(row, r)]
    notes, beats_s = r.decode(row)
    # The last note may be cut.
    assert 0 <= kinds.count('PITCH') - len(notes) <= 1 < len(notes)
    again = r.encode(notes, beats_s)
    np.testing.assert_array_equal(r.encode(*r.decode(again)), again)
    kept = [word.partition(' ')[0] for word in words(again, r)]
    assert kept.count('PITCH') == len(notes)
