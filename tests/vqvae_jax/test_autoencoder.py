import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from common import config as config_lib
from common import errors
from vqvae_jax import autoencoder, clip_range
from vqvae_jax import spectrogram_nets as nets


def config_of(**changes):
  config = config_lib.load('autoencoder_nsynth:tiny')
  config.update_from_flattened_dict(
      {f'model.{k}': v for k, v in changes.items()})
  return config


def clips(config, rows=8, seed=0):
  rng = np.random.default_rng(seed)
  return {'audio': np.float32(0.1 * rng.normal(
      size=(rows, config.model.samples))), 'mask': np.ones(rows, np.float32),
          'index': np.arange(rows, dtype=np.int32),
          'pitch': np.int32(rng.integers(40, 80, rows))}


def began(config):
  model = autoencoder.build(config)
  return model, jax.jit(model.init)(jax.random.key(0), {}), clips(config)


def test_parameters_are_those_of_the_released_layers():
  state = jax.eval_shape(
      autoencoder.build(config_lib.load('autoencoder_nsynth')).init,
      jax.random.key(0), {})
  down = [(5, 128), (4, 128), (4, 128), (4, 256), (4, 256), (4, 256), (4, 512),
          (4, 512), (4, 512), (1, 1024), (1, 1984)]
  up = [(1, 1024), (4, 512), (4, 512), (4, 256), (4, 256), (4, 256), (4, 128),
        (4, 128), (5, 128), (5, 128)]

  def weights(layers, inputs):  # Kernels, and the shifts of norms.
    total = 0
    for kernel, width in layers:
      total += kernel**2 * inputs * width + width
      inputs = width
    return total

  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert count(state.params['encoder']) == weights(down, 1) == 16_196_288
  # The embedding of 128 pitches; the last convolution has a bias.
  assert count(state.params['decoder']) == (
      128 * 128 + weights(up, 1984 + 128) + 128 + 1)
  assert state.vars['density'].covariance.shape == (1984, 1984)


def test_the_error_is_weighted_as_released():
  got = autoencoder.frequency_weights(1024, 16000, 10.0, 4000.0)
  below = np.where(librosa.fft_frequencies(sr=16000, n_fft=1024) >= 4000)[0][0]
  want = np.concatenate([np.linspace(10, 1, below), np.ones(513 - below)])
  np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize('n_fft, bins', [(64, 32), (40, 24)])
def test_bins_keep_their_weight_whatever_the_network_sees(n_fft, bins):
  """It does not see the last of 33 bins, and 3 of silence beside 21."""
  config = config_of(n_fft=n_fft, hop=8, samples=100, weight_peak=3.0)
  model = autoencoder.build(config)
  state = jax.jit(model.init)(jax.random.key(0), {})
  # The network draws the middle everywhere.
  state = state.replace(params={**state.params, 'decoder': {
      **state.params['decoder'], 'picture': jax.tree.map(
          jnp.zeros_like, state.params['decoder']['picture'])}})
  batch = clips(config)
  found = model.eval_step(state, batch, jax.random.key(0))
  picture, _ = clip_range.make(config, (8, 8)).encode(batch['audio'])
  assert picture.shape[2] == bins
  hz = np.arange(bins) * 16000 / n_fft
  below = (hz < 4000).sum()
  weights = np.append(np.linspace(3, 1, below), np.ones(bins - below))
  want = (weights[:, None] * (np.asarray(picture) - 0.5) ** 2).mean()
  np.testing.assert_allclose(found['weighted'].compute(), want, rtol=1e-4)


def test_the_loss_is_the_weighted_square():
  config = config_of()
  model, state, batch = began(config)
  found = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  flat = autoencoder.build(config_of(weight_peak=1.0))
  equal = jax.jit(flat.eval_step)(state, batch, jax.random.key(0))
  np.testing.assert_allclose(equal['weighted'].compute(),
                             equal['mse'].compute(), rtol=1e-6)
  assert found['weighted'].compute() > 2 * found['mse'].compute()
  # Bands are not at equal distances.
  mel = autoencoder.build(config_of(representation='log_mel', bands=8))
  equal = jax.jit(mel.eval_step)(
      jax.jit(mel.init)(jax.random.key(0), {}), batch, jax.random.key(0))
  np.testing.assert_allclose(equal['weighted'].compute(),
                             equal['mse'].compute(), rtol=1e-6)


def test_the_density_is_the_mean_and_covariance_of_all_latents():
  z = np.random.default_rng(0).normal(size=(6, 10, 3)) @ np.array(
      [[2.0, 0.5, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, 0.1]]) + 5.0
  z[3:] += 7.0  # The encoder moves.
  density = autoencoder.Gaussian.create(3)
  for step in range(6):
    density = density.updated(jnp.float32(z[step]), jnp.int32(step), 0.999)
  rows = z.reshape(-1, 3)
  np.testing.assert_allclose(density.mean, rows.mean(0), rtol=1e-5)
  np.testing.assert_allclose(density.covariance,
                             np.cov(rows.T, bias=True), rtol=1e-3, atol=1e-4)


def test_the_density_forgets():
  rng = np.random.default_rng(0)
  z = rng.normal(size=(40, 10, 2)) + np.arange(40)[:, None, None]
  density, mean, square = autoencoder.Gaussian.create(2), 0.0, 0.0
  for step in range(40):
    density = density.updated(jnp.float32(z[step]), jnp.int32(step), 0.8)
    rate = max(1 / (step + 1), 0.2)
    mean = (1 - rate) * mean + rate * z[step].mean(0)
    square = (1 - rate) * square + rate * (z[step].T @ z[step]) / 10
  np.testing.assert_allclose(density.mean, mean, rtol=1e-5)
  np.testing.assert_allclose(
      density.covariance, square - np.outer(mean, mean), rtol=1e-3)


def test_draws_have_the_fitted_mean_and_covariance():
  root = np.float32([[1.0, 0.5, 0.0], [0.0, 0.3, 0.0]])  # Of rank 2.
  density = autoencoder.Gaussian(jnp.array([1.0, -2.0, 3.0]),
                                 jnp.array(root.T @ root))
  noise = np.random.default_rng(0).normal(size=(100_000, 3))
  z = np.asarray(jax.jit(density.draw)(jnp.float32(noise)))
  np.testing.assert_allclose(z.mean(0), density.mean, atol=0.01)
  np.testing.assert_allclose(np.cov(z.T), density.covariance, atol=0.01)
  np.testing.assert_allclose(z[:, 2], 3.0, atol=1e-3)


def test_training_fits_the_density_that_samples_are_of():
  config = config_of()
  model, state, batch = began(config)
  new, _ = jax.jit(model.train_step, static_argnums=3)(
      state, batch, jax.random.key(0), 0)
  # The latents are the last norm's, which has no scale: of mean 0, variance 1.
  density = new.vars['density']
  assert density.mean.shape == (2 * 4 * 4,)
  mean, variance = (np.asarray(x).reshape(-1, 4) for x in (
      density.mean, jnp.diagonal(density.covariance)))
  np.testing.assert_allclose(mean.mean(0), np.zeros(4), atol=1e-4)
  np.testing.assert_allclose((variance + mean**2).mean(0), np.ones(4),
                             rtol=0.1)
  hear = lambda s, **given: np.asarray(model.sample(
      s, autoencoder.prompt(config, 2, **given), jax.random.key(0))['audio'])
  drawn = hear(new)
  assert np.abs(drawn[0] - drawn[1]).max() > 1e-6
  np.testing.assert_array_equal(*hear(new, temperature=0.0))
  np.testing.assert_array_equal(*hear(state))  # Nothing is fitted yet.
  assert np.abs(hear(new, pitch=50) - hear(new, pitch=51)).max() > 1e-6


def test_statistics_of_norms_follow_the_batch():
  config = config_of(norm_momentum=0.5)
  model, state, batch = began(config)
  new, _ = jax.jit(model.train_step, static_argnums=3)(
      state, batch, jax.random.key(0), 0)
  old, now = (s.vars['encoder']['batch_stats'] for s in (state, new))
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), old, now)
  assert min(jax.tree.leaves(moved)) > 1e-5
  # No bias before a norm: it would not learn.
  assert 'bias' not in state.params['encoder']['stack']['conv0']


@pytest.mark.parametrize('implementation', ['lax', 'overlap_add'])
@pytest.mark.parametrize('kernel', [1, 2, 3, 4, 5])
@pytest.mark.parametrize('stride', [(1, 1), (2, 2), (1, 2)])
def test_transposed_is_the_transpose_of_a_convolution(
    kernel, stride, implementation):
  rng = np.random.default_rng(0)
  x = jnp.float32(rng.normal(size=(2, 5, 6, 3)))
  w = jnp.float32(rng.normal(size=(kernel, kernel, 3, 4)))
  conv = lambda y: jax.lax.conv_general_dilated(
      y, w.swapaxes(2, 3), stride, 'SAME', dimension_numbers=nets.DIMENSIONS)
  wide = jnp.zeros((2, 5 * stride[0], 6 * stride[1], 4))
  want, = jax.vjp(conv, wide)[1](x)
  got = nets.transposed(x, w, stride, implementation)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('changes, words', [
    ({'decoder_filters': (8, 6)}, 'the same length'),
    ({'encoder_kernels': (5, 4, 0)}, '1 or more'),
    ({'latent_size': 2000}, 'at most 8192'),
    ({'hidden': 0}, 'model.hidden=0 .*1 or more'),
    ({'fit_decay': 1.0}, 'model.fit_decay')])
def test_settings_that_cannot_work_are_named(changes, words):
  with pytest.raises(errors.UserError, match=words):
    autoencoder.build(config_of(**changes))
