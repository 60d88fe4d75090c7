"""Performance events: the encoder's rules as plain loops, and the grammar."""

import collections
import csv
import io
import itertools
import pathlib
import zipfile

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from common import errors, midi, sampling
from symbolic_jax import events, grammar

MAESTRO = (pathlib.Path(__file__).resolve().parents[3]
           / 'shared/data/maestro/maestro-v3.0.0-midi.trainval.zip')
PIANO = events.Events()


def table(*rows):
  """Notes of (start_s, end_s, pitch[, velocity])."""
  notes = np.zeros(len(rows), midi.NOTE)
  for note, (start, end, pitch, *velocity) in zip(notes, rows, strict=True):
    note['start_s'], note['end_s'], note['pitch'] = start, end, pitch
    note['velocity'] = velocity[0] if velocity else 64
  return notes


def names(tokens, vocabulary=PIANO):
  return [vocabulary.name(token) for token in np.asarray(tokens).tolist()]


def encode_slowly(notes, v=PIANO):
  """The rules one by one."""
  notes = sorted(notes.tolist(), key=lambda note: (note[0], note[2]))
  events_ = []
  for number, note in enumerate(notes):
    start, end = (int(t * v.steps_per_s + 0.5) for t in note[:2])
    if end == start:
      end += 1
    events_ += [(start, number, False), (end, number, True)]
  tokens, now, level = [], 0, None
  for step, number, is_end in sorted(events_):
    _, _, pitch, velocity, *_ = notes[number]
    while step - now > v.steps_per_s:
      tokens.append(v.shift + v.steps_per_s - 1)
      now += v.steps_per_s
    if step > now:
      tokens.append(v.shift + step - now - 1)
      now = step
    if is_end:
      tokens.append(v.off + pitch - v.low)
      continue
    this = (velocity - 1) // v.bin_size + 1
    if v.velocities and this != level:
      tokens.append(v.velocity + this - 1)
      level = this
    tokens.append(v.on + pitch - v.low)
  return tokens


def decode_slowly(tokens, v=PIANO):
  """(start, end, pitch, velocity) in steps, and the ends that end nothing."""
  sounds, notes = collections.defaultdict(list), []
  now, velocity, idle = 0, 100, 0
  for token in tokens:
    kind, _, value = v.name(int(token)).partition(' ')
    value = int(value or 0)
    if kind == 'SHIFT':
      now += value
    elif kind == 'VELOCITY':
      velocity = 1 + v.bin_size * (value - 1)
    elif kind == 'ON':
      sounds[value].append((now, velocity))
    elif kind == 'OFF' and sounds[value]:
      start, loud = sounds[value].pop(0)
      notes.append((start, now, value, loud))
    elif kind == 'OFF':
      idle += 1
  for pitch, left in sounds.items():
    notes += [(start, now, pitch, loud) for start, loud in left]
  return sorted(n for n in notes if n[1] > n[0]), idle


def in_steps(notes, v=PIANO):
  return sorted((round(s * v.steps_per_s), round(e * v.steps_per_s), p, loud)
                for s, e, p, loud, *_ in notes.tolist())


@strategies.composite
def tables(draw, low=21, high=108):
  """Many ties, unisons, notes without length, halves of steps, long gaps."""
  rows = draw(strategies.lists(strategies.tuples(
      strategies.one_of(strategies.integers(0, 8), strategies.integers(0, 900),
                        strategies.sampled_from([200, 400, 402, 1000])),
      strategies.integers(0, 300),
      strategies.one_of(strategies.sampled_from([low, 60, 61, high]),
                        strategies.integers(low, high)),
      strategies.integers(1, 127)), min_size=1, max_size=25))
  return table(*((a * 0.005, (a + b) * 0.005, pitch, loud)
                 for a, b, pitch, loud in rows))


VOCABULARIES = {
    310: PIANO,
    390: events.Events(low=0, high=127),
    388: events.Events(low=0, high=127, reserved=0),
    413: events.Events(low=0, high=127, reserved=0, steps_per_s=125),
    356: events.Events(low=0, high=127, reserved=0, velocities=0)}


# ---------------------------------------------------------------- vocabulary


@pytest.mark.parametrize('size', VOCABULARIES)
def test_published_vocabulary_sizes(size):
  v = VOCABULARIES[size]
  assert v.vocab == size
  assert len({v.name(token) for token in range(size)}) == size


def test_ids_are_reserved_then_on_off_shift_velocity():
  assert names([0, 1, 2, 89, 90, 177, 178, 277, 278, 309]) == [
      'PAD', 'END', 'ON 21', 'ON 108', 'OFF 21', 'OFF 108', 'SHIFT 1',
      'SHIFT 100', 'VELOCITY 1', 'VELOCITY 32']
  whole = VOCABULARIES[388]
  assert names([0, 127, 128, 255, 256, 355, 356, 387], whole) == [
      'ON 0', 'ON 127', 'OFF 0', 'OFF 127', 'SHIFT 1', 'SHIFT 100',
      'VELOCITY 1', 'VELOCITY 32']


@pytest.mark.parametrize('velocity, level, back', [
    (64, 16, 61), (127, 32, 125), (1, 1, 1), (4, 1, 1), (5, 2, 5)])
def test_velocities_are_thirty_two_bins_of_four(velocity, level, back):
  tokens = PIANO.encode(table((0, 1, 60, velocity)))
  assert names(tokens)[0] == f'VELOCITY {level}'
  assert PIANO.decode(tokens)['velocity'] == back


def test_a_gap_of_257_steps_is_100_100_57_and_one_of_100_is_one_shift():
  assert names(PIANO.encode(table((2.57, 4.57, 60)))) == [
      'SHIFT 100', 'SHIFT 100', 'SHIFT 57', 'VELOCITY 16', 'ON 60',
      'SHIFT 100', 'SHIFT 100', 'OFF 60']


def test_a_piece_by_hand():
  # The second note begins as the first ends: the end comes first. Velocity is
  # told for the chord once; 0.004 s are no step, and a note lasts one at least.
  notes = table((0.5, 0.6, 64, 70), (0.0, 0.5, 60, 80), (0.5, 0.504, 60, 72))
  assert names(PIANO.encode(notes)) == [
      'VELOCITY 20', 'ON 60', 'SHIFT 50', 'OFF 60', 'VELOCITY 18', 'ON 60',
      'ON 64', 'SHIFT 1', 'OFF 60', 'SHIFT 9', 'OFF 64']


def test_notes_are_ordered_by_their_start_before_it_is_rounded():
  notes = table((0.102, 0.5, 60), (0.101, 0.5, 72))
  assert names(PIANO.encode(notes))[2:4] == ['ON 72', 'ON 60']


def test_steps_of_8_ms_are_told_by_125_shifts():
  v = VOCABULARIES[413]
  tokens = v.encode(table((0.016, 1.016, 60)))
  assert names(tokens, v) == ['SHIFT 2', 'VELOCITY 16', 'ON 60', 'SHIFT 125',
                              'OFF 60']
  assert in_steps(v.decode(tokens), v) == [(2, 127, 60, 61)]


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize('size', VOCABULARIES)
@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
@hypothesis.given(notes=tables())
def test_encode_equals_the_rules_one_by_one(size, notes):
  v = VOCABULARIES[size]
  tokens = v.encode(notes)
  assert tokens.dtype == np.int32
  assert tokens.tolist() == encode_slowly(notes, v)


@pytest.mark.parametrize('size', VOCABULARIES)
@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
@hypothesis.given(data=strategies.data())
def test_decode_of_any_tokens_equals_a_loop(size, data):
  v = VOCABULARIES[size]
  few = [v.on + 60 - v.low, v.off + 60 - v.low, v.off + 61 - v.low,
         v.on + 61 - v.low, v.shift + 4]
  tokens = data.draw(strategies.lists(strategies.one_of(
      strategies.sampled_from(few), strategies.integers(v.reserved,
                                                        v.vocab - 1))))
  assert in_steps(v.decode(tokens), v) == decode_slowly(tokens, v)[0]


@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
@hypothesis.given(notes=tables())
def test_the_second_round_trip_changes_nothing(notes):
  once = PIANO.encode(PIANO.decode(PIANO.encode(notes)))
  np.testing.assert_array_equal(PIANO.encode(PIANO.decode(once)), once)


def test_notes_come_back_but_for_rounding():
  rng = np.random.default_rng(0)
  rows = []
  for pitch in range(21, 109):  # No note meets another of its pitch.
    times = np.cumsum(rng.uniform(0.02, 3, 20))
    rows += [(a, b, pitch, int(rng.integers(1, 128)))
             for a, b in zip(times[::2], times[1::2], strict=True)]
  notes = table(*rows)
  want = sorted((int(a * 100 + 0.5), int(b * 100 + 0.5), pitch,
                 (loud - 1) // 4 * 4 + 1) for a, b, pitch, loud in rows)
  assert in_steps(PIANO.decode(PIANO.encode(notes))) == want


def test_of_two_notes_of_a_pitch_the_first_ends_first():
  notes = PIANO.decode(PIANO.encode(table((0, 0.9, 60, 1), (0.1, 0.5, 60, 9))))
  assert in_steps(notes) == [(0, 50, 60, 1), (10, 90, 60, 9)]


def test_notes_that_never_end_last_to_the_last_step_or_so_long():
  v = PIANO
  tokens = [v.on + 39, *[v.shift + 99] * 8, v.on + 40, v.shift + 99]
  assert in_steps(v.decode(tokens)) == [(0, 900, 60, 100), (800, 900, 61, 100)]
  assert in_steps(v.decode(tokens, hang_s=5.0)) == [
      (0, 500, 60, 100), (800, 900, 61, 100)]


def test_padding_and_what_follows_the_end_are_left_out():
  tokens = PIANO.encode(table((0, 1, 60)))
  more = np.concatenate([[events.PAD], tokens, [events.END], tokens])
  np.testing.assert_array_equal(PIANO.decode(more), PIANO.decode(tokens))


def test_decoding_nothing_gives_no_notes():
  assert len(PIANO.decode([])) == len(PIANO.decode([events.END])) == 0


# ---------------------------------------------------------------- bad input


def test_tables_without_notes_are_refused():
  with pytest.raises(errors.UserError, match='no notes'):
    PIANO.encode(table())


def test_drums_are_refused_with_their_number():
  notes = table((0, 1, 60), (0, 1, 61))
  notes['is_drum'][1] = True
  with pytest.raises(errors.UserError, match='1 of 2 notes are drums'):
    PIANO.encode(notes)


def test_pitches_out_of_range_are_refused_with_what_would_work():
  with pytest.raises(errors.UserError, match=r'from 20 to 60.*21 to 108; '
                     r'transpose by \+1 semitones'):
    PIANO.encode(table((0, 1, 20), (0, 1, 60)))
  assert len(VOCABULARIES[390].encode(table((0, 1, 20))))


@pytest.mark.parametrize('changes, message', [
    (dict(low=60, high=50), 'low=60, high=50'), (dict(high=128), 'high=128'),
    (dict(steps_per_s=0), 'steps_per_s=0'), (dict(velocities=128), '128'),
    (dict(reserved=1), 'reserved=1')])
def test_vocabularies_that_cannot_be_are_refused(changes, message):
  with pytest.raises(errors.UserError, match=message):
    events.Events(**changes)


def test_tokens_of_another_vocabulary_are_refused():
  with pytest.raises(errors.UserError, match=r'token 387 is none .* of 310'):
    PIANO.decode([5, 387])
  with pytest.raises(errors.UserError, match='token -1'):
    PIANO.decode([-1])


def test_select_holds_notes_by_the_pedal_and_drops_those_out_of_range():
  notes = table((0, 1, 60), (0.5, 1, 20))
  pedal = np.array([(0.2, 0, True), (2.0, 0, False)], midi.PEDAL)
  song = midi.Song(notes, np.zeros((2, 2), int), 480, np.zeros(2, int),
                   np.zeros(2, int), pedal)
  selected = PIANO.select(song)
  assert selected['pitch'] == 60 and selected['end_s'] == 2.0
  assert len(VOCABULARIES[390].select(song)) == 2


# ---------------------------------------------------------------- grammar


def accepted(tokens, v=PIANO, ends=False, pad=256):
  """Padded to one length, so that it compiles once."""
  tokens = np.asarray(tokens)
  row = np.full(-(-len(tokens) // pad) * pad, -1)
  row[:len(tokens)] = tokens
  good = ACCEPTS(v, ends, row[None])
  return np.asarray(good)[0, :len(tokens)]


ACCEPTS = jax.jit(
    lambda v, ends, tokens: grammar.accepts(v.grammar(ends), tokens),
    static_argnums=(0, 1))


@hypothesis.settings(deadline=None, max_examples=100, derandomize=True)
@hypothesis.given(notes=tables())
def test_the_grammar_accepts_whatever_encode_writes(notes):
  for v in (PIANO, VOCABULARIES[356]):
    assert accepted(v.encode(notes), v).all()
  tokens = [*PIANO.encode(notes), events.END, events.PAD, events.PAD]
  assert accepted(tokens, ends=True).all()


def ids(*names_):
  of = {PIANO.name(token): token for token in range(PIANO.vocab)}
  return [of[name] for name in names_]


A_NOTE = 'VELOCITY 3', 'ON 60', 'SHIFT 9', 'OFF 60'


@pytest.mark.parametrize('good, bad', [
    ([], 'ON 60'),  # Its velocity was not told.
    ([], 'OFF 60'),
    ([], 'PAD'),
    (['VELOCITY 3'], 'SHIFT 1'),
    (['VELOCITY 3'], 'VELOCITY 4'),
    (['VELOCITY 3', 'ON 60'], 'VELOCITY 3'),  # It is 3 already.
    (['VELOCITY 3', 'ON 60'], 'OFF 60'),  # It would have no length.
    (['VELOCITY 3', 'ON 60', 'SHIFT 9'], 'SHIFT 9'),  # SHIFT 18 says it.
    (['VELOCITY 3', 'ON 60', 'SHIFT 9'], 'OFF 61'),
    (['VELOCITY 3', 'ON 60', 'SHIFT 9', 'OFF 60'], 'OFF 60'),
    (['VELOCITY 3', 'ON 60', 'SHIFT 9', 'ON 60', 'OFF 60'], 'OFF 60'),
    (['VELOCITY 3', 'ON 60', 'SHIFT 9'], 'END'),  # Something sounds.
    (['SHIFT 100', 'SHIFT 100', 'SHIFT 9'], 'SHIFT 1'),
    ([], 'END'),  # Nothing was played.
    (['SHIFT 9'], 'END'),
    ([*A_NOTE, 'END'], 'SHIFT 1'),
    ([*A_NOTE, 'END'], 'END')])
def test_the_grammar_refuses(good, bad):
  assert accepted(ids(*good, bad), ends=True).tolist() == [
      *[True] * len(good), False]


def test_the_end_may_be_switched_off():
  piece = ids(*A_NOTE, 'END')
  assert accepted(piece, ends=True).all() and not accepted(piece)[-1]


def test_the_grammar_follows_primers_it_would_not_have_written():
  # Cut from the middle of a piece: an end without a start, and no velocity.
  good = accepted(ids('OFF 60', 'ON 62', 'SHIFT 9', 'OFF 62', 'OFF 60'))
  assert good.tolist() == [False, False, True, True, False]


def test_what_is_drawn_under_the_grammar_is_well_formed():
  rules = PIANO.grammar()

  @jax.jit
  def draw(keys):
    def step(state, token):
      state = rules.advance(state, token)
      # Ends are likely, so that the masks have work to do.
      logits = jnp.where(jnp.arange(310) < 90, 1.0, 3.0)[None]
      return state, jnp.where(rules.allowed(state), logits, -jnp.inf)

    return sampling.decode(step, rules.start(4), jnp.full(4, -1), keys, 400)

  rows = np.asarray(draw(jax.random.split(jax.random.key(0), 4)))
  for row in rows:
    assert accepted(row, pad=400).all()
    notes, idle = decode_slowly(row)
    assert not idle  # Each end ends a note.
    starts = sum(name.startswith('ON') for name in names(row))
    last = max(end for _, end, _, _ in notes)
    # Only what began in the last step can have no length.
    assert starts - len(notes) <= 5 and starts > 30
    assert in_steps(PIANO.decode(row)) == notes and last > 400
  assert len({tuple(row) for row in rows}) == 4


# ---------------------------------------------------------------- real files


def maestro(*splits):
  """(split, notes) of each file of MAESTRO v3."""
  if not MAESTRO.exists():
    pytest.skip(f'needs MAESTRO v3: {MAESTRO.name}')
  with zipfile.ZipFile(MAESTRO) as archive:
    folder = 'maestro-v3.0.0/'
    rows = csv.DictReader(io.StringIO(
        archive.read(f'{folder}maestro-v3.0.0.csv').decode()))
    for row in rows:
      if row['split'] in splits:
        song = midi.parse(archive.read(folder + row['midi_filename']))
        yield row['split'], PIANO.select(song)


def test_maestro_has_the_published_counts_and_trivial_likelihoods():
  tokens, notes = {'train': [], 'validation': []}, collections.Counter()
  for split, played in maestro(*tokens):
    notes[split] += len(played)
    # From NOTE_ON 21 = 0 on.
    tokens[split].append((PIANO.encode(played) - 2).astype(np.int16))
  assert dict(notes) == {'train': 5_659_329, 'validation': 639_425}
  for split, total, mean, median, least, most, short in (
      ('train', 22_885_711, 23_790, 19_751.5, 580, 103_939, 3),
      ('validation', 2_591_657, 18_917, 11_678, 1_993, 97_334, 1)):
    sizes = np.array([len(x) for x in tokens[split]])
    assert sizes.sum() == total and round(sizes.mean()) == mean
    assert (np.median(sizes), sizes.min(), sizes.max()) == (median, least, most)
    assert (sizes < 2048).sum() == short
  train, valid = (np.concatenate(tokens[s]) for s in ('train', 'validation'))
  count = np.bincount(train, minlength=308)
  assert (count > 0).all()
  assert [part.sum() for part in np.split(count, [88, 176, 276])] == [
      5_659_329, 5_659_329, 6_622_872, 4_944_181]
  assert count[275] == 49_647  # Of a whole second.

  count = count + 1.0
  np.testing.assert_allclose(-np.log(count / count.sum())[valid].mean(), 4.889,
                             atol=5e-4)

  def before(pieces):  # 308 before the first token of a piece.
    return np.concatenate([np.append(308, x[:-1]) for x in pieces])

  count = np.bincount(before(tokens['train']) * 308 + train,
                      minlength=309 * 308).reshape(309, 308) + 0.1
  nll = -np.log(count / count.sum(1, keepdims=True))
  np.testing.assert_allclose(nll[before(tokens['validation']), valid].mean(),
                             4.093, atol=5e-4)


def test_maestro_survives_the_round_trip_and_obeys_the_grammar():
  for _, played in itertools.islice(maestro('validation'), 12):
    tokens = PIANO.encode(played)
    assert tokens.tolist() == encode_slowly(played)
    notes = PIANO.decode(tokens)
    start, end = ((played[x] * 100 + 0.5).astype(int)
                  for x in ('start_s', 'end_s'))
    want = np.stack([start, np.maximum(end, start + 1), played['pitch'],
                     (played['velocity'] - 1) // 4 * 4 + 1], 1)
    np.testing.assert_array_equal(
        in_steps(notes), want[np.lexsort(want.T[::-1])])
    # In another order at first, which then stays.
    again = PIANO.encode(notes)
    assert len(again) != len(tokens) or (again != tokens).any()
    np.testing.assert_array_equal(PIANO.encode(PIANO.decode(again)), again)
    assert accepted(tokens[:2048], pad=2048).all()
