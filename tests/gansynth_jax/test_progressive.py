"""Growing networks against their tables of layers, written out slowly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gansynth_jax import progressive


def draw(*shape, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)


def random(shapes):
  """Parameters, biases too."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(
      size=x.shape, scale=0.3 if len(x.shape) == 1 else 1.0).astype('f4'),
                      shapes)


def count(shapes):
  return sum(x.size for x in jax.tree.leaves(shapes))


def shapes_of(net, *inputs, blocks):
  return jax.eval_shape(lambda: net.init(
      jax.random.key(0), *inputs, 0.0, blocks)['params'])


# ---------------------------------------------------------------- the tables

WIDTHS = (5, 6, 5, 4, 3)  # Of blocks 0 to 4; all differ from their neighbours.
START = (2, 3)
SCALE = {'conv': 2.0, 'linear': 1.0}


def conv(x, layer, kind='conv', padding='SAME'):
  """y = s (x * w) + bias."""
  kernel = layer['kernel']
  scale = np.sqrt(SCALE[kind] / np.prod(kernel.shape[:-1]))
  y = lax.conv_general_dilated(
      x, jnp.asarray(kernel), (1, 1), padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  return scale * y + np.broadcast_to(layer['bias'], y.shape)


def lrelu(x):
  return jnp.where(x > 0, x, 0.2 * x)


def norm(x):
  mean = sum(x[..., i]**2 for i in range(x.shape[-1])) / x.shape[-1]
  return x / jnp.sqrt(mean + 1e-8)[..., None]


def repeat(x, n):
  return np.kron(np.asarray(x), np.ones((1, n, n, 1), np.float32))


def pool(x, n):
  parts = [x[:, i::n, j::n] for i in range(n) for j in range(n)]
  return sum(parts) / n**2


def naive_generator(params, z, progress, blocks, full):
  """Images at the size of `full` blocks, as the released graph has them."""
  x = norm(z)[:, None, None]
  total = 0.0
  for b in range(1, blocks + 1):
    layer = params[f'block_{b}']
    if b == 1:
      h, w = START
      around = [(h - 1, h - 1), (w - 1, w - 1)]
      x = jnp.pad(x, ((0, 0), *around, (0, 0)))
      x = norm(lrelu(conv(x, layer['conv0'], padding='VALID')))
    else:
      x = norm(lrelu(conv(repeat(x, 2), layer['conv0'])))
    x = norm(lrelu(conv(x, layer['conv1'])))
    colors = jnp.tanh(conv(x, layer['to_rgb'], 'linear'))
    weight = max(0.0, min(progress - (b - 2), b - progress))
    total += weight * repeat(colors, 2 ** (full - b))
  return total


def naive_discriminator(params, image, progress, blocks, full):
  """Of images at the size of `full` blocks."""
  see = lambda b: lrelu(conv(
      pool(image, 2 ** (full - b)), params[f'block_{b}']['from_rgb']))
  x = see(blocks)
  for b in range(blocks, 1, -1):
    layer = params[f'block_{b}']
    x = lrelu(conv(lrelu(conv(x, layer['conv0'])), layer['conv1']))
    alpha = min(max((b - 1) - progress, 0.0), 1.0)
    x = alpha * see(b - 1) + (1 - alpha) * pool(x, 2)
  mean = sum(x) / len(x)
  stddev = jnp.sqrt(sum((row - mean)**2 for row in x) / len(x) + 1e-6).mean()
  layer = params['block_1']
  x = jnp.concatenate([x, jnp.full_like(x[..., :1], stddev)], -1)
  x = lrelu(conv(x, layer['conv0']))
  x = lrelu(conv(x, layer['conv1'], padding='VALID'))[:, 0, 0]
  linear = lambda layer: (
      x @ layer['kernel'] / np.sqrt(len(layer['kernel'])) + layer['bias'][None])
  return linear(params['score'])[:, 0], linear(params['classes']), stddev


@functools.cache
def nets(full=4):
  """Both networks of four blocks, with parameters."""
  g = progressive.Generator(START, WIDTHS)
  d = progressive.Discriminator(WIDTHS, labels=7)
  size = [n * 2 ** (full - 1) for n in START]
  return (g, random(shapes_of(g, jnp.zeros((1, 11)), blocks=full)),
          d, random(shapes_of(d, jnp.zeros((1, *size, 2)), blocks=full)))


@functools.cache
def applied(name, blocks):
  g, params_g, d, params_d = nets()
  net, params = {'g': (g, params_g), 'd': (d, params_d)}[name]
  return jax.jit(lambda x, p: net.apply({'params': params}, x, p, blocks))


@pytest.mark.parametrize('blocks, progress', [
    (1, 0.0), (2, 0.25), (3, 2.0), (4, 2.5), (4, 3.0)])
def test_both_networks_equal_their_tables(blocks, progress):
  _, params_g, _, params_d = nets()
  z, ratio = draw(3, 11), 2 ** (4 - blocks)
  got = applied('g', blocks)(z, progress)
  want = naive_generator(params_g, z, progress, blocks, 4)
  assert np.std(want[0] - want[1]) > 0.05
  np.testing.assert_allclose(repeat(got, ratio), want, atol=5e-5)

  image = draw(3, *got.shape[1:3], 2, seed=1)
  got = applied('d', blocks)(image, progress)
  want = naive_discriminator(params_d, repeat(image, ratio), progress, blocks,
                             4)
  assert np.std(want[0]) > 0.001
  for x, y in zip(got, want, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('blocks, progress', [(1, 0.0), (2, 0.75), (3, 1.5)])
def test_all_blocks_at_a_progress_equal_the_smaller_net(blocks, progress):
  z, ratio = draw(3, 11), 2 ** (4 - blocks)
  small, whole = (applied('g', b)(z, progress) for b in (blocks, 4))
  np.testing.assert_allclose(repeat(small, ratio), whole, atol=1e-6)
  image = draw(3, *small.shape[1:3], 2, seed=1)
  for x, y in zip(applied('d', blocks)(image, progress),
                  applied('d', 4)(repeat(image, ratio), progress), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('start', [(2, 16), (4, 8)])
def test_parameter_counts_of_the_released_code(start):
  sizes = []
  for blocks in range(1, 8):
    widths = tuple(progressive.num_filters(b, 4096, 1.0, 256)
                   for b in range(blocks + 1))
    image = jnp.zeros((1, *(n * 2 ** (blocks - 1) for n in start), 2))
    sizes.append((
        count(shapes_of(progressive.Generator(start, widths),
                        jnp.zeros((1, 317)), blocks=blocks)),
        count(shapes_of(progressive.Discriminator(widths, 61), image,
                        blocks=blocks))))
  assert sizes == [
      (3_187_714, 2_706_494), (4_368_388, 3_887_422), (5_549_062, 5_068_350),
      (6_729_736, 6_249_278), (7_172_618, 6_692_414), (7_283_468, 6_803_390),
      (7_311_246, 6_831_230)]


def test_parameter_counts_by_layer():
  widths = tuple(progressive.num_filters(b, 4096, 1.0, 256) for b in range(8))
  assert widths == (256, 256, 256, 256, 256, 128, 64, 32)
  sizes = lambda net, x: {
      f'{name} {layer}': count(x) for name, block in shapes_of(
          net, x, blocks=7).items() for layer, x in block.items()}
  g = sizes(progressive.Generator((2, 16), widths), jnp.zeros((1, 317)))
  assert g['block_1 conv0'] == 2_597_120 and g['block_1 conv1'] == 590_080
  assert [g[f'block_{b} conv0'] + g[f'block_{b} conv1'] for b in range(2, 8)
          ] == [1_180_160] * 3 + [442_624, 110_720, 27_712]
  assert [g[f'block_{b} to_rgb'] for b in (1, 7)] == [514, 66]
  d = sizes(progressive.Discriminator(widths, 61),
            jnp.zeros((1, 128, 1024, 2)))
  assert [d[f'block_{b} conv0'] + d[f'block_{b} conv1'] for b in range(2, 8)
          ] == [1_180_160] * 3 + [442_752, 110_784, 27_744]
  assert d['block_1 conv0'] == 592_384 and d['block_1 conv1'] == 2_097_408
  assert [d[f'block_{b} from_rgb'] for b in (1, 7)] == [768, 96]
  assert d['score kernel'] + d['score bias'] == 257
  assert d['classes kernel'] + d['classes bias'] == 15_677


@pytest.mark.parametrize('layer, shape, want', [
    (progressive.Conv(4), (1, 4, 4, 256), 0.029463),
    (progressive.Unfold(4, size=(2, 16)), (1, 317), 0.014041),
    (progressive.Fold(4), (1, 2, 16, 256), 0.015625),
    (progressive.Conv(2, slope=1.0, kernel_size=1), (1, 4, 4, 32), 0.176777),
    (progressive.Dense(4, slope=1.0), (1, 256), 0.0625)])
def test_scales_of_layers(layer, shape, want):
  """A kernel with a single 1 shows the scale; a bias is not scaled."""
  params = jax.tree.map(
      lambda x: np.zeros(x.shape, 'f4'), jax.eval_shape(
          lambda: layer.init(jax.random.key(0), jnp.zeros(shape))['params']))
  params['kernel'].reshape(-1)[0] = 1.0
  y = layer.apply({'params': params}, jnp.ones(shape))
  assert float(y.max()) == pytest.approx(want, rel=1e-4)
  params['kernel'][:] = 0
  params['bias'][:] = 3
  np.testing.assert_array_equal(layer.apply({'params': params},
                                            jnp.ones(shape)), 3.0)


def test_initial_kernels_are_standard_normal_and_biases_zero():
  shapes = {'a': {'kernel': jnp.zeros((3, 3, 40, 50)), 'bias': jnp.zeros(50)},
            'b': {'bias': jnp.zeros(3), 'kernel': jnp.zeros((99, 200))}}
  got = progressive.initial(jax.random.key(0), shapes)
  assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, shapes)
  for name in 'ab':
    assert not got[name]['bias'].any()
    assert abs(got[name]['kernel'].mean()) < 0.02
    assert got[name]['kernel'].std() == pytest.approx(1, abs=0.02)
  assert len(np.unique(np.concatenate(
      [np.ravel(got[x]['kernel']) for x in 'ab']))) > 37_000


# ---------------------------------------------------------------- parts


def test_stddev_of_equal_images_is_a_thousandth():
  x = jnp.broadcast_to(draw(1, 3, 4, 5), (6, 3, 4, 5))
  assert float(progressive.batch_stddev(x)) == pytest.approx(1e-3, rel=1e-5)


def test_stddev_is_one_number_of_the_whole_batch():
  x = draw(6, 3, 4, 5, scale=2.0)
  want = np.sqrt(np.var(np.float64(x), 0) + 1e-6).mean()
  got = progressive.batch_stddev(x)
  assert got.shape == () and float(got) == pytest.approx(want, rel=1e-6)
  halves = [float(progressive.batch_stddev(h)) for h in (x[:3], x[3:])]
  assert min(abs(h - want) for h in halves) > 0.01


def test_in_bfloat16_heads_and_fading_are_float32():
  _, _, _, params = nets()
  d = progressive.Discriminator(WIDTHS, labels=7, dtype=jnp.bfloat16)
  image = draw(8, 4, 6, 2)
  run = jax.jit(lambda params: d.apply({'params': params}, image, 0.001, 2))
  score, logits, _ = run(params)
  for x in (score, logits):
    assert x.dtype == jnp.float32
    assert (x != x.astype(jnp.bfloat16)).any(0).all()
  # The weight of what is new is 0.001; 1 - 0.999 would be 0 in bfloat16.
  grads = jax.grad(lambda p: run(p)[0].sum())(params)
  assert grads['block_2']['conv0']['kernel'].any()


def test_a_given_stddev_makes_rows_independent():
  _, _, d, params = nets()
  image = draw(4, 2, 3, 2)
  run = lambda image, s: d.apply({'params': params}, image, 0.0, 1, s)[0]
  own = d.apply({'params': params}, image, 0.0, 1)
  np.testing.assert_array_equal(run(image, own[2]), own[0])
  np.testing.assert_allclose(run(image[:2], own[2]), own[0][:2], rtol=1e-5)
  assert np.abs(run(image[:2], None) - own[0][:2]).max() > 1e-4


def test_pixel_norm_has_a_mean_square_of_one():
  x = draw(2, 3, 4, 7, scale=5.0)
  np.testing.assert_allclose((progressive.pixel_norm(x)**2).mean(-1), 1,
                             rtol=1e-5)
  assert not progressive.pixel_norm(jnp.zeros((1, 4))).any()


def test_scaling_repeats_and_averages():
  x = draw(2, 4, 6, 3)
  np.testing.assert_array_equal(progressive.upscale(x), repeat(x, 2))
  np.testing.assert_allclose(progressive.downscale(x), pool(x, 2), rtol=1e-6)
  np.testing.assert_allclose(progressive.downscale(progressive.upscale(x)), x,
                             rtol=1e-6)


@pytest.mark.parametrize('progress', [0.0, 0.3, 1.0, 1.75, 3.0])
def test_real_images_are_as_sharp_as_the_generators(progress):
  x = draw(2, 16, 24, 2)
  weight = lambda b: max(0.0, min(progress - (b - 2), b - progress))
  want = sum(weight(b) * repeat(pool(x, 2 ** (4 - b)), 2 ** (4 - b))
             for b in range(1, 5))
  np.testing.assert_allclose(progressive.blend_real(x, 4, progress), want,
                             atol=1e-6)
  blocks = int(np.ceil(progress)) + 1  # What a stage computes is the same.
  small = progressive.blend_real(
      pool(x, 2 ** (4 - blocks)), blocks, progress)
  np.testing.assert_allclose(repeat(small, 2 ** (4 - blocks)), want, atol=1e-6)


def test_generator_weights_are_triangles_that_sum_to_one():
  progress = jnp.linspace(0, 6, 49)
  weights = np.stack([progressive.generator_weight(b, progress)
                      for b in range(1, 8)])
  np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-6)
  assert ((weights > 0).sum(0) <= 2).all()
  np.testing.assert_array_equal(weights[:, ::8], np.eye(7))
  assert weights[2, 4] == 0 and weights[0, 4] == weights[1, 4] == 0.5


# ---------------------------------------------------------------- the schedule


def released_progress(images, blocks=7, stable=800_000, transition=800_000):
  images = min(images, blocks * stable + (blocks - 1) * transition - 1)
  whole = images // (stable + transition)
  rest = images - whole * (stable + transition)
  return whole + max(0.0, (rest - stable) / transition)


def test_stages_of_the_paper():
  schedule = progressive.Schedule(
      blocks=7, stable_images=800_000, transition_images=800_000, rows=(8,) * 7)
  assert schedule.stages == 13
  assert [schedule.blocks_of(s) for s in range(13)] == [
      1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
  assert schedule.images == tuple(range(0, 9_600_001, 800_000))
  assert schedule.starts == tuple(range(0, 1_200_001, 100_000))
  steps = np.array([0, 99_999, 100_000, 150_000, 200_000, 1_299_999, 1_300_000,
                    1_374_999, 5_000_000, 777_777])
  got = [float(schedule.progress(jnp.int32(s))) for s in steps]
  np.testing.assert_allclose(got, [released_progress(8 * s) for s in steps],
                             rtol=1e-6)
  assert got[3] == 0.5 and got[6] == got[8] == 6.0


def test_stages_whose_images_no_batch_divides():
  """A stage ends with the first step that has reached its images."""
  schedule = progressive.Schedule(
      blocks=3, stable_images=10, transition_images=7, rows=(4, 4, 3))
  starts, images, seen, steps = [], [], 0, 0
  for stage, end in enumerate((10, 17, 27, 34, 44)):
    starts.append(steps)
    images.append(seen)
    while seen < end:
      p = float(schedule.progress(jnp.int32(steps)))
      assert p == pytest.approx(released_progress(seen, 3, 10, 7), rel=1e-6)
      assert p <= schedule.blocks_of(stage) - 1
      seen += schedule.rows_of(stage)
      steps += 1
  assert schedule.starts == tuple(starts)
  assert schedule.images == tuple(images)


# ---------------------------------------------------------------- latents


def test_slerp_walks_the_great_circle():
  a, b = jnp.array([2.0, 0.0, 0.0]), jnp.array([0.0, 2.0, 0.0])
  for t in (0.0, 0.25, 1.0):
    got = progressive.slerp(a, b, jnp.float32(t))
    np.testing.assert_allclose(
        got, [2 * np.cos(t * np.pi / 2), 2 * np.sin(t * np.pi / 2), 0],
        atol=1e-6)


def test_slerp_keeps_the_lengths_of_its_ends():  # As released.
  a, b = np.float64(draw(5, 9)), np.float64(draw(5, 9, seed=1, scale=3.0))
  t = np.linspace(0, 1, 5)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  angle = np.arccos((unit(a) * unit(b)).sum(1))
  want = ((np.sin((1 - t) * angle) / np.sin(angle))[:, None] * a
          + (np.sin(t * angle) / np.sin(angle))[:, None] * b)
  got = progressive.slerp(jnp.float32(a), jnp.float32(b), jnp.float32(t))
  np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_allclose(got[0], a[0], atol=1e-6)
  np.testing.assert_allclose(got[4], b[4], atol=1e-6)


@pytest.mark.parametrize('factor', [1.0, 2.0, -1.0])
def test_slerp_between_parallel_vectors_is_a_line(factor):
  a = draw(1, 256)
  got = progressive.slerp(a, factor * a, jnp.float32([0.25]))
  np.testing.assert_allclose(got, (0.75 + 0.25 * factor) * a, rtol=1e-3,
                             atol=1e-5)
