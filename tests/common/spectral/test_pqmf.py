"""The filter bank against its definition, known figures and its promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import errors
from common.spectral import pqmf


def noise(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def snr_db(x, y, edge=400):
  x, y = (np.asarray(a, float)[..., edge:-edge] for a in (x, y))
  return 10 * np.log10((x**2).sum() / ((x - y) ** 2).sum())


def round_trip(x, bands, **options):
  return pqmf.synthesis(pqmf.analysis(x, bands, **options), **options)


@pytest.mark.parametrize('bands, taps, cutoff, db', [
    (2, 62, .266962, 64.7), (4, 62, .141961, 61.4), (8, 126, .070846, 61.7),
    (16, 254, .035390, 61.8), (4, 126, .133347, 64.9)])
def test_the_search_finds_the_cutoff_that_gives_60_db(bands, taps, cutoff, db):
  assert abs(pqmf.design(bands, taps) - cutoff) < 1e-6
  x = noise(2, 16000)
  assert abs(snr_db(x, round_trip(x, bands, taps=taps)) - db) < 0.3


@pytest.mark.parametrize('bands', [2, 3, 4, 5, 8, 16])
def test_every_default_gives_60_db(bands):
  x = noise(16000)
  assert snr_db(x, round_trip(x, bands)[:16000]) > 60


@pytest.mark.parametrize('cutoff, db', [(.142, 64.0), (.15, 19.5)])
def test_the_cutoffs_of_parallel_wavegan(cutoff, db):
  x = noise(16000)
  assert abs(snr_db(x, round_trip(x, 4, cutoff=cutoff)) - db) < 0.3


def test_the_prototype_has_its_known_values():
  h = pqmf.prototype(62, .142)
  np.testing.assert_allclose(
      [h[31], h[30], h[32], h[0], h.sum()],
      [.142, .136732, .136732, 8.9478e-6, 1.0000291], rtol=1e-5)


@pytest.mark.parametrize('bands, taps, samples', [
    (4, 62, 240), (3, 62, 250), (5, 18, 83), (2, 4, 7), (4, 62, 1)])
def test_analysis_and_synthesis_are_the_sums_that_define_them(
    bands, taps, samples):
  h, g = pqmf.filters(bands, taps, .6 / bands)
  x = noise(samples)
  y = pqmf.analysis(x, bands, taps=taps, cutoff=.6 / bands)
  edges = np.zeros(taps // 2 + bands)
  padded = np.concatenate([edges[:taps // 2], x, edges])
  frames = -(-samples // bands)
  want = np.stack([np.correlate(padded, f)[::bands][:frames] for f in h.T], -1)
  np.testing.assert_allclose(y, want, atol=1e-5)

  sparse = np.zeros((frames * bands + 2 * (taps // 2), bands))
  sparse[taps // 2:][:frames * bands:bands] = bands * want
  want = sum(np.correlate(s, f) for s, f in zip(sparse.T, g.T, strict=True))
  np.testing.assert_allclose(
      pqmf.synthesis(y, taps=taps, cutoff=.6 / bands), want, atol=1e-5)


def test_the_filters_have_their_known_phases():
  h, g = pqmf.filters(4, 62, .142)
  # In the middle: 2 c cos(pi / 4), and there all bands and both banks agree.
  np.testing.assert_allclose([h[31], g[31]], .142 * np.sqrt(2))
  np.testing.assert_allclose(h[::-1], g, atol=1e-12)


def test_a_sinusoid_is_in_its_band_alone():
  for band in range(4):
    x = np.cos(np.pi * (band + .5) / 4 * np.arange(2000) + .3)
    y = np.asarray(pqmf.analysis(jnp.asarray(x, jnp.float32), 4))[20:-20]
    power = (y**2).mean(0)
    assert power.argmax() == band
    assert np.delete(power, band).max() < 1e-6 * power[band]


def test_leading_axes_jit_bfloat16_and_gradients():
  x = noise(2, 3, 64)
  y = jax.jit(lambda x: pqmf.analysis(x, 4))(x)
  assert y.shape == (2, 3, 16, 4)
  np.testing.assert_allclose(y[1, 2], pqmf.analysis(x[1, 2], 4), atol=1e-5)
  assert pqmf.synthesis(y).shape == (2, 3, 64)
  assert pqmf.analysis(x.astype(jnp.bfloat16), 4).dtype == jnp.float32
  # Linear: the gradient of half a square is the transpose of the output.
  loss = lambda x: (pqmf.synthesis(pqmf.analysis(x, 4)) ** 2).sum() / 2
  value, gradient = jax.value_and_grad(loss)(x)
  np.testing.assert_allclose((gradient * x).sum(), 2 * value, rtol=1e-5)


@pytest.mark.parametrize('bands, taps', [(1, 62), (4, 61), (8, 14)])
def test_impossible_banks_are_refused(bands, taps):
  with pytest.raises(errors.UserError, match='even number of taps'):
    pqmf.analysis(noise(64), bands, taps=taps)
