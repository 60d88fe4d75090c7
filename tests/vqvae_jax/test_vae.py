import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import lax

from common import config as config_lib
from common import errors
from vqvae_jax import clip_range, vae


def config_of(**changes):
  config = config_lib.load('vae_digits:tiny')
  config.update_from_flattened_dict(
      {f'model.{k}': v for k, v in changes.items()})
  return config


def clips(config, rows=8, seed=0):
  rng = np.random.default_rng(seed)
  batch = {'audio': np.float32(0.1 * rng.normal(
      size=(rows, config.model.samples))), 'mask': np.ones(rows, np.float32),
           'index': np.arange(rows, dtype=np.int32)}
  for name in config.model.conditions:
    batch[name] = np.int32(rng.integers(0, 10, rows))
  return batch


def began(config):
  model = vae.build(config)
  batch = clips(config)
  state = jax.jit(model.init)(jax.random.key(0), batch)
  span = clip_range.Range(jnp.float32(-9.0), jnp.float32(0.0))
  return model, state.replace(vars={**state.vars, 'range': span}), batch


def test_parameters_and_shapes_are_the_courses():
  config = config_lib.load('vae_digits')
  model = vae.build(config)
  state = jax.eval_shape(model.init, jax.random.key(0), {})
  count = lambda part: sum(x.size for x in jax.tree.leaves(
      (state.params[part], state.vars[part])))
  assert count('encoder') == 1_838_688  # With the statistics of batch norm.
  assert count('decoder') == 533_089
  layers = vae.layers_of(config)
  assert vae.factors(layers) == (16, 32)  # 64 x 256 to 4 x 8.
  assert layers[-1].features == 32
  assert state.params['decoder']['dense']['kernel'].shape == (128, 8 * 4 * 32)


def test_kl_is_the_closed_form_and_that_of_draws():
  got = vae.kl_to_unit_normal(jnp.full((1, 1), 2.0), jnp.ones((1, 1)))
  np.testing.assert_allclose(got, [0.5 * (np.e + 2.0)], rtol=1e-6)
  mean, log_variance = np.array([[0.3, -1.0]]), np.array([[-0.5, 0.2]])
  scale = np.exp(0.5 * log_variance)
  x = mean + scale * np.random.default_rng(0).normal(size=(400_000, 2))
  draws = (scipy.stats.norm(mean, scale).logpdf(x)
           - scipy.stats.norm.logpdf(x)).sum(1)
  np.testing.assert_allclose(
      vae.kl_to_unit_normal(mean, log_variance), [draws.mean()], rtol=1e-2)


def test_the_likelihood_is_a_normal_one():
  rng = np.random.default_rng(0)
  x, y = rng.uniform(size=(2, 50))
  weight = 30.0
  want = -scipy.stats.norm(y, np.sqrt(50 / (2 * weight))).logpdf(x).sum()
  np.testing.assert_allclose(
      vae.gaussian_nll(((x - y)**2).mean(), weight, 50), want, rtol=1e-6)


@pytest.mark.parametrize('price', [0.0, 3.0])
def test_the_loss_is_weighted(price):
  model, state, batch = began(config_of(kl_weight=price))
  _, metrics = jax.jit(model.train_step, static_argnums=3)(
      state, batch, jax.random.key(1), 0)
  np.testing.assert_allclose(
      metrics['loss/total'],
      1e3 * metrics['loss/mse'] + price * metrics['loss/kl'], rtol=1e-6)


def test_a_norm_follows_the_rectified_convolution():
  config = config_of()
  model, state, batch = began(config)
  new, _ = jax.jit(model.train_step, static_argnums=3)(
      state, batch, jax.random.key(1), 0)
  picture, _ = clip_range.make(config, (4, 8)).encode(batch['audio'])
  layer = state.params['encoder']['stack']['conv0']
  x = lax.conv_general_dilated(picture, layer['kernel'], (2, 2), 'SAME',
                               dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  x = np.maximum(np.asarray(x + layer['bias'][None, None, None]), 0.0)
  old, now = (s.vars['encoder']['batch_stats']['stack']['norm0']
              for s in (state, new))
  for name, value in (('mean', x.mean((0, 1, 2))), ('var', x.var((0, 1, 2)))):
    np.testing.assert_allclose(
        now[name], 0.99 * old[name] + 0.01 * value, rtol=1e-4, atol=1e-7)


def test_the_mean_range_is_kept_and_used():
  config = config_of()
  model, state, batch = began(config)
  step = jax.jit(model.train_step, static_argnums=3)
  scaled, lows = clip_range.make(config, (4, 8)), []
  for i in range(2):
    batch = clips(config, seed=i)
    state, _ = step(state, batch, jax.random.key(i), 0)
    state = state.replace(step=state.step + 1)
    lows.append(np.asarray(scaled.encode(batch['audio'])[1].low))
  np.testing.assert_allclose(state.vars['range'].low, np.mean(lows), rtol=1e-5)
  louder = jax.tree.map(lambda x: x + 1.0, state.vars['range'])
  asked = vae.prompt(config, 1)
  a, b = (model.sample(s, asked, jax.random.key(0))['audio'] for s in (
      state, state.replace(vars={**state.vars, 'range': louder})))
  # Griffin-Lim is linear in the level.
  np.testing.assert_allclose(b, np.clip(np.e * np.asarray(a), -1, 1), rtol=1e-2,
                             atol=1e-3)


def test_samples_are_of_the_prior_or_of_a_posterior():
  config = config_of()
  model, state, batch = began(config)
  hear = lambda asked, seed: np.asarray(model.sample(
      state, asked, jax.random.key(seed))['audio'])
  mean = vae.prompt(config, 2, temperature=0.0)
  np.testing.assert_array_equal(*hear(mean, 0))
  drawn = hear(vae.prompt(config, 2), 0)
  assert np.abs(drawn[0] - drawn[1]).max() > 1e-6
  # Rows of a split are reconstructed from the posterior's mean.
  np.testing.assert_array_equal(hear(batch, 0), hear(batch, 1))
  hot = {**batch, 'temperature': np.ones(8, np.float32)}
  assert np.abs(hear(hot, 0) - hear(hot, 1)).max() > 1e-6


def test_labels_reach_both_networks():
  config = config_of(conditions=('digit',))
  model, state, batch = began(config)
  for part in ('encoder', 'decoder'):
    assert state.params[part]['labels']['digit']['embedding'].shape == (10, 16)
  a, b = (np.asarray(model.sample(
      state, vae.prompt(config, 1, digit=d), jax.random.key(0))['audio'])
          for d in (3, 4))
  assert np.abs(a - b).max() > 1e-6
  step = jax.jit(model.train_step, static_argnums=3)
  _, other = step(state, {**batch, 'digit': batch['digit'] ^ 1},
                  jax.random.key(0), 0)
  _, metrics = step(state, batch, jax.random.key(0), 0)
  assert other['loss/kl'] != metrics['loss/kl']


def test_the_bound_is_that_of_the_densities():
  """Its terms from the networks alone, with scipy's densities."""
  config, key = config_of(), jax.random.key(7)
  model, state, batch = began(config)
  found = {k: float(v.compute()) for k, v in jax.jit(model.eval_step)(
      state, batch, key).items()}
  layers, scaled = vae.layers_of(config), clip_range.make(config, (4, 8))
  x = np.asarray(scaled.encode(batch['audio'])[0])
  apply = lambda name, net, inputs: net.apply(
      {'params': state.params[name], **state.vars[name]}, inputs, {}, False)
  mean, log_variance = apply('encoder', vae.Encoder(layers, 4), x)
  scale = np.exp(0.5 * log_variance)
  noise = np.stack([jax.random.normal(jax.random.fold_in(key, i), (4,))
                    for i in batch['index']])
  decoder = vae.Decoder(layers, scaled.shape)
  of_draw, of_mean = (np.asarray(apply('decoder', decoder, z)) for z in (
      mean + scale * noise, mean))
  normal = scipy.stats.norm
  # -log p(x | z), whose variance makes it 1e3 x the mean square.
  nll = -normal(of_draw, np.sqrt(x[0].size / 2e3)).logpdf(x).sum((1, 2, 3))
  # log q(z) - log p(z) over q: at m -+ s its mean is exact, both are quadratic.
  q, p = normal(mean, scale), normal()
  kl = sum((q.logpdf(z) - p.logpdf(z)).sum(1) for z in (
      mean - scale, mean + scale)) / 2
  want = {'nll': nll, 'kl': kl, 'elbo': -nll - kl, 'mse': (of_draw - x)**2,
          'mse_of_mean': (of_mean - x)**2}
  for name, values in want.items():
    np.testing.assert_allclose(found[name], values.mean(), rtol=1e-4,
                               err_msg=name)


@pytest.mark.parametrize('changes, words', [
    ({'filters': (4, 6)}, 'the same length'),
    ({'filters': (4, 6, 0)}, '1 or more'),
    ({'latent_size': 0}, 'model.latent_size'),
    ({'norm_momentum': 1.0}, 'model.norm_momentum'),
    ({'reconstruction_weight': 0.0}, 'model.reconstruction_weight')])
def test_settings_that_cannot_work_are_named(changes, words):
  with pytest.raises(errors.UserError, match=words):
    vae.build(config_of(**changes))
