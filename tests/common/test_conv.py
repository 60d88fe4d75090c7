import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.nn import conv

BOTH = pytest.mark.parametrize('implementation', ['lax', 'overlap_add'])
# Kernel, stride, frames, padding: WaveGAN's, MelGAN's, and what divides not.
CASES = pytest.mark.parametrize('size, stride, frames, padding', [
    (25, 4, 32, 'SAME'), (25, 2, 32, 'SAME'), (25, 1, 32, 'SAME'),
    (16, 8, 32, 'SAME'), (4, 2, 16, 'SAME'), (5, 3, 17, 'SAME'),
    (2, 4, 16, 'SAME'),
    (25, 4, 39, (10, 11)), (7, 3, 20, (0, 5)), (3, 1, 9, (2, 0))])


def arrays(*shapes):
  rng = np.random.default_rng(0)
  return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def naive_conv(x, w, stride, lo, hi):
  """y[t] = sum_k x[S t + k - lo] w[k], one product at a time."""
  frames = (x.shape[1] + lo + hi - len(w)) // stride + 1
  y = np.zeros((len(x), frames, w.shape[2]))
  for t in range(frames):
    for k in range(len(w)):
      i = stride * t + k - lo
      if 0 <= i < x.shape[1]:
        y[:, t] += x[:, i] @ w[k]
  return y


def naive_conv_transpose(x, w, stride, lo, hi):
  """y[o] = sum_i x[i] w[o + lo - S i], one product at a time."""
  length = (x.shape[1] - 1) * stride + len(w) - lo - hi
  y = np.zeros((len(x), length, w.shape[2]))
  for o in range(length):
    for i in range(x.shape[1]):
      if 0 <= o + lo - stride * i < len(w):
        y[:, o] += x[:, i] @ w[o + lo - stride * i]
  return y


@BOTH
@CASES
def test_conv_is_the_sum_it_says(size, stride, frames, padding, implementation):
  x, w = arrays((2, frames, 3), (size, 3, 5))
  lo, hi = padding if padding != 'SAME' else _same(frames, size, stride)
  got = conv.conv(x, w, stride, padding, implementation)
  np.testing.assert_allclose(
      got, naive_conv(x, w, stride, lo, hi), atol=1e-4)
  if padding == 'SAME':
    assert got.shape[1] == -(-frames // stride)


@BOTH
@CASES
def test_transposed_conv_is_the_sum_it_says(
    size, stride, frames, padding, implementation):
  x, w = arrays((2, frames, 3), (size, 3, 5))
  lo, hi = padding if padding != 'SAME' else _same(
      frames * stride, size, stride)
  if padding == 'SAME' and size < stride:
    hi = size - stride  # Frames that no window reaches.
  got = conv.conv_transpose(x, w, stride, padding, implementation)
  np.testing.assert_allclose(
      got, naive_conv_transpose(x, w, stride, lo, hi), atol=1e-4)
  if padding == 'SAME':
    assert got.shape[1] == frames * stride


def _same(length, size, stride):
  """TensorFlow's rule: the odd zero goes to the end."""
  total = max((-(-length // stride) - 1) * stride + size - length, 0)
  return total // 2, total - total // 2


@pytest.mark.parametrize('size, stride, want', [
    (25, 4, (10, 11)), (25, 2, (11, 12)), (5, 2, (1, 2)), (25, 1, (12, 12))])
def test_padding_of_the_released_networks(size, stride, want):
  x, w = arrays((1, 16 * stride, 1), (size, 1, 1))
  for fn in (conv.conv, conv.conv_transpose):
    np.testing.assert_array_equal(fn(x, w, stride), fn(x, w, stride, want))


@CASES
@pytest.mark.parametrize('fn', [conv.conv, conv.conv_transpose])
def test_implementations_agree_up_to_the_gradient_of_a_gradient(
    fn, size, stride, frames, padding):
  x, w = arrays((2, frames, 3), (size, 3, 2))

  def derivatives(implementation):
    def loss(x, w):
      return jnp.tanh(fn(x, w, stride, padding, implementation) / 5).sum()

    def penalty(x, w):
      by_x, by_w = jax.grad(loss, (0, 1))(x, w)
      return (by_x**2).sum() + (by_w**3).sum()
    return (loss(x, w), jax.grad(loss, (0, 1))(x, w), penalty(x, w),
            jax.grad(penalty, (0, 1))(x, w))

  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(
          a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max()),
      jax.jit(derivatives, static_argnums=0)('lax'),
      jax.jit(derivatives, static_argnums=0)('overlap_add'))


def test_transposed_conv_is_the_adjoint_of_conv():
  x, w, y = arrays((2, 40, 3), (25, 3, 5), (2, 10, 5))
  np.testing.assert_allclose(
      (conv.conv(x, w, 4) * y).sum(),
      (x * conv.conv_transpose(y, w.swapaxes(1, 2), 4)).sum(), rtol=1e-4)


@pytest.mark.parametrize('layer', [conv.Conv, conv.ConvTranspose])
def test_layers_start_with_glorot_kernels_and_no_bias(layer):
  params = layer(64, 25, 4).init(
      jax.random.key(0), jnp.zeros((1, 16, 32)))['params']
  limit = np.sqrt(6 / (25 * (32 + 64)))
  kernel = np.asarray(params['kernel'])
  assert kernel.shape == (25, 32, 64)
  assert 0.999 * limit < np.abs(kernel).max() <= limit
  np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=1e-2)
  np.testing.assert_array_equal(params['bias'], np.zeros(64))
  assert 'bias' not in layer(2, 3, use_bias=False).init(
      jax.random.key(0), jnp.zeros((1, 8, 2)))['params']


@pytest.mark.parametrize('layer', [conv.Conv, conv.ConvTranspose])
def test_layers_compute_in_their_dtype_from_float32_parameters(layer):
  net, x = layer(4, 5, 2, dtype=jnp.bfloat16), jnp.ones((1, 8, 2))
  y, variables = net.init_with_output(jax.random.key(0), x)
  assert y.dtype == jnp.bfloat16
  assert {p.dtype for p in jax.tree.leaves(variables)} == {
      jnp.dtype(jnp.float32)}
  bias = variables['params'] | {'bias': jnp.arange(4.0)}
  moved = net.apply({'params': bias}, x) - y
  np.testing.assert_allclose(
      moved.astype(jnp.float32), jnp.broadcast_to(jnp.arange(4.0), y.shape),
      atol=0.02)


def test_an_unknown_implementation_is_refused():
  x, w = arrays((1, 8, 1), (3, 1, 1))
  with pytest.raises(ValueError, match=r"'overlap'.*'overlap_add'"):
    conv.conv(x, w, implementation='overlap')
