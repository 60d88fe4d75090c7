"""Vector quantisation: nearest codes, and codebooks that learn by averages.

The loss of van den Oord et al. 2017, eq. 3, has a term that moves the codes,
||sg[z] - e||^2. Its exact solution, the mean of the vectors that chose a code,
is tracked by exponential averages instead (appendix A.1):

  N_i <- g N_i + (1 - g) n_i,  m_i <- g m_i + (1 - g) sum of z,  e_i = m_i / N_i

and a code that nobody uses is put on a vector of the batch (Dhariwal et al.
2020, section 3.1). Sums are over the batch of all devices. A codebook lives in
`state.vars`; one that learns by gradients is an array [K, D] in `params`, for
which there are `nearest`, `straight_through` and the two losses.

Shapes: B batch, D width of a code, K codes, T positions: whatever axes lie
between B and D are one here.
"""

import dataclasses
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np

from common import errors, sharding

BLOCK = 2**23  # Distances held at a time, on each device: 32 MB.
INITS = ('data', 'kmeans', 'normal', 'uniform')
_EXACT = jax.lax.Precision.HIGHEST  # Half of the bits picks other codes.


def nearest(x, codes):
  """Index [B, ...] of the code [K, D] that is nearest to x [B, ..., D].

  The first of equals. Of the distances to all codes no more than BLOCK exist
  at a time. No gradient.
  """
  x, codes = jax.lax.stop_gradient((x, codes))
  # Around their middle: what is far from 0 but close together would differ by
  # less than the rounding of ||e||^2 - 2 x e.
  middle = codes.astype(jnp.float32).mean(0)
  codes = codes - middle[None]
  square = (codes**2).sum(-1)
  groups = _divisor(codes.shape[0])

  def of_block(x):  # [B, t, D] -> [B, t]
    x = x.astype(jnp.float32) - middle[None, None]
    # ||x||^2 is the same for all codes.
    distance = square[None, None] - 2.0 * jnp.matmul(
        x, codes.T, precision=_EXACT)
    # XLA's argmin is slow on CPU, its min is not: the group of codes with the
    # least distance, then the code in it. Twice as fast, the same result.
    distance = distance.reshape(*x.shape[:-1], groups, -1)
    group = jnp.argmin(distance.min(-1), -1)
    inside = jnp.take_along_axis(
        distance, group[..., None, None], -2)[..., 0, :]
    return group * distance.shape[-1] + jnp.argmin(inside, -1)

  rows = x.reshape(x.shape[0], -1, x.shape[-1])
  indices = sharding.per_device(
      lambda rows: _over_blocks(of_block, rows, codes.shape[0]), rows)
  return indices.reshape(x.shape[:-1]).astype(jnp.int32)


def _over_blocks(fn, rows, size):
  """fn over blocks of positions of [B, T, D], each with all of B.

  Where that is too much, as for the vectors of k-means, rows become one.
  """
  batch, positions, depth = rows.shape
  if batch * positions * size <= BLOCK:
    return fn(rows)
  if batch > 1 and batch * size > BLOCK:
    flat = _over_blocks(fn, rows.reshape(1, -1, depth), size)
    return flat.reshape(batch, positions)
  width = max(1, BLOCK // (batch * size))
  count = -(-positions // width)
  width = -(-positions // count)  # All about as full.
  padded = jnp.pad(rows, ((0, 0), (0, count * width - positions), (0, 0)))
  blocks = padded.reshape(batch, count, width, -1).swapaxes(0, 1)
  out = jax.lax.map(fn, blocks).swapaxes(0, 1)
  return out.reshape(batch, count * width)[:, :positions]


def _divisor(n):
  """The divisor of n that is nearest to its root."""
  return max(i for i in range(1, math.isqrt(n) + 1) if n % i == 0)


def straight_through(x, codes, indices):
  """The codes [B, ..., D]; their gradient goes to x as it is."""
  vectors = codes[indices].astype(x.dtype)
  return x + jax.lax.stop_gradient(vectors - x)


def commitment(x, codes, indices):
  """(x - sg[e])^2 per example [B], a mean over positions and D."""
  error = x.astype(jnp.float32) - jax.lax.stop_gradient(codes)[indices]
  return (error**2).reshape(x.shape[0], -1).mean(-1)


def codebook_loss(x, codes, indices):
  """(sg[x] - e)^2 per example [B]: for codes that learn by gradients."""
  error = jax.lax.stop_gradient(x).astype(jnp.float32) - codes[indices]
  return (error**2).reshape(x.shape[0], -1).mean(-1)


@flax.struct.dataclass
class Codebook:
  codes: jax.Array  # [K, D], e.
  counts: jax.Array  # [K], N.
  sums: jax.Array  # [K, D], m.


@dataclasses.dataclass(frozen=True)
class Averages:
  """How a codebook learns. The defaults are Jukebox's.

  With first_count=0, debias=True, smoothing=1e-5, init='uniform' and no
  restarts it is Sonnet's; with first_count=0, smoothing=1e-5, init='normal' and
  no restarts that of the VQ-VAE-2 port, whose unused codes are out of reach
  for about a thousand steps.
  """

  size: int = 2048  # K
  width: int = 64  # D
  init: str = 'data'  # From the first batch, or 'kmeans' of it; or random.
  decay: float = 0.99
  first_count: float = 1.0  # N before the first step.
  debias: bool = False  # Averages begin at 0 and are scaled up.
  smoothing: float = 0.0  # Added to N, of which the total stays.
  restart_below: float = 1.0  # On N: vectors a step, of all devices; 0: never.

  def __post_init__(self):
    if self.init not in INITS:
      raise errors.UserError(
          f'codebook init={self.init!r} is not one of '
          f'{", ".join(map(repr, INITS))}')
    for name, value, least in (('size', self.size, 2), ('width', self.width, 1),
                               ('restart_below', self.restart_below, 0)):
      if value < least:
        raise errors.UserError(f'codebook {name}={value} is below {least}')
    # The codes before the first step are averages of so many vectors.
    errors.require(self.first_count in (0.0, 1.0),
                   f'codebook first_count={self.first_count}', '0 or 1')
    errors.require(0.0 <= self.smoothing < math.inf,
                   f'codebook smoothing={self.smoothing}', '0 or more')
    if not 0.0 <= self.decay < 1.0:
      raise errors.UserError(
          f'codebook decay={self.decay} is not in [0, 1); the papers have 0.99')

  def create(self, key) -> Codebook:
    """Before any data: 'data' and 'kmeans' begin at the first `update`."""
    shape = self.size, self.width
    if self.init == 'uniform':  # Sonnet's: its array is [D, K].
      bound = math.sqrt(3.0 / self.width)
      codes = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    else:
      codes = jax.random.normal(key, shape)
    return self._around(codes)

  def _around(self, codes) -> Codebook:
    codes = codes.astype(jnp.float32)
    counts = jnp.full(self.size, 0.0 if self.debias else self.first_count,
                      jnp.float32)
    return Codebook(codes, counts, jnp.zeros_like(codes) if self.debias
                    else codes)

  def begin(self, book: Codebook, x, key, step) -> Codebook:
    """The codebook to encode x [B, ..., D] with: from the data at step 0."""
    if self.init not in ('data', 'kmeans'):
      return book
    rows = jax.lax.stop_gradient(x).astype(jnp.float32).reshape(-1, self.width)

    def from_data():
      codes = self._draw(rows, key)
      if self.init == 'kmeans':
        codes = kmeans(rows, codes)
      return self._around(codes)

    return jax.lax.cond(step == 0, from_data, lambda: book)

  def update(self, book: Codebook, x, indices, key, step):
    """One step of the averages, after x was encoded by `indices`.

    Returns the codebook and what there is to know of it: 'used', the codes
    that this batch chose; 'usage', those above the threshold; 'perplexity';
    'restarted'; 'moved', the norm of the codes' change.
    """
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    chosen, sums = totals(x, indices, self.size)
    g = self.decay
    counts = g * book.counts + (1.0 - g) * chosen
    sums = g * book.sums + (1.0 - g) * sums
    n, m = counts, sums
    if self.debias:
      scale = 1.0 - g ** (step.astype(jnp.float32) + 1.0)
      n, m = n / scale, m / scale
    if self.smoothing:
      total = n.sum()
      n = (n + self.smoothing) / (total + self.size * self.smoothing) * total
    used = n >= (self.restart_below or 1.0)
    codes = m / jnp.where(n > 0.0, n, 1.0)[:, None]
    if self.restart_below:
      # N and m stay as they are: until its average is above the threshold, the
      # code is drawn again each step.
      rows = x.reshape(-1, self.width)
      codes = jnp.where(used[:, None], codes, self._draw(rows, key))
    else:
      codes = jnp.where(n[:, None] > 0.0, codes, book.codes)
    return Codebook(codes, counts, sums), {
        'used': (chosen > 0.0).sum() / self.size,
        'usage': used.sum() / self.size,
        'perplexity': perplexity(chosen),
        'restarted': jnp.where(self.restart_below > 0, (~used).sum(), 0),
        'moved': jnp.sqrt(((codes - book.codes) ** 2).sum())}

  def _draw(self, rows, key):
    """K different vectors of the batch; of too few, copies with some noise.

    One from each of K equal parts: no order of all of them has to be made.
    """
    key_place, key_order, key_noise = jax.random.split(key, 3)
    copies = -(-self.size // rows.shape[0])
    total = copies * rows.shape[0]
    bounds = jnp.asarray(np.arange(self.size + 1) * total // self.size)
    place = jax.random.randint(key_place, (self.size,), bounds[:-1],
                               bounds[1:])
    drawn = rows[jax.random.permutation(key_order, place) % rows.shape[0]]
    if copies > 1:
      drawn += 0.01 / math.sqrt(self.width) * jax.random.normal(
          key_noise, drawn.shape)
    return drawn


def totals(x, indices, size, implementation=None):
  """How many vectors of x [B, ..., D] chose each code, and their sums.

  Returns [K] and [K, D], over the batch of all devices. 'scatter' is fast on
  CPU. On GPU it adds in any order, so that a resumed run would differ;
  'one_hot' is a product of matrices, in blocks.
  """
  if implementation is None:
    scatter = jax.default_backend() == 'cpu'
    implementation = 'scatter' if scatter else 'one_hot'
  if implementation == 'scatter':
    indices = indices.reshape(-1)
    return (jax.ops.segment_sum(jnp.ones(indices.shape), indices, size),
            jax.ops.segment_sum(x.reshape(-1, x.shape[-1]), indices, size))

  def of_device(x):  # [b, ..., D + 1], the code last -> [1, K, D + 1]
    rows = x.reshape(-1, x.shape[-1])
    block = max(1, min(len(rows), BLOCK // size))
    count = -(-len(rows) // block)
    rows = jnp.pad(rows, ((0, count * block - len(rows)), (0, 0)),
                   constant_values=-1.0)  # No code: its row is all 0.

    def step(total, rows):
      one_hot = jax.nn.one_hot(rows[:, -1].astype(jnp.int32), size)
      ones = jnp.ones((block, 1))
      return total + jnp.matmul(
          one_hot.T, jnp.concatenate([rows[:, :-1], ones], -1),
          precision=_EXACT), None

    zero = jnp.zeros((size, x.shape[-1])) + 0.0 * rows[0, 0]
    return jax.lax.scan(step, zero, rows.reshape(count, block, -1))[0][None]

  both = sharding.per_device(of_device, jnp.concatenate(
      [x, indices[..., None].astype(jnp.float32)], -1)).sum(0)
  return both[:, -1], both[:, :-1]


def kmeans(rows, codes, iterations: int = 50):
  """Lloyd's algorithm from `codes` [K, D] on; a cluster without rows stays."""
  def step(_, codes):
    counts, sums = totals(rows, nearest(rows, codes), codes.shape[0])
    means = sums / jnp.maximum(counts, 1.0)[:, None]
    return jnp.where(counts[:, None] > 0.0, means, codes)

  return jax.lax.fori_loop(0, iterations, step, codes)


def perplexity(counts):
  """exp of the entropy of how often each of K codes was chosen: 1 to K."""
  p = counts / jnp.maximum(counts.sum(), 1.0)
  return jnp.exp(-(p * jnp.log(p + 1e-10)).sum())


def check(name: str, codes, size: int) -> np.ndarray:
  """Codes from outside, on the host: whole numbers from 0 to size - 1."""
  codes = np.asarray(codes)
  if codes.dtype.kind not in 'iu':
    raise errors.UserError(
        f'{name}: codes are whole numbers, not {codes.dtype}')
  if codes.size and not 0 <= codes.min() <= codes.max() < size:
    raise errors.UserError(
        f'{name}: codes from {codes.min()} to {codes.max()} do not fit a '
        f'codebook of {size}; they come from another codec')
  return codes.astype(np.int32)
