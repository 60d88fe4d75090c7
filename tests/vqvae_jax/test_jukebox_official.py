"""Weights in the names and shapes of Jukebox's released vqvae.pth.tar."""

import collections

import jax
import numpy as np
import pytest

from common import config as config_lib
from common import convert, errors, runs
from tests import torch_writer
from vqvae_jax import jukebox_vqvae


def released(config, rng=None):
  """Names and shapes, or arrays, as the code that wrote them makes its layers.

  Written out from that code, not from the names under test.
  """
  c, out = config.model, collections.OrderedDict()

  def put(name, *shape):
    out[name] = shape if rng is None else (
        0.3 * rng.normal(size=shape)).astype(np.float32)

  def conv(name, inputs, outputs, kernel):
    put(f'{name}.weight', outputs, inputs, kernel)
    put(f'{name}.bias', outputs)

  def resnet(name, width, depth):
    for d in range(depth):
      conv(f'{name}.model.{d}.model.1', width, width, 3)
      conv(f'{name}.model.{d}.model.3', width, width, 1)

  for l, (width, depth) in enumerate(zip(c.widths, c.depths, strict=True)):
    for b, downs in enumerate(c.downs[:l + 1]):
      block = f'encoders.{l}.level_blocks.{b}.model'
      for i in range(downs):
        first = 1 if b == 0 else c.code_width
        conv(f'{block}.{i}.0', width if i else first, width, 4)
        resnet(f'{block}.{i}.1', width, depth)
      conv(f'{block}.{downs}', width, c.code_width, 3)
  for l, (width, depth) in enumerate(zip(c.widths, c.depths, strict=True)):
    for b, downs in enumerate(c.downs[:l + 1]):
      block = f'decoders.{l}.level_blocks.{b}.model'
      conv(f'{block}.0', c.code_width, width, 3)
      for i in range(1, downs + 1):
        resnet(f'{block}.{i}.0', width, depth)
        last = c.code_width if i == downs else width
        put(f'{block}.{i}.1.weight', width, last, 4)  # Transposed.
        put(f'{block}.{i}.1.bias', last)
    conv(f'decoders.{l}.out', c.code_width, 1, 3)
  for l in range(len(c.downs)):
    put(f'bottleneck.level_blocks.{l}.k', c.codebook_size, c.code_width)
  return out


def leaves(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize('size, arrays, numbers', [
    ('paper', 669, 1_878_979), ('small_vqvae', 486, 717_122),
    ('defaults', 102, 1_530_882), ('tiny', None, None)])
def test_every_array_has_its_place(size, arrays, numbers):
  config = config_lib.load(f'jukebox_vqvae_music:{size}')
  shapes = released(config)
  if arrays:  # Counted in the released code.
    assert len(shapes) == arrays
    assert sum(int(np.prod(s)) for s in shapes.values()) == numbers
  names, batch = jukebox_vqvae.official(config)
  state = jax.eval_shape(jukebox_vqvae.build(config).init, jax.random.key(0),
                         batch)
  ours = leaves({'params': state.params, 'vars': state.vars, 'ema': state.ema})
  for name, theirs in names.items():
    theirs, turn = theirs if isinstance(theirs, tuple) else (theirs, np.asarray)
    given = np.broadcast_to(np.float32(0), shapes[theirs.split('/')[-1]])
    assert turn(given).shape == ours[name].shape, name
  theirs = collections.Counter(
      (x if isinstance(x, str) else x[0]).split('/')[-1]
      for x in names.values())
  # Weights are trained and averaged; of the codes come sums and counts.
  assert theirs == {k: 3 if k.endswith('.k') else 2 for k in shapes}
  assert names.keys() == ours.keys()


@pytest.mark.parametrize('legacy', [False, True])
def test_a_released_file_becomes_a_run(legacy, tmp_path):
  config = config_lib.load('jukebox_vqvae_music:tiny')
  arrays = released(config, np.random.default_rng(0))
  path = tmp_path / 'vqvae.pth.tar'
  torch_writer.write(path, {'hps': {'levels': 2}, 'model': arrays, 'opt': None,
                            'step': 384618}, legacy)
  assert convert.convert(config, str(path), tmp_path / 'run') == {}
  run = runs.load(tmp_path / 'run')
  for tree in (run.state.params, run.state.ema):
    unit = tree['level1']['decoder']['stack_0_1']['unit_0']['Conv_1']
    np.testing.assert_array_equal(unit['kernel'], arrays[
        'decoders.1.level_blocks.0.model.2.0.model.0.model.3.weight'
        ].transpose(2, 1, 0))
    np.testing.assert_array_equal(unit['bias'], arrays[
        'decoders.1.level_blocks.0.model.2.0.model.0.model.3.bias'])
  book = run.state.vars['level1']
  codes = arrays['bottleneck.level_blocks.1.k']
  np.testing.assert_array_equal(book.codes, codes)
  # 128 codes a clip, of 16: each counts as its share of them.
  np.testing.assert_array_equal(book.sums, 8 * codes)
  np.testing.assert_array_equal(book.counts, np.full(len(codes), 8.0))

  audio = np.random.default_rng(1).uniform(
      -1, 1, (1, config.model.samples)).astype(np.float32)
  codec = jukebox_vqvae.codec(config)
  got = codec.encode(run.state, {'audio': audio})
  for l in range(2):
    z = encoded(config, arrays, audio, l)
    k = arrays[f'bottleneck.level_blocks.{l}.k']
    distance = ((z[:, None] - k) ** 2).sum(-1)
    chosen = np.take_along_axis(
        distance, np.asarray(got[f'level{l}'])[0, :, None], 1)[:, 0]
    np.testing.assert_allclose(chosen, distance.min(1), rtol=1e-4)
    sound = codec.decode(run.state, {f'level{l}': got[f'level{l}']}, {})
    np.testing.assert_allclose(
        sound[0], decoded(config, arrays, k[got[f'level{l}'][0]], l),
        rtol=1e-3, atol=1e-4 * np.abs(sound).max())


def test_another_size_is_refused(tmp_path):
  config = config_lib.load('jukebox_vqvae_music:tiny')
  arrays = released(config, np.random.default_rng(0))
  torch_writer.write(tmp_path / 'm', {'model': arrays})
  config.model.codebook_size = 8
  with pytest.raises(errors.UserError, match=(
      r'model/bottleneck\.level_blocks\.0\.k is \[16, 4\], '
      r'vars/level0/codes \[8, 4\]')):
    convert.convert(config, str(tmp_path / 'm'), tmp_path / 'run')


# --- The layers again, with loops, in PyTorch's layout ----------------------


def conv1d(arrays, name, x, stride=1, padding=0, dilation=1):
  """x [inputs, T]; a kernel is [outputs, inputs, K]."""
  w, b = arrays[f'{name}.weight'], arrays[f'{name}.bias']
  x = np.pad(x, ((0, 0), (padding, padding)))
  count = (x.shape[1] - dilation * (w.shape[2] - 1) - 1) // stride + 1
  return b[:, None] + sum(
      w[:, :, k] @ x[:, k * dilation:][:, :(count - 1) * stride + 1:stride]
      for k in range(w.shape[2]))


def transposed(arrays, name, x):
  """Each input adds its kernel [inputs, outputs, 4] to the output; stride 2,
  and one sample of each end is cut off."""
  w, b = arrays[f'{name}.weight'], arrays[f'{name}.bias']
  out = np.zeros((w.shape[1], 2 * x.shape[1] + 2))
  for t in range(x.shape[1]):
    out[:, 2 * t:2 * t + 4] += np.einsum('i,iok->ok', x[:, t], w)
  return out[:, 1:-1] + b[:, None]


def resnet(arrays, name, x, config, level, backwards):
  c = config.model
  order = range(c.depths[level])
  for d, power in enumerate(reversed(order) if backwards else order):
    dilation = c.dilation_growth**power
    h = conv1d(arrays, f'{name}.model.{d}.model.1', np.maximum(x, 0),
               padding=dilation, dilation=dilation)
    x = x + conv1d(arrays, f'{name}.model.{d}.model.3', np.maximum(h, 0))
  return x


def encoded(config, arrays, audio, level):
  x = audio.astype(np.float64)
  for b, downs in enumerate(config.model.downs[:level + 1]):
    block = f'encoders.{level}.level_blocks.{b}.model'
    for i in range(downs):
      x = conv1d(arrays, f'{block}.{i}.0', x, 2, 1)
      x = resnet(arrays, f'{block}.{i}.1', x, config, level, False)
    x = conv1d(arrays, f'{block}.{downs}', x, 1, 1)
  return x.T


def decoded(config, arrays, vectors, level):
  x = vectors.T.astype(np.float64)
  for b, downs in reversed(list(enumerate(config.model.downs[:level + 1]))):
    block = f'decoders.{level}.level_blocks.{b}.model'
    x = conv1d(arrays, f'{block}.0', x, 1, 1)
    for i in range(1, downs + 1):
      x = resnet(arrays, f'{block}.{i}.0', x, config, level, True)
      x = transposed(arrays, f'{block}.{i}.1', x)
  return conv1d(arrays, f'decoders.{level}.out', x, 1, 1)[0]
