"""1-D convolutions with strides, and their transposes.

Shapes: B batch, T and L frames, I and O channels, K kernel size, S stride;
`padding` = (lo, hi) frames of zeros before and after. Three sums belong
together, each linear in both arguments:

  convolve    y[t] = sum_k x[S t + k - lo] w[k]         x [B,L,I] -> y [B,T,O]
  transpose   x[l] = sum_t y[t] w[l + lo - S t]^T       y [B,T,O] -> x [B,L,I]
  correlate   w[k] = sum_t x[S t + k - lo]^T y[t]       -> w [K,I,O]

Every derivative of one, of any order, is made of the other two. XLA on CPU is
fast at the first and the third, and at the second as one matmul whose windows
are added up. What it derives itself is slow, above all for the gradient of a
gradient penalty: a training step of WaveGAN (d = 16, 5 x 8 clips, 2 cores) took
4.4 s, and 0.54 s by these sums. So both layers have two implementations:

  'lax'          lax convolutions, differentiated by XLA.
  'overlap_add'  the three sums as each other's derivatives. No jvp.

None means 'overlap_add' on CPU and 'lax' elsewhere.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

DIMENSIONS = ('NWC', 'WIO', 'NWC')  # NCW is up to 2.4 times slower on CPU.


class Conv(nn.Module):
  """[B, L, I] -> [B, T, features]; T = ceil(L / stride) if padded 'SAME'."""

  features: int
  kernel_size: int
  stride: int = 1
  padding: str | tuple[int, int] = 'SAME'
  dilation: int = 1
  use_bias: bool = True
  kernel_init: Any = nn.initializers.glorot_uniform()
  dtype: Any = None
  implementation: str | None = None

  @nn.compact
  def __call__(self, x):
    shape = (self.kernel_size, x.shape[-1], self.features)
    x, kernel, bias = _parameters(self, x, shape)
    y = conv(x, kernel, self.stride, self.padding, self.implementation,
             self.dilation)
    return y if bias is None else y + bias[None, None]


class ConvTranspose(nn.Module):
  """[B, T, I] -> [B, L, features]; L = T * stride if padded 'SAME'."""

  features: int
  kernel_size: int
  stride: int = 1
  padding: str | tuple[int, int] = 'SAME'  # Of the convolution it transposes.
  use_bias: bool = True
  kernel_init: Any = nn.initializers.glorot_uniform()
  dtype: Any = None
  implementation: str | None = None

  @nn.compact
  def __call__(self, x):
    shape = (self.kernel_size, x.shape[-1], self.features)
    x, kernel, bias = _parameters(self, x, shape)
    y = conv_transpose(
        x, kernel, self.stride, self.padding, self.implementation)
    return y if bias is None else y + bias[None, None]


def conv(x, w, stride=1, padding='SAME', implementation=None, dilation=1):
  """y[t] = sum_k x[S t + d k - lo] w[k]: [B, L, I], [K, I, O] -> [B, T, O].

  XLA's own derivatives of a dilated one are fast everywhere.
  """
  if padding == 'SAME':  # As TensorFlow: the odd zero goes to the end.
    frames = -(-x.shape[1] // stride)
    span = (w.shape[0] - 1) * dilation + 1
    total = max((frames - 1) * stride + span - x.shape[1], 0)
    padding = total // 2, total - total // 2
  if _resolve(implementation) == 'overlap_add' and dilation == 1:
    return _convolve(x, w, stride, padding)
  return lax.conv_general_dilated(
      x, w, (stride,), [padding], rhs_dilation=(dilation,),
      dimension_numbers=DIMENSIONS)


def conv_transpose(x, w, stride=1, padding='SAME', implementation=None):
  """y[l] = sum_t x[t] w[l + lo - S t]: [B, T, I], [K, I, O] -> [B, L, O].

  `padding` is that of the strided convolution from L to T frames, so
  L = (T - 1) S + K - lo - hi, and T S if it is 'SAME'.
  """
  size = w.shape[0]
  if padding == 'SAME':
    lo = max(size - stride, 0) // 2
    padding = lo, size - stride - lo
  lo, hi = padding
  if _resolve(implementation) == 'overlap_add':
    length = (x.shape[1] - 1) * stride + size - lo - hi
    return _transpose(x, w.swapaxes(1, 2), stride, (lo, hi), length)
  return lax.conv_general_dilated(
      x, jnp.flip(w, 0), (1,), [(size - 1 - lo, size - 1 - hi)],
      lhs_dilation=(stride,), dimension_numbers=DIMENSIONS)


def _resolve(implementation):
  if implementation is None:
    return 'overlap_add' if jax.default_backend() == 'cpu' else 'lax'
  if implementation not in ('lax', 'overlap_add'):
    raise ValueError(f"implementation={implementation!r} of a convolution is "
                     "neither 'lax' nor 'overlap_add'")
  return implementation


def _parameters(layer, x, shape):
  kernel = layer.param('kernel', layer.kernel_init, shape, jnp.float32)
  bias = layer.param('bias', nn.initializers.zeros, shape[-1:],
                     jnp.float32) if layer.use_bias else None
  return nn.dtypes.promote_dtype(x, kernel, bias, dtype=layer.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, w, stride, padding):
  return lax.conv_general_dilated(
      x, w, (stride,), [padding], dimension_numbers=DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _transpose(y, w, stride, padding, length):
  size, lo = w.shape[0], padding[0]
  if stride == 1:  # A convolution with the flipped kernel: no windows to add.
    hi = length - 1 - (y.shape[1] - 1) + lo
    return lax.conv_general_dilated(
        y, jnp.flip(w, 0).swapaxes(1, 2), (1,), [(size - 1 - lo, hi)],
        dimension_numbers=DIMENSIONS)
  batch, frames, _ = y.shape
  blocks = -(-size // stride)  # A window spans so many blocks of S frames.
  w = jnp.pad(w, ((0, blocks * stride - size), (0, 0), (0, 0)))
  windows = (y @ w.transpose(2, 0, 1).reshape(y.shape[-1], -1)).reshape(
      batch, frames, blocks, -1)
  x = sum(
      jnp.pad(windows[:, :, i], ((0, 0), (i, blocks - 1 - i), (0, 0)))
      for i in range(blocks)).reshape(batch, -1, w.shape[1])
  short = max(lo + length - x.shape[1], 0)  # Frames that no window reaches.
  return jnp.pad(x, ((0, 0), (0, short), (0, 0)))[:, lo:lo + length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _correlate(x, y, stride, padding, size):
  lo = padding[0]
  hi = size + (y.shape[1] - 1) * stride - x.shape[1] - lo
  # Transposed by hand. XLA would do that for us, but not inside of a loop, and
  # there the other layout is slow (five updates of WaveGAN: 13 s, not 2.5).
  return lax.conv_general_dilated(
      x.transpose(2, 1, 0), y.transpose(1, 0, 2), (1,), [(lo, hi)],
      rhs_dilation=(stride,), dimension_numbers=DIMENSIONS).transpose(1, 0, 2)


_convolve.defvjp(
    lambda x, w, stride, padding: (
        _convolve(x, w, stride, padding), (x, w)),
    lambda stride, padding, xw, dy: (
        _transpose(dy, xw[1], stride, padding, xw[0].shape[1]),
        _correlate(xw[0], dy, stride, padding, xw[1].shape[0])))
_transpose.defvjp(
    lambda y, w, stride, padding, length: (
        _transpose(y, w, stride, padding, length), (y, w)),
    lambda stride, padding, length, yw, dx: (
        _convolve(dx, yw[1], stride, padding),
        _correlate(dx, yw[0], stride, padding, yw[1].shape[0])))
_correlate.defvjp(
    lambda x, y, stride, padding, size: (
        _correlate(x, y, stride, padding, size), (x, y)),
    lambda stride, padding, size, xy, dw: (
        _transpose(xy[1], dw, stride, padding, xy[0].shape[1]),
        _convolve(xy[0], dw, stride, padding)))
