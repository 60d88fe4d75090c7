import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import optim
from common.nn import attention, transformer

SMALL = {'vocab': 17, 'width': 32, 'layers': 3, 'heads': 4,
         'attention_width': 16, 'feed_forward': 24}
MAESTRO = {'vocab': 388, 'width': 256, 'layers': 6, 'heads': 8,
           'attention_width': 512, 'feed_forward': 2048, 'distances': 1024}
JSB = {'vocab': 48, 'layers': 5, 'heads': 8}
KINDS = {
    'relative': {'distances': 12},
    'fewer distances than tokens': {'distances': 5},
    'clipped': {'distances': 5, 'clip': True},
    'no positions': {'place': 'none'},
    'learned': {'place': 'learned', 'learned': 12},
    'rotary': {'place': 'none', 'rotary': True},
    'concatenated': {'place': 'concatenated'},
    'voices': {'place': 'concatenated', 'voices': 4, 'distances': 8},
    'differences': {'differences': (9, 11), 'distances': 8},
    'local': {'local': True, 'block': 3, 'distances': 6},
    'strided': {'sparse': (attention.Sparse('strided', 4),),
                'place': 'learned', 'learned': 12},
    'strided in turns': {
        'sparse': (attention.Sparse('strided', 4, 1, 'near'),
                   attention.Sparse('strided', 4, 1, 'far')),
        'layers': 4, 'remat': True, 'rotary': True},
    'fixed by heads': {'sparse': (attention.Sparse('fixed', 4, 2, 'heads'),),
                       'activation': 'gelu'},
    'added': {'added': (12, 5)},
    'fused': {'fused': True, 'attention_width': SMALL['width'],
              'rotary': True},
    'remat, in blocks': {'remat': True, 'block': 4, 'distances': 8},
}


def make(**kwargs):
  net = transformer.Transformer(**(SMALL | kwargs))
  tokens = np.random.default_rng(0).integers(0, 17, (2, 12)).astype(np.int32)
  values = tuple(np.random.default_rng(i).integers(0, 9, (2, 12)).astype(
      np.int32) for i, _ in enumerate(net.differences))
  params = jax.jit(net.init)(jax.random.key(0), tokens, values,
                             added=added_of(net))
  return net, params, tokens, values


def added_of(net):
  """Rows of the added tables, some of them none."""
  return tuple(np.random.default_rng(n).integers(-1, n, (2, 12)).astype(
      np.int32) for n in net.added)


@pytest.mark.parametrize('config, count', [
    (MAESTRO, 12_015_616), (MAESTRO | {'vocab': 310}, 11_975_680),
    (MAESTRO | {'distances': 0}, 8_869_888),
    (MAESTRO | {'vocab': 310, 'width': 384, 'layers': 8, 'feed_forward': 1024},
     16_253_184),
    (JSB | {'width': 512, 'attention_width': 512, 'feed_forward': 512,
            'distances': 256}, 8_585_216),
    (JSB | {'width': 256, 'attention_width': 256, 'feed_forward': 1024},
     3_968_768)])
def test_parameter_counts_are_those_of_tensor2tensor(config, count):
  net = transformer.Transformer(**config)
  shapes = jax.eval_shape(net.init, jax.random.key(0),
                          jnp.zeros((1, 8), jnp.int32))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_parts_of_a_layer_have_their_counts():
  net = transformer.Transformer(**MAESTRO)
  layer = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(
      (1, 8), jnp.int32))['params']['layers']
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree)) // 6
  parts = dict(layer['attention'])
  assert size(parts.pop('distance')) == 524_288
  assert size(parts) == 393_216
  assert size([layer['inner'], layer['outer']]) == 1_050_880
  assert size([layer['norm_attention'], layer['norm_feed_forward']]) == 1024


@pytest.mark.parametrize('kind', KINDS)
def test_one_token_at_a_time_gives_the_logits_of_all(kind):
  net, params, tokens, values = make(**KINDS[kind])
  added = added_of(net)
  whole, none = jax.jit(net.apply)(params, tokens, values, added=added)
  assert none is None and whole.dtype == jnp.float32
  caches = net.empty_caches(2, 12)
  single, apart = net.for_steps(params['params'])
  step = jax.jit(lambda c, t, v, i, a: single.apply(
      {'params': apart}, t, v, c, i, a))
  for i in range(12):
    at = slice(i, i + 1)
    got, caches = step(caches, tokens[:, at], tuple(v[:, at] for v in values),
                       jnp.int32(i), tuple(x[:, at] for x in added))
    np.testing.assert_allclose(got[:, 0], whole[:, i], atol=2e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_a_token_changes_no_logits_before_its_own(kind):
  net, params, tokens, values = make(**KINDS[kind])
  apply = jax.jit(lambda tokens, values: net.apply(
      params, tokens, values, added=added_of(net)))
  whole, _ = apply(tokens, values)
  for t in (1, 5, 11):
    other = tokens.copy()
    other[:, t] = (other[:, t] + 1) % 17
    changed = [v.copy() for v in values]
    for v in changed:
      v[:, t] += 3
    got, _ = apply(other, tuple(changed))
    np.testing.assert_array_equal(got[:, :t], whole[:, :t])
    assert np.abs(got[:, t] - whole[:, t]).max() > 1e-3


def test_logits_equal_a_literal_restatement():
  net, variables, tokens, _ = make(layers=2, distances=5)
  tokens[0, 0] = transformer.NOTHING
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables['params'])

  def norm(x, scale, bias):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias

  x = np.zeros((2, 12, 32))
  for b in range(2):
    for i in range(12):
      if tokens[b, i] >= 0:
        x[b, i] = p['tokens'][tokens[b, i]] * math.sqrt(32)
      for j in range(16):
        angle = i / 10000 ** (j / 15)
        x[b, i, j] += math.sin(angle)
        x[b, i, 16 + j] += math.cos(angle)
  for n in range(2):
    w = jax.tree.map(lambda x, n=n: x[n], p['layers'])
    a = w['attention']
    y = norm(x, w['norm_attention']['scale'], w['norm_attention']['bias'])
    q, k, v = (np.reshape(y @ a[name]['kernel'], (2, 12, 4, -1))
               for name in ('query', 'key', 'value'))
    out = np.zeros(v.shape)
    for i in range(12):
      logits = np.einsum('bhd,bjhd->bhj', q[:, i], k[:, :i + 1])
      for j in range(max(0, i - 4), i + 1):  # Further back: nothing.
        logits[:, :, j] += np.einsum('bhd,hd->bh', q[:, i],
                                     a['distance'][:, 4 - (i - j)])
      weights = np.exp(logits / 2)  # Square root of a width of 4.
      weights /= weights.sum(-1, keepdims=True)
      out[:, i] = np.einsum('bhj,bjhe->bhe', weights, v[:, :i + 1])
    x = x + out.reshape(2, 12, 32) @ a['output']['kernel']
    y = norm(x, w['norm_feed_forward']['scale'], w['norm_feed_forward']['bias'])
    y = np.maximum(y @ w['inner']['kernel'] + w['inner']['bias'], 0)
    x = x + y @ w['outer']['kernel'] + w['outer']['bias']
  want = norm(x, p['norm']['scale'], p['norm']['bias']) @ p['logits'].T
  got, _ = net.apply(variables, tokens)
  np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize('config', [
    JSB | {'width': 256, 'attention_width': 256, 'feed_forward': 1024},
    MAESTRO, MAESTRO | {'vocab': 310}])
def test_the_first_loss_is_a_half_above_a_uniform_guess(config):
  net, vocab = transformer.Transformer(**config), config['vocab']
  tokens = np.random.default_rng(0).integers(
      0, vocab, (2, 64)).astype(np.int32)
  params = jax.jit(net.init)(jax.random.key(0), tokens)
  logits, _ = jax.jit(net.apply)(params, tokens)
  nll = -jax.nn.log_softmax(logits).mean()  # Over all tokens alike.
  assert abs(nll - (math.log(vocab) + 0.5)) < 0.1


def test_sinusoids_are_sines_then_cosines():
  got = transformer.sinusoid(jnp.array([0, 1, 7]), 6)
  rates = [1, 1e-2, 1e-4]
  want = [[math.sin(i * r) for r in rates] + [math.cos(i * r) for r in rates]
          for i in (0, 1, 7)]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_remat_and_blocks_change_no_gradient():
  def gradient(**kwargs):
    net, params, tokens, _ = make(distances=8, **kwargs)
    return jax.grad(lambda p: net.apply(p, tokens)[0].std())(params)

  plain, other = gradient(), gradient(remat=True, block=4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), plain,
               other)


def test_dropout_is_drawn_from_its_key_in_training_only():
  net, params, tokens, _ = make(distances=8, dropout=0.5)
  run = lambda n: net.apply(params, tokens, train=True,
                            rngs={'dropout': jax.random.key(n)})[0]
  np.testing.assert_array_equal(run(0), run(0))
  assert np.abs(run(0) - run(1)).max() > 0.1
  assert np.abs(run(0) - net.apply(params, tokens)[0]).max() > 0.1


# ---------------------------------------------------------------- encoders


def encoded(distances=4, seed=0, **kwargs):
  """An encoder, and what it takes: the second of its two rows is shorter."""
  sizes = {k: v for k, v in SMALL.items() if k != 'vocab'}
  net = transformer.Encoder(vocab=9, distances=distances, **sizes | kwargs)
  tokens = np.random.default_rng(seed).integers(0, 9, (2, 7)).astype(np.int32)
  mask = np.array([[1] * 7, [1] * 4 + [0] * 3], np.float32)
  return net, jax.jit(net.init)(jax.random.key(1), tokens, mask), tokens, mask


def attentive(**kwargs):
  """A decoder of that: its memory as well."""
  encoder, params, tokens, mask = encoded()
  memory = jax.jit(encoder.apply)(params, tokens, mask)
  net, _, tokens, values = make(**kwargs)
  params = jax.jit(net.init)(jax.random.key(0), tokens, values, memory=memory)
  return net, params, tokens, values, memory


@pytest.mark.parametrize('kind', ['differences', 'strided in turns',
                                  'remat, in blocks'])
def test_with_a_memory_one_token_at_a_time_gives_the_same_logits(kind):
  net, params, tokens, values, memory = attentive(**KINDS[kind])
  whole, _ = jax.jit(net.apply)(params, tokens, values, memory=memory)
  caches = net.empty_caches(2, 12)
  single, apart = net.for_steps(params['params'])
  memories = net.memories(apart, memory)
  step = jax.jit(lambda c, t, v, i: single.apply(
      {'params': apart}, t, v, c, i, memory=memories))
  for i in range(12):
    at = slice(i, i + 1)
    got, caches = step(caches, tokens[:, at], tuple(v[:, at] for v in values),
                       jnp.int32(i))
    np.testing.assert_allclose(got[:, 0], whole[:, i], atol=1e-5)


def test_an_encoder_and_a_decoder_equal_a_literal_restatement():
  encoder, variables, notes, mask = encoded(distances=3, layers=2)
  net, _, tokens, _ = make(layers=2, distances=5)
  tokens[0, 0] = transformer.NOTHING
  memory = jax.jit(encoder.apply)(variables, notes, mask)
  both = jax.jit(net.init)(jax.random.key(0), tokens, memory=memory)
  e, d = (jax.tree.map(lambda x: np.asarray(x, np.float64), v['params'])
          for v in (variables, both))

  def norm(x, w):
    mean = x.mean(-1, keepdims=True)
    return ((x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * w['scale']
            + w['bias'])

  def attend(w, x, source, seen, table=None, zero=0):
    """seen(b, i, j); the table's row `zero` is that of the own place."""
    heads = lambda x, name: (x @ w[name]['kernel']).reshape(
        *x.shape[:2], 4, -1)
    q, k, v = heads(x, 'query'), heads(source, 'key'), heads(source, 'value')
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, i, h in np.ndindex(q.shape[:3]):
      weights = np.zeros(k.shape[1])
      for j in range(len(weights)):
        vector, row = k[b, j, h], zero + j - i
        if table is not None and 0 <= row < table.shape[1]:
          vector = vector + table[h, row]
        weights[j] = seen(b, i, j) * math.exp(q[b, i, h] @ vector / 2)
      out[b, i, h] = weights / weights.sum() @ v[b, :, h]
    return out.reshape(x.shape) @ w['output']['kernel']

  def feed_forward(w, x):
    y = np.maximum(x @ w['inner']['kernel'] + w['inner']['bias'], 0)
    return y @ w['outer']['kernel'] + w['outer']['bias']

  def embed(table, ids):
    x = np.where((ids >= 0)[..., None], table[ids] * math.sqrt(32), 0.0)
    return x + np.asarray(transformer.sinusoid(jnp.arange(ids.shape[1]), 32))

  x = embed(e['tokens'], notes)
  real = lambda b, i, j: mask[b, j]
  for n in range(2):
    w = jax.tree.map(lambda x, n=n: x[n], e['layers'])
    y = norm(x, w['norm_attention'])
    x = x + attend(w['attention'], y, y, real, w['attention']['distance'], 2)
    x = x + feed_forward(w, norm(x, w['norm_feed_forward']))
  heard = norm(x, e['norm'])
  np.testing.assert_allclose(memory.x, heard, atol=2e-5)
  x = embed(d['tokens'], tokens)
  for n in range(2):
    w = jax.tree.map(lambda x, n=n: x[n], d['layers'])
    y = norm(x, w['norm_attention'])
    x = x + attend(w['attention'], y, y, lambda b, i, j: j <= i,
                   w['attention']['distance'], 4)
    x = x + attend(w['across'], norm(x, w['norm_across']), heard, real)
    x = x + feed_forward(w, norm(x, w['norm_feed_forward']))
  got, _ = jax.jit(net.apply)(both, tokens, memory=memory)
  np.testing.assert_allclose(got, norm(x, d['norm']) @ d['logits'].T, atol=2e-5)


def test_each_place_of_an_encoder_sees_all_real_ones_and_no_padding():
  net, params, tokens, mask = encoded()
  apply = jax.jit(net.apply)
  plain = apply(params, tokens, mask).x
  for at in range(7):
    other = tokens.copy()
    other[:, at] = (other[:, at] + 1) % 9
    change = np.abs(apply(params, other, mask).x - plain).max(-1)  # [2, 7]
    assert (change[0] > 1e-4).all()
    assert (change[1, :4] > 1e-4).all() == (at < 4)
    if at >= 4:
      np.testing.assert_array_equal(change[1, :4], 0)


def test_all_logits_see_the_memory_but_not_its_padding():
  net, params, tokens, _, memory = attentive(distances=8)
  apply = jax.jit(net.apply)
  plain, _ = apply(params, tokens, memory=memory)
  for at, rows in ((0, 2), (3, 2), (6, 1)):
    x = memory.x.at[:, at].add(1.0)
    got, _ = apply(params, tokens, memory=memory._replace(x=x))
    change = np.abs(got - plain).max(-1)
    assert (change[:rows] > 1e-3).all()
    np.testing.assert_array_equal(change[rows:], 0)


def test_with_a_memory_a_token_changes_no_logits_before_its_own():
  net, params, tokens, _, memory = attentive(distances=8)
  apply = jax.jit(net.apply)
  plain, _ = apply(params, tokens, memory=memory)
  for t in (1, 5, 11):
    other = tokens.copy()
    other[:, t] = (other[:, t] + 1) % 17
    got, _ = apply(params, other, memory=memory)
    np.testing.assert_array_equal(got[:, :t], plain[:, :t])
    assert np.abs(got[:, t] - plain[:, t]).max() > 1e-3


def test_encoders_have_dropout_in_training_only():
  net, params, tokens, mask = encoded(dropout=0.5)
  run = jax.jit(lambda n: net.apply(params, tokens, mask, train=True,
                                    rngs={'dropout': jax.random.key(n)}).x)
  np.testing.assert_array_equal(run(0), run(0))
  assert np.abs(run(0) - run(1)).max() > 0.1
  assert np.abs(run(0) - net.apply(params, tokens, mask).x).max() > 0.1


@pytest.mark.parametrize('width, step, rate', [
    (256, 0, 0.0), (256, 1, 1.747e-7), (256, 4000, 6.988e-4),
    (256, 8000, 1.398e-3), (256, 32_000, 6.988e-4), (512, 1, 1.235e-7),
    (512, 8000, 9.882e-4), (512, 32_000, 4.941e-4), (384, 8000, 1.141e-3)])
def test_the_learning_rate_rises_and_falls_as_in_tensor2tensor(
    width, step, rate):
  got = optim.inverse_root(2.0, width, 8000)(jnp.int32(step))
  np.testing.assert_allclose(got, rate, rtol=5e-4)


@pytest.mark.parametrize('step, share', [
    (0, 1), (100, 0.9), (400, 0.6), (700, 0.3), (1000, 0), (1500, 0)])
def test_a_rate_with_an_end_has_come_down_to_nothing_there(step, share):
  plain = optim.inverse_root(2.0, 256, 400)(jnp.int32(step))
  ended = optim.inverse_root(2.0, 256, 400, 1000)(jnp.int32(step))
  np.testing.assert_allclose(ended, share * plain, rtol=1e-6)


def test_smaller_outputs_are_drawn_smaller_and_nothing_else_is():
  plain, small = (make(output_scale=scale)[1]['params'] for scale in (1, 0.25))

  def check(path, a, b):
    name = jax.tree_util.keystr(path)
    smaller = name.endswith(("['output']['kernel']", "['outer']['kernel']"))
    np.testing.assert_allclose(b, a * (0.25 if smaller else 1), rtol=1e-5,
                               err_msg=name)
    return smaller

  found = jax.tree_util.tree_map_with_path(check, plain, small)
  assert sum(jax.tree.leaves(found)) == 2


def test_mixed_rows_are_between_a_row_and_another():
  net, params, tokens, _ = make(layers=1)
  apply = jax.jit(net.apply)
  run = lambda share: apply(params, tokens, mix=transformer.Mix(
      jnp.array(share, 'float32'), tokens[::-1]))[0]
  plain = apply(params, tokens)[0]
  np.testing.assert_allclose(run([1, 1]), plain, atol=1e-6)
  np.testing.assert_allclose(run([0, 1])[0], plain[1], atol=1e-6)
  np.testing.assert_allclose(run([0.5, 0.5])[0], run([0.5, 0.5])[1], atol=1e-5)
  assert np.abs(run([0.5, 1.0])[0] - plain[0]).max() > 0.01


def test_fused_attention_drops_out_no_weights():
  net, params, tokens, _ = make(fused=True, dropout=0.5, attention_width=SMALL[
      'width'])
  apart = net.clone(fused=False, dropout=0.0)
  np.testing.assert_allclose(net.apply(params, tokens)[0],
                             apart.apply(params, tokens)[0], atol=2e-5)
  drop = lambda net, key: net.apply(params, tokens, train=True,
                                    rngs={'dropout': jax.random.key(key)})[0]
  assert np.abs(drop(net, 0) - drop(net, 1)).max() > 0.1  # Of the stream.
  text = str(jax.make_jaxpr(lambda p: attention.fused(p, p, p))(
      jnp.zeros((1, 4, 2, 8))))
  assert 'random_bits' not in text


@pytest.mark.parametrize('changes, message', [
    ({'distances': 4}, 'no tables'), ({'differences': (5,)}, 'no tables'),
    ({'local': True, 'block': 4}, 'not local'),
    ({'layers': 3}, 'layers=3 are no whole number of turns of 2')])
def test_sparse_patterns_that_cannot_be_are_refused(changes, message):
  sparse = tuple(attention.Sparse('fixed', 4, 1, p) for p in ('near', 'far'))
  with pytest.raises(ValueError, match=message):
    make(**{'sparse': sparse, 'layers': 2} | changes)
