"""What every config promises, at its tiny size: see common/model.py."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common import errors, evaluation, generate, midi, runs, sharding, trainer
from common.data import builders, pipeline

NAMES = config_lib.names()
STEPS = 3


def tiny(name, **changes):
  config = config_lib.load(f'{name}:tiny')
  config.steps = STEPS
  config.checkpoint.every = config.eval_every = config.sample_every = 0
  config.log_every = 1
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module', params=NAMES)
def name(request):
  return request.param


@pytest.fixture(scope='module')
def run(name, data_dir, tmp_path_factory):
  """One run on 4 devices, with what the tests below look at."""
  workdir = tmp_path_factory.mktemp(name)
  compiled = []
  with pytest.MonkeyPatch.context() as patch:
    real = trainer.jit_step
    patch.setattr(trainer, 'jit_step',
                  lambda *a: compiled.append(real(*a)) or compiled[-1])
    state = trainer.fit(tiny(name), workdir, data_dir)
  return workdir, state, compiled


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(x) for x in text.splitlines()]


def assert_close(a, b, rtol=1e-5, atol=0.0):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for k in x:
      np.testing.assert_allclose(y[k], x[k], rtol=rtol, atol=atol, err_msg=k)


def test_metrics_are_finite_and_named(run):
  workdir, state, _ = run
  found = lines(workdir)
  assert [x['step'] for x in found] == [1, 2, 3, 3]
  assert all(math.isfinite(v) for x in found for v in x.values())
  assert any(k.split('/')[0] == 'loss' for k in found[0])
  assert any(k.startswith('eval/') for k in found[-1])
  assert int(state.step) == STEPS


def test_one_compilation_per_stage(run):
  workdir, _, compiled = run
  model = runs.load(workdir).model
  seen = {model.stage_at(s) for s in range(STEPS)}
  assert [f._cache_size() for f in compiled] == [len(seen)]


@pytest.mark.parametrize('data, fsdp', [(1, 1), (1, 4), (2, 2)])
def test_losses_are_the_same_on_every_mesh(
    name, run, data, fsdp, data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(sharding, 'SMALL', 256)
  config = tiny(name, **{'mesh.data': data, 'mesh.fsdp': fsdp})
  trainer.fit(config, tmp_path, data_dir)
  # Values near 0 (differences of means) have no relative precision.
  assert_close(lines(run[0]), lines(tmp_path), rtol=1e-5, atol=1e-6)


def test_resume_is_bit_exact(name, run, data_dir, tmp_path):
  for steps in (1, 2, STEPS):
    state = trainer.fit(tiny(name, steps=steps), tmp_path, data_dir)
  jax.tree.map(np.testing.assert_array_equal, state, run[1])
  last = lambda workdir: [x for x in lines(workdir) if x['step'] == STEPS]
  assert last(tmp_path) == last(run[0])


def test_another_seed_gives_another_run(name, run, data_dir, tmp_path):
  trainer.fit(tiny(name, seed=1, steps=1), tmp_path, data_dir)
  assert lines(tmp_path)[0] != lines(run[0])[0]


@pytest.mark.parametrize('batch_size, data', [(3, 1), (8, -1)])
def test_evaluation_does_not_depend_on_batch_or_devices(
    name, run, batch_size, data, data_dir):
  opened = runs.load(run[0])
  config = tiny(name, **{'mesh.data': data})
  if batch_size % config.batch_size:  # Some batches are several slices.
    config.batch_size = batch_size
  mesh = sharding.make_mesh(**config.mesh)
  state = jax.device_put(jax.device_get(opened.state),
                         sharding.replicated(mesh))
  source = builders.open_split(config.data.name, config.data.eval, data_dir)
  metrics, rows = evaluation.Evaluation(
      config, opened.module, opened.model, mesh, source)(state)
  assert rows >= len(source) and rows % 8  # Padding was really needed.
  want = lines(run[0])[-1]
  for k, v in metrics.items():
    np.testing.assert_allclose(v, want[k], rtol=1e-5, atol=1e-6, err_msg=k)


def test_samples_are_what_the_contract_allows(name, run, data_dir):
  opened = runs.load(run[0])
  if opened.model.sample is None:
    pytest.skip('a model that generates nothing')
  arrays = {}
  for count in (1, 3):
    if hasattr(opened.module, 'codec'):  # What is heard is given to it.
      batch = next(pipeline.evaluate(
          builders.open_split(opened.config.data.name, 'valid', data_dir),
          pipeline.segments_of(opened.module, opened.config),
          batch_size=count))
    else:
      batch = generate.prompt(opened.module, opened.config, count, [])
    key = runs.make_key(opened.config, opened.mesh, 'generate')
    arrays[count] = sharding.fetch(
        opened.model.sample(opened.state, batch, key))
  shown = arrays[3]
  assert shown.keys() & {'audio', 'roll', 'tokens', 'notes', 'codes'}
  for k, x in shown.items():
    assert len(x) == 3
    if k == 'notes':  # A table for each row, as long as it is.
      assert {table.dtype for table in x} == {midi.NOTE}
      np.testing.assert_array_equal(arrays[1][k][0], x[0])
      continue
    assert np.isfinite(x.astype(np.float64)).all()
    np.testing.assert_allclose(arrays[1][k][0], x[0], atol=1e-5)
  if 'audio' in shown:
    assert shown['audio'].ndim == 2 and np.abs(shown['audio']).max() <= 1
    assert opened.config.data.sample_rate > 0
  if 'roll' in shown:
    assert shown['roll'].ndim == 4 and shown['roll'].shape[2] == 128
    assert shown['roll'].shape[3] == len(opened.config.data.programs)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(
    name, data_dir, tmp_path):
  state = trainer.fit(tiny(name, dtype='bfloat16', steps=1), tmp_path, data_dir)
  kinds = {str(x.dtype) for x in jax.tree.leaves((state.params, state.opt))}
  assert 'bfloat16' not in kinds and 'float32' in kinds
  model = runs.load(tmp_path).model
  spec = {k: jnp.zeros(s, d) for k, (s, d) in json.loads(
      (tmp_path / 'batch.json').read_text()).items()}
  text = str(jax.make_jaxpr(
      lambda s, b: model.train_step(s, b, jax.random.key(0), 0))(state, spec))
  assert 'bf16[' in text


def test_samples_are_written_during_training(run):
  if runs.load(run[0]).model.sample is None:
    pytest.skip('a model that generates nothing')
  kinds = {p.suffix for p in (run[0] / 'samples').iterdir()}
  assert '.png' in kinds
  if 'code_prior' not in run[0].name:  # Without its codec it makes no sound.
    assert kinds & {'.wav', '.mid'}


def test_the_work_of_a_step_is_split_over_the_devices(name, run):
  opened = runs.load(run[0])
  spec = {k: jax.ShapeDtypeStruct(tuple(s), d) for k, (s, d) in json.loads(
      (run[0] / 'batch.json').read_text()).items()}

  def flops(data):
    mesh = sharding.make_mesh(data=data)
    whole, rows = sharding.replicated(mesh), sharding.by_row(mesh)
    on = lambda tree, where: jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)
    step = trainer.jit_step(
        opened.model, mesh, jax.tree.map(lambda _: whole, opened.state))
    return step.lower(
        on(opened.state, whole), on(spec, rows),
        on(jax.eval_shape(jax.random.key, 0), whole), stage=0,
    ).compile().cost_analysis()['flops']

  # A quarter, and the optimiser's share, which every device does.
  assert flops(-1) < 0.35 * flops(1)


@pytest.mark.parametrize('changes, message', [
    ({'data.name': 'synthetic_chorales/tiny'},
     "have no 'audio', which this model is made for, but id, voices"),
    ({'data.sample_rate': 22050},
     r'\(synthetic_notes/tiny.*\) are at 16000 Hz; .*sample_rate=22050')])
def test_data_of_another_kind_or_rate_are_refused(
    changes, message, data_dir, tmp_path):
  with pytest.raises(errors.UserError, match=message):
    trainer.fit(tiny('wavegan_sc09', **changes), tmp_path, data_dir)
  assert not list(tmp_path.iterdir())
