"""One sound of any length, from the real binary."""

import subprocess
import sys

import jax
import numpy as np
import soundfile

from common import config as config_lib
from common import generate, midi, runs, trainer


def test_a_stream_becomes_one_wav_file(environment, data_dir, tmp_path):
  config = config_lib.load('gansynth_nsynth:tiny')
  config.steps, config.num_samples = 1, 0
  trainer.fit(config, tmp_path / 'run', data_dir)
  song = tmp_path / 'song.mid'
  midi.write(song, np.array([(0.0, 0.5, 60, 100, 0, False),
                             (0.2, 1.0, 64, 100, 40, False),
                             (3.5, 4.5, 48, 100, 0, False)], midi.NOTE))
  out = tmp_path / 'out'
  done = subprocess.run(
      [sys.executable, '-m', 'common.generate', f'--workdir={tmp_path}/run',
       f'--out={out}', f'--prompt=midi={song}',
       '--prompt=seconds_per_instrument=2'],
      capture_output=True, text=True, env=environment, check=False)
  assert done.returncode == 0, done.stderr
  path, = out.iterdir()
  assert path.name == (
      '000001_seed0_midi-song.mid_seconds_per_instrument-2.wav')
  assert str(path) in done.stdout
  sound, rate = soundfile.read(path)
  assert rate == 16000 and len(sound) == 7 * rate
  np.testing.assert_allclose(sound.max(), 0.5, atol=2**-14)
  loud = np.abs(sound).reshape(70, -1).max(1) > 1e-3  # Tenths of a second.
  assert loud[0] and loud[2] and loud[35] and not loud[40:].any()


def test_names_of_files_tell_the_prompts():
  assert generate.label([]) == ''
  given = ['midi=a/b c.mid', 'pitch=48,60', 'primer=../x']
  assert generate.label(given) == '_midi-b-c.mid_pitch-48-60_primer-x'


def test_the_best_of_each_rows_draws_is_kept():
  batch = {'index': np.arange(2), 'mask': np.ones(2), 'pitch': np.array([5, 9])}
  rows = generate.repeated(batch, 3)
  assert rows['pitch'].tolist() == [5, 5, 5, 9, 9, 9]
  assert rows['index'].tolist() == list(range(6))
  arrays = {'score': np.array([-3.0, -1.0, -2.0, -1.0, -9.0, -5.0]),
            'tokens': np.arange(6)[:, None], 'notes': list('abcdef')}
  best = generate.best_of(arrays, 3)
  assert best['notes'] == ['b', 'd']
  assert best['tokens'].tolist() == [[1], [3]]
  assert best['score'].tolist() == [-1.0, -1.0]
  assert generate.repeated(batch, 1) is batch


def test_n_best_from_the_binary_scores_higher(environment, data_dir, tmp_path):
  config = config_lib.load('lstm_jsb:tiny')
  config.num_samples = 0
  trainer.fit(config, tmp_path, data_dir)

  def run(*given):
    return subprocess.run(
        [sys.executable, '-m', 'common.generate', f'--workdir={tmp_path}',
         '--count=2', *given],
        capture_output=True, text=True, env=environment, check=False)

  done = run('--n_best=4')
  assert done.returncode == 0, done.stderr
  names = {p.name for p in (tmp_path / 'generated').iterdir()}
  assert names == {f'000004_seed0_best-of-4_0{i}.{kind}'
                   for i in (0, 1) for kind in ('mid', 'wav', 'png')}
  opened = runs.load(tmp_path)
  drawn = opened.model.sample(
      opened.state, generate.repeated(generate.empty(2), 4),
      jax.random.fold_in(
          runs.make_key(opened.config, opened.mesh, 'generate'), 0))
  scores = np.asarray(drawn['score']).reshape(2, 4).max(1)
  shown = [float(x) for x in done.stdout.splitlines()[-1].split()[1:]]
  np.testing.assert_allclose(shown, scores, atol=2e-4)
  done = run('--prompt=beams=2')
  assert done.returncode == 0, done.stderr
  done = run('--prompt=beams=2', '--n_best=4')
  assert done.returncode == 2 and 'one or the other' in done.stderr
  done = run('--prompt=beams=16', '--n_best=4')
  assert done.returncode == 2 and 'one or the other' in done.stderr
