"""Dropout against the binomial distribution, and what else is asked of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import errors, sharding
from common.nn.dropout import Dropout, drop

SHAPE = (50, 8, 103)  # The last one is no multiple of four.


@pytest.mark.parametrize('rate, kept', [(0.1, 230), (0.5, 128), (0.25, 192),
                                        (0.9, 26)])
def test_share_and_scale_are_those_of_the_nearest_256th(rate, kept):
  y = np.asarray(drop(jnp.ones(SHAPE), jax.random.key(0), rate))
  np.testing.assert_allclose(np.unique(y), [0, 256 / kept], rtol=1e-6)
  p, n = kept / 256, y.size
  assert abs((y > 0).mean() - p) < 4 * np.sqrt(p * (1 - p) / n)
  assert abs(y.mean() - 1) < 4 * np.sqrt((1 - p) / p / n)


def test_entries_do_not_follow_each_other():
  y = np.asarray(drop(jnp.ones((4096, 64)), jax.random.key(1), 0.5)) - 1
  for axis in (0, 1):
    for lag in (1, 2, 3, 4, 8):
      a = np.moveaxis(y, axis, 0)
      assert abs((a[lag:] * a[:-lag]).mean()) < 0.01  # 5 standard errors.


def test_keys_and_rates_of_nothing():
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(drop(x, None, 0.5), x)
  np.testing.assert_array_equal(drop(x, jax.random.key(0), 0.0), x)
  np.testing.assert_array_equal(drop(x, jax.random.key(0), 1.0), 0 * x)
  a, b = (drop(jnp.ones(SHAPE), jax.random.key(i), 0.5) for i in (0, 1))
  assert (np.asarray(a) != np.asarray(b)).mean() > 0.4


@pytest.mark.parametrize('rate', [-0.2, 1.5, 10, float('nan')])
def test_rates_that_are_no_share_are_refused_even_where_nothing_is_drawn(rate):
  for train in (False, True):
    with pytest.raises(errors.UserError, match=f'dropout={rate} .*0 .* to 1'):
      Dropout(rate).apply({}, jnp.ones(3), train,
                          rngs={'dropout': jax.random.key(0)})


def test_gradient_goes_where_something_was_kept():
  x = jnp.ones(SHAPE, jnp.bfloat16)
  y = drop(x, jax.random.key(0), 0.1)
  grad = jax.grad(lambda x: drop(x, jax.random.key(0), 0.1).sum())(x)
  assert y.dtype == grad.dtype == jnp.bfloat16
  np.testing.assert_array_equal(grad, y)


def test_the_same_on_every_mesh():
  x = jnp.ones((8, 16))
  mesh = sharding.make_mesh(data=2, fsdp=2)
  split = jax.device_put(x, sharding.by_row(mesh))
  fn = jax.jit(lambda x: drop(x, jax.random.key(0), 0.3))
  np.testing.assert_array_equal(fn(split), fn(x))
  assert fn(split).sharding.is_equivalent_to(sharding.by_row(mesh), 2)


def test_the_module_draws_in_training_only():
  x = jnp.ones(SHAPE)
  module = Dropout(0.5)
  rngs = {'dropout': jax.random.key(0)}
  np.testing.assert_array_equal(module.apply({}, x, False), x)
  assert (np.asarray(module.apply({}, x, True, rngs=rngs)) == 0).any()
