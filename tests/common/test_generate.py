"""One sound of any length, from the real binary."""

import subprocess
import sys

import numpy as np
import soundfile

from common import config as config_lib
from common import generate, midi, trainer


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
