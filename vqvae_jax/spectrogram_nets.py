"""2-D networks of the models of spectrograms.

Strided and residual convolutions as in Sonnet's VQ-VAE example and in the two
ports of VQ-VAE-2 that are in use, for images and for spectrograms. Layers are
called by what they do (down0, .., conv, res0, res1, up0, ..), so that a port's
list of layers maps onto ours one by one: kernels there are [O, I, T, F], those
of transposed convolutions [I, O, T, F], flipped along both axes.

Shapes: B batch, T frames, F bins or bands, I and O channels, S stride; pictures
are [B, T, F, C].
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from common import errors
from common.model import row_keys

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
INITS = ('torch', 'sonnet')


def initializers(init: str, fan_in: int):
  """Of kernel and bias: PyTorch's defaults, or those of Sonnet's example."""
  bound = 1.0 / math.sqrt(fan_in)
  if init == 'sonnet':
    return nn.initializers.truncated_normal(bound), nn.initializers.zeros
  uniform = lambda key, shape, dtype: jax.random.uniform(
      key, shape, dtype, -bound, bound)
  return uniform, uniform


class Conv(nn.Module):
  """[B, T, F, I] -> [B, T / S, F / S, O], rounded up.

  Padding is 'SAME': for even T and F, kernel 4 and stride 2 it is PyTorch's
  padding=1.
  """

  features: int
  kernel: tuple[int, int] = (3, 3)
  stride: tuple[int, int] = (1, 1)
  initial: str = 'torch'
  dtype: Any = None

  @nn.compact
  def __call__(self, x):
    shape = (*self.kernel, x.shape[-1], self.features)
    x, kernel, bias = _parameters(self, x, shape, math.prod(shape[:-1]))
    return lax.conv_general_dilated(
        x, kernel, self.stride, 'SAME', dimension_numbers=DIMENSIONS) + bias


class Down(Conv):
  """[B, T, F, I] -> [B, T / 2, F / 2, O]."""

  kernel: tuple[int, int] = (4, 4)
  stride: tuple[int, int] = (2, 2)


class Up(nn.Module):
  """The transpose of `Down`: [B, T, F, I] -> [B, 2 T, 2 F, O]."""

  features: int
  initial: str = 'torch'
  dtype: Any = None

  @nn.compact
  def __call__(self, x):
    # PyTorch's fan_in of a transposed convolution counts the outputs.
    shape = (4, 4, x.shape[-1], self.features)
    x, kernel, bias = _parameters(self, x, shape, 16 * self.features)
    return upsample(x, kernel) + bias


def _parameters(layer, x, shape, fan_in):
  """x, kernel and bias [1, 1, 1, O], in the layer's dtype."""
  kernel_init, bias_init = initializers(layer.initial, fan_in)
  kernel = layer.param('kernel', kernel_init, shape, jnp.float32)
  bias = layer.param('bias', bias_init, shape[-1:], jnp.float32)
  return nn.dtypes.promote_dtype(
      x, kernel, bias[None, None, None], dtype=layer.dtype)


def upsample(x, kernel):
  """lax.conv_transpose(x, kernel [4, 4, I, O], (2, 2), 'SAME').

  A pixel of the result depends on 2 x 2 of x. So one product of matrices makes
  all four kinds of pixels, which are put side by side. XLA's own is slow on
  CPU (with its gradients, 2 to 10 times), and so is a 2 x 2 convolution's
  gradient.
  """
  b, t, f, _ = x.shape
  inputs, outputs = kernel.shape[2:]
  # [4, 4] is [2, 2] of x times [2, 2] kinds, of each axis.
  kernel = kernel.reshape(2, 2, 2, 2, inputs, outputs).transpose(
      0, 2, 4, 1, 3, 5).reshape(4 * inputs, 4 * outputs)
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  x = jnp.concatenate([x[:, i:i + t + 1, j:j + f + 1]
                       for i in (0, 1) for j in (0, 1)], -1)
  y = (x @ kernel).reshape(b, t + 1, f + 1, 2, 2, outputs)
  return jnp.stack([
      jnp.stack([y[:, i:i + t, j:j + f, i, j] for j in (0, 1)], 3)
      for i in (0, 1)], 2).reshape(b, 2 * t, 2 * f, outputs)


class Residual(nn.Module):
  """x + f(x), `count` times, and a ReLU; inside f the width is `inner`."""

  count: int = 2
  inner: int = 32
  # The port for spectrograms overwrites x by its ReLU: relu(x) + f(relu(x)).
  relu_skip: bool = False
  initial: str = 'torch'
  dtype: Any = None

  @nn.compact
  def __call__(self, x):
    layer = dict(initial=self.initial, dtype=self.dtype)
    for i in range(self.count):
      h = nn.relu(x)
      x = h if self.relu_skip else x
      h = Conv(self.inner, **layer, name=f'res{i}_conv0')(h)
      x += Conv(x.shape[-1], (1, 1), **layer, name=f'res{i}_conv1')(nn.relu(h))
    return nn.relu(x)


class Encoder(nn.Module):
  """[B, T, F, C] -> [B, T / 2^n, F / 2^n, width] with n = len(channels)."""

  channels: tuple[int, ...]  # After each halving.
  width: int = 128
  residuals: int = 2
  inner: int = 32
  relu_skip: bool = False
  # Sonnet's has a ReLU between its 3 x 3 convolution and the residuals; the
  # ports of VQ-VAE-2 have none.
  relu_conv: bool = False
  initial: str = 'torch'
  dtype: Any = None

  @nn.compact
  def __call__(self, x):
    layer = dict(initial=self.initial, dtype=self.dtype)
    for i, channels in enumerate(self.channels):
      x = nn.relu(Down(channels, **layer, name=f'down{i}')(x))
    x = Conv(self.width, **layer, name='conv')(x)
    x = nn.relu(x) if self.relu_conv else x
    return Residual(self.residuals, self.inner, self.relu_skip, **layer,
                    name='residual')(x)


class Decoder(nn.Module):
  """[B, T, F, C] -> [B, 2^n T, 2^n F, channels[-1]], n = len(channels)."""

  channels: tuple[int, ...]  # After each doubling.
  width: int = 128
  residuals: int = 2
  inner: int = 32
  relu_skip: bool = False
  initial: str = 'torch'
  dtype: Any = None

  @nn.compact
  def __call__(self, x):
    layer = dict(initial=self.initial, dtype=self.dtype)
    x = Conv(self.width, **layer, name='conv')(x)
    x = Residual(self.residuals, self.inner, self.relu_skip, **layer,
                 name='residual')(x)
    for i, channels in enumerate(self.channels):
      x = Up(channels, **layer, name=f'up{i}')(nn.relu(x) if i else x)
    return x


def check(config) -> None:
  """One sentence for each setting of encoder and decoder that cannot work."""
  c = config.model
  if c.initial not in INITS:
    raise errors.UserError(f'model.initial={c.initial!r} is not one of '
                           f'{", ".join(map(repr, INITS))}')
  if not c.channels or any(
      not isinstance(n, int) or n < 1 for n in c.channels):
    raise errors.UserError(
        f'model.channels={tuple(c.channels)} is not a list of widths, one for '
        'each halving; for a quarter: (64, 128)')
  errors.at_least(c, width=1, inner=1, residuals=0, label_width=1)


class Labels(nn.Module):
  """Embeddings of labels [B], side by side: [B, len(sizes) * width].

  They are N(0, 1), as PyTorch's.
  """

  sizes: tuple[tuple[str, int], ...]  # (('pitch', 128), ..)
  width: int
  dtype: Any = None

  @nn.compact
  def __call__(self, batch):
    return jnp.concatenate([
        nn.Embed(size, self.width, dtype=self.dtype, name=name,
                 embedding_init=nn.initializers.normal(1.0))(batch[name])
        for name, size in self.sizes], -1)


def beside(x, vector):
  """A vector [B, V] beside every pixel of x: [B, T, F, C + V]."""
  vector = jnp.broadcast_to(vector[:, None, None],
                            (*x.shape[:-1], vector.shape[-1]))
  return jnp.concatenate([x, vector.astype(x.dtype)], -1)


# ------------------------------------------------ AE, VAE and VAE-GAN


class Layer(NamedTuple):
  """A convolution, or the transpose of one."""

  features: int
  kernel: int = 3
  stride: tuple[int, int] = (1, 1)  # Of T and F.


class Norm(NamedTuple):
  """Batch norm; the defaults are those of Keras."""

  momentum: float = 0.99
  epsilon: float = 1e-3
  scale: bool = True

  def __call__(self, x, train, dtype, name):
    return nn.BatchNorm(
        use_running_average=not train, momentum=self.momentum,
        epsilon=self.epsilon, use_scale=self.scale, dtype=dtype, name=name)(x)


class Stack(nn.Module):
  """Convolutions with batch norm: [B, T, F, I] -> [B, T', F', O].

  A norm right after a convolution makes its bias idle: there is none.
  """

  layers: tuple[Layer, ...]
  norm: Norm = Norm()
  activation: Any = nn.relu
  norm_last: bool = False  # Activation, then norm: the other way round.
  transpose: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x, train=False):
    kind = Transposed if self.transpose else nn.Conv
    for i, layer in enumerate(self.layers):
      x = kind(layer.features, (layer.kernel,) * 2, layer.stride,
               use_bias=self.norm_last, dtype=self.dtype,
               kernel_init=nn.initializers.glorot_uniform(),
               name=f'conv{i}')(x)
      steps = [self.activation,
               lambda x, i=i: self.norm(x, train, self.dtype, f'norm{i}')]
      for step in steps if self.norm_last else steps[::-1]:
        x = step(x)
    return x


def with_labels(net, x, labels):
  """x [B, D] beside the embeddings of the labels that `net` is told, if any."""
  if not net.labels:
    return x
  found = Labels(net.labels, net.label_width, net.dtype, name='labels')(labels)
  return jnp.concatenate([x, found.astype(x.dtype)], -1)


def run(net, params, stats, *inputs):
  """In training, by the batch's own statistics: (output, their new means)."""
  return net.apply({'params': params, **stats}, *inputs, True,
                   mutable=['batch_stats'])


def infer(net, part, state, *inputs):
  """By that part of a state, with the means of the statistics in training."""
  return net.apply({'params': state.params[part], **state.vars[part]}, *inputs,
                   False)


def noise(key, index, size):
  """N(0, I) [B, size], the same for the same number in `index` [B]."""
  one = lambda k: jax.random.normal(k, (size,))
  return jax.vmap(one)(row_keys(key, index))


class Transposed(nn.Module):
  """The transpose of a 'SAME' convolution: T and F times the stride."""

  features: int
  kernel: tuple[int, int]
  stride: tuple[int, int]
  use_bias: bool = True
  kernel_init: Any = nn.initializers.glorot_uniform()
  dtype: Any = None

  @nn.compact
  def __call__(self, x):
    shape = (*self.kernel, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, shape[-1:],
                      jnp.float32) if self.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias,
                                              dtype=self.dtype)
    y = transposed(x, kernel, self.stride)
    return y if bias is None else y + bias[None, None, None]


def transposed(x, kernel, stride, implementation=None):
  """y[l] = sum_t x[t] w[l + lo - S t] along T and F; lo: zeros of 'SAME'.

  'overlap_add', a product of matrices whose windows are added up, is with its
  gradients 5 to 12 times faster on CPU than 'lax', zeros between the pixels of
  x (3 x 3, stride 2, 16 rows). None means 'overlap_add' on CPU and 'lax'
  elsewhere, as in common/nn/conv.py. It takes any kernel and stride; `upsample`
  takes 4 x 4 and stride 2 alone, and has no windows to add up.
  """
  if implementation is None:
    cpu = jax.default_backend() == 'cpu'
    implementation = 'overlap_add' if cpu else 'lax'
  if implementation == 'lax':
    return lax.conv_transpose(x, kernel[::-1, ::-1], stride, 'SAME',
                              dimension_numbers=DIMENSIONS)
  (b, t, f, i), o = x.shape, kernel.shape[-1]
  (s, u), (k, m) = stride, kernel.shape[:2]
  taps, ways = -(-k // s), -(-m // u)  # A window spans so many blocks of S.
  kernel = jnp.pad(kernel, ((0, taps * s - k), (0, ways * u - m),
                            (0, 0), (0, 0)))
  windows = (x.reshape(-1, i) @ kernel.transpose(2, 0, 1, 3).reshape(i, -1)
             ).reshape(b, t, f, taps, s, ways, u, o)
  y = sum(
      jnp.pad(windows[:, :, :, p, :, q], (
          (0, 0), (p, taps - 1 - p), (q, ways - 1 - q), (0, 0), (0, 0), (0, 0)))
      for p in range(taps) for q in range(ways))
  y = y.transpose(0, 1, 3, 2, 4, 5).reshape(
      b, (t + taps - 1) * s, (f + ways - 1) * u, o)
  lo, left = max(k - s, 0) // 2, max(m - u, 0) // 2
  return y[:, lo:lo + t * s, left:left + f * u]
