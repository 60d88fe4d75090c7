"""Windows and their melodies; what the melody changes; prompts."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common import errors, midi
from common.data import synthetic
from symbolic_jax import events, language_model, melody_transformer, pieces
from symbolic_jax import melody as melody_lib

END = events.END


def config_of(**changes):
  config = config_lib.load('melody_transformer_maestro:tiny')
  config.update_from_flattened_dict(
      {f'model.{k}' if k in config.model else k: v for k, v in changes.items()})
  return config


def batch_of(rows):
  return {k: jnp.array([x[k] for x in rows]) for k in rows[0]} | {
      'mask': jnp.ones(len(rows)), 'index': jnp.arange(len(rows))}


def drawn_of(config, rows=3):
  make = melody_transformer.preprocess(config)
  return batch_of([make(synthetic.performance('train', i),
                        np.random.default_rng(i)) for i in range(rows)])


@functools.cache
def begun():
  config = config_of()
  model = melody_transformer.build(config)
  return config, model, jax.jit(model.init)(
      jax.random.key(0), drawn_of(config))


@functools.cache
def small():
  """A model, and a state whose parameters are large enough to matter."""
  config, model, state = begun()
  rng = np.random.default_rng(0)
  return config, model, state.replace(params=jax.tree.map(
      lambda x: 2 * x + rng.normal(size=x.shape, scale=0.1).astype('f4'),
      state.params))


@functools.cache
def logits_fn():
  """Of the network that `build` gives to the language model."""
  found = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(language_model, 'build',
                  lambda config, net, tx: found.append(net))
    melody_transformer.build(config_of())
  net, state = found[0], small()[2]
  return jax.jit(lambda batch: net.logits(
      state.params['model'], net.inputs(batch), None))


def table(*rows):
  """Of (start, end, pitch)."""
  notes = np.zeros(len(rows), midi.NOTE)
  for n, (start, end, pitch) in zip(notes, rows, strict=True):
    n['start_s'], n['end_s'], n['pitch'], n['velocity'] = start, end, pitch, 80
  return notes


def write(path, *rows):
  midi.write(path, table(*rows))
  return str(path)


def ons(tokens):
  return tokens[(tokens >= 2) & (tokens < 90)]


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize('label, count', [
    ('base', 6 * (8 * 64 * (2 * 316 - 1) + 8 * 64 * 1024)),
    ('plain_encoder', 6 * 8 * 64 * 1024), ('baseline', 0)])
def test_parameters_are_those_of_the_closed_form(label, count):
  module = config_lib.module('melody_transformer_maestro')
  config = module.get_config()
  config.update_from_flattened_dict(module.ablations().get(label, {}))
  attention, inner = 393_216, 1_050_880
  encoder = attention + inner + 2 * 512  # And the norms.
  decoder = 2 * attention + inner + 3 * 512
  want = (6 * (encoder + decoder) + 2 * 512 + (92 + 2 * 310) * 256) + count
  spec = {'tokens': jax.ShapeDtypeStruct((1, 8), jnp.int32),
          'melody': jax.ShapeDtypeStruct((1, 8), jnp.int32)}
  state = jax.eval_shape(melody_transformer.build(config).init,
                         jax.random.key(0), spec)
  assert sum(x.size for x in jax.tree.leaves(state.params)) == want


def test_the_first_loss_is_near_that_of_a_uniform_guess_and_counts_ends():
  config, model, state = begun()
  batch = drawn_of(config)
  got = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  assert abs(got['nll'].compute() - (math.log(310) + 0.5)) < 0.4
  assert float(got['nll'].weight) == (batch['tokens'] > 0).sum()
  assert float(got['nats_per_note'].weight) == len(ons(batch['tokens']))


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize('length, eval_s, melody', [
    (48, 1.5, 'skyline'), (2048, 1.5, 'likeliest'), (48, 6.0, 'skyline')])
def test_every_note_is_scored_once_whatever_the_windows(length, eval_s, melody):
  config = config_of(length=length, eval_s=eval_s, melody=melody)
  example = synthetic.performance('valid', 0)
  kind = pieces.make(config)
  rows = melody_transformer.segments(config)(example)
  tokens = [r['tokens'][r['tokens'] > 0] for r in rows]
  assert all(t[-1] == END and (t[:-1] != END).all() for t in tokens)
  whole = kind.encode(example)
  np.testing.assert_array_equal(ons(np.concatenate(tokens)), ons(whole))
  lasts = [float(kind.seconds(t).sum()) for t in tokens]
  assert max(lasts) <= eval_s + 0.011
  if length == 2048:
    assert len(rows) == math.ceil(kind.notes(example)['start_s'].max() / 1.5)
  # Melodies are as long as their windows.
  for row, last in zip(rows, lasts, strict=True):
    assert abs((row['melody'] > 0).sum() / 10 - last) < 0.11


def test_a_note_belongs_to_where_it_begins_and_ends_with_the_window():
  data = midi.encode(table((0, 1.9, 60), (1.6, 2.4, 72), (7, 8, 64)))
  config = config_of(eval_s=1.5)
  rows = melody_transformer.segments(config)({'id': b'x', 'midi': data})
  kind = pieces.make(config)
  notes = [kind.shown(r['tokens'][None])['notes'][0] for r in rows]
  got = [[(round(n['start_s'], 3), round(n['end_s'], 3), int(n['pitch']))
          for n in x] for x in notes]
  assert got == [[(0, 1.5, 60)], [(0.1, 0.9, 72)], [(1, 1.5, 64)]]
  assert [list(r['melody'][:15]) for r in rows] == [
      [43, *[2] * 14], [2, 55, *[2] * 7, *[0] * 6], [*[2] * 10, 47, *[2] * 4]]


def test_training_draws_windows_varied_before_both_are_encoded():
  config = config_of(window_s=(1.0, 3.0), length=256)
  make = melody_transformer.preprocess(config)
  kind, rng = pieces.make(config), np.random.default_rng(0)
  example = synthetic.performance('train', 0)
  rows = [make(example, rng) for _ in range(200)]
  assert len({r['tokens'].tobytes() for r in rows}) == 200
  lasts = []
  for row in rows:
    assert len(row['tokens']) == 256 and len(row['melody']) == kind.hears == 33
    played = kind.shown(row['tokens'][None])['notes'][0]
    lasts.append(played['end_s'].max())
    # What is heard is played: to 10 ms there, to 100 ms here.
    for note in kind.melody.decode(row['melody']):
      same = played[played['pitch'] == note['pitch']]
      assert np.abs(same['start_s'] - note['start_s']).min() < 0.06
  assert 0.8 < min(lasts) < 1.2 and 2.7 < max(lasts) < 3.17
  lowest = [ons(r['tokens']).min() for r in rows]
  assert min(lowest) < ons(kind.encode(example)).min()


def test_the_likeliest_melody_is_found_before_it_is_varied():
  """As in the released code: 5 % longer, the high note would be of it."""
  kind = pieces.make(config_of(stretch=(1.05,), transpose=0))
  notes = table((0, 1, 60), (0.4, 0.78, 72))
  tokens, melody = kind.row(notes, np.random.default_rng(0))
  slower = table((0, 1.05, 60), (0.42, 0.819, 72))
  np.testing.assert_array_equal(tokens, kind.row(slower)[0])
  assert melody.tolist() == [43, *[2] * 10]
  assert kind.row(slower)[1].tolist() == [43, 2, 2, 2, 55, *[2] * 6]
  kind = pieces.make(config_of(stretch=(1.05,), transpose=2))
  tokens, melody = kind.row(notes, np.random.default_rng(0))
  assert melody[0] - 43 == ons(tokens)[0] - ons(kind.row(notes)[0])[0] != 0


def test_where_nothing_is_played_the_nearest_note_is_taken():
  data = midi.encode(table((0, 1, 60), (500, 501, 64)))
  make = melody_transformer.preprocess(config_of())
  rng = np.random.default_rng(0)
  rows = [make({'id': b'x', 'midi': data}, rng) for _ in range(30)]
  assert all(len(ons(r['tokens'])) == 1 for r in rows)


def test_more_events_than_fit_are_refused_where_no_window_is_short_enough():
  data = midi.encode(table(*((0, 1, p) for p in range(30, 90))))
  config = config_of()
  with pytest.raises(errors.UserError, match=r'length=48 is too short .*use '):
    melody_transformer.segments(config)({'id': b'x', 'midi': data})


def test_music_is_a_whole_piece_or_a_window_of_it():
  config = config_of()
  music = melody_transformer.music(config)
  example = synthetic.performance('train', 0)
  whole = music(example, None)['notes']
  assert len(whole) == example['notes']
  part = music(example, np.random.default_rng(0))['notes']
  assert 0 < len(part) < 60 and part['end_s'].max() < 1.52


# ---------------------------------------------------------------- the network


def test_the_best_tokens_are_those_of_the_uncached_network():
  config, model, state = small()
  prompt = melody_transformer.prompt(config, 3, temperature=0.0)
  prompt['melody'] = np.asarray(drawn_of(config)['melody'])
  drawn = model.sample(state, prompt, jax.random.key(1))['tokens']
  assert len(np.unique(drawn)) > 4
  logits = logits_fn()(prompt | {'tokens': drawn})
  best = jnp.where(allowed(config, drawn), logits, -jnp.inf).argmax(-1)
  np.testing.assert_array_equal(best, drawn)


def allowed(config, tokens):
  grammar = pieces.make(config).grammar

  def step(state, column):
    return grammar.advance(state, column), grammar.allowed(state)

  return jax.jit(lambda tokens: jax.lax.scan(
      step, grammar.start(len(tokens)), tokens.T)[1].swapaxes(0, 1))(tokens)


def test_the_melody_reaches_all_logits_and_its_padding_none():
  batch = drawn_of(config_of())
  plain = logits_fn()(batch)
  last = int((batch['melody'][0] > 0).sum()) - 1
  for at in (0, last):
    other = batch['melody'].at[0, at].set(60)
    change = np.abs(logits_fn()(batch | {'melody': other}) - plain).max(-1)
    assert (change[0] > 1e-4).all() and not change[1:].any()
  longer = jnp.pad(batch['melody'], ((0, 0), (0, 9)))
  np.testing.assert_allclose(logits_fn()(batch | {'melody': longer}), plain,
                             atol=1e-5)


def test_a_token_changes_no_logits_before_its_own():
  batch = drawn_of(config_of())
  plain = logits_fn()(batch)
  for t in (5, 20):
    other = batch['tokens'].at[:, t].set(200)
    got = logits_fn()(batch | {'tokens': other})
    np.testing.assert_array_equal(got[:, :t + 1], plain[:, :t + 1])
    assert np.abs(got[:, t + 1] - plain[:, t + 1]).max() > 1e-3


def test_what_only_the_melody_tells_can_be_learnt():
  """One token is to be played, and which one is in the encoder alone."""
  config = config_of(dropout=0.0, warmup=20, length=2, learning_rate=0.5)
  model = melody_transformer.build(config)
  pitches = np.arange(40, 72)
  tokens = np.stack([pitches, np.full(32, END)], 1)
  melody = np.zeros((32, 22), np.int32)
  melody[:, :4] = melody_lib.NO_EVENT
  melody[np.arange(32), np.arange(32) % 4] = pitches
  batch = batch_of([{'tokens': t, 'melody': m}
                    for t, m in zip(tokens, melody, strict=True)])
  state = jax.jit(model.init)(jax.random.key(0), batch)

  @jax.jit
  def train(state):
    return jax.lax.fori_loop(0, 300, lambda i, s: model.train_step(
        s, batch, jax.random.key(0), 0)[0], state)

  score = lambda rows: float(jax.jit(model.eval_step)(
      state, rows, None)['nll'].compute())
  assert score(batch) > 5
  state = train(state)
  assert score(batch) < 0.05
  # Of another's melody it is sure, and wrong.
  assert score(batch | {'melody': batch['melody'][::-1]}) > 1


# ---------------------------------------------------------------- prompts


def test_samples_obey_the_grammar_and_differ():
  config, model, state = small()
  got = model.sample(state, melody_transformer.prompt(config, 3, top_k=40),
                     jax.random.key(0))
  tokens, kind = np.asarray(got['tokens']), pieces.make(config)
  assert tokens.shape == (3, 48) and len({t.tobytes() for t in tokens}) == 3
  good = np.take_along_axis(np.asarray(allowed(config, got['tokens'])),
                            tokens[..., None], axis=2)
  assert good.all() and np.isfinite(got['score']).all()
  for row, notes in zip(tokens, got['notes'], strict=True):
    assert notes.dtype == midi.NOTE and len(notes)
    np.testing.assert_array_equal(kind.shown(row[None])['notes'][0], notes)


def test_nothing_follows_the_end(tmp_path):
  path = write(tmp_path / 'a.mid', (1, 1.5, 60), (1.2, 1.4, 72))
  config, model, state = small()
  decoder = dict(state.params['model']['decoder'])
  # Always the same logits, and that of END is the highest.
  decoder['norm'] = {'scale': jnp.zeros(16), 'bias': jnp.ones(16)}
  decoder['logits'] = jnp.zeros((310, 16)).at[END].set(1.0)
  state = state.replace(params={
      'model': state.params['model'] | {'decoder': decoder}})
  batch = melody_transformer.prompt(config, 3, primer=path, temperature=0.0)
  got = model.sample(state, batch, jax.random.key(0))
  want = [*pieces.make(config).primer(path, 0), END]
  for row, notes in zip(np.asarray(got['tokens']), got['notes'], strict=True):
    np.testing.assert_array_equal(row, want + [pieces.PAD] * (48 - len(want)))
    assert list(notes['pitch']) == [60, 72]


def test_a_melody_is_heard_from_its_first_note_on(tmp_path):
  config = config_of()
  path = write(tmp_path / 'a.mid', (3, 3.5, 60), (3, 3.4, 48), (3.7, 4.0, 62),
               (4.0, 4.2, 64))
  batch = melody_transformer.prompt(config, 2, melody=path)
  want = [43, 2, 2, 2, 2, 3, 2, 45, 2, 2, 47, 2]
  np.testing.assert_array_equal(batch['melody'], [want + [0] * 10] * 2)
  batch = melody_transformer.prompt(config, 1, melody=path, melody_s=0.9)
  np.testing.assert_array_equal(batch['melody'], [want[:9] + [0] * 13])


def test_drums_that_come_first_do_not_delay_a_melody(tmp_path):
  notes = table((0, 0.3, 36), (1, 1.5, 60))
  notes['is_drum'] = True, False
  midi.write(tmp_path / 'a.mid', notes)
  batch = melody_transformer.prompt(config_of(), 1,
                                    melody=str(tmp_path / 'a.mid'))
  assert batch['melody'][0].tolist() == [43, 2, 2, 2, 2] + [0] * 17


@pytest.mark.parametrize('way', ['likeliest', 'skyline'])
@pytest.mark.parametrize('rng', [None, np.random.default_rng(0)])
def test_a_window_without_notes_is_refused_in_one_sentence(way, rng):
  kind = pieces.make(config_of(melody=way))
  with pytest.raises(errors.UserError, match='no notes'):
    kind.row(table(), rng)


def test_the_advice_for_a_long_primer_works(tmp_path):
  path = write(tmp_path / 'x.mid', *((0, 1, p) for p in range(30, 90)))
  with pytest.raises(errors.UserError, match=r'48 .*, or primer_s=0$'):
    melody_transformer.prompt(config_of(), 1, primer=path, primer_s=1.0)
  row, = melody_transformer.prompt(config_of(), 1, primer=path)['primer']
  assert (row >= 0).sum() == 24


def test_without_a_melody_there_is_a_tune():
  batch = melody_transformer.prompt(config_lib.load(
      'melody_transformer_maestro'), 1)
  found = melody_lib.Melody().decode(batch['melody'][0])
  assert list(found['pitch'][:7]) == [60, 60, 67, 67, 69, 69, 67]
  assert found['end_s'][-1] == 8.0 and found['start_s'][-1] == 7.0


def test_melodies_change_samples_and_beams_hear_them(tmp_path):
  config, model, state = small()
  path = write(tmp_path / 'a.mid', (0, 0.5, 90), (0.5, 2.0, 40))

  def draw(**kwargs):
    return np.asarray(model.sample(state, melody_transformer.prompt(
        config, 1, **kwargs), jax.random.key(1))['tokens'])

  greedy = [draw(temperature=0.0, melody=m) for m in (path, '')]
  assert (greedy[0] != greedy[1]).any()
  for melody, want in zip((path, ''), greedy, strict=True):
    np.testing.assert_array_equal(draw(beams=1, melody=melody), want)


def test_a_performance_is_continued(tmp_path):
  path = write(tmp_path / 'a.mid', (1, 1.5, 60), (1.2, 1.4, 72))
  config, model, state = small()
  batch = melody_transformer.prompt(config, 2, primer=path, melody=path)
  want = pieces.make(config).primer(path, 0)
  got = model.sample(state, batch, jax.random.key(0))
  for row in np.asarray(got['tokens']):
    np.testing.assert_array_equal(row[:8], want)


@pytest.mark.parametrize('rows, options, message', [
    ([], {}, r'x\.mid: no notes'),
    ([(0, 1, 10)], {}, r'x\.mid: pitches reach from 10 .*a melody from 21'),
    ([(0, 9, 60)], {}, r'melody of 9\.0 s is longer than the 2\.1 s .*'
     r'melody_s=2\.1'),
    ([(0, 8e4, 60)], {}, r'melody of 80000\.0 s'),
    ([(0, 1, 60)], {'melody_s': -1.0}, 'melody_s=-1.0'),
    ([(0, 1, 60)], {'temperature': -1.0}, 'temperature'),
    ([(0, 1, 60)], {'temperature': math.inf}, 'temperature=inf .*0 or more'),
    ([(0, 1, 60)], {'primer_s': 2.0}, r'primer_s=2\.0 .*primer=FILE'),
    ([(0, 1, 60)], {'primer': 'none.mid'}, 'primer=none.mid')])
def test_prompts_that_cannot_work_are_refused(rows, options, message, tmp_path):
  path = write(tmp_path / 'x.mid', *rows)
  with pytest.raises(errors.UserError, match=message):
    melody_transformer.prompt(config_of(), 1, melody=path, **options)


def test_missing_melodies_are_named():
  with pytest.raises(errors.UserError, match=r'melody=no\.mid: .*read'):
    melody_transformer.prompt(config_of(), 1, melody='no.mid')
  with pytest.raises(errors.UserError, match=r'melody_s=3\.0 .*=FILE'):
    melody_transformer.prompt(config_of(), 1, melody_s=3.0)


def test_the_advice_for_a_long_melody_works(tmp_path):
  path = write(tmp_path / 'x.mid', (0, 9, 60))
  batch = melody_transformer.prompt(config_of(), 1, melody=path, melody_s=2.1)
  assert (batch['melody'] > 0).sum() == 21


@pytest.mark.parametrize('changes, message', [
    ({'tokens': 'events'}, "tokens='events' .*'accompaniment'"),
    ({'melody': 'lowest'}, "melody='lowest' .*'likeliest' or 'skyline'"),
    ({'eval_length': 96}, 'eval_length=96 .*eval_s'),
    ({'window_s': (3.0, 2.0)}, r'window_s=\(3\.0, 2\.0\) .*least'),
    ({'eval_s': 0.0}, 'eval_s=0.0'),
    ({'width': 15, 'heads': 3}, 'width=15 .*even'),
    ({'heads': 3}, 'width=16 .*heads=3'),
    ({'attention_width': 15}, 'attention_width=15 .*heads=2'),
    ({'layers': 0}, 'layers=0 .*1 or more'),
    ({'heads': 0}, 'heads=0 .*1 or more'),
    ({'width': 0}, 'model.width=0 .*1 or more'),
    ({'distances': -1}, 'model.distances=-1 .*0 or more'),
    ({'encoder_distances': -1}, 'encoder_distances=-1 .*0 or more'),
    ({'block': -2}, 'block=-2 .*0 or more'),
    ({'stretch': ()}, r'stretch=\(\) .*1\.0'),
    ({'transpose': -2}, 'transpose=-2 .*0 or more'),
    ({'window_s': (1.0,)}, r'window_s=\(1\.0,\) .*least'),
    ({'accumulate': 0}, 'accumulate=0 .*1 or more'),
    ({'accumulate': 3}, 'accumulate=3 .*divisor of batch_size=4')])
def test_settings_that_cannot_work_are_one_sentence(changes, message):
  with pytest.raises(errors.UserError, match=message):
    melody_transformer.build(config_of(**changes))
