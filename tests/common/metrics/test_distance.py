"""Distances: small vectors worked by hand, and what must not change them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.metrics import distance

REFERENCE = np.array([1, -1, 2, -2, .5])
ESTIMATE = np.array([.9, -1.2, 2.1, -1.7, .4])
RATIOS = pytest.mark.parametrize('metric', [distance.snr, distance.si_sdr])


def noise(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_log_spectral_distance_is_a_root_over_bins_and_a_mean_over_frames():
  # The first frame is equal; in the second both bins differ by 6.02 dB.
  power = np.array([[1.0, 9.0], [4.0, .25]])
  other = np.array([[1.0, 9.0], [1.0, 1.0]])
  np.testing.assert_allclose(
      distance.log_spectral_distance(power, other), 3.010300, rtol=1e-6)
  # One bin of the two: a root of a half of it.
  other[1, 1] = .25
  np.testing.assert_allclose(
      distance.log_spectral_distance(power, other), 6.020600 / 2**1.5,
      rtol=1e-6)


def test_log_spectral_distance_does_not_see_below_the_floor():
  zero, low, one = (np.full((3, 4), x) for x in (0.0, 1e-10, 1.0))
  assert distance.log_spectral_distance(zero, low) == 0
  np.testing.assert_allclose(
      distance.log_spectral_distance(zero, one), 100, rtol=1e-6)


def test_snr_and_si_sdr_of_known_vectors():
  np.testing.assert_allclose(
      distance.snr(ESTIMATE, REFERENCE), 18.066039, rtol=1e-6)
  np.testing.assert_allclose(
      distance.si_sdr(ESTIMATE, REFERENCE), 18.080393, rtol=1e-6)


@pytest.mark.parametrize('gain', [2.0, 1e-3, -1.0])
def test_si_sdr_knows_no_gain_and_no_mean(gain):
  np.testing.assert_allclose(
      distance.si_sdr(gain * ESTIMATE + 3 * gain, REFERENCE - 1), 18.080393,
      rtol=1e-4)
  assert distance.snr(gain * ESTIMATE, REFERENCE) < 7


@pytest.mark.parametrize('db', [-20.0, 0.0, 40.0])
def test_noise_at_a_right_angle_has_its_level_in_both(db):
  reference = np.tile([1.0, -1.0], 50)
  audio = reference + 10 ** (-db / 20) * np.tile([1.0, 1.0, -1.0, -1.0], 25)
  np.testing.assert_allclose(distance.snr(audio, reference), db, atol=1e-3)
  np.testing.assert_allclose(distance.si_sdr(audio, reference), db, atol=1e-3)


@RATIOS
def test_ratios_stay_within_100_db_and_silence_is_0(metric):
  x, zero = noise(16000), np.zeros(16000, np.float32)
  assert metric(x, x) == 100
  assert metric(zero, zero) == 0
  assert distance.si_sdr(.3 * x, x) == 100
  assert metric(x, zero) == -100


@pytest.mark.parametrize('metric', [
    distance.snr, distance.si_sdr, distance.log_spectral_distance])
def test_examples_stay_apart_and_gradients_are_finite(metric):
  a, b = np.abs(noise(2, 3, 5, 7)), np.abs(noise(2, 3, 5, 7, seed=1))
  values = jax.jit(metric)(a, b)
  assert values.shape == (
      (2, 3) if metric is distance.log_spectral_distance else (2, 3, 5))
  np.testing.assert_allclose(
      metric(a[1, 2], b[1, 2]), values[1, 2], rtol=1e-4, atol=1e-4)
  zero = np.zeros_like(a)
  for x, y in ((zero, zero), (a, zero), (zero, a), (a, a)):
    for g in jax.grad(lambda x, y: metric(x, y).sum(), (0, 1))(x, y):
      assert np.isfinite(g).all()
  low = jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16)
  assert metric(*low).dtype == jnp.float32


def test_what_is_heard_leaves_silence_and_padding_out():
  rng = np.random.default_rng(0)
  reference = rng.normal(size=(3, 4096)).astype(np.float32)
  reference[1] = 0.0
  audio = 0.5 * reference
  audio[2] = 1e9  # Padding.
  got = distance.heard(audio, reference, np.array([1.0, 1.0, 0.0], np.float32))
  assert {k: float(m.weight) for k, m in got.items()} == {
      'si_sdr': 1.0, 'convergence': 1.0}
  np.testing.assert_allclose(got['convergence'].compute(), 0.5, rtol=1e-5)
  np.testing.assert_allclose(
      got['si_sdr'].compute(), distance.si_sdr(audio[0], reference[0]))
