import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import optim, sharding


def weighted_loss(params, batch, key):
  del key
  error = ((batch['x'] @ params['w'])[:, None] - batch['y'])**2 * batch['m']
  return error.sum(), (batch['m'].sum(), {'error': error.sum()})


@pytest.fixture
def problem():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  mask = jnp.asarray(rng.random((12, 5)) < 0.5, jnp.float32)
  return {'w': draw(4)}, {'x': draw(12, 4), 'y': draw(12, 5), 'm': mask}


@pytest.mark.parametrize('n', [2, 3, 6])
def test_slices_of_unequal_weight_give_the_gradient_of_the_whole(problem, n):
  params, batch = problem
  key = jax.random.key(0)
  whole = optim.accumulate(weighted_loss, params, batch, key)
  parts = optim.accumulate(weighted_loss, params, batch, key, n)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
               whole, parts)
  direct = jax.grad(lambda p: weighted_loss(p, batch, key)[0]
                    / batch['m'].sum())(params)
  np.testing.assert_allclose(whole[2]['w'], direct['w'], rtol=1e-5)
  np.testing.assert_allclose(whole[1]['error'], whole[0])


def test_slices_get_keys_of_their_own():
  def draw(params, batch, key):
    return params * jax.random.normal(key), (1.0, {})
  loss, _, _ = optim.accumulate(draw, 1.0, jnp.ones(4), jax.random.key(0), 2)
  keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(2)]
  np.testing.assert_allclose(
      loss, sum(jax.random.normal(k) for k in keys) / 2, rtol=1e-6)


def test_split_takes_every_nth_row_and_keeps_rows_on_their_device():
  mesh = sharding.make_mesh()
  rows = jax.device_put(np.arange(24), sharding.by_row(mesh))
  slices = jax.jit(lambda x: optim.split(x, 3))(rows)
  np.testing.assert_array_equal(slices[1], np.arange(1, 24, 3))
  text = jax.jit(lambda x: optim.split(x, 3)).lower(rows).compile().as_text()
  assert 'all-gather' not in text and 'all-to-all' not in text


def test_a_batch_that_does_not_split_is_refused():
  with pytest.raises(ValueError, match=r'\[10\] rows does not split into 3'):
    optim.split({'x': jnp.ones((10, 2))}, 3)
