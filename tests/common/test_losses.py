import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import losses

REAL, FAKE = jnp.array([2.0, -1.0, 0.5]), jnp.array([0.5, 3.0, -2.0])


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


@pytest.mark.parametrize('got, want', [
    (losses.wgan_critic(REAL, FAKE), [-1.5, 4.0, -2.5]),
    (losses.wgan_generator(FAKE), [-0.5, -3.0, 2.0]),
    (losses.lsgan_critic(REAL, FAKE), [0.625, 6.5, 2.125]),
    (losses.lsgan_generator(FAKE), [0.25, 4.0, 9.0]),
    (losses.dcgan_critic(REAL, FAKE),
     -(np.log(sigmoid(REAL)) + np.log(1 - sigmoid(FAKE))) / 2),
    (losses.dcgan_generator(FAKE), -np.log(sigmoid(FAKE))),
])
def test_losses_are_their_formulas(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_cross_entropy_is_finite_far_from_the_boundary():
  far = jnp.array([1e4])
  np.testing.assert_allclose(losses.dcgan_critic(-far, far), [1e4])
  np.testing.assert_allclose(losses.dcgan_generator(far), [0.0])
  slope = jax.grad(lambda x: losses.dcgan_generator(x).sum())(-far)
  np.testing.assert_allclose(slope, [-1.0])  # 0 if it were log(1 - sigmoid).


@pytest.mark.parametrize('norm, want', [(1.0, 0.0), (2.0, 1.0), (0.5, 0.25)])
def test_penalty_of_a_linear_critic_depends_on_its_norm_only(norm, want):
  w = jax.random.normal(jax.random.key(0), (1, 5, 2))
  w *= norm / jnp.linalg.norm(w)
  real, fake = jax.random.normal(jax.random.key(1), (2, 3, 5, 2))
  got = losses.gradient_penalty(
      lambda x: (x * w).sum((1, 2)), real, fake, jax.random.key(2))
  np.testing.assert_allclose(got, np.full(3, want), atol=1e-6)


def test_each_pair_has_its_own_point_between():
  # |x|^2 / 2 has gradient x, and x is alpha times a unit vector here.
  real = jnp.zeros((1000, 4, 1))
  fake = real.at[:, 0].set(1.0)
  penalty = losses.gradient_penalty(
      lambda x: (x**2).sum((1, 2)) / 2, real, fake, jax.random.key(0))
  alpha = 1 - np.sqrt(penalty)
  assert len(set(alpha.tolist())) > 900
  deciles = np.quantile(alpha, [0.0, 0.1, 0.5, 0.9, 1.0])
  np.testing.assert_allclose(deciles, [0.0, 0.1, 0.5, 0.9, 1.0], atol=0.05)


def test_points_of_equal_pairs_are_the_pair():
  x = jnp.array([[0.1, 0.2], [0.5, 0.0]])
  got = losses.gradient_penalty(
      lambda x: (x**2).sum(1) / 2, x, x, jax.random.key(0))
  np.testing.assert_allclose(
      got, (np.linalg.norm(x, axis=1) - 1) ** 2, rtol=1e-5)


def test_no_epsilon_changes_a_small_slope():
  norm = losses.gradient_norm(lambda x: 1e-10 * x.sum(1), jnp.ones((1, 4)))
  np.testing.assert_allclose(norm, [2e-10], rtol=1e-6)


def test_gradient_norm_counts_terms_across_the_batch():
  x = jnp.array([[1.0], [2.0]])
  score = lambda x: x[:, 0] * x.sum()  # Sum: (x1 + x2)^2.
  np.testing.assert_allclose(losses.gradient_norm(score, x), [6.0, 6.0])


def test_a_flat_critic_has_penalty_one_and_a_finite_gradient():
  x = jnp.ones((2, 3))

  def penalty(w):
    return losses.gradient_penalty(
        lambda x: (x * w).sum(1), x, x, jax.random.key(0)).mean()

  value, gradient = jax.value_and_grad(penalty)(jnp.zeros((1, 3)))
  assert value == 1.0
  np.testing.assert_array_equal(gradient, jnp.zeros((1, 3)))
  # And everywhere else it is the plain root's: (|w| - 1)^2 at w = (3, 0, 4).
  gradient = jax.grad(penalty)(jnp.array([[3.0, 0.0, 4.0]]))
  np.testing.assert_allclose(gradient, [[4.8, 0.0, 6.4]], rtol=1e-6)
