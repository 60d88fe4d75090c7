"""A Transformer, with or without an encoder, and the same token by token.

As tensor2tensor has it, which the Music Transformer was trained with: layer
norm before each part and once at the end, no biases in the projections, values
as wide as the residual stream whatever the width of the queries, input and
output tables apart and drawn with standard deviation 1 / sqrt(width), inputs
times sqrt(width). Sparse patterns, the other activation and smaller kernels of
outputs are those of Child et al. 2019. In training the layers are one
`nn.scan`: their parameters have a leading axis, and compile time does not grow
with depth. Token by token they are apart (`for_steps`), so that caches are
changed where they lie.

With `memory` each layer also looks at all of another sequence, as an `Encoder`
made it (Vaswani et al. 2017).

Shapes: B rows, L tokens, S places of the other sequence, V vocabulary, C width
of the residual stream.
"""

import functools
import math
import types
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.nn import attention
from common.nn.dropout import Dropout

NOTHING = -1  # As an input token: a zero vector.

_ACTIVATIONS = types.MappingProxyType({
    'relu': nn.relu, 'gelu': lambda x: x * nn.sigmoid(1.702 * x)})

# How a token's place enters its vector. T2T adds a sinusoid in the relative
# model too.
PLACES = ('sinusoid', 'learned', 'concatenated', 'none')


class Memory(NamedTuple):
  """A sequence of which all real places are seen.

  Attributes:
    x: [B, S, C]; or of one layer its keys and values, made before.
    mask: [B, S], 1 for a real place.
  """

  x: Any
  mask: jax.Array


class Mix(NamedTuple):
  """Other inputs, whose vectors are mixed into those of the inputs.

  Attributes:
    share: [B], how much of its own vector an input keeps.
    tokens, added: as the network's own.
  """

  share: jax.Array
  tokens: jax.Array
  added: tuple[jax.Array, ...] = ()


class Attention(nn.Module):
  """Multi-head attention; see common/nn/attention.py."""

  heads: int
  width: int  # Of all queries together.
  distances: int = 0  # That the table of relative positions has; 0: no table.
  differences: tuple[int, ...] = ()  # Rows of each relation's table.
  rotary: bool = False
  block: int = 0
  local: bool = False
  clip: bool = False
  sparse: attention.Sparse | None = None  # Then no tables, blocks or `local`.
  fused: bool = False  # The same, and no dropout of weights.
  output_scale: float = 1.0
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, values=(), cache=None, position=None, train=False,
               memory=None):
    """[B, L, C] -> [B, L, C]; with a cache L is 1, and the cache comes back.

    Causal, of x itself, unless there is a memory: then all of that is seen, and
    a table has distances both ways. `values` are those of the relations, [B, L]
    each.
    """
    features = x.shape[-1]
    table_init = nn.initializers.normal((self.width // self.heads)**-0.5)
    q = self._project('query', x, self.width)
    source = x if memory is None else memory.x
    if isinstance(source, tuple):
      k, v = source
    else:
      k = self._project('key', source, self.width)
      v = self._project('value', source, features)
    table = lambda name, rows: self.param(
        name, table_init, (self.heads, rows, q.shape[-1])).astype(self.dtype)
    rows = 2 * self.distances - 1 if memory else self.distances
    options = {'block': self.block, 'local': self.local, 'clip': self.clip,
               'table': table('distance', rows) if self.distances else None}
    tables = [table(f'difference_{i}', rows)
              for i, rows in enumerate(self.differences)]
    if self.rotary:
      at = jnp.arange(x.shape[1]) if cache is None else position[None]
      q, k = attention.rotate(q, at), attention.rotate(k, at)
    if memory:
      y = attention.across(q, k, v, memory.mask, table=options['table'],
                           block=self.block, key=self._key(train),
                           dropout=self.dropout)
    elif cache is None and self.sparse:
      y = attention.sparse_causal(q, k, v, self.sparse, key=self._key(train),
                                  dropout=self.dropout)
    elif cache is None and self.fused:
      y = attention.fused(q, k, v)
    elif cache is None:
      relations = [attention.Relation(*r)
                   for r in zip(tables, values, strict=True)]
      y = attention.causal(q, k, v, relations=relations, key=self._key(train),
                           dropout=self.dropout, **options)
    else:
      relations = [attention.Relation(t, r[:, 0])
                   for t, r in zip(tables, values, strict=True)]
      y, cache = attention.step(cache, q[:, 0], k[:, 0], v[:, 0], position,
                                relations=relations, sparse=self.sparse,
                                **options)
    y = y.reshape(*x.shape[:2], features)
    return _dense(features, 'output', self.dtype,
                  scale=self.output_scale)(y), cache

  def _key(self, train):
    return self.make_rng('dropout') if train and self.dropout else None

  def _project(self, name, x, width):
    y = _dense(width, name, self.dtype)(x)
    return y.reshape(*x.shape[:2], self.heads, -1)


class Layer(nn.Module):
  """x + attention(norm(x)), then x + feed_forward(norm(x)).

  Between them, with a memory, x + across(norm(x), memory). In an encoder x is
  the memory of its own attention.
  """

  attention: dict[str, Any]
  feed_forward: int
  encodes: bool = False
  activation: str = 'relu'  # Or 'gelu'.
  output_scale: float = 1.0  # Of the kernels that write to the stream.
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, values=(), cache=None, position=None, train=False,
               memory=None):
    drop = functools.partial(Dropout(self.dropout), train=train)
    attend = functools.partial(Attention, output_scale=self.output_scale,
                               dropout=self.dropout, dtype=self.dtype)
    y = _norm('norm_attention', self.dtype)(x)
    own = Memory(y, memory.mask) if self.encodes else None
    y, cache = attend(**self.attention, name='attention')(
        y, values, cache, position, train, own)
    x += drop(y)
    if memory and not self.encodes:
      y = _norm('norm_across', self.dtype)(x)
      kind = {k: self.attention[k] for k in ('heads', 'width', 'block')}
      y, _ = attend(**kind, name='across')(y, train=train, memory=memory)
      x += drop(y)
    y = _norm('norm_feed_forward', self.dtype)(x)
    y = _ACTIVATIONS[self.activation](
        _dense(self.feed_forward, 'inner', self.dtype, bias=True)(y))
    y = _dense(x.shape[-1], 'outer', self.dtype, bias=True,
               scale=self.output_scale)(drop(y))
    return x + drop(y), cache


class Round(nn.Module):
  """Layers that differ in their attention, one after the other."""

  attentions: tuple[dict[str, Any], ...]
  layer: Any  # `Layer` but for its attention.

  @nn.compact
  def __call__(self, x, train=False, memory=None):
    for n, kind in enumerate(self.attentions):
      x, _ = self.layer(attention=kind, name=f'turn_{n}')(
          x, train=train, memory=memory)
    return x, None


class _Network(nn.Module):
  """What the networks below share."""

  def _vectors(self, name, ids, count, width):
    """sqrt(C) times rows of a table; as a matmul, so that gradients repeat."""
    table = self.param(name, nn.initializers.normal(self.width**-0.5),
                       (count, width))
    one_hot = jax.nn.one_hot(ids, count, dtype=self.dtype)
    return one_hot @ table.astype(self.dtype) * math.sqrt(self.width)

  def _scan(self, part, x, times, train, memory):
    """A part again and again, each time with parameters of its own."""
    one = lambda part, x: part(x, train=train, memory=memory)
    if self.remat:
      one = nn.remat(one, prevent_cse=False)
    return nn.scan(one, variable_axes={'params': 0},
                   split_rngs={'params': True, 'dropout': True},
                   length=times)(part, x)[0]


class Encoder(_Network):
  """A sequence as the `Memory` of a `Transformer`.

  Each place sees all that are real; relative positions count both ways.
  """

  vocab: int
  width: int  # C
  layers: int
  heads: int
  attention_width: int
  feed_forward: int
  distances: int = 0
  block: int = 0
  dropout: float = 0.0
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens, mask, train=False):  # [B, S] each.
    x = self._vectors('tokens', tokens, self.vocab, self.width)
    at = jnp.arange(tokens.shape[1])
    x += sinusoid(at, self.width)[None].astype(self.dtype)
    x = Dropout(self.dropout)(x, train)
    layer = Layer(
        attention={'heads': self.heads, 'width': self.attention_width,
                   'distances': self.distances, 'block': self.block},
        feed_forward=self.feed_forward, encodes=True, dropout=self.dropout,
        dtype=self.dtype, name='layers')
    x = self._scan(layer, x, self.layers, train, Memory(None, mask))
    return Memory(_norm('norm', self.dtype)(x), mask)


class Transformer(_Network):
  """Logits of the next token after each input token."""

  vocab: int
  width: int  # C
  layers: int
  heads: int
  attention_width: int
  feed_forward: int
  place: str = 'sinusoid'  # One of PLACES.
  learned: int = 0  # Places that have a vector, if they are learned.
  voices: int = 0  # > 0: which voice comes next is concatenated as well.
  distances: int = 0  # The rest as `Attention` has it.
  differences: tuple[int, ...] = ()  # In the first layer only.
  rotary: bool = False
  block: int = 0
  local: bool = False
  clip: bool = False
  sparse: tuple[attention.Sparse, ...] = ()  # Layers take turns.
  fused: bool = False
  added: tuple[int, ...] = ()  # Sizes of further tables of vectors of inputs.
  activation: str = 'relu'
  output_scale: float = 1.0
  dropout: float = 0.0
  remat: bool = False  # Keep a layer's input only, and compute it twice.
  stacked: bool = True  # One scan of all layers.
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens, values=(), caches=None, position=None,
               added=(), mix=None, train=False, memory=None):
    """[B, L] -> logits [B, L, V] in float32, and the caches if there are any.

    Args:
      tokens: inputs, NOTHING for a zero vector.
      values: what the relations compare, [B, L] int32 each.
      caches: `empty_caches`, for one token at a time; L is 1, and the layers
        are not stacked.
      position: scalar, the place of that token.
      added: rows of the tables in `added`, [B, L] int32 each, NOTHING for a
        zero vector.
      mix: `Mix` or None.
      train: with dropout, of the 'dropout' rng.
      memory: `Memory` that each layer looks at; with caches, what `memories`
        made of it.
    """
    if (self.sparse or self.fused) and (
        self.distances or self.differences or self.local):
      raise ValueError('sparse or fused attention has no tables of distances '
                       'or differences and is not local; use learned or rotary '
                       'places')
    if self.layers % max(1, len(self.sparse)):
      raise ValueError(f'layers={self.layers} are no whole number of turns of '
                       f'{len(self.sparse)} patterns')
    at = jnp.arange(tokens.shape[1]) if caches is None else position[None]
    if mix is not None:  # Beside the others, and apart again as vectors.
      at = jnp.tile(at, 2)
      tokens, *added = (jnp.concatenate(both, 1) for both in zip(
          (tokens, *added), (mix.tokens, *mix.added), strict=True))
    x = self._embed(tokens, at)
    for n, (ids, count) in enumerate(zip(added, self.added, strict=True)):
      x += self._vectors(f'added_{n}', ids, count, self.width)
    if mix is not None:
      share = mix.share[:, None, None].astype(x.dtype)
      own, other = jnp.split(x, 2, axis=1)
      x = share * own + (1 - share) * other
    x = Dropout(self.dropout)(x, train)
    layer = functools.partial(
        Layer, feed_forward=self.feed_forward, activation=self.activation,
        output_scale=self.output_scale, dropout=self.dropout, dtype=self.dtype)
    options = {'heads': self.heads, 'width': self.attention_width,
               'distances': self.distances, 'rotary': self.rotary,
               'block': self.block, 'local': self.local, 'clip': self.clip,
               'fused': self.fused}
    turns = [options | {'sparse': sparse} for sparse in self.sparse or (None,)]
    kinds = [turns[n % len(turns)]
             | ({'differences': self.differences} if not n else {})
             for n in range(self.layers)]
    if self.stacked:
      if self.differences:
        x, _ = layer(attention=kinds.pop(0), name='first')(
            x, values, train=train, memory=memory)
      part = (layer(attention=turns[0], name='layers') if len(turns) == 1 else
              Round(tuple(turns), layer, name='layers'))
      if kinds:
        x = self._scan(part, x, len(kinds) // len(turns), train, memory)
    else:
      out, memory = [], memory or (None,) * self.layers
      for n, (kind, cache) in enumerate(zip(kinds, caches, strict=True)):
        x, cache = layer(attention=kind, name=f'layer_{n}')(
            x, values if not n else (), cache, position, memory=memory[n])
        out.append(cache)
      caches = tuple(out)
    x = _norm('norm', jnp.float32)(x)
    table = self.param('logits', nn.initializers.normal(self.width**-0.5),
                       (self.vocab, self.width))
    logits = jnp.einsum('blc,vc->blv', x.astype(self.dtype),
                        table.astype(self.dtype),
                        preferred_element_type=jnp.float32)
    return logits, caches

  def for_steps(self, params):
    """The same network with its layers apart, and its parameters."""
    params = dict(params)
    stack = params.pop('layers', None)  # None where the first is all.
    layers = [params.pop('first')] if self.differences else []
    turns = max(1, len(self.sparse))
    for n in range(self.layers - len(layers)):
      layers.append(jax.tree.map(
          lambda x, n=n: x[n // turns],
          stack[f'turn_{n % turns}'] if turns > 1 else stack))
    return self.clone(stacked=False), params | {
        f'layer_{n}': layer for n, layer in enumerate(layers)}

  def empty_caches(self, rows: int, size: int):
    """One for each layer, of `size` tokens."""
    return tuple(attention.Cache.empty(
        rows, size, self.heads, self.attention_width // self.heads,
        self.width // self.heads, 0 if n else len(self.differences),
        self.dtype) for n in range(self.layers))

  def memories(self, params, memory):
    """Of each layer, for many steps; `params` as of `for_steps`."""

    def of(layer, name):
      y = memory.x @ layer['across'][name]['kernel'].astype(self.dtype)
      return y.reshape(*y.shape[:2], self.heads, -1)

    layers = (params[f'layer_{n}'] for n in range(self.layers))
    return tuple(Memory((of(x, 'key'), of(x, 'value')), memory.mask)
                 for x in layers)

  def _embed(self, tokens, at):
    """Of the width, half is the token's if places are concatenated."""
    parts = {'token': self.width}
    if self.place == 'concatenated':
      quarter = self.width // 4
      parts = {'token': 2 * quarter, 'place': 2 * quarter}
      if self.voices:
        parts |= {'place': quarter, 'voice': quarter}
    x = self._vectors('tokens', tokens, self.vocab, parts['token'])
    if self.place == 'sinusoid':
      return x + sinusoid(at, self.width)[None].astype(self.dtype)
    if self.place == 'learned':
      return x + self._vectors('places', at, self.learned, self.width)[None]
    if self.place == 'concatenated':
      rows = lambda y: jnp.broadcast_to(y[None], (*tokens.shape, y.shape[-1]))
      x = [x, rows(sinusoid(at, parts['place']).astype(self.dtype))]
      if self.voices:
        x.append(rows(self._vectors(
            'voices', at % self.voices, self.voices, parts['voice'])))
      return jnp.concatenate(x, -1)
    return x


def sinusoid(positions, width: int):
  """[L] -> [L, width]: all sines, then all cosines.

  Their rates go from 1 down to 1 / 10,000 radians a place.
  """
  half = width // 2
  rates = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / max(half - 1, 1))
  angle = positions.astype(jnp.float32)[:, None] * rates[None]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], 1)


def _dense(features, name, dtype, bias=False, scale=1.0):
  return nn.Dense(features, use_bias=bias, dtype=dtype, name=name,
                  kernel_init=nn.initializers.variance_scaling(
                      scale**2, 'fan_avg', 'uniform'))  # Glorot's, at scale 1.


def _norm(name, dtype):
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)
