"""VAE of spectrograms (Kingma and Welling 2014), as in V. Velardo's course.

The networks, the loss and the pictures are those of the course's code
("Generating sound with neural networks", chapters 8 to 14). Two things there
are mended here: sounds are made of magnitudes with a phase of 0, although a
comment says Griffin-Lim, which is what finds the phase here; and the highest
bin, which the pictures leave out, is missing afterwards: here it is like its
neighbour (clip_range.py).

A picture has the range of its own clip. The course gives a sound from the
latents the range of a clip drawn from the data; here it is the mean of all.

Shapes: B batch, N samples, T frames, F bins, C channels, Z latent size, V width
of all labels. Pictures [B, T, F, C] are in [0, 1].
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from common import errors
from common.model import Mean, Model, TrainState
from vqvae_jax import clip_range, pictures
from vqvae_jax import spectrogram_nets as nets


class Encoder(nn.Module):
  """Pictures to the mean and log variance of the posterior."""

  layers: tuple[nets.Layer, ...]
  latents: int
  norm: nets.Norm = nets.Norm()
  labels: tuple[tuple[str, int], ...] = ()
  label_width: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, labels, train):  # [B, T, F, C] -> two of [B, Z]
    x = nets.Stack(self.layers, self.norm, norm_last=True, dtype=self.dtype,
                   name='stack')(x.astype(self.dtype), train)
    x = nets.with_labels(self, x.reshape(x.shape[0], -1), labels)
    head = lambda name: nn.Dense(
        self.latents, kernel_init=nn.initializers.glorot_uniform(),
        dtype=self.dtype, name=name)(x).astype(jnp.float32)
    return head('mean'), head('log_variance')


class Decoder(nn.Module):
  """Latents to pictures; `layers` are the encoder's."""

  layers: tuple[nets.Layer, ...]
  shape: tuple[int, int, int]  # (T, F, C)
  norm: nets.Norm = nets.Norm()
  labels: tuple[tuple[str, int], ...] = ()
  label_width: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z, labels, train):  # [B, Z] -> [B, T, F, C]
    height, width = (
        n // math.prod(layer.stride[i] for layer in self.layers)
        for i, n in enumerate(self.shape[:2]))
    z = nets.with_labels(self, z.astype(self.dtype), labels)
    x = nn.Dense(height * width * self.layers[-1].features, dtype=self.dtype,
                 kernel_init=nn.initializers.glorot_uniform(), name='dense')(z)
    x = x.reshape(-1, height, width, self.layers[-1].features)
    x = nets.Stack(self.layers[:0:-1], self.norm, norm_last=True,
                   transpose=True, dtype=self.dtype, name='stack')(x, train)
    last = self.layers[0]
    x = nets.Transposed(
        self.shape[-1], (last.kernel,) * 2, last.stride, dtype=self.dtype,
        name='last')(x)
    return nn.sigmoid(x.astype(jnp.float32))


def kl_to_unit_normal(mean, log_variance):  # [B, Z] -> [B], nats
  return 0.5 * (jnp.exp(log_variance) + mean**2 - 1.0 - log_variance).sum(-1)


def gaussian_nll(mse, weight, pixels):
  """Nats of a picture with that mean square error, of `pixels` values.

  The likelihood whose logarithm is -weight * mse, but for a constant: normal
  with variance pixels / (2 weight).
  """
  return weight * mse + pixels / 2 * math.log(math.pi * pixels / weight)


def layers_of(config) -> tuple[nets.Layer, ...]:
  """Of the encoder; one sentence for what cannot work."""
  c = config.model
  given = c.filters, c.time_strides, c.frequency_strides
  if len({len(x) for x in given}) != 1 or not c.filters:
    raise errors.UserError(
        f'model.filters={tuple(c.filters)}, time_strides='
        f'{tuple(c.time_strides)} and frequency_strides='
        f'{tuple(c.frequency_strides)} have one entry for each layer: give '
        'them the same length')
  if min(min(x) for x in given) < 1 or c.kernel_size < 1:
    raise errors.UserError('model.filters, strides and kernel_size are 1 or '
                           'more')
  errors.at_least(c, latent_size=1, label_width=1)
  errors.require(c.reconstruction_weight > 0,
                 f'model.reconstruction_weight={c.reconstruction_weight}',
                 'a number above 0')
  if not 0 <= c.norm_momentum < 1:
    raise errors.UserError(f'model.norm_momentum={c.norm_momentum} is not from '
                           '0 to below 1')
  return tuple(nets.Layer(n, c.kernel_size, (t, f))
               for n, t, f in zip(*given, strict=True))


def factors(layers) -> tuple[int, int]:
  """By how much a stack divides frames and bins."""
  return tuple(math.prod(layer.stride[i] for layer in layers) for i in (0, 1))


def build(config) -> Model:
  c = config.model
  layers = layers_of(config)
  scaled = clip_range.make(config, factors(layers))
  labels, dtype = pictures.labels(config), jnp.dtype(config.dtype)
  norm = nets.Norm(c.norm_momentum)
  encoder = Encoder(layers, c.latent_size, norm, labels, c.label_width, dtype)
  decoder = Decoder(layers, scaled.shape, norm, labels, c.label_width, dtype)
  tx = optax.adam(c.learning_rate)
  pixels = math.prod(scaled.shape)

  posterior = functools.partial(nets.infer, encoder, 'encoder')
  decode = functools.partial(nets.infer, decoder, 'decoder')

  def init(key, batch):
    key_e, key_d = jax.random.split(key)
    labels = {name: jnp.zeros(1, jnp.int32) for name in c.conditions}
    e = encoder.init(key_e, jnp.zeros((1, *scaled.shape)), labels, False)
    d = decoder.init(key_d, jnp.zeros((1, c.latent_size)), labels, False)
    params = {'encoder': e.pop('params'), 'decoder': d.pop('params')}
    return TrainState.create(
        params, {'model': tx.init(params)},
        vars={'encoder': e, 'decoder': d, 'range': clip_range.first()})

  def train_step(state, batch, key, stage):
    del stage  # One stage only.
    picture, span = scaled.encode(batch['audio'])

    def loss_fn(params):
      (mean, log_variance), e = nets.run(
          encoder, params['encoder'], state.vars['encoder'], picture, batch)
      noise = jax.random.normal(key, mean.shape)
      z = mean + jnp.exp(0.5 * log_variance) * noise
      guess, d = nets.run(
          decoder, params['decoder'], state.vars['decoder'], z, batch)
      mse = ((guess - picture) ** 2).mean()
      kl = kl_to_unit_normal(mean, log_variance).mean()
      loss = c.reconstruction_weight * mse + c.kl_weight * kl
      return loss, ({'loss/total': loss, 'loss/mse': mse, 'loss/kl': kl}, e, d)

    grads, (metrics, e, d) = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt = tx.update(grads, state.opt['model'], state.params)
    mean = clip_range.updated(state.vars['range'], span, state.step)
    return state.replace(
        params=optax.apply_updates(state.params, updates), opt={'model': opt},
        vars={'encoder': e, 'decoder': d, 'range': mean}), metrics

  def eval_step(state, batch, key):
    """The bound with one draw of the posterior; the picture of its mean."""
    picture, span = scaled.encode(batch['audio'])
    mean, log_variance = posterior(state, picture, batch)
    noise = nets.noise(key, batch['index'], c.latent_size)
    z = mean + jnp.exp(0.5 * log_variance) * noise
    mse = ((decode(state, z, batch) - picture) ** 2).mean((1, 2, 3))
    kl = kl_to_unit_normal(mean, log_variance)
    nll = gaussian_nll(mse, c.reconstruction_weight, pixels)
    guess = decode(state, mean, batch)
    values = {'mse': mse, 'kl': kl, 'nll': nll, 'elbo': -(nll + kl),
              'mse_of_mean': ((guess - picture) ** 2).mean((1, 2, 3))}
    out = {k: Mean.of(v, batch['mask']) for k, v in values.items()}
    out['convergence_db'] = clip_range.convergence(
        scaled, guess, picture, span, batch['mask'])
    return out

  @jax.jit
  def sample(state, batch, key):
    """Of the prior, or of the posterior of the batch's audio.

    That is its mean for rows of a split (--from_eval), a draw with the asked
    temperature for a sound of a prompt (--prompt=audio).
    """
    z = nets.noise(key, batch['index'], c.latent_size)
    if 'audio' in batch:
      picture, span = scaled.encode(batch['audio'])
      mean, log_variance = posterior(state, picture, batch)
      heat = batch.get('temperature', jnp.zeros(len(z)))[:, None]
      z = mean + heat * jnp.exp(0.5 * log_variance) * z
    else:
      z *= batch['temperature'][:, None]
      span = clip_range.for_rows(state.vars['range'], len(z))
    return {'audio': scaled.decode(decode(state, z, batch), span)}

  return Model(init=init, train_step=train_step, eval_step=eval_step,
               sample=sample)


preprocess = pictures.preprocess
prompt = clip_range.prompt
