"""PixelSNAIL (Chen et al. 2018) over maps of codes, all at once and one by one.

Causal convolutions and attention, in the order in which codes are drawn: frame
by frame, from the lowest frequency up. With a `Position` and a flax collection
'cache' the same network takes one code at a time.

  * The PyTorch port that most people use has plain ELU; PixelSNAIL
    concatenates ELU(x) and ELU(-x) (`activation`).
  * The port's convolutions leave out the position itself, which is shifted
    already and so may be seen: here it is.

Shapes: B batch, T time frames, F frequencies, K codes, C channels, P = T F
positions in the order in which they are drawn, H heads, D width of a head.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common.nn.dropout import Dropout
from vqvae_jax import spectrogram_nets

ACTIVATIONS = ('concat_elu', 'elu')
_LOWEST = float(jnp.finfo(jnp.float32).min)


class Position(NamedTuple):
  """Where a network goes on that has a cache: one code at a time."""

  number: jax.Array  # Of the code that is predicted, 0 to P - 1.
  shape: tuple[int, int]  # (T, F) of the map.

  def place(self, before: int = 0):  # (t, f)
    return jnp.divmod(self.number - before, self.shape[1])


class Conv(nn.Module):
  """A convolution with weight normalisation, initialised as torch does.

  kind: what an output sees. 'all': its neighbours on all sides. 'causal': those
  before it, and itself. 'above': only frames before its own. 'left': lower
  frequencies of its own frame, and of the frames before as far as the kernel
  goes.
  """

  features: int
  kernel: tuple[int, int] = (1, 1)
  kind: str = 'all'
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, at: Position | None = None):
    """[B, T, F, C] -> [B, T, F, features]; at a position, [B, 1, 1, ...].

    There x is the input at that position; for 'above' and 'left' the one
    before it, since they do not see the position itself.
    """
    height, width = self.kernel
    fan_in = height * width * x.shape[-1]
    kernel_init, bias_init = spectrogram_nets.initializers('torch', fan_in)
    w = self.param('kernel', kernel_init, (
        *self.kernel, x.shape[-1], self.features), jnp.float32)
    if self.kind == 'causal':
      seen = np.ones(self.kernel, np.float32)
      seen[-1, width // 2 + 1:] = 0.0
      w *= seen[..., None, None]
    norm = jnp.sqrt((w**2).sum((0, 1, 2)))
    scale = self.param('scale', lambda _: norm)
    w = (w * (scale / norm).reshape(1, 1, 1, -1)).astype(self.dtype)
    x = x.astype(self.dtype)
    if self.kernel == (1, 1):
      y = x @ w[0, 0]
    else:
      x = self._padded(x) if at is None else self._window(x, at)
      y = lax.conv_general_dilated(
          x, w, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    if self.use_bias:
      bias = self.param('bias', bias_init, (self.features,), jnp.float32)
      y += bias.astype(self.dtype).reshape(1, 1, 1, -1)
    return y

  def _margins(self):
    """Zeros around a map: ((above, below), (left, right)); -1: one less."""
    height, width = self.kernel
    return {'all': ((height // 2, height // 2), (width // 2, width // 2)),
            'causal': ((height - 1, 0), (width // 2, width // 2)),
            'above': ((height, -1), (width // 2, width // 2)),
            'left': ((height - 1, 0), (width, -1))}[self.kind]

  def _padded(self, x):
    margins = ((0, 0), *self._margins(), (0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), [(*m, 0) for m in margins])

  def _window(self, x, at):
    """What the kernel sees at a position, of all inputs up to it."""
    (above, _), (left, right) = self._margins()
    (frames, bins), (batch, _, _, channels) = at.shape, x.shape
    seen = self.variable('cache', 'seen', jnp.zeros, (
        batch, frames + above, bins + left + max(right, 0), channels), x.dtype)
    t, f = at.place(before=int(self.kind != 'causal'))
    seen.value = lax.dynamic_update_slice(
        seen.value, x, (0, t + above, f + left, 0))
    return lax.dynamic_slice(
        seen.value, (0, *at.place(), 0), (batch, *self.kernel, channels))


class Gated(nn.Module):
  """x + a sigmoid(b), where a and b are two convolutions of x."""

  width: int  # Of its inside.
  kernel: tuple[int, int] = (1, 1)
  kind: str = 'all'
  activation: str = 'concat_elu'
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train, at=None, beside=None, condition=None):
    conv = functools.partial(Conv, dtype=self.dtype)
    inside = functools.partial(conv, kernel=self.kernel, kind=self.kind)
    activate = functools.partial(elu, kind=self.activation)
    h = inside(self.width, name='conv0')(activate(x), at)
    if beside is not None:
      h += conv(self.width, name='beside')(activate(beside))
    h = Dropout(self.dropout)(activate(h), train)
    h = inside(2 * x.shape[-1], name='conv1')(h, at)
    if condition is not None:
      h += conv(2 * x.shape[-1], use_bias=False, name='condition')(condition)
    a, b = jnp.split(h, 2, -1)
    return x + a * nn.sigmoid(b)


def elu(x, kind):
  return nn.elu(jnp.concatenate([x, -x], -1) if kind == 'concat_elu' else x)


class Attention(nn.Module):
  """Each position looks at all before it; the first one sees nothing."""

  width: int
  heads: int
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, query, key, *, train, at=None):
    def heads(x, name):  # [B, T, F, C] -> [B, P, H, D]
      x = Conv(self.width, dtype=self.dtype, name=name)(x)
      return x.reshape(x.shape[0], -1, self.heads, self.width // self.heads)

    q, k, v = heads(query, 'query'), heads(key, 'key'), heads(key, 'value')
    if at is None:
      number = jnp.arange(q.shape[1])
    else:
      number = at.number[None]
      k, v = self._cached('key', k, at), self._cached('value', v, at)
    # The key at a position knows all codes before it, so the position itself
    # could be seen; PixelSNAIL leaves it out.
    before = jnp.arange(k.shape[1])[None] < number[:, None]  # [Q, P]
    score = jnp.einsum('bqhd,bkhd->bhqk', q, k,
                       preferred_element_type=jnp.float32)
    score = jnp.where(before[None, None], score / math.sqrt(q.shape[-1]),
                      _LOWEST)
    share = nn.softmax(score) * (number > 0)[None, None, :, None]
    share = Dropout(self.dropout)(share, train)
    out = jnp.einsum('bhqk,bkhd->bqhd', share.astype(self.dtype), v)
    return out.reshape(*query.shape[:3], self.width)

  def _cached(self, name, x, at):
    rows = math.prod(at.shape)
    cache = self.variable('cache', f'{name}s', jnp.zeros, (
        x.shape[0], rows, *x.shape[2:]), x.dtype)
    cache.value = lax.dynamic_update_slice(
        cache.value, x, (0, at.number, 0, 0))
    return cache.value


class Block(nn.Module):
  """Residual blocks, then attention (or none, as in the bottom prior)."""

  layers: int
  width: int
  kernel: int
  attention: bool
  heads: int
  activation: str
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, place, condition, *, train, at):
    gated = functools.partial(
        Gated, activation=self.activation, dropout=self.dropout,
        dtype=self.dtype)
    channels, h = x.shape[-1], x
    for i in range(self.layers):
      h = gated(self.width, (self.kernel,) * 2, 'causal', name=f'layer_{i}')(
          h, train=train, at=at, condition=condition)
    if not self.attention:
      return Conv(channels, dtype=self.dtype, name='out')(
          jnp.concatenate([h, place], -1))
    key = gated(channels, name='key')(
        jnp.concatenate([x, h, place], -1), train=train)
    query = gated(channels, name='query')(
        jnp.concatenate([h, place], -1), train=train)
    seen = Attention(channels // 2, self.heads, self.dropout, self.dtype,
                     name='attention')(query, key, train=train, at=at)
    return gated(channels, name='out')(h, train=train, beside=seen)


class PixelSNAIL(nn.Module):
  """Logits of each code given the codes before it and a condition."""

  shape: tuple[int, int]  # (T, F)
  size: int  # K
  channels: int
  kernel: int
  blocks: int
  layers: int  # Residual ones of a block.
  width: int  # Of their inside.
  attention: bool
  heads: int
  output_layers: int
  activation: str
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, codes, condition=None, *, train=False, at=None):
    """codes [B, T, F], condition [B, T, F, C] or [B, 1, 1, C].

    Returns float32 logits [B, T, F, K]. At a position, which is to be counted
    up from 0: codes [B, 1, 1], the one before it, and logits [B, 1, 1, K].
    """
    codes = jax.nn.one_hot(codes, self.size, dtype=self.dtype)
    conv = functools.partial(Conv, self.channels, dtype=self.dtype)
    half = self.kernel // 2
    x = (conv((half, self.kernel), 'above', name='above')(codes, at)
         + conv((half + 1, half), 'left', name='left')(codes, at))
    t, f = (jnp.arange(n, dtype=jnp.float32) / n - 0.5 for n in self.shape)
    place = jnp.stack(jnp.meshgrid(t, f, indexing='ij'), -1)[None]
    if at is not None:
      place = _slice(place, at)
      if condition is not None and condition.shape[1:3] != (1, 1):
        condition = _slice(condition, at)
    place = jnp.broadcast_to(place, (*x.shape[:3], 2)).astype(self.dtype)
    for i in range(self.blocks):
      x = Block(self.layers, self.width, self.kernel, self.attention,
                self.heads, self.activation, self.dropout, self.dtype,
                name=f'block_{i}')(x, place, condition, train=train, at=at)
    for i in range(self.output_layers):
      x = Gated(self.width, activation=self.activation, dropout=self.dropout,
                dtype=self.dtype, name=f'output_{i}')(x, train=train)
    x = elu(x.astype(jnp.float32), self.activation)
    return Conv(self.size, name='logits')(x)


def _slice(x, at):  # [B, T, F, C] -> [B, 1, 1, C]
  return lax.dynamic_slice(x, (0, *at.place(), 0),
                           (x.shape[0], 1, 1, x.shape[-1]))


class Condition(nn.Module):
  """What all positions are told: the codes above them, and classes."""

  channels: int
  kernel: int
  layers: int
  size: int  # Of the codebook above; 0: there is none.
  scale: tuple[int, int]  # (T, F) of this map over those of the one above.
  classes: Mapping[str, int]
  activation: str
  dropout: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, upper, labels, *, train=False):
    """[B, T', F'] and {name: [B]} -> [B, T, F, C], or [B, 1, 1, C]."""
    total = None
    if self.size:
      kernel = (self.kernel,) * 2
      x = jax.nn.one_hot(upper, self.size, dtype=self.dtype)
      x = Conv(self.channels, kernel, dtype=self.dtype, name='codes')(x)
      for i in range(self.layers):
        x = Gated(self.channels, kernel, activation=self.activation,
                  dropout=self.dropout, dtype=self.dtype, name=f'layer_{i}')(
                      x, train=train)
      total = jnp.repeat(jnp.repeat(x, self.scale[0], 1), self.scale[1], 2)
    for name, count in self.classes.items():
      x = jax.nn.one_hot(labels[name], count, dtype=self.dtype)
      x = nn.Dense(self.channels, use_bias=False, dtype=self.dtype, name=name,
                   kernel_init=nn.initializers.normal(1.0))(x)
      x = x[:, None, None]
      total = x if total is None else total + x
    return total
