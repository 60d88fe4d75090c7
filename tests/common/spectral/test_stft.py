import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from scipy import signal

from common import errors
from common.spectral import stft

RAMP = np.arange(16) / 16

# As a whole: one by one, the operations take longer to compile.
forward = jax.jit(stft.stft, static_argnums=(1, 2), static_argnames=(
    'win_length', 'window', 'center', 'pad_mode', 'pad_end', 'align',
    'normalize'))
inverse = jax.jit(stft.istft, static_argnums=(1, 2), static_argnames=(
    'win_length', 'window', 'center', 'length', 'align', 'normalize',
    'dual_window'))


def noise(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(got, want, rtol=1e-5):
  """Relative to the largest value, which is what float32 can promise."""
  got, want = np.asarray(got), np.asarray(want)
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, rtol=0, atol=rtol * np.abs(want).max())


# Computed by hand in float64: i / 16 for i = 0 .. 15, n_fft 8, hop 4.
NOT_CENTRED = [1, -.5 + .239277j, -.051777j, -.010723j, 0]
CENTRED = [.143306, -.018306 + .119638j, -.0625 - .025888j,
           .018306 - .005362j, -.018306]
REFLECTED = [.286612, -.036612, -.125, .036612, -.036612]


@pytest.mark.parametrize('options, frames, first', [
    (dict(center=False), 3, NOT_CENTRED),
    (dict(center=False, align='start'), 3, NOT_CENTRED),
    (dict(), 5, CENTRED),
    (dict(pad_mode='reflect'), 5, REFLECTED),
    (dict(align='start', pad_end=True, normalize='spectrum'), 5,
     np.array(CENTRED) / 4)])
def test_four_conventions_on_a_ramp(options, frames, first):
  got = forward(RAMP, 8, 4, **options)
  assert got.shape == (frames, 5) and got.dtype == jnp.complex64
  np.testing.assert_allclose(got[0], first, atol=1e-6)


def test_windows_are_periodic_and_centred():
  np.testing.assert_allclose(
      stft.window('hann', 8),
      [0, .146447, .5, .853553, 1, .853553, .5, .146447], atol=1e-6)
  impulse = np.zeros(8)
  for i, want in enumerate([0, 0, .25, .75, 1, .75, .25, 0]):
    impulse[:] = np.arange(8) == i
    got = forward(impulse, 8, 8, win_length=6, center=False)
    np.testing.assert_allclose(np.abs(got[0]), want, atol=1e-6)


@pytest.mark.parametrize('samples, n_fft, hop, centred, not_centred', [
    (64000, 2048, 512, 126, 122), (16384, 256, 128, 129, 127),
    (16000, 1024, 256, 63, 59)])
def test_frame_counts(samples, n_fft, hop, centred, not_centred):
  count = lambda **options: jax.eval_shape(
      lambda x: stft.stft(x, n_fft, hop, **options), jnp.zeros(samples)).shape
  assert count() == (centred, n_fft // 2 + 1)
  assert count(center=False) == (not_centred, n_fft // 2 + 1)
  assert count(center=False, pad_end=True)[0] == -(-samples // hop)
  assert count(pad_end=True)[0] == 1 + -(-samples // hop)


SIZES = [(64, 16, 64), (64, 16, 40), (64, 16, 41), (50, 12, 50), (51, 13, 51),
         (51, 13, 37), (64, 21, 64), (33, 40, 33), (96, 1, 96)]


@pytest.mark.parametrize('n_fft, hop, win_length', SIZES)
@pytest.mark.parametrize('center', [True, False])
def test_equals_librosa(n_fft, hop, win_length, center):
  x = noise(2, 3, 203)
  for window in ('hann', ('kaiser', 5.0)):
    want = librosa.stft(x.astype(np.float64), n_fft=n_fft, hop_length=hop,
                        win_length=win_length, window=window, center=center)
    close(forward(x, n_fft, hop, win_length=win_length, window=window,
                    center=center), want.swapaxes(-1, -2))


@pytest.mark.parametrize('n_fft, hop, win_length', SIZES)
def test_equals_torch_with_reflected_ends(n_fft, hop, win_length):
  x = noise(2, 203)  # librosa's own reflection is wrong in some last frames.
  want = librosa.stft(
      np.pad(x.astype(np.float64), [(0, 0), (n_fft // 2,) * 2], 'reflect'),
      n_fft=n_fft, hop_length=hop, win_length=win_length, center=False)
  close(forward(x, n_fft, hop, win_length=win_length, pad_mode='reflect'),
        want.swapaxes(-1, -2))


@pytest.mark.parametrize('n_fft, hop, win_length', [
    (64, 16, 64), (64, 16, 40), (50, 12, 50), (51, 13, 51), (51, 13, 37)])
def test_equals_scipy_and_scipy_inverts_it(n_fft, hop, win_length):
  x = noise(2, 203)
  framing = dict(nperseg=win_length, noverlap=win_length - hop, nfft=n_fft)
  _, _, want = signal.stft(x.astype(np.float64), **framing)
  options = dict(win_length=win_length, align='start', normalize='spectrum')
  got = forward(x, n_fft, hop, pad_end=True, **options)
  close(got, want.swapaxes(-1, -2))
  _, back = signal.istft(want, **framing)
  close(inverse(got, n_fft, hop, **options), back)
  close(inverse(got, n_fft, hop, length=203, **options), x)


def test_torchs_and_torchaudios_normalization():
  x, w = noise(100), stft.window('hann', 40)
  plain = forward(x, 64, 16, win_length=40)
  for name, scale in [('frame_length', 8), ('window', np.sqrt((w**2).sum()))]:
    got = forward(x, 64, 16, win_length=40, normalize=name)
    close(got, plain / scale)
    close(inverse(got, 64, 16, win_length=40, normalize=name, length=100), x)


@pytest.mark.parametrize('n_fft, hop, win_length', [
    (2048, 512, 2048), (1024, 256, 1024), (512, 50, 240), (51, 13, 51),
    (51, 13, 37), (64, 21, 64), (96, 1, 96)])
def test_istft_inverts_stft_to_the_last_sample(n_fft, hop, win_length):
  samples = 4001
  x = np.clip(noise(2, samples) / 4, -1, 1)
  spec = forward(x, n_fft, hop, win_length=win_length, pad_end=True)
  back = inverse(spec, n_fft, hop, win_length=win_length, length=samples)
  np.testing.assert_allclose(back, x, atol=1e-6)


@pytest.mark.parametrize('hop', [1, 2, 3, 4])
def test_the_ramp_comes_back(hop):
  back = inverse(forward(RAMP, 8, hop, pad_end=True), 8, hop, length=16)
  np.testing.assert_allclose(back, RAMP, atol=1e-6)


@pytest.mark.parametrize('n_fft, hop, win_length', [
    (64, 16, 64), (64, 16, 40), (51, 13, 37), (64, 21, 64)])
@pytest.mark.parametrize('center', [True, False])
@pytest.mark.parametrize('length', [None, 150, 400])
def test_the_nearest_audio_of_an_impossible_spectrum_is_librosas(
    n_fft, hop, win_length, center, length):
  spec = (noise(2, 15, n_fft // 2 + 1)
          + 1j * noise(2, 15, n_fft // 2 + 1, seed=1))
  options = dict(win_length=win_length, center=center, length=length)
  got = np.asarray(inverse(spec, n_fft, hop, **options))
  want = librosa.istft(spec.astype(np.complex128).swapaxes(-1, -2),
                       n_fft=n_fft, hop_length=hop, **options)
  assert got.shape == want.shape
  # Without padding, the ends are divided by next to nothing.
  inside = slice(None) if center else slice(hop, 15 * hop - hop)
  close(got[:, inside], want[:, inside])


@pytest.mark.parametrize('length, hop', [(64, 16), (64, 32), (60, 16)])
def test_the_dual_window_is_exact_inside_and_fades_at_the_ends(length, hop):
  x = noise(20 * hop)
  options = dict(win_length=length, center=False, align='start')
  back = np.asarray(inverse(forward(x, 64, hop, **options), 64, hop,
                               dual_window=True, **options))
  assert len(back) == length + hop * ((20 * hop - length) // hop)
  inside = slice(length, len(back) - length)
  np.testing.assert_allclose(back[inside], x[inside], atol=1e-5)
  # Of sample 1, one frame of all that should cover it is there.
  w = stft.window('hann', length)
  share = w[1]**2 / (w[1::hop]**2).sum()
  np.testing.assert_allclose(back[1], x[1] * share, rtol=1e-3)


def test_what_no_frame_covers_is_zero_not_nan():
  back = inverse(forward(noise(64), 16, 4, center=False), 16, 4,
                    center=False)
  assert back[0] == 0 and np.isfinite(back).all()


def test_batch_vmap_jit_and_bfloat16():
  x = noise(2, 3, 130)
  want = stft.stft(x, 32, 8)
  close(jax.jit(lambda x: stft.stft(x, 32, 8))(x), want, 1e-6)
  close(jax.vmap(jax.vmap(lambda x: stft.stft(x, 32, 8)))(x), want, 1e-6)
  close(stft.stft(x[1, 2], 32, 8), want[1, 2], 1e-6)
  rough = jnp.asarray(x, jnp.bfloat16)
  got = stft.stft(rough, 32, 8)
  assert got.dtype == jnp.complex64
  close(got, stft.stft(rough.astype(jnp.float32), 32, 8), 1e-7)
  back = lambda s: stft.istft(s, 32, 8, length=130)
  close(jax.jit(jax.vmap(back))(want), x)


def test_gradients_are_finite_at_silence():
  def loss(x):
    magnitude = jnp.abs(stft.stft(x, 32, 8))
    return (magnitude + jnp.log(magnitude + 1e-6)).sum()
  assert np.isfinite(jax.jit(jax.grad(loss))(jnp.zeros(100))).all()


@pytest.mark.parametrize('hop', [8, 12, 1])
def test_the_gradient_is_the_adjoint(hop):
  x, s = noise(200), noise(60, 97)
  n_fft = 192
  frames = 1 + (200 - n_fft) // hop
  f = lambda x: stft.stft(x, n_fft, hop, center=False).real
  y, pull = jax.vjp(jax.jit(f), x)
  cotangent = s[:frames, :n_fft // 2 + 1]
  pulled, = pull(cotangent)
  np.testing.assert_allclose(
      (y * cotangent).sum(), (x * pulled).sum(), rtol=1e-3)


@pytest.mark.parametrize('call, says', [
    (lambda: stft.stft(np.zeros(100), 128, 32, center=False), 'pad_end=True'),
    (lambda: stft.stft(np.zeros(100), 64, 16, win_length=80), 'win_length=80'),
    (lambda: stft.stft(np.zeros(100), 64, 0), 'hop=0'),
    (lambda: stft.stft(np.zeros(100), 64, 16, window='hat'), "window='hat'"),
    (lambda: stft.stft(np.zeros(100), 64, 16, window=np.ones(9)), 'win_length'),
    (lambda: stft.stft(np.zeros(100), 64, 16, align='end'), 'align'),
    (lambda: stft.stft(np.zeros(100), 64, 16, normalize='max'), 'normalize'),
    (lambda: stft.istft(np.zeros((9, 65)), 64, 16), 'n_fft=128')])
def test_what_cannot_be_is_an_error_that_says_what_could(call, says):
  with pytest.raises(errors.UserError, match=says):
    call()
