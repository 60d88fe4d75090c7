"""The loop, on a model of thirty lines (tests/toy.py)."""

import errno
import json
import os
import shutil
import signal
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import toy

from common import checkpoint, errors, runs, trainer
from common.data import builders


@pytest.fixture(autouse=True)
def toy_data(monkeypatch):
  sizes = {'train': 37, 'valid': 11}
  monkeypatch.setattr(builders, 'open_split',
                      lambda name, split, data_dir: toy.Source(sizes[split]))
  return sizes


def assert_same_tree(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def metrics_of(workdir):
  return (workdir / 'metrics.jsonl').read_bytes()


def test_a_run_stopped_at_any_save_ends_bit_equal(tmp_path):
  config = toy.get_config()
  whole = trainer.fit(config, tmp_path / 'whole')
  assert int(whole.step) == 12
  for steps in ([4], [8], [10], [3, 5, 9]):  # 8 is the first of stage 2.
    workdir = tmp_path / '_'.join(map(str, steps))
    for stop in [*steps, config.steps]:
      part = toy.get_config()
      part.steps = stop
      state = trainer.fit(part, workdir)
    assert_same_tree(state, whole)


def test_metrics_file_is_bit_equal_after_a_kill_between_saves(tmp_path):
  config = toy.get_config()
  config.checkpoint.keep_last = 5
  trainer.fit(config, tmp_path)
  whole = metrics_of(tmp_path)
  for last in (8, 4, 0):  # As if killed before the later saves.
    for step in (4, 8, 12):
      if step > last:
        shutil.rmtree(tmp_path / 'checkpoints' / str(step),
                      ignore_errors=True)
    with (tmp_path / 'metrics.jsonl').open('ab') as f:
      f.write(b'{"step": 11, "loss": 9.9}\n{"step": 12, "lo')  # Torn.
    trainer.fit(config, tmp_path)
    assert metrics_of(tmp_path) == whole


def test_metrics_lines_hold_losses_and_evaluations_but_no_times(tmp_path):
  trainer.fit(toy.get_config(), tmp_path)
  lines = [json.loads(x) for x in metrics_of(tmp_path).splitlines()]
  assert [x['step'] for x in lines if 'loss' in x] == [1, 2, 4, 6, 8, 10, 12]
  assert [x['step'] for x in lines if 'eval/mse' in x] == [5, 10, 12]
  assert not any('time' in k for x in lines for k in x)
  timing = [json.loads(x) for x in
            (tmp_path / 'timing.jsonl').read_text().splitlines()]
  assert timing[0]['time/first_step_s'] > 0
  assert all(x['time/step_s'] > x['time/data_s'] >= 0 for x in timing[1:])


def test_samples_are_written_as_sound_and_picture(tmp_path):
  trainer.fit(toy.get_config(), tmp_path)
  names = {p.name for p in (tmp_path / 'samples').iterdir()}
  assert names == {f'{step:06d}_{i:02d}.{kind}' for step in (6, 12)
                   for i in range(4) for kind in ('wav', 'png')}
  assert list((tmp_path / 'tensorboard').iterdir())


@pytest.mark.parametrize('mesh', [(1, 1), (2, 2), (1, 4)])
def test_losses_do_not_depend_on_the_mesh(mesh, tmp_path, monkeypatch):
  monkeypatch.setattr(trainer.sharding, 'SMALL', 1)  # Split small arrays too.
  config = toy.get_config()
  trainer.fit(config, tmp_path / 'a')
  config.mesh.data, config.mesh.fsdp = mesh
  state = trainer.fit(config, tmp_path / 'b')
  if mesh[1] > 1:
    assert not state.params['model']['up'].sharding.is_fully_replicated
  for x, y in zip(metrics_of(tmp_path / 'a').splitlines(),
                  metrics_of(tmp_path / 'b').splitlines(), strict=True):
    x, y = json.loads(x), json.loads(y)
    assert x.keys() == y.keys()
    for k in x:
      np.testing.assert_allclose(y[k], x[k], rtol=1e-5)


def test_a_checkpoint_goes_on_on_another_mesh(tmp_path, monkeypatch):
  monkeypatch.setattr(trainer.sharding, 'SMALL', 1)
  config = toy.get_config()
  whole = trainer.fit(config, tmp_path / 'whole')
  config.steps, config.mesh.fsdp = 4, 4
  trainer.fit(config, tmp_path / 'moved')
  config.steps, config.mesh.fsdp, config.mesh.data = 12, 1, 2
  state = trainer.fit(config, tmp_path / 'moved')
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5,
                                                       atol=1e-7),
               state.params, whole.params)


def test_each_stage_is_compiled_once(tmp_path, monkeypatch):
  made = []
  real = trainer.jit_step
  monkeypatch.setattr(trainer, 'jit_step',
                      lambda *a: made.append(real(*a)) or made[-1])
  trainer.fit(toy.get_config(), tmp_path)
  assert [f._cache_size() for f in made] == [2]


def test_batches_change_with_the_stage(tmp_path, monkeypatch):
  rows = []
  real = trainer.pipeline.train
  monkeypatch.setattr(
      trainer.pipeline, 'train',
      lambda *a, **k: rows.append(k['batch_size']) or real(*a, **k))
  trainer.fit(toy.get_config(), tmp_path)
  assert rows[-1] == 4 and set(rows[:-1]) == {8}


def test_a_loss_of_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path):
  config = toy.get_config()
  config.model.nan_at = 6
  with pytest.raises(errors.UserError, match=r'loss is nan at step 7.*step 4'):
    trainer.fit(config, tmp_path)
  assert runs.load(tmp_path).step == 4


def test_parameters_that_overflow_in_the_last_update_are_not_saved(
    tmp_path, monkeypatch):
  real = trainer.jit_step

  def poisoned(*args):
    step_fn = real(*args)

    def call(state, batch, key, stage):
      state, metrics = step_fn(state, batch, key, stage=stage)
      return state.replace(params=jax.tree.map(
          lambda x: x / 0.0 if int(state.step) == 8 else x,
          state.params)), metrics
    return call

  monkeypatch.setattr(trainer, 'jit_step', poisoned)
  monkeypatch.setattr(trainer.jax, 'transfer_guard',
                      lambda _: jax.transfer_guard_host_to_device('allow'))
  with pytest.raises(errors.UserError,
                     match='parameters are not finite after step 8'):
    trainer.fit(toy.get_config(), tmp_path)
  assert runs.load(tmp_path).step == 4


def test_the_loop_makes_no_hidden_copies(tmp_path, monkeypatch):
  real = trainer.pipeline.train
  # Batches that are already on the device would hide a copy; numpy fed to the
  # step without device_put must be refused.
  monkeypatch.setattr(trainer.sharding, 'place', lambda batch, _: batch)
  monkeypatch.setattr(trainer.pipeline, 'train', real)
  with pytest.raises(Exception, match='Disallowed host-to-device'):
    trainer.fit(toy.get_config(), tmp_path)


def test_the_second_ctrl_c_does_not_wait(capsys):
  with trainer._signals() as asked:
    assert not asked()
    os.kill(os.getpid(), signal.SIGINT)
    assert asked() and 'Ctrl-C again' in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize('error', [
    jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory'),
    MemoryError(), OSError(errno.EIO, 'Input/output error')])
def test_a_machine_in_trouble_condemns_no_checkpoint(
    tmp_path, monkeypatch, error):
  trainer.fit(toy.get_config(), tmp_path)

  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(ocp.CheckpointManager, 'restore', fail)
  with pytest.raises(type(error)):
    trainer.fit(toy.get_config(), tmp_path)
  assert (tmp_path / 'checkpoints' / '12').is_dir()


# A failed read leaves callbacks of the storage library on a closed event loop.
@pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_corrupt_newest_checkpoint_falls_back_and_says_so(tmp_path, caplog):
  config = toy.get_config()
  whole = trainer.fit(config, tmp_path)
  newest = tmp_path / 'checkpoints' / '12'
  for path in newest.rglob('*'):
    if path.is_file() and 'd' in path.parts:
      path.write_bytes(path.read_bytes()[:10])
  state = trainer.fit(config, tmp_path)
  assert 'checkpoint 12' in caplog.text and 'going back' in caplog.text
  assert_same_tree(state, whole)
  assert (tmp_path / 'corrupt_checkpoints' / '12').is_dir()


@pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_reader_passes_by_a_corrupt_checkpoint_and_moves_nothing(
    tmp_path, caplog):
  trainer.fit(toy.get_config(), tmp_path)
  newest = tmp_path / 'checkpoints' / '12'
  for path in newest.rglob('*'):
    if path.is_file() and 'd' in path.parts:
      path.write_bytes(path.read_bytes()[:10])
  assert runs.load(tmp_path).step == 8
  assert 'checkpoint 12' in caplog.text and newest.is_dir()
  with pytest.raises(errors.UserError, match=r'12 cannot be read.*steps.*8'):
    runs.load(tmp_path, 12)


@pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning')
def test_all_checkpoints_corrupt_is_an_error_that_names_the_folder(tmp_path):
  config = toy.get_config()
  config.checkpoint.every, config.steps = 0, 3
  trainer.fit(config, tmp_path)
  for path in (tmp_path / 'checkpoints' / '3').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')
  with pytest.raises(errors.UserError, match='checkpoints/3 cannot be read'):
    trainer.fit(config, tmp_path)
  assert (tmp_path / 'checkpoints' / '3').is_dir()  # Nothing lost.


def test_a_setting_that_changes_the_shapes_is_named_beside_the_error(tmp_path):
  config = toy.get_config()
  trainer.fit(config, tmp_path)
  wider = f'model.width={config.model.width + 1}'
  with pytest.raises(errors.UserError, match=f'--set={wider}: .*12'):
    runs.load(tmp_path, changes=[wider])
  assert runs.load(tmp_path, changes=['seed=7']).config.seed == 7


def test_keep_last_and_keep_every(tmp_path):
  config = toy.get_config()
  config.checkpoint.every, config.checkpoint.keep_every = 1, 5
  trainer.fit(config, tmp_path)
  kept = sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())
  assert kept == [5, 10, 11, 12]


def test_saving_does_not_see_later_donated_steps(tmp_path):
  config = toy.get_config()
  config.steps, config.model.width = 6, 50_000  # 13 MB in all: slow to write.
  config.checkpoint.every, config.checkpoint.keep_last = 1, 9
  config.eval_every = config.sample_every = config.num_samples = 0
  config.model.second_stage = 99
  trainer.fit(config, tmp_path / 'a')
  saved = runs.load(tmp_path / 'a', 3).state
  config.steps = 3
  assert_same_tree(saved, trainer.fit(config, tmp_path / 'b'))


def test_a_changed_config_is_refused_by_its_keys(tmp_path):
  config = toy.get_config()
  config.steps = 2
  trainer.fit(config, tmp_path)
  config.model.learning_rate, config.steps = 0.5, 3
  with pytest.raises(errors.UserError,
                     match=r'model.learning_rate \(0.01 there, 0.5 now\)'):
    trainer.fit(config, tmp_path)


def test_another_data_set_is_refused(tmp_path, toy_data):
  config = toy.get_config()
  config.steps = 2
  trainer.fit(config, tmp_path)
  toy_data['train'] = 38
  config.steps = 4
  with pytest.raises(errors.UserError, match='38 training examples'):
    trainer.fit(config, tmp_path)


@pytest.mark.parametrize('key, value, sentence', [
    ('batch_size', 6, 'batch_size=6 does not split over 4 devices; use 4 or 8'),
    ('steps', 0, 'steps=0'),
    ('seed', -1, 'seed=-1 is below 0'),
    ('dtype', 'float16', "dtype='float16' is neither"),
    ('module', 'symbolic_jax.nope', "config.module='symbolic_jax.nope'"),
    ('mesh.fsdp', 3, 'mesh.fsdp=3 does not divide 4 devices; use one of 1, 2'),
    ('mesh.data', 5, 'mesh.data=5'),
])
def test_wrong_settings_are_one_sentence(key, value, sentence, tmp_path):
  config = toy.get_config()
  config.update_from_flattened_dict({key: value})
  with pytest.raises(errors.UserError, match=sentence):
    trainer.fit(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()  # Refused before anything is made.


def test_sigterm_saves_and_stops_within_a_step(tmp_path, monkeypatch, capsys):
  config = toy.get_config()
  config.steps, config.model.second_stage = 100_000, 10**6
  config.checkpoint.every = config.eval_every = config.sample_every = 0
  timer = threading.Timer(
      2.0, lambda: os.kill(os.getpid(), signal.SIGTERM))
  timer.start()
  with pytest.raises(SystemExit) as stopped:
    trainer.fit(config, tmp_path)
  assert stopped.value.code == 143
  saved = runs.load(tmp_path).step
  assert f'step {saved} is saved' in capsys.readouterr().out
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # Put back.


def test_an_abstract_target_keeps_shardings():
  shapes = jax.ShapeDtypeStruct((4, 2), np.float32)
  mesh = trainer.sharding.make_mesh(fsdp=4, data=1)
  target = checkpoint.abstract(shapes, trainer.sharding.by_row(mesh))
  assert target.sharding.mesh.shape['fsdp'] == 4
