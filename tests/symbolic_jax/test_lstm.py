"""The LSTM against a literal numpy loop, and what its likelihood promises."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common import errors, midi
from common.data import synthetic
from symbolic_jax import chorales, language_model, lstm, pieces


def config_of(**changes):
  config = config_lib.load('lstm_jsb:tiny')
  config.update_from_flattened_dict(
      {f'model.{k}' if k in config.model else k: v for k, v in changes.items()})
  return config


def voices_of(seed, steps):
  """Voices that never leave their ranges: S A T B can be told by pitch."""
  rng = np.random.default_rng(seed)
  low, high = np.array([70, 58, 47, 36]), np.array([82, 70, 58, 47])
  return rng.integers(low, high, (steps, 4)).astype(np.int16)


def batch_of(rows, length, seed=0):
  tokens = chorales.encode(voices_of(seed, rows * length // 4))
  return {'tokens': jnp.asarray(tokens.reshape(rows, length)),
          'mask': jnp.ones(rows), 'index': jnp.arange(rows)}


@functools.cache
def small(scale=5.0, **changes):
  """A model and a state whose weights and biases are large enough to matter."""
  config = config_of(**changes)
  model = lstm.build(config)
  state = model.init(jax.random.key(0), batch_of(1, config.model.length))
  rng = np.random.default_rng(0)
  return config, model, state.replace(params=jax.tree.map(
      lambda x: scale * x + rng.normal(size=x.shape, scale=0.02).astype('f4'),
      state.params))


def apply(config, state, tokens):
  net = lstm.LSTM(chorales.VOCAB, config.model.units,
                  config.model.layers, attention=config.model.attention)
  return net.apply({'params': state.params['model']}, tokens)[0]


# ---------------------------------------------------------------- network


@pytest.mark.parametrize('vocab, units, count', [
    (388, 512, 6_242_692), (388, 1024, 22_970_756), (356, 512, 6_160_740)])
def test_parameter_counts_of_performance_rnn(vocab, units, count):
  net = lstm.LSTM(vocab, units, layers=3)
  shapes = jax.eval_shape(net.init, jax.random.key(0),
                          jnp.zeros((1, 4), jnp.int32))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_logits_equal_a_literal_loop():
  config, _, state = small()
  params = jax.tree.map(np.float64, state.params['model'])
  tokens = np.asarray(language_model.shift(batch_of(2, 24)['tokens']))
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  want = np.zeros((2, 24, 48))
  for b in range(2):
    c = np.zeros((config.model.layers, config.model.units))
    h = np.zeros_like(c)
    for t in range(24):
      x = np.zeros(48)
      if tokens[b, t] >= 0:
        x[tokens[b, t]] = 1
      for n in range(config.model.layers):
        p = params[f'layer_{n}']
        z = np.concatenate([x, h[n]]) @ p['kernel'] + p['bias']
        i, j, f, o = np.split(z, 4)
        c[n] = c[n] * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
        h[n] = np.tanh(c[n]) * sigmoid(o)
        x = h[n]
      want[b, t] = x @ params['output']['kernel'] + params['output']['bias']
  got = apply(config, state, jnp.asarray(tokens))
  assert np.abs(want).max() > 0.5  # The loop did something.
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_gradients_through_the_fast_recurrence_are_those_of_the_scan():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  inputs = draw(6, 20), draw(9, 3, 20)  # H=5 needs w [5, 20].
  args = (inputs[0][:5], inputs[1], draw(3, 5), draw(3, 5))
  weight = draw(9, 3, 5)

  def total(fn, *args):
    hs, c, h = fn(*args)
    return (hs * weight).sum() + (c**2).sum() + (h**3).sum()

  grads = [jax.jit(jax.grad(functools.partial(total, fn), (0, 1, 2, 3)))(*args)
           for fn in (lstm.recur, lstm.scan_cells)]
  for got, want in zip(*grads, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('attention', [0, 5])
def test_cached_steps_give_the_logits_of_the_whole_sequence(attention):
  config, _, state = small(attention=attention, scale=2.0)
  net = lstm.LSTM(48, config.model.units, config.model.layers,
                  attention=attention)
  tokens = language_model.shift(batch_of(3, 32)['tokens'])
  step = jax.jit(lambda token, carry: net.apply(
      {'params': state.params['model']}, token[:, None], carry))
  carry, logits = net.start(3), []
  for token in tokens.T:
    out, carry = step(token, carry)
    logits.append(out[:, 0])
  np.testing.assert_allclose(np.stack(logits, 1), apply(config, state, tokens),
                             atol=5e-5)


def test_attention_equals_a_literal_loop():
  config, _, state = small(attention=3, units=6, scale=2.0)
  params = jax.tree.map(np.float64, state.params['model'])
  tokens = np.asarray(language_model.shift(batch_of(1, 12)['tokens']))
  sigmoid = lambda x: 1 / (1 + np.exp(-x))

  def cell(z, c):
    i, j, f, o = np.split(z, 4)
    c = c * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
    return c, np.tanh(c) * sigmoid(o)

  p, second, last = (params[k] for k in ('layer_0', 'layer_1', 'output'))
  dense = lambda name, *parts: (
      np.concatenate(parts) @ p[f'{name}_kernel'] + p[f'{name}_bias'])
  c, h, seen, c2, h2 = np.zeros((5, 6))
  outputs, want = [np.zeros(6)] * 3, []
  for token in tokens[0]:
    x = np.arange(48) == token
    c, h = cell(dense('gates', dense('enter', x, seen), h), c)
    query = dense('query', c, h)
    energy = [np.tanh(o @ p['key'] + query) @ p['value'][:, 0]
              for o in outputs[-3:]]  # Those before this step.
    weights = np.exp(energy) / np.exp(energy).sum()
    seen = sum(w * o for w, o in zip(weights, outputs[-3:], strict=True))
    outputs.append(dense('leave', h, seen))
    z = np.concatenate([outputs[-1], h2]) @ second['kernel'] + second['bias']
    c2, h2 = cell(z, c2)
    want.append(h2 @ last['kernel'] + last['bias'])
  assert np.ptp(weights) > 0.1  # It did not look at all alike.
  got = apply(config, state, jnp.asarray(tokens))[0]
  np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize('at', [0, 7, 30])
def test_a_token_changes_no_prediction_up_to_its_own(at):
  config, _, state = small()
  tokens = batch_of(2, 32)['tokens']
  changed = tokens.at[:, at].set(1)
  predict = lambda x: np.asarray(apply(config, state, language_model.shift(x)))
  a, b = predict(tokens), predict(changed)
  np.testing.assert_array_equal(a[:, :at + 1], b[:, :at + 1])
  assert (np.abs(a - b)[:, at + 1:].max(-1) > 1e-6).all()  # And all after it.


def test_bfloat16_keeps_cell_state_and_logits_in_float32():
  config, _, state = small(scale=1.0)
  net = lstm.LSTM(48, config.model.units, config.model.layers,
                  dtype=jnp.bfloat16)
  tokens = language_model.shift(batch_of(2, 32)['tokens'])
  logits, carry = net.apply({'params': state.params['model']}, tokens)
  assert logits.dtype == jnp.float32
  assert [(c.dtype, h.dtype) for c, h in carry] == [
      (jnp.float32, jnp.bfloat16)] * config.model.layers
  np.testing.assert_allclose(logits, apply(config, state, tokens), atol=0.02)


@pytest.mark.parametrize('ablation, vocab', [
    ('base', 310), ('keys_128', 390), ('no_velocity', 278)])
def test_vocabularies_of_performances(ablation, vocab):
  file = config_lib.module('lstm_maestro')
  config = file.get_config('tiny')
  config.update_from_flattened_dict(file.ablations().get(ablation, {}))
  assert pieces.make(config).vocab == vocab


def test_performances_without_velocity_are_the_others_without_these_tokens():
  notes = np.zeros(3, midi.NOTE)
  notes['start_s'], notes['end_s'] = [0, 0.5, 1], [0.7, 2, 3]
  notes['pitch'], notes['velocity'] = [60, 64, 67], [40, 80, 120]
  example = {'id': b'a', 'midi': midi.encode(notes)}
  config = config_lib.load('lstm_maestro:tiny')
  told = pieces.make(config).encode(example)
  config.model.velocities = 0
  kind = pieces.make(config)
  untold = kind.encode(example)
  assert len(told) == 3 + len(untold)
  np.testing.assert_array_equal(untold, told[told < kind.vocab])


def test_networks_trained_on_excerpts_are_scored_in_longer_segments():
  file = config_lib.module('lstm_maestro')
  config = file.get_config()
  config.update_from_flattened_dict(file.ablations()['excerpts_512'])
  example = synthetic.performance('valid', 0)
  example['id'] = example['id'].encode()
  rng = np.random.default_rng(0)
  assert lstm.preprocess(config)(example, rng)['tokens'].shape == (512,)
  rows = [x['tokens'] for x in lstm.segments(config)(example)]
  assert {x.shape for x in rows} == {(2048,)}


def test_a_number_of_outputs_to_look_at_that_is_none_is_refused():
  with pytest.raises(errors.UserError, match=r'model\.attention=-1 .*0 .*40'):
    lstm.build(config_of(attention=-1))


@pytest.mark.parametrize('changes, message', [
    ({'layers': 0}, 'layers=0 .*1 or more'),
    ({'units': 0}, 'units=0 .*1 or more'),
    ({'transpose': -2}, 'transpose=-2 .*0 or more'),
    ({'accumulate': 0}, 'accumulate=0 .*1 or more'),
    ({'accumulate': 3}, 'accumulate=3 .*divisor of batch_size=4'),
    ({'temperature': -1.0}, r'model\.temperature=-1\.0 .*0 or more'),
    ({'top_k': 49}, r'model\.top_k=49 .*to 48'),
    ({'top_p': 0.0}, r'model\.top_p=0\.0 .*more than 0')])
def test_settings_that_cannot_work_are_one_sentence(changes, message):
  with pytest.raises(errors.UserError, match=message):
    lstm.build(config_of(**changes))


# ---------------------------------------------------------------- examples


def find(tokens, part):
  """Where `part` begins in `tokens`."""
  windows = np.lib.stride_tricks.sliding_window_view(tokens, len(part))
  return np.flatnonzero((windows == part).all(1))


def test_crops_start_on_steps_and_reach_both_ends():
  voices = voices_of(0, 20)
  crop = lstm.preprocess(config_of(length=64))
  rng = np.random.default_rng(0)
  starts = set()
  for _ in range(60):
    tokens = crop({'voices': voices}, rng)['tokens']
    assert tokens.shape == (64,) and tokens.dtype == np.int32
    start, = find(chorales.encode(voices), tokens)
    starts.add(int(start))
  assert starts == {0, 4, 8, 12, 16}


@pytest.mark.parametrize('steps', [1, 15, 16])
def test_short_pieces_are_padded_at_the_end(steps):
  voices = voices_of(0, steps)
  tokens = lstm.preprocess(config_of(length=64))(
      {'voices': voices}, np.random.default_rng(0))['tokens']
  np.testing.assert_array_equal(tokens[:4 * steps],
                                chorales.encode(voices))
  np.testing.assert_array_equal(tokens[4 * steps:], chorales.PAD)


def test_transposition_is_drawn_from_both_directions():
  voices = np.full((16, 4), 60, np.int16)
  crop = lstm.preprocess(config_of(length=64, transpose=2))
  rng = np.random.default_rng(0)
  seen = {int(chorales.decode(crop({'voices': voices}, rng)['tokens'])[
      0, 0]) for _ in range(100)}
  assert seen == {58, 59, 60, 61, 62}


@pytest.mark.parametrize('steps', [1, 16, 17, 50])
def test_segments_hold_every_token_of_a_piece_once(steps):
  voices = voices_of(0, steps)
  rows = [x['tokens'] for x in lstm.segments(config_of(length=64))(
      {'voices': voices})]
  assert {row.shape for row in rows} == {(64,)}
  joined = np.concatenate(rows)
  np.testing.assert_array_equal(joined[:4 * steps],
                                chorales.encode(voices))
  assert (joined[4 * steps:] == chorales.PAD).all()
  assert len(joined) - 4 * steps < 64


@pytest.mark.parametrize('length', [0, 2, 66])
def test_lengths_that_are_no_whole_steps_are_refused(length):
  with pytest.raises(errors.UserError, match=r'model.length=.*use (4|64)$'):
    lstm.build(config_of(length=length))


# ---------------------------------------------------------------- likelihood


def test_the_first_loss_is_that_of_a_uniform_guess():
  # Glorot weights and zero biases: outputs of the last layer are so small
  # that the logits are 0 but for some hundredths.
  config = config_of(layers=3, units=64)
  model = lstm.build(config)
  batch = batch_of(8, config.model.length)
  state = model.init(jax.random.key(0), batch)
  nll = jax.jit(model.eval_step)(state, batch, jax.random.key(0))['nll']
  assert abs(nll.compute() - math.log(48)) < 0.01


def test_nll_and_accuracy_are_means_over_real_tokens():
  config, model, state = small()
  batch = batch_of(3, 64)
  tokens = np.array(batch['tokens'])
  tokens[1, 40:] = chorales.PAD
  batch = {**batch, 'tokens': jnp.asarray(tokens),
           'mask': jnp.array([1.0, 1.0, 0.0])}
  got = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  logits = np.float64(apply(
      config, state, language_model.shift(batch['tokens'])))
  nll, right = [], []
  for b, t in [(0, t) for t in range(64)] + [(1, t) for t in range(40)]:
    p = np.exp(logits[b, t])
    nll.append(-np.log(p[tokens[b, t]] / p.sum()))
    right.append(p.argmax() == tokens[b, t])
  assert got['nll'].weight == got['accuracy'].weight == 104
  np.testing.assert_allclose(got['nll'].compute(), np.mean(nll), rtol=1e-5)
  np.testing.assert_allclose(got['accuracy'].compute(), np.mean(right),
                             rtol=1e-6)


@pytest.mark.parametrize('rows', [2, 5])
def test_total_nll_does_not_depend_on_how_segments_are_batched(rows):
  config, model, state = small()
  segments = lstm.segments(config)
  found = [x['tokens'] for steps in (50, 9, 33)
           for x in segments({'voices': voices_of(steps, steps)})]
  evaluate = jax.jit(model.eval_step)

  def total(size):
    sums = None
    for i in range(0, len(found), size):
      chunk = found[i:i + size]
      mask = np.arange(size) < len(chunk)
      chunk += [found[0]] * (size - len(chunk))
      batch = {'tokens': jnp.asarray(np.stack(chunk)),
               'mask': jnp.asarray(mask, jnp.float32)}
      part = evaluate(state, batch, jax.random.key(0))['nll']
      sums = part if sums is None else sums + part
    return sums

  one, many = total(1), total(rows)
  assert one.weight == many.weight == 4 * (50 + 9 + 33)
  np.testing.assert_allclose(one.total, many.total, rtol=1e-6)


# ---------------------------------------------------------------- training


def first_update(**changes):
  config = config_of(**changes)
  model = lstm.build(config)
  batch = batch_of(8, 64)
  tokens = np.array(batch['tokens'])
  for row in range(8):  # Slices of unequal weight.
    tokens[row, 64 - 6 * row:] = chorales.PAD
  batch = {'tokens': jnp.asarray(tokens), 'mask': batch['mask']}
  state = model.init(jax.random.key(0), batch)
  state, metrics = jax.jit(model.train_step, static_argnames='stage')(
      state, batch, jax.random.key(1), stage=0)
  adam, = (x for x in jax.tree.leaves(
      state.opt['model'], is_leaf=lambda x: hasattr(x, 'mu'))
           if hasattr(x, 'mu'))
  gradient = jax.tree.map(lambda x: x / 0.1, adam.mu)  # 1 - beta1 = .1.
  return metrics, gradient


def test_four_accumulated_slices_give_the_gradient_of_the_whole_batch():
  (metrics, whole), (metrics_4, sliced) = first_update(), first_update(
      accumulate=4)
  for name in metrics:
    np.testing.assert_allclose(metrics_4[name], metrics[name], rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-7), sliced, whole)


def test_gradients_are_clipped_by_their_global_norm():
  norm = lambda tree: math.sqrt(sum(
      float((x**2).sum()) for x in jax.tree.leaves(tree)))
  metrics, gradient = first_update()
  np.testing.assert_allclose(norm(gradient), metrics['train/grad_norm'],
                             rtol=1e-5)  # Below 3: unchanged.
  metrics, gradient = first_update(clip=0.01)
  assert metrics['train/grad_norm'] > 0.05
  np.testing.assert_allclose(norm(gradient), 0.01, rtol=1e-5)


def test_dropout_acts_in_training_only():
  batch = batch_of(4, 64)
  for rate, differs in ((0.0, False), (0.5, True)):
    _, model, state = small(dropout=rate)
    step = jax.jit(model.train_step, static_argnames='stage')
    a, b = (step(state, batch, jax.random.key(k), stage=0)[1]['loss/nll']
            for k in (0, 1))
    assert (a != b) == differs
  evaluate = lambda **changes: jax.jit(small(**changes)[1].eval_step)(
      small()[2], batch, jax.random.key(0))['nll'].compute()
  assert evaluate(dropout=0.5) == evaluate(dropout=0.0)


def test_one_batch_can_be_learnt_by_heart():
  config = config_of(units=64, learning_rate=0.02)
  model = lstm.build(config)
  batch = batch_of(2, 64)
  state = model.init(jax.random.key(0), batch)

  @jax.jit
  def train(state):
    return jax.lax.scan(
        lambda state, _: model.train_step(state, batch, jax.random.key(0), 0),
        state, length=200)

  _, metrics = train(state)
  assert metrics['loss/nll'][0] > 3.8
  # Not below ln(2) / 64 = .011: which of the two begins cannot be known.
  assert 0.0108 < metrics['loss/nll'][-1] < 0.05


# ---------------------------------------------------------------- samples


def rows_of(count, **entries):
  return {'mask': jnp.ones(count), 'index': jnp.arange(count),
          **{k: jnp.asarray(v) for k, v in entries.items()}}


def test_samples_do_not_depend_on_the_batch_size():
  _, model, state = small()
  key = jax.random.key(7)
  many = model.sample(state, rows_of(5), key)
  assert many['tokens'].shape == (5, 64)
  assert many['roll'].shape == (5, 16, 128, 4)
  assert len({tuple(x) for x in np.asarray(many['tokens'])}) == 5
  one = model.sample(
      state, {'mask': jnp.ones(1), 'index': jnp.array([3])}, key)
  np.testing.assert_array_equal(one['tokens'][0], many['tokens'][3])
  np.testing.assert_array_equal(one['roll'][0], many['roll'][3])


def test_sampling_copies_nothing_from_the_host():
  _, model, state = small()
  batch, key = rows_of(2), jax.random.key(0)
  with jax.transfer_guard('disallow'):
    jax.block_until_ready(model.sample(state, batch, key))


def test_the_best_tokens_are_those_of_the_uncached_network():
  config, model, state = small()
  state = jax.tree.map(lambda x: x, state)
  bias = state.params['model']['output']['bias']
  state.params['model']['output']['bias'] = bias.at[0].set(9.0)
  tokens = model.sample(state, rows_of(2, temperature=np.zeros(2)),
                        jax.random.key(0))['tokens']
  logits = np.array(apply(config, state, language_model.shift(tokens)))
  assert (logits.argmax(-1) == chorales.PAD).all()  # Never drawn.
  np.testing.assert_array_equal(logits[..., 1:].argmax(-1) + 1, tokens)


def test_settings_of_the_batch_override_those_of_the_config():
  _, model, state = small()
  greedy = small(top_k=1)[1]
  key = jax.random.key(0)
  drawn = model.sample(state, rows_of(2), key)['tokens']
  best = model.sample(state, rows_of(2, top_k=np.array([1, 0])), key)['tokens']
  np.testing.assert_array_equal(best[1], drawn[1])
  assert (best[0] != drawn[0]).any()
  np.testing.assert_array_equal(
      best[0], greedy.sample(state, rows_of(2), key)['tokens'][0])
  tiny_p = model.sample(state, rows_of(2, top_p=np.full(2, 1e-6)), key)
  np.testing.assert_array_equal(tiny_p['tokens'][0], best[0])


def test_primers_are_kept_and_change_what_follows():
  _, model, state = small()
  primer = np.asarray(batch_of(2, 20)['tokens'])
  greedy = np.zeros(2)
  key = jax.random.key(0)
  out = model.sample(state, rows_of(2, primer=primer, temperature=greedy), key)
  tokens = np.asarray(out['tokens'])
  assert tokens.shape == (2, 64)
  np.testing.assert_array_equal(tokens[:, :20], primer)
  free = model.sample(state, rows_of(2, temperature=greedy), key)['tokens']
  assert (tokens[:, 20:] != np.asarray(free)[:, 20:]).any()
  # Going on from the primer is going on from what it made of it.
  longer = model.sample(state, rows_of(
      2, primer=tokens[:, :40], temperature=greedy), key)['tokens']
  np.testing.assert_array_equal(longer, tokens)


def test_a_primer_with_free_tokens_makes_a_sample_longer():
  _, model, state = small()
  primer = np.full((2, 96), language_model.NOTHING)
  primer[:, 0] = 30
  out = model.sample(state, rows_of(2, primer=primer), jax.random.key(0))
  assert out['tokens'].shape == (2, 96) and out['roll'].shape[1] == 24
  assert (out['tokens'][:, 0] == 30).all() and (out['tokens'] > 0).all()


# ---------------------------------------------------------------- prompts


def write(path, voices):
  config = config_of()
  midi.write(path, midi.from_roll(chorales.roll(voices),
                                  config.data.step_s, config.data.programs))
  return str(path)


def test_a_midi_file_becomes_the_primer_of_every_row(tmp_path):
  voices = voices_of(0, 30)
  batch = lstm.prompt(config_of(), 3, primer=write(tmp_path / 'a.mid', voices),
                      primer_s=10 * 0.125, temperature=0.5, top_k=3, top_p=0.9)
  assert {k: v.shape for k, v in batch.items()} == {
      'mask': (3,), 'index': (3,), 'temperature': (3,), 'top_k': (3,),
      'top_p': (3,), 'primer': (3, 64)}
  for row in batch['primer']:
    np.testing.assert_array_equal(row[:40], chorales.encode(voices[:10]))
    assert (row[40:] == language_model.NOTHING).all()
  assert (batch['temperature'] == np.float32(0.5)).all()


def test_samples_of_a_prompt_begin_with_the_file(tmp_path):
  _, model, state = small()
  voices = voices_of(0, 6)
  batch = lstm.prompt(config_of(), 2, primer=write(tmp_path / 'a.mid', voices))
  roll = model.sample(state, jax.device_put(batch), jax.random.key(0))['roll']
  np.testing.assert_array_equal(roll[1, :6], chorales.roll(voices))


def test_half_of_a_sample_is_primer_unless_told_otherwise(tmp_path):
  primer = write(tmp_path / 'a.mid', voices_of(0, 30))
  row, = lstm.prompt(config_of(), 1, primer=primer)['primer']
  assert (row[:32] >= 0).all() and (row[32:] == language_model.NOTHING).all()
  row, = lstm.prompt(config_of(), 1, primer=primer, duration_s=5.0)['primer']
  assert len(row) == 160 and (row[:80] >= 0).all() and (row[80:] < 0).all()


def test_prompts_without_a_file_draw_freely():
  assert 'primer' not in lstm.prompt(config_of(), 2)
  batch = lstm.prompt(config_of(), 2, duration_s=3.0)
  np.testing.assert_array_equal(batch['primer'], np.full((2, 96), -1))


@pytest.mark.parametrize('given, message', [
    (dict(temperature=-1.0), 'temperature=-1.0 .*0 or more'),
    (dict(temperature=math.inf), 'temperature=inf .*0 or more'),
    (dict(temperature=math.nan), 'temperature=nan .*0 or more'),
    (dict(top_k=99), 'top_k=99 .*48'),
    (dict(top_p=0.0), 'top_p=0.0 .*up to 1'),
    (dict(primer_s=-1.0), r'primer_s=-1.0 .*0 or more'),
    (dict(primer_s=1.0), r'primer_s=1.0 without .*primer=FILE'),
    (dict(tokens=32), 'tokens=32 .*64 tokens'),
    (dict(tokens=66), 'tokens=66 .*multiple of 4'),
    (dict(duration_s=0.01), 'duration_s=0.01 .*2.0 s'),
    (dict(duration_s=float('nan')), 'duration_s=nan .*number'),
    (dict(tokens=128, duration_s=4.0), 'tokens=128 .*not both'),
    (dict(duration_s=1.0), r'duration_s=1.0 .*2\.0 s .*and more')])
def test_prompts_out_of_range_are_refused(given, message):
  with pytest.raises(errors.UserError, match=message):
    lstm.prompt(config_of(), 1, **given)


def test_primers_that_cannot_be_used_are_refused_with_their_name(tmp_path):
  path = write(tmp_path / 'long.mid', voices_of(0, 40))
  with pytest.raises(errors.UserError, match=r'mid: primer_s=0.01 .*0\.125'):
    lstm.prompt(config_of(), 1, primer=path, primer_s=0.01)
  with pytest.raises(errors.UserError, match=r'primer_s=4.0 .* 64 tokens'):
    lstm.prompt(config_of(), 1, primer=path, primer_s=4.0)
  lstm.prompt(config_of(), 1, primer=path, primer_s=4.0, duration_s=5.0)
  with pytest.raises(errors.UserError, match='longer samples'):
    lstm.prompt(config_of(), 1, primer=path, primer_s=4.0)
  with pytest.raises(errors.UserError, match=r'primer_s=inf .*0 or more'):
    lstm.prompt(config_of(), 1, primer=path, primer_s=math.inf)
  empty = write(tmp_path / 'empty.mid', np.full((4, 4), chorales.REST))
  with pytest.raises(errors.UserError, match=r'empty\.mid: no notes'):
    lstm.prompt(config_of(), 1, primer=empty)
  low = write(tmp_path / 'low.mid', np.full((4, 4), 20))
  with pytest.raises(errors.UserError, match=r'low\.mid: .*transpose by \+16'):
    lstm.prompt(config_of(), 1, primer=low)
  with pytest.raises(errors.UserError, match=r'missing\.mid'):
    lstm.prompt(config_of(), 1, primer=str(tmp_path / 'missing.mid'))


# ---------------------------------------------------------------- likelihood


def test_the_score_of_a_sample_is_its_likelihood_by_the_network():
  config, model, state = small()
  primer = np.tile(chorales.encode(voices_of(3, 4)), (3, 1))
  for batch in (rows_of(3), rows_of(3, primer=primer), rows_of(
      3, temperature=np.full(3, 0.5), top_k=np.full(3, 4))):
    out = model.sample(state, batch, jax.random.key(0))
    logits = apply(config, state, language_model.shift(out['tokens']))
    p = jax.nn.log_softmax(logits.at[..., chorales.PAD].set(-jnp.inf))
    p = np.asarray(jnp.take_along_axis(p, out['tokens'][..., None], 2))[..., 0]
    start = batch['primer'].shape[1] if 'primer' in batch else 0
    np.testing.assert_allclose(out['score'], p[:, start:].mean(1), rtol=1e-4)


def test_beams_score_higher_than_greedy_and_keep_the_primer():
  _, model, state = small(length=16)
  primer = np.pad(chorales.encode(voices_of(3, 2)), (0, 8),
                  constant_values=-1)
  for given in ({}, {'primer': np.tile(primer, (2, 1))}):
    greedy = model.sample(
        state, rows_of(2, temperature=np.zeros(2), **given), jax.random.key(0))
    found = model.sample(
        state, rows_of(2, beams=np.zeros((2, 32)), **given), jax.random.key(0))
    assert found['tokens'].shape == (2, 16)
    assert found['score'][0] >= found['score'][1]
    assert found['score'][0] >= greedy['score'][0] - 1e-5
    assert (found['tokens'][0] != found['tokens'][1]).any()
    if given:
      np.testing.assert_array_equal(found['tokens'][:, :8],
                                    np.tile(primer[:8], (2, 1)))
