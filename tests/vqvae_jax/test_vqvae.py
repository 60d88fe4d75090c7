import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from jax import lax

from common import config as config_lib
from common import errors, generate
from common.metrics import distance
from vqvae_jax import vqvae

N = 2048


def load(size='tiny', **changes):
  config = config_lib.load(f'vqvae_nsynth:{size}')
  config.update_from_flattened_dict(
      {f'model.{k}': v for k, v in changes.items()})
  return config


def batch_of(config, rows=4):
  rng = np.random.default_rng(0)
  t = np.arange(N) / 16000
  audio = 0.5 * np.sin(2 * np.pi * rng.uniform(200, 2000, (rows, 1)) * t)
  return {'audio': jnp.asarray(audio, jnp.float32), 'mask': jnp.ones(rows),
          'index': jnp.arange(rows), **{
              k: jnp.asarray(rng.integers(0, 11, rows), jnp.int32)
              for k in config.model.conditions}}


def test_the_paper_size_has_the_layers_of_sonnets_example():
  """Its table, with two more halvings, two channels and the labels."""
  config = load('paper')
  batch = {k: jax.ShapeDtypeStruct((1, 64000), jnp.float32) for k in ('audio',)}
  state = jax.eval_shape(vqvae.build(config).init, jax.random.key(0), batch)
  found = {k: sum(x.size for x in jax.tree.leaves(v))
           for k, v in state.params.items()}
  labels = 2 * 16 * 9 * 128  # More inputs of the decoder's first layer.
  assert found == {'encoder': 558_848, 'to_codes': 8_256,
                   'decoder': 558_722 - 64 * 9 * 128 + labels,
                   'labels': (128 + 11) * 16}
  assert state.vars['codes'].codes.size == 32_768
  assert vqvae.codec(config).shapes == {'codes': (8, 64)}


def test_the_networks_are_those_of_sonnets_example():
  """Its lines, on the weights of ours; not by the layers of ours."""
  # PyTorch's biases are not 0.
  config = load(conditions=(), initial='torch')
  parts = vqvae._make(config)
  params = parts.init(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (2, *parts.pictures.shape))
  relu = lambda x: np.maximum(np.asarray(x), 0.0)
  shaped = dict(padding='SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  bias = lambda p: np.asarray(p['bias'])[None, None, None]

  def conv(p, x, stride=1):
    return bias(p) + lax.conv_general_dilated(
        x, p['kernel'], (stride, stride), **shaped)

  def transposed(p, x):
    return bias(p) + lax.conv_transpose(x, p['kernel'], (2, 2), **shaped)

  def residuals(p, h):
    h = h + conv(p['res0_conv1'], relu(conv(p['res0_conv0'], relu(h))))
    return relu(h)

  p = params['encoder']
  h = relu(conv(p['down0'], x, 2))
  h = relu(conv(p['down1'], h, 2))
  before = conv(p['conv'], h)
  assert (before < -0.01).any()  # The ReLU makes a difference.
  want = conv(params['to_codes'], residuals(p['residual'], relu(before)))
  z = parts.encode(params, x)
  np.testing.assert_allclose(z, want, rtol=1e-4, atol=1e-5)
  p = params['decoder']
  h = residuals(p['residual'], conv(p['conv'], z))
  want = transposed(p['up1'], relu(transposed(p['up0'], h)))
  np.testing.assert_allclose(parts.decode(params, z, {}), want, rtol=1e-4,
                             atol=1e-5)


def test_it_learns_and_its_codec_is_what_it_does():
  config = load(learning_rate=3e-3)
  model, batch, codec = vqvae.build(config), batch_of(config), vqvae.codec(
      config)
  state = jax.jit(model.init)(jax.random.key(0), batch)
  step, lines = jax.jit(model.train_step, static_argnums=3), []
  for i in range(100):
    state, metrics = step(state, batch, jax.random.key(i), 0)
    state = state.replace(step=state.step + 1)
    lines.append({k: float(v) for k, v in metrics.items()})
  assert lines[-1]['loss/rec'] < 0.4 * lines[0]['loss/rec']
  assert lines[-1]['codes/perplexity'] > 4
  np.testing.assert_allclose(
      lines[-1]['loss'], lines[-1]['loss/rec'] + lines[-1]['loss/commit'],
      rtol=1e-5)
  codes = codec.encode(state, batch)
  assert codes['codes'].shape == (4, *codec.shapes['codes'])
  audio = codec.decode(state, codes, batch)
  # The way of training, by vectors that pass their gradient straight on.
  want = model.eval_step(state, {**batch, 'mask': jnp.ones(4)},
                         jax.random.key(0))['si_sdr'].compute()
  np.testing.assert_allclose(
      distance.si_sdr(audio, batch['audio']).mean(), want, atol=1e-3)
  other = {**batch, 'pitch': batch['pitch'] + 1}
  assert np.abs(codec.decode(state, codes, other) - audio).max() > 1e-4


def test_the_error_is_divided_by_the_variance_and_the_codebook_has_its_term():
  plain = load(variance=1.0)
  gradient = load(variance=0.5, codebook='gradient', codebook_init='uniform')
  batch, found = batch_of(plain), {}
  for config in (plain, gradient):
    model = vqvae.build(config)
    state = model.init(jax.random.key(0), batch)
    if config is gradient:
      state = state.replace(params={**found['params'], 'codes': found['codes']})
      assert state.vars == {}
    else:
      found |= {'params': state.params, 'codes': state.vars['codes'].codes}
    metrics = model.eval_step(state, batch, jax.random.key(0))
    found[config.model.codebook] = {k: float(m.compute())
                                    for k, m in metrics.items()}
  a, b = found['averages'], found['gradient']
  np.testing.assert_allclose(b['rec'], 2 * a['rec'], rtol=1e-5)
  # beta |z - sg e|^2, and |sg z - e|^2 of the same size.
  np.testing.assert_allclose(b['commit'], a['commit'] * 1.25 / 0.25, rtol=1e-5)


@pytest.fixture
def wav(tmp_path):
  def write(audio, rate=16000):
    path = tmp_path / 'sound.wav'
    soundfile.write(path, audio, rate, 'FLOAT')
    return str(path)
  return write


def prompt(config, count, *given):
  return generate.prompt(vqvae, config, count, list(given))


def test_a_sound_file_is_cut_into_rows_and_comes_back(wav):
  config = load()
  path = wav(np.linspace(-1, 1, 2 * N + 100))
  batch = prompt(config, 4, f'audio={path}', 'pitch=48', 'instrument_family=3')
  assert batch['audio'].shape == (4, N)
  whole = batch['audio'][:3].reshape(-1)
  np.testing.assert_allclose(whole[:2 * N + 100],
                             np.linspace(-1, 1, 2 * N + 100), atol=1e-6)
  assert not whole[2 * N + 100:].any()
  np.testing.assert_array_equal(batch['audio'][3], batch['audio'][0])
  assert batch['pitch'].tolist() == [48] * 4
  assert batch['instrument_family'].tolist() == [3] * 4
  model = vqvae.build(config)
  state = model.init(jax.random.key(0), batch)
  assert model.sample(state, batch, jax.random.key(0))['audio'].shape == (4, N)


def test_stereo_and_other_rates_are_made_what_the_model_hears(wav):
  t = np.arange(44100) / 44100
  tone = 0.5 * np.sin(2 * np.pi * 440 * t)
  path = wav(np.stack([tone, np.zeros_like(tone)], 1), 44100)
  got = prompt(load(conditions=()), 1, f'audio={path}')['audio'][0]
  want = 0.25 * np.sin(2 * np.pi * 440 * np.arange(N) / 16000)
  np.testing.assert_allclose(got[200:], want[200:], atol=0.01)


def test_silence_comes_back_without_nan(wav):
  config = load(conditions=())
  batch = prompt(config, 2, f'audio={wav(np.zeros(N))}')
  model = vqvae.build(config)
  state = model.init(jax.random.key(0), batch)
  audio = model.sample(state, batch, jax.random.key(0))['audio']
  assert np.isfinite(audio).all()
  metrics = model.eval_step(state, batch, jax.random.key(0))
  heard = {k: metrics.pop(k) for k in ('si_sdr', 'convergence')}
  assert all(m.weight == 0 for m in heard.values())
  assert all(np.isfinite(m.compute()) for m in metrics.values())


@pytest.mark.parametrize('audio, given, says', [
    (np.zeros(15), [], 'fewer than one hop of 16'),
    (np.full(N, np.nan), [], 'NaN'),
    (None, [], 'no sounds of its own.*--from_eval'),
    (None, ['audio=missing.wav'], 'does not exist'),
    (np.zeros(N), ['pitch=128'], '0 to 127'),
    (np.zeros(N), ['pitch=-5'], 'pitch=-5 is not one of 0 to 127'),
    (np.zeros(N), ['instrument_family=11'], '0 to 10'),
    (None, ['pitch=c4'], 'not int'), (None, ['rate=3'], 'no prompt')])
def test_prompts_that_cannot_work_are_refused(wav, audio, given, says):
  if audio is not None:
    given = [*given, f'audio={wav(audio)}']
  with pytest.raises(errors.UserError, match=says):
    prompt(load(), 1, *given)


def test_labels_are_the_models_own(wav):
  path = f'audio={wav(np.zeros(N))}'
  with pytest.raises(errors.UserError, match='trained without'):
    prompt(load(conditions=()), 1, path, 'pitch=60')
  assert 'pitch' not in prompt(load(conditions=()), 1, path)
  with pytest.raises(errors.UserError, match='pitch=NUMBER is missing'):
    prompt(load(), 1, path)
  assert prompt(load(), 2, path, 'pitch=61', 'instrument_family=3')[
      'pitch'].tolist() == [61, 61]


def test_data_at_another_rate_or_of_integers():
  config = load(conditions=())
  fn = vqvae.preprocess(config)
  row = fn({'audio': np.full((N + 5, 2), 16384, np.int16),
            'sample_rate': 16000}, None)
  assert row.keys() == {'audio'} and row['audio'].dtype == np.float32
  np.testing.assert_array_equal(row['audio'], np.full(N, 0.5))
  assert fn({'audio': np.ones(3, np.float32)}, None)['audio'].sum() == 3
  with pytest.raises(errors.UserError, match='44100 Hz'):
    fn({'audio': np.zeros(9, np.float32), 'sample_rate': 44100}, None)


@pytest.mark.parametrize('changes, says', [
    ({'variance': 0.0}, 'variance'), ({'channels': (0,)}, 'channels'),
    ({'codebook': 'x'}, "'gradient'")])
def test_settings_that_cannot_work_are_refused(changes, says):
  with pytest.raises(errors.UserError, match=says):
    vqvae.build(load(**changes))
