import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from common import errors
from common.spectral import companding

X = np.array([-1, -.5, -.1, -.01, 0, .01, .1, .5, 1])


def test_mu_law_is_librosas():
  x = np.linspace(-1, 1, 999)
  want = librosa.mu_compress(x, mu=255, quantize=False)
  got = companding.mu_compress(x)
  np.testing.assert_allclose(got, want, atol=1e-6)
  np.testing.assert_allclose(companding.mu_expand(got), x, atol=1e-6)
  np.testing.assert_allclose(
      companding.mu_compress(X)[5:], [.228477, .590990, .875703, 1], atol=1e-6)


@pytest.mark.parametrize('rule, integers, back', [
    ('floor', [0, 16, 52, 98, 128, 157, 203, 239, 255],
     [-1, -.496677, -.100675, -.010225, .000086, .010225, .100675, .496677, 1]),
    ('librosa', [-128, -112, -75, -29, 0, 29, 75, 112, 127],
     librosa.mu_expand(np.array([-128, -112, -75, -29, 0, 29, 75, 112, 127]),
                       mu=255, quantize=True)),
    ('nsynth', [-128, -113, -76, -30, 0, 29, 75, 112, 128],
     [-.978488, -.509031, -.099342, -.010155, 0, .010155, .099342, .509031,
      1.021983])])
def test_the_three_rules(rule, integers, back):
  q = companding.mu_encode(X, rule=rule)
  assert q.dtype == jnp.int32
  np.testing.assert_array_equal(q, integers)
  np.testing.assert_allclose(companding.mu_decode(q, rule=rule), back,
                             atol=2e-6)


@pytest.mark.parametrize('mu', [255, 1023])
def test_the_floor_rule_gives_each_class_back(mu):
  q = np.arange(mu + 1)
  np.testing.assert_array_equal(
      companding.mu_encode(companding.mu_decode(q, mu), mu), q)


def test_librosas_integers_but_for_rounding():
  x = np.random.default_rng(0).uniform(-1, 1, 10_000)
  want = librosa.mu_compress(x, mu=255, quantize=True)
  got = np.asarray(companding.mu_encode(x, rule='librosa'))
  assert np.abs(got - want).max() <= 1 and (got != want).mean() < 1e-3


def test_an_unknown_rule_is_refused():
  with pytest.raises(errors.UserError, match='nsynth'):
    companding.mu_encode(X, rule='round')
  with pytest.raises(errors.UserError, match='nsynth'):
    companding.mu_decode(X, rule='round')


def test_decibels_are_librosas():
  p = 10.0 ** np.random.default_rng(0).uniform(-13, 3, (5, 7))
  for options in (dict(), dict(ref=3.0), dict(amin=1e-4), dict(top_db=80.0)):
    want = librosa.power_to_db(p, **{'top_db': None, **options})
    np.testing.assert_allclose(companding.power_to_db(p, **options), want,
                               atol=1e-4)
    want = librosa.amplitude_to_db(p, **{'top_db': None, **options})
    np.testing.assert_allclose(companding.amplitude_to_db(p, **options), want,
                               atol=1e-4)
  three = np.array([1, .1, 1e-12])
  np.testing.assert_allclose(companding.power_to_db(three), [0, -10, -100])
  np.testing.assert_allclose(companding.power_to_db(three, top_db=80),
                             [0, -10, -80])


def test_decibels_come_back():
  p = np.array([1e-5, .1, 1, 20])
  for ref in (1.0, 2.0):
    np.testing.assert_allclose(companding.db_to_power(
        companding.power_to_db(p, ref=ref), ref=ref), p, rtol=1e-5)
    np.testing.assert_allclose(companding.db_to_amplitude(
        companding.amplitude_to_db(p, ref=ref), ref=ref), p, rtol=1e-5)


def test_gradients_are_finite_at_silence():
  for fn in (companding.mu_compress, companding.mu_expand,
             companding.power_to_db, companding.amplitude_to_db):
    assert np.isfinite(jax.grad(lambda x: fn(x).sum())(jnp.zeros(3))).all()
  # At 0 and beside it the slope is mu / ln(1 + mu), and one over it.
  for x in (-1e-9, 0.0, 1e-9):
    np.testing.assert_allclose(jax.grad(companding.mu_compress)(x),
                               255 / np.log(256), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(companding.mu_expand)(x),
                               np.log(256) / 255, rtol=1e-5)
