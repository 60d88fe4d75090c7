import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from common import config as config_lib
from common import convert, errors, generate, runs
from gansynth_jax import gansynth
from tests import tf_writer, torch_writer


def released(config):
  """Variables of a released checkpoint of this size, in names and shapes.

  Written out from the layer table, not from the names under test.
  """
  rng, c = np.random.default_rng(0), config.model
  width = [min(int(c.fmap_base / 2.0**b), c.fmap_max)
           for b in range(c.blocks + 1)]
  labels, out = len(c.pitch_counts), {}

  def layer(name, kind, *shape):
    out[f'{name}/{kind}/kernel'] = rng.normal(size=shape).astype(np.float32)
    out[f'{name}/bias'] = rng.normal(size=shape[-1]).astype(np.float32)

  for b in range(1, c.blocks + 1):
    g = f'Generator/progressive_gan_generator/progressive_gan_block_{b}'
    d = f'Discriminator/progressive_gan_discriminator/progressive_gan_block_{b}'
    first = (c.start_frames, c.start_bins, c.latent_size + labels)
    layer(f'{g}/conv0', 'conv2d', *(first if b == 1 else (3, 3, width[b - 1])),
          width[b])
    layer(f'{g}/conv1', 'conv2d', 3, 3, width[b], width[b])
    layer(f'{g}/to_rgb', 'conv2d', 1, 1, width[b], 2)
    layer(f'{d}/from_rgb', 'conv2d', 1, 1, 2, width[b])
    layer(f'{d}/conv0', 'conv2d', 3, 3, width[b] + (b == 1), width[b])
    last = (c.start_frames, c.start_bins) if b == 1 else (3, 3)
    layer(f'{d}/conv1', 'conv2d', *last, width[b], width[b - 1])
  d = 'Discriminator'
  layer(f'{d}/progressive_gan_discriminator/progressive_gan_block_1/logits',
        'dense', width[0], 1)
  layer(f'{d}/discriminator_cond/classification_logits', 'dense', width[0],
        labels)
  for name in [n for n in out if n.startswith('Generator')]:
    out[f'{name}/ExponentialMovingAverage'] = out[name] + 1
  return out | {
      'global_step': np.int64(1_375_000),
      'Generator/progressive_gan_generator/beta1_power': np.float32(0.0)}


@pytest.fixture
def config():
  return config_lib.load('gansynth_nsynth:tiny')


def test_released_weights_become_a_run(config, tmp_path):
  variables = released(config)
  tf_writer.write(tmp_path / 'model.ckpt-11000000', variables)
  unused = convert.convert(config, str(tmp_path / 'model.ckpt-11000000'),
                           tmp_path / 'run')
  assert unused == {
      'global_step': (),
      'Generator/progressive_gan_generator/beta1_power': ()}
  run = runs.load(tmp_path / 'run')
  assert run.step == int(run.state.step) == config.steps
  g = 'Generator/progressive_gan_generator/progressive_gan_block_2/conv1'
  np.testing.assert_array_equal(
      run.state.params['g']['block_2']['conv1']['kernel'],
      variables[f'{g}/conv2d/kernel'])
  np.testing.assert_array_equal(run.state.ema['g']['block_2']['conv1']['bias'],
                                variables[f'{g}/bias'] + 1)
  np.testing.assert_array_equal(
      run.state.params['d']['classes']['kernel'], variables[
          'Discriminator/discriminator_cond/classification_logits/dense/kernel'
      ])
  placed = {'params': run.state.params, 'ema': run.state.ema}
  assert len(jax.tree.leaves(placed)) == len(variables) - 2
  batch = generate.prompt(gansynth, config, 2, [])
  audio = run.model.sample(run.state, batch, jax.random.key(0))['audio']
  assert audio.shape == (2, config.model.samples)


def test_paper_size_has_every_released_variable():
  config = config_lib.load('gansynth_nsynth')
  names, batch = gansynth.official(config)
  variables = released(config)
  assert set(names.values()) == set(variables) - {
      'global_step', 'Generator/progressive_gan_generator/beta1_power'}
  assert len(set(names.values())) == len(names)
  state = jax.eval_shape(gansynth.build(config).init, jax.random.key(0), batch)
  for ours, theirs in names.items():
    part, *path = ours.split('/')
    leaf = getattr(state, part)
    for key in path:
      leaf = leaf[key]
    assert leaf.shape == variables[theirs].shape, ours
  placed = {'params': state.params, 'ema': state.ema}
  assert len(jax.tree.leaves(placed)) == len(names)


def test_what_does_not_fit_is_named_and_nothing_is_written(config, tmp_path):
  variables = released(config)
  missing = 'Discriminator/discriminator_cond/classification_logits/bias'
  other = ('Generator/progressive_gan_generator/progressive_gan_block_1/'
           'conv0/conv2d/kernel')
  del variables[missing]
  variables[other] = variables[other][:, :, :-1]
  variables['mystery'] = np.zeros(3, np.float32)
  tf_writer.write(tmp_path / 'm', variables)
  with pytest.raises(errors.UserError) as e:
    convert.convert(config, str(tmp_path / 'm'), tmp_path / 'run')
  for part in (f'{missing} is missing', f'{other} is [2, 16, 68, 8], params/g/'
               'block_1/conv0/kernel [2, 16, 69, 8]', 'mystery'):
    assert part in str(e.value)
  assert not (tmp_path / 'run').exists()


def turned(variables):
  """As PyTorch has them: kernels are outputs, inputs, height, width."""
  return {name.replace('/', '.'): np.ascontiguousarray(
      x.transpose(3, 2, 0, 1)) if x.ndim == 4 else np.asarray(x)
      for name, x in variables.items()}


@pytest.fixture
def of_pytorch(monkeypatch):
  official = gansynth.official

  def other(config):
    names, batch = official(config)
    names = {ours: theirs.replace('/', '.') for ours, theirs in names.items()}
    return {ours: (theirs, lambda x: x.transpose(2, 3, 1, 0))
            if theirs.split('.conv2d.')[-1].startswith('kernel') else theirs
            for ours, theirs in names.items()}, batch

  monkeypatch.setattr(gansynth, 'official', other)


@pytest.mark.parametrize('legacy', [False, True])
def test_weights_of_pytorch_become_a_run(config, of_pytorch, legacy, tmp_path):
  variables = released(config)
  torch_writer.write(tmp_path / 'm.pth.tar', {
      'model': turned(variables), 'step': 7,
      'hps': {'sizes': (1, 2)}}, legacy)
  unused = convert.convert(config, str(tmp_path / 'm.pth.tar'),
                           tmp_path / 'run')
  assert unused.keys() == {
      'model/global_step',
      'model/Generator.progressive_gan_generator.beta1_power'}
  run = runs.load(tmp_path / 'run')
  for b in (1, 2):
    for layer in ('conv0', 'conv1', 'to_rgb'):
      name = f'Generator/progressive_gan_generator/progressive_gan_block_{b}'
      np.testing.assert_array_equal(
          run.state.params['g'][f'block_{b}'][layer]['kernel'],
          variables[f'{name}/{layer}/conv2d/kernel'])
      np.testing.assert_array_equal(
          run.state.ema['g'][f'block_{b}'][layer]['bias'],
          variables[f'{name}/{layer}/bias'] + 1)


def test_a_kernel_of_pytorch_that_does_not_fit_is_named(config, of_pytorch,
                                                        tmp_path):
  variables = turned(released(config))
  block = 'Generator.progressive_gan_generator.progressive_gan_block_2'
  flat, short = f'{block}.conv0.conv2d.kernel', f'{block}.conv1.conv2d.kernel'
  variables[flat] = variables[flat].reshape(-1)
  variables[short] = variables[short][1:]
  torch_writer.write(tmp_path / 'm.pt', variables)
  with pytest.raises(errors.UserError) as e:
    convert.convert(config, str(tmp_path / 'm.pt'), tmp_path / 'run')
  for name in (flat, short):
    assert f'{name} is {list(variables[name].shape)}, params/g/' in str(e.value)
  assert not (tmp_path / 'run').exists()


def test_a_file_that_is_no_checkpoint_is_named(config, tmp_path):
  (tmp_path / 'm.pt').write_text('weights')
  with pytest.raises(errors.UserError, match=r'm\.pt cannot be read as a '
                     'checkpoint of PyTorch.*Of a TensorFlow checkpoint'):
    convert.convert(config, str(tmp_path / 'm.pt'), tmp_path / 'run')


def test_a_model_without_released_weights_says_so(tmp_path):
  with pytest.raises(errors.UserError, match='lstm knows no released weights'):
    convert.convert(config_lib.load('lstm_jsb:tiny'), str(tmp_path / 'm'),
                    tmp_path / 'run')


def test_a_run_is_not_written_over(config, tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/config.json').write_text('{}')
  with pytest.raises(errors.UserError, match='holds a run already'):
    convert.convert(config, str(tmp_path / 'm'), tmp_path / 'run')


def test_the_binary_converts_and_training_goes_on_from_there(
    config, data_dir, environment, tmp_path):
  tf_writer.write(tmp_path / 'm', released(config))
  python = lambda *words: subprocess.run(
      [sys.executable, '-m', *words], env=environment, cwd=tmp_path,
      capture_output=True, text=True, timeout=300, check=False)
  done = python('common.convert', '--config=gansynth_nsynth:tiny',
                '--weights=m', '--workdir=run')
  assert done.returncode == 0, done.stderr
  assert 'not used: global_step []' in done.stdout
  done = python('common.train', '--config=gansynth_nsynth:tiny',
                '--workdir=run', f'--data_dir={data_dir}', '--config.steps=5')
  assert done.returncode == 0, done.stderr
  steps = [json.loads(x)['step'] for x in pathlib.Path(
      tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  assert set(steps) == {5}
