import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import model


def test_mean_over_parts_equals_mean_over_all():
  rng = np.random.default_rng(0)
  values = rng.standard_normal((10, 3)).astype(np.float32)
  mask = (rng.random((10, 3)) < 0.6).astype(np.float32)
  parts = [model.Mean.of(jnp.asarray(values[i:j]), jnp.asarray(mask[i:j]))
           for i, j in ((0, 3), (3, 4), (4, 10))]
  got = (parts[0] + parts[1] + parts[2]).compute()
  np.testing.assert_allclose(got, values[mask > 0].mean(), rtol=1e-6)


def test_mean_takes_a_mask_per_row():
  values = jnp.array([[1.0, 3.0], [5.0, 7.0], [jnp.nan, jnp.inf]])
  mean = model.Mean.of(values, jnp.array([1.0, 1.0, 0.0]))
  assert float(mean.weight) == 4 and float(mean.compute()) == 4.0


def test_row_keys_do_not_depend_on_the_batch():
  key = jax.random.key(3)
  all_rows = jax.random.key_data(model.row_keys(key, jnp.arange(6)))
  some = jax.random.key_data(model.row_keys(key, jnp.array([4, 2])))
  np.testing.assert_array_equal(some, all_rows[jnp.array([4, 2])])
  assert len({tuple(k) for k in np.asarray(all_rows)}) == 6


@pytest.mark.parametrize('step, stage', [(0, 0), (9, 0), (10, 1), (29, 1),
                                         (30, 2), (1000, 2)])
def test_stage_at_changes_at_the_start_of_a_stage(step, stage):
  nothing = lambda *_: None
  m = model.Model(init=nothing, train_step=nothing, eval_step=nothing,
                  sample=nothing, stages=(
                      model.Stage(), model.Stage(10, 4), model.Stage(30)))
  assert m.stage_at(step) == stage
