import itertools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from common import config as config_lib
from common import errors
from vqvae_jax import spectrogram_nets as nets


def noise(*shape, seed=0):
  x = np.random.default_rng(seed).standard_normal(shape)
  return x.astype(np.float32)


def count_and_shape(net, *shape):
  y, variables = jax.eval_shape(
      lambda x: net.init_with_output(jax.random.key(0), x), jnp.zeros(shape))
  return sum(x.size for x in jax.tree.leaves(variables)), y.shape


@pytest.mark.parametrize('net, parameters, shape, out', [
    # Sonnet's example for CIFAR-10, and VQ-VAE-2 on images.
    (nets.Encoder((64, 128)), 364_160, (32, 32, 3), (8, 8, 128)),
    (nets.Conv(64, (1, 1)), 8_256, (8, 8, 128), (8, 8, 64)),
    (nets.Decoder((64, 3)), 290_307, (8, 8, 64), (32, 32, 3)),
    (nets.Encoder((64,)), 287_232, (64, 64, 128), (32, 32, 128)),
    (nets.Decoder((64,)), 287_232, (32, 32, 64), (64, 64, 64)),
    (nets.Conv(64, (1, 1)), 12_352, (64, 64, 192), (64, 64, 64)),
    (nets.Up(64), 65_600, (32, 32, 64), (64, 64, 64)),
    (nets.Decoder((64, 3)), 364_035, (64, 64, 128), (256, 256, 3)),
    # On spectrograms.
    (nets.Encoder((32, 64, 96, 128)), 558_848, (128, 1024, 2), (8, 64, 128)),
    (nets.Decoder((96, 64, 32, 2)), 558_722, (8, 64, 128), (128, 1024, 2))])
def test_sizes_are_those_of_the_peers(net, parameters, shape, out):
  assert count_and_shape(net, 1, *shape) == (parameters, (1, *out))


def torch_down(x, w):
  """Conv2d(kernel 4, stride 2, padding 1): x [T, F, I], w [O, I, 4, 4]."""
  x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  t, f = (x.shape[0] - 2) // 2, (x.shape[1] - 2) // 2
  y = np.zeros((t, f, len(w)))
  for i, j in itertools.product(range(t), range(f)):
    y[i, j] = np.einsum('abi,oiab->o', x[2 * i:2 * i + 4, 2 * j:2 * j + 4], w)
  return y


def torch_up(x, w):
  """ConvTranspose2d(kernel 4, stride 2, padding 1): w [I, O, 4, 4]."""
  t, f, _ = x.shape
  y = np.zeros((2 * t + 2, 2 * f + 2, w.shape[1]))
  for i, j in itertools.product(range(t), range(f)):
    y[2 * i:2 * i + 4, 2 * j:2 * j + 4] += np.einsum(
        'i,ioab->abo', x[i, j], w)
  return y[1:-1, 1:-1]


def test_weights_of_the_ports_map_onto_ours():
  x, w, b = noise(6, 10, 3), noise(5, 3, 4, 4, seed=1), noise(5, seed=2)
  got = nets.Down(5).apply(
      {'params': {'kernel': w.transpose(2, 3, 1, 0), 'bias': b}}, x[None])
  np.testing.assert_allclose(got[0], torch_down(x, w) + b, rtol=1e-4, atol=1e-4)
  w = noise(3, 5, 4, 4, seed=3)
  ours = w.transpose(2, 3, 0, 1)[::-1, ::-1]
  got = nets.Up(5).apply({'params': {'kernel': ours, 'bias': b}}, x[None])
  assert got.shape == (1, 12, 20, 5)
  np.testing.assert_allclose(got[0], torch_up(x, w) + b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('t, f', [(1, 1), (3, 8)])
def test_upsample_and_its_gradients_are_laxs(t, f):
  x, w = jnp.asarray(noise(2, t, f, 3)), jnp.asarray(noise(4, 4, 3, 5, seed=1))
  plain = lambda x, w: lax.conv_transpose(
      x, w, (2, 2), 'SAME', dimension_numbers=nets.DIMENSIONS)
  loss = lambda f: lambda x, w: (jnp.sin(f(x, w)) ** 2).sum()
  np.testing.assert_allclose(nets.upsample(x, w), plain(x, w), atol=1e-5)
  for got, want in zip(jax.grad(loss(nets.upsample), (0, 1))(x, w),
                       jax.grad(loss(plain), (0, 1))(x, w), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_both_skips_of_a_residual_are_as_the_ports_have_them():
  x = noise(1, 4, 6, 3)
  net = nets.Residual(1, 2)
  params = net.init(jax.random.key(0), x)['params']
  relu = lambda x: np.maximum(x, 0)
  bias = lambda name: params[name]['bias'][None, None, None]
  conv = lambda name, x: bias(name) + lax.conv_general_dilated(
      jnp.asarray(x), params[name]['kernel'], (1, 1), 'SAME',
      dimension_numbers=nets.DIMENSIONS)
  f = conv('res0_conv1', relu(conv('res0_conv0', relu(x))))
  np.testing.assert_allclose(net.apply({'params': params}, x), relu(x + f),
                             atol=1e-5)
  got = nets.Residual(1, 2, relu_skip=True).apply({'params': params}, x)
  np.testing.assert_allclose(got, relu(relu(x) + f), atol=1e-5)
  assert (x + f < 0).any()  # The two do differ.


def test_weights_begin_as_in_torch_or_as_in_sonnet():
  conv = lambda net, channels: {k: np.asarray(v) for k, v in net.init(
      jax.random.key(0), jnp.zeros((1, 8, 8, channels)))['params'].items()}
  for net, channels, fan_in in (
      (nets.Conv(64), 32, 9 * 32), (nets.Down(64), 32, 16 * 32),
      (nets.Up(16), 64, 16 * 16)):  # Its fan-in counts the outputs.
    params, bound = conv(net, channels), fan_in**-0.5
    for x in params.values():
      assert 0.8 * bound < np.abs(x).max() <= bound
    np.testing.assert_allclose(params['kernel'].std(), bound / 3**0.5,
                               rtol=0.05)
  params = conv(nets.Conv(64, initial='sonnet'), 32)
  assert not params['bias'].any()
  assert np.abs(params['kernel']).max() <= 2 * (9 * 32) ** -0.5
  # Cut at two deviations, which TensorFlow does not make up for.
  np.testing.assert_allclose(params['kernel'].std(),
                             0.8796 * (9 * 32) ** -0.5, rtol=0.03)


def test_layers_have_names_that_a_list_of_layers_maps_onto():
  net = nets.Encoder((4, 4), 4, residuals=2, inner=2)
  params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))['params']
  names = flax.traverse_util.flatten_dict(params, sep='/')
  assert {k.rpartition('/')[0] for k in names} == {
      'down0', 'down1', 'conv', 'residual/res0_conv0', 'residual/res0_conv1',
      'residual/res1_conv0', 'residual/res1_conv1'}


def test_labels_are_beside_every_pixel():
  net = nets.Labels((('pitch', 128), ('instrument_family', 11)), 3)
  batch = {'pitch': jnp.array([60, 61, 60]),
           'instrument_family': jnp.array([2, 2, 2])}
  vector, variables = net.init_with_output(jax.random.key(0), batch)
  assert vector.shape == (3, 6)
  np.testing.assert_array_equal(vector[0], vector[2])
  np.testing.assert_array_equal(vector[0, 3:], vector[1, 3:])
  assert not np.isclose(vector[0, :3], vector[1, :3]).any()
  assert variables['params']['pitch']['embedding'].shape == (128, 3)
  x = noise(3, 4, 5, 2)
  both = nets.beside(x, vector)
  np.testing.assert_array_equal(both[..., :2], x)
  np.testing.assert_array_equal(both[1, 3, 4, 2:], vector[1])


def test_networks_compute_in_bfloat16_with_float32_parameters():
  for net in (nets.Encoder((4,), 4, 1, 2, dtype=jnp.bfloat16),
              nets.Decoder((4,), 4, 1, 2, dtype=jnp.bfloat16)):
    y, variables = net.init_with_output(
        jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
    assert y.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {
        jnp.dtype('float32')}


@pytest.mark.parametrize('changes, says', [
    ({'channels': ()}, 'model.channels'),
    ({'channels': (4, 0)}, 'each halving'),
    ({'initial': 'keras'}, "'torch', 'sonnet'"), ({'width': 0}, 'model.width'),
    ({'inner': 0}, 'model.inner=0 .*1 or more'),
    ({'residuals': -1}, 'model.residuals')])
def test_settings_that_cannot_work_are_refused(changes, says):
  config = config_lib.load('vqvae_nsynth:tiny')
  config.model.update(changes)
  with pytest.raises(errors.UserError, match=says):
    nets.check(config)
