import importlib
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common.nn import attention

B, L, H, D, E = 2, 13, 3, 4, 5


def draw(*shape, seed=0):
  return np.random.default_rng([seed, *shape]).normal(size=shape).astype(
      np.float32)


def inputs(length=L):
  return draw(B, length, H, D, seed=1), draw(B, length, H, D, seed=2), draw(
      B, length, H, E, seed=3)


def naive(q, k, v, table=None, relations=(), block=0, local=False, clip=False,
          window=L):
  """One number after the other, in float64."""
  q, k, v = (x.astype(np.float64) for x in (q, k, v))
  out = np.zeros((*q.shape[:3], v.shape[3]))
  for b, i, h in itertools.product(*map(range, q.shape[:3])):
    logits = {}
    for j in range(max(0, i + 1 - window), i + 1):
      if local and i // block - j // block > 1:
        continue
      logit = q[b, i, h] @ k[b, j, h]
      if table is not None and (i - j < table.shape[1] or clip):
        logit += q[b, i, h] @ table[h, max(table.shape[1] - 1 - (i - j), 0)]
      for rows, values in relations:
        size = rows.shape[1]
        at = min(max(size // 2 + values[b, j] - values[b, i], 0), size - 1)
        logit += q[b, i, h] @ rows[h, at]
      logits[j] = logit / math.sqrt(q.shape[3])
    total = sum(math.exp(x) for x in logits.values())
    out[b, i, h] = sum(math.exp(x) / total * v[b, j, h]
                       for j, x in logits.items())
  return out


def test_skew_is_the_worked_example():
  x = np.array([['a0', 'a1', 'a2'], ['b0', 'b1', 'b2'], ['c0', 'c1', 'c2']])
  number = {name: i + 1 for i, name in enumerate(x.ravel())}
  got = attention.skew(jnp.array([[number[n] for n in row] for row in x]))
  name = {v: k for k, v in number.items()} | {0: '0'}
  assert [[name[int(n)] for n in row] for row in got] == [
      ['a2', '0', 'b0'], ['b1', 'b2', '0'], ['c0', 'c1', 'c2']]


@pytest.mark.parametrize('n, k', [(5, 5), (3, 8), (1, 4), (4, 12)])
def test_skew_is_a_gather_by_distance(n, k):
  x = draw(2, n, k)
  got = attention.skew(x)
  for i, j in itertools.product(range(n), range(k)):
    if j + n - 1 - i < k:
      np.testing.assert_array_equal(got[:, i, j], x[:, i, j + n - 1 - i])


CASES = {
    'plain': {},
    'relative': {'table': L},
    'more rows than tokens': {'table': 20},
    'beyond the table': {'table': 5},
    'beyond the table, clipped': {'table': 5, 'clip': True},
    'local': {'local': True, 'block': 4},
    'local relative': {'local': True, 'block': 4, 'table': 8},
    'local relative, one block': {'local': True, 'block': 20, 'table': 40},
    'pitch and time': {'relations': (7, 40), 'table': 9},
}


def options(case):
  c = dict(CASES[case])
  out = {k: c[k] for k in ('clip', 'local', 'block') if k in c}
  if 'table' in c:
    out['table'] = draw(H, c['table'], D, seed=4)
  relations = [
      (draw(H, size, D, seed=5),
       np.random.default_rng(size).integers(-6, 6, (B, L)).astype(np.int32))
      for size in c.get('relations', ())]
  return out, relations


@pytest.mark.parametrize('case, block', [
    (case, block) for case in CASES for block in (0, 1, 4, 6)
    if not ('local' in CASES[case] and block)])
def test_blocks_give_what_a_loop_over_all_pairs_gives(case, block):
  kwargs, relations = options(case)
  want = naive(*inputs(), relations=relations, **kwargs)
  got = attention.causal(
      *inputs(), **{'block': block} | kwargs,
      relations=[attention.Relation(*r) for r in relations])
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('case', CASES)
def test_step_by_step_with_a_cache_is_the_same(case):
  kwargs, relations = options(case)
  q, k, v = inputs()
  want = attention.causal(
      q, k, v, relations=[attention.Relation(*r) for r in relations], **kwargs)
  cache = attention.Cache.empty(B, L + 3, H, D, E, len(relations))
  for i in range(L):
    got, cache = attention.step(
        cache, q[:, i], k[:, i], v[:, i], jnp.int32(i),
        relations=[attention.Relation(t, x[:, i]) for t, x in relations],
        **kwargs)
    np.testing.assert_allclose(got, want[:, i], atol=1e-5)


@pytest.mark.parametrize('case', CASES)
def test_a_full_cache_forgets_the_oldest(case):
  kwargs, relations = options(case)
  q, k, v = inputs()
  want = naive(q, k, v, relations=relations, window=6, **kwargs)
  cache = attention.Cache.empty(B, 6, H, D, E, len(relations))
  for i in range(L):
    got, cache = attention.step(
        cache, q[:, i], k[:, i], v[:, i], jnp.int32(i),
        relations=[attention.Relation(t, x[:, i]) for t, x in relations],
        **kwargs)
    np.testing.assert_allclose(got, want[:, i], atol=1e-5)


def test_no_query_sees_what_comes_after_it():
  q, k, v = inputs()
  table = draw(H, L, D, seed=4)
  whole = attention.causal(q, k, v, table=table, block=4)
  for t in range(1, L):
    other = [x.copy() for x in (q, k, v)]
    for x in other:
      x[:, t:] += 1
    got = attention.causal(*other, table=table, block=4)
    np.testing.assert_array_equal(got[:, :t], whole[:, :t])
    assert np.abs(got[:, t] - whole[:, t]).max() > 1e-3


def test_the_gradient_of_blocks_is_that_of_the_whole():
  table = draw(H, 9, D, seed=4)

  def loss(args, block):
    return attention.causal(
        *args[:3], table=args[3], block=block).sum() ** 2

  args = (*inputs(), table)
  whole, parts = (jax.grad(loss)(args, block) for block in (0, 4))
  for a, b in zip(whole, parts, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def outputs(jaxpr):
  """(name of the operation, what comes out) of all that is computed."""
  for eqn in jaxpr.eqns:
    for out in eqn.outvars:
      yield eqn.primitive.name, out.aval
    for value in eqn.params.values():
      for inner in value if isinstance(value, (tuple, list)) else [value]:
        if hasattr(inner, 'jaxpr'):
          inner = inner.jaxpr
        if hasattr(inner, 'eqns'):
          yield from outputs(inner)


def largest(fn, *args):
  return max(math.prod(x.shape)
             for _, x in outputs(jax.make_jaxpr(fn)(*args).jaxpr))


@pytest.mark.parametrize('block', [0, 256])
def test_nothing_is_as_large_as_all_pairs_of_vectors(block):
  length, heads, width = 2048, 8, 64
  q = jax.ShapeDtypeStruct((1, length, heads, width), jnp.float32)
  table = jax.ShapeDtypeStruct((heads, length, width), jnp.float32)
  found = largest(jax.grad(
      lambda q, t: attention.causal(q, q, q, table=t, block=block).sum(),
      argnums=(0, 1)), q, table)
  # The skewed logits have a column more than the logits.
  assert found == heads * (block or length) * (length + 1)


@pytest.mark.parametrize('name', [
    'music_transformer_jsb', 'music_transformer_maestro',
    'melody_transformer_maestro'])
def test_models_of_the_papers_sizes_have_no_array_of_all_pairs(name):
  """A step of training one row: not even the logits, one a head and pair."""
  config = config_lib.load(name)
  config.batch_size = 1
  module = importlib.import_module(config.module)
  model, length = module.build(config), config.model.length
  batch = {'tokens': jax.ShapeDtypeStruct((1, length), jnp.int32),
           'mask': jax.ShapeDtypeStruct((1,), jnp.float32)}
  if name.startswith('melody'):
    batch['melody'] = jax.ShapeDtypeStruct((1, 316), jnp.int32)
  state = jax.eval_shape(model.init, jax.random.key(0), batch)
  found = largest(lambda *args: model.train_step(*args, 0),
                  state, batch, jax.random.key(0))
  assert found < config.model.heads * length**2


def test_dropout_is_of_the_weights_and_keeps_their_mean():
  q, k, _ = inputs()
  ones = np.ones((B, L, H, 1), np.float32)
  total = np.mean([attention.causal(
      q, k, ones, key=jax.random.key(i), dropout=0.25, block=4)
      for i in range(300)], 0)
  np.testing.assert_allclose(total, 1, atol=0.2)
  once = attention.causal(q, k, ones, key=jax.random.key(0), dropout=0.25)
  assert np.abs(once - 1).max() > 0.05
  again = attention.causal(q, k, ones, key=jax.random.key(0), dropout=0.25)
  np.testing.assert_array_equal(once, again)


def test_rotated_products_know_the_distance_only():
  q, k = draw(1, 1, 1, 8), draw(1, 1, 1, 8, seed=1)
  at = lambda x, i: attention.rotate(x, jnp.array([i]))[0, 0, 0]
  np.testing.assert_allclose(at(q, 7) @ at(k, 3), at(q, 104) @ at(k, 100),
                             rtol=1e-4)
  assert abs(at(q, 7) @ at(k, 3) - at(q, 8) @ at(k, 3)) > 1e-3
  np.testing.assert_allclose(jnp.linalg.norm(at(q, 9)), np.linalg.norm(q),
                             rtol=1e-6)
  np.testing.assert_array_equal(at(q, 0), q[0, 0, 0])


def test_another_sequence_is_seen_whole_but_for_its_padding():
  q, k, v = draw(B, 3, H, D), draw(B, 6, H, D, seed=1), draw(B, 6, H, E, seed=2)
  mask = np.array([[1, 1, 1, 1, 0, 0], [1] * 6], np.float32)
  got = attention.across(q, k, v, mask)
  for b, count in ((0, 4), (1, 6)):
    logits = np.einsum('nhd,mhd->hnm', q[b], k[b, :count]) / math.sqrt(D)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        got[b], np.einsum('hnm,mhe->nhe', weights, v[b, :count]), atol=1e-5)


@pytest.mark.parametrize('distances', [0, 1, 4, L, 20])
@pytest.mark.parametrize('block', [0, 1, 4, 20])
def test_all_keys_of_the_own_sequence_have_distances_both_ways(
    distances, block):
  q, k, v = inputs()
  table = draw(H, 2 * distances - 1, D, seed=4) if distances else None
  mask = np.array([[1] * L, [1] * 9 + [0] * (L - 9)], np.float32)
  want = np.zeros((B, L, H, E))
  for b, i, h in itertools.product(range(B), range(L), range(H)):
    weights = np.zeros(L)
    for j in range(int(mask[b].sum())):
      logit = q[b, i, h] @ k[b, j, h]
      if abs(j - i) < distances:
        logit += q[b, i, h] @ table[h, distances - 1 + j - i]
      weights[j] = math.exp(logit / math.sqrt(D))
    want[b, i, h] = weights / weights.sum() @ v[b, :, h]
  got = attention.across(q, k, v, mask, table=table, block=block)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_weights_of_another_sequence_are_dropped_too():
  q, k, _ = inputs()
  ones, mask = np.ones((B, L, H, 1), np.float32), np.ones((B, L), np.float32)
  drawn = jax.jit(jax.vmap(lambda n: attention.across(
      q, k, ones, mask, key=jax.random.key(n), dropout=0.25, block=4)))(
          jnp.arange(300))
  np.testing.assert_allclose(drawn.mean(0), 1, atol=0.2)
  assert np.abs(drawn[0] - 1).max() > 0.05


def test_bfloat16_inputs_have_float32_weights():
  q, k, v = (x.astype(jnp.bfloat16) for x in inputs())
  table = draw(H, L, D).astype(jnp.bfloat16)
  attend = lambda *args: attention.causal(*args, table=table)
  got = attend(q, k, v)
  assert got.dtype == jnp.bfloat16
  logits = {x.dtype for name, x in outputs(
      jax.make_jaxpr(attend)(q, k, v).jaxpr) if name in ('exp', 'div')}
  assert logits == {jnp.dtype(jnp.float32)}
  np.testing.assert_allclose(got.astype(np.float32), naive(
      *inputs(), table=draw(H, L, D)), atol=0.1)


# Of 13 tokens, which no stride divides.
SPARSE = [attention.Sparse(*x) for x in (
    ('strided', 4, 1, 'near'), ('strided', 4, 1, 'far'),
    ('strided', 4, 1, 'both'), ('strided', 4, 1, 'heads'),
    ('strided', 20, 1, 'both'), ('fixed', 4, 2, 'near'),
    ('fixed', 4, 1, 'far'), ('fixed', 6, 3, 'both'), ('fixed', 4, 2, 'heads'),
    ('fixed', 20, 4, 'both'))]


def sees(sparse, i, j, head, heads=H):
  """As published, one pair after the other."""
  kind, s, c, part = sparse
  if j > i:
    return False
  if kind == 'strided':
    near, far = i - j in range(s), (i - j) % s == 0
  else:
    end = s - c * (head % (s // c))
    near, far = i // s == j // s, j % s in range(end - c, end)
  if part == 'heads':
    part = 'near' if head < heads // 2 else 'far'
  return {'near': near, 'far': far, 'both': near or far}[part]


def dense(sparse, q, k, v):
  """All pairs, in float64, with those that are not seen left out."""
  q, k, v = (x.astype(np.float64) for x in (q, k, v))
  seen = np.array([[[sees(sparse, i, j, h) for j in range(L)]
                    for i in range(L)] for h in range(H)])
  logits = np.einsum('bihd,bjhd->bhij', q, k) / math.sqrt(D)
  weights = np.exp(logits) * seen
  weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
  return np.einsum('bhij,bjhe->bihe', weights, v)


def test_the_patterns_are_the_published_ones():
  seen = lambda sparse, i, head=0: [
      j for j in range(16) if sees(sparse, i, j, head, 4)]
  strided, fixed = (lambda part, kind=kind: attention.Sparse(kind, 4, 1, part)
                    for kind in ('strided', 'fixed'))
  assert seen(strided('near'), 9) == [6, 7, 8, 9]
  assert seen(strided('far'), 9) == [1, 5, 9]
  assert seen(strided('both'), 9) == [1, 5, 6, 7, 8, 9]
  assert seen(fixed('near'), 9) == [8, 9]
  assert seen(fixed('far'), 9) == [3, 7]
  assert seen(fixed('far'), 9, head=1) == [2, 6]
  assert seen(fixed('both'), 15) == [3, 7, 11, 12, 13, 14, 15]


@pytest.mark.parametrize('sparse', SPARSE, ids=str)
def test_sparse_patterns_give_what_a_mask_of_all_pairs_gives(sparse):
  got = jax.jit(attention.sparse_causal, static_argnums=3)(*inputs(), sparse)
  np.testing.assert_allclose(got, dense(sparse, *inputs()), atol=1e-5)


@pytest.mark.parametrize('sparse', SPARSE, ids=str)
def test_sparse_patterns_step_by_step_are_the_same(sparse):
  q, k, v = inputs()
  want = dense(sparse, q, k, v)
  step = jax.jit(lambda *args: attention.step(*args, sparse=sparse))
  cache = attention.Cache.empty(B, L + 3, H, D, E)
  for i in range(L):
    got, cache = step(cache, q[:, i], k[:, i], v[:, i], jnp.int32(i))
    np.testing.assert_allclose(got, want[:, i], atol=1e-5)


@pytest.mark.parametrize('sparse', SPARSE, ids=str)
def test_gradients_reach_exactly_what_a_pattern_sees(sparse):
  q, k, v = (x[:1] for x in inputs())
  by_value, by_key = jax.jit(jax.jacobian(
      lambda v, k: attention.sparse_causal(q, k, v, sparse)[0, :, :, 0],
      argnums=(0, 1)))(v, k)  # [L, H] by [1, L, H, .]
  for h in range(H):
    want = [[sees(sparse, i, j, h) for j in range(L)] for i in range(L)]
    found = by_value[:, h, 0, :, h, 0] != 0
    np.testing.assert_array_equal(found, want)
    by_pair = np.abs(by_key[:, h, 0, :, h]).max(-1)
    assert np.isfinite(by_pair).all()
    assert not by_pair[~np.array(want)].any()
    others = np.delete(by_value[:, h, 0], h, axis=2)
    assert not others.any()


@pytest.mark.parametrize('kind, columns, keys', [
    ('strided', 1, 2 * 64 + 64), ('fixed', 8, 64 + 8 * 64)])
def test_sparse_logits_are_few(kind, columns, keys):
  length, heads, width = 4096, 2, 16
  sparse = attention.Sparse(kind, 64, columns)
  q = jax.ShapeDtypeStruct((1, length, heads, width), jnp.float32)
  found = largest(jax.grad(
      lambda q: attention.sparse_causal(q, q, q, sparse).sum()), q)
  assert found == heads * length * keys
  assert found < heads * length**2 / 6


def test_sparse_weights_are_dropped_too():
  q, k, _ = inputs()
  ones = np.ones((B, L, H, 1), np.float32)
  sparse = attention.Sparse('fixed', 4, 2)
  drawn = jax.jit(jax.vmap(lambda n: attention.sparse_causal(
      q, k, ones, sparse, key=jax.random.key(n), dropout=0.25)))(
          jnp.arange(300))
  np.testing.assert_allclose(drawn.mean(0), 1, atol=0.2)
  assert np.abs(drawn[0] - 1).max() > 0.05
