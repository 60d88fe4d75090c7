"""Losses against numpy and librosa, closed forms, and known figures."""

import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from common.spectral import multiscale

RATE = 16000
LOSSES = {
    'multi_resolution': lambda a, b: sum(multiscale.multi_resolution(a, b)),
    'jukebox': multiscale.jukebox,
    'dac_mel': lambda a, b: multiscale.dac_mel(a, b, RATE),
    'encodec_mel': lambda a, b: multiscale.encodec_mel(a, b, RATE)}
each_loss = pytest.mark.parametrize('name', LOSSES)


def sine():
  return np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)


def noise(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 5


def magnitude(x, n_fft, hop, win_length=None, edge=None):
  """By librosa, of audio that we pad: [T, F] float64."""
  edge = n_fft // 2 if edge is None else edge
  return np.abs(librosa.stft(
      np.pad(np.asarray(x, float), edge, mode='reflect'), n_fft=n_fft,
      hop_length=hop, win_length=win_length, center=False)).T


def test_half_the_amplitude_has_its_known_terms():
  terms = [jax.jit(functools.partial(
      multiscale.multi_resolution, resolutions=[r]))(.5 * sine(), sine())
      for r in multiscale.RESOLUTIONS]
  convergence, log_magnitude = zip(*terms, strict=True)
  assert convergence == (.5, .5, .5)  # A half is exact in float32.
  # Less than ln 2, for what is below the floor in both is equal.
  np.testing.assert_allclose(
      log_magnitude, [.154235, .138824, .216298], rtol=1e-3)
  np.testing.assert_allclose(
      jax.jit(multiscale.multi_resolution)(.5 * sine(), sine()),
      [.5, .169785], rtol=1e-3)


def test_convergence_is_per_example_and_a_silent_target_counts_0():
  target = noise(8, 9, 33)
  estimate = target * np.linspace(0, 1.75, 8, dtype=np.float32)[:, None, None]
  want = [1, .75, .5, .25, 0, .25, .5, .75]
  got = multiscale.spectral_convergence(estimate, target)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_array_equal(
      multiscale.spectral_convergence(estimate[1:2], target[1:2]), got[1:2])
  assert multiscale.spectral_convergence(target[0], 0 * target[0]) == 0
  quiet = np.full((1, 4), .9e-3)  # Norm .0018, and twice it.
  assert multiscale.spectral_convergence(quiet, 1 * quiet) == 0
  assert multiscale.spectral_convergence(0 * quiet, 1 * quiet) == 0
  np.testing.assert_allclose(
      multiscale.spectral_convergence(quiet, 2 * quiet), .5, rtol=1e-6)


def test_decibels_of_a_ratio():
  np.testing.assert_allclose(
      multiscale.decibels(jnp.array([1.0, .5, .1, 0.0])),
      [0, -6.0206, -20, -200], atol=1e-4)


def test_jukebox_is_the_mean_norm_of_the_difference_of_magnitudes():
  a, b = noise(2, 4000), noise(2, 4000, seed=1)
  want = np.mean([[
      np.linalg.norm(magnitude(x, n, h, w) - magnitude(y, n, h, w))
      for x, y in zip(a, b, strict=True)]
      for n, h, w in ((2048, 240, 1200), (1024, 120, 600), (512, 50, 240))], 0)
  np.testing.assert_allclose(
      jax.jit(multiscale.jukebox)(a, b), want, rtol=1e-5)


def test_dac_of_half_the_noise_is_log10_2_a_scale():
  x = noise(4000)
  np.testing.assert_allclose(
      jax.jit(LOSSES['dac_mel'])(.5 * x, x), 2.107210, rtol=1e-5)


def test_dac_takes_rates_at_which_bands_are_empty():
  x = np.random.default_rng(0).normal(size=48000).astype(np.float32)
  np.testing.assert_allclose(multiscale.dac_mel(.5 * x, x, 48000),
                             6 * .30103, rtol=.2)


def test_dac_is_made_of_librosa_mels():
  a, b = noise(4000), sine()[:4000]
  want = 0.0
  for bands, size in zip((5, 10, 20, 40, 80, 160, 320),
                         (32, 64, 128, 256, 512, 1024, 2048), strict=True):
    weights = librosa.filters.mel(sr=RATE, n_fft=size, n_mels=bands)
    log = lambda x: np.log10(np.maximum(
        magnitude(x, size, size // 4) @ weights.T, 1e-5))
    want += np.abs(log(a) - log(b)).mean()
  np.testing.assert_allclose(
      jax.jit(LOSSES['dac_mel'])(a, b), want, rtol=1e-4)


@pytest.mark.filterwarnings('ignore:Empty filters')
@pytest.mark.parametrize('options', [
    {}, dict(fmin=0.0, alphas=True, normalized=False)])
@pytest.mark.parametrize('samples', [4096, 4001])
def test_encodec_is_made_of_power_mels_of_librosa(options, samples):
  a, b = noise(samples), sine()[:samples]
  released = not options
  want, weights = 0.0, 0.0
  for i in range(6, 11):
    size, hop = 2**i, 2**i // 4
    alpha = 1.0 if released else np.sqrt(2**i - 1)
    bank = librosa.filters.mel(
        sr=RATE, n_fft=size, n_mels=64, fmin=64 if released else 0, htk=True,
        norm=None, dtype=np.float64)
    if released:
      bank = bank / (3 / 8 * size)  # The sum of a squared Hann window.
    frames = -(-samples // hop)

    def mels(x):
      edge = (size - hop) // 2
      x = np.pad(np.asarray(x, float), edge, mode='reflect')
      x = np.pad(x, (0, (frames - 1) * hop + size - len(x)))
      power = magnitude(x, size, hop, edge=0) ** 2
      assert len(power) == frames
      return power @ bank.T

    p, q = mels(a), mels(b)
    want += np.abs(p - q).mean() + alpha * (
        (np.log10(p + 1e-5) - np.log10(q + 1e-5)) ** 2).mean()
    weights += 1 + alpha
  if released:
    assert weights == 10
    want /= weights
  got = jax.jit(lambda a, b: multiscale.encodec_mel(a, b, RATE, **options))(
      a, b)
  np.testing.assert_allclose(got, want, rtol=1e-4)


@each_loss
def test_equal_inputs_have_no_loss_and_examples_stay_apart(name):
  loss = jax.jit(LOSSES[name])
  a, b = noise(2, 4, 2100), noise(2, 4, 2100, seed=1)
  b[0, 0] = a[0, 0]
  values = loss(a, b)
  assert values.shape == (2, 4) and values[0, 0] == 0
  assert len(set(np.asarray(values).ravel().tolist())) == 8
  alone = np.zeros_like(a), 3 * noise(2, 4, 2100, seed=2)
  alone[0][1, 2], alone[1][1, 2] = a[1, 2], b[1, 2]
  np.testing.assert_allclose(loss(*alone)[1, 2], values[1, 2], rtol=1e-5)


def test_losses_vmap_and_take_bfloat16():
  loss = lambda a, b: multiscale.multi_resolution(a, b, [(512, 50, 240)])[0]
  a, b = jnp.asarray(noise(2, 3, 600), jnp.bfloat16)
  values = jax.vmap(loss)(a, b)
  assert values.dtype == jnp.float32
  np.testing.assert_allclose(
      values, loss(a.astype(jnp.float32), b.astype(jnp.float32)), rtol=1e-5)


@each_loss
def test_gradients_are_finite_at_silence_and_at_equal_inputs(name):
  gradient = jax.jit(jax.grad(lambda a, b: LOSSES[name](a, b).sum(), (0, 1)))
  zero, x = np.zeros((1, 2100), np.float32), noise(1, 2100)
  for a, b in ((zero, zero), (x, zero), (zero, x), (x, x)):
    for g in gradient(a, b):
      assert np.isfinite(g).all(), (a is zero, b is zero)
  assert np.abs(gradient(x, 1.1 * x)[0]).max() > 0


def test_the_gradient_of_convergence_has_its_closed_form():
  target, estimate = np.abs(noise(2, 5, 9)), np.abs(noise(2, 5, 9, seed=1))
  got = jax.grad(lambda s: multiscale.spectral_convergence(s, target).sum())(
      estimate)
  norm = functools.partial(np.linalg.norm, axis=(1, 2), keepdims=True)
  want = (estimate - target) / norm(estimate - target) / norm(target)
  np.testing.assert_allclose(got, want, rtol=1e-4)
