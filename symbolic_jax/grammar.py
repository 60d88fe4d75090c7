"""What may follow: masks for sampling that follow each row by itself.

Shapes: B rows, L tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Grammar(NamedTuple):
  """Which tokens may come next, for a loop on the device.

  Attributes:
    start: rows -> the state before a piece, a tree of arrays [B, ...].
    advance: (state, tokens [B]) -> the state after them. A token that is no id
      (-1) changes nothing, one that was not allowed is taken as it can be: so
      any primer may be followed.
    allowed: state -> [B, V] bool, at least one in each row.
  """

  start: Callable[[int], Any]
  advance: Callable[[Any, jax.Array], Any]
  allowed: Callable[[Any], jax.Array]


def accepts(grammar: Grammar, tokens) -> jax.Array:
  """Whether each of tokens [B, L] was allowed where it stands."""
  tokens = jnp.asarray(tokens)

  def step(state, token):
    allowed = grammar.allowed(state)
    good = jnp.take_along_axis(
        allowed, jnp.maximum(token, 0)[:, None], axis=1)[:, 0]
    return grammar.advance(state, token), good & (token >= 0)

  _, good = jax.lax.scan(step, grammar.start(tokens.shape[0]), tokens.T)
  return good.T


def forbid(ids, vocab: int) -> Grammar:
  """Anything but some ids, wherever it stands."""
  mask = ~np.isin(np.arange(vocab), ids)
  return Grammar(start=lambda rows: jnp.zeros((rows, 0)),
                 advance=lambda state, tokens: state,
                 allowed=lambda state: jnp.broadcast_to(
                     mask, (state.shape[0], vocab)))
