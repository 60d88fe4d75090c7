"""Losses of adversarial training, and the gradient penalty.

Shapes: B batch. Scores of the critic are [B], float32; each loss is per
example, [B], so that a caller may take its mean or mask it.
"""

import jax
import jax.numpy as jnp


def wgan_critic(real, fake):
  """Arjovsky et al. 2017: minus the estimate of the Wasserstein distance."""
  return fake - real


def wgan_generator(fake):
  return -fake


def lsgan_critic(real, fake):
  """Mao et al. 2017, targets 1 and 0."""
  return ((real - 1.0) ** 2 + fake**2) / 2


def lsgan_generator(fake):
  return (fake - 1.0) ** 2


def dcgan_critic(real, fake):
  """Binary cross entropy of logits; real is class 1."""
  return (jax.nn.softplus(-real) + jax.nn.softplus(fake)) / 2


def dcgan_generator(fake):
  """The non-saturating form: -log sigmoid."""
  return jax.nn.softplus(-fake)


def gradient_norm(critic, x):
  """Per-example norm [B] of the gradient of sum(critic(x)) at x [B, ...].

  The sum lets a critic look across the batch: such terms are in the gradient.
  """
  gradient = jax.grad(lambda x: critic(x).sum())(x)
  square = (gradient.astype(jnp.float32) ** 2).reshape(x.shape[0], -1).sum(-1)
  # The papers' code has a plain root, whose derivative at exactly 0 is inf, and
  # so NaN parameters. Here the norm is still 0 and its derivative 0; an epsilon
  # in the root would change every other value too.
  zero = square == 0.0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def gradient_penalty(critic, real, fake, key):
  """(||grad critic|| - 1)^2 [B] between pairs (Gulrajani et al. 2017, eq. 3).

  One point a pair: real + alpha (fake - real), alpha ~ U(0, 1) per example.
  """
  shape = (real.shape[0],) + (1,) * (real.ndim - 1)
  alpha = jax.random.uniform(key, shape, real.dtype)
  return (gradient_norm(critic, real + alpha * (fake - real)) - 1.0) ** 2
