"""WaveGAN against its table of layers as loops, and algorithm 1 as a loop."""

import contextlib
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common import errors
from gansynth_jax import wavegan

LAYERS = {  # Strides by length, and zeros before the first sample by stride.
    16384: (4, 4, 4, 4, 4),
    32768: (4, 4, 4, 4, 4, 2),
    65536: (4, 4, 4, 4, 4, 4),
}
BEFORE = {4: 10, 2: 11, 1: 12}  # Of 25 taps.


def config_of(**changes):
  config = config_lib.load('wavegan_sc09:tiny')
  for k, v in changes.items():
    group = next(g for g in (config.model, config.data, config) if k in g)
    group[k] = v
  return config


def draw(*shape, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)


def latents(rows):
  return np.random.default_rng(1).uniform(-1, 1, (rows, 100)).astype('f4')


def jit_apply(net, train=True):
  """fn(variables, *inputs)"""
  return jax.jit(functools.partial(net.apply, train=train))


def random(shapes):
  """Parameters, biases too, under which no layer saturates or vanishes."""
  rng = np.random.default_rng(0)

  def fill(x):
    taps = np.prod(x.shape[:-1]) / (4 if len(x.shape) == 3 else 1)
    scale = 0.1 if len(x.shape) == 1 else taps**-0.5
    return rng.normal(size=x.shape, scale=scale).astype('f4')

  return jax.tree.map(fill, shapes)


def state_of(model):
  """The model's first state, but with weights and biases that matter."""
  init = lambda key: model.init(key, {})
  params = random(jax.eval_shape(init, jax.random.key(0)).params)
  rest = jax.jit(lambda key: init(key).replace(params={}))(jax.random.key(0))
  return rest.replace(params=params)


def shapes_of(net, *inputs):
  return jax.eval_shape(functools.partial(net.init, train=False),
                        jax.random.key(0), *inputs)


def count(net, *inputs):
  return sum(x.size for x in jax.tree.leaves(shapes_of(net, *inputs)))


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize('length, dim, generator, critic', [
    (16384, 64, 19_065_345, 17_427_969), (16384, 32, 5_180_673, 4_361_985),
    (32768, 64, 73_149_953, 69_875_201), (32768, 32, 19_115_777, 17_478_401),
    (65536, 64, 73_149_953, 69_875_201), (65536, 32, 19_115_777, 17_478_401)])
def test_parameter_counts_of_the_released_code(length, dim, generator, critic):
  assert count(wavegan.Generator(length=length, dim=dim),
               jnp.zeros((1, 100))) == generator
  assert count(wavegan.Critic(dim=dim), jnp.zeros((1, length, 1))) == critic


def test_parameter_counts_by_layer():  # Appendix D, tables 3 and 4.
  sizes = lambda net, x: [
      sum(v.size for v in layer.values())
      for _, layer in sorted(shapes_of(net, x)['params'].items())]
  assert sizes(wavegan.Generator(), jnp.zeros((1, 100))) == [
      13_107_712, 3_277_056, 819_328, 204_864, 1_601, 1_654_784]
  assert sizes(wavegan.Critic(), jnp.zeros((1, 16384, 1))) == [
      1_664, 204_928, 819_456, 3_277_312, 13_108_224, 16_385]


def naive_up(x, layer, stride):
  """y[o] = sum_i x[i] w[o + lo - s i]: every frame adds its window."""
  kernel, lo = layer['kernel'], BEFORE[stride]
  length = x.shape[1] * stride
  y = np.zeros((len(x), length + 25, kernel.shape[2]))
  for i in range(x.shape[1]):
    window = np.einsum('bi,kio->bko', x[:, i], kernel)
    start = stride * i - lo
    y[:, max(start, 0):start + 25] += window[:, max(-start, 0):]
  return y[:, :length] + layer['bias']


def naive_down(x, layer, stride):
  kernel, lo = layer['kernel'], BEFORE[stride]
  padded = np.pad(x, ((0, 0), (lo, 25), (0, 0)))
  frames = x.shape[1] // stride
  return np.stack([
      np.einsum('bki,kio->bo', padded[:, stride * t:stride * t + 25], kernel)
      for t in range(frames)], 1) + layer['bias']


def naive_norm(x):  # With a scale of 1 and a bias of 0.
  return (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-3)


def naive_generator(params, z, length, upsample='transpose', norm=lambda x: x):
  p = jax.tree.map(np.float64, params)
  dense = np.asarray(z) @ p['Dense_0']['kernel'] + p['Dense_0']['bias']
  channels = dense.shape[1] // 16
  x = np.stack([dense[:, t * channels:(t + 1) * channels]
                for t in range(16)], 1)
  x = np.maximum(norm(x), 0)
  for i, stride in enumerate(LAYERS[length]):
    if upsample == 'nearest':
      frames = [x[:, t // stride] for t in range(x.shape[1] * stride)]
      x = naive_down(np.stack(frames, 1), p[f'Conv_{i}'], 1)
    else:
      x = naive_up(x, p[f'ConvTranspose_{i}'], stride)
    last = i == len(LAYERS[length]) - 1
    x = np.tanh(x) if last else np.maximum(norm(x), 0)
  return x


def naive_shuffle(x, shift):  # Figure 3: index -1 is 1, index T is T - 2.
  frames = x.shape[1]
  inside = lambda i: -i if i < 0 else 2 * (frames - 1) - i if i >= frames else i
  return np.stack([x[:, inside(t - shift)] for t in range(frames)], 1)


def naive_critic(params, x, shifts=(0, 0, 0, 0)):
  p = jax.tree.map(np.float64, params)
  strides = LAYERS[x.shape[1]]
  for i, stride in enumerate(strides):
    x = naive_down(x, p[f'Conv_{i}'], stride)
    x = np.where(x > 0, x, 0.2 * x)
    if i < 4:
      x = naive_shuffle(x, shifts[i])
  flat = np.concatenate([x[:, t] for t in range(x.shape[1])], 1)
  return (flat @ p['Dense_0']['kernel'] + p['Dense_0']['bias'])[:, 0]


@pytest.mark.parametrize('length, dim, upsample', [
    (16384, 2, 'transpose'), (32768, 2, 'transpose'), (65536, 1, 'transpose'),
    (16384, 1, 'nearest')])
def test_generator_equals_its_table_as_loops(length, dim, upsample):
  net = wavegan.Generator(length=length, dim=dim, upsample=upsample)
  z = latents(2)
  params = random(shapes_of(net, z)['params'])
  got = jit_apply(net)({'params': params}, z)
  want = naive_generator(params, z, length, upsample)
  assert got.shape == want.shape == (2, length, 1)
  assert np.std(want[0] - want[1]) > 0.05  # The loops did something,
  assert np.median(np.abs(want)) < 0.99  # and the tanh is not saturated.
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('length, dim', [(16384, 2), (32768, 2), (65536, 1)])
def test_critic_equals_its_table_as_loops(length, dim):
  net, x = wavegan.Critic(dim=dim), draw(2, length, 1)
  params = random(shapes_of(net, x)['params'])
  got = jit_apply(net)({'params': params}, x)
  want = naive_critic(params, np.asarray(x))
  assert got.shape == (2,) and np.abs(want[0] - want[1]) > 0.01
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_generator_with_batch_norm_equals_its_table_as_loops():
  net = wavegan.Generator(dim=2, batch_norm=True)
  z = latents(3)
  params = random(shapes_of(net, z)['params'])
  norms = [v for k, v in params.items() if 'BatchNorm' in k]
  assert len(norms) == 5  # After the dense layer, not after the last.
  for norm in norms:
    norm['scale'], norm['bias'] = 1 + 0 * norm['scale'], 0 * norm['bias']
  stats = jax.tree.map(lambda x: jnp.ones(x.shape),
                       shapes_of(net, z)['batch_stats'])
  got, _ = jax.jit(functools.partial(
      net.apply, train=True, mutable=['batch_stats']))(
          {'params': params, 'batch_stats': stats}, z)
  want = naive_generator(params, z, 16384, norm=naive_norm)
  np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize('length, layer, low, high', [
    # A frame t of layer n begins at 4^n t - 10 (1 + 4 + ... + 4^(n - 1)).
    (16384, 4, 1024 * 8 - 3410, 1024 * 8 - 3410 + 8185),
    (65536, 5, 4096 * 8 - 13650, 4096 * 8 - 13650 + 32761)])
def test_receptive_fields_of_the_critic(length, layer, low, high):
  net, x = wavegan.Critic(dim=1), jnp.zeros((1, length, 1))
  ones = jax.tree.map(lambda x: jnp.ones(x.shape), shapes_of(net, x))

  def frame(x):
    _, state = net.apply(ones, x, train=False, mutable=['intermediates'],
                         capture_intermediates=True)
    return state['intermediates'][f'Conv_{layer}']['__call__'][0][0, 8, 0]

  seen = np.flatnonzero(jax.jit(jax.grad(frame))(x)[0, :, 0])
  np.testing.assert_array_equal(seen, np.arange(low, high))


def test_scores_are_float32_whatever_the_layers_are():
  net, x = wavegan.Critic(dim=1, dtype=jnp.bfloat16), draw(8, 16384, 1)
  scores = jit_apply(net)({'params': random(shapes_of(net, x)['params'])}, x)
  assert scores.dtype == jnp.float32
  assert (scores != scores.astype(jnp.bfloat16)).all()


# ---------------------------------------------------------------- phases


@pytest.mark.parametrize('shift, want', [
    (2, [2, 1, 0, 1, 2, 3, 4, 5]), (1, [1, 0, 1, 2, 3, 4, 5, 6]),
    (0, [0, 1, 2, 3, 4, 5, 6, 7]), (-1, [1, 2, 3, 4, 5, 6, 7, 6]),
    (-2, [2, 3, 4, 5, 6, 7, 6, 5])])
def test_phases_shift_with_reflection(shift, want):
  ramp = jnp.arange(8.0)[None, :, None] + jnp.array([0, 10.0])[None, None]
  got = wavegan.shift_phase(ramp, jnp.int32(shift), 2)
  np.testing.assert_array_equal(got[0, :, 0], want)
  np.testing.assert_array_equal(got[0, :, 1], np.add(want, 10))


def test_shifts_of_a_batch_are_those_of_its_rows():
  x, shifts = draw(5, 9, 3), jnp.array([-2, -1, 0, 1, 2])
  got = wavegan.shift_phase(x, shifts, 2)
  for row, y, shift in zip(x, got, shifts, strict=True):
    np.testing.assert_array_equal(y, naive_shuffle(row[None], int(shift))[0])


def record_shifts(monkeypatch, net, x):
  """key -> (score, shifts of the layers); also the shapes that are shifted."""
  seen, shapes, real = [], [], wavegan.shift_phase

  def shift_phase(x, shift, n):
    seen.append(shift)
    shapes.append(x.shape)
    return real(x, shift, n)

  monkeypatch.setattr(wavegan, 'shift_phase', shift_phase)
  params = random(shapes_of(net, x)['params'])
  assert not seen  # Without a key nothing moves.

  def run(key):
    seen.clear()
    shapes.clear()
    return net.apply({'params': params}, x, key, train=True), list(seen)

  return run, shapes, params


@pytest.mark.parametrize('length', LAYERS)
def test_only_the_first_four_layers_are_shuffled(length, monkeypatch):
  net = wavegan.Critic(dim=1)
  x = jnp.zeros((1, length, 1))
  run, shapes, _ = record_shifts(monkeypatch, net, x)
  jax.eval_shape(run, jax.random.key(0))
  assert shapes == [(1, length // 4**(i + 1), 2**i) for i in range(4)]


def test_shuffled_scores_equal_the_table_as_loops(monkeypatch):
  x = draw(2, 16384, 1)
  run, _, params = record_shifts(monkeypatch, wavegan.Critic(dim=2), x)
  plain, found = naive_critic(params, np.asarray(x)), set()
  for seed in range(2):
    score, shifts = jax.jit(run)(jax.random.key(seed))
    np.testing.assert_allclose(
        score, naive_critic(params, np.asarray(x), [int(s) for s in shifts]),
        rtol=1e-4, atol=1e-5)
    assert np.abs(score - plain).max() > 1e-3
    found.add(tuple(map(int, shifts)))
  assert len(found) == 2


@pytest.mark.parametrize('radius, per_example', [(2, False), (4, True)])
def test_shifts_are_uniform_and_of_each_layer(
    radius, per_example, monkeypatch):
  net = wavegan.Critic(dim=1, phase_shuffle=radius,
                       shuffle_per_example=per_example)
  run, _, _ = record_shifts(monkeypatch, net, jnp.zeros((3, 16384, 1)))
  keys = jax.random.split(jax.random.key(0), 3000)
  shifts = np.stack(jax.jit(lambda keys: jax.lax.map(
      lambda key: run(key)[1], keys))(keys), 1)
  assert shifts.shape == ((3000, 4, 3) if per_example else (3000, 4))
  independent = shifts.reshape(3000, -1)  # Layers, and rows with the switch.
  values = np.arange(-radius, radius + 1)
  share = (independent[..., None] == values).mean(0)
  assert np.abs(share - 1 / len(values)).max() < 0.03
  np.testing.assert_allclose(share.sum(-1), 1, rtol=1e-6)
  others = np.corrcoef(independent.T) - np.eye(independent.shape[1])
  assert np.abs(others).max() < 0.08


def test_without_a_radius_phases_stay():
  net, x = wavegan.Critic(dim=1, phase_shuffle=0), draw(2, 16384, 1)
  params = random(shapes_of(net, x)['params'])
  apply = jit_apply(net)
  np.testing.assert_array_equal(
      apply({'params': params}, x, jax.random.key(0)),
      apply({'params': params}, x))


# ---------------------------------------------------------------- training


@pytest.fixture(scope='module')
def initial():
  """Parameters of the paper's size."""
  model = wavegan.build(config_of(length=16384, dim=64))
  return jax.jit(lambda key: model.init(key, {}).params)(
      jax.random.key(0, impl='rbg'))


@pytest.mark.parametrize('net', 'gd')
def test_all_kernels_are_glorot_and_all_biases_zero(net, initial):
  assert len(initial[net]) == 6
  for layer in jax.device_get(initial[net]).values():
    *taps, fan_in, fan_out = layer['kernel'].shape
    limit = np.sqrt(6 / (np.prod(taps) * (fan_in + fan_out)))
    assert 0.99 < np.abs(layer['kernel']).max() / limit < 1.00001
    assert np.std(layer['kernel']) == pytest.approx(limit / 3**0.5, rel=0.02)
    assert not layer['bias'].any()


def test_figures_at_initialisation(initial):
  """Of the released code at d=64, where reals are N(0, .1^2)."""
  net_g, net_d = wavegan.Generator(), wavegan.Critic()

  @jax.jit
  def figures(params, real, z, key):
    fake = net_g.apply({'params': params['g']}, z, train=True)
    score = lambda x: net_d.apply({'params': params['d']}, x, key, train=True)
    scores, pull = jax.vjp(score, jnp.concatenate(
        [real, fake, (real + fake) / 2]))
    slope = pull(jnp.ones_like(scores))[0][4:]
    return fake.std(), scores[2:4] - scores[:2], jnp.sqrt(
        (slope**2).sum((1, 2)))

  std, difference, slopes = figures(
      initial, draw(2, 16384, 1, scale=0.1), latents(2), jax.random.key(0))
  assert 5e-4 < std < 12e-4
  assert (np.abs(slopes - 0.020) < 0.006).all()
  loss = difference.mean() + 10 * ((slopes - 1) ** 2).mean()
  assert float(loss) == pytest.approx(9.6, abs=0.1)


@contextlib.contextmanager
def recorded():
  """A list that gets every pass: its net, inputs, output and weights."""
  passes = []

  def listen(call, args, kwargs, context):
    y = call(*args, **kwargs)
    name = type(context.module).__name__
    if name in ('Generator', 'Critic') and context.method_name == '__call__':
      inputs = [jax.random.key_data(a) if jnp.issubdtype(
          a.dtype, jax.dtypes.prng_key) else a for a in args]
      jax.debug.callback(
          lambda *a: passes.append((name, *jax.tree.map(np.asarray, a))),
          inputs, y, context.module.variables['params'], ordered=True)
    return y

  with nn.intercept_methods(listen):
    yield passes
  jax.effects_barrier()


def train_once(config, listen=recorded):
  """(state before, batch, passes, state after, metrics) of one step."""
  model = wavegan.build(config)
  batch = {'audio': draw(config.batch_size, config.model.length, scale=0.3),
           'mask': jnp.ones(config.batch_size)}
  state = state_of(model)
  with listen() as passes:
    after, metrics = jax.jit(model.train_step, static_argnums=3)(
        state, batch, jax.random.key(1), 0)
  return state, batch, passes, after, metrics


SHORT = {'length': 256, 'dim': 2}


@pytest.fixture(scope='module')
def short():
  """A length of two layers, which compile faster. Makes one step a loss."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(wavegan.STRIDES, 256, (4, 4))
    yield functools.cache(lambda loss: train_once(config_of(
        **SHORT, batch_size=15, loss=loss, critic_updates=5,
        penalty_weight=10.0, phase_shuffle=2)))


def flat(params):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


@pytest.fixture(scope='module')
def step(short):
  return short('wgan-gp')


def test_a_step_is_five_updates_of_the_critic_and_one_of_the_generator(step):
  state, _, passes, after, _ = step
  assert [name for name, *_ in passes] == 5 * [
      'Generator', 'Critic', 'Critic', 'Critic'] + ['Generator', 'Critic']
  # All before the last update see the first generator: it waits.
  for name, _, _, params in passes:
    if name == 'Generator':
      np.testing.assert_array_equal(flat(params), flat(state.params['g']))
  critics = [flat(p) for name, _, _, p in passes if name == 'Critic']
  np.testing.assert_array_equal(critics[0], flat(state.params['d']))
  for i in range(5):  # Three passes, then new weights.
    np.testing.assert_array_equal(critics[3 * i], critics[3 * i + 2])
    assert (critics[3 * i] != critics[3 * i + 3]).mean() > 0.8
  # The generator's update leaves the critic alone, and moves all of G.
  np.testing.assert_array_equal(critics[15], flat(after.params['d']))
  assert (flat(after.params['g']) != flat(state.params['g'])).mean() > 0.8
  assert int(after.opt['d'][0].count) == 5 and int(after.opt['g'][0].count) == 1


def test_each_update_has_rows_latents_and_phases_of_its_own(step):
  _, batch, passes, _, _ = step
  reals = np.concatenate([passes[4 * i + 1][1][0] for i in range(5)])[..., 0]
  order = np.argsort(reals[:, 0])
  np.testing.assert_array_equal(
      reals[order], batch['audio'][np.argsort(batch['audio'][:, 0])])
  z = np.concatenate([p[1][0] for p in passes if p[0] == 'Generator'])
  assert z.shape == (6 * 3, 100) and np.abs(z).max() <= 1
  assert len(np.unique(z)) > 0.99 * z.size  # None is used twice.
  assert abs(z.mean()) < 0.05 and abs(z.std() - 3**-0.5) < 0.03
  keys = [tuple(p[1][1].tolist()) for p in passes if p[0] == 'Critic']
  assert len(set(keys)) == len(keys) == 16  # Real, fake and between them.


def test_critics_see_what_the_generator_made_and_points_between(step):
  passes = step[2]
  apply = jit_apply(wavegan.Generator(**SHORT))
  for i in range(5):
    (_, (z,), made, params), real, fake, between = passes[4 * i:4 * i + 4]
    real, fake, between = (p[1][0] for p in (real, fake, between))
    np.testing.assert_array_equal(fake, made)
    np.testing.assert_allclose(
        made, apply({'params': params}, z), atol=1e-5)
    line = (fake - real)[..., 0]
    alpha = ((between - real)[..., 0] * line).sum(-1) / (line**2).sum(-1)
    assert (alpha >= 0).all() and (alpha <= 1).all()
    assert len(np.unique(alpha)) == 3
    np.testing.assert_allclose(
        between, real + alpha[:, None, None] * (fake - real), atol=1e-5)
  np.testing.assert_array_equal(passes[-1][1][0], passes[-2][2])


def adam(rate, b1, b2):  # Kingma and Ba 2015, algorithm 1.
  def update(w, g, m, v, t):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    w = w - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
    return w, m, v
  return update, 0.0


def rmsprop(rate):  # TensorFlow's: the epsilon is inside the root.
  def update(w, g, m, v, t):
    del t
    v = 0.9 * v + 0.1 * g**2
    return w - rate * g / np.sqrt(v + 1e-10), m, v
  return update, 1.0


def cross_entropy(scores, label):
  p = jax.nn.sigmoid(scores)
  return -jnp.log(p if label else 1 - p).mean()


ORACLES = {  # Critic's loss, generator's loss, optimiser, bound of weights.
    'wgan-gp': (lambda real, fake: fake.mean() - real.mean(),
                lambda fake: -fake.mean(), adam(1e-4, 0.5, 0.9), np.inf),
    'wgan': (lambda real, fake: fake.mean() - real.mean(),
             lambda fake: -fake.mean(), rmsprop(5e-5), 0.01),
    'lsgan': (lambda real, fake: ((real - 1)**2).mean() / 2
              + (fake**2).mean() / 2,
              lambda fake: ((fake - 1) ** 2).mean(), rmsprop(1e-4), np.inf),
    'dcgan': (lambda real, fake: cross_entropy(real, 1) / 2
              + cross_entropy(fake, 0) / 2,
              lambda fake: cross_entropy(fake, 1), adam(2e-4, 0.5, 0.999),
              np.inf),
}


@pytest.mark.parametrize('loss', ORACLES)
def test_a_step_equals_algorithm_1_as_a_loop(loss, short):
  """With the latents, rows, points and phases that the step itself drew."""
  state, _, passes, after, metrics = short(loss)
  critic_loss, generator_loss, (update, second), bound = ORACLES[loss]
  net_g, net_d = wavegan.Generator(**SHORT), wavegan.Critic(dim=2)
  penalised = loss == 'wgan-gp'

  def score(d, x, key):
    return net_d.apply({'params': d}, x, jax.random.wrap_key_data(key),
                       train=True)

  def loss_d(d, real, fake, between):
    total = critic_loss(score(d, *real), score(d, *fake))
    if penalised:
      x, key = between
      slope = jax.grad(lambda x: score(d, x, key).sum())(x)
      norm = jnp.sqrt((slope**2).sum((1, 2)))
      total += 10 * ((norm - 1) ** 2).mean()
    return total

  def loss_g(g, d, z, key):
    fake = net_g.apply({'params': g}, z, train=True)
    return generator_loss(score(d, fake, key))

  def descend(params, grads, m, v, t):
    new = jax.tree.map(lambda *x: update(*x, t), params, grads, m, v)
    return [jax.tree.map(lambda _, x, i=i: np.float32(x[i]), params, new)
            for i in range(3)]

  def zeros(params):
    return [jax.tree.map(lambda x, value=value: np.full(x.shape, value), params)
            for value in (0.0, second)]

  g, d = jax.device_get((state.params['g'], state.params['d']))
  value_d, value_g = (jax.jit(jax.value_and_grad(f)) for f in (loss_d, loss_g))
  losses, slots, size = [], zeros(d), 4 if penalised else 3
  for t in range(5):
    inputs = [p[1] for p in passes[size * t + 1:size * (t + 1)]]
    value, grads = jax.device_get(
        value_d(d, *inputs[:2], inputs[2] if penalised else None))
    losses.append(value)
    d, *slots = descend(d, grads, *slots, t + 1)
    d = jax.tree.map(lambda w: np.clip(w, -bound, bound), d)
  (_, (z,), *_), (_, (_, key), *_) = passes[-2:]
  value, grads = jax.device_get(value_g(g, d, z, key))
  g, *_ = descend(g, grads, *zeros(g), 1)

  np.testing.assert_allclose(metrics['loss/d'], np.mean(losses), rtol=1e-4)
  np.testing.assert_allclose(metrics['loss/g'], value, rtol=1e-4, atol=1e-7)
  for name, want in (('d', d), ('g', g)):
    got, want = flat(after.params[name]), flat(want)
    moved = np.abs(want - flat(state.params[name])).max()
    # Adam's first updates are signs: noise decides where gradients are 0.
    np.testing.assert_allclose(got, want, atol=0.05 * moved)
    assert np.quantile(np.abs(got - want), 0.9) <= 1e-3 * moved
    # A clipped critic's gradients are below the precision of G's weights.
    assert moved > 1e-5 or (loss, name) == ('wgan', 'g')
  if loss == 'wgan':
    assert np.abs(flat(after.params['d'])).max() == np.float32(0.01)
    assert np.abs(flat(after.params['g'])).max() > 0.1


def test_batch_norm_is_in_the_critic_only_without_a_penalty(short):
  del short  # Its length.
  for loss, layers in (('wgan-gp', [2, 0]), ('dcgan', [2, 1])):
    model = wavegan.build(config_of(**SHORT, loss=loss, batch_norm=True))
    params = jax.eval_shape(model.init, jax.random.key(0), {}).params
    assert [sum('BatchNorm' in x for x in params[k]) for k in 'gd'] == layers
    assert 'BatchNorm_0' not in params['d'] or params['d']['BatchNorm_0'][
        'scale'].shape == (4,)  # Not after the first layer, of 2 channels.


def test_post_filter_is_one_trained_filter_for_all_sounds(short):
  del short  # Its length.
  state, _, _, after, _ = train_once(config_of(
      **SHORT, batch_size=4, critic_updates=2, loss='dcgan', post_filter=512,
      batch_norm=True, learning_rate=0.003), listen=contextlib.nullcontext)
  assert (flat(state.vars) != flat(after.vars)).all()
  params = dict(state.params['g'])
  kernel = params.pop('post_filter')
  assert list(kernel) == ['kernel'] and kernel['kernel'].shape == (512, 1, 1)
  # Adam's first update is its rate, here one that was set.
  moved = np.abs(after.params['g']['post_filter']['kernel'] - kernel['kernel'])
  np.testing.assert_allclose(np.median(moved), 0.003, rtol=1e-3)
  nets = [wavegan.Generator(**SHORT, batch_norm=True, post_filter=n)
          for n in (0, 512)]
  plain, got = (
      jit_apply(net, train=False)({'params': p, **state.vars['g']}, latents(2))
      for net, p in zip(nets, (params, state.params['g']), strict=True))
  taps = np.asarray(kernel['kernel'])[:, 0, 0]
  for x, y in zip(plain[..., 0], got[..., 0], strict=True):
    # y[t] = sum_k x[t + k - 255] w[k]
    want = np.correlate(np.pad(x, (255, 256)), taps, 'valid')
    np.testing.assert_allclose(y, want, atol=1e-4)


# ---------------------------------------------------------------- use


@pytest.fixture(scope='module')
def trained():
  """A model with a filter that makes some samples exceed 1."""
  config = config_of(length=16384, dim=2, loss='wgan-gp', post_filter=64,
                     phase_shuffle=2)
  model = wavegan.build(config)
  state = state_of(model)
  state.params['g']['post_filter']['kernel'] *= 8
  return config, model, state


def test_samples_depend_on_their_number_only_and_stay_in_range(trained):
  config, model, state = trained
  sample = lambda batch: np.asarray(
      model.sample(state, batch, jax.random.key(3))['audio'])
  five = sample(wavegan.prompt(config, 5))
  assert five.shape == (5, 16384) and np.abs(five).max() == 1  # Clipped.
  assert 0.01 < np.median(np.abs(five)) < 0.99
  np.testing.assert_allclose(sample(wavegan.prompt(config, 2)), five[:2],
                             atol=1e-5)
  np.testing.assert_allclose(sample(wavegan.prompt(config, 2, first=3)),
                             five[3:], atol=1e-5)
  assert np.abs(five[0] - five[1]).max() > 0.1
  # From number 1 to number 4, through points that are neither.
  line = sample(wavegan.prompt(config, 3, first=1, last=4))
  np.testing.assert_allclose(line[[0, 2]], five[[1, 4]], atol=1e-5)
  assert min(np.abs(line[1] - line[i]).max() for i in (0, 2)) > 0.1


def test_latents_fill_the_cube():
  z = wavegan.latents(jax.random.key(0), jnp.arange(300), 100)
  assert z.shape == (300, 100)
  np.testing.assert_allclose(np.quantile(z, [0, 0.25, 0.5, 0.75, 1]),
                             [-1, -0.5, 0, 0.5, 1], atol=0.02)
  assert np.abs(np.corrcoef(z[:50])[~np.eye(50, dtype=bool)]).max() < 0.6


def test_evaluation_is_the_plain_critic_on_real_rows(trained):
  config, model, state = trained
  audio = draw(3, 16384, scale=0.3)
  key = jax.random.key(5)
  batch = {'audio': audio, 'index': jnp.array([4, 7, 0]),
           'mask': jnp.array([1.0, 1.0, 0.0])}
  got = jax.jit(model.eval_step)(state, batch, key)
  real = naive_critic(state.params['d'], np.asarray(audio)[..., None])
  fake = jit_apply(wavegan.Generator(dim=2, post_filter=64), train=False)(
      {'params': state.params['g']},
      wavegan.latents(key, batch['index'], config.model.latent_size))
  fake = naive_critic(state.params['d'], np.asarray(fake))
  want = {'critic/real': real, 'critic/fake': fake, 'wasserstein': real - fake}
  assert got.keys() == want.keys()
  for k, v in want.items():
    np.testing.assert_allclose(
        got[k].compute(), v[:2].mean(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('changes, words', [
    ({'length': 16000}, ['model.length=16000', '16384', '32768', '65536']),
    ({'loss': 'wgangp'}, ["model.loss='wgangp'", "'wgan-gp'", "'wgan'",
                          "'lsgan'", "'dcgan'"]),
    ({'upsample': 'nn'}, ["model.upsample='nn'", "'transpose'", "'nearest'"]),
    ({'critic_updates': 0}, ['model.critic_updates=0', '1 or more']),
    ({'dim': 0}, ['model.dim=0', '1 or more']),
    ({'kernel_size': 0}, ['model.kernel_size=0', '1 or more']),
    ({'latent_size': 0}, ['model.latent_size=0', '1 or more']),
    ({'phase_shuffle': -1}, ['model.phase_shuffle=-1', '0 or more']),
    ({'post_filter': -1}, ['model.post_filter=-1', '0 or more']),
    ({'penalty_weight': -1.0}, ['model.penalty_weight=-1.0', '0 or more']),
    # Of the sizes that 5 divides, those that split over 4 devices.
    ({'batch_size': 64, 'critic_updates': 5}, [
        'batch_size=64', 'model.critic_updates=5', 'use 60 or 80'])])
def test_settings_that_cannot_work_are_refused(changes, words):
  with pytest.raises(errors.UserError) as caught:
    wavegan.build(config_of(**changes))
  assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize('options, words', [
    ({'first': -1}, ['first=-1', '0 to 999999999']),
    ({'first': 10**9}, ['first=1000000000', '0 to 999999999']),
    ({'last': -5}, ['last=-5', '0 to 999999999']),
    ({'first': 1, 'last': 10**9}, ['last=1000000000', '0 to 999999999'])])
def test_prompts_that_cannot_work_are_refused(options, words):
  with pytest.raises(errors.UserError) as caught:
    wavegan.prompt(config_of(), 2, **options)
  assert all(word in str(caught.value) for word in words)


# ---------------------------------------------------------------- examples


def examples(audio, visits=1, seed=0, **changes):
  """`visits` training examples of one clip, [visits, length]."""
  fn = wavegan.preprocess(config_of(**{
      'length': 16384, 'first_slice': False, **changes}))
  rng = np.random.default_rng(seed)
  made = [fn({'audio': audio, 'sample_rate': 16000}, rng)
          for _ in range(visits)]
  assert all(x.keys() == {'audio'} and x['audio'].dtype == np.float32
             for x in made)
  return np.stack([x['audio'] for x in made])


def test_windows_are_random_and_cover_the_clip():
  clip = np.arange(16384 + 9, dtype=np.float32)
  windows = examples(clip, visits=500)
  starts = windows[:, 0].astype(int)
  np.testing.assert_array_equal(windows - windows[:, :1],
                                np.tile(clip[:16384], (500, 1)))
  assert np.bincount(starts, minlength=10).min() > 25  # Of 50 each.
  assert starts.max() == 9


def test_the_first_slice_starts_the_clip():
  clip = np.arange(20000, dtype=np.float32)
  np.testing.assert_array_equal(
      examples(clip, visits=3, first_slice=True), np.tile(clip[:16384], (3, 1)))


@pytest.mark.parametrize('first_slice', [False, True])
def test_short_clips_are_padded_at_the_end(first_slice):
  clip = np.full(9000, 0.5, np.float32)
  np.testing.assert_array_equal(
      examples(clip, first_slice=first_slice)[0],
      np.concatenate([clip, np.zeros(16384 - 9000, np.float32)]))


def test_an_empty_clip_is_silence():
  for peak_normalize in (False, True):
    row, = examples(np.zeros(0, np.float32), peak_normalize=peak_normalize)
    np.testing.assert_array_equal(row, np.zeros(16384, np.float32))


def test_a_clip_of_one_window_is_that_window():
  clip = np.arange(16384, dtype=np.float32)
  np.testing.assert_array_equal(examples(clip, visits=2), [clip, clip])


def test_levels_change_on_request_only():
  clip = 0.3 * np.sin(np.arange(16384, dtype=np.float32))
  clip[100] = -0.3
  np.testing.assert_array_equal(examples(clip)[0], clip)
  loud = examples(clip, peak_normalize=True)[0]
  assert np.abs(loud).max() == 1
  np.testing.assert_allclose(loud, clip / 0.3, rtol=1e-6)
  silence = np.zeros(16384, np.float32)
  np.testing.assert_array_equal(examples(silence, peak_normalize=True)[0],
                                silence)


def test_the_peak_is_that_of_the_record_not_of_the_window():
  clip = np.full(40000, 0.1, np.float32)
  clip[-1] = 0.4
  window = examples(clip, peak_normalize=True, first_slice=True)[0]
  np.testing.assert_allclose(window, np.full(16384, 0.25), rtol=1e-6)


def test_a_louder_record_that_follows_does_not_exceed_full_scale():
  quiet, loud = (np.full(16384, x, np.float32) for x in (0.1, 0.4))
  example = {'audio': quiet, 'sample_rate': 16000, 'following': lambda: {
      'audio': loud, 'following': lambda: None}}
  fn = wavegan.preprocess(config_of(
      length=16384, first_slice=False, peak_normalize=True))
  window = fn(example, np.random.default_rng(0))['audio']
  assert sorted(set(window)) == pytest.approx([0.25, 1.0])  # Of both.


def test_integers_become_fractions_of_full_scale():
  clip = np.zeros(16384, np.int16)
  clip[:3] = -32768, 16384, 1
  got = examples(clip)[0]
  np.testing.assert_array_equal(got[:3], np.float32([-1, 0.5, 2**-15]))
  loud = examples(clip, peak_normalize=True)[0]
  assert np.abs(loud).max() == 1


@pytest.mark.parametrize('example, words', [
    ({'audio': np.zeros((20000, 2), np.float32)},
     ['2 channels', 'mono']),
    ({'audio': np.zeros(20000, np.float32), 'sample_rate': 44100},
     ['44100', 'data.sample_rate=16000'])])
def test_clips_of_another_kind_are_refused(example, words):
  fn = wavegan.preprocess(config_of(sample_rate=16000))
  with pytest.raises(errors.UserError) as caught:
    fn(example, np.random.default_rng(0))
  assert all(word in str(caught.value) for word in words)
