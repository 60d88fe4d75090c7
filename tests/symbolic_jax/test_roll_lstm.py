"""Recurrent networks on rolls against a literal numpy loop, and by hand."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common import errors, midi
from common.data import builders
from symbolic_jax import roll_lstm

REAL = (pathlib.Path(__file__).resolve().parents[3] / 'shared' / 'data'
        / 'jsb_chorales')
CELLS = ('lstm', 'gru', 'tanh')


def config_of(**changes):
  config = config_lib.load('roll_lstm_jsb:tiny')
  config.model.every = 1
  config.model.update(changes)
  return config


def keys_of(seed, *shape):
  """Frames [*shape, K] of four keys or fewer."""
  rng = np.random.default_rng(seed)
  keys = np.zeros((*shape, 88), np.uint8)
  np.put_along_axis(keys, rng.integers(20, 60, (*shape, 4)), 1, axis=-1)
  return keys


def batch_of(rows, frames, seed=0):
  return {'keys': jnp.asarray(keys_of(seed, rows, frames)),
          'frames': jnp.full(rows, frames), 'mask': jnp.ones(rows),
          'index': jnp.arange(rows)}


@functools.cache
def small(cell='lstm', scale=5.0, **changes):
  """A model and a state whose weights and biases are large enough to matter."""
  config = config_of(cell=cell, **changes)
  model = roll_lstm.build(config)
  state = model.init(jax.random.key(0), batch_of(1, config.model.length))
  rng = np.random.default_rng(0)
  return config, model, state.replace(params=jax.tree.map(
      lambda x: scale * x + rng.normal(size=x.shape, scale=0.02).astype('f4'),
      state.params))


def net_of(config, **changes):
  m = config.model
  return roll_lstm.Network(m.cell, m.units, m.layers, **changes)


def apply(config, state, keys):
  """Logits of each frame: `keys` moved by one."""
  before = jnp.pad(jnp.asarray(keys)[:, :-1], ((0, 0), (1, 0), (0, 0)))
  return net_of(config).apply({'params': state.params['model']}, before)[0]


# ---------------------------------------------------------------- network


@pytest.mark.parametrize('cell, units, count', [
    # Gates times units times inputs, state and bias; then the output.
    ('lstm', 36, 4 * 36 * (88 + 36 + 1) + 37 * 88),
    ('gru', 46, 3 * 46 * (88 + 46 + 1) + 47 * 88),
    ('tanh', 100, 100 * (88 + 100 + 1) + 101 * 88)])
def test_parameter_counts(cell, units, count):
  shapes = jax.eval_shape(roll_lstm.Network(cell, units, 1).init,
                          jax.random.key(0), jnp.zeros((1, 4, 88)))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def by_hand(cell, p, x, h, c):
  """(h, c) of one unit after the other, from kernel p['kernel'] [I + H, ..]."""
  units, w, b = len(h), p['kernel'], p['bias']
  dot = lambda column, state: b[column] + sum(
      v * w[row, column] for row, v in enumerate([*x, *state]))
  new_h, new_c = np.zeros(units), np.zeros(units)
  reset = [sigmoid(dot(k, h)) * h[k] for k in range(units)]
  for u in range(units):
    if cell == 'tanh':
      new_h[u] = np.tanh(dot(u, h))
    elif cell == 'gru':
      z = sigmoid(dot(units + u, h))
      new_h[u] = (1 - z) * h[u] + z * np.tanh(dot(2 * units + u, reset))
    else:
      i, j, f, o = (dot(n * units + u, h) for n in range(4))
      new_c[u] = c[u] * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
      new_h[u] = np.tanh(new_c[u]) * sigmoid(o)
  return new_h, new_c


@pytest.mark.parametrize('cell', CELLS)
def test_logits_equal_a_literal_loop(cell):
  config, _, state = small(cell, units=6)
  params = jax.tree.map(np.float64, state.params['model'])
  keys = keys_of(0, 2, 8)
  want = np.zeros(keys.shape)
  for b in range(2):
    h, c = np.zeros((2, 6)), np.zeros((2, 6))
    frame = np.zeros(88)
    for t in range(8):
      x = frame
      for n in range(2):
        h[n], c[n] = by_hand(cell, params[f'layer_{n}'], x, h[n], c[n])
        x = h[n]
      want[b, t] = x @ params['output']['kernel'] + params['output']['bias']
      frame = keys[b, t]
  assert np.abs(want).max() > 0.5  # The loop did something.
  np.testing.assert_allclose(apply(config, state, keys), want, atol=2e-5)


@pytest.mark.parametrize('cell', CELLS)
def test_cached_frames_give_the_logits_of_the_whole_piece(cell):
  config, _, state = small(cell, scale=2.0)  # Rounding does not grow.
  net, keys = net_of(config), keys_of(0, 3, 24)
  step = jax.jit(lambda frame, carry: net.apply(
      {'params': state.params['model']}, frame[:, None], carry))
  carry, logits, frame = net.start(3), [], np.zeros((3, 88), np.uint8)
  for t in range(24):
    out, carry = step(frame, carry)
    logits.append(out[:, 0])
    frame = keys[:, t]
  np.testing.assert_allclose(np.stack(logits, 1), apply(config, state, keys),
                             atol=1e-5)


@pytest.mark.parametrize('cell', CELLS)
def test_a_frame_changes_no_prediction_up_to_its_own(cell):
  config, _, state = small(cell)
  keys = keys_of(0, 2, 16)
  changed = keys.copy()
  changed[:, 7] = 1 - changed[:, 7]
  a, b = (np.asarray(apply(config, state, x)) for x in (keys, changed))
  np.testing.assert_array_equal(a[:, :8], b[:, :8])
  assert (np.abs(a - b)[:, 8:].max(-1) > 1e-6).all()  # And all after it.


@pytest.mark.parametrize('cell', CELLS)
def test_bfloat16_keeps_state_and_logits_in_float32(cell):
  config, _, state = small(cell, scale=1.0)
  keys = jnp.asarray(keys_of(0, 2, 24))
  variables = {'params': state.params['model']}
  logits, carry = net_of(config, dtype=jnp.bfloat16).apply(variables, keys)
  assert logits.dtype == jnp.float32
  assert {layer[0].dtype for layer in carry} == {jnp.dtype('float32')}
  np.testing.assert_allclose(
      logits, net_of(config).apply(variables, keys)[0], atol=0.05)


# ---------------------------------------------------------------- examples


def test_voices_and_rolls_give_the_same_keys():
  voices = np.array([[72, 67, 60, 21], [-1, 67, -1, 48], [-1] * 4,
                     [108, 60, 60, 48]], np.int16)
  roll = np.zeros((4, 88), np.uint8)
  for t, k in ((0, 51), (0, 46), (0, 39), (0, 0), (1, 46), (1, 27), (3, 87),
               (3, 39), (3, 27)):
    roll[t, k] = 1
  for every in (1, 2, 3):
    for example in ({'voices': voices}, {'roll': roll}):
      np.testing.assert_array_equal(
          roll_lstm.keys_of(example, every), roll[::every])


def test_crops_reach_both_ends_and_short_pieces_are_padded():
  keys = keys_of(0, 10)
  crop = roll_lstm.preprocess(config_of(length=8))
  rng, seen = np.random.default_rng(0), set()
  for _ in range(40):
    row = crop({'roll': keys}, rng)
    assert row['frames'] == 8
    seen |= {i for i in range(3) if (row['keys'] == keys[i:i + 8]).all()}
  assert seen == {0, 1, 2}
  row = roll_lstm.preprocess(config_of(length=12))({'roll': keys}, rng)
  assert row['frames'] == 10 and row['keys'].shape == (12, 88)
  np.testing.assert_array_equal(row['keys'][:10], keys)
  assert not row['keys'][10:].any()


@pytest.mark.parametrize('frames', [1, 8, 9, 30])
def test_segments_hold_every_frame_of_a_piece_once(frames):
  keys = keys_of(0, frames)
  rows = roll_lstm.segments(config_of(length=8))({'roll': keys})
  assert len(rows) == -(-frames // 8)
  np.testing.assert_array_equal(
      np.concatenate([r['keys'][:r['frames']] for r in rows]), keys)


def test_stored_pieces_are_shown_as_samples_are():
  keys = keys_of(0, 30)
  show = roll_lstm.music(config_of(length=8))
  whole = show({'roll': keys}, None)['roll']
  assert whole.shape == (30, 128, 1) and whole.dtype == bool
  np.testing.assert_array_equal(whole[:, 21:109, 0], keys > 0)
  assert not whole[:, :21].any() and not whole[:, 109:].any()
  crop = show({'roll': keys}, np.random.default_rng(0))['roll']
  assert crop.shape == (8, 128, 1)


# ---------------------------------------------------------------- likelihood


def test_likelihood_and_accuracy_are_those_of_the_frames_by_hand():
  config, model, state = small()
  batch = batch_of(3, 24)
  batch['frames'] = jnp.array([24, 5, 9])
  batch['mask'] = jnp.array([1.0, 1.0, 0.0])
  got = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  keys = np.asarray(batch['keys'])
  p = sigmoid(np.float64(apply(config, state, keys)))
  nll, hits, misses = [], 0, 0
  for b, frames in ((0, 24), (1, 5)):
    for t in range(frames):
      nll.append(-sum(math.log(q if on else 1 - q)
                      for q, on in zip(p[b, t], keys[b, t], strict=True)))
      guess = p[b, t] > 0.5
      hits += (guess & (keys[b, t] > 0)).sum()
      misses += (guess != (keys[b, t] > 0)).sum()
  assert got['nll'].weight == 29 and hits
  np.testing.assert_allclose(got['nll'].compute(), np.mean(nll), rtol=1e-5)
  np.testing.assert_allclose(got['accuracy'].compute(),
                             hits / (hits + misses), rtol=1e-6)


def test_nothing_known_costs_88_ln_2_a_frame():
  _, model, state = small()
  zeros = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
  batch, key = batch_of(2, 24), jax.random.key(0)
  nll = model.eval_step(zeros, batch, key)['nll'].compute()
  np.testing.assert_allclose(nll, 88 * math.log(2), rtol=1e-6)
  fresh = model.init(jax.random.key(1), batch)
  _, metrics = jax.jit(model.train_step, static_argnames='stage')(
      fresh, batch, key, stage=0)
  assert abs(metrics['loss/nll'] - 61.0) < 0.5


def test_what_is_padding_does_not_count():
  _, model, state = small()
  batch = batch_of(2, 24) | {'frames': jnp.array([24, 5])}
  other = batch | {'keys': batch['keys'].at[1, 5:].set(1)}
  step = jax.jit(model.train_step, static_argnames='stage')
  for fn in (lambda b: jax.jit(model.eval_step)(state, b, jax.random.key(0)),
             lambda b: step(state, b, jax.random.key(0), stage=0)):
    jax.tree.map(np.testing.assert_array_equal, fn(batch), fn(other))


def test_the_trivial_models_score_what_is_known(tmp_path):
  if not REAL.is_dir():
    pytest.skip(f'no real chorales in {REAL}')
  name = 'jsb_chorales/quarter'
  builders.make(name, tmp_path, REAL).prepare()
  train, test = (list(builders.open_split(name, split, tmp_path))
                 for split in ('train', 'test'))
  config, model, state = small(length=64)
  rows = [r for x in test for r in roll_lstm.segments(config)(x)]
  batch = {k: np.stack([r[k] for r in rows]) for k in rows[0]}
  batch['mask'] = np.ones(len(rows), np.float32)
  seen = np.concatenate([x['roll'] for x in train])
  p = (seen.sum(0, dtype=int) + 1) / (len(seen) + 2)
  zeros = jax.tree.map(jnp.zeros_like, state.params)
  for bias, want in ((np.zeros(88), 61.00), (np.log(p / (1 - p)), 11.06)):
    zeros['model']['output']['bias'] = jnp.asarray(bias, jnp.float32)
    got = jax.jit(model.eval_step)(
        state.replace(params=zeros), batch, jax.random.key(0))['nll']
    assert got.weight == 4725  # All of them.
    assert round(float(got.compute()), 2) == want


# ---------------------------------------------------------------- training


def test_dropout_acts_in_training_only():
  batch = batch_of(2, 24)
  for rate, differs in ((0.0, False), (0.5, True)):
    _, model, state = small(dropout=rate)
    step = jax.jit(model.train_step, static_argnames='stage')
    a, b = (step(state, batch, jax.random.key(k), stage=0)[1]['loss/nll']
            for k in (0, 1))
    assert (a != b) == differs
  evaluate = lambda **changes: jax.jit(small(**changes)[1].eval_step)(
      small()[2], batch, jax.random.key(0))['nll'].compute()
  assert evaluate(dropout=0.5) == evaluate(dropout=0.0)


@pytest.mark.parametrize('cell', CELLS)
def test_one_piece_can_be_learnt_by_heart(cell):
  config = config_of(cell=cell, layers=1, units=32, learning_rate=0.02)
  model = roll_lstm.build(config)
  batch = batch_of(1, 24)
  state = model.init(jax.random.key(0), batch)

  @jax.jit
  def train(state):
    return jax.lax.scan(
        lambda state, _: model.train_step(state, batch, jax.random.key(0), 0),
        state, length=300)

  _, metrics = train(state)
  assert metrics['loss/nll'][0] > 60 and metrics['loss/nll'][-1] < 0.5


# ---------------------------------------------------------------- samples


def rows_of(count, **entries):
  return {'mask': jnp.ones(count), 'index': jnp.arange(count),
          **{k: jnp.asarray(v) for k, v in entries.items()}}


def test_samples_do_not_depend_on_the_batch_size():
  _, model, state = small()
  key = jax.random.key(7)
  many = model.sample(state, rows_of(5), key)
  assert many['roll'].shape == (5, 24, 128, 1)
  assert len({x.tobytes() for x in np.asarray(many['roll'])}) == 5
  one = model.sample(
      state, {'mask': jnp.ones(1), 'index': jnp.array([3])}, key)
  np.testing.assert_array_equal(one['roll'][0], many['roll'][3])
  np.testing.assert_allclose(one['score'][0], many['score'][3], rtol=1e-5)


def test_sampling_copies_nothing_from_the_host():
  _, model, state = small()
  batch, key = rows_of(2), jax.random.key(0)
  with jax.transfer_guard('disallow'):
    jax.block_until_ready(model.sample(state, batch, key))


@pytest.mark.parametrize('cell', CELLS)
def test_the_coldest_samples_are_the_best_of_the_uncached_network(cell):
  config, model, state = small(cell)
  out = model.sample(state, rows_of(2, temperature=np.zeros(2)),
                     jax.random.key(0))
  keys = np.asarray(out['roll'])[:, :, 21:109, 0]
  assert 0 < keys.mean() < 1
  logits = np.asarray(apply(config, state, keys.astype(np.uint8)))
  np.testing.assert_array_equal(logits > 0, keys)
  nats = np.log1p(np.exp(-np.abs(logits))).sum(-1)  # Of the likelier each.
  np.testing.assert_allclose(out['score'], -nats.mean(1), rtol=1e-5)


def test_keys_are_drawn_as_often_as_they_are_likely():
  _, model, state = small(layers=1)
  params = jax.tree.map(jnp.zeros_like, state.params)
  bias = np.linspace(-3, 3, 88)
  params['model']['output']['bias'] = jnp.asarray(bias, jnp.float32)
  state = state.replace(params=params)
  for temperature in (1.0, 0.5):
    roll = model.sample(
        state, rows_of(200, temperature=np.full(200, temperature)),
        jax.random.key(0))['roll']
    share = np.asarray(roll)[:, :, 21:109, 0].mean((0, 1))
    want = sigmoid(bias / temperature)
    assert (np.abs(share - want) < 5 * np.sqrt(want * (1 - want) / 4800)).all()


def test_primers_are_kept_and_change_what_follows():
  _, model, state = small()
  primer = np.full((2, 30, 88), roll_lstm.FREE, np.int8)
  primer[:, :9] = keys_of(0, 2, 9)
  cold, key = np.zeros(2), jax.random.key(0)
  roll = np.asarray(model.sample(
      state, rows_of(2, primer=primer, temperature=cold), key)['roll'])
  assert roll.shape == (2, 30, 128, 1)
  np.testing.assert_array_equal(roll[:, :9, 21:109, 0], primer[:, :9] > 0)
  free = np.asarray(model.sample(state, rows_of(2, temperature=cold), key)[
      'roll'])
  assert (roll[:, 9:24] != free[:, 9:]).any()
  # Going on from what was drawn is going on from the primer.
  primer[:, :20] = roll[:, :20, 21:109, 0]
  again = model.sample(
      state, rows_of(2, primer=primer, temperature=cold), key)['roll']
  np.testing.assert_array_equal(again, roll)


# ---------------------------------------------------------------- prompts


def write(path, keys, step_s=0.5):
  roll = np.pad(keys, ((0, 0), (21, 19)))[:, :, None]
  midi.write(path, midi.from_roll(roll, step_s, [0]))
  return str(path)


def test_a_midi_file_becomes_the_primer_of_every_row(tmp_path):
  keys = keys_of(0, 12)
  path = write(tmp_path / 'a.mid', np.concatenate([np.zeros_like(keys[:3]),
                                                   keys]))
  batch = roll_lstm.prompt(config_of(), 3, primer=path, primer_s=4.0,
                           duration_s=10.0, temperature=0.5)
  assert {k: v.shape for k, v in batch.items()} == {
      'mask': (3,), 'index': (3,), 'temperature': (3,), 'primer': (3, 20, 88)}
  for row in batch['primer']:
    np.testing.assert_array_equal(row[:8], keys[:8])
    assert (row[8:] == roll_lstm.FREE).all()
  _, model, state = small()
  roll = model.sample(state, jax.device_put(batch), jax.random.key(0))['roll']
  np.testing.assert_array_equal(roll[2, :8, 21:109, 0], keys[:8] > 0)
  # Unless told otherwise it is half of the sample.
  row, = roll_lstm.prompt(config_of(), 1, primer=path, duration_s=10.0)[
      'primer']
  np.testing.assert_array_equal(row[:10], keys[:10])
  assert (row[10:] == roll_lstm.FREE).all()


@pytest.mark.parametrize('given, message', [
    (dict(temperature=-1.0), 'temperature=-1.0 .*0 or more'),
    (dict(temperature=float('nan')), 'temperature=nan .*0 or more'),
    (dict(duration_s=0.1), r'duration_s=0.1 .*0\.5 \(a frame\)'),
    (dict(duration_s=float('inf')), 'duration_s=inf'),
    (dict(temperature=float('inf')), 'temperature=inf .*0 or more'),
    (dict(primer_s=-1.0), 'primer_s=-1.0'),
    (dict(primer_s=2.0), r'primer_s=2\.0 without .*primer=FILE'),
    (dict(primer='none.mid'), r'^primer=none\.mid: .*read')])
def test_prompts_out_of_range_are_refused(given, message):
  with pytest.raises(errors.UserError, match=message):
    roll_lstm.prompt(config_of(), 1, **given)


def test_primers_that_cannot_be_used_are_refused_with_their_name(tmp_path):
  path = write(tmp_path / 'long.mid', keys_of(0, 40))
  with pytest.raises(errors.UserError, match=r'12 frames.* the 10 frames'):
    roll_lstm.prompt(config_of(), 1, primer=path, primer_s=6.0, duration_s=5.0)
  empty = write(tmp_path / 'empty.mid', np.zeros((4, 88), np.uint8))
  with pytest.raises(errors.UserError, match=r'empty\.mid: no notes'):
    roll_lstm.prompt(config_of(), 1, primer=empty)
  notes = np.zeros(1, midi.NOTE)
  notes['pitch'], notes['end_s'], notes['velocity'] = 20, 1.0, 90
  midi.write(tmp_path / 'low.mid', notes)
  (tmp_path / 'bad.mid').write_bytes(b'MThd')
  with pytest.raises(errors.UserError, match=r'^primer=.*bad\.mid: .*valid'):
    roll_lstm.prompt(config_of(), 1, primer=str(tmp_path / 'bad.mid'))
  with pytest.raises(errors.UserError, match=r'low\.mid: .*transpose by \+1'):
    roll_lstm.prompt(config_of(), 1, primer=str(tmp_path / 'low.mid'))


@pytest.mark.parametrize('changes, message', [
    ({'cell': 'lsmt'}, "model.cell='lsmt' .*lstm"),
    ({'length': 0}, 'model.length=0 .*1 or more'),
    ({'every': -1}, 'model.every=-1 .*1 or more'),
    ({'layers': 0}, 'model.layers=0 .*1 or more'),
    ({'layers': -1}, 'model.layers=-1 .*1 or more'),
    ({'units': 0}, 'model.units=0 .*1 or more')])
def test_settings_out_of_range_are_refused(changes, message):
  with pytest.raises(errors.UserError, match=message):
    roll_lstm.build(config_of(**changes))
