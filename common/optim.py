"""Gradients over slices of a batch, and learning rates over steps."""

import jax
import jax.numpy as jnp


def split(batch, n: int) -> list:
  """`n` batches of B/n rows each.

  Slice i takes rows i, n+i, 2n+i, ...: each device keeps its own part of every
  slice, where contiguous slices would have to move between devices.
  """
  rows = {x.shape[0] for x in jax.tree.leaves(batch)}
  if len(rows) != 1 or min(rows) % n:
    raise ValueError(f'a batch of {sorted(rows)} rows does not split into {n}')
  folded = jax.tree.map(
      lambda x: x.reshape(x.shape[0] // n, n, *x.shape[1:]), batch)
  return [jax.tree.map(lambda x: x[:, i], folded) for i in range(n)]


def accumulate(fn, params, batch, key, n: int = 1):
  """Mean loss and its gradient over `n` slices, in the memory of one.

  fn(params, batch, key) -> (total, (weight, sums)): a loss summed over what it
  counts, how much that was, and a dict of further sums. Sums are added before
  they are divided, so slices of unequal weight (padded tokens) give the
  gradient of the whole batch. Unrolled: a convolution's gradient inside a
  while loop is slow on CPU.

  Returns (loss, sums / weight, gradient).
  """
  grad_fn = jax.value_and_grad(fn, has_aux=True)
  parts = [
      grad_fn(params, rows, key if n == 1 else jax.random.fold_in(key, i))
      for i, rows in enumerate(split(batch, n))]
  (total, (weight, sums)), grads = jax.tree.map(lambda *x: sum(x), *parts)
  mean = lambda tree: jax.tree.map(lambda x: x / weight, tree)
  return total / weight, mean(sums), mean(grads)


def inverse_root(scale: float, width: int, warmup: int, end: int = 0):
  """Learning rate of tensor2tensor: up in a line, then down as 1 / sqrt(step).

  Its peak, at `warmup`, is scale / sqrt(width * warmup). With `end` all of it
  is also times a line from 1 at the first step to 0 at that one.
  """
  def rate(step):
    later = jnp.maximum(step, warmup).astype(jnp.float32)
    left = jnp.maximum(0.0, 1 - step / end) if end else 1.0
    return (scale * jnp.minimum(1.0, step / warmup) * width**-0.5
            * later**-0.5 * left)

  return rate
