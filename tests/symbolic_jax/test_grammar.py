"""Masks that follow each row: on a grammar small enough to see through."""

import jax.numpy as jnp
import numpy as np

from symbolic_jax import grammar

# Of 0, 1 and 2, each but the first no less than the one before.
UP = grammar.Grammar(
    start=lambda rows: jnp.zeros(rows, jnp.int32),
    advance=lambda state, tokens: jnp.maximum(state, tokens),
    allowed=lambda state: jnp.arange(3)[None] >= state[:, None])


def test_each_token_is_judged_by_those_before_it_in_its_row():
  good = grammar.accepts(UP, np.array([[0, 2, 1, 2], [2, 2, 0, -1]]))
  np.testing.assert_array_equal(good, [[1, 1, 0, 1], [1, 1, 0, 0]])


def test_some_ids_can_be_forbidden_everywhere():
  rules = grammar.forbid([1, 3], 5)
  state = rules.advance(rules.start(2), jnp.array([1, 2]))
  np.testing.assert_array_equal(rules.allowed(state), [[1, 0, 1, 0, 1]] * 2)
