"""Where the released checkpoint of Jukebox's VQ-VAE has each of our arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from common import errors


def official(config):
  """As `common.convert` asks for it.

  The released weights are the averaged ones; of the codebooks there are the
  codes only.
  """
  c = config.model
  if not c.separate:
    raise errors.UserError('model.separate=False has no released weights; '
                           'leave it True')
  names = {}

  def put(ours, theirs, transposed=False):
    for tree in ('params', 'ema'):
      names[f'{tree}/{ours}/kernel'] = (
          f'{theirs}.weight', _flipped if transposed else _kernel)
      names[f'{tree}/{ours}/bias'] = f'{theirs}.bias'

  for l in range(len(c.downs)):
    for b, downs in enumerate(c.downs[:l + 1]):
      down, up = f'encoders.{l}.level_blocks.{b}', (
          f'decoders.{l}.level_blocks.{b}')
      encoder, decoder = f'level{l}/encoder', f'level{l}/decoder'
      for i in range(downs):
        put(f'{encoder}/down_{b}_{i}', f'{down}.model.{i}.0')
        put(f'{decoder}/up_{b}_{i}', f'{up}.model.{i + 1}.1', True)
        for d in range(c.depths[l]):
          for ours, theirs in ('Conv_0', 1), ('Conv_1', 3):
            put(f'{encoder}/stack_{b}_{i}/unit_{d}/{ours}',
                f'{down}.model.{i}.1.model.{d}.model.{theirs}')
            put(f'{decoder}/stack_{b}_{i}/unit_{d}/{ours}',
                f'{up}.model.{i + 1}.0.model.{d}.model.{theirs}')
      put(f'{encoder}/out_{b}', f'{down}.model.{downs}')
      put(f'{decoder}/in_{b}', f'{up}.model.0')
    put(f'level{l}/decoder/audio', f'decoders.{l}.out')
    # As released for training on: each code as if it had its share of a clip.
    codes = f'bottleneck.level_blocks.{l}.k'
    share = c.samples // 2 ** sum(c.downs[:l + 1]) / c.codebook_size
    names[f'vars/level{l}/codes'] = codes
    names[f'vars/level{l}/sums'] = codes, functools.partial(_times, share)
    names[f'vars/level{l}/counts'] = codes, functools.partial(
        _filled, share)
  return names, {
      'audio': jax.ShapeDtypeStruct((config.batch_size, c.samples),
                                    jnp.float32),
      'mask': jax.ShapeDtypeStruct((config.batch_size,), jnp.float32)}


def _times(share, codes):
  return share * codes


def _filled(share, codes):
  return np.full(len(codes), share, np.float32)


def _kernel(weight):  # Outputs, inputs, K -> K, inputs, outputs.
  return weight.transpose(2, 1, 0)


def _flipped(weight):  # Inputs, outputs, K -> K, inputs, outputs.
  return weight.transpose(2, 0, 1)
