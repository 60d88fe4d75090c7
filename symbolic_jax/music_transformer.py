"""Music Transformer (Huang et al. 2018), decoder-only.

The network is that of tensor2tensor, with which it was trained
(common/nn/transformer.py), its relative self-attention by skewing
(common/nn/attention.py). Every row of the paper's tables is a setting of
`config.model`:

  distances          rows of the table of relative positions, 0: none; the last
                     is the token itself. Keys further back have no relative
                     term, or with `clip` the oldest's.
  local, block       attention to a block of so many tokens and the one before
                     it. Without `local` a block only bounds memory.
  place              sinusoids added to the token's vector, or 'concatenated'
                     (and with `voice` the voice as well), or 'learned', 'none'.
  pitch_and_time     the first layer also compares pitches and steps.
  rotary             rotary positions, which came later.
  fused              attention by the device's own kernel, which has no tables,
                     and no dropout of its weights; a GPU's is for bfloat16.

What the paper leaves open is ours, and said where it is decided.
"""

import jax.numpy as jnp
import optax

from common import errors, optim
from common.nn import transformer
from symbolic_jax import chorales, language_model, pieces
from symbolic_jax.language_model import music, preprocess, prompt, segments

__all__ = ['build', 'music', 'preprocess', 'prompt', 'segments']

SILENT = -1000  # As a pitch, of rests: further from any than the table reaches.


def build(config):
  m = config.model
  _check(m)
  language_model.check_decay(config)
  net = transformer.Transformer(
      vocab=pieces.make(config).vocab, width=m.width, layers=m.layers,
      heads=m.heads, attention_width=m.attention_width,
      feed_forward=m.feed_forward, place=m.place,
      learned=max(m.length, m.eval_length),
      voices=chorales.VOICES if m.voice else 0, distances=m.distances,
      differences=_differences(m.length) if m.pitch_and_time else (),
      rotary=m.rotary, block=m.block, local=m.local, clip=m.clip,
      fused=m.get('fused', False), dropout=m.dropout, remat=m.remat,
      dtype=jnp.dtype(config.dtype))

  def values(inputs, at):
    """[B, L] pitch and step of each input token, which is that before `at`."""
    if not m.pitch_and_time:
      return ()
    pitch = jnp.where(inputs >= chorales.FIRST, inputs, SILENT)
    step = (at - 1) // chorales.VOICES
    return pitch, jnp.broadcast_to(step[None], inputs.shape)

  def init(key, inputs):
    at = jnp.arange(inputs.shape[1])
    return net.init(key, inputs, values(inputs, at))['params']

  def logits(params, inputs, key):
    at = jnp.arange(inputs.shape[1])
    return net.apply({'params': params}, inputs, values(inputs, at),
                     train=key is not None,
                     rngs=None if key is None else {'dropout': key})[0]

  def sampler(params, rows, tokens, batch):
    del batch  # No conditions.
    single, params = net.for_steps(params)

    def step(carry, inputs):
      caches, position = carry
      inputs = inputs[:, None]
      out, caches = single.apply(
          {'params': params}, inputs, values(inputs, position[None]), caches,
          position)
      return (caches, position + 1), out[:, 0]

    # Without places a longer piece is seen through a window that moves.
    caches = net.empty_caches(rows, min(tokens, m.length))
    return (caches, jnp.int32(0)), step

  # Adam as tensor2tensor sets it; no clipping, no label smoothing.
  rate = optim.inverse_root(m.learning_rate, m.width, m.warmup, m.decay)
  tx = optax.adam(rate, b1=0.9, b2=0.997, eps=1e-9)
  window = 0 if m.place == 'none' else m.length
  return language_model.build(config, language_model.Network(
      init, logits, sampler, window=window), tx)


def _differences(length):
  """Sizes of the first layer's tables; the paper has none.

  Of pitch: any two of a chorale, both ways. Of time: the sixteenths of a crop,
  both ways; the half of what would be ahead is never used.
  """
  pitches, steps = chorales.HIGH - chorales.LOW, length // chorales.VOICES
  return 2 * pitches + 1, 2 * steps + 1


def _check(m):
  errors.at_least(m, layers=1, heads=1, width=1, attention_width=1,
                  feed_forward=1, distances=0, block=0, warmup=1)
  errors.require(m.place in transformer.PLACES, f'model.place={m.place!r}',
                 f'one of {", ".join(map(repr, transformer.PLACES))}')
  errors.require(m.decay == 0 or m.decay > m.warmup, f'model.decay={m.decay}',
                 f'0 (never), or more than model.warmup={m.warmup}')
  for name in ('attention_width', 'width'):
    errors.require(m[name] % m.heads == 0, f'model.{name}={m[name]}',
                   f'a multiple of model.heads={m.heads}')
  errors.require(not m.rotary or m.attention_width // m.heads % 2 == 0,
                 f'model.rotary with model.attention_width={m.attention_width}',
                 f'an even number for each of model.heads={m.heads}')
  errors.require(m.place != 'sinusoid' or m.width % 2 == 0,
                 f'model.width={m.width}', 'an even number')
  parts = 8 if m.voice else 4  # Of which each sinusoid has an even number.
  errors.require(m.place != 'concatenated' or m.width % parts == 0,
                 f"model.place='concatenated' with model.width={m.width}",
                 f'a multiple of {parts}')
  errors.require(not m.local or m.block > 0,
                 f'model.local with model.block={m.block}',
                 "model.block=512, the paper's")
  errors.require(
      not (m.voice or m.pitch_and_time) or m.tokens == 'chorales',
      f'model.tokens={m.tokens!r} with model.voice or model.pitch_and_time',
      'these for chorales only')
  fused = m.get('fused', False)  # Runs of old have none.
  errors.require(
      not fused or not (m.distances or m.pitch_and_time or m.local),
      'model.fused with model.distances, model.pitch_and_time or model.local',
      'one or the other: that kernel has no tables')
  errors.require(not fused or m.attention_width == m.width,
                 f'model.fused with model.attention_width={m.attention_width}',
                 f'model.width={m.width}')
  errors.require(not m.voice or m.place == 'concatenated',
                 f'model.voice with model.place={m.place!r}',
                 "model.place='concatenated'")
