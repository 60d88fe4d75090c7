import json
import struct
import sys
import types

import mido
import numpy as np
import pytest
import soundfile
import toy

from common import errors, midi, writer


@pytest.fixture
def config():
  c = toy.get_config()
  c.data.step_s, c.data.programs = 0.25, (0, 32)
  return c


def test_lines_after_the_step_and_torn_lines_are_dropped(tmp_path, config):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"step": 1, "a": 1.0}\n{"step": 3, "a": 3.0}\n'
                   b'{"step": 5, "a": 5.0}\nrubbish\n{"step": 2, "a"')
  w = writer.Writer(tmp_path, 3, config)
  w.metrics(4, {'a': np.float32(0.1)})
  w.close()
  lines = [json.loads(x) for x in path.read_text().splitlines()]
  assert [x['step'] for x in lines] == [1, 3, 4]
  assert np.float32(lines[-1]['a']) == np.float32(0.1)  # Every bit.


def test_sound_is_written_as_it_was(tmp_path, config):
  wave = 0.5 * np.sin(np.arange(100, dtype=np.float32))
  writer.write_samples(tmp_path, '000007', {'audio': wave[None]}, config.data)
  back, rate = soundfile.read(tmp_path / '000007_00.wav', dtype='float32')
  assert rate == config.data.sample_rate
  np.testing.assert_allclose(back, wave, atol=1 / 32767)
  assert (tmp_path / '000007_00.png').read_bytes()[:4] == b'\x89PNG'


def test_a_roll_is_written_as_midi_and_picture(tmp_path, config):
  roll = np.zeros((8, 128, 2), np.uint8)
  roll[0:4, 60, 0] = roll[2:3, 40, 1] = 1
  writer.write_samples(tmp_path, 's', {'roll': roll[None]}, config.data)
  notes, now = [], 0.0
  for message in mido.MidiFile(tmp_path / 's_00.mid'):
    now += message.time
    if message.type in ('note_on', 'note_off'):
      on = message.type == 'note_on' and message.velocity > 0
      notes.append((round(now, 3), message.note, on))
  assert sorted(notes) == [(0.0, 60, True), (0.5, 40, True),
                           (0.75, 40, False), (1.0, 60, False)]
  head = (tmp_path / 's_00.png').read_bytes()[16:24]
  assert all(n > 0 for n in struct.unpack('>II', head))


def test_notes_are_played_if_asked(tmp_path, config):
  notes = np.zeros(1, midi.NOTE)
  notes['end_s'], notes['pitch'], notes['velocity'] = 0.5, 69, 100
  arrays = {'notes': [notes, notes[:0]]}  # Silence is a file as well.
  writer.write_samples(tmp_path, 's', arrays, config.data, play=True)
  wave, rate = soundfile.read(tmp_path / 's_00.wav')
  assert np.abs(np.fft.rfft(wave[:rate // 2])).argmax() == 220  # 440 Hz.
  assert not soundfile.read(tmp_path / 's_01.wav')[0].any()
  writer.write_samples(tmp_path / 'b', 's', arrays, config.data)
  assert not list((tmp_path / 'b').glob('*.wav'))


def test_tensorboard_gets_numbers_pictures_and_sound(tmp_path, config):
  w = writer.Writer(tmp_path, 0, config)
  w.metrics(1, {'loss/d': 2.0})
  w.samples(1, {'audio': np.zeros((2, 100), np.float32)})
  w.close()
  events = b''.join(
      p.read_bytes() for p in (tmp_path / 'tensorboard').iterdir())
  for word in (b'loss/d', b'sample_01', b'RIFF', b'\x89PNG'):
    assert word in events


def test_wandb_is_asked_for_by_its_extra(tmp_path, config, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  install = r"pip install 'ostinato\[wandb\]'"
  with pytest.raises(errors.UserError, match=install):
    writer.Writer(tmp_path, 0, config, wandb='project')


def test_wandb_gets_the_same_numbers_and_goes_on_in_the_same_curve(
    tmp_path, config, monkeypatch):
  logged, started = [], []
  run = types.SimpleNamespace(
      log=lambda values, step: logged.append((step, values)),
      finish=lambda: logged.append('finished'))
  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(
      init=lambda **k: started.append(k) or run))
  w = writer.Writer(tmp_path, 0, config, wandb='project')
  w.metrics(2, {'loss': 1.5})
  w.close()
  assert logged == [(2, {'loss': 1.5}), 'finished']
  assert started[0]['project'] == 'project'
  assert started[0]['resume'] == 'allow' and started[0]['id']
