"""VQ-VAE-2 (Razavi et al. 2019, arXiv 1906.00446) on spectrograms.

Two maps of codes: the top one of the bottom encoder's features, halved once
more, the bottom one of these features and what the top decoder makes of the
top codes. As the two ports have it that are in use: for images a bottom map a
quarter as high and wide as the picture, for spectrograms a sixteenth (Bazin et
al. 2021, arXiv 2104.07519).

Shapes: B batch, N samples; pictures are [B, T, F, C]; maps of codes [B, T, F],
of vectors [B, T, F, D].
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from common import errors
from common.metrics import distance
from common.model import Codec, Mean, Model, TrainState
from common.spectral import stft
from vqvae_jax import bottleneck as bottleneck_lib
from vqvae_jax import pictures as pictures_lib
from vqvae_jax import spectrogram_nets as nets_lib

LOSSES = ('mse', 'jukebox', 'ddsp')
LOSS_DOMAINS = ('raw', 'normalized')
# (n_fft, hop, win_length). The hop of 48 is that of Bazin et al.
JUKEBOX = ((2048, 240, 1200), (1024, 120, 600), (512, 48, 240))
DDSP = tuple((n, n // 4, n) for n in (64, 128, 256, 512, 1024, 2048))


class Upsample(nn.Module):
  """The top vectors, as large as the bottom's."""

  doublings: int
  width: int
  initial: str = 'torch'
  dtype: Any = None

  @nn.compact
  def __call__(self, x):
    for i in range(self.doublings):
      x = nets_lib.Up(self.width, self.initial, self.dtype, name=f'up{i}')(x)
    return x


def networks(config, channels: int) -> dict[str, nn.Module]:
  """By the names of rosinality's port."""
  c = config.model
  layer = dict(initial=c.initial, dtype=jnp.dtype(config.dtype))
  stack = dict(width=c.width, residuals=c.residuals, inner=c.inner,
               relu_skip=c.relu_skip, **layer)
  bottom, top = tuple(c.channels), tuple(c.top_channels)
  nets = {
      'enc_b': nets_lib.Encoder(bottom, **stack),
      'enc_t': nets_lib.Encoder(top, **stack),
      'quantize_conv_t': nets_lib.Conv(c.code_width, (1, 1), **layer),
      'dec_t': nets_lib.Decoder((*top[-2::-1], c.code_width), **stack),
      'quantize_conv_b': nets_lib.Conv(c.code_width, (1, 1), **layer),
      'upsample_t': Upsample(len(top), c.code_width, **layer),
      'dec': nets_lib.Decoder((*bottom[-2::-1], channels), **stack)}
  if c.conditions:
    nets['labels'] = nets_lib.Labels(
        pictures_lib.labels(config), c.label_width, layer['dtype'])
  return nets


class _Parts(NamedTuple):
  """Pure functions of parameters and codebooks, {'top': .., 'bottom': ..}."""
  pictures: pictures_lib.Pictures
  bottleneck: bottleneck_lib.Bottleneck
  init: Any  # key -> params
  encode: Any  # params, books, picture[, key, step] -> {level: Quantised}
  decode: Any  # params, {level: vectors}, batch -> picture
  shapes: dict[str, tuple[int, int]]


def _make(config) -> _Parts:
  _check(config)
  c = config.model
  factor, top_factor = 2 ** len(c.channels), 2 ** len(c.top_channels)
  pictures = pictures_lib.make(config, factor * top_factor)
  bottleneck = bottleneck_lib.make(config)
  frames, bins, channels = pictures.shape
  nets = networks(config, channels)
  shapes = {'top': (frames // factor // top_factor,
                    bins // factor // top_factor),
            'bottom': (frames // factor, bins // factor)}

  def run(params, name, x):
    return nets[name].apply({'params': params[name]}, x)

  def encode(params, books, picture, key=None, step=None):
    keys = [None, None] if key is None else jax.random.split(key)
    fine = run(params, 'enc_b', picture)
    z = run(params, 'quantize_conv_t', run(params, 'enc_t', fine))
    top = bottleneck.quantise(z, books['top'], keys[0], step)
    coarse = run(params, 'dec_t', top.vectors)
    z = run(params, 'quantize_conv_b', jnp.concatenate([coarse, fine], -1))
    bottom = bottleneck.quantise(z, books['bottom'], keys[1], step)
    return {'top': top, 'bottom': bottom}

  def decode(params, vectors, batch):
    x = jnp.concatenate([run(params, 'upsample_t', vectors['top']),
                         vectors['bottom'].astype(config.dtype)], -1)
    if c.conditions:
      x = nets_lib.beside(x, run(params, 'labels', batch))
    return run(params, 'dec', x).astype(jnp.float32)

  def init(key):
    picture = jnp.zeros((1, *pictures.shape))
    coarse, fine = (jnp.zeros((1, *shapes[k], c.width))
                    for k in ('top', 'bottom'))
    top, bottom = (x[..., :1].repeat(c.code_width, -1) for x in (coarse, fine))
    wide = 2 * c.code_width + len(c.conditions) * c.label_width
    inputs = {
        'enc_b': picture, 'enc_t': fine, 'quantize_conv_t': coarse,
        'dec_t': top, 'quantize_conv_b': jnp.concatenate([bottom, fine], -1),
        'upsample_t': top, 'dec': bottom[..., :1].repeat(wide, -1),
        'labels': {k: jnp.zeros(1, jnp.int32) for k in c.conditions}}
    params = {name: net.init(k, inputs[name])['params'] for k, (name, net) in
              zip(jax.random.split(key, len(nets)), nets.items(), strict=True)}
    return params

  return _Parts(pictures, bottleneck, init, encode, decode, shapes)


def build(config) -> Model:
  parts = _make(config)
  c, pictures, bottleneck = config.model, parts.pictures, parts.bottleneck
  tx = optax.adam(c.learning_rate)

  def books_of(params, state):
    return params['codes'] if bottleneck.by_gradient else state.vars

  def init(key, batch):
    del batch  # The config has all the shapes.
    key, key_t, key_b = jax.random.split(key, 3)
    params = parts.init(key)
    books = {'top': bottleneck.create(key_t),
             'bottom': bottleneck.create(key_b)}
    if bottleneck.by_gradient:
      params['codes'], books = books, {}
    return TrainState.create(params, tx.init(params), vars=books)

  def reconstruction(picture, target, audio):  # [B]
    if c.loss == 'mse':
      units = (pictures.denormalise if c.loss_domain == 'raw'
               else pictures.crop)
      return ((units(picture) - units(target)) ** 2).mean((1, 2, 3))
    return spectral(c.loss, pictures.decode(picture), audio)

  def forward(params, state, batch, key=None):
    """(losses by name, each [B]; the picture; {level: Quantised})."""
    target = pictures.encode(batch['audio'])
    levels = parts.encode(params, books_of(params, state), target, key,
                          state.step)
    picture = parts.decode(
        params, {k: q.vectors for k, q in levels.items()}, batch)
    losses = {f'commit_{k}': q.penalty for k, q in levels.items()}
    losses['rec'] = reconstruction(picture, target, batch['audio'])
    return losses, picture, levels

  def train_step(state, batch, key, stage):
    """Encodes with the codebooks as they were, then updates them."""
    del stage  # One stage only.
    key, key_t, key_b = jax.random.split(key, 3)

    def loss_fn(params):
      losses, _, levels = forward(params, state, batch, key)
      means = {f'loss/{k}': v.mean() for k, v in losses.items()}
      return sum(means.values()), (means, levels)

    (loss, (metrics, levels)), grads = jax.value_and_grad(
        loss_fn, has_aux=True)(state.params)
    updates, opt = tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics['loss'], books = loss, {}
    for level, k in (('top', key_t), ('bottom', key_b)):
      books[level], info = bottleneck.update(levels[level], k, state.step)
      metrics |= {f'{level}/{name}': v for name, v in info.items()}
    return state.replace(
        params=params, opt=opt,
        vars={} if bottleneck.by_gradient else books), metrics

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
  bottleneck = parts.bottleneck

  def books_of(state):
    return state.params['codes'] if bottleneck.by_gradient else state.vars

  def encode(state, batch):
    levels = parts.encode(state.params, books_of(state),
                          parts.pictures.encode(batch['audio']))
    return {k: q.codes for k, q in levels.items()}

  def decode(state, codes, batch):
    vectors = {k: bottleneck.codes(book)[codes[k]]
               for k, book in books_of(state).items()}
    return parts.pictures.decode(parts.decode(state.params, vectors, batch))

  size = config.model.codebook_size
  return Codec(encode, decode, parts.shapes, {'top': size, 'bottom': size},
               (('top', 'bottom'),))


def spectral(kind: str, audio, target):
  """Multi-scale spectral losses of audio [B, N]: [B]. Frames are not centred.

  'jukebox' is the mean square of differences of magnitudes, 'ddsp' the mean
  absolute difference of magnitudes, and of their logarithms.
  """
  total = 0.0
  for n_fft, hop, win_length in JUKEBOX if kind == 'jukebox' else DDSP:
    a, b = (jnp.abs(stft.stft(x, n_fft, hop, win_length=win_length,
                              center=False)) for x in (audio, target))
    if kind == 'jukebox':
      total += ((a - b) ** 2).mean((1, 2))
    else:
      log = lambda s: jnp.log(s + 1e-7)
      total += (jnp.abs(a - b) + jnp.abs(log(a) - log(b))).mean((1, 2))
  return total


def _check(config) -> None:
  """One sentence for each setting that cannot work."""
  c = config.model
  nets_lib.check(config)
  for name, known in (('loss', LOSSES), ('loss_domain', LOSS_DOMAINS)):
    if c[name] not in known:
      raise errors.UserError(f'model.{name}={c[name]!r} is not one of '
                             f'{", ".join(map(repr, known))}')
  if not c.top_channels or any(
      not isinstance(n, int) or n < 1 for n in c.top_channels):
    raise errors.UserError(
        f'model.top_channels={tuple(c.top_channels)} is not a list of widths, '
        'one for each halving; for a half: (64,)')
  if c.loss != 'mse' and c.samples < 2048:
    raise errors.UserError(
        f'model.loss={c.loss!r} has frames of 2048 samples, more than '
        f'model.samples={c.samples}; use loss=\'mse\' or longer sounds')


# ---------------------------------------------------------------- data


preprocess = pictures_lib.preprocess
measure = pictures_lib.measure
prompt = bottleneck_lib.prompt
