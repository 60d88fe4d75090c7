"""VAE-GAN (Larsen et al. 2016, arXiv 1512.09300), of spectrograms.

A VAE whose reconstructions are compared by what a layer of a discriminator
makes of them, not by their pixels. What the paper leaves open is as in the
released code (andersbll/autoencoding_beyond_pixels): networks, constants, and
when an update is skipped.

One pass of the networks gives three losses, whose gradients go to

  encoder        KL + feature NLL
  decoder        g feature NLL - (1 - g) GAN
  discriminator  GAN

GAN is the log loss on real pictures, on reconstructions and on those of the
prior. It does not reach the encoder, and the feature NLL does not reach the
discriminator.

Shapes: B batch, N samples, T frames, F bins, C channels, Z latent size.
Pictures [B, T, F, C] are in [-1, 1] here.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from common import errors
from common.model import Mean, Model, TrainState
from vqvae_jax import clip_range, pictures, vae
from vqvae_jax import spectrogram_nets as nets

KERNEL = 5
NORM = nets.Norm(momentum=0.9, epsilon=1e-6)
_EPS = 1e-3  # Added to probabilities before their logarithm.


class Encoder(nn.Module):
  """Pictures to the mean and log variance of the posterior."""

  filters: tuple[int, ...]
  hidden: int
  latents: int
  labels: tuple[tuple[str, int], ...] = ()
  label_width: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, labels, train):  # [B, T, F, C] -> two of [B, Z]
    x = nets.Stack(_halving(self.filters), NORM, dtype=self.dtype,
                   name='stack')(x.astype(self.dtype), train)
    x = nets.with_labels(self, x.reshape(x.shape[0], -1), labels)
    x = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype,
                 name='hidden')(x)
    x = nn.relu(NORM(x, train, self.dtype, 'hidden_norm'))
    head = lambda name: nn.Dense(self.latents, dtype=self.dtype, name=name)(
        x).astype(jnp.float32)
    return head('mean'), head('log_variance')


class Decoder(nn.Module):
  """Latents to pictures."""

  filters: tuple[int, ...]  # Each doubles.
  first: int  # Width of what they begin with.
  shape: tuple[int, int, int]  # (T, F, C)
  labels: tuple[tuple[str, int], ...] = ()
  label_width: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z, labels, train):  # [B, Z] -> [B, T, F, C]
    z = nets.with_labels(self, z.astype(self.dtype), labels)
    height, width = (n // 2 ** len(self.filters) for n in self.shape[:2])
    x = nn.Dense(height * width * self.first, use_bias=False, dtype=self.dtype,
                 name='dense')(z)
    x = nn.relu(NORM(x, train, self.dtype, 'dense_norm'))
    x = x.reshape(-1, height, width, self.first)
    x = nets.Stack(_halving(self.filters), NORM, transpose=True,
                   dtype=self.dtype, name='stack')(x, train)
    x = nn.Conv(self.shape[-1], (KERNEL, KERNEL), dtype=self.dtype,
                name='last')(x)
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """Pictures to logits that they are real, and the layer of that depth.

  Depth counts as the released code does: each convolution, norm and activation
  is a layer. 9 is the third strided convolution; 0 the picture itself.
  """

  first: int
  filters: tuple[int, ...]
  hidden: int
  depth: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train):  # [B, T, F, C] -> [B], [B, D]
    conv = lambda features, stride, name: nn.Conv(
        features, (KERNEL, KERNEL), (stride, stride), use_bias=stride == 1,
        dtype=self.dtype, name=name)
    layers = [conv(self.first, 1, 'first'), nn.relu]
    for i, width in enumerate(self.filters):
      layers += [conv(width, 2, f'conv{i}'),
                 lambda x, i=i: NORM(x, train, self.dtype, f'norm{i}'), nn.relu]
    x = x.astype(self.dtype)
    seen = [x]
    for layer in layers:
      seen.append(layer(seen[-1]))
    x = seen[-1].reshape(x.shape[0], -1)
    x = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype,
                 name='hidden')(x)
    x = nn.relu(NORM(x, train, self.dtype, 'hidden_norm'))
    x = nn.Dense(1, dtype=self.dtype, name='score')(x)
    features = seen[self.depth].reshape(x.shape[0], -1)
    return x[:, 0].astype(jnp.float32), features.astype(jnp.float32)


def _halving(filters):
  return tuple(nets.Layer(n, KERNEL, (2, 2)) for n in filters)


def log_loss(logits, real: bool):
  """-log of the probability of what is true, which is at least 0.001."""
  return -jnp.log(jax.nn.sigmoid(logits if real else -logits) + _EPS)


def balance(real, fake, equilibrium, margin):
  """Whether to update the discriminator, and the decoder.

  Neither where it wins clearly: the discriminator with a cost below
  equilibrium - margin, the decoder with one above equilibrium + margin. If both
  would be skipped, none is.
  """
  low, high = equilibrium - margin, equilibrium + margin
  d = (real >= low) & (fake >= low)
  g = (real <= high) & (fake <= high)
  neither = ~(d | g)
  return d | neither, g | neither


def feature_nll(features, target):
  """Nats [B] of features [B, D], normal around the target with variance 1."""
  return 0.5 * ((features - target) ** 2 + math.log(2 * math.pi)).sum(-1)


def build(config) -> Model:
  c = config.model
  _check(config)
  factor = 2 ** len(c.encoder_filters)
  scaled = clip_range.make(config, (factor, factor))
  labels, dtype = pictures.labels(config), jnp.dtype(config.dtype)
  networks = {
      'encoder': Encoder(tuple(c.encoder_filters), c.encoder_hidden,
                         c.latent_size, labels, c.label_width, dtype),
      'decoder': Decoder(tuple(c.decoder_filters), c.decoder_first,
                         scaled.shape, labels, c.label_width, dtype),
      'discriminator': Discriminator(
          c.discriminator_first, tuple(c.discriminator_filters),
          c.discriminator_hidden, c.recon_depth, dtype)}
  span = c.learning_rate - c.learning_rate_end
  rate = lambda step: c.learning_rate - span * jnp.minimum(
      step / c.decay_steps, 1.0) ** c.decay_power
  tx = optax.scale_by_rms(decay=0.9)  # RMSProp, but for the rate.

  def encode(batch):
    picture, span = scaled.encode(batch['audio'])
    return 2.0 * picture - 1.0, span

  def run(part, params, stats, *inputs):
    return nets.run(networks[part], params[part], stats[part], *inputs)

  def infer(part, state, *inputs):
    return nets.infer(networks[part], part, state, *inputs)

  def init(key, batch):
    del batch  # The config has all the shapes.
    labels = {name: jnp.zeros(1, jnp.int32) for name in c.conditions}
    picture, z = jnp.zeros((1, *scaled.shape)), jnp.zeros((1, c.latent_size))
    inputs = {'encoder': (picture, labels), 'decoder': (z, labels),
              'discriminator': (picture,)}
    params, stats = {}, {}
    for (part, net), k in zip(networks.items(), jax.random.split(key, 3),
                              strict=True):
      stats[part] = net.init(k, *inputs[part], False)
      params[part] = stats[part].pop('params')
    return TrainState.create(
        params, {k: tx.init(v) for k, v in params.items()},
        vars={**stats, 'range': clip_range.first()})

  def terms(params, stats, picture, batch, key):
    """((KL + features, GAN), (metrics, new statistics))."""
    key_z, key_prior = jax.random.split(key)
    (mean, log_variance), new_e = run(
        'encoder', params, stats, picture, batch)
    z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(
        key_z, mean.shape)
    guess, new_d = run('decoder', params, stats, z, batch)
    kl = vae.kl_to_unit_normal(mean, log_variance).mean()
    # The discriminator's statistics are those of the pictures at hand.
    (_, features), _ = run('discriminator', params, stats, _rows(
        guess, picture))
    nll = feature_nll(*features.reshape(len(z), 2, -1).swapaxes(0, 1)).mean()

    # As released, a decoder of its own for GAN: with latents of posterior and
    # prior in one batch, whose statistics are not those from above. The mask is
    # 1; it splits what is drawn over devices as the batch is.
    prior = jax.random.normal(key_prior, z.shape) * batch['mask'][:, None]
    twice = {k: jnp.repeat(batch[k], 2, 0) for k in c.conditions}
    fake, new_d = run('decoder', params, {'decoder': new_d}, _rows(
        jax.lax.stop_gradient(z), prior), twice)
    fake = fake.reshape(len(z), 2, *fake.shape[1:])
    (logits, _), new_c = run('discriminator', params, stats, _rows(
        picture, fake[:, 0], fake[:, 1]))
    logits = logits.reshape(len(z), 3)
    real = log_loss(logits[:, 0], True).mean()
    fakes = log_loss(logits[:, 1:], False).mean()
    gan = c.real_weight * real + (1.0 - c.real_weight) * fakes
    metrics = {'loss/kl': kl, 'loss/features': nll, 'loss/gan': gan,
               'gan/real': real, 'gan/fake': fakes,
               'picture/mse': ((guess - picture) ** 2).mean() / 4.0}
    return (kl + nll, gan), (metrics, {
        'encoder': new_e, 'decoder': new_d, 'discriminator': new_c})

  def gradients(params, *inputs):
    """Of each part by its own loss; and `terms`."""
    values, pull, aux = jax.vjp(
        lambda p: terms(p, *inputs), params, has_aux=True)
    zero, one = (jnp.full_like(values[0], x) for x in (0.0, 1.0))
    by_features, = pull((one, zero))
    by_gan, = pull((zero, one))
    # Released: the decoder's is the sum over reconstruction and prior, whatever
    # the weights are by which the discriminator is told what is real. These, in
    # the same batch, count too: by the statistics that they share.
    g, undo = c.feature_weight, 2.0 / (1.0 - c.real_weight)
    grads = {
        'encoder': by_features['encoder'],
        'decoder': jax.tree.map(
            lambda f, a: g * f - (1.0 - g) * undo * a,
            by_features['decoder'], by_gan['decoder']),
        'discriminator': by_gan['discriminator']}
    return grads, aux

  def train_step(state, batch, key, stage):
    del stage  # One stage only.
    picture, span = encode(batch)
    grads, (metrics, stats) = gradients(
        state.params, state.vars, picture, batch, key)
    update_c, update_d = balance(
        metrics['gan/real'], metrics['gan/fake'], c.equilibrium, c.margin)
    on = {'encoder': True, 'decoder': update_d, 'discriminator': update_c}
    params, opt = {}, {}
    for part in networks:
      old = state.params[part], state.opt[part]
      # By the trainer's step: an update that is left out stops no clock.
      updates, new = tx.update(grads[part], old[1], old[0])
      updates = jax.tree.map(lambda u: -rate(state.step) * u, updates)
      new = optax.apply_updates(old[0], updates), new
      params[part], opt[part] = jax.tree.map(
          lambda a, b, on=on[part]: jnp.where(on, a, b), new, old)
    return state.replace(
        params=params, opt=opt, vars={**stats, 'range': clip_range.updated(
            state.vars['range'], span, state.step)}), {
                **metrics,
                'updated/decoder': update_d.astype(jnp.float32),
                'updated/discriminator': update_c.astype(jnp.float32)}

  def eval_step(state, batch, key):
    """Reconstructions are of the posterior's mean."""
    picture, span = encode(batch)
    mean, log_variance = infer('encoder', state, picture, batch)
    guess = infer('decoder', state, mean, batch)
    fake = infer('decoder', state, nets.noise(
        key, batch['index'], c.latent_size), batch)
    on_real, target = infer('discriminator', state, picture)
    on_guess, features = infer('discriminator', state, guess)
    on_fake, _ = infer('discriminator', state, fake)
    values = {
        'kl': vae.kl_to_unit_normal(mean, log_variance),
        'features': feature_nll(features, target),
        'mse': ((guess - picture) ** 2).mean((1, 2, 3)) / 4.0,
        'gan/real': log_loss(on_real, True),
        'gan/reconstructed': log_loss(on_guess, False),
        'gan/prior': log_loss(on_fake, False)}
    out = {k: Mean.of(v, batch['mask']) for k, v in values.items()}
    out['convergence_db'] = clip_range.convergence(
        scaled, (guess + 1.0) / 2.0, (picture + 1.0) / 2.0, span,
        batch['mask'])
    return out

  @jax.jit
  def sample(state, batch, key):
    """Of the prior, or of the posterior of the batch's audio.

    That is its mean for rows of a split (--from_eval), a draw with the asked
    temperature for a sound of a prompt (--prompt=audio).
    """
    z = nets.noise(key, batch['index'], c.latent_size)
    if 'audio' in batch:
      picture, span = encode(batch)
      mean, log_variance = infer('encoder', state, picture, batch)
      heat = batch.get('temperature', jnp.zeros(len(z)))[:, None]
      z = mean + heat * jnp.exp(0.5 * log_variance) * z
    else:
      z *= batch['temperature'][:, None]
      span = clip_range.for_rows(state.vars['range'], len(z))
    picture = (infer('decoder', state, z, batch) + 1.0) / 2.0
    return {'audio': scaled.decode(picture, span)}

  return Model(init=init, train_step=train_step, eval_step=eval_step,
               sample=sample)


def _rows(*parts):
  """Batches [B, ...] as one: rows of the same number stay on their device."""
  return jnp.stack(parts, 1).reshape(-1, *parts[0].shape[1:])


def _check(config):
  """One sentence for each setting that cannot work."""
  c = config.model
  for name in ('encoder_filters', 'decoder_filters', 'discriminator_filters'):
    if not c[name] or min(c[name]) < 1:
      raise errors.UserError(f'model.{name}={tuple(c[name])} are the widths of '
                             'one layer or more, each 1 or more')
  if len(c.encoder_filters) != len(c.decoder_filters):
    raise errors.UserError(
        f'model.encoder_filters={tuple(c.encoder_filters)} and decoder_filters='
        f'{tuple(c.decoder_filters)} halve and double a picture: give them the '
        'same length')
  errors.at_least(
      c, encoder_hidden=1, decoder_first=1, discriminator_first=1,
      discriminator_hidden=1, latent_size=1, label_width=1, decay_steps=1)
  deepest = 2 + 3 * len(c.discriminator_filters)
  if not 0 <= c.recon_depth <= deepest:
    raise errors.UserError(
        f'model.recon_depth={c.recon_depth} is not a layer of the '
        f'discriminator, which has 1 to {deepest}; 0 compares pictures')
  if not 0 < c.real_weight < 1:
    raise errors.UserError(f'model.real_weight={c.real_weight} is not between '
                           '0 and 1')
  if not 0 <= c.feature_weight <= 1:
    raise errors.UserError(f'model.feature_weight={c.feature_weight} is not '
                           'from 0 to 1')


preprocess = pictures.preprocess
prompt = clip_range.prompt
