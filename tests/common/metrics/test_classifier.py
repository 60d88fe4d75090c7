"""common/metrics/classifier.py: what it hears, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common import errors, runs
from common.data import synthetic
from common.metrics import classifier, pitch


def tiny(**changes):
  config = config_lib.load('classifier_nsynth:tiny')
  config.update_from_flattened_dict(changes)
  return config


def batch_of(config, examples):
  fn = classifier.segments(config)
  rows = [row for e in examples for row in fn(e)]
  return {**{k: np.stack([r[k] for r in rows]) for k in rows[0]},
          'mask': np.ones(len(rows), np.float32)}


def notes(count, split='train'):
  families = list(synthetic.FAMILIES)
  out = [synthetic.note(split, i) for i in range(count)]
  for n in out:  # Stored as a class label.
    n['instrument']['family'] = families.index(n['instrument']['family'])
  return out


@pytest.mark.parametrize('semitones', [-7, -1, 0, 1, 12])
def test_transposition_moves_the_pitch_and_keeps_the_level(semitones):
  t = np.arange(32000) / 16000
  x = np.sin(2 * np.pi * 440 * t).astype(np.float32)
  y = classifier.transpose(x, semitones)
  assert len(y) == round(32000 * 2 ** (-semitones / 12))
  heard, = pitch.estimate(y[None], 16000)
  assert heard == pytest.approx(69 + semitones, abs=0.2)
  assert y[2000:-2000].std() == pytest.approx(np.sqrt(0.5), rel=1e-2)


def test_augmented_notes_sound_at_the_pitch_they_say():
  config = tiny(**{'data.transpose': 5, 'model.length': 32000})
  fn, rng = classifier.preprocess(config), np.random.default_rng(0)
  note, = notes(1)
  rows = [fn(note, rng) for _ in range(8)]
  assert len({int(r['pitch']) for r in rows}) > 3
  heard = pitch.estimate([r['audio'] for r in rows], 16000)
  assert pitch.agreement(heard, [r['pitch'] for r in rows]) == 1
  peaks = [np.abs(r['audio']).max() for r in rows]
  assert max(peaks) > 2 * min(peaks)  # Gains of up to 20 dB.
  assert {r['audio'].shape for r in rows} == {(32000,)}


def test_transposition_stays_among_the_classes():
  config = tiny(**{'model.lowest_pitch': 60, 'model.pitches': 2,
                   'data.transpose': 6})
  fn, rng = classifier.preprocess(config), np.random.default_rng(0)
  note = {**notes(1)[0], 'pitch': 61}
  assert {int(fn(note, rng)['pitch']) for _ in range(20)} == {60, 61}


@pytest.mark.parametrize('number', [59, 62])
def test_notes_outside_the_classes_are_refused(number):
  config = tiny(**{'model.lowest_pitch': 60, 'model.pitches': 2})
  note = {**notes(1)[0], 'pitch': number}
  with pytest.raises(errors.UserError, match=f'pitch {number}.*60 to 61'):
    classifier.preprocess(config)(note, np.random.default_rng(0))


def test_evaluation_hears_the_note_as_it_is():
  config = tiny()
  note, = notes(1)
  row, = classifier.segments(config)(note)
  np.testing.assert_array_equal(row['audio'], note['audio'][:8192])
  assert row['pitch'] == note['pitch']


def test_predictions_are_of_single_sounds_of_any_length():
  config = tiny()
  state = runs.build(config)[1].init(jax.random.key(0), None)
  predict = jax.jit(classifier.predictor(config))
  params = state.params['model']
  audio = jnp.asarray([n['audio'] for n in notes(3)])
  whole = predict(params, audio)
  assert whole.features.shape == (3, 16) and whole.pitch.shape == (3, 61)
  assert whole.family.shape == (3, 11)
  for found, want in (
      (predict(params, audio[:, :8192]), whole),
      (predict(params, audio[1:2]), jax.tree.map(lambda x: x[1:2], whole)),
      (predict(params, audio[:, :100]), predict(
          params, jnp.pad(audio[:, :100], ((0, 0), (0, 50)))))):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, rtol=1e-4, atol=1e-5), found, want)


def test_silence_gives_finite_predictions_and_gradients():
  config = tiny()
  _, model = runs.build(config)
  state = model.init(jax.random.key(0), None)
  batch = {'audio': jnp.zeros((2, 8192)), 'pitch': jnp.array([60, 61]),
           'family': jnp.array([0, 1]), 'mask': jnp.ones(2)}
  state, metrics = jax.jit(model.train_step, static_argnums=3)(
      state, batch, jax.random.key(0), 0)
  for x in jax.tree.leaves((state.params, metrics)):
    assert np.isfinite(x).all()


def test_it_learns_a_few_notes_by_heart():
  config = tiny(**{'model.learning_rate': 3e-3, 'model.decay_steps': 300,
                   'model.dropout': 0.0})
  _, model = runs.build(config)
  batch = batch_of(config, notes(12))
  state = model.init(jax.random.key(0), None)
  step = jax.jit(model.train_step, static_argnums=3, donate_argnums=0)
  before = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  # Little is known at first: about as bad as a guess among the classes.
  assert before['pitch_nll'].compute() == pytest.approx(np.log(61), abs=0.7)
  assert before['family_nll'].compute() == pytest.approx(np.log(11), abs=0.7)
  for _ in range(150):
    state, _ = step(state, batch, jax.random.key(0), 0)
  after = {k: float(m.compute()) for k, m in jax.jit(model.eval_step)(
      state, batch, jax.random.key(0)).items()}
  assert after['pitch_accuracy'] == after['family_accuracy'] == 1
  assert after['pitch_nll'] < 1.0


def test_widths_that_do_not_group_are_refused():
  with pytest.raises(errors.UserError, match='12 is not a multiple of 8'):
    runs.build(tiny(**{'model.widths': (12,)}))
