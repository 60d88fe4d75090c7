"""Networks that grow: Karras et al. 2018, as GANSynth's released code has it.

Each block doubles both axes of the images, from a first one of `start` =
(frames, bins) to start * 2^(blocks - 1). `progress` p says how far training
is: at whole numbers p + 1 blocks are in use, between two of them the next one
fades in. All blocks' parameters exist from the start; `blocks`, a static
number, says how many are computed, and images have that number's size. The
released code always has images of the final size, repeated or averaged: the
same values, at more cost.

Shapes: B batch, H frames, W bins, C channels, Z latents and labels.
"""

import dataclasses
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# ---------------------------------------------------------------- the schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
  """Stages 0, 1, 2, ...: stable, transition, stable, ...

  An image is a row that the discriminator has seen; a step takes rows[b - 1]
  of them while b blocks are in use.
  """

  blocks: int
  stable_images: int
  transition_images: int
  rows: tuple[int, ...]

  def __post_init__(self):
    start = image = 0
    starts, images = [], []
    for stage in range(self.stages):
      starts.append(start)
      images.append(image)
      end = ((stage // 2 + 1) * self.stable_images
             + (stage + 1) // 2 * self.transition_images)
      steps = max(0, math.ceil((end - image) / self.rows_of(stage)))
      start, image = start + steps, image + steps * self.rows_of(stage)
    object.__setattr__(self, 'starts', tuple(starts))  # First step of a stage.
    object.__setattr__(self, 'images', tuple(images))  # Seen before it.

  @property
  def stages(self) -> int:
    return 2 * self.blocks - 1

  def blocks_of(self, stage: int) -> int:
    return (stage + 1) // 2 + 1

  def rows_of(self, stage: int) -> int:
    return self.rows[self.blocks_of(stage) - 1]

  def progress(self, step):
    """p at a step: int32 [] -> float32 []."""
    stage = jnp.searchsorted(jnp.array(self.starts), step, side='right') - 1
    rows = jnp.array([self.rows_of(i) for i in range(self.stages)])
    images = (jnp.array(self.images)[stage]
              + (step - jnp.array(self.starts)[stage]) * rows[stage])
    return progress(images, self.blocks, self.stable_images,
                    self.transition_images)


def progress(images, blocks: int, stable: int, transition: int):
  """How many blocks are in use after so many images, less one: float32."""
  images = jnp.minimum(images, blocks * stable + (blocks - 1) * transition - 1)
  whole, rest = jnp.divmod(images, stable + transition)
  return whole + jnp.maximum(0.0, (rest - stable) / transition)


def generator_weight(block: int, progress):
  """How much block's to_rgb adds: triangles with their peaks at block - 1."""
  return jnp.clip(jnp.minimum(progress - (block - 2), block - progress), 0.0)


def discriminator_weight(block: int, progress):
  """Share of from_rgb in the input of block - 1; the rest is from `block`."""
  return jnp.clip((block - 1) - progress, 0.0, 1.0)


def num_filters(block: int, base: int, decay: float, maximum: int) -> int:
  """Width of a block, from 1; 0 is the discriminator's last layer."""
  return int(min(base / 2.0 ** (block * decay), maximum))


# ---------------------------------------------------------------- the layers


def pixel_norm(x):
  square = jnp.square(x.astype(jnp.float32)).mean(-1, keepdims=True)
  return x * lax.rsqrt(square + 1e-8).astype(x.dtype)


def upscale(x):
  """Nearest neighbour: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
  return x.reshape(b, 2 * h, 2 * w, c)


def downscale(x, factor: int = 2):
  """Means of boxes: [B, H, W, C] -> [B, H / f, W / f, C]."""
  b, h, w, c = x.shape
  return x.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))


def batch_stddev(x):
  """One number for a whole batch: how much its images differ, float32 [].

  No groups, as Karras et al. have them. Over all devices: the mean over a
  sharded batch is global.
  """
  return jnp.sqrt(x.astype(jnp.float32).var(0) + 1e-6).mean()


def blend(images, weights):
  """Images at 1, 2, 4, ... times the first size, weighted and summed up."""
  total = weights[0] * images[0]
  for image, weight in zip(images[1:], weights[1:], strict=True):
    total = upscale(total) + weight * image
  return total


def blend_real(x, blocks: int, progress):
  """Real images as sharp as the generator's are at `progress`."""
  images = [x]
  for _ in range(blocks - 1):
    images.append(downscale(images[-1]))
  return blend(images[::-1], [
      generator_weight(b, progress) for b in range(1, blocks + 1)])


class _Equalized(nn.Module):
  """A layer whose kernel is N(0, 1), scaled when used; the bias is not."""

  features: int
  slope: float = 0.0  # Of the activation that the scale is meant for.
  dtype: Any = None

  def weights(self, *shape):
    """Kernel [*shape, features], scaled, and bias, both of dtype."""
    kernel = self.param('kernel', nn.initializers.normal(1.0),
                        (*shape, self.features), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (self.features,),
                      jnp.float32)
    scale = math.sqrt(2.0 / ((1.0 + self.slope**2) * math.prod(shape)))
    return nn.dtypes.promote_dtype(kernel * scale, bias, dtype=self.dtype)


def initial(key, shapes):
  """Parameters as the layers begin: kernels N(0, 1), biases 0.

  By one draw: one for each kernel takes ten times as long to compile.
  """
  leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
  is_kernel = [path[-1].key == 'kernel' for path, _ in leaves]
  sizes = [x.size * kernel for (_, x), kernel in zip(
      leaves, is_kernel, strict=True)]
  pieces = jnp.split(jax.random.normal(key, (sum(sizes),)),
                     list(itertools.accumulate(sizes))[:-1])
  return tree.unflatten([
      piece.reshape(x.shape) if kernel else jnp.zeros(x.shape)
      for piece, (_, x), kernel in zip(pieces, leaves, is_kernel, strict=True)])


class Dense(_Equalized):

  @nn.compact
  def __call__(self, x):  # [B, C] -> [B, features]
    kernel, bias = self.weights(x.shape[-1])
    return x.astype(kernel.dtype) @ kernel + bias[None]


class Conv(_Equalized):
  kernel_size: int = 3

  @nn.compact
  def __call__(self, x):  # [B, H, W, C] -> [B, H, W, features]
    kernel, bias = self.weights(self.kernel_size, self.kernel_size, x.shape[-1])
    # XLA's own derivatives of any order are as fast on CPU as those of
    # common.nn.conv would be: strides, groups and loops are not here.
    y = lax.conv_general_dilated(
        x.astype(kernel.dtype), kernel, (1, 1), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return y + bias[None, None, None]


class Unfold(_Equalized):
  """One pixel, padded on all sides, by a valid convolution to `size`.

  Each output sees the pixel through one tap of the kernel; what counts for the
  scale are all taps.
  """

  size: tuple[int, int] = (1, 1)

  @nn.compact
  def __call__(self, x):  # [B, C] -> [B, H, W, features]
    kernel, bias = self.weights(*self.size, x.shape[-1])
    y = jnp.einsum('bc,hwco->bhwo', x.astype(kernel.dtype),
                   jnp.flip(kernel, (0, 1)))
    return y + bias[None, None, None]


class Fold(_Equalized):
  """A valid convolution with a kernel of the image's size."""

  @nn.compact
  def __call__(self, x):  # [B, H, W, C] -> [B, features]
    kernel, bias = self.weights(*x.shape[1:])
    return jnp.einsum('bhwc,hwco->bo', x.astype(kernel.dtype),
                      kernel) + bias[None]


# ---------------------------------------------------------------- the networks


def _lrelu(x):
  return nn.leaky_relu(x, 0.2)


class _GeneratorBlock(nn.Module):
  features: int
  start: tuple[int, int]  # Of the first block.
  is_first: bool
  dtype: Any

  @nn.compact
  def __call__(self, x):  # [B, H, W, C] or [B, Z] -> features, image
    act = lambda x: pixel_norm(_lrelu(x))
    if self.is_first:
      conv0 = Unfold(self.features, size=self.start, dtype=self.dtype,
                     name='conv0')
    else:
      conv0 = Conv(self.features, dtype=self.dtype, name='conv0')
      x = upscale(x)
    x = act(conv0(x))
    x = act(Conv(self.features, dtype=self.dtype, name='conv1')(x))
    # Slope 1 gives gain 1. Karras et al. have no tanh here.
    image = Conv(2, slope=1.0, kernel_size=1, dtype=self.dtype,
                 name='to_rgb')(x)
    return x, jnp.tanh(image.astype(jnp.float32))


class Generator(nn.Module):
  """Latents and labels, concatenated, to images in [-1, 1]."""

  start: tuple[int, int]
  widths: tuple[int, ...]  # Of block 0, 1, ...; block 0 is not used here.
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z, progress, blocks: int):  # [B, Z] -> [B, H, W, 2]
    x = pixel_norm(z.astype(jnp.float32))  # Labels rescale the latents so.
    images = []
    for b in range(1, blocks + 1):
      x, image = _GeneratorBlock(
          self.widths[b], self.start, b == 1, self.dtype,
          name=f'block_{b}')(x)
      images.append(image)
    return blend(images, [
        generator_weight(b, progress) for b in range(1, blocks + 1)])


class _DiscriminatorBlock(nn.Module):
  features: tuple[int, int]  # Of its two convolutions.
  is_last: bool  # Block 1.
  dtype: Any

  def setup(self):
    inside, outside = self.features
    self.from_rgb = Conv(inside, kernel_size=1, dtype=self.dtype)
    self.conv0 = Conv(inside, dtype=self.dtype)
    self.conv1 = (Fold if self.is_last else Conv)(outside, dtype=self.dtype)

  def see(self, image):  # [B, H, W, 2] -> [B, H, W, C]
    return _lrelu(self.from_rgb(image))

  def __call__(self, x):  # [B, H, W, C] -> half the size, or [B, C]
    x = _lrelu(self.conv1(_lrelu(self.conv0(x))))
    return x if self.is_last else downscale(x)


class Discriminator(nn.Module):
  """Images in [-1, 1] to scores, logits of labels, and the batch's stddev."""

  widths: tuple[int, ...]
  labels: int
  dtype: Any = jnp.float32

  def setup(self):
    self.blocks = [
        _DiscriminatorBlock((self.widths[b], self.widths[b - 1]), b == 1,
                            self.dtype, name=f'block_{b}')
        for b in range(1, len(self.widths))]
    # Both of slope 1, the scale of a linear layer, and float32 as losses are.
    self.score = Dense(1, slope=1.0, dtype=jnp.float32)
    self.classes = Dense(self.labels, slope=1.0, dtype=jnp.float32)

  def __call__(self, image, progress, blocks: int, stddev=None):
    """[B, H, W, 2] -> [B], [B, labels], [], all float32.

    `stddev` takes the place of the batch's own: then rows are independent.
    """
    x = self.blocks[blocks - 1].see(image)
    for b in range(blocks, 1, -1):
      x = self.blocks[b - 1](x)
      image = downscale(image)
      weight = discriminator_weight(b, progress)  # bfloat16 has no 0.999.
      x = weight * self.blocks[b - 2].see(image) + (1.0 - weight) * x
    if stddev is None:
      stddev = batch_stddev(x)
    channel = jnp.broadcast_to(stddev.astype(x.dtype), (*x.shape[:3], 1))
    x = self.blocks[0](jnp.concatenate([x, channel], -1))
    return self.score(x)[:, 0], self.classes(x), stddev


# ---------------------------------------------------------------- the latents


def slerp(a, b, t):
  """From a to b along the sphere, with their lengths: [..., Z], t [...].

  As released, the weights are those of the directions. Where these are equal
  or opposite, the line between them is taken: the formula is 0 / 0 there.
  """
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  cosine = jnp.clip((unit(a) * unit(b)).sum(-1, keepdims=True), -1.0, 1.0)
  angle = jnp.arccos(cosine)
  t = t[..., None]
  near = jnp.sin(angle) < 1e-3
  sine = jnp.where(near, 1.0, jnp.sin(angle))
  left = jnp.where(near, 1.0 - t, jnp.sin((1.0 - t) * angle) / sine)
  right = jnp.where(near, t, jnp.sin(t * angle) / sine)
  return left * a + right * b
