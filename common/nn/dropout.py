"""Dropout with a byte of randomness for each entry.

`jax.random.bernoulli` draws 32 bits for each, which for the weights of an
attention costs more than the attention. Here four entries share one draw. The
rate is met to the nearest 256th, and what is kept is scaled by the rate that
was met: the mean stays exactly what it was.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from common import errors


def drop(x, key, rate: float):
  """Zeros a share of the entries of x; nothing if `key` is None."""
  errors.require(0 <= rate <= 1, f'dropout={rate}',
                 'a share from 0 (none) to 1, such as 0.1')
  kept = round(256 * (1 - rate))  # Of 256.
  if key is None or kept == 256:
    return x
  if not kept:
    return jnp.zeros_like(x)
  *lead, last = x.shape
  draws = jax.random.bits(key, (*lead, -(-last // 4)))
  draws = jax.lax.bitcast_convert_type(draws, jnp.uint8)  # [..., 4]
  draws = draws.reshape(*lead, -1)[..., :last]
  return jnp.where(draws < kept, x * (256 / kept), 0)


class Dropout(nn.Module):
  """`drop` with the 'dropout' rng."""

  rate: float

  @nn.compact
  def __call__(self, x, train: bool):
    return drop(x, self.make_rng('dropout') if train and self.rate else None,
                self.rate)
