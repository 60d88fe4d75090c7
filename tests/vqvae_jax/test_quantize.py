import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import errors, sharding
from vqvae_jax import quantize


def noise(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def naive_nearest(x, codes):
  """float64, the whole matrix."""
  x, codes = np.asarray(x, np.float64), np.asarray(codes, np.float64)
  return ((x[..., None, :] - codes) ** 2).sum(-1).argmin(-1)


@pytest.mark.parametrize('block', [1, 40, 333, 2**23])
@pytest.mark.parametrize('size', [2, 7, 12, 64, 97])  # Primes have no groups.
def test_nearest_is_the_naive_argmin(size, block, monkeypatch):
  monkeypatch.setattr(quantize, 'BLOCK', block)
  x, codes = noise(3, 5, 4, 6), noise(size, 6, seed=1)
  got = quantize.nearest(x, codes)
  assert got.shape == (3, 5, 4) and got.dtype == jnp.int32
  np.testing.assert_array_equal(got, naive_nearest(x, codes))


def test_nearest_takes_the_first_of_equals_and_one_position_a_row():
  codes = np.array([[1.0], [0.0], [1.0], [0.0], [3.0], [-1.0]], np.float32)
  np.testing.assert_array_equal(
      quantize.nearest(jnp.array([[0.1], [0.9], [2.0], [-9.0]]), codes),
      [1, 0, 0, 5])


def test_nearest_computes_in_float32():
  near = jnp.array([[1.0], [1.001]])  # Equal in bfloat16.
  np.testing.assert_array_equal(
      quantize.nearest(jnp.array([[1.001]]), near), [1])


@pytest.mark.parametrize('shape', [
    (2, 1000, 4), (2000, 4), (500, 4, 4)])  # Those of k-means have no axis T.
def test_blocks_bound_the_memory(shape, monkeypatch):
  x, codes = jnp.zeros(shape), jnp.zeros((64, 4))
  lookup = lambda: jax.jit(quantize.nearest).lower(
      x, codes).compile().memory_analysis().temp_size_in_bytes
  whole = lookup()
  assert whole > 2 * 1000 * 64 * 4
  monkeypatch.setattr(quantize, 'BLOCK', 2000)
  jax.clear_caches()
  assert lookup() < whole / 5


@pytest.mark.parametrize('block', [13, 2**23])
def test_totals_are_those_of_a_loop(block, monkeypatch):
  monkeypatch.setattr(quantize, 'BLOCK', block)
  rows, indices = noise(50, 3), np.random.default_rng(1).integers(0, 6, 50)
  counts, sums = np.zeros(7), np.zeros((7, 3))  # Nobody takes the last one.
  for row, i in zip(rows, indices, strict=True):
    counts[i] += 1
    sums[i] += row
  for name in ('scatter', 'one_hot'):
    got = quantize.totals(jnp.asarray(rows), jnp.asarray(indices), 7, name)
    np.testing.assert_array_equal(got[0], counts)
    np.testing.assert_allclose(got[1], sums, rtol=1e-5, atol=1e-5)


def literal(averages, codes, batches):
  """The updates of section A.1, in float64, one vector after the other."""
  k, g = averages.size, averages.decay
  counts = np.full(k, 0.0 if averages.debias else averages.first_count)
  sums = np.zeros_like(codes) if averages.debias else codes.copy()
  for step, (z, indices) in enumerate(batches):
    n, m = np.zeros(k), np.zeros_like(codes)
    for row, i in zip(z.reshape(-1, z.shape[-1]), indices.reshape(-1),
                      strict=True):
      n[i] += 1
      m[i] += row
    counts, sums = g * counts + (1 - g) * n, g * sums + (1 - g) * m
    scale = 1 - g ** (step + 1) if averages.debias else 1.0
    n, m = counts / scale, sums / scale
    if averages.smoothing:
      eps, total = averages.smoothing, n.sum()
      n = (n + eps) / (total + k * eps) * total
    codes = np.where(n[:, None] > 0, m / np.where(n > 0, n, 1)[:, None], codes)
  return codes


@pytest.mark.parametrize('options', [
    dict(),  # Jukebox's, but for restarts.
    dict(first_count=0.0, smoothing=1e-5),  # The port's.
    dict(debias=True, smoothing=1e-5),  # Sonnet's.
    dict(debias=True)], ids=['jukebox', 'port', 'sonnet', 'debias'])
def test_averages_are_those_of_a_literal_loop(options):
  averages = quantize.Averages(size=5, width=3, init='normal', decay=0.9,
                               restart_below=0.0, **options)
  book = averages.create(jax.random.key(0))
  first = np.asarray(book.codes, np.float64)
  rng = np.random.default_rng(0)
  batches = [(rng.standard_normal((4, 2, 3)), rng.integers(0, 4, (4, 2)))
             for _ in range(6)]
  update = jax.jit(averages.update)
  for step, (z, indices) in enumerate(batches):
    book, _ = update(book, jnp.asarray(z, jnp.float32), jnp.asarray(indices),
                     jax.random.key(step), jnp.int32(step))
  np.testing.assert_allclose(book.codes, literal(averages, first, batches),
                             rtol=2e-4)


def test_a_debiased_first_step_gives_the_means_of_the_clusters():
  averages = quantize.Averages(size=4, width=3, init='uniform', debias=True,
                               first_count=0.0, restart_below=0.0)
  book = averages.create(jax.random.key(0))
  z, indices = noise(10, 2, 3), np.arange(20).reshape(10, 2) % 3
  after, _ = averages.update(book, z, indices, jax.random.key(1), jnp.int32(0))
  for i in range(3):
    np.testing.assert_allclose(after.codes[i], z[indices == i].mean(0),
                               rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(after.codes[3], book.codes[3])  # Not used.


def rows_of(codes, z):
  """Which codes are exactly vectors of z."""
  z = np.asarray(z).reshape(-1, z.shape[-1])
  return np.array([(np.abs(z - c).max(1) < 1e-6).any()
                   for c in np.asarray(codes)])


def test_codes_begin_on_vectors_of_the_first_batch_and_only_there():
  averages = quantize.Averages(size=8, width=3)
  book = averages.create(jax.random.key(0))
  z = noise(6, 4, 3)
  begin = jax.jit(averages.begin)
  first = begin(book, z, jax.random.key(1), jnp.int32(0))
  assert rows_of(first.codes, z).all() and not rows_of(book.codes, z).any()
  assert len(np.unique(np.asarray(first.codes), axis=0)) == 8
  np.testing.assert_array_equal(first.counts, np.ones(8))
  np.testing.assert_array_equal(first.sums, first.codes)
  later = begin(book, z, jax.random.key(1), jnp.int32(1))
  jax.tree.map(np.testing.assert_array_equal, later, book)


def test_of_too_few_vectors_codes_are_copies_with_noise():
  averages = quantize.Averages(size=50, width=16)
  z = noise(20, 16)
  book = averages.begin(averages.create(jax.random.key(0)), jnp.asarray(z),
                        jax.random.key(1), jnp.int32(0))
  distance = np.linalg.norm(
      np.asarray(book.codes)[:, None] - z[None], axis=-1).min(1)
  assert 0.005 < distance.mean() < 0.02  # A norm of about 0.01.
  assert len(np.unique(np.asarray(book.codes), axis=0)) == 50


def test_codes_that_are_half_dead_are_put_on_the_batch_each_step():
  averages = quantize.Averages(size=8, width=3, init='normal')
  book = averages.create(jax.random.key(0))
  far = book.codes.at[4:].set(1e3)
  book = book.replace(codes=far, sums=far)
  drawn, fixed = [], []
  for step in range(3):
    z = noise(64, 3, seed=step)
    indices = quantize.nearest(z, book.codes)
    if step == 0:
      assert int(indices.max()) < 4  # Half of them are dead.
    new, info = averages.update(
        book, z, jnp.full(64, 1) if step else indices, jax.random.key(step),
        jnp.int32(step))
    below = np.asarray(new.counts) < 1.0
    assert below[4:].all()
    assert rows_of(new.codes[below], z).all()
    np.testing.assert_allclose(
        np.asarray(new.codes)[~below],
        np.asarray(new.sums / new.counts[:, None])[~below], rtol=1e-5)
    assert int(info['restarted']) == below.sum()
    np.testing.assert_allclose(info['usage'], 1 - below.mean(), rtol=1e-6)
    drawn.append(np.asarray(new.codes[4:]))
    fixed.append(np.asarray(new.counts[4:]))
    book = new
  assert not np.isclose(drawn[0], drawn[1]).any()  # Again each step.
  np.testing.assert_allclose(fixed[2], 0.99**3, rtol=1e-5)  # N is not reset.


def test_a_code_that_never_was_used_restarts_from_the_first_step_on():
  averages = quantize.Averages(size=4, width=2)
  z = noise(40, 2)
  book = averages.begin(averages.create(jax.random.key(0)), jnp.asarray(z),
                        jax.random.key(1), jnp.int32(0))
  after, info = averages.update(book, z, jnp.zeros(40, jnp.int32),
                                jax.random.key(2), jnp.int32(0))
  assert int(info['restarted']) == 3
  assert rows_of(after.codes[1:], z).all()
  assert float(info['used']) == 0.25 and abs(info['perplexity'] - 1) < 1e-5


def test_without_restarts_the_port_locks_unused_codes_out():
  """N = 0 and m = e: divided by the smoothing, and back by 1 % a step."""
  averages = quantize.Averages(size=512, width=64, init='normal',
                               first_count=0.0, smoothing=1e-5,
                               restart_below=0.0)
  book, norms = averages.create(jax.random.key(0)), []
  z = 0.1 * noise(1024, 64)
  for step in range(20):
    indices = quantize.nearest(z, book.codes)
    book, info = averages.update(book, z, indices, jax.random.key(step),
                                 jnp.int32(step))
    norms.append(float(jnp.linalg.norm(book.codes, axis=1).max()))
  assert 5e5 < norms[0] < 2e6
  np.testing.assert_allclose(np.divide(norms[1:], norms[:-1]), 0.99, atol=2e-3)
  assert float(info['used']) < 0.2


TOY = {  # Codes that a batch uses, perplexity, share of the variance left.
    'sonnet': (dict(init='uniform', first_count=0.0, debias=True,
                    smoothing=1e-5, restart_below=0.0),
               (191, 178, .34), (267, 248, .31)),
    'data': (dict(restart_below=0.0), (477, 395, .29), (487, 416, .27)),
    'jukebox': (dict(), (484, 408, .28), (491, 422, .27))}


@pytest.mark.parametrize('name', TOY)
def test_of_a_fixed_encoder_codebooks_are_used_as_is_known(name):
  """512 codes for 8 dimensions that lie in 64, 2048 vectors a step."""
  options, at_10, at_100 = TOY[name]
  averages = quantize.Averages(size=512, width=64, **options)
  plane = np.linalg.qr(noise(64, 8, seed=3))[0].T

  @jax.jit
  def step(book, i):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), i), 3)
    z = jax.random.normal(keys[0], (2048, 8)) @ plane
    book = averages.begin(book, z, keys[1], i)
    indices = quantize.nearest(z, book.codes)
    error = ((z - book.codes[indices]) ** 2).sum() / (z**2).sum()
    book, info = averages.update(book, z, indices, keys[2], i)
    return book, (512 * info['used'], info['perplexity'], error)

  book = averages.create(jax.random.key(1))
  for i in range(101):
    book, found = step(book, jnp.int32(i))
    if i in (10, 100):
      np.testing.assert_allclose(
          found, at_10 if i == 10 else at_100, rtol=0.1)


@pytest.mark.parametrize('implementation', ['scatter', 'one_hot'])
def test_the_update_is_the_same_on_one_and_four_devices(
    implementation, monkeypatch):
  monkeypatch.setattr(quantize, 'BLOCK', 100)
  monkeypatch.setattr(quantize, 'totals', functools.partial(
      quantize.totals, implementation=implementation))
  averages = quantize.Averages(size=16, width=4)
  z, key = noise(8, 6, 4), jax.random.key(1)

  def run(book, z):
    out = []
    for step in range(3):
      book = averages.begin(book, z, key, jnp.int32(step))
      indices = quantize.nearest(z, book.codes)
      k = jax.random.fold_in(key, step)
      book, info = averages.update(book, z, indices, k, jnp.int32(step))
      out.append((indices, book, info))
    return out

  book, results = averages.create(jax.random.key(0)), []
  for data in (1, 4):
    mesh = sharding.make_mesh(data=data)
    whole, by_row = sharding.replicated(mesh), sharding.by_row(mesh)
    with sharding.tracing(mesh):
      results.append(jax.device_get(jax.jit(run, out_shardings=whole)(
          jax.device_put(book, whole), jax.device_put(z, by_row))))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5,
                                                       atol=1e-6), *results)


def test_the_gradient_passes_straight_through_and_the_commitment_pulls():
  """d loss / d z = d loss / d q + 2 beta (z - e) / numel."""
  beta, w = 0.25, noise(6, 4, seed=2)
  z, codes = jnp.asarray(noise(3, 2, 4)), jnp.asarray(noise(7, 4, seed=1))
  indices = quantize.nearest(z, codes)
  decoder = lambda q: jnp.tanh(q.reshape(3, -1) @ jnp.tile(w, (2, 1))[:8]).sum()

  def loss(z):
    q = quantize.straight_through(z, codes, indices)
    return decoder(q) + beta * quantize.commitment(z, codes, indices).mean()

  got = jax.grad(loss)(z)
  want = (jax.grad(decoder)(codes[indices])
          + 2 * beta * (z - codes[indices]) / z.size)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_both_losses_are_squares_and_each_moves_its_own_side():
  z, codes = jnp.asarray(noise(3, 2, 4)), jnp.asarray(noise(7, 4, seed=1))
  indices = quantize.nearest(z, codes)
  want = ((np.asarray(z) - np.asarray(codes)[indices]) ** 2).mean((1, 2))
  for loss, moves in ((quantize.commitment, 0), (quantize.codebook_loss, 1)):
    np.testing.assert_allclose(loss(z, codes, indices), want, rtol=1e-5)
    gradients = jax.grad(lambda *a, f=loss: f(*a, indices).sum(), (0, 1))(
        z, codes)
    assert [bool(g.any()) for g in gradients] == [moves == 0, moves == 1]


def test_the_quantised_value_is_the_code_in_the_dtype_of_x():
  z, codes = jnp.asarray(noise(3, 4), jnp.bfloat16), jnp.asarray(noise(7, 4))
  q = quantize.straight_through(z, codes, jnp.array([1, 5, 0]))
  assert q.dtype == jnp.bfloat16
  np.testing.assert_allclose(q.astype(jnp.float32), codes[jnp.array([1, 5, 0])],
                             atol=0.03)


def test_kmeans_finds_three_heaps_and_leaves_an_empty_cluster():
  heaps = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], np.float32)
  rows = np.repeat(heaps, 20, 0) + 0.1 * noise(60, 2)
  first = jnp.array([[1.0, 1.0], [6.0, 1.0], [1.0, 7.0], [99.0, 99.0]])
  got = quantize.kmeans(jnp.asarray(rows), first)
  np.testing.assert_allclose(got[:3], rows.reshape(3, 20, 2).mean(1), atol=1e-5)
  np.testing.assert_array_equal(got[3], first[3])


def test_perplexity_counts_what_is_used():
  np.testing.assert_allclose(quantize.perplexity(jnp.full(8, 3.0)), 8,
                             rtol=1e-5)
  one = jnp.zeros(8).at[2].set(5.0)
  np.testing.assert_allclose(quantize.perplexity(one), 1, rtol=1e-5)
  p = np.array([0.5, 0.25, 0.25])
  np.testing.assert_allclose(quantize.perplexity(4 * jnp.asarray(p)),
                             np.exp(-(p * np.log(p)).sum()), rtol=1e-5)


@pytest.mark.parametrize('codes, says', [
    (np.array([0.5]), 'whole numbers'), (np.array([0, 8]), 'codebook of 8'),
    (np.array([-1, 3]), 'from -1 to 3')])
def test_codes_from_outside_are_checked(codes, says):
  with pytest.raises(errors.UserError, match=says):
    quantize.check('song.npy', codes, 8)


def test_good_codes_and_none_at_all_pass():
  assert quantize.check('a', np.array([0, 7], np.int64), 8).dtype == np.int32
  assert quantize.check('a', np.zeros((0, 3), np.uint8), 8).shape == (0, 3)


@pytest.mark.parametrize('options, says', [
    (dict(init='zeros'), 'init'), (dict(size=1), 'size'),
    (dict(width=0), 'width'), (dict(restart_below=-1.0), 'restart_below'),
    (dict(decay=1.0), 'decay'),
    (dict(first_count=5.0), 'first_count=5.0 .*0 or 1'),
    (dict(first_count=-1.0), 'first_count'),
    (dict(smoothing=-1e-5), 'smoothing=-1e-05 .*0 or more'),
    (dict(smoothing=np.nan), 'smoothing')])
def test_settings_that_cannot_work_are_refused(options, says):
  with pytest.raises(errors.UserError, match=says):
    quantize.Averages(**options)
