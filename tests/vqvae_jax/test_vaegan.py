import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from common import config as config_lib
from common import errors
from vqvae_jax import clip_range, vae, vaegan

PARTS = ('encoder', 'decoder', 'discriminator')


def config_of(**changes):
  config = config_lib.load('vaegan_nsynth:tiny')
  config.update_from_flattened_dict(
      {f'model.{k}': v for k, v in changes.items()})
  return config


def began(config, rows=8):
  model = vaegan.build(config)
  rng = np.random.default_rng(0)
  batch = {'audio': np.float32(0.1 * rng.normal(
      size=(rows, config.model.samples))), 'mask': np.ones(rows, np.float32),
           'index': np.arange(rows, dtype=np.int32)}
  return model, jax.jit(model.init)(jax.random.key(0), {}), batch


def stepped(config, state=None):
  model, first, batch = began(config)
  return first if state is None else state, *jax.jit(
      model.train_step, static_argnums=3)(
          first if state is None else state, batch, jax.random.key(1), 0)


def moved(old, new):
  """Whether any number is another one, by part."""
  return {part: any(map(
      lambda a, b: bool((a != b).any()), jax.tree.leaves(old[part]),
      jax.tree.leaves(new[part]))) for part in PARTS}


def same(a, b, rtol=1e-6):
  return all(np.allclose(x, y, rtol=rtol, atol=1e-9) for x, y in zip(
      jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize('real, fake, d, g', [
    (0.7, 0.7, True, True),  # Both are near the equilibrium.
    (0.2, 0.7, False, True), (0.7, 0.2, False, True),  # D wins.
    (1.1, 0.7, True, False), (0.7, 1.1, True, False),  # D loses.
    (0.2, 1.1, True, True), (1.1, 0.2, True, True)])  # Neither: so both.
def test_who_wins_waits(real, fake, d, g):
  got = vaegan.balance(jnp.float32(real), jnp.float32(fake), 0.68, 0.35)
  assert tuple(map(bool, got)) == (d, g)


def test_an_update_that_is_skipped_changes_nothing():
  # Costs are below 100 + 0, but not above it; then the other way round.
  for equilibrium, waits in ((100.0, 'discriminator'), (0.0, 'decoder')):
    old, new, metrics = stepped(config_of(equilibrium=equilibrium, margin=0.0))
    for tree in ('params', 'opt'):
      assert moved(getattr(old, tree), getattr(new, tree)) == {
          part: part != waits for part in PARTS}
    assert metrics[f'updated/{waits}'] == 0.0
    assert moved(old.vars, new.vars)[waits]  # Statistics are of the data.


@pytest.mark.parametrize('weight', [0.0, 0.3])
def test_gradients_go_where_the_paper_says(weight):
  """All parameters after a step, by each part's own loss alone."""
  config = config_of(feature_weight=weight, margin=100.0, real_weight=0.4)
  old, new, metrics = stepped(config)
  _, _, batch = began(config)
  shape = clip_range.make(config, (8, 8))
  picture = 2.0 * shape.encode(batch['audio'])[0] - 1.0
  nets = (vaegan.Encoder((4, 6, 8), 16, 4),
          vaegan.Decoder((8, 6, 4), 8, shape.shape),
          vaegan.Discriminator(4, (4, 6, 8), 16, 9))

  def run(i, params, *inputs):
    out, _ = nets[i].apply(
        {'params': params, **old.vars[PARTS[i]]}, *inputs, True,
        mutable=['batch_stats'])
    return out

  key_z, key_prior = jax.random.split(jax.random.key(1))

  def latents(e):
    mean, log_variance = run(0, e, picture, {})
    noise = jax.random.normal(key_z, mean.shape)
    return (mean + jnp.exp(0.5 * log_variance) * noise,
            vae.kl_to_unit_normal(mean, log_variance).mean())

  pair = lambda *x: jnp.stack(x, 1).reshape(-1, *x[0].shape[1:])

  def feature(e, d):
    z, kl = latents(e)
    guess = run(1, d, z, {})
    _, layer = run(2, old.params['discriminator'], pair(guess, picture))
    return 0.5 * ((layer[::2] - layer[1::2]) ** 2).sum(-1).mean(), kl

  def costs(d, critic):  # [B] of real, reconstructed and prior pictures.
    z, _ = latents(old.params['encoder'])
    prior = jax.random.normal(key_prior, z.shape)
    fake = run(1, d, pair(z, prior), {})
    logits, _ = run(2, critic, pair(picture, fake[::2], fake[1::2]))
    p = jax.nn.sigmoid(logits)
    return (-jnp.log(p[::3] + 1e-3), -jnp.log(1 - p[1::3] + 1e-3),
            -jnp.log(1 - p[2::3] + 1e-3))

  mean = lambda *x: [y.mean() for y in x]

  def loss_d(d):  # Real pictures share the norms' statistics with fakes.
    real, guess, prior = mean(*costs(d, old.params['discriminator']))
    return weight * feature(old.params['encoder'], d)[0] - (1 - weight) * (
        guess + prior + 0.4 / 0.3 * real)

  def loss_c(critic):
    real, guess, prior = mean(*costs(old.params['decoder'], critic))
    return 0.4 * real + 0.6 * (guess + prior) / 2

  found = {
      part: jax.jit(jax.grad(loss))(old.params[part]) for part, loss in (
          ('encoder', lambda e: sum(feature(e, old.params['decoder']))),
          ('decoder', loss_d), ('discriminator', loss_c))}
  tx = optax.scale_by_rms(decay=0.9)
  for part in PARTS:
    # Second moments are what RMSProp has seen: the gradients' squares.
    want = tx.update(found[part], tx.init(old.params[part]))[1].nu
    got = new.opt[part].nu
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5 * float(b.max()))
  np.testing.assert_allclose(metrics['loss/gan'], jax.jit(loss_c)(
      old.params['discriminator']), rtol=1e-5)


def test_gan_reaches_neither_encoder_nor_the_features_the_discriminator():
  config = config_of(feature_weight=1.0, margin=100.0)
  old, plain, _ = stepped(config)
  # The score is beyond the compared layer: only GAN depends on it.
  params = jax.tree.map(lambda x: x, old.params)
  params['discriminator']['score']['kernel'] *= -3.0
  _, new, _ = stepped(config, old.replace(params=params))
  assert same(plain.params['encoder'], new.params['encoder'])
  assert same(plain.params['decoder'], new.params['decoder'])  # g = 1.
  assert not same(plain.opt['discriminator'], new.opt['discriminator'])
  # Another compared layer: all but the discriminator see it.
  _, shallow, _ = stepped(config_of(
      feature_weight=1.0, margin=100.0, recon_depth=1))
  assert same(plain.opt['discriminator'], shallow.opt['discriminator'])
  assert not same(plain.opt['encoder'], shallow.opt['encoder'])
  assert not same(plain.opt['decoder'], shallow.opt['decoder'])


def test_the_compared_layer_is_counted_as_released():
  config = config_lib.load('vaegan_nsynth')
  c = config.model
  net = lambda depth: vaegan.Discriminator(32, (128, 256, 256), 512, depth)
  shape = (1, 64, 64, 1)
  sizes = {}
  for depth in (0, 1, 2, 3, 9, 11):
    (_, features), variables = jax.eval_shape(
        lambda x, d=depth: net(d).init_with_output(jax.random.key(0), x, False),
        jnp.zeros(shape))
    sizes[depth] = features.shape[1]
  assert sizes == {0: 64 * 64, 1: 64 * 64 * 32, 2: 64 * 64 * 32,
                   3: 32 * 32 * 128, 9: 8 * 8 * 256, 11: 8 * 8 * 256}
  assert c.recon_depth == 9
  x = jnp.float32(np.random.default_rng(0).normal(size=(2, 16, 16, 1)))
  small = lambda depth: vaegan.Discriminator(4, (4, 6, 8), 16, depth)
  variables = small(9).init(jax.random.key(0), x, False)
  layer = {d: small(d).apply(variables, x, False)[1] for d in (9, 10, 11)}
  assert float(layer[9].min()) < 0  # A convolution, before norm and ReLU.
  np.testing.assert_allclose(layer[10], layer[9], rtol=1e-4)  # Not trained.
  np.testing.assert_allclose(layer[11], np.maximum(layer[10], 0), rtol=1e-5)


def test_parameters_are_those_of_the_released_layers():
  state = jax.eval_shape(
      vaegan.build(config_lib.load('vaegan_nsynth')).init,
      jax.random.key(0), {})
  conv = lambda inputs, width, k=5: k * k * inputs * width
  norm = lambda width: 2 * width
  count = {k: sum(x.size for x in jax.tree.leaves(v))
           for k, v in state.params.items()}
  stacks = sum(norm(n) for n in (64, 128, 256))
  assert count == {
      'encoder': conv(1, 64) + conv(64, 128) + conv(128, 256) + stacks
      + 8 * 8 * 256 * 1024 + norm(1024) + 2 * (1024 * 128 + 128),
      'decoder': 128 * 8 * 8 * 256 + norm(8 * 8 * 256) + conv(256, 256)
      + conv(256, 128) + conv(128, 32) + sum(map(norm, (256, 128, 32)))
      + conv(32, 1) + 1,
      'discriminator': conv(1, 32) + 32 + conv(32, 128) + conv(128, 256)
      + conv(256, 256) + sum(map(norm, (128, 256, 256)))
      + 8 * 8 * 256 * 512 + norm(512) + 512 + 1}


def test_losses_are_the_closed_forms():
  np.testing.assert_allclose(
      vaegan.log_loss(jnp.array([0.0, 50.0]), True),
      [-math.log(0.501), -math.log(1.001)], rtol=1e-4)
  np.testing.assert_allclose(
      vaegan.log_loss(jnp.array([50.0, -50.0]), False),
      [-math.log(0.001), -math.log(1.001)], rtol=1e-3)
  x, y = np.random.default_rng(0).normal(size=(2, 3, 7))
  np.testing.assert_allclose(vaegan.feature_nll(x, y),
                             -scipy.stats.norm(y).logpdf(x).sum(1), rtol=1e-6)


def test_statistics_forget_by_a_tenth_a_pass():
  _, new, _ = stepped(config_of())
  config = config_of()
  _, old, batch = began(config)
  picture = 2.0 * clip_range.make(config, (8, 8)).encode(
      batch['audio'])[0] - 1.0
  x = jax.lax.conv_general_dilated(
      picture, old.params['encoder']['stack']['conv0']['kernel'], (2, 2),
      'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  got = new.vars['encoder']['batch_stats']['stack']['norm0']
  np.testing.assert_allclose(got['mean'], 0.1 * x.mean((0, 1, 2)), rtol=1e-3,
                             atol=1e-6)
  np.testing.assert_allclose(got['var'], 0.9 + 0.1 * x.var((0, 1, 2)),
                             rtol=1e-4)


@pytest.mark.parametrize('changes, words', [
    ({'decoder_filters': (8, 6)}, 'the same length'),
    ({'encoder_filters': (0,)}, '1 or more'),
    ({'recon_depth': 12}, '1 to 11'),
    ({'latent_size': 0}, 'model.latent_size'),
    ({'real_weight': 1.0}, 'model.real_weight'),
    ({'feature_weight': 2.0}, 'model.feature_weight')])
def test_settings_that_cannot_work_are_named(changes, words):
  with pytest.raises(errors.UserError, match=words):
    vaegan.build(config_of(**changes))
