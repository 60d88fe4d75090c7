"""VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937) on spectrograms.

One map of codes between an encoder and a decoder of strided convolutions, as
in Sonnet's example for CIFAR-10; the decoder may be told pitch and instrument
beside the codes, as the paper's is told the speaker.

Shapes: B batch, N samples; pictures are [B, T, F, C]; maps of codes [B, T, F],
of vectors [B, T, F, D].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from common import errors
from common.metrics import distance
from common.model import Codec, Mean, Model, TrainState
from vqvae_jax import bottleneck as bottleneck_lib
from vqvae_jax import pictures as pictures_lib
from vqvae_jax import spectrogram_nets as nets_lib


class _Parts(NamedTuple):
  """Pure functions of parameters and the codebook."""
  pictures: pictures_lib.Pictures
  bottleneck: bottleneck_lib.Bottleneck
  init: Any  # key -> params
  encode: Any  # params, picture -> z
  decode: Any  # params, vectors, batch -> picture
  shape: tuple[int, int]


def _make(config) -> _Parts:
  _check(config)
  c = config.model
  factor = 2 ** len(c.channels)
  pictures = pictures_lib.make(config, factor)
  frames, bins, channels = pictures.shape
  shape = frames // factor, bins // factor
  layer = dict(initial=c.initial, dtype=jnp.dtype(config.dtype))
  stack = dict(width=c.width, residuals=c.residuals, inner=c.inner, **layer)
  nets = {
      'encoder': nets_lib.Encoder(
          tuple(c.channels), relu_conv=c.get('relu_conv', False), **stack),
      'to_codes': nets_lib.Conv(c.code_width, (1, 1), **layer),
      'decoder': nets_lib.Decoder(
          (*tuple(c.channels)[-2::-1], channels), **stack)}
  if c.conditions:
    nets['labels'] = nets_lib.Labels(
        pictures_lib.labels(config), c.label_width, layer['dtype'])

  def run(params, name, x):
    return nets[name].apply({'params': params[name]}, x)

  def encode(params, picture):
    return run(params, 'to_codes', run(params, 'encoder', picture))

  def decode(params, vectors, batch):
    x = vectors.astype(config.dtype)
    if c.conditions:
      x = nets_lib.beside(x, run(params, 'labels', batch))
    return run(params, 'decoder', x).astype(jnp.float32)

  def init(key):
    width = c.code_width + len(c.conditions) * c.label_width
    inputs = {'encoder': jnp.zeros((1, *pictures.shape)),
              'to_codes': jnp.zeros((1, *shape, c.width)),
              'decoder': jnp.zeros((1, *shape, width)),
              'labels': {k: jnp.zeros(1, jnp.int32) for k in c.conditions}}
    return {name: net.init(k, inputs[name])['params'] for k, (name, net) in
            zip(jax.random.split(key, len(nets)), nets.items(), strict=True)}

  return _Parts(pictures, bottleneck_lib.make(config), init, encode, decode,
                shape)


def build(config) -> Model:
  parts = _make(config)
  c, pictures, bottleneck = config.model, parts.pictures, parts.bottleneck
  tx = optax.adam(c.learning_rate)

  def init(key, batch):
    del batch  # The config has all the shapes.
    key, key_codes = jax.random.split(key)
    params, books = parts.init(key), {'codes': bottleneck.create(key_codes)}
    if bottleneck.by_gradient:
      params, books = {**params, **books}, {}
    return TrainState.create(params, tx.init(params), vars=books)

  def forward(params, state, batch, key=None):
    """(losses by name, each [B]; the picture; Quantised)."""
    target = pictures.encode(batch['audio'])
    book = params['codes'] if bottleneck.by_gradient else state.vars['codes']
    q = bottleneck.quantise(parts.encode(params, target), book, key, state.step)
    picture = parts.decode(params, q.vectors, batch)
    # -log p(x|z) is the square error over twice the variance of the data,
    # which Sonnet's example leaves at the variance.
    error = (pictures.crop(picture) - pictures.crop(target)) ** 2
    return {'rec': error.mean((1, 2, 3)) / c.variance,
            'commit': q.penalty}, picture, q

  def train_step(state, batch, key, stage):
    """Encodes with the codebook as it was, then updates it."""
    del stage  # One stage only.
    key, key_update = jax.random.split(key)

    def loss_fn(params):
      losses, _, q = forward(params, state, batch, key)
      means = {f'loss/{k}': v.mean() for k, v in losses.items()}
      return sum(means.values()), (means, q)

    (loss, (metrics, q)), grads = jax.value_and_grad(
        loss_fn, has_aux=True)(state.params)
    updates, opt = tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    book, info = bottleneck.update(q, key_update, state.step)
    metrics |= {'loss': loss, **{f'codes/{k}': v for k, v in info.items()}}
    return state.replace(
        params=params, opt=opt,
        vars={} if bottleneck.by_gradient else {'codes': book}), metrics

  def eval_step(state, batch, key):
    del key
    losses, picture, _ = forward(state.params, state, batch)
    audio = pictures.decode(picture)
    losses['loss'] = sum(losses.values())
    return {
        **{k: Mean.of(v, batch['mask']) for k, v in losses.items()},
        **distance.heard(audio, batch['audio'], batch['mask'])}

  coder = codec(config)

  @jax.jit
  def sample(state, batch, key):
    """The sounds of the batch, through the codes."""
    del key
    audio = coder.decode(state, coder.encode(state, batch), batch)
    return {'audio': audio.clip(-1.0, 1.0)}

  return Model(init=init, train_step=train_step, eval_step=eval_step,
               sample=sample)


def codec(config) -> Codec:
  parts = _make(config)
  bottleneck, pictures = parts.bottleneck, parts.pictures

  def book_of(state):
    return (state.params if bottleneck.by_gradient else state.vars)['codes']

  def encode(state, batch):
    z = parts.encode(state.params, pictures.encode(batch['audio']))
    return {'codes': bottleneck.quantise(z, book_of(state)).codes}

  def decode(state, codes, batch):
    vectors = bottleneck.codes(book_of(state))[codes['codes']]
    return pictures.decode(parts.decode(state.params, vectors, batch))

  return Codec(encode, decode, {'codes': parts.shape},
               {'codes': config.model.codebook_size}, (('codes',),))


def _check(config) -> None:
  """One sentence for each setting that cannot work."""
  nets_lib.check(config)
  if config.model.variance <= 0:
    raise errors.UserError(f'model.variance={config.model.variance} is not '
                           'above 0; 1.0 leaves the error as it is')


# ---------------------------------------------------------------- data


preprocess = pictures_lib.preprocess
measure = pictures_lib.measure
prompt = bottleneck_lib.prompt
