"""Causal self-attention with relative positions, in blocks, and its cache.

A query sees keys up to its own place. How far a key lies behind may enter the
logits in three ways, alone or together:

  table    learned vectors, one a distance (Shaw et al. 2018 by the skewing of
           Huang et al. 2018): q_i . table[M - 1 - (i - j)], so that the last
           row is the token itself. Beyond M distances: nothing, or the first
           row again (`clip`).
  relations  learned vectors for a difference of values that tokens carry, such
           as pitch or time: q_i . table[R // 2 + value_j - value_i].
  rotate   turns queries and keys by their place (Su et al. 2021).

Queries are taken in blocks, and a block's logits are computed again for the
gradient: what is alive is [B, H, block, L], never [L, L], and nothing at all of
size L x L x D. A block is given only the keys that it may see, which halves the
work. With `local`, these are its own block and the one before it.

Shapes: B rows, L tokens, H heads, D width of a head's queries and keys, E of
its values, M distances, R differences, W places of a cache.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp

NEVER = -1e9  # A logit that is not attended to.


class Relation(NamedTuple):
  table: jax.Array  # [H, R, D]
  values: jax.Array  # [B, L] int32, those of the keys.


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
    clip: what a distance beyond the table means; see above.
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
    rows = None if table is None else _rows(table, end - first, clip)
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
  if rows is not None:
    logits += skew(_dot('bnhd,hmd->bhnm', q, rows))
  for table, values, others in relations:
    by_difference = _dot('bnhd,hrd->bhnr', q, table)
    at = _difference(values[:, :, None], others[:, None], table.shape[1])
    at = jnp.broadcast_to(at[:, None], logits.shape)
    logits += jnp.take_along_axis(by_difference, at, axis=3)
  ahead = jnp.arange(m)[None] - jnp.arange(m - n, m)[:, None]  # [n, m]
  weights = _softmax(logits, (ahead <= 0)[None, None], q.shape[3])
  if key is not None and dropout:
    keep = jax.random.bernoulli(key, 1 - dropout, weights.shape)
    weights = jnp.where(keep, weights / (1 - dropout), 0.0)
  return jnp.einsum('bhnm,bmhe->bnhe', weights.astype(v.dtype), v)


def across(q, k, v, mask):
  """Each query over all keys of another sequence; mask [B, S] is 1 for real."""
  logits = _dot('bnhd,bmhd->bhnm', q, k)
  weights = _softmax(logits, (mask > 0)[:, None, None], q.shape[3])
  return jnp.einsum('bhnm,bmhe->bnhe', weights.astype(v.dtype), v)


@flax.struct.dataclass
class Cache:
  """The last W tokens' keys and values; the oldest makes room for the newest.

  Attributes:
    k: [B, W, H, D].
    v: [B, W, H, E].
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
        jnp.zeros((rows, size, heads, width), dtype),
        jnp.zeros((rows, size, heads, value_width), dtype),
        jnp.full(size, -1, jnp.int32),
        (jnp.zeros((rows, size), jnp.int32),) * relations)


def step(cache: Cache, q, k, v, position, *, table=None, relations=(),
         block: int = 0, local: bool = False, clip: bool = False):
  """`causal` for one token at `position`, over those in the cache and itself.

  Args:
    cache: of the tokens before.
    q, k, v: [B, H, D] and [B, H, E] of this token.
    position: scalar, its place in the sequence.
    table, block, local, clip: as `causal` has them.
    relations: here with `values` [B] of this token.

  Returns:
    [B, H, E] and the cache with this token in it.
  """
  slot = position % cache.k.shape[1]
  cache = Cache(
      cache.k.at[:, slot].set(k), cache.v.at[:, slot].set(v),
      cache.at.at[slot].set(position),
      tuple(old.at[:, slot].set(r.values)
            for old, r in zip(cache.values, relations, strict=True)))
  distance = position - cache.at  # [W]
  seen = cache.at >= 0
  if local:
    seen &= position // block - cache.at // block <= 1
  logits = _dot('bhd,bwhd->bhw', q, cache.k)
  if table is not None:  # Products by distance, then each key's.
    row = table.shape[1] - 1 - distance
    by_row = _dot('bhd,hmd->bhm', q, table)
    logits += jnp.where((row >= 0) | clip, by_row[:, :, jnp.maximum(row, 0)],
                        0.0)
  for relation, others in zip(relations, cache.values, strict=True):
    by_difference = _dot('bhd,hrd->bhr', q, relation.table)
    at = _difference(relation.values[:, None], others, relation.table.shape[1])
    at = jnp.broadcast_to(at[:, None], logits.shape)
    logits += jnp.take_along_axis(by_difference, at, axis=2)
  weights = _softmax(logits, seen[None, None], q.shape[2])
  return jnp.einsum('bhw,bwhe->bhe', weights.astype(v.dtype), cache.v), cache


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
  return jax.nn.softmax(jnp.where(seen, logits, NEVER), -1)


def _rows(table, length, clip):
  """[H, length, D]: the last rows, with what stands for missing ones before."""
  missing = length - table.shape[1]
  if missing <= 0:
    return table[:, -length:]
  return jnp.pad(table, ((0, 0), (missing, 0), (0, 0)),
                 mode='edge' if clip else 'constant')


def _difference(query, key, rows):
  """Row of a relation's table; differences beyond it share its end rows."""
  return jnp.clip(rows // 2 + key - query, 0, rows - 1)
