"""The vectors of time and structure, mixup, prefixes; cached is uncached."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common import errors, generate, midi
from common.data import synthetic
from symbolic_jax import (
    grammar,
    language_model,
    musenet,
    musenet_tokens,
    pieces,
)

START, END = musenet_tokens.START + 1, musenet_tokens.END + 1
PIANO = musenet_tokens.instruments_id(['piano']) + 1
BACH = musenet_tokens.COMPOSERS['bach'] + 1


def config_of(**changes):
  config = config_lib.load('musenet_maestro:tiny')
  config.update_from_flattened_dict(
      {f'model.{k}' if k in config.model else k: v for k, v in changes.items()})
  return config


def example(index=0, composer=b'Johann Sebastian Bach'):
  return synthetic.performance('train', index) | {
      'id': b'%d' % index + composer, 'canonical_composer': composer}


def batch_of(config, rows=3):
  make = musenet.preprocess(config)
  drawn = [make(example(i), np.random.default_rng(i)) for i in range(rows)]
  return {k: jnp.array([x[k] for x in drawn]) for k in drawn[0]} | {
      'mask': jnp.ones(rows), 'index': jnp.arange(rows)}


@functools.cache
def small(**changes):
  """A model, and a state whose parameters are large enough to matter."""
  config = config_of(**changes)
  model = musenet.build(config)
  state = jax.jit(model.init)(jax.random.key(0), batch_of(config))
  rng = np.random.default_rng(0)
  return config, model, state.replace(params=jax.tree.map(
      lambda x: 2 * x + rng.normal(size=x.shape, scale=0.1).astype('f4'),
      state.params))


def count_of(config):
  spec = {'tokens': jax.ShapeDtypeStruct((1, 8), jnp.int32),
          'place': jax.ShapeDtypeStruct((1,), jnp.int32),
          'total': jax.ShapeDtypeStruct((1,), jnp.int32)}
  state = jax.eval_shape(musenet.build(config).init, jax.random.key(0), spec)
  return sum(x.size for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize('size, layers, width, about', [
    ('paper', 72, 768, 0.524e9), ('1b', 20, 2048, 1.044e9)])
def test_parameters_are_those_of_the_closed_form(size, layers, width, about):
  config = config_lib.load(f'musenet_maestro:{size}')
  layer = 12 * width**2 + (4 + 1) * width + 4 * width  # Biases, two norms.
  tables = 2 * 4837 + 4096 + 4096 + 32 + 128 + 128
  want = layers * layer + 2 * width + tables * width
  assert count_of(config) == want
  assert abs(want / about - 1) < 0.005
  config.model.timing = config.model.structure = False
  assert count_of(config) == want - (4096 + 32 + 256) * width


def test_twice_the_width_has_two_billion_in_its_layers():
  config = config_lib.load('musenet_maestro')
  config.model.width = 1536
  assert abs(count_of(config) / 2.04e9 - 1) < 0.02


def note(pitch, on=True):
  return 1 + 128 * 6 * on + pitch  # Block 6: a piano at 64.


def wait(units):
  return musenet_tokens.WAIT + units


# Two notes at once, one later and one after it, where the first two end.
PIECE = np.array([
    BACH, PIANO, START, note(60), note(64), wait(50), note(60, False),
    note(64, False), note(67), note(71), wait(128), wait(10), note(67, False),
    END], np.int32)
TIME = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 3, 3, 3]
CHORD = [0, 0, 0, 1, 2, 0, 0, 0, 1, 2, 0, 0, 0, 0]
OWN = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]  # Of 11 of music.


def place_at(music):
  return musenet.Place.start(jnp.array([music], jnp.int32))


def test_vectors_of_a_small_piece_are_those_by_hand():
  got, place = musenet.features(jnp.array(PIECE)[None], jnp.array([11]),
                                place_at(0))
  np.testing.assert_array_equal(got['time'][0], TIME)
  np.testing.assert_array_equal(got['chord'][0], CHORD)
  np.testing.assert_array_equal(got['part'][0], [128 * n // 11 for n in OWN])
  np.testing.assert_array_equal(got['countdown'][0], [10 - n for n in OWN])
  assert [int(x[0]) for x in (place.time, place.chord, place.music)] == [
      3, 0, 11]


def test_a_crop_knows_its_part_and_counts_down_at_the_end_only():
  got, _ = musenet.features(jnp.array(PIECE[:6])[None], jnp.array([1000]),
                            place_at(500))
  np.testing.assert_array_equal(got['part'][0], [64] * 6)
  np.testing.assert_array_equal(got['countdown'][0], [127] * 6)
  got, _ = musenet.features(jnp.array(PIECE)[None], jnp.array([1000]),
                            place_at(1000 - 11))
  np.testing.assert_array_equal(got['countdown'][0], [10 - n for n in OWN])
  assert got['part'][0, -1] == 127


def test_vectors_token_by_token_are_those_of_all():
  config = config_of()
  batch = batch_of(config)
  inputs = language_model.shift(batch['tokens'])
  place = musenet.Place.start(batch['place'])
  want, _ = musenet.features(inputs, batch['total'], place)
  step = jax.jit(musenet.features)
  for i in range(inputs.shape[1]):
    got, place = step(inputs[:, i:i + 1], batch['total'], place)
    for k, x in got.items():
      np.testing.assert_array_equal(x[:, 0], want[k][:, i])


@pytest.mark.parametrize('changes', [
    {}, {'attention': 'strided'},
    {'attention': 'fixed', 'combine': 'heads', 'timing': False}], ids=str)
def test_the_best_tokens_are_those_of_the_uncached_network(changes):
  """So that no token is predicted from itself, or from what follows."""
  config, model, state = small(**changes)
  drawn = model.sample(state, generate.empty(3) | {
      'temperature': np.zeros(3, np.float32)}, jax.random.key(1))['tokens']
  assert len(np.unique(drawn)) > 4
  rows = {'tokens': drawn, 'mask': jnp.ones(3), 'index': jnp.arange(3),
          'place': jnp.zeros(3, jnp.int32),
          'total': jnp.full(3, config.model.length - musenet.PREFIX)}
  logits = logits_of(config, state, rows)
  best = jnp.where(allowed(config, drawn), logits, -jnp.inf).argmax(-1)
  np.testing.assert_array_equal(best, drawn)


def allowed(config, tokens):
  grammar = pieces.make(config).grammar

  def step(state, column):
    return grammar.advance(state, column), grammar.allowed(state)

  return jax.jit(lambda tokens: jax.lax.scan(
      step, grammar.start(len(tokens)), tokens.T)[1].swapaxes(0, 1))(tokens)


def logits_of(config, state, rows, mix=None):
  """By the network that `build` gives to the language model."""
  net = network_of(config)
  run = jax.jit(lambda params, inputs, *mix: net.logits(
      params, inputs, None, *mix))
  return run(state.params['model'], net.inputs(rows),
             *([] if mix is None else [(mix, net.inputs(jax.tree.map(
                 lambda x: np.roll(x, 1, axis=0), rows)))]))


def network_of(config):
  found = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(language_model, 'build',
                  lambda config, net, tx: found.append(net))
    musenet.build(config)
  return found[0]


@pytest.mark.parametrize('changes', [
    {}, {'attention': 'fixed', 'combine': 'heads', 'timing': False}], ids=str)
def test_a_token_changes_no_logits_before_its_own(changes):
  config, _, state = small(**changes)
  rows = batch_of(config)
  run = jax.jit(lambda tokens: logits_of(config, state,
                                         rows | {'tokens': tokens}))
  plain = run(rows['tokens'])
  for t in (5, 20):
    other = run(rows['tokens'].at[:, t].set(wait(7)))
    np.testing.assert_array_equal(other[:, :t + 1], plain[:, :t + 1])
    assert np.abs(other[:, t + 1] - plain[:, t + 1]).max() > 1e-3


def test_mixup_mixes_inputs_and_losses_of_two_rows():
  config, model, state = small(dropout=0.0)
  rows = batch_of(config)
  # The draw of the step, and what it should make of it, one row at a time.
  key = jax.random.key(3)
  mix = np.asarray(jax.random.beta(jax.random.split(key)[1], 0.2, 0.2, (3,)))
  assert len(set(mix)) == 3
  logits = np.asarray(jax.nn.log_softmax(
      logits_of(config, state, rows, jnp.array(mix))))
  tokens, total, weight = np.asarray(rows['tokens']), 0.0, 0.0
  for b in range(3):
    for i in range(tokens.shape[1]):
      for share, row in ((mix[b], b), (1 - mix[b], b - 1)):
        if tokens[row, i]:
          total -= share * float(logits[b, i, tokens[row, i]])
          weight += share
  got = jax.jit(model.train_step, static_argnums=3)(state, rows, key, 0)[1]
  np.testing.assert_allclose(got['loss/nll'], total / weight, rtol=1e-5)
  plain = small(dropout=0.0, mixup=0.0)[1]
  alone = jax.jit(plain.train_step, static_argnums=3)(state, rows, key, 0)[1]
  scored = jax.jit(plain.eval_step)(state, rows, key)
  np.testing.assert_allclose(alone['loss/nll'], scored['nll'].compute(),
                             rtol=1e-5)
  assert abs(alone['loss/nll'] - got['loss/nll']) > 1e-3


def test_crops_carry_their_prefix_and_their_place():
  config = config_of(drop=0.0, stretch=(1.0,), transpose=0, volume=0)
  whole = pieces.make(config).encode(example())
  assert list(whole[:3]) == [BACH, PIANO, START] and whole[-1] == END
  rng = np.random.default_rng(0)
  rows = [musenet.preprocess(config)(example(), rng) for _ in range(20)]
  assert len({int(r['place']) for r in rows}) > 10
  for row in rows:
    place = row['place']
    np.testing.assert_array_equal(
        row['tokens'], [*whole[:3], *whole[3 + place:3 + place + 37]])
    assert row['total'] == len(whole) - 3


def test_every_token_of_music_is_scored_once_and_no_prefix():
  config = config_of()
  whole = pieces.make(config).encode(example())
  rows = musenet.segments(config)(example())
  scored = np.concatenate([r['tokens'][r['counts'] > 0] for r in rows])
  np.testing.assert_array_equal(scored[scored > 0], whole[3:])
  assert all(list(r['tokens'][:3]) == [BACH, PIANO, START] for r in rows)
  config, model, state = small()
  batch = {k: jnp.array([r[k] for r in rows]) for k in rows[0]} | {
      'mask': jnp.ones(len(rows)), 'index': jnp.arange(len(rows))}
  got = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  assert float(got['nll'].weight) == len(whole) - 3
  notes = len(midi.parse(example()['midi']).notes)
  assert float(got['nats_per_note'].weight) == notes
  seconds = float(got['bits_per_s'].weight)
  assert abs(seconds - musenet_tokens.decode(whole - 1)['end_s'].max()) < 0.011


def test_composer_and_instruments_are_left_out_now_and_then():
  config = config_of(drop=0.5)
  kind, rng = pieces.make(config), np.random.default_rng(0)
  seen = {tuple(x[:list(x).index(START)]) for x in (
      kind.encode(example(), rng) for _ in range(60))}
  assert seen == {(), (BACH,), (PIANO,), (BACH, PIANO)}
  assert kind.encode(example(0, b'Nobody'))[0] == PIANO


def test_pieces_are_varied_in_training_only():
  config = config_of(drop=0.0)
  kind = pieces.make(config)
  plain = kind.encode(example())
  np.testing.assert_array_equal(kind.encode(example()), plain)
  notes = lambda tokens: musenet_tokens.decode(tokens - 1)
  base, rng = notes(plain), np.random.default_rng(0)
  drawn = [notes(kind.encode(example(), rng)) for _ in range(150)]
  shifts = {int(x['pitch'].min() - base['pitch'].min()) for x in drawn}
  assert shifts == set(range(-5, 6))
  louder = [x['velocity'].mean() - base['velocity'].mean() for x in drawn]
  assert -18 < min(louder) < -12 and 12 < max(louder) < 18
  longer = [x['end_s'].max() / base['end_s'].max() for x in drawn]
  assert 0.945 < min(longer) < 0.955 and 1.045 < max(longer) < 1.055


def test_drums_are_not_transposed():
  notes = np.zeros(2, midi.NOTE)
  notes['end_s'], notes['pitch'], notes['velocity'] = 1, (36, 60), 80
  notes['is_drum'] = True, False
  kind, rng = pieces.make(config_of()), np.random.default_rng(0)
  row = {'id': b'd', 'midi': midi.encode(notes)}
  drawn = [musenet_tokens.decode(kind.encode(row, rng) - 1) for _ in range(30)]
  assert {int(p) for x in drawn for p in x['pitch'][x['is_drum']]} == {36}
  assert len({int(p) for x in drawn for p in x['pitch'][~x['is_drum']]}) > 5


def test_samples_obey_their_conditions():
  config, model, state = small()
  draw = lambda **kwargs: np.asarray(model.sample(
      state, musenet.prompt(config, 2, **kwargs), jax.random.key(1))['tokens'])
  rows = draw(composer='Bach', instruments='violin, piano')
  both = musenet_tokens.instruments_id(['violin', 'piano']) + 1
  for row in rows:
    assert list(row[:3]) == [BACH, both, START]
    played = {musenet_tokens.BLOCKS[t // 128][0]
              for t in row[3:] - 1 if t < musenet_tokens.WAIT and t >= 0}
    assert played <= {0, 1, 2}  # Piano, and the strings.
  free = draw(top_k=0)
  assert not (free == pieces.PAD).any()
  assert not np.array_equal(free[0], free[1])
  long = draw(piece_tokens=3000)
  assert not np.array_equal(long, draw())  # Its place is another.


def test_what_follows_the_end_is_padding_and_no_part_of_the_score():
  config, model, state = small()
  primer = np.full((2, 40), -1, np.int32)
  primer[:, 10] = END
  primer[1, 11:] = pieces.PAD  # Given, so nothing that was drawn.
  batch = musenet.prompt(config, 2) | {
      'primer': primer, 'index': np.zeros(2, np.int32)}
  got = model.sample(state, batch, jax.random.key(1))
  tokens = np.asarray(got['tokens'])
  np.testing.assert_array_equal(*tokens)
  assert (tokens[0, 11:] == pieces.PAD).all() and (tokens[0, :11] > 0).all()
  assert grammar.accepts(pieces.make(config).grammar, tokens)[:, 11:].all()
  np.testing.assert_allclose(*got['score'], rtol=1e-5)


def test_a_midi_file_is_continued(tmp_path):
  path = tmp_path / 'a.mid'
  path.write_bytes(example()['midi'])
  config, model, state = small()
  notes = midi.read(path)
  first = notes['start_s'].min()  # Where time begins.
  notes['start_s'] -= first
  notes['end_s'] -= first
  want = [START, *musenet_tokens.encode(notes)[:19] + 1]
  batch = musenet.prompt(config, 2, primer=str(path))
  got = model.sample(state, batch, jax.random.key(0))
  for row, notes in zip(np.asarray(got['tokens']), got['notes'], strict=True):
    np.testing.assert_array_equal(row[:20], want)
    assert notes.dtype == midi.NOTE and len(notes) >= 2
  batch = musenet.prompt(config, 2, primer=str(path), composer='bach')
  np.testing.assert_array_equal(batch['primer'][1, :21], [BACH, *want])
  assert (batch['primer'][:, 21:] == -1).all()


@pytest.mark.parametrize('options, message', [
    ({'composer': 'chopni'}, 'composer=chopni is unknown.*chopin'),
    ({'instruments': 'paino'}, 'instrument paino is unknown.*piano'),
    ({'piece_tokens': 8}, 'piece_tokens=8 .*use 0, or 40'),
    ({'temperature': -1.0}, 'temperature'),
    ({'temperature': float('inf')}, 'temperature=inf .*0 or more'),
    ({'primer_s': 2.0}, r'primer_s=2\.0 .*primer=FILE'),
    ({'primer_s': float('inf')}, 'primer_s=inf .*0 or more'),
    ({'primer': 'none.mid'}, 'primer=none.mid')])
def test_prompts_that_cannot_work_are_refused(options, message):
  with pytest.raises(errors.UserError, match=message):
    musenet.prompt(config_of(), 1, **options)


@pytest.mark.parametrize('before, room', [
    ({}, 40), ({'composer': 'bach'}, 39),
    ({'composer': 'bach', 'instruments': 'piano'}, 38)])
def test_a_primer_leaves_room_for_what_is_drawn(before, room, tmp_path):
  notes = np.zeros(60, midi.NOTE)
  notes['start_s'], notes['end_s'] = 1, 1.5
  notes['pitch'], notes['velocity'] = range(30, 90), 80
  config, path = config_of(), str(tmp_path / 'a.mid')
  midi.write(path, notes[:room - 2])  # And START.
  prompt = lambda **kwargs: musenet.prompt(
      config, 1, primer=path, **before, **kwargs)
  row, = prompt(primer_s=0.1)['primer']
  assert len(row) == 40 and list(row < 0) == [False] * 39 + [True]
  midi.write(path, notes[:room - 1])
  message = rf'\({room} tokens\) .*fewer than the {room} .*or primer_s=0$'
  with pytest.raises(errors.UserError, match=message):
    prompt(primer_s=0.1)
  row, = prompt()['primer']  # What the message says works.
  assert (row >= 0).sum() == 60 - room


def test_the_shortest_sample_has_room_for_a_primer(tmp_path):
  path = tmp_path / 'a.mid'
  path.write_bytes(example()['midi'])
  batch = musenet.prompt(config_of(length=4), 1, primer=str(path),
                         composer='bach', instruments='piano')
  assert list(batch['primer'][0]) == [BACH, PIANO, START, -1]


def test_a_file_without_notes_is_named(tmp_path):
  empty = midi.encode(np.zeros(0, midi.NOTE))
  with pytest.raises(errors.UserError, match=r'x\.mid has no notes'):
    pieces.make(config_of()).encode({'id': b'x.mid', 'midi': empty})
  (tmp_path / 'e.mid').write_bytes(empty)
  with pytest.raises(errors.UserError, match=r'e\.mid: no notes'):
    musenet.prompt(config_of(), 1, primer=str(tmp_path / 'e.mid'))


def test_all_names_can_come_from_a_file(tmp_path):
  path = tmp_path / 'tokens.txt'
  path.write_text('4300 somebody\n')
  kind = pieces.make(config_of(composers=str(path)))
  assert list(kind.conditions('somebody', '')) == [4301]
  with pytest.raises(errors.UserError, match='unknown'):
    kind.conditions('bach', '')


@pytest.mark.parametrize('changes, message', [
    ({'tokens': 'events'}, "tokens='events' .*'musenet'"),
    ({'width': 15}, 'width=15 .*heads=2'),
    ({'attention': 'global'}, "attention='global' .*'fixed'"),
    ({'combine': 'sum'}, "combine='sum' .*'heads'"),
    ({'attention': 'fixed', 'columns': 3}, 'columns=3 .*stride=8'),
    ({'attention': 'fixed', 'stride': 0}, 'stride=0 .*root'),
    ({'attention': 'strided', 'layers': 3}, 'layers=3 .*even'),
    ({'attention': 'strided', 'combine': 'heads', 'heads': 1},
     'heads=1 .*even'),
    ({'mixup': -1.0}, 'mixup=-1'),
    ({'accumulate': 4}, 'one row at a time .*at least two'),
    ({'drop': 2.0}, 'drop=2'),
    ({'heads': 0}, 'heads=0 .*1 or more'),
    ({'layers': 0}, 'layers=0 .*1 or more'),
    ({'layers': -1}, 'layers=-1 .*1 or more'),
    ({'width': 0}, 'width=0 .*1 or more'),
    ({'block': -2}, 'block=-2 .*0 or more'),
    ({'stretch': ()}, r'stretch=\(\) .*1\.0'),
    ({'transpose': -2}, 'transpose=-2 .*0 or more'),
    ({'volume': -1}, 'volume=-1 .*0 or more'),
    ({'accumulate': 0}, 'accumulate=0 .*1 or more'),
    ({'accumulate': 3, 'mixup': 0.0}, 'accumulate=3 .*divisor .*batch_size=4'),
    ({'warmup': 8}, 'warmup=8 .*decay=8'),
    ({'length': 3}, 'length=3 .*4 or more'),
    ({'eval_length': 3}, 'eval_length=3 .*0, or 4 or more'),
    ({'steps': 9}, 'steps=9 .*decay=8 .*decay=9')])
def test_settings_that_cannot_work_are_one_sentence(changes, message):
  with pytest.raises(errors.UserError, match=message):
    musenet.build(config_of(**changes))


def test_the_first_loss_is_near_that_of_a_uniform_guess():
  config = config_of(dropout=0.0)
  model, batch = musenet.build(config), batch_of(config)
  state = jax.jit(model.init)(jax.random.key(0), batch)
  got = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  assert abs(got['nll'].compute() - (math.log(4837) + 0.5)) < 0.3


def test_music_is_what_evaluation_compares_samples_with():
  made = musenet.music(config_of())(example(), np.random.default_rng(0))
  assert made['notes'].dtype == midi.NOTE and len(made['notes']) > 2
