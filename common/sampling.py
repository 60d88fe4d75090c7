"""Drawing tokens: temperature, top-k, top-p; cached decoding; beam search.

Shapes: B rows, L tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np

from common import errors

DRAWS = ('temperature', 'top_k', 'top_p')


def draws(count: int, vocab: int, **given) -> dict[str, np.ndarray]:
  """What a prompt says of `DRAWS`, for each row; nothing where it is None."""
  given = {k: x for k, x in given.items() if x is not None}
  check_draws(vocab, given)
  return {k: np.full(count, x, np.int32 if k == 'top_k' else np.float32)
          for k, x in given.items()}


def check_draws(vocab: int, given, where: str = '') -> None:
  """Refuses those of `DRAWS` that `restrict` cannot use."""
  works = {
      'temperature': (lambda x: 0 <= x < np.inf, 'a number, 0 or more'),
      'top_k': (lambda x: 0 <= x <= vocab, f'0 (all) to {vocab}'),
      'top_p': (lambda x: 0 < x <= 1, 'more than 0, up to 1')}
  for name, value in given.items():
    is_good, values = works[name]
    errors.require(is_good(value), f'{where}{name}={value}', values)


def restrict(logits, temperature=1.0, top_k=0, top_p=1.0):
  """Logits [B, V] of what may be drawn, -inf elsewhere.

  In this order: temperature, grammar, top-k, top-p. The grammar's part is done
  by the caller: what it forbids has logit -inf, which no temperature changes.

  Args:
    logits: [B, V], at least one finite in each row.
    temperature: scalar or [B]; 0 takes the most probable token.
    top_k: scalar or [B]; this many tokens stay, 0 for all.
    top_p: scalar or [B]; the smallest set whose mass reaches top_p stays, with
      the token that crosses it. At least one token, all from 1 on.
  """
  rows = lambda x: jnp.broadcast_to(jnp.asarray(x), logits.shape[:1])[:, None]
  temperature, top_k, top_p = rows(temperature), rows(top_k), rows(top_p)
  logits = logits.astype(jnp.float32)
  # With the best at 0, a temperature near 0 cannot overflow towards +inf.
  logits -= logits.max(1, keepdims=True)
  logits /= jnp.maximum(temperature, 1e-6)

  def cut(logits):
    order = jnp.argsort(-logits, axis=1, stable=True)  # Best first.
    rank = jnp.argsort(order, axis=1)
    keep = (rank < top_k) | (top_k <= 0)
    ranked = jnp.take_along_axis(
        jnp.where(keep, logits, -jnp.inf), order, axis=1)
    p = jax.nn.softmax(ranked, axis=1)
    before = jnp.take_along_axis(jnp.cumsum(p, axis=1) - p, rank, axis=1)
    # Rounding lets the sum reach 1 before the last token does.
    keep &= (before < top_p) | (top_p >= 1.0) | (rank == 0)
    return jnp.where(keep, logits, -jnp.inf)

  # Sorting costs more than a small network's step: only where asked for.
  wanted = jnp.any((top_k > 0) | (top_p < 1.0))
  return jax.lax.cond(wanted, cut, lambda x: x, logits)


def decode(*args, **kwargs):
  """The tokens of `decode_scored`, with its arguments."""
  return decode_scored(*args, **kwargs)[0]


def decode_scored(step, carry, token, keys, length: int, *, forced=None,
                  temperature=1.0, top_k=0, top_p=1.0):
  """Tokens [B, length], each drawn given all before it. Call it under jit.

  Also the log-likelihood [B, length] of each by the logits as `step` gives
  them, however the draw was restricted.

  Args:
    step: (carry, token [B]) -> (carry, logits [B, V]) of the next token; the
      carry is whatever the model caches (a state, keys and values).
    carry: what `step` takes first. After a parallel pass over a primer this is
      its cache, and the loop draws only what follows.
    token: [B], the token before the first one drawn.
    keys: [B] PRNG keys; a row's draws depend on its own key only.
    length: how many tokens.
    forced: [B, length] tokens that are taken as they are, -1 where free: a
      primer that this loop consumes itself, or any fixed positions.
    temperature, top_k, top_p: as in `restrict`.
  """
  if forced is None:
    forced = jnp.full((token.shape[0], length), -1, token.dtype)

  def body(state, i_and_forced):
    carry, token = state
    i, fixed = i_and_forced
    carry, logits = step(carry, token)
    allowed = restrict(logits, temperature, top_k, top_p)
    draw = jax.vmap(lambda key, row: jax.random.categorical(
        jax.random.fold_in(key, i), row))(keys, allowed)
    token = jnp.where(fixed >= 0, fixed, draw.astype(token.dtype))
    score = jax.nn.log_softmax(logits.astype(jnp.float32))
    score = jnp.take_along_axis(score, token[:, None], axis=1)[:, 0]
    return (carry, token), (token, score)

  _, (tokens, scores) = jax.lax.scan(
      body, (carry, token), (jnp.arange(length), forced.T))
  return tokens.T, scores.T


def beam_search(step, carry, token, length: int, beams: int, *, forced):
  """Likely pieces [beams, length] and their log-likelihoods, the best first.

  After each token the so many likeliest beginnings are kept. As long as there
  are fewer, and at the end if there are no more, the likelihood is -inf. Call
  it under jit.

  Args:
    step: (carry, token [1]) -> (carry, logits [1, V]), for a single row.
    carry: what `step` takes first.
    token: [], the token before the first one.
    length: how many tokens.
    beams: how many beginnings.
    forced: [length] tokens that are taken as they are, at no cost; -1: free.
  """
  many = lambda x: jnp.broadcast_to(x, (beams, *jnp.shape(x)))

  def body(state, fixed):
    carry, token, score = state
    carry, logits = jax.vmap(step)(carry, token[:, None])
    p = jax.nn.log_softmax(logits[:, 0].astype(jnp.float32))
    is_fixed = jnp.arange(p.shape[1]) == fixed
    p = jnp.where(fixed < 0, p, jnp.where(is_fixed, 0.0, -jnp.inf)[None])
    score, place = jax.lax.top_k((score[:, None] + p).reshape(-1), beams)
    parent, next_ = place // p.shape[1], place % p.shape[1]
    carry = jax.tree.map(lambda x: x[parent], carry)
    return (carry, next_.astype(token.dtype), score), (parent, next_)

  first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
  (_, _, score), steps = jax.lax.scan(
      body, (jax.tree.map(many, carry), many(token), first), forced)

  def back(beam, parent_and_token):
    parent, token = parent_and_token
    return parent[beam], token[beam]

  _, tokens = jax.lax.scan(back, jnp.arange(beams), steps, reverse=True)
  return tokens.T, score
