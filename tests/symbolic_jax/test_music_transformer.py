"""The rows of the paper, and what the likelihood promises."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common import errors, evaluation, generate, midi, sampling, sharding
from common.data import synthetic
from symbolic_jax import (
  chorales,
  grammar,
  language_model,
  lstm,
  music_transformer,
  pieces,
)


def config_of(name='jsb', **changes):
  config = config_lib.load(f'music_transformer_{name}:tiny')
  config.update_from_flattened_dict(
      {f'model.{k}' if k in config.model else k: v for k, v in changes.items()})
  return config


def batch_of(config, rows=3, seed=0):
  make = language_model.preprocess(config)
  example = (synthetic.chorale if config.model.tokens == 'chorales'
             else synthetic.performance)
  rng = np.random.default_rng(seed)
  drawn = [make(example('train', i), rng)['tokens'] for i in range(rows)]
  return {'tokens': jnp.array(drawn), 'mask': jnp.ones(rows),
          'index': jnp.arange(rows)}


@functools.cache
def small(name='jsb', **changes):
  """A model, and a state whose parameters are large enough to matter."""
  config = config_of(name, **changes)
  model = music_transformer.build(config)
  state = model.init(jax.random.key(0), batch_of(config))
  rng = np.random.default_rng(0)
  return config, model, state.replace(params=jax.tree.map(
      lambda x: 2 * x + rng.normal(size=x.shape, scale=0.1).astype('f4'),
      state.params))


@functools.cache
def ablation(label, **changes):
  """`small` of a row of the table, at the tiny size's widths."""
  changed = config_lib.module('music_transformer_jsb').ablations()[label]
  keep = {k.removeprefix('model.'): v for k, v in changed.items() if k not in (
      'model.width', 'model.attention_width', 'model.feed_forward')}
  return small(**keep | changes)


def without_padding(state):
  """Its logits are 0, where the others' greatest is far above."""
  params = dict(state.params['model'])
  params['logits'] = params['logits'].at[pieces.PAD].set(0.0)
  return state.replace(params={'model': params})


@pytest.mark.parametrize('label, count', [
    ('baseline', 3_968_768), ('relative', 8_585_216),
    ('baseline_wide', 8_585_216 - 5 * 8 * 256 * 64),
    ('relative_narrow', 3_968_768 + 5 * 8 * 256 * 32)])
def test_rows_of_the_table_have_their_parameters(label, count):
  module = config_lib.module('music_transformer_jsb')
  config = module.get_config()
  config.update_from_flattened_dict(module.ablations()[label])
  tokens = jax.ShapeDtypeStruct((1, 1024), jnp.int32)
  state = jax.eval_shape(music_transformer.build(config).init,
                         jax.random.key(0), {'tokens': tokens})
  assert sum(x.size for x in jax.tree.leaves(state.params)) == count


@pytest.mark.parametrize('label, changes', [
    ('baseline', {}), ('concatenated_voice', {}), ('clip', {}),
    ('fused', {'dtype': 'float32'}), ('transpose_3', {}),
    ('transpose_3', {'layers': 1})])
def test_the_best_tokens_are_those_of_the_uncached_network(label, changes):
  """So that no token is predicted from itself, or from what follows."""
  _, model, state = ablation(label, **changes)
  assert min(x.size for x in jax.tree.leaves(state.params)) > 0
  state = without_padding(state)
  drawn = model.sample(state, generate.empty(3) | {
      'temperature': np.zeros(3, np.float32)}, jax.random.key(1))['tokens']
  assert len(np.unique(drawn)) > 4
  rows = {'tokens': drawn, 'mask': jnp.ones(3), 'index': jnp.arange(3)}
  got = jax.jit(model.eval_step)(state, rows, jax.random.key(0))
  assert float(got['accuracy'].compute()) == 1.0


def test_a_token_changes_no_prediction_before_its_own():
  _, model, state = small(length=4, eval_length=32)
  tokens = batch_of(config_of(), 3)['tokens']

  @jax.jit
  def by_step(tokens):
    rows = {'tokens': tokens, 'mask': jnp.ones(3), 'index': jnp.arange(3)}
    found = model.eval_step(state, rows, jax.random.key(0))
    return jnp.stack([found[f'nll_from_{i}'].total for i in range(0, 32, 4)])

  other = tokens.at[:, 20:].set((tokens[:, 20:] + 7) % 40 + 2)
  np.testing.assert_array_equal(by_step(other)[:5], by_step(tokens)[:5])
  assert (np.abs(by_step(other) - by_step(tokens))[5:] > 1e-2).all()


def test_metrics_count_tokens_steps_and_seconds():
  config, model, state = small()
  batch = batch_of(config)
  batch['tokens'] = batch['tokens'].at[2, 8:].set(pieces.PAD)
  batch['mask'] = jnp.array([1.0, 0.0, 1.0])
  got = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  count = 32 + 8
  assert float(got['nll'].weight) == count
  nats = float(got['nll'].total)
  np.testing.assert_allclose(got['nats_per_step'].compute(),
                             nats / (count / 4), rtol=1e-6)
  np.testing.assert_allclose(got['bits_per_s'].compute(), nats / math.log(2) / (
      count / 4 * config.data.step_s), rtol=1e-6)


def test_events_are_counted_by_note_and_by_their_time():
  config, model, state = small('maestro')
  batch = batch_of(config)
  got = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  tokens = np.asarray(batch['tokens'])
  notes = ((tokens >= 2) & (tokens < 90)).sum()
  steps = np.where((tokens >= 178) & (tokens < 278), tokens - 177, 0).sum()
  assert notes > 5 and steps > 5
  assert float(got['nats_per_note'].weight) == notes
  np.testing.assert_allclose(got['bits_per_s'].weight, steps / 100, rtol=1e-5)


def test_beyond_the_trained_length_the_likelihood_is_told_by_place():
  config, model, state = small(eval_length=80)
  piece = chorales.encode(synthetic.chorale('train', 0)['voices'])
  rows = language_model.segments(config)({
      'voices': synthetic.chorale('train', 0)['voices']})
  assert [len(r['tokens']) for r in rows] == [80] * -(-len(piece) // 80)
  batch = {'tokens': jnp.array([r['tokens'] for r in rows]),
           'mask': jnp.ones(len(rows)), 'index': jnp.arange(len(rows))}
  got = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  parts = [got[f'nll_from_{i}'] for i in (0, 32, 64)]
  assert sum(float(p.weight) for p in parts) == len(piece)
  np.testing.assert_allclose(sum(float(p.total) for p in parts),
                             float(got['nll'].total), rtol=1e-5)


def test_places_that_no_piece_reaches_have_no_likelihood():
  config, model, state = small(eval_length=96)
  voices = synthetic.chorale('train', 0)['voices'][:4]
  measure = evaluation.Evaluation(config, music_transformer, model,
                                  sharding.make_mesh(), [{'voices': voices}])
  metrics, _ = measure(state)
  assert np.isfinite(list(metrics.values())).all()
  assert [k for k in metrics if 'from' in k] == ['eval/nll_from_0']


@pytest.mark.parametrize('label', ['relative', 'local', 'relative_only'])
def test_samples_longer_than_the_window_begin_as_short_ones(label):
  config, model, state = ablation(label, block=8)
  draw = lambda **kwargs: np.asarray(model.sample(
      state, music_transformer.prompt(config, 2, temperature=0.0, **kwargs),
      jax.random.key(1))['tokens'])
  long, short = draw(tokens=88), draw()
  assert long.shape == (2, 88)
  np.testing.assert_array_equal(long[:, :32], short)


@pytest.mark.parametrize('label', ['concatenated', 'relative', 'learned'])
def test_beyond_the_window_its_second_half_is_read_again(label):
  """The likelihood of what is drawn is that in windows seen by themselves."""
  config, model, state = ablation(label)
  state = without_padding(state)
  drawn = model.sample(state, music_transformer.prompt(
      config, 2, tokens=88), jax.random.key(1))
  tokens = np.asarray(drawn['tokens'])
  assert len(np.unique(tokens[:, 32:])) > 4
  total = count = 0.0
  for begin in range(0, 80, 16):  # Of windows of 32; the last is cut.
    row = jnp.pad(tokens[:, begin:begin + 32], (
        (0, 0), (0, max(0, begin + 32 - 88))))
    new = jnp.arange(32) >= (16 if begin else 0)
    got = jax.jit(model.eval_step)(state, {
        'tokens': row, 'mask': jnp.ones(2), 'index': jnp.arange(2),
        'counts': jnp.tile(new.astype(jnp.float32), (2, 1))}, jax.random.key(0))
    total, count = (total + got['nll'].total, count + got['nll'].weight)
  assert count == 2 * 88
  # The network alone leaves padding, which is forbidden, a little.
  np.testing.assert_allclose(-drawn['score'].mean(), total / count, rtol=1e-3)


def test_beyond_the_window_draws_are_new_and_primers_kept():
  config, model, state = small('maestro')
  batch = music_transformer.prompt(config, 2, tokens=96)
  batch['primer'][:, 40:60] = kept = pieces.make(config).encode(
      synthetic.performance('train', 0))[:20]
  draw = lambda n: np.asarray(model.sample(
      state, batch, jax.random.key(n))['tokens'])
  tokens = draw(0)
  np.testing.assert_array_equal(tokens[:, 40:60], np.tile(kept, (2, 1)))
  np.testing.assert_array_equal(draw(0), tokens)
  assert (draw(1)[:, 60:] != tokens[:, 60:]).mean() > 0.5
  free = tokens[:, 60:]  # After a primer that took no notice of the grammar.
  good = grammar.accepts(pieces.make(config).grammar, tokens)
  assert good[:, :40].all() and good[:, 60:].all() and free.shape == (2, 36)


def test_each_window_has_draws_of_its_own():
  config, model, state = small()
  state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
  tokens = np.asarray(model.sample(state, music_transformer.prompt(
      config, 2, tokens=64), jax.random.key(0))['tokens'])
  for i in (32, 48):  # As likely as all others, so only keys tell them apart.
    assert (tokens[:, i:i + 16] != tokens[:, i - 16:i]).mean() > 0.8


def test_a_beam_search_stays_within_the_window():
  config, model, state = small()
  with pytest.raises(errors.UserError, match=r'beams=2 for 36 tokens .*32'):
    model.sample(state, music_transformer.prompt(config, 1, tokens=36, beams=2),
                 jax.random.key(0))


@pytest.mark.parametrize('label, length', [
    ('base', 32), ('local', 32), ('relative_only', 40)])
def test_one_beam_is_greedy_and_more_are_scored_as_the_network_does(
    label, length):
  config, model, state = (
      small(block=8) if label == 'base' else ablation(label, block=8))
  state = without_padding(state)
  sample = lambda **kwargs: model.sample(
      state, music_transformer.prompt(config, 1, **kwargs), jax.random.key(1))
  greedy = sample(temperature=0.0, tokens=length)
  one = sample(beams=1, tokens=length)
  np.testing.assert_array_equal(one['tokens'], greedy['tokens'])
  np.testing.assert_allclose(one['score'], greedy['score'], rtol=1e-5)
  found = sample(beams=8)
  assert found['score'][0] >= sample(beams=1)['score'][0] - 1e-6
  # The caches followed their beams.
  rows = {**generate.empty(1), 'tokens': found['tokens']}
  nll = jax.jit(model.eval_step)(state, rows, jax.random.key(0))['nll']
  np.testing.assert_allclose(-found['score'][0], nll.compute(), rtol=1e-3)


def test_performances_come_back_as_notes_under_their_grammar():
  config, model, state = small('maestro')
  got = model.sample(state, generate.empty(4), jax.random.key(0))
  assert grammar.accepts(pieces.make(config).grammar, got['tokens']).all()
  assert [x.dtype for x in got['notes']] == [midi.NOTE] * 4
  assert sum(map(len, got['notes'])) > 4


def test_a_performance_is_continued_from_a_midi_file(tmp_path, capsys):
  path = tmp_path / 'a.mid'
  path.write_bytes(synthetic.performance('train', 0)['midi'])
  config, model, state = small('maestro')
  batch = music_transformer.prompt(config, 2, primer=str(path))
  want = pieces.make(config).primer(str(path), 0)
  assert f'first 16 of {len(want)} tokens; primer_s=' in capsys.readouterr().out
  want = want[:16]
  got = model.sample(state, batch, jax.random.key(0))
  for row in np.asarray(got['tokens']):
    np.testing.assert_array_equal(row[:16], want)


@pytest.mark.parametrize('pitch, message', [
    (15, r'low\.mid: pitches reach from 15 .*21 to 108'),
    (None, r'low\.mid: no notes')])
def test_primers_that_cannot_be_played_are_refused(pitch, message, tmp_path):
  notes = np.zeros(int(pitch is not None), midi.NOTE)
  notes['end_s'], notes['pitch'], notes['velocity'] = 1, pitch or 0, 80
  midi.write(tmp_path / 'low.mid', notes)
  with pytest.raises(errors.UserError, match=message):
    music_transformer.prompt(config_of('maestro'), 1,
                             primer=str(tmp_path / 'low.mid'))


def test_a_primer_is_cut_where_its_time_is_up(tmp_path):
  notes = np.zeros(2, midi.NOTE)
  notes['start_s'], notes['end_s'] = (3.0, 3.5), (11.0, 11.0)
  notes['pitch'], notes['velocity'] = (60, 64), 80
  midi.write(tmp_path / 'held.mid', notes)
  kind = pieces.make(config_of('maestro'))
  tokens = kind.primer(str(tmp_path / 'held.mid'), 1.0)
  assert float(kind.seconds(tokens).sum()) <= 1.0
  names = [kind._events.name(int(t)) for t in tokens]
  assert [n for n in names if n.startswith('O')] == ['ON 60', 'ON 64']


@pytest.mark.parametrize('notes', [0, 1])
def test_a_stored_file_without_piano_notes_is_named(notes):
  table = np.zeros(notes, midi.NOTE)
  table['end_s'], table['pitch'], table['is_drum'] = 1, 60, True
  table['velocity'] = 80
  example = {'id': b'drums/solo.mid', 'midi': midi.encode(table)}
  kind = pieces.make(config_of('maestro'))
  for _ in range(2):  # What was read is kept; this is not.
    with pytest.raises(errors.UserError, match=r'drums/solo\.mid has no notes'):
      kind.encode(example, np.random.default_rng(0))


def test_drums_are_no_piano(tmp_path):
  notes = np.zeros(1, midi.NOTE)
  notes['end_s'], notes['pitch'], notes['is_drum'] = 1, 60, True
  notes['velocity'] = 80
  midi.write(tmp_path / 'd.mid', notes)
  with pytest.raises(errors.UserError, match='drums'):
    music_transformer.prompt(config_of('maestro'), 1,
                             primer=str(tmp_path / 'd.mid'))


def test_performances_are_varied_in_training_only():
  config = config_of('maestro')
  kind, example = pieces.make(config), synthetic.performance('train', 0)
  plain = kind.encode(example)
  np.testing.assert_array_equal(kind.encode(example), plain)
  rng = np.random.default_rng(0)
  drawn = [kind.encode(example, rng) for _ in range(60)]
  assert len({x.tobytes() for x in drawn}) > 25  # Of 5 stretches x 7 shifts.
  first = {int(x[(x >= 2) & (x < 90)][0]) for x in drawn}
  lowest = int(plain[(plain >= 2) & (plain < 90)][0])
  assert first == set(range(lowest - 3, lowest + 4))
  seconds = [float(kind.seconds(x).sum()) for x in drawn]
  total = float(kind.seconds(plain).sum())
  assert 0.94 * total < min(seconds) < 0.96 * total
  assert 1.04 * total < max(seconds) < 1.06 * total


def test_one_batch_can_be_learnt_by_heart():
  config = config_of(width=64, attention_width=64, feed_forward=64, dropout=0.0,
                     warmup=30, length=64, distances=64)
  model = music_transformer.build(config)
  batch = batch_of(config, 2)
  state = model.init(jax.random.key(0), batch)
  step = jax.jit(model.train_step, static_argnums=3)
  for i in range(250):
    state, metrics = step(state, batch, jax.random.key(i), 0)
  assert float(metrics['loss/nll']) < 0.05


@pytest.mark.parametrize('changes, message', [
    ({'place': 'alibi'}, "place='alibi' .*'sinusoid'"),
    ({'heads': 3}, r'attention_width=16 .*heads=3'),
    ({'layers': 0}, 'layers=0 .*1 or more'),
    ({'width': 18, 'voice': False}, 'width=18 .*multiple of 4'),
    ({'width': 17, 'heads': 1, 'place': 'sinusoid', 'voice': False},
     'width=17 .*even'),
    ({'attention_width': 6, 'rotary': True}, 'attention_width=6 .*even'),
    ({'local': True, 'block': 0}, 'local with model.block=0'),
    ({'length': 30}, 'length=30 .*28'),
    ({'eval_length': 30}, 'eval_length=30 .*28'),
    ({'tokens': 'notes', 'voice': False, 'pitch_and_time': False},
     "tokens='notes' .*'chorales'"),
    ({'tokens': 'events', 'voice': False, 'pitch_and_time': False},
     r"'events' needs model\.low, .*music_transformer_maestro"),
    ({'place': 'sinusoid'}, "model.voice with model.place='sinusoid'"),
    ({'fused': True}, 'model.fused with model.distances'),
    ({'fused': True, 'distances': 0, 'pitch_and_time': False,
      'attention_width': 8}, 'fused with model.attention_width=8 .*width=16'),
    ({'heads': 0}, 'heads=0 .*1 or more'),
    ({'layers': -1}, 'layers=-1 .*1 or more'),
    ({'width': 0}, 'model.width=0 .*1 or more'),
    ({'attention_width': 0}, 'attention_width=0 .*1 or more'),
    ({'feed_forward': 0}, 'feed_forward=0 .*1 or more'),
    ({'distances': -1}, 'distances=-1 .*0 or more'),
    ({'block': -2}, 'block=-2 .*0 or more'),
    ({'warmup': 0}, 'warmup=0 .*1 or more'),
    ({'decay': 2}, 'decay=2 .*more than model.warmup=2'),
    ({'decay': 3}, 'steps=4 .*decay=3 .*decay=4'),
    ({'width': 12, 'heads': 1}, 'width=12 .*multiple of 8'),
    ({'transpose': -2}, 'transpose=-2 .*0 or more'),
    ({'accumulate': 0}, 'accumulate=0 .*1 or more'),
    ({'accumulate': 3}, 'accumulate=3 .*divisor of batch_size=4')])
def test_settings_that_cannot_work_are_one_sentence(changes, message):
  with pytest.raises(errors.UserError, match=message):
    music_transformer.build(config_of(**changes))


@pytest.mark.parametrize('changes, message', [
    ({'stretch': ()}, r'stretch=\(\) .*1\.0'),
    ({'stretch': (1.0, 0.0)}, r'stretch=\(1\.0, 0\.0\)'),
    ({'transpose': -2}, 'transpose=-2 .*0 or more')])
def test_variations_that_cannot_be_drawn_are_refused(changes, message):
  with pytest.raises(errors.UserError, match=message):
    music_transformer.build(config_of('maestro', **changes))


def test_lstm_reads_performances_too():
  config = config_lib.load('lstm_jsb:tiny')
  maestro = config_of('maestro')
  with config.model.unlocked():
    for k in ('low', 'high', 'stretch'):
      config.model[k] = maestro.model[k]
  config.model.tokens = 'events'
  model = lstm.build(config)
  batch = batch_of(maestro)
  state = model.init(jax.random.key(0), batch)
  got = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  assert abs(float(got['nll'].compute()) - math.log(310)) < 0.1


def test_a_prompt_that_says_nothing_of_drawing_leaves_it_to_the_config():
  config, model, state = small(temperature=0.0)
  batch = music_transformer.prompt(config, 2)
  assert not set(sampling.DRAWS) & batch.keys()
  first, second = model.sample(state, batch, jax.random.key(0))['tokens']
  np.testing.assert_array_equal(first, second)  # The best, twice.
  batch = music_transformer.prompt(config, 2, top_k=3)
  assert batch['top_k'].tolist() == [3, 3] and 'top_p' not in batch
  with pytest.raises(errors.UserError, match="'x' is not int"):
    generate.prompt(music_transformer, config, 1, ['top_k=x'])
