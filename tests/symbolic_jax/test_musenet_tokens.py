"""MuseNet's map of tokens: every id, round trips, prefixes, the grammar."""

import functools
import itertools
import pathlib

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from common import errors, midi, sampling
from symbolic_jax import grammar
from symbolic_jax import musenet_tokens as musenet

CLASSICAL = (pathlib.Path(__file__).resolve().parents[3]
             / 'shared/data/classical_midi')
NAMES = ['piano', 'violin', 'cello', 'bass', 'guitar', 'flute', 'clarinet',
         'trumpet', 'harp', 'drums']


def meaning(token):
  """What the demo's client says of an id of 0...4095."""
  block, pitch = divmod(token, 128)
  if block >= 31:
    return 'wait', pitch + 1
  if block == 30:
    return 'drums', pitch, 80
  if block < 14:
    return 'piano', pitch, 8 * block + 16 if block else 0
  return NAMES[1 + (block - 14) // 2], pitch, 0 if block % 2 else 80


def table(*rows):
  """Notes of (start, end, pitch, velocity, program) in units of 10 ms.

  Program -1: drums.
  """
  notes = np.zeros(len(rows), midi.NOTE)
  for note, (start, end, pitch, velocity, program) in zip(
      notes, rows, strict=True):
    note['start_s'], note['end_s'] = start / 100, end / 100
    note['pitch'], note['velocity'] = pitch, velocity
    note['program'], note['is_drum'] = max(program, 0), program < 0
  return notes


def encode_slowly(notes):
  starts = []
  for start, end, pitch, velocity, program, is_drum in notes.tolist():
    name = NAMES[int(musenet.instrument_of(
        np.array([(0, 0, 0, 0, program, is_drum)], midi.NOTE))[0])]
    on, off = (int(t * 100 + 0.5) for t in (start, end))
    starts.append((start, NAMES.index(name), pitch, on, max(off, on + 1), name,
                   velocity))
  events = []
  for i, (_, _, pitch, on, off, name, velocity) in enumerate(
      sorted(starts, key=lambda x: x[:3])):
    loud = 80
    if name == 'piano':
      loud = min(max((velocity + 4) // 8 * 8, 24), 120)
    events.append((on, i, 0, (name, pitch, loud)))
    if name != 'drums':
      events.append((off, i, 1, (name, pitch, 0)))
  tokens, now = [], 0
  for step, _, _, event in sorted(events):
    while now < step:
      wait = min(step - now, 128)
      tokens.append(3968 + wait - 1)
      now += wait
    tokens.append(IDS[event])
  return tokens


IDS = {meaning(token): token for token in range(4096)}


@strategies.composite
def tables(draw):
  return table(*draw(strategies.lists(strategies.tuples(
      strategies.one_of(strategies.integers(0, 4), strategies.integers(0, 600)),
      strategies.integers(0, 300), strategies.sampled_from([0, 60, 61, 127]),
      strategies.integers(1, 127),
      strategies.sampled_from([-1, 0, 24, 32, 40, 42, 46, 56, 64, 72, 100])),
      min_size=1, max_size=20).map(
          lambda rows: [(a, a + b, *rest) for a, b, *rest in rows])))


# ---------------------------------------------------------------- the map


def test_there_are_4096_music_tokens_and_740_others():
  assert len(IDS) == 4096 and musenet.VOCAB == 4836
  assert (musenet.START, musenet.END, musenet.END_SAMPLE) == (4096, 4097, 4098)


@pytest.mark.parametrize('block', range(31))
def test_each_block_is_played_as_the_client_plays_it(block):
  for pitch in (0, 61, 127):
    name, _, volume = meaning(128 * block + pitch)
    # Its start (its own id, or any start of the instrument), then its end.
    start = 128 * block + pitch if volume else IDS[name, pitch, 80]
    tokens = [start, 3968 + 49]
    tokens += [IDS[name, pitch, 0]] if name != 'drums' else []
    note, = musenet.decode(tokens)
    assert NAMES[musenet.instrument_of(note)] == name
    assert note['pitch'] == pitch and note['velocity'] == (volume or 80)
    assert note['is_drum'] == (name == 'drums')
    assert (note['start_s'], note['end_s']) == (
        0, 0.1 if note['is_drum'] else 0.5)
    if name != 'drums':
      np.testing.assert_array_equal(musenet.encode(note[None]), tokens)


def test_programs_of_general_midi_have_the_instruments_of_the_client():
  want = dict.fromkeys(range(128), 'piano')
  for name, programs in {
      'violin': [40, 41, 44, 45, 48, 49, 50, 51], 'cello': [42, 43],
      'bass': range(32, 40), 'guitar': range(24, 32), 'flute': range(72, 80),
      'clarinet': range(64, 72), 'trumpet': range(56, 64),
      'harp': [46]}.items():
    want.update(dict.fromkeys(programs, name))
  notes = np.zeros(129, midi.NOTE)
  notes['program'][:128] = np.arange(128)
  notes['is_drum'][128] = True
  got = [NAMES[i] for i in musenet.instrument_of(notes)]
  assert got == [*want.values(), 'drums']
  assert list(musenet.INSTRUMENTS) == NAMES


def test_volumes_of_the_piano_are_bins_of_eight_halves_up():
  for velocity in range(1, 128):
    token = musenet.encode(table((0, 9, 60, velocity, 0)))[0]
    assert token == 128 * min(max(int(velocity / 8 + 0.5) - 2, 1), 13) + 60
  # Where rounding halves to even would differ.
  assert [int(musenet.encode(table((0, 9, 0, v, 0)))[0]) // 128
          for v in (36, 52, 68, 84, 100, 116)] == [3, 5, 7, 9, 11, 13]


def test_waits_of_more_than_128_units_repeat_the_longest():
  tokens = musenet.encode(table((300, 556, 60, 64, 42)))
  np.testing.assert_array_equal(tokens, [
      4095, 4095, 3968 + 43, 16 * 128 + 60, 4095, 4095, 17 * 128 + 60])


def test_composers_of_the_published_list():
  assert musenet.COMPOSERS['chopin'] == 4226
  assert musenet.COMPOSERS['liszt'] == 4227
  numbers = list(musenet.COMPOSERS.values())
  assert len(set(numbers)) == len(numbers)
  assert min(numbers) == musenet.FIRST_COMPOSER
  assert max(numbers) <= musenet.LAST_COMPOSER == 4835


@pytest.mark.parametrize('given', [
    'chopin', 'Chopin', 'Frédéric Chopin', 'Frédéric Chopin / Franz Liszt'])
def test_composers_are_found_by_their_last_name(given):
  assert musenet.composer_id(given) == 4226


def test_sets_of_instruments_are_sums():
  assert musenet.instruments_id(['drums']) == 4099
  assert musenet.instruments_id(['piano', 'strings']) == 4098 + 64 + 32
  assert musenet.instruments_id(['violin', 'cello', 'piano']) == 4098 + 96
  every = [g for n in range(1, 8)
           for g in itertools.combinations(musenet.GROUPS, n)]
  assert sorted(map(musenet.instruments_id, every)) == list(range(4099, 4226))


def test_the_prefix_is_composer_instruments_start():
  assert musenet.prefix('bach', ['piano', 'strings']).tolist() == [
      4637, 4194, 4096]
  assert musenet.prefix(instruments=['harp']).tolist() == [4102, 4096]
  assert musenet.prefix().tolist() == [4096]


def test_a_file_names_its_own_instruments():
  notes = table((0, 1, 60, 64, 42), (0, 1, 60, 64, 40), (0, 1, 60, 64, -1))
  assert musenet.groups_of(notes) == ['drums', 'strings']


# ---------------------------------------------------------------- round trips


@hypothesis.settings(deadline=None, max_examples=150, derandomize=True)
@hypothesis.given(notes=tables())
def test_encode_equals_a_loop_and_the_second_round_trip_changes_nothing(notes):
  tokens = musenet.encode(notes)
  assert tokens.dtype == np.int32 and tokens.tolist() == encode_slowly(notes)
  once = musenet.encode(musenet.decode(tokens))
  np.testing.assert_array_equal(musenet.encode(musenet.decode(once)), once)


def test_notes_come_back_with_the_programs_of_the_client():
  rows = [(0, 20, 60, 64, 0), (0, 30, 60, 80, 40), (5, 30, 50, 80, 42),
          (5, 40, 40, 80, 32), (6, 40, 52, 80, 24), (7, 50, 80, 80, 73),
          (8, 50, 70, 80, 71), (9, 500, 65, 80, 56), (9, 510, 90, 80, 46),
          (9, 19, 36, 80, -1)]
  np.testing.assert_array_equal(musenet.decode(musenet.encode(table(*rows))),
                                table(*rows))


def test_prefixes_and_ends_are_no_music_and_ends_of_nothing_are_ignored():
  notes = table((0, 20, 60, 64, 0))
  tokens = np.concatenate([musenet.prefix('liszt', ['piano']), [60],
                           musenet.encode(notes), [4097, 4098]])
  np.testing.assert_array_equal(musenet.decode(tokens), notes)
  assert not len(musenet.decode([]))


@pytest.mark.skipif(not CLASSICAL.exists(), reason='needs classical MIDI files')
def test_files_for_many_instruments_reach_a_fixed_point():
  paths = sorted(CLASSICAL.glob('*/*.mid'))[::60]
  played = 0
  for path in paths:
    try:
      notes = midi.read(path)
    except errors.UserError:
      continue
    tokens = musenet.encode(notes)
    once = musenet.encode(musenet.decode(tokens))
    np.testing.assert_array_equal(musenet.encode(musenet.decode(once)), once)
    # No start is lost: only ends of unisons change places.
    starts = lambda x: np.sort(x[[
        meaning(t)[0] != 'wait' and meaning(t)[2] > 0 for t in x.tolist()]])
    assert len(starts(tokens)) == len(notes)
    assert len(starts(once)) >= 0.95 * len(notes)
    played += 1
  assert played > 2


# ---------------------------------------------------------------- bad input


def test_unknown_names_are_refused_with_near_ones():
  with pytest.raises(errors.UserError, match=r"composer=Chopn .*'chopin'"):
    musenet.composer_id('Chopn')
  with pytest.raises(errors.UserError, match=r"instrument vioiln .*'violin'"):
    musenet.instruments_id(['piano', 'vioiln'])
  with pytest.raises(errors.UserError, match='no instruments'):
    musenet.instruments_id([])


def test_tables_without_notes_and_unknown_tokens_are_refused():
  with pytest.raises(errors.UserError, match='no notes'):
    musenet.encode(table())
  with pytest.raises(errors.UserError, match='token 4836 is none'):
    musenet.decode([4836])


def test_a_list_of_composers_can_be_read(tmp_path):
  path = tmp_path / 'tokens.txt'
  path.write_text('4099\tdrums\n4226\tchopin\n4247\tkool & the gang\n'
                  '4723\t----- Internal Server Error -----\n\n4999 x\n')
  names = musenet.read_composers(path)
  assert names == {'chopin': 4226, 'kool & the gang': 4247}
  assert musenet.composer_id('Kool & the Gang', names) == 4247
  with pytest.raises(errors.UserError, match='known: chopin, kool'):
    musenet.composer_id('bach', names)
  path.write_text('chopin, liszt')
  with pytest.raises(errors.UserError, match=r'tokens\.txt is no list'):
    musenet.read_composers(path)
  with pytest.raises(errors.UserError, match='cannot be read'):
    musenet.read_composers(tmp_path / 'missing.txt')


# ---------------------------------------------------------------- grammar

ACCEPTS = jax.jit(functools.partial(grammar.accepts, musenet.GRAMMAR))


def accepted(tokens, pad=128):
  row = np.full((1, -(-len(tokens) // pad) * pad), -1)
  row[0, :len(tokens)] = tokens
  return np.asarray(ACCEPTS(row))[0, :len(tokens)]


@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
@hypothesis.given(notes=tables())
def test_the_grammar_accepts_whatever_encode_writes(notes):
  tokens = np.concatenate([
      musenet.prefix('bach', musenet.groups_of(notes)), musenet.encode(notes),
      [musenet.END] * 2])
  assert accepted(tokens).all()


@pytest.mark.parametrize('good, bad', [
    ([], 200),  # Music before the start.
    ([], musenet.END),
    ([4226], 4226),
    ([4194], 4226),  # The composer comes first.
    ([4194], 4194),
    ([4096], 60),  # The end of what does not sound.
    ([4096, 1 * 128 + 60], 60),  # It would have no length.
    ([4096, 1 * 128 + 60, 3970, 60], 60),
    ([4096, 1 * 128 + 60, 3970], 15 * 128 + 60),  # Of another instrument.
    ([4096, 3970], 3970),  # One wait would do.
    ([4096, 4095, 4095, 3970], 3968),
    ([4098 + 64, 4096], 14 * 128 + 60),  # A violin, where only a piano plays.
    ([4098 + 32, 4096, 14 * 128 + 60, 3970, 15 * 128 + 60], 3840),
    ([4096, 4097], 200),
    ([4096], 4098),
    ([4096], 4226)])
def test_the_grammar_refuses(good, bad):
  assert accepted([*good, bad]).tolist() == [*[True] * len(good), False]


def test_what_is_drawn_under_the_grammar_plays_what_was_asked_for():
  rules, length = musenet.GRAMMAR, 300
  first = musenet.prefix('ragtime', ['piano', 'drums'])
  forced = np.full((3, length), -1)
  forced[:, :len(first)] = first

  @jax.jit
  def draw(keys, forced):
    def step(state, token):
      state = rules.advance(state, token)
      ids = jnp.arange(musenet.VOCAB)[None]
      logits = jnp.where(ids < 128, 4.0, jnp.where(ids >= 3968, 2.0, 0.0))
      logits = jnp.where(ids >= musenet.END, -9.0, logits)
      return state, jnp.where(rules.allowed(state), logits, -jnp.inf)

    return sampling.decode(step, rules.start(3), jnp.full(3, -1), keys, length,
                           forced=forced)

  rows = np.asarray(draw(jax.random.split(jax.random.key(1), 3),
                         jnp.asarray(forced)))
  assert np.asarray(ACCEPTS(rows)).all()
  for row in rows:
    notes = musenet.decode(row)
    assert set(musenet.groups_of(notes)) == {'piano', 'drums'}
    # All that ended was sounding.
    ends = (row < 128).sum()
    melodic = notes[~notes['is_drum']]
    assert 5 < ends <= len(melodic)
