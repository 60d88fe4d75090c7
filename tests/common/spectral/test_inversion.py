"""Phases: known figures, librosa, and signals whose phase has a formula."""

import pathlib

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from common import errors
from common.spectral import inversion, stft

NSYNTH = (pathlib.Path(__file__).parents[4] / 'shared' / 'data' / 'nsynth' /
          'example_nsynth_audio.npy')
RATE = 16000


def chirp_and_sine():
  t = np.arange(RATE) / RATE
  return (.5 * np.cos(2 * np.pi * (100 * t + 1950 * t**2))
          + .3 * np.sin(2 * np.pi * 440 * t))


def four_second_chirp():
  t = np.arange(4 * RATE) / RATE
  return .5 * np.sin(2 * np.pi * (100 * t + 5900 / 8 * t**2))


def spectrum(x, n_fft=1024, hop=256):
  """By librosa in float64: [T, F]."""
  return librosa.stft(x, n_fft=n_fft, hop_length=hop).T


def convergence_db(magnitude, audio, n_fft=1024, hop=256):
  error = magnitude - np.abs(spectrum(np.asarray(audio, float), n_fft, hop))
  return 20 * np.log10(np.linalg.norm(error) / np.linalg.norm(magnitude))


def with_phase(magnitude, phase, length, n_fft=1024, hop=256):
  return librosa.istft((magnitude * np.exp(1j * phase)).T, n_fft=n_fft,
                       hop_length=hop, length=length)


# Compiled once for all iterations and both momenta.
compiled = jax.jit(inversion.griffin_lim,
                   static_argnames=['n_fft', 'hop', 'length', 'win_length',
                                    'center'])


def griffin_lim(magnitude, length, n_fft=1024, hop=256, iterations=32,
                momentum=0.0, **options):
  return np.asarray(compiled(
      jnp.asarray(magnitude, jnp.float32), n_fft=n_fft, hop=hop, length=length,
      iterations=iterations, momentum=momentum, **options))


@pytest.mark.parametrize('momentum, iterations, db', [
    (0.0, 1, -10.81), (0.0, 16, -21.16), (0.0, 32, -21.66), (0.0, 100, -22.67),
    (0.99, 16, -21.99), (0.99, 32, -24.65), (0.99, 100, -29.93)])
def test_griffin_lim_converges_as_librosa_s_in_float64(
    momentum, iterations, db):
  x = chirp_and_sine()
  magnitude = np.abs(spectrum(x))
  audio = griffin_lim(
      magnitude, len(x), iterations=iterations, momentum=momentum)
  assert abs(convergence_db(magnitude, audio) - db) < 0.03


@pytest.mark.skipif(not NSYNTH.exists(), reason='the NSynth notes are not here')
@pytest.mark.parametrize('momentum, db', [(0.0, -15.53), (0.99, -22.07)])
def test_griffin_lim_of_a_real_note(momentum, db):
  magnitude = np.abs(spectrum(np.load(NSYNTH)[0].astype(float)))
  audio = griffin_lim(magnitude, 64000, momentum=momentum)
  assert abs(convergence_db(magnitude, audio) - db) < 0.03


class Phases(np.random.RandomState):
  """Makes librosa start from the phases that we start from."""

  def __init__(self, phase):
    super().__init__(0)
    self.phase = phase

  def random(self, size):
    assert size == self.phase.T.shape
    return self.phase.T / (2 * np.pi)


# librosa 1.0 has another name for it.
@pytest.mark.filterwarnings("ignore:griffinlim.*'random_state':FutureWarning")
@pytest.mark.parametrize('momentum', [0.0, 0.99])
@pytest.mark.parametrize('length', [None, RATE, RATE + 100])
def test_griffin_lim_is_librosa_s_from_the_same_start(momentum, length):
  x = np.pad(chirp_and_sine(), (0, 200))[:length]
  magnitude = np.abs(spectrum(x))
  phase = np.random.default_rng(0).uniform(0, 2 * np.pi, magnitude.shape)
  want = librosa.griffinlim(
      magnitude.T, n_iter=8, momentum=momentum, hop_length=256, length=length,
      random_state=Phases(phase))
  got = griffin_lim(magnitude, length, iterations=8, momentum=momentum,
                    phase=phase)
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, atol=2e-4)


def test_a_key_starts_from_random_phases_and_none_from_zero():
  magnitude = np.abs(spectrum(chirp_and_sine()))
  runs = [griffin_lim(magnitude, RATE, iterations=0, key=key)
          for key in (jax.random.key(0), jax.random.key(0), jax.random.key(1))]
  np.testing.assert_array_equal(runs[0], runs[1])
  assert np.abs(runs[0] - runs[2]).max() > 0.1
  # What is known of random phases and of zero.
  assert -3.9 < convergence_db(magnitude, runs[0]) < -3.4
  zero = griffin_lim(magnitude, RATE, iterations=0)
  assert abs(convergence_db(magnitude, zero) + .71) < 0.01


@pytest.mark.parametrize('n_fft, hop, win_length, center', [
    (512, 128, None, True), (512, 128, None, False), (683, 60, 300, True)])
def test_the_true_phase_stays(n_fft, hop, win_length, center):
  x = jnp.asarray(chirp_and_sine()[:6000], jnp.float32)
  framing = dict(win_length=win_length, center=center)
  spec = stft.stft(x, n_fft, hop, **framing)
  audio = griffin_lim(
      jnp.abs(spec), len(x), n_fft, hop, iterations=4, phase=jnp.angle(spec),
      **framing)
  # Not centred, a Hann window hardly sees the ends, and the rest no frame.
  inside = slice(0, None) if center else slice(n_fft, 5888 - n_fft)
  np.testing.assert_allclose(audio[inside], x[inside], atol=2e-4)


@pytest.mark.parametrize('length', [100, 5000])
def test_any_length_may_be_asked_for(length):
  magnitude = jnp.ones((9, 129))
  whole = inversion.griffin_lim(
      magnitude, 256, 64, iterations=2, center=False)
  assert whole.shape == (8 * 64 + 256,)
  audio = inversion.griffin_lim(
      magnitude, 256, 64, iterations=2, center=False, length=length)
  want = np.pad(whole, (0, max(length - len(whole), 0)))[:length]
  np.testing.assert_array_equal(audio, want)


def test_griffin_lim_takes_leading_axes_and_rows_do_not_mix():
  rng = np.random.default_rng(0)
  magnitude = jnp.asarray(rng.uniform(size=(2, 3, 9, 129)), jnp.bfloat16)
  run = jax.jit(lambda m: inversion.griffin_lim(m, 256, 64, iterations=3))
  all_rows = run(magnitude)
  assert all_rows.shape == (2, 3, 512) and all_rows.dtype == jnp.float32
  np.testing.assert_allclose(all_rows[1, 2], run(magnitude[1, 2]), atol=1e-5)
  np.testing.assert_allclose(
      all_rows[0], jax.vmap(run)(magnitude[0]), atol=1e-5)


def test_gradients_take_the_found_phase_for_a_constant():
  rng = np.random.default_rng(0)
  magnitude = jnp.asarray(rng.uniform(size=(9, 129)), jnp.float32)
  weight = jnp.asarray(rng.normal(size=512), jnp.float32)
  loss = lambda m: (weight * inversion.griffin_lim(m, 256, 64)).sum()
  value, gradient = jax.jit(jax.value_and_grad(loss))(magnitude)
  # Linear in the magnitude, then.
  np.testing.assert_allclose((gradient * magnitude).sum(), value, rtol=1e-3)


def test_silence_stays_silent_with_finite_gradients():
  loss = lambda m: inversion.griffin_lim(m, 256, 64, momentum=.99).sum()
  value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.zeros((9, 129)))
  assert value == 0
  assert np.isfinite(gradient).all()


def test_pghi_reaches_the_known_figure_and_beats_griffin_lim():
  x = chirp_and_sine()
  magnitude = np.abs(spectrum(x))
  phase = inversion.pghi(magnitude, 1024, 256)
  got = convergence_db(magnitude, with_phase(magnitude, phase, len(x)))
  assert abs(got + 25.07) < 0.02
  assert got < convergence_db(magnitude, griffin_lim(magnitude, len(x))) - 3


@pytest.mark.parametrize('n_fft, hop, db, refined_db', [
    (1024, 256, -32.6, -47.5), (2048, 512, -25.2, -44.0)])
def test_fast_griffin_lim_after_pghi(n_fft, hop, db, refined_db):
  x = four_second_chirp()
  magnitude = np.abs(spectrum(x, n_fft, hop))
  phase = inversion.pghi(magnitude, n_fft, hop)
  audio = with_phase(magnitude, phase, len(x), n_fft, hop)
  assert abs(convergence_db(magnitude, audio, n_fft, hop) - db) < 0.1
  refined = griffin_lim(magnitude, len(x), n_fft, hop, momentum=0.99,
                        phase=phase)
  assert abs(
      convergence_db(magnitude, refined, n_fft, hop) - refined_db) < 0.1


GAMMA = .02 * 1024**2
GAUSSIAN = np.exp(-np.pi * (np.arange(1024) - 512) ** 2 / GAMMA)


def test_with_a_gaussian_window_a_sinusoid_turns_at_its_frequency():
  x = np.cos(2 * np.pi * 1000.3 * np.arange(RATE) / RATE)
  magnitude = np.abs(librosa.stft(
      x, n_fft=1024, hop_length=256, window=GAUSSIAN, center=False)).T
  bins = slice(60, 69)  # Around 1000.3 Hz, bin 64.02.
  for integrate in (inversion.pghi, inversion.rtpghi):
    phase = integrate(magnitude, 1024, 256, gamma=GAMMA)[:, bins]
    turn = np.diff(phase, axis=0) - 2 * np.pi * 1000.3 * 256 / RATE
    np.testing.assert_allclose(np.exp(1j * turn), 1, atol=2e-3)
    # And from bin to bin by half a turn, to the middle of the frame.
    np.testing.assert_allclose(
        np.exp(1j * np.diff(phase, axis=1)), -1, atol=2e-3)


def test_with_a_gaussian_window_a_click_has_its_delay():
  x = np.zeros(4096)
  x[2000] = 1.0
  want = librosa.stft(
      x, n_fft=1024, hop_length=64, window=GAUSSIAN, center=False).T
  got = inversion.pghi(np.abs(want), 1024, 64, gamma=GAMMA)
  frames, bins = slice(20, 29), slice(8, -8)  # Those that see it well.
  turn = np.angle(want) - got
  turn = np.exp(1j * (turn - turn[24, 256]))[frames, bins]
  np.testing.assert_allclose(turn, 1, atol=2e-3)


def test_only_what_is_below_the_tolerance_depends_on_the_seed():
  magnitude = np.abs(spectrum(chirp_and_sine()))
  loud = magnitude > 1e-3 * magnitude.max()
  assert .1 < loud.mean() < .9
  a, b = (inversion.pghi(magnitude, 1024, 256, tolerance=1e-3, seed=seed)
          for seed in (0, 1))
  np.testing.assert_array_equal(a[loud], b[loud])
  assert (a != b)[~loud].mean() > .99


def test_each_island_starts_at_its_largest_coefficient_with_phase_0():
  magnitude = np.full((12, 65), 1e-9)
  magnitude[2:5, 10:14] = 0.5
  magnitude[8:11, 50:54] = 0.25
  magnitude[3, 12], magnitude[9, 51] = 1.0, 0.75
  phase = inversion.pghi(magnitude, 128, 32, tolerance=1e-6)
  assert phase[3, 12] == phase[9, 51] == 0.0
  assert (phase[magnitude < 1e-6] != 0).all()


@pytest.mark.parametrize('name', ['pghi', 'rtpghi'])
def test_integrators_take_leading_axes_float32_and_silence(name):
  integrate = getattr(inversion, name)
  rng = np.random.default_rng(0)
  magnitude = rng.uniform(size=(2, 3, 7, 65)).astype(np.float32)
  magnitude[0, 0] = 0.0
  phase = integrate(magnitude, 128, 32)
  assert phase.shape == magnitude.shape and phase.dtype == np.float32
  assert np.isfinite(phase).all()
  np.testing.assert_array_equal(
      phase[1, 2], integrate(magnitude[1, 2], 128, 32))


def test_rtpghi_looks_at_no_later_frame():
  x = chirp_and_sine()
  magnitude = np.abs(spectrum(x))
  other = magnitude.copy()
  other[40:] = np.random.default_rng(0).uniform(size=other[40:].shape)
  a, b = (inversion.rtpghi(m, 1024, 256) for m in (magnitude, other))
  np.testing.assert_array_equal(a[:40], b[:40])
  assert (a[40] != b[40]).mean() > .9
  # Unlike the other one.
  a, b = (inversion.pghi(m, 1024, 256) for m in (magnitude, other))
  assert (a[:40] != b[:40]).mean() > .1


def test_rtpghi_finds_the_phase_of_a_chirp():
  x = four_second_chirp()
  magnitude = np.abs(spectrum(x))
  phase = inversion.rtpghi(magnitude, 1024, 256)
  # Ours: -20.3 dB, where PGHI has -32.6; zero phase has -0.6.
  assert convergence_db(magnitude, with_phase(magnitude, phase, len(x))) < -19


def test_pghi_refuses_unknown_windows_and_other_sizes():
  with pytest.raises(errors.UserError, match=r'kaiser.*hann.*gamma'):
    inversion.pghi(np.ones((4, 65)), 128, 32, window='kaiser')
  with pytest.raises(errors.UserError, match='64 bins; n_fft=128 has 65'):
    inversion.pghi(np.ones((4, 64)), 128, 32)
