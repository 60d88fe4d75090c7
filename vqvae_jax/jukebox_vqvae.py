"""Jukebox's VQ-VAE (Dhariwal et al. 2020, arXiv 2005.00341, section 3).

Raw audio to codes at three rates and back. What it changes of a hierarchical
VQ-VAE, and the setting of each but the last:

  model.restart_below  codes that nobody uses move onto vectors of the batch
  model.separate       each level is an autoencoder of its own, so that the
                       coarse codes cannot be left without work
  model.resolutions    a spectral loss, so that high frequencies are kept
  (always)             decoders are convolutions, not autoregressive

Where paper and released code differ, the code is the default and a comment
says so. The weights that are averaged over steps are those that are evaluated,
sampled and saved for others.

Shapes: B batch, N samples, T codes of a level, W width, D width of a code.
Level 0 is the finest.
"""

import functools
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import audio as audio_lib
from common import errors, sharding
from common.data import chunks
from common.metrics import distance
from common.model import Codec, Mean, Model, TrainState
from common.nn import conv
from common.spectral import multiscale, stft
from vqvae_jax import jukebox_weights, quantize, windows

KERNEL = 4  # Of strided layers; their stride is 2.


class Unit(nn.Module):
  """x + s conv1(relu(conv3(relu(x))))."""

  dilation: int
  scale: float
  dtype: Any

  @nn.compact
  def __call__(self, x):  # [B, T, W] -> [B, T, W]
    width = x.shape[-1]
    h = conv.Conv(width, 3, dilation=self.dilation, dtype=self.dtype)(
        nn.relu(x))
    h = conv.Conv(width, 1, dtype=self.dtype)(nn.relu(h))
    return x + self.scale * h


class Stack(nn.Module):
  """Units with dilation 1, 3, 9, ...; decoders have the largest first."""

  depth: int
  growth: int
  cycle: int  # The dilations begin anew after so many; 0: never.
  rescaled: bool  # Units weigh 1 / sqrt(depth).
  reverse: bool
  remat: bool
  dtype: Any

  @nn.compact
  def __call__(self, x):
    unit = nn.remat(Unit) if self.remat else Unit
    scale = self.depth**-0.5 if self.rescaled else 1.0
    order = dilations(self.depth, self.growth, self.cycle)
    for i, d in enumerate(reversed(order) if self.reverse else order):
      x = unit(d, scale, self.dtype, name=f'unit_{i}')(x)
    return x


def dilations(depth, growth, cycle):
  return [growth ** (d % cycle if cycle else d) for d in range(depth)]


class Encoder(nn.Module):
  """Blocks of strided layers; each ends with D channels."""

  downs: tuple[int, ...]  # Of each block: how often the rate is halved.
  width: int
  code_width: int
  stack: Any  # Stack, but for `reverse`.
  dtype: Any

  @nn.compact
  def __call__(self, x):  # [B, N, C] -> [B, T, D]
    x = x.astype(self.dtype)
    for b, downs in enumerate(self.downs):
      for i in range(downs):
        x = conv.Conv(self.width, KERNEL, 2, dtype=self.dtype,
                      name=f'down_{b}_{i}')(x)
        x = self.stack(reverse=False, name=f'stack_{b}_{i}')(x)
      x = conv.Conv(self.code_width, 3, dtype=self.dtype, name=f'out_{b}')(x)
    return x


class Decoder(nn.Module):
  """The encoder's mirror image."""

  downs: tuple[int, ...]
  width: int
  code_width: int
  stack: Any
  to_audio: bool
  dtype: Any

  @nn.compact
  def __call__(self, x):  # [B, T, D] -> [B, N] or [B, N, D]
    for b, downs in reversed(list(enumerate(self.downs))):
      x = conv.Conv(self.width, 3, dtype=self.dtype, name=f'in_{b}')(
          x.astype(self.dtype))
      for i in range(downs):
        x = self.stack(reverse=True, name=f'stack_{b}_{i}')(x)
        width = self.code_width if i == downs - 1 else self.width
        x = conv.ConvTranspose(width, KERNEL, 2, dtype=self.dtype,
                               name=f'up_{b}_{i}')(x)
    if not self.to_audio:
      return x
    x = conv.Conv(1, 3, dtype=self.dtype, name='audio')(x)
    return x[..., 0].astype(jnp.float32)


class Levels:
  """The networks of all levels, and what is computed with their parameters.

  Separate: the encoder of level l has blocks 0 to l and starts from audio; its
  decoder ends with audio. Joint: the encoder of level l has block l alone and
  goes on from level l-1, and its decoder adds to what level l-1 decodes.
  """

  def __init__(self, config):
    c = config.model
    dtype = jnp.dtype(config.dtype)
    self.count = len(c.downs)
    self.separate, self.code_width = c.separate, c.code_width
    self.hops = tuple(2 ** sum(c.downs[:l + 1]) for l in range(self.count))
    self.names = tuple(f'level{l}' for l in range(self.count))
    self.encoders, self.decoders = [], []
    dilated = [sum(dilations(depth, c.dilation_growth, c.dilation_cycle))
               for depth in c.depths]
    self._chains = [
        [(downs, dilated[l]) for downs in c.downs[:l + 1]]
        for l in range(self.count)] if c.separate else [
            list(zip(c.downs, dilated, strict=True))]
    for l, (width, depth) in enumerate(zip(c.widths, c.depths, strict=True)):
      stack = functools.partial(
          Stack, depth, c.dilation_growth, c.dilation_cycle, c.rescaled,
          remat=c.remat, dtype=dtype)
      downs = tuple(c.downs[:l + 1] if c.separate else c.downs[l:l + 1])
      self.encoders.append(Encoder(downs, width, c.code_width, stack, dtype))
      self.decoders.append(Decoder(downs, width, c.code_width, stack,
                                   c.separate or l == 0, dtype))

  def init(self, key):
    """Kernels and biases U(+-1 / sqrt(fan in)), as PyTorch begins.

    One draw for all: the hundreds of this model would take minutes to compile.
    """
    shapes = flax.traverse_util.flatten_dict(jax.eval_shape(self._shapes))
    values, at = jax.random.uniform(
        key, (sum(s.size for s in shapes.values()),), minval=-1.0), 0
    params = {}
    for path, shape in shapes.items():
      taps, inputs, outputs = shapes[*path[:-1], 'kernel'].shape
      # PyTorch counts the outputs of a transposed layer.
      fan_in = taps * (outputs if path[-2].startswith('up') else inputs)
      part = values[at:at + shape.size].reshape(shape.shape)
      params[path] = part * fan_in**-0.5
      at += shape.size
    return flax.traverse_util.unflatten_dict(params)

  def _shapes(self):
    key, params = jax.random.key(0), {}
    for l, name in enumerate(self.names):
      inputs = 1 if self.separate or l == 0 else self.code_width
      audio = jnp.zeros((1, 2 ** sum(self.encoders[l].downs), inputs))
      codes = jnp.zeros((1, 1, self.code_width))
      params[name] = {
          'encoder': self.encoders[l].init(key, audio)['params'],
          'decoder': self.decoders[l].init(key, codes)['params']}
    return params

  def encode(self, params, audio):
    """Audio [B, N] -> {name: vectors [B, T, D]}."""
    x, out = audio[..., None], {}
    for name, encoder in zip(self.names, self.encoders, strict=True):
      z = encoder.apply({'params': params[name]['encoder']}, x)
      out[name] = z.astype(jnp.float32)
      x = x if self.separate else z
    return out

  def decode(self, params, vectors):
    """{name: vectors} -> {name: audio [B, N]}.

    Joint levels make one sound, that of the finest, out of what there is: it
    has the name of the finest level that was given.
    """
    out, x = {}, 0.0
    for name, decoder in reversed(list(
        zip(self.names, self.decoders, strict=True))):
      apply = functools.partial(
          decoder.apply, {'params': params[name]['decoder']})
      if self.separate:
        if name in vectors:
          out[name] = apply(vectors[name])
        continue
      if name in vectors:
        x, finest = x + vectors[name], name
      x = apply(x)
    return out if self.separate else {finest: x}

  def groups(self):
    """Names of the levels that make a sound together, coarse ones first."""
    coarse_first = self.names[::-1]
    if self.separate:
      return tuple((name,) for name in coarse_first)
    return tuple(coarse_first[:i + 1] for i in range(self.count))

  def reach(self):
    """Samples on each side of its own hop that a code, or a decoded sample,
    depends on: at most. A multiple of the largest hop."""
    hop = self.hops[-1]
    return -(-max(map(_reach, self._chains)) // hop) * hop


def _reach(chain):
  """Of blocks [(halvings of the rate, sum of a stack's dilations)]."""
  rate, total = 1, 1  # The decoder's last layer.
  for downs, dilated in chain:
    for _ in range(downs):
      rate *= 2
      total += rate * (1 + dilated)  # 1: the strided layer, of either way.
    total += rate
  return total


def largest_residuals(audio, target, count):
  """Mean of the `count` largest squared residuals of each row: [B]."""
  count = min(count, audio.shape[-1])
  # Left to itself the compiler ranks the whole batch on each device.
  return sharding.per_device(
      lambda square: jax.lax.top_k(square, count)[0].mean(-1),
      (audio - target) ** 2)


def _check(config):
  """One sentence for each setting that cannot work."""
  c = config.model
  for name in ('downs', 'widths', 'depths'):
    errors.require(
        len(c[name]) and min(c[name]) >= 1, f'model.{name}={tuple(c[name])}',
        'one number for each level, 1 or more')
  errors.at_least(c, dilation_growth=1, dilation_cycle=0)
  for name in ('widths', 'depths'):
    if len(c[name]) != len(c.downs):
      raise errors.UserError(
          f'model.{name}={tuple(c[name])} is for {len(c[name])} levels, '
          f'model.downs={tuple(c.downs)} for {len(c.downs)}; give one each')
  hop = 2 ** sum(c.downs)
  if c.samples < hop or c.samples % hop:
    fits = max(1, round(c.samples / hop)) * hop
    raise errors.UserError(
        f'model.samples={c.samples} is no multiple of the hop {hop} of '
        f'model.downs={tuple(c.downs)}; use {fits}')
  for name in ('warmup', 'clip', 'bandwidth_l2', 'bandwidth_spectral',
               'linf_count'):
    if c[name] <= 0:
      raise errors.UserError(f'model.{name}={c[name]} is not above 0')
  if not 0 <= c.ema_decay < 1:
    raise errors.UserError(f'model.ema_decay={c.ema_decay} is not in [0, 1)')
  size = 2 * Levels(config).reach() + hop
  if c.window < size or c.window % hop:
    raise errors.UserError(
        f'model.window={c.window} has to be a multiple of the hop {hop}, and '
        f'at least {size}: a code depends on that much of the sound')
  for n_fft, hop, win_length in c.resolutions:
    if c.samples <= n_fft // 2 or not 0 < hop <= win_length <= n_fft:
      raise errors.UserError(
          f'model.resolutions: ({n_fft}, {hop}, {win_length}) is '
          '(n_fft, hop, win_length); it needs hop <= win_length <= n_fft and '
          f'n_fft / 2 below model.samples={c.samples}')


def _averages(config):
  c = config.model
  return quantize.Averages(
      size=c.codebook_size, width=c.code_width, init=c.codebook_init,
      decay=c.decay, restart_below=c.restart_below)


def build(config) -> Model:
  _check(config)
  c = config.model
  levels, averages = Levels(config), _averages(config)
  spectral = c.spectral_weight > 0 and len(c.resolutions) > 0
  # From the first step on, which has a rate of 0: as the code has it.
  rate = lambda step: c.learning_rate * jnp.minimum(1.0, step / c.warmup)
  decay = c.ema_decay or max(1 - config.batch_size / 8000, 0.0)
  tx = optax.chain(optax.clip_by_global_norm(c.clip), optax.adam(rate))

  def init(key, batch):
    del batch  # The config has all the shapes.
    key, of_codes = jax.random.split(key)
    params = levels.init(key)
    codebooks = {
        name: averages.create(jax.random.fold_in(of_codes, l))
        for l, name in enumerate(levels.names)}
    return TrainState.create(params, tx.init(params), vars=codebooks,
                             ema=jax.tree.map(jnp.copy, params))

  def distances(audio, target):
    """Terms of the loss between two sounds, each [B]."""
    terms = {'l2': ((audio - target) ** 2).mean(-1) / c.bandwidth_l2}
    if c.linf_weight:
      terms['linf'] = largest_residuals(
          audio, target, c.linf_count) / c.bandwidth_l2
    if spectral:
      terms['spectral'] = sharding.per_device(
          lambda pair: multiscale.jukebox(
              pair[:, 0], pair[:, 1], c.resolutions),
          jnp.stack([audio, target], 1)) / c.bandwidth_spectral
    return terms

  def weigh(terms):
    return (terms['l2'] + c.linf_weight * terms.get('linf', 0.0)
            + c.spectral_weight * terms.get('spectral', 0.0))

  def train_step(state, batch, key, stage):
    del stage  # One stage only.
    audio = batch['audio']
    keys = dict(zip(levels.names, jax.random.split(key, levels.count),
                    strict=True))

    def loss_fn(params):
      vectors = levels.encode(params, audio)
      books = {k: averages.begin(
          state.vars[k], z, jax.random.fold_in(keys[k], 0), state.step)
          for k, z in vectors.items()}
      indices = {k: quantize.nearest(z, books[k].codes)
                 for k, z in vectors.items()}
      sounds = levels.decode(params, {
          k: quantize.straight_through(z, books[k].codes, indices[k])
          for k, z in vectors.items()})
      metrics, loss = {}, 0.0
      for name, sound in sounds.items():
        terms = distances(sound, audio)
        loss += weigh(terms).mean()
        metrics |= {f'{name}/{k}': v.mean() for k, v in terms.items()}
      for name, z in vectors.items():
        commit = quantize.commitment(
            z, books[name].codes, indices[name]).mean()
        loss += c.commit_weight * commit
        metrics[f'{name}/commit'] = commit
      return loss, (metrics, vectors, books, indices)

    (loss, (metrics, vectors, books, indices)), grads = jax.value_and_grad(
        loss_fn, has_aux=True)(state.params)
    updates, opt = tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = optax.incremental_update(params, state.ema, 1.0 - decay)
    learned = {}
    for name, z in vectors.items():
      learned[name], known = averages.update(
          books[name], z, indices[name], jax.random.fold_in(keys[name], 1),
          state.step)
      metrics |= {f'{name}/{k}': v for k, v in known.items()}
    return state.replace(params=params, opt=opt, ema=ema, vars=learned), {
        'loss': loss, **metrics, 'grad_norm': optax.tree.norm(grads)}

  def eval_step(state, batch, key):
    """Each level's sound: joint levels with those that are coarser."""
    del key
    audio, mask = batch['audio'], batch['mask']
    codes = encode(levels, state, audio)
    out = {}
    for group in levels.groups():
      name = group[-1]
      sound = decode(levels, state, {k: codes[k] for k in group})
      for k, v in distances(sound, audio).items():
        out[f'{name}/{k}'] = Mean.of(v, mask)
      out |= {f'{name}/{k}': v for k, v in distance.heard(
          sound, audio, mask).items()}
    return out

  @functools.partial(jax.jit, static_argnames='group')
  def clips(state, audio, group):
    codes = encode(levels, state, audio)
    return decode(levels, state, {k: codes[k] for k in group}).clip(-1.0, 1.0)

  def sample(state, batch, key):
    """Each row, followed by what its codes make of it, coarse levels first; of
    a prompt, one sound by the level it names."""
    del key
    if 'host_audio' in batch:
      group = levels.groups()[levels.count - 1 - batch['host_level']]
      return {'stream': reconstruct(config, state, batch['host_audio'],
                                    group)}
    sounds = [batch['audio'].clip(-1.0, 1.0)] + [
        clips(state, batch['audio'], group) for group in levels.groups()]
    return {'audio': jnp.concatenate(sounds, 1)}

  return Model(init=init, train_step=train_step, eval_step=eval_step,
               sample=sample)


# ---------------------------------------------------------------- codes


def encode(levels, state, audio, names=None):
  """Audio [B, N] -> {name: codes [B, T]}, by the averaged weights."""
  return {k: quantize.nearest(z, state.vars[k].codes)
          for k, z in levels.encode(state.ema, audio).items()
          if names is None or k in names}


def decode(levels, state, codes):
  """The codes of one of the groups -> audio [B, N]."""
  finest = min(codes)
  return levels.decode(state.ema, {
      k: state.vars[k].codes[v] for k, v in codes.items()})[finest]


def codec(config) -> Codec:
  levels, c = Levels(config), config.model
  return Codec(
      encode=lambda state, batch: encode(levels, state, batch['audio']),
      decode=lambda state, codes, batch: decode(levels, state, codes),
      shapes={name: (c.samples // hop,)
              for name, hop in zip(levels.names, levels.hops, strict=True)},
      sizes=dict.fromkeys(levels.names, c.codebook_size),
      groups=levels.groups())


def encode_long(config, state, audio, names=None):
  """Codes {name: [T]} of a sound [N] of any length; zeros fill the last hop."""
  levels = Levels(config)
  names = levels.names if names is None else names
  if not len(audio):
    raise errors.UserError('a sound without samples has no codes')
  # What is not asked for is not computed: the compiler drops it.
  of_window = jax.jit(functools.partial(encode, levels, names=names))
  return _windows(levels, config).encode(
      functools.partial(of_window, state), audio, names)


def decode_long(config, state, codes):
  """Blocks of audio [N] from codes {name: [T]} of any length, of one group."""
  levels = Levels(config)
  if set(codes) not in map(set, levels.groups()):
    raise errors.UserError(
        f'codes of {", ".join(codes) or "nothing"} make no sound; give those '
        f'of one of {levels.groups()}')
  for name, given in codes.items():
    if np.ndim(given) != 1 or not len(given):
      raise errors.UserError(f'{name}: codes of shape {np.shape(given)}, not '
                             'of one sound, [T]')
  codes = {k: quantize.check(k, v, config.model.codebook_size)
           for k, v in codes.items()}
  of_window = jax.jit(functools.partial(decode, levels))
  return _windows(levels, config).decode(
      functools.partial(of_window, state), codes)


def _windows(levels, config):
  return windows.Windows(
      hops=dict(zip(levels.names, levels.hops, strict=True)),
      reach=levels.reach(), size=config.model.window)


def reconstruct(config, state, audio, group):
  """Blocks of what the codes of a sound [N] make of it."""
  codes = encode_long(config, state, audio, group)
  left = len(audio)  # The last hop may be longer.
  for block in decode_long(config, state, codes):
    yield np.clip(block[:left], -1.0, 1.0)
    left -= len(block)


# ---------------------------------------------------------------- data


def preprocess(config):
  """A random window of a recording."""
  def fn(example, rng):
    return {'audio': _clip(config, example, chunks.window(
        example, config.model.samples, rng))}

  return fn


def segments(config):
  """Windows of a record that follow each other.

  What is left at its end is a window with what comes before, or, if it is less
  than half of one, left out; only a short record is filled up with zeros.

  Windows that are longer than the chunks of a recording (common/data/chunks.py)
  follow each other from chunk to chunk. Each is a row of the chunk in which it
  begins; some chunks have none. The last window of a recording reaches back as
  far as its chunk does; zeros fill up what is missing then.
  """
  size = config.model.samples
  longer = size > chunks.SECONDS * config.data.sample_rate

  def fn(example):
    audio, before = example['audio'], 0
    across = longer and 'following' in example
    if across:
      before = int(example['offset'])  # Samples, of the recording.
    starts = list(range(-before % size, max(len(audio), 1), size))
    if not starts:
      return []
    if across:
      audio = chunks.read_on(example, starts[-1] + size)
    left = len(audio) - starts[-1]
    if left < size and before + starts[-1] > 0:
      starts[-1:] = [max(0, len(audio) - size)] if 2 * left >= size else []
    return [{'audio': _clip(config, example, audio[s:s + size])}
            for s in starts]

  return fn


def _clip(config, example, audio):
  rate = config.data.sample_rate
  if example.get('sample_rate', rate) != rate:
    raise errors.UserError(
        f'data.name={config.data.name!r} is at {example["sample_rate"]} Hz; '
        f'prepare it at data.sample_rate={rate}, or set that')
  if audio.dtype == np.int16:
    audio = audio / np.float32(32768)
  return np.pad(audio.astype(np.float32),
                (0, config.model.samples - len(audio)))


def measure(config, clips) -> dict[str, float]:
  """The bandwidths that the losses are divided by, of training clips [N].

  The variance of the samples, and the mean norm of a clip's magnitudes, which
  grows with its length.
  """
  @jax.jit
  def norm(audio):
    return multiscale.frobenius(
        jnp.abs(stft.stft(audio, **multiscale.REPORTED)))

  total, square, count, norms = 0.0, 0.0, 0, []
  for audio in clips:
    x = np.asarray(audio, np.float64)
    total, square = total + x.sum(), square + (x**2).sum()
    count += x.size
    norms.append(float(norm(audio)))
  if not count or square == 0.0:
    raise errors.UserError('there are no clips to measure, or all are silent')
  return {'bandwidth_l2': square / count - (total / count) ** 2,
          'bandwidth_spectral': float(np.mean(norms))}


def prompt(config, count, *, audio: str = '', level: int = 0):
  """A sound through the codec, in windows: of any length.

  audio: the sound file to encode and decode.
  level: whose codes are decoded; 0 is the finest.
  """
  del count  # One sound.
  levels, rate = len(config.model.downs), config.data.sample_rate
  if not audio:
    raise errors.UserError(
        'a codec makes no sounds of its own; give --prompt=audio=FILE, or '
        '--from_eval to hear those of the evaluation split')
  if not 0 <= level < levels:
    raise errors.UserError(f'--prompt=level={level}: this codec has the levels '
                           f'0 to {levels - 1}')
  samples = audio_lib.read(audio, rate)
  hop = 2 ** sum(config.model.downs)
  if len(samples) < hop:
    raise errors.UserError(
        f'{audio} has {len(samples)} samples at {rate} Hz, fewer than one hop, '
        f'{hop}; give a longer sound')
  return {'host_audio': samples, 'host_level': level}


official = jukebox_weights.official  # The released weights, for common.convert.
