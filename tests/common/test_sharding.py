import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from common import errors, sharding
from common.spectral import stft


def shape(*dims):
  return jax.ShapeDtypeStruct(dims, jnp.float32)


@pytest.mark.parametrize('dims, spec', [
    ((256, 512), P(None, 'fsdp')),   # The largest axis.
    ((512, 256), P('fsdp')),
    ((511, 256), P(None, 'fsdp')),   # The largest that divides.
    ((511, 255), P()),               # None divides: a copy each.
    ((64, 64), P()),                 # Small: a copy each.
    ((5, 2048, 16), P(None, 'fsdp')),
])
def test_the_largest_axis_that_divides_is_split(dims, spec):
  mesh = sharding.make_mesh(fsdp=4)
  assert sharding.infer(shape(*dims), mesh).spec == spec


def test_without_fsdp_everything_is_replicated():
  assert sharding.infer(shape(256, 512), sharding.make_mesh()).spec == P()


def test_batches_are_split_over_both_axes():
  mesh = sharding.make_mesh(data=2, fsdp=2)
  x = sharding.place({'x': np.arange(8.0)}, sharding.by_row(mesh))['x']
  assert {s.data.shape for s in x.addressable_shards} == {(2,)}
  np.testing.assert_array_equal(sharding.fetch(x), np.arange(8.0))


def test_fewer_devices_may_be_taken():
  assert sharding.make_mesh(data=1).size == 1
  assert sharding.make_mesh(data=-1, fsdp=2).shape['data'] == 2


def test_rows_that_do_not_divide_name_what_would():
  with pytest.raises(errors.UserError, match=r'batch_size=6 .* use 4 or 8'):
    sharding.check_rows('batch_size', 6, sharding.make_mesh())


@pytest.mark.parametrize('data, fsdp', [(4, 1), (2, 2)])
def test_every_device_transforms_its_own_rows(data, fsdp):
  mesh = sharding.make_mesh(data, fsdp)
  audio = np.random.default_rng(0).normal(size=(8, 400)).astype(np.float32)

  def loss(x):
    spec = stft.stft(x, 64, 16)
    return (jnp.abs(spec) ** 2).sum() + (stft.istft(spec, 64, 16) ** 4).sum()

  def step(x):
    with sharding.tracing(mesh):
      return loss(x), jax.grad(loss)(x)

  rows = sharding.by_row(mesh)
  split = jax.jit(step, in_shardings=rows).lower(audio).compile()
  assert 'all-gather' not in split.as_text()
  assert '[2,26,33]' in split.as_text()  # Of eight sounds.
  found = split(sharding.place(audio, rows))
  for got, want in zip(found, (loss(audio), jax.grad(loss)(audio)),
                       strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_rows_that_do_not_divide_are_transformed_whole():
  mesh = sharding.make_mesh()
  with sharding.tracing(mesh):
    got = jax.jit(lambda x: sharding.per_device(jnp.fft.rfft, x))(np.ones(
        (3, 8), np.float32))
  np.testing.assert_allclose(got, np.fft.rfft(np.ones((3, 8))), atol=1e-6)
