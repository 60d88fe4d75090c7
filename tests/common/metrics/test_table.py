"""common/metrics/table.py and the flags of common.evaluate that use it."""

import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common import errors, runs, sharding, trainer
from common import model as model_lib
from common.data import builders
from common.metrics import frechet, ndb, table


@pytest.fixture(scope='module')
def judge(data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('classifier')
  trainer.fit(config_lib.load('classifier_nsynth:tiny'), workdir, data_dir)
  return runs.load(workdir), workdir


@pytest.fixture(scope='module')
def splits(data_dir):
  return [builders.open_split('synthetic_notes/tiny', s, data_dir)
          for s in ('valid', 'train')]


def copying(pitches=True, shift=0):
  """A model that generates the note it is given, `shift` rows further on."""
  config = config_lib.load('classifier_nsynth:tiny')
  config.batch_size = 4

  def preprocess(config):
    def fn(example, rng):
      del rng
      out = {'audio': np.array(example['audio'][:16384])}
      return out | ({'pitch': np.int32(example['pitch'])} if pitches else {})
    return fn

  def sample(state, batch, key):
    del state, key
    return {'audio': jnp.roll(batch['audio'], shift, axis=0)}

  nothing = lambda *_: None
  mesh = sharding.make_mesh()
  return runs.Run(
      config, types.SimpleNamespace(preprocess=preprocess),
      model_lib.Model(init=nothing, train_step=nothing, eval_step=nothing,
                      sample=sample),
      mesh, jax.device_put(model_lib.TrainState.create({}, {}),
                           sharding.replicated(mesh)), 1)


def test_a_perfect_copy_scores_as_the_real_sounds(judge, splits):
  rows, counts = table.measure(copying(), *splits, judge=judge[0])
  assert counts == {'train': 37, 'real': 11, 'generated': 11, 'f0': 11,
                    'bins': 18}
  real, made = rows['real'], rows['generated']
  assert made['fid'] < 1e-6 < real['fid'] and made['fad_logmel'] < 1e-6
  for name in ('ndb', 'ndb_js', 'is', 'pe', 'pa', 'f0'):  # The same sounds.
    assert made[name] == pytest.approx(real[name], rel=1e-5), name
  assert made['f0'] == 1.0
  shown = table.text(rows, counts)
  assert 'NDB/18' in shown and '100.0%' in shown and 'FAD' not in shown.split()


def test_wrong_pitches_are_found_without_a_classifier(splits):
  rows, _ = table.measure(copying(shift=1), *splits)
  assert rows['generated']['f0'] < 0.3 and rows['real']['f0'] == 1
  assert not rows['generated'].keys() & {'fid', 'is', 'pa', 'pe', 'kid'}


def test_models_that_are_told_no_pitch_have_no_pitch_accuracy(judge, splits):
  rows, _ = table.measure(copying(pitches=False), *splits, judge=judge[0])
  assert not rows['generated'].keys() & {'pa', 'f0'}
  assert 'pe' in rows['generated']


def test_batch_size_and_padding_do_not_matter(judge, splits, monkeypatch):
  want, _ = table.measure(copying(), *splits, judge=judge[0])
  monkeypatch.setattr(table, '_BATCH', 8)
  run = copying()
  run.config.batch_size = 8
  got, _ = table.measure(run, *splits, judge=judge[0])
  for name in want:
    assert got[name] == pytest.approx(want[name], rel=1e-3, abs=1e-4)


def test_an_embedding_of_the_user_is_asked_once_for_each_sound(splits):
  seen = []

  def embed(audio, sample_rate):
    assert sample_rate == 16000
    seen.append(len(audio))
    return audio[:, :2000:500]

  rows, counts = table.measure(copying(), *splits, embed=embed)
  assert sum(seen) == counts['train'] + counts['real'] + counts['generated']
  assert rows['generated']['fad'] < 1e-8 < rows['real']['fad']


@pytest.mark.parametrize('count', [5, 11, 30])
def test_conditions_start_again_with_new_numbers(count, splits):
  segments = copying().module.preprocess(None)
  rows = [(int(i), int(p)) for batch in table.conditions(
      splits[0], lambda e: [segments(e, None)], count, 4)
          for i, p, m in zip(batch['index'], batch['pitch'], batch['mask'],
                             strict=True) if m]
  assert [i for i, _ in rows] == list(range(count))
  pitches = [int(e['pitch']) for e in splits[0]]
  assert [p for _, p in rows] == [pitches[i % 11] for i in range(count)]


def test_asked_pitches_by_either_name():
  config = config_lib.load('classifier_nsynth:tiny')
  label = np.array([0, 3])
  np.testing.assert_array_equal(
      table.asked(config, {'label': label}), [24, 27])
  np.testing.assert_array_equal(
      table.asked(config, {'pitch': label, 'label': label}), label)
  assert table.asked(config, {'audio': label}) is None


def test_a_judge_of_another_rate_or_kind_is_refused(judge):
  with pytest.raises(errors.UserError, match=r'16000 Hz.*22050'):
    table.Listener(22050, 16384, judge[0])
  with pytest.raises(errors.UserError, match='classifier_nsynth'):
    table.Listener(16000, 16384, runs.Run(
        config_lib.load('wavegan_sc09:tiny'), *[None] * 5))


def test_models_of_no_sound_are_refused(judge, data_dir, splits):
  with pytest.raises(errors.UserError, match='generates nothing'):
    table.measure(judge[0], *splits)
  config = config_lib.load('lstm_jsb:tiny')
  chorales = builders.open_split(config.data.name, 'valid', data_dir)
  run = runs.Run(config, *runs.build(config), sharding.make_mesh(), None, 0)
  with pytest.raises(errors.UserError, match='no audio'):
    table.measure(run, chorales, chorales)


def test_evaluate_writes_both_rows_beside_the_metrics(
    judge, data_dir, environment, tmp_path):
  workdir = tmp_path / 'wavegan'
  trainer.fit(config_lib.load('wavegan_sc09:tiny'), workdir, data_dir)
  rng = np.random.default_rng(0)
  real, made = rng.normal(size=(2, 50, 3)) + [[[0.0]], [[0.5]]]
  np.savez(tmp_path / 'real.npz', real)
  np.savez(tmp_path / 'made.npz', made)

  shown = subprocess.run(
      [sys.executable, '-m', 'common.evaluate', f'--workdir={workdir}',
       f'--data_dir={data_dir}', f'--classifier={judge[1]}', '--generated=24',
       f'--embedding={tmp_path}/real.npz,{tmp_path}/made.npz'],
      env=environment, check=True, capture_output=True, text=True).stdout
  results = json.loads((workdir / 'results_valid.json').read_text())
  metrics = results['metrics']
  # What was there before is there still, as the training run had it.
  logged = json.loads(
      (workdir / 'metrics.jsonl').read_text().splitlines()[-1])
  before = {k for k in logged if k.startswith('eval/')}
  assert before and results['rows'] == 11
  for k in before:
    assert metrics[k] == pytest.approx(logged[k], rel=1e-4, abs=1e-6)
  names = {'ndb', 'ndb_js', 'fid', 'kid', 'kid_subsets', 'kid_subsets_std',
           'is', 'pe', 'fad_logmel'}
  assert metrics.keys() - before == {
      'generated/fad', *(f'{row}/{n}' for row in ('real', 'generated')
                         for n in names)}
  assert all(np.isfinite(v) for v in metrics.values())
  assert results['sounds'] == {'train': 37, 'real': 11, 'generated': 24,
                               'f0': 0, 'bins': 18}
  assert results['classifier']['step'] == 2
  assert metrics['generated/fad'] == pytest.approx(frechet.distance(
      frechet.Gaussian.of(real), frechet.Gaussian.of(made)))
  assert 'NDB/18' in shown and 'generated' in shown


def test_files_of_embeddings_that_do_not_match_are_explained(tmp_path):
  np.savez(tmp_path / 'a.npz', np.ones((4, 2)))
  np.savez(tmp_path / 'b.npz', np.ones((4, 3)))
  with pytest.raises(errors.UserError, match='2 and 3 dimensions'):
    frechet.distance_of_files(f'{tmp_path}/a.npz,{tmp_path}/b.npz')
  with pytest.raises(errors.UserError, match='two files'):
    frechet.distance_of_files(f'{tmp_path}/a.npz')


def test_a_model_that_generates_nothing_says_so(judge, environment):
  found = subprocess.run(
      [sys.executable, '-m', 'common.generate', f'--workdir={judge[1]}'],
      env=environment, capture_output=True, text=True)
  assert found.returncode == 2
  assert 'generates nothing' in found.stderr


def of_pitches(asked, heard, lowest, known=61):
  return table.Sounds(
      binned=np.random.default_rng(0).normal(size=(len(asked), 4)),
      asked=np.array(asked), heard=np.array([]),
      features=np.random.default_rng(1).normal(size=(len(asked), 3)),
      p_pitch=np.eye(known)[np.array(heard) - lowest])


def test_pitches_are_counted_from_the_lowest_the_judge_knows():
  bins = ndb.Bins(np.random.default_rng(2).normal(size=(20, 4)), 2)
  asked = [24, 30, 84, 60]
  right = of_pitches(asked, asked, 24)
  assert table.row(right, right, bins, 24)['pa'] == 1
  wrong = of_pitches(asked, [25, 30, 83, 61], 24)
  assert table.row(wrong, right, bins, 24)['pa'] == 0.25


def test_a_judge_that_does_not_know_the_pitches_is_refused():
  bins = ndb.Bins(np.random.default_rng(2).normal(size=(20, 4)), 2)
  sounds = of_pitches([21, 60], [24, 60], 24)
  with pytest.raises(errors.UserError, match=r'from 21 to 60 .* 24 to 84'):
    table.row(sounds, sounds, bins, 24)
