"""Causal self-attention with relative positions, in blocks, and its cache.

A query sees keys up to its own place; all of them only in `across`. How far a
key lies behind may enter the logits in three ways, alone or together:

  table    learned vectors, one a distance (Shaw et al. 2018 by the skewing of
           Huang et al. 2018): q_i . table[M - 1 - (i - j)], so that the last
           row is the token itself. Beyond M distances: nothing, or the first
           row again (`clip`).
  relations  learned vectors for a difference of values that tokens carry, such
           as pitch or time: q_i . table[R // 2 + value_j - value_i].
  rotate   turns queries and keys by their place (Su et al. 2021).

With `block` queries are taken in blocks, and without it all are one block. Its
logits are computed again for the gradient: what is alive is [B, H, block, L],
and never anything of size L x L x D. A block is given only the keys that it may
see, which with many blocks halves the work. With `local`, these are its own
block and the one before it. With a `Sparse` pattern (Child et al. 2019) a query
sees at most S near keys and L / S far ones, or so many times `columns`, and no
more than twice as many logits exist: with S = sqrt(L) and one column these are
about 2 sqrt(L) keys.

Shapes: B rows, L tokens, H heads, D width of a head's queries and keys, E of
its values, M distances, R differences, W places of a cache, S the stride of a
sparse pattern, N its blocks of S, K keys that a block may see.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp

from common.nn.dropout import drop

NEVER = -1e9  # A logit that is not attended to.


class Relation(NamedTuple):
  table: jax.Array  # [H, R, D]
  values: jax.Array  # [B, L] int32, those of the keys.


class Sparse(NamedTuple):
  """Which keys up to its own a query sees: some near ones, and some far ones.

  strided  near: the last S, itself among them; far: itself and every S-th
           before. For what is regular.
  fixed    near: its block of S; far: `columns` places of every block, for the
           first head the last ones, for the next head those before, and so on
           from the end again. For text and music.
  """

  kind: str  # 'strided' or 'fixed'.
  stride: int  # S
  columns: int = 1  # Divides S; of 'fixed' only.
  # 'near', 'far', 'both' at once, or 'heads': near for the first half of the
  # heads, far for the others.
  part: str = 'both'

  def sees(self, query, key, head):
    """Whether it is near, and whether it is far: arrays of places, of heads."""
    if self.kind == 'strided':
      near = query - key < self.stride
      far = (query - key) % self.stride == 0
    else:
      near = query // self.stride == key // self.stride
      from_end = self.stride - 1 - key % self.stride
      far = from_end // self.columns == self._columns_of(head)
    there = (key >= 0) & (key <= query)
    return near & there, far & there

  def _columns_of(self, head):
    return head % (self.stride // self.columns)


def skew(x):
  """[..., N, K] -> the same: out[i, j] = x[i, j + N - 1 - i].

  Columns by distance become columns by key, without a gather: pad a column,
  and read the same numbers in rows of another length. Where j + N - 1 - i is
  beyond K, for keys that come after the query, there is something else.
  """
  *lead, n, k = x.shape
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 0)])
  return x.reshape(*lead, -1)[..., n:].reshape(*lead, n, k)


def causal(q, k, v, *, table=None, relations: Sequence[Relation] = (),
           block: int = 0, local: bool = False, clip: bool = False,
           key=None, dropout: float = 0.0):
  """Each query over the keys up to its own.

  Args:
    q, k: [B, L, H, D]; not scaled yet.
    v: [B, L, H, E].
    table: [H, M, D] or None.
    relations: differences that add to the logits.
    block: queries at a time; 0 for all at once.
    local: whether a query sees only its own block and the one before it.
    clip: keys further back than the table take its first row; without it they
      have no relative term.
    key: for dropout, of the weights; None for none.
    dropout: rate.

  Returns:
    [B, L, H, E]
  """
  length = q.shape[1]
  block = min(block or length, length)
  out = []
  for start in range(0, length, block):
    end = min(start + block, length)
    first = max(0, start - block) if local else 0
    rows = None
    if table is not None:  # Without `clip` older keys have no relative term.
      reach = end - first if clip else end - start + table.shape[1] - 1
      rows = _last(table, min(reach, end - first), clip)
    here = [(r.table, r.values[:, start:end], r.values[:, first:end])
            for r in relations]
    out.append(_attend(
        q[:, start:end], k[:, first:end], v[:, first:end], rows, here,
        None if key is None else jax.random.fold_in(key, start), dropout))
  return jnp.concatenate(out, 1)


@functools.partial(jax.checkpoint, static_argnums=6, prevent_cse=False)
def _attend(q, k, v, rows, relations, key, dropout):
  """One block: the last of its keys is the last query's own."""
  n, m = q.shape[1], k.shape[1]
  logits = _dot('bnhd,bmhd->bhnm', q, k)
  if rows is not None:  # Of the last keys.
    relative = skew(_dot('bnhd,hmd->bhnm', q, rows))
    logits += jnp.pad(relative, [(0, 0)] * 3 + [(m - rows.shape[1], 0)])
  for table, values, others in relations:
    by_difference = _dot('bnhd,hrd->bhnr', q, table)
    at = _difference(values[:, :, None], others[:, None], table.shape[1])
    at = jnp.broadcast_to(at[:, None], logits.shape)
    logits += jnp.take_along_axis(by_difference, at, axis=3)
  ahead = jnp.arange(m)[None] - jnp.arange(m - n, m)[:, None]  # [n, m]
  weights = _softmax(logits, (ahead <= 0)[None, None], q.shape[3])
  weights = drop(weights, key, dropout)
  return jnp.einsum('bhnm,bmhe->bnhe', weights.astype(v.dtype), v)


def fused(q, k, v):
  """`causal` alone, without a table or dropout, by the device's own kernel.

  On a GPU that is cuDNN's flash attention for bfloat16, which wants D = E, a
  multiple of 8 up to 128. Else XLA keeps all logits.
  """
  has_kernel = jax.default_backend() == 'gpu' and q.dtype == jnp.bfloat16
  return jax.nn.dot_product_attention(
      q, k, v, is_causal=True, implementation='cudnn' if has_kernel else 'xla')


def sparse_causal(q, k, v, sparse: Sparse, *, key=None, dropout: float = 0.0):
  """`causal` over a pattern's keys; a query that may see none gets zeros.

  Only 'fixed' with 'far' alone has such queries: those before the first
  columns. There are no tables of relative positions here: rotate, or add
  places to the inputs.
  """
  length, heads = q.shape[1:3]
  pad = -length % sparse.stride  # After all others: no query sees them.
  q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0)))
             for x in (q, k, v))
  parts = [(sparse.part, 0, heads)]
  if sparse.part == 'heads':
    parts = [('near', 0, heads // 2), ('far', heads // 2, heads)]
  out = []
  for part, first, end in parts:
    some = slice(first, end)
    out.append(_attend_sparse(
        q[:, :, some], k[:, :, some], v[:, :, some],
        None if key is None else jax.random.fold_in(key, first),
        sparse._replace(part=part), first, dropout))
  return jnp.concatenate(out, 2)[:, :length]


@functools.partial(jax.checkpoint, static_argnums=(4, 5, 6), prevent_cse=False)
def _attend_sparse(q, k, v, key, sparse, first_head, dropout):
  """All blocks at once: logits of near keys, of far ones, and one softmax."""
  s, (rows, length, heads, width) = sparse.stride, q.shape
  n = length // s
  q, k, v = (x.reshape(rows, n, s, heads, -1) for x in (q, k, v))
  place = jnp.arange(length).reshape(n, s)
  head = first_head + jnp.arange(heads)[:, None, None, None]
  sees = functools.partial(sparse.sees, place[None, :, :, None], head=head)
  parts = []  # Forms of keys and values, these, and [H, N, S, K] who sees.
  if sparse.part in ('near', 'both'):
    near_k, near_v, at = k, v, place
    if sparse.kind == 'strided':  # The block before as well.
      near_k, near_v = (jnp.concatenate([jnp.pad(
          x[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0))), x], 2)
                        for x in (k, v))
      at = jnp.concatenate([place - s, place], 1)
    parts.append(('bnkh', near_k, near_v, sees(key=at[None, :, None])[0]))
  if sparse.part in ('far', 'both'):
    if sparse.kind == 'strided':  # Those at the same place of their block.
      far, at = ('bksh', k, v), place.T[None, None]
    else:
      c = sparse.columns
      column = (s - (sparse._columns_of(head).reshape(1, -1) + 1) * c
                + jnp.arange(c)[:, None])  # [c, H]
      far = ('bkh', *(jnp.take_along_axis(
          x, column[None, None, :, :, None], axis=2).reshape(
              rows, n * c, heads, -1) for x in (k, v)))
      at = (place[:, :1, None] + column[None]).reshape(n * c, heads)
      at = at.T[:, None, None]
    near, is_far = sees(key=at)
    # Those that are near as well are there already.
    parts.append((*far, is_far & ~near if len(parts) else is_far))
  logits = [_dot(f'bnshd,{form}d->bhnsk', q, keys)
            for form, keys, _, _ in parts]
  seen = [jnp.broadcast_to(x, (heads, *y.shape[2:]))
          for (*_, x), y in zip(parts, logits, strict=True)]
  weights = _softmax(jnp.concatenate(logits, -1),
                     jnp.concatenate(seen, -1)[None], width)
  weights = drop(weights, key, dropout).astype(v.dtype)
  out, start = 0.0, 0
  for (form, _, values, _), y in zip(parts, logits, strict=True):
    end = start + y.shape[-1]
    out += jnp.einsum(f'bhnsk,{form}e->bnshe', weights[..., start:end], values)
    start = end
  return out.reshape(rows, length, heads, -1)


def across(q, k, v, mask, *, table=None, block: int = 0, key=None,
           dropout: float = 0.0):
  """Each query over all keys that are real, of its own or another sequence.

  Args:
    q, k, v: [B, L, H, D], [B, S, H, D], [B, S, H, E].
    mask: [B, S], 1 for a real key.
    table: [H, 2 M - 1, D] or None, for keys of the queries' own sequence: a
      key's row is M - 1 and how far it lies ahead; beyond these, nothing.
    block, key, dropout: as `causal` has them.

  Returns:
    [B, L, H, E]
  """
  length = q.shape[1]
  block = min(block or length, length)
  out = []
  for start in range(0, length, block):
    end = min(start + block, length)
    rows = None if table is None else _rows_from(table, 1 - end,
                                                 k.shape[1] - start)
    out.append(_attend_across(
        q[:, start:end], k, v, mask, rows,
        None if key is None else jax.random.fold_in(key, start), dropout))
  return jnp.concatenate(out, 1)


@functools.partial(jax.checkpoint, static_argnums=6, prevent_cse=False)
def _attend_across(q, k, v, mask, rows, key, dropout):
  logits = _dot('bnhd,bmhd->bhnm', q, k)
  if rows is not None:
    logits += skew(_dot('bnhd,hmd->bhnm', q, rows))[..., :k.shape[1]]
  weights = _softmax(logits, (mask > 0)[:, None, None], q.shape[3])
  weights = drop(weights, key, dropout)
  return jnp.einsum('bhnm,bmhe->bnhe', weights.astype(v.dtype), v)


@flax.struct.dataclass
class Cache:
  """The last W tokens' keys and values; the oldest makes room for the newest.

  Heads are rows here: so a step is one product for each, and writes its token
  where it lies. With heads behind places XLA copies all that is kept, for each
  token.

  Attributes:
    k: [B H, W, D].
    v: [B H, W, E].
    at: [W] int32, which place in the sequence is kept here; -1 for none yet.
    values: [B, W] int32 for each relation.
  """

  k: jax.Array
  v: jax.Array
  at: jax.Array
  values: tuple[jax.Array, ...]

  @classmethod
  def empty(cls, rows, size, heads, width, value_width, relations=0,
            dtype=jnp.float32):
    return cls(
        jnp.zeros((rows * heads, size, width), dtype),
        jnp.zeros((rows * heads, size, value_width), dtype),
        jnp.full(size, -1, jnp.int32),
        (jnp.zeros((rows, size), jnp.int32),) * relations)


def step(cache: Cache, q, k, v, position, *, table=None, relations=(),
         block: int = 0, local: bool = False, clip: bool = False,
         sparse: Sparse | None = None):
  """`causal` for one token at `position`, over those in the cache and itself.

  Args:
    cache: of the tokens before.
    q, k, v: [B, H, D] and [B, H, E] of this token.
    position: scalar, its place in the sequence.
    table, block, local, clip: as `causal` has them.
    relations: here with `values` [B] of this token.
    sparse: instead of `causal` the pattern of `sparse_causal`.

  Returns:
    [B, H, E] and the cache with this token in it.
  """
  size = cache.k.shape[1]
  slot = position % size
  by_head = lambda x: x.reshape(-1, x.shape[2])  # [B, H, .] -> [B H, .]
  put = lambda old, new: jax.lax.dynamic_update_index_in_dim(old, new, slot, 1)
  cache = Cache(
      put(cache.k, by_head(k)), put(cache.v, by_head(v)),
      cache.at.at[slot].set(position),
      tuple(put(old, r.values)
            for old, r in zip(cache.values, relations, strict=True)))
  seen = (cache.at >= 0)[None]  # [1 or H, W]
  if local:
    seen &= (position // block - cache.at // block <= 1)[None]
  if sparse:
    head = jnp.arange(q.shape[1])[:, None]
    near, far = sparse.sees(position, cache.at[None], head)
    seen &= {'near': near, 'far': far, 'both': near | far, 'heads': jnp.where(
        head < q.shape[1] // 2, near, far)}[sparse.part]
  logits = _dot('gd,gwd->gw', by_head(q), cache.k).reshape(*q.shape[:2], size)
  if table is not None:  # Products by distance, the token's own last: turned.
    by_distance = _last(_dot('bhd,hmd->bhm', q, table), size, clip, axis=2)
    logits += jnp.roll(by_distance, slot + 1, axis=2)
  for relation, others in zip(relations, cache.values, strict=True):
    by_difference = _dot('bhd,hrd->bhr', q, relation.table)
    at = _difference(relation.values[:, None], others, relation.table.shape[1])
    at = jnp.broadcast_to(at[:, None], logits.shape)
    logits += jnp.take_along_axis(by_difference, at, axis=2)
  weights = by_head(_softmax(logits, seen[None], q.shape[2]))
  out = jnp.einsum('gw,gwe->ge', weights.astype(v.dtype), cache.v)
  return out.reshape(v.shape), cache


def rotate(x, positions):
  """[B, L, H, D], [L] -> the same: pairs (i, i + D / 2) turned by place."""
  half = x.shape[-1] // 2
  rate = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions.astype(jnp.float32)[:, None] * rate[None]  # [L, D / 2]
  cos, sin = (f(angle)[None, :, None].astype(x.dtype)
              for f in (jnp.cos, jnp.sin))
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def _dot(form, a, b):
  return jnp.einsum(form, a, b, preferred_element_type=jnp.float32)


def _softmax(logits, seen, width):
  """Float32, whatever the logits are; the relative ones are scaled as well."""
  logits = logits / math.sqrt(width)
  weights = jax.nn.softmax(jnp.where(seen, logits, NEVER), -1)
  return jnp.where(seen, weights, 0.0)  # Zeros too where nothing is seen.


def _last(x, length, clip, axis=1):
  """The last `length` rows, with what stands for missing ones before them."""
  missing = length - x.shape[axis]
  if missing <= 0:
    return jax.lax.slice_in_dim(x, -missing, x.shape[axis], axis=axis)
  pad = [(0, 0)] * x.ndim
  pad[axis] = (missing, 0)
  return jnp.pad(x, pad, mode='edge' if clip else 'constant')


def _rows_from(table, first, end):
  """[H, end - first, D]: rows of keys that lie first, ..., end - 1 ahead."""
  most = table.shape[1] // 2  # M - 1.
  before, after = max(-first - most, 0), max(end - 1 - most, 0)
  table = jnp.pad(table, ((0, 0), (before, after), (0, 0)))
  return table[:, before + most + first:before + most + end]


def _difference(query, key, rows):
  """Row of a relation's table; differences beyond it share its end rows."""
  return jnp.clip(rows // 2 + key - query, 0, rows - 1)
