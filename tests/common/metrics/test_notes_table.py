"""common/metrics/notes_table.py, and `common.evaluate --generated`."""

import json
import subprocess
import sys
import types

import jax
import ml_collections
import numpy as np
import pytest

from common import config as config_lib
from common import errors, midi, runs, sharding, trainer
from common import model as model_lib
from common.data import builders
from common.metrics import notes_table, symbolic
from symbolic_jax import chorales, language_model

DATA = ml_collections.ConfigDict({'step_s': 0.125, 'programs': [0, 40, -1]})


def roll_of(*notes, steps=32):
  """(track, onset, end, pitch) -> [T, 128, 3]."""
  roll = np.zeros((steps, 128, 3), bool)
  for track, onset, end, pitch in notes:
    roll[onset:end, pitch, track] = True
  return roll


def test_a_piece_is_measured_as_by_hand():
  roll = roll_of((0, 0, 4, 60), (0, 4, 5, 64), (1, 0, 4, 67), (1, 16, 20, 60),
                 (2, 0, 1, 36), (2, 2, 3, 36))
  piece = notes_table.look({'roll': roll}, DATA)
  want = {
      'notes_per_s': 4 / 4.0, 'pitches_used': 3, 'pitch_range': 7,
      'pitch_entropy': 1.5, 'pitch_class_entropy': 1.5,
      'scale_consistency': 1.0, 'polyphony': 13 / 9, 'polyphony_rate': 0.0,
      # Bars of 16 steps: onsets at 0 and 4, at 0.
      'groove_consistency': 15 / 16,
      'empty_bar_rate': (1 / 2 + 0) / 2, 'used_pitch_classes': (2 + 1) / 2,
      'qualified_notes': (1 / 2 + 1) / 2, 'drum_pattern': 1.0,
      'tonal_distance': symbolic.tonal_distance(roll[..., 0], roll[..., 1], 4)}
  assert piece.values == pytest.approx(want)
  # Low to high: 60 67 at 0, 64 at 4, 60 at 16; steps in time and intervals.
  np.testing.assert_array_equal(
      piece.symbols - 128, [7, 4 * 256 - 3, 12 * 256 - 4])


def test_tables_of_notes_have_the_values_of_their_rolls_but_no_bars():
  rng = np.random.default_rng(0)
  roll = roll_of(*((int(rng.integers(3)), int(t), int(t) + 1 + int(
      rng.integers(3)), int(rng.integers(40, 80))) for t in range(28)),
      steps=30)[:28]
  a = notes_table.look({'roll': roll}, DATA)
  b = notes_table.look(
      {'notes': midi.from_roll(roll, 0.125, DATA.programs)}, DATA)
  assert set(a.values) - set(b.values) == {
      'groove_consistency', 'empty_bar_rate', 'used_pitch_classes',
      'qualified_notes', 'tonal_distance', 'drum_pattern'}
  for name, value in b.values.items():
    assert value == pytest.approx(a.values[name]), name
  np.testing.assert_array_equal(a.symbols, b.symbols)


def test_silence_is_no_error():
  for music in ({'roll': roll_of()}, {'notes': np.empty(0, midi.NOTE)}):
    piece = notes_table.look(music, DATA)
    assert piece.values['pitches_used'] == 0
    assert np.isnan(piece.values['pitch_entropy']) and not len(piece.symbols)


def piece_with(**values):
  return notes_table.Piece(values, np.empty(0, np.int64))


def test_sets_are_compared_by_mean_spread_and_overlap():
  x = np.random.default_rng(0).normal(size=300)
  near = [piece_with(a=v, b=v, c=np.nan, d=1.0) for v in x]
  far = [piece_with(a=v + 100, b=v + 1, c=v, d=1.0) for v in x]
  same = notes_table.compare(near, near)
  assert same['a']['mean'] == pytest.approx(x.mean())
  assert same['a']['std'] == pytest.approx(x.std())
  assert same['a']['overlap'] > 0.95
  assert same['a']['divergence'] == pytest.approx(0, abs=1e-9)
  assert 'c' not in same and same['d'] == {'mean': 1.0, 'std': 0.0}
  other = notes_table.compare(near, far)
  assert other['a']['overlap'] < 1e-6 < 10 < other['a']['divergence']
  # Of two unit Gaussians one apart: 2 Phi(-1/2), and a half.
  assert other['b']['overlap'] == pytest.approx(0.617, abs=0.05)
  assert other['b']['divergence'] == pytest.approx(0.5, rel=0.2)


VOICES = np.random.default_rng(0).integers(48, 70, (12, 100, 4))


class Source:
  """Chorales of random notes; no two have a run in common."""

  def __init__(self, first, last):
    self._voices = VOICES[first:last]

  def __len__(self):
    return len(self._voices)

  def __getitem__(self, i):
    if not 0 <= i < len(self):
      raise IndexError(i)
    return {'id': np.int32(i), 'voices': self._voices[i].astype(np.int16)}


def playing(voices):
  """A model that plays these, one after the other."""
  config = config_lib.load('lstm_jsb:tiny')

  def sample(state, batch, key):
    del state, key
    return {'roll': chorales.roll(voices[np.asarray(
        batch['index']) % len(voices)])}

  nothing = lambda *_: None
  mesh = sharding.make_mesh()
  return runs.Run(
      config, language_model,
      model_lib.Model(init=nothing, train_step=nothing, eval_step=nothing,
                      sample=sample),
      mesh, jax.device_put(model_lib.TrainState.create({}, {}),
                           sharding.replicated(mesh)), 1)


def test_copies_are_found_in_all_of_a_piece_and_in_any_key(monkeypatch):
  monkeypatch.setattr(notes_table, '_BATCH', 4)
  train, held_out = Source(0, 8), Source(8, 12)
  # Half from the end of training pieces, seven semitones lower; half new.
  voices = np.concatenate([VOICES[:3, 70:] - 7, VOICES[8:11, :30]])
  run = playing(voices)
  rows, copied, counts, found = notes_table.measure(
      run, held_out, train, notes_table.generate(run, held_out, 6))
  assert counts == {'train': 8, 'real': 4, 'generated': 6}
  assert copied['real'].pop('longest_copy') < 8
  assert copied['real'] == {'long_copies': 0, 'copied_8': 0}
  assert copied['generated']['long_copies'] == 0.5
  assert copied['generated']['copied_8'] == pytest.approx(0.5)
  # All but what a held note of two steps has joined, and the first.
  notes = [len(symbolic.notes_of(chorales.roll(v))) for v in voices[:3]]
  assert copied['generated']['longest_copy'] == pytest.approx(
      max(notes) - 1, abs=8)
  assert [p[r.argmax()] for p, r in zip(
      found.pieces[4:7], found.runs[4:7], strict=True)] == [0, 1, 2]
  told = notes_table.of_each(found, list('abcdef'), train).splitlines()
  assert len(told) == 6 and told[1].startswith('b   1.000 of the 8-grams')
  assert told[1].endswith('(training piece 1: 1)') and ' 0.000' in told[3]
  shown = notes_table.text(rows, copied, counts)
  assert 'scale_consistency' in shown and '8-grams copied' in shown
  flat = notes_table.flat(rows, copied)
  assert flat['generated/long_copies'] == 0.5
  assert 0 <= flat['generated/pitch_entropy_overlap'] <= 1


def test_crops_are_as_long_as_samples_and_pieces_whole():
  config = config_lib.load('lstm_jsb:tiny')
  config.model.length, config.model.transpose = 80, 3
  music = language_model.music(config)
  example = Source(0, 1)[0]
  whole = music(example, None)['roll']
  np.testing.assert_array_equal(whole, chorales.roll(VOICES[0]))
  crops = [music(example, np.random.default_rng(i))['roll'] for i in range(9)]
  places = set()
  for crop in crops:
    assert crop.shape == (20, 128, 4)
    places |= {t for t in range(81) if (whole[t:t + 20] == crop).all()}
  assert len(places) > 4


def test_models_of_no_notes_are_refused():
  run = types.SimpleNamespace(
      module=types.SimpleNamespace(), model=playing(VOICES).model,
      config=config_lib.load('wavegan_sc09:tiny'))
  with pytest.raises(errors.UserError, match='wavegan makes no notes'):
    notes_table.check(run, draws=False)


def test_midi_files_are_looked_at_as_samples_are(tmp_path):
  """What a model plays, written and read again, measures the same."""
  train, held_out = Source(0, 8), Source(8, 12)
  run = playing(VOICES[2:5])
  for i, piece in enumerate(notes_table.generate(run, held_out, 3)):
    midi.write(tmp_path / f'{i}.mid', midi.from_roll(
        piece['roll'], run.config.data.step_s, run.config.data.programs))
  paths = sorted(map(str, tmp_path.glob('*.mid')))
  measure = lambda made: notes_table.measure(run, held_out, train, made)
  drawn = measure(notes_table.generate(run, held_out, 3))
  read = measure(notes_table.of_files(paths, run.config.data))
  assert read[1:3] == drawn[1:3]
  for name, cell in read[0]['generated'].items():  # All but those of bars.
    assert cell == pytest.approx(drawn[0]['generated'][name]), name
  assert {'pitch_entropy', 'polyphony'} <= read[0]['generated'].keys()
  midi.write(tmp_path / 'empty.mid', np.zeros(0, midi.NOTE))
  with pytest.raises(errors.UserError, match=r'empty\.mid with 0 pitched'):
    notes_table.of_files([str(tmp_path / 'empty.mid')], run.config.data)


@pytest.mark.parametrize('name', ['lstm_jsb', 'music_transformer_maestro'])
def test_evaluate_compares_generated_notes(
    name, data_dir, environment, tmp_path):
  config = config_lib.load(f'{name}:tiny')
  config.num_samples = 0
  trainer.fit(config, tmp_path, data_dir)
  evaluate = lambda *args: subprocess.run(
      [sys.executable, '-m', 'common.evaluate', f'--workdir={tmp_path}',
       f'--data_dir={data_dir}', *args],
      env=environment, capture_output=True, text=True)
  done = evaluate('--generated=5')
  assert done.returncode == 0, done.stderr
  results = json.loads((tmp_path / 'results_valid.json').read_text())
  valid, train = (len(builders.open_split(config.data.name, split, data_dir))
                  for split in ('valid', 'train'))
  assert results['notes']['pieces'] == {
      'train': train, 'real': valid, 'generated': 5}
  metrics = results['metrics']
  assert {'eval/nll', 'real/pitch_entropy', 'generated/pitch_entropy',
          'generated/longest_copy', 'real/long_copies'} <= metrics.keys()
  assert ('generated/used_pitch_classes' in metrics) == (name == 'lstm_jsb')
  assert all(np.isfinite(v) for v in metrics.values())
  assert 'pitch_class_entropy' in done.stdout
  if name == 'lstm_jsb':
    return
  (tmp_path / 'a.mid').write_bytes(
      builders.open_split(config.data.name, 'train', data_dir)[1]['midi'])
  done = evaluate(f'--midi={tmp_path}/*.mid', '--set=model.eval_length=48')
  assert done.returncode == 0, done.stderr
  assert '(training piece 1: ' in done.stdout
  path, = tmp_path.glob('results_valid,model.eval_length=48,midi=*.json')
  results = json.loads(path.read_text())
  assert results['midi'] == [str(tmp_path / 'a.mid')]
  # Times are rounded apart: those of the piece, by its tokens.
  assert results['metrics']['generated/copied_8'] > 0.9
  assert 'eval/nll_from_32' in results['metrics']
  done = evaluate('--set=model.eval_lenght=48')
  assert done.returncode == 2 and "did you mean 'model.eval_length'" in (
      done.stderr)
