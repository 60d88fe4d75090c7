import jax
import jax.numpy as jnp
import numpy as np

from common.spectral import phase, stft

unwrap, frequency, integrate = map(jax.jit, (
    phase.unwrap, phase.instantaneous_frequency, phase.integrate))


def circular(a, b):
  return np.abs(np.exp(1j * np.asarray(a, np.float64))
                - np.exp(1j * np.asarray(b, np.float64))).max()


def test_angle_is_numpys():
  rng = np.random.default_rng(0)
  z = (rng.standard_normal((1000, 64)) * 10.0 ** rng.integers(-9, 9, (1000, 1))
       + 1j * rng.standard_normal((1000, 64))).astype(np.complex64)
  np.testing.assert_allclose(phase.angle(jnp.asarray(z)),
                             np.angle(z.astype(np.complex128)), atol=4e-7)
  eight = np.exp(1j * np.pi / 4 * np.arange(-3, 5))
  np.testing.assert_allclose(phase.angle(jnp.asarray(eight, jnp.complex64)),
                             np.pi / 4 * np.arange(-3, 5), atol=4e-7)
  axes = jnp.asarray([1, 1j, -1, -1j, 0], jnp.complex64)
  np.testing.assert_allclose(
      phase.angle(axes), [0, np.pi / 2, np.pi, -np.pi / 2, 0], rtol=1e-7)


def test_the_gradient_of_angle_is_right_and_finite_at_silence():
  def loss(re, im):
    return phase.angle(jax.lax.complex(re, im)).sum()
  re, im = jnp.float32([3, -1, 0, 1e-30]), jnp.float32([4, 2, 0, 1e-30])
  d_re, d_im = jax.grad(loss, (0, 1))(re, im)
  np.testing.assert_allclose(d_re, [-4 / 25, -2 / 5, 0, 0], atol=1e-7)
  np.testing.assert_allclose(d_im, [3 / 25, -1 / 5, 0, 0], atol=1e-7)
  twice = jax.grad(lambda x: jax.grad(loss)(x, 4 * jnp.ones(1)).sum())
  np.testing.assert_allclose(twice(3 * jnp.ones(1)), [2 * 3 * 4 / 625],
                             rtol=1e-5)


def test_unwrap_is_numpys():
  random = np.random.default_rng(0).uniform(-np.pi, np.pi, (2, 4000, 3))
  np.testing.assert_allclose(
      unwrap(random), np.unwrap(random, axis=-2), atol=2e-3)
  assert circular(unwrap(random), random) < 2e-3
  short = random[:, :50]
  np.testing.assert_allclose(
      unwrap(short), np.unwrap(short, axis=-2), atol=5e-5)


def test_half_a_turn_keeps_its_direction():
  both = np.float32([[0, 0], [np.pi, -np.pi]])
  np.testing.assert_array_equal(unwrap(both), both)
  np.testing.assert_allclose(
      frequency(both), [[0, 0], [1, -1]])


def test_frequency_is_the_difference_of_the_unwrapped_phase():
  p = np.random.default_rng(0).uniform(-np.pi, np.pi, (2, 300, 3))
  want = np.unwrap(p, axis=-2)
  want = np.concatenate([want[:, :1], np.diff(want, axis=-2)], -2) / np.pi
  got = frequency(p)
  assert np.abs(got).max() <= 1
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_sinusoids_frequency_is_its_phase_advance():
  for hz, hop, want in [(440, 256, 0.08), (1000, 512, 0.0)]:
    x = np.sin(2 * np.pi * hz * np.arange(16000) / 16000)
    spec = stft.stft(x, 1024, hop, center=False)
    f = frequency(phase.angle(spec))
    peak = int(np.abs(spec[5]).argmax())
    np.testing.assert_allclose(f[1:, peak], want, atol=1e-5)


def test_integrate_inverts_it_without_drift():
  frames = 4000
  random = np.random.default_rng(0).uniform(-np.pi, np.pi, (frames, 2))
  back = integrate(frequency(random))
  assert np.abs(back).max() <= np.pi + 1e-6
  assert circular(back, random) < 1e-4
  constant = np.full((frames, 1), 2.9 / np.pi, np.float32)
  assert circular(integrate(constant), np.cumsum(
      np.pi * constant.astype(np.float64), 0)) < 3e-4


def test_polar_and_angle_are_inverse():
  rng = np.random.default_rng(0)
  z = (rng.standard_normal((5, 4)) + 1j * rng.standard_normal((5, 4)))
  got = phase.polar(jnp.asarray(np.abs(z), jnp.float32),
                    phase.angle(jnp.asarray(z, jnp.complex64)))
  np.testing.assert_allclose(got, z, atol=1e-6)


def test_jit_vmap_and_bfloat16():
  p = np.random.default_rng(0).uniform(-3, 3, (2, 20, 3)).astype(np.float32)
  for fn in (phase.unwrap, phase.instantaneous_frequency, phase.integrate):
    one = jax.jit(fn)
    np.testing.assert_allclose(jax.jit(jax.vmap(fn))(p), one(p), atol=1e-5)
    rough = jnp.asarray(p, jnp.bfloat16)
    assert one(rough).dtype == jnp.float32
    np.testing.assert_allclose(
        one(rough), one(rough.astype(jnp.float32)), atol=1e-5)
