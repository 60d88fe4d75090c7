import importlib

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile

from common import config as config_lib
from common import errors, generate
from vqvae_jax import clip_range, pictures, vae

RATE = 16000


def notes(samples, rows=2, seed=0):
  """Three harmonics with an attack and a decay, and a little noise."""
  rng = np.random.default_rng(seed)
  t = np.arange(samples) / RATE
  tones = sum(np.sin(2 * np.pi * h * f * t) / h for h in (1, 2, 3)
              for f in rng.uniform(200, 800, (rows, 1)).T[..., None])
  audio = 0.2 * np.exp(-3 * t) * tones
  return np.float32(audio + 1e-3 * rng.normal(size=audio.shape))


def config_of(name, **changes):
  config = config_lib.load(f'{name}:tiny')
  config.update_from_flattened_dict(
      {f'model.{k}': v for k, v in changes.items()})
  return config


def test_pictures_are_the_courses_for_librosa():
  config = config_lib.load('vae_digits')
  x = notes(config.model.samples)
  scaled = clip_range.make(config, (16, 32))
  picture, span = scaled.encode(x)
  assert picture.shape == (2, 64, 256, 1)
  for i, row in enumerate(x):
    stft = librosa.stft(row, n_fft=512, hop_length=256, pad_mode='constant')
    level = librosa.amplitude_to_db(np.abs(stft[:-1]))
    want = (level - level.min()) / (level.max() - level.min())
    np.testing.assert_allclose(picture[i, :, :, 0].T, want, atol=2e-4)
    np.testing.assert_allclose(
        [span.low[i], span.high[i]],
        np.log(10) / 20 * np.array([level.min(), level.max()]), rtol=1e-4)


def test_pictures_are_nsynths_for_librosa():
  config = config_lib.load('autoencoder_nsynth')
  x = notes(config.model.samples)
  picture, _ = clip_range.make(config, (256, 512)).encode(x)
  assert picture.shape == (2, 256, 512, 1)
  for i, row in enumerate(x):
    stft = librosa.stft(row, n_fft=1024, hop_length=256, pad_mode='constant')
    want = librosa.power_to_db(
        np.abs(stft)**2, amin=1e-13, top_db=120.0, ref=np.max)[:-1] / 120 + 1
    np.testing.assert_allclose(picture[i, :251, :, 0].T, want, atol=2e-3)
  assert not picture[:, 251:].any()


@pytest.mark.parametrize('kind, options', [
    ('magnitude', {}), ('log_magnitude', {}), ('log_mel', {'bands': 24}),
    ('log_frequency', {'bands_per_octave': 4}), ('magnitude_if', {}),
    ('gansynth_ifmel', {'frames': 16, 'bins': 64})])
@pytest.mark.parametrize('span', clip_range.RANGES)
def test_every_representation_fits_the_network(kind, options, span):
  config = config_lib.load('vae_digits:tiny')
  config.model.update(samples=512, n_fft=512, hop=64, representation=kind,
                      range=span)
  if kind.startswith('gansynth'):
    config.model.n_fft = config.model.hop = 0
  config.model.update(options)
  scaled = clip_range.make(config, (4, 8))
  x = notes(512)
  picture, found = scaled.encode(x)
  assert picture.shape[1:] == scaled.shape
  assert scaled.shape[0] % 4 == 0 and scaled.shape[1] % 8 == 0
  assert float(picture.min()) >= 0.0 and float(picture.max()) <= 1.0
  np.testing.assert_allclose(picture[..., 0].max((1, 2)), 1.0, atol=1e-5)
  assert scaled.decode(picture, found).shape == x.shape


def test_a_picture_with_its_phase_comes_back():
  config = config_lib.load('vae_digits:demo')
  config.model.representation = 'magnitude_if'
  config.model.range = 'top_db'
  scaled = clip_range.make(config, (16, 32))
  x = notes(config.model.samples)
  back = scaled.decode(*scaled.encode(x))
  assert np.abs(back - x).max() < 0.02 * np.abs(x).max()


def test_magnitudes_come_back_above_the_floor():
  config = config_lib.load('vae_digits:demo')
  scaled = clip_range.make(config, (16, 32))
  x = notes(config.model.samples)
  got = np.asarray(scaled.magnitude(*scaled.encode(x)))
  want = np.stack([np.abs(librosa.stft(
      row, n_fft=512, hop_length=256, pad_mode='constant'))[:-1].T
      for row in x])
  loud = want > 1.01e-4 * want.max((1, 2), keepdims=True)
  np.testing.assert_allclose(got[loud], want[loud], rtol=1e-3)


def test_the_highest_bin_is_like_its_neighbour():
  config = config_lib.load('vae_digits:demo')
  config.model.representation = 'magnitude_if'
  scaled = clip_range.make(config, (16, 32))
  picture = jnp.zeros((1, *scaled.shape)).at[:, :, -1, 0].set(1.0)
  span = clip_range.Range(jnp.zeros(1), jnp.ones(1))
  spectrum = np.abs(librosa.stft(np.array(scaled.decode(
      picture.at[..., 1].set(0.5), span)[0]), n_fft=512, hop_length=256))
  assert spectrum[-1].mean() > 0.5 * spectrum[-2].mean() > 0


def test_silence_stays_silence():
  for name, factors in (('vae_digits', (4, 8)), ('autoencoder_nsynth', (8, 8))):
    config = config_of(name)
    scaled = clip_range.make(config, factors)
    picture, span = scaled.encode(jnp.zeros((1, config.model.samples)))
    assert np.isfinite(picture).all() and np.isfinite(span.low).all()
    sound = scaled.decode(picture, span)
    assert np.abs(sound).max() < 1e-4


def test_convergence_leaves_silent_clips_out():
  config = config_of('vae_digits')
  scaled = clip_range.make(config, (4, 8))
  x = notes(config.model.samples)
  x[1] = 0.0
  picture, span = scaled.encode(x)
  found = clip_range.convergence(
      scaled, 0.9 * picture, picture, span, jnp.ones(2))
  assert float(found.weight) == 1.0
  guess, loud = (np.asarray(scaled.magnitude(y, span))[0]
                 for y in (0.9 * picture, picture))
  want = 20 * np.log10(np.linalg.norm(loud - guess) / np.linalg.norm(loud))
  np.testing.assert_allclose(found.compute(), want, atol=1e-5)


def test_the_mean_range_is_that_of_all_steps():
  rng = np.random.default_rng(0)
  low, high = rng.normal(size=(2, 5, 8)).astype(np.float32)
  mean = clip_range.first()
  for step in range(5):
    mean = clip_range.updated(
        mean, clip_range.Range(low[step], high[step]), jnp.int32(step))
  np.testing.assert_allclose([mean.low, mean.high], [low.mean(), high.mean()],
                             rtol=1e-5)


@pytest.mark.parametrize('changes, words', [
    ({'range': 'rms'}, 'model.range'),
    ({'floor': 0.0}, 'model.floor'),
    ({'top_db': -1.0}, 'model.top_db'),
    ({'samples': 0}, 'model.samples'),
    ({'representation': 'complex'}, 'magnitude_if'),
    ({'representation': 'mfcc'}, 'no inverse'),
    ({'representation': 'log_mell'}, 'did you mean'),
    ({'conditions': ('colour',)}, 'colour')])
def test_settings_that_cannot_work_are_named(changes, words):
  with pytest.raises(errors.UserError, match=words):
    clip_range.make(config_of('vae_digits', **changes), (4, 8))


# ---------------------------------------------------------------- users' sounds


def asked(config, *given, count=2):
  return generate.prompt(vae, config, count, list(given))


def test_a_sound_at_another_rate_and_in_stereo_is_read(tmp_path):
  config = config_of('vae_digits')
  t = np.arange(44100) / 44100
  sound = np.float32(0.5 * np.sin(2 * np.pi * 440 * t))
  soundfile.write(tmp_path / 'a.wav', np.stack([sound, 0 * sound], 1), 44100)
  batch = asked(config, f'audio={tmp_path}/a.wav', count=3)
  n = config.model.samples
  assert batch['audio'].shape == (3, n) and batch['audio'].dtype == np.float32
  want = 0.25 * np.sin(2 * np.pi * 440 * np.arange(3 * n) / RATE)
  np.testing.assert_allclose(batch['audio'].reshape(-1)[100:], want[100:],
                             atol=2e-3)


def test_a_sound_shorter_than_one_hop_is_refused(tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.full(20, 0.1), RATE)
  with pytest.raises(errors.UserError, match='fewer than one hop of 32'):
    asked(config_of('vae_digits'), f'audio={tmp_path}/a.wav')


def test_a_sound_with_nan_is_refused(tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.full(2000, np.nan), RATE,
                  subtype='FLOAT')
  with pytest.raises(errors.UserError, match='NaN'):
    asked(config_of('vae_digits'), f'audio={tmp_path}/a.wav')


def test_labels_that_the_model_does_not_know_are_refused():
  with pytest.raises(errors.UserError, match='trained without'):
    asked(config_of('vae_digits'), 'pitch=60')
  config = config_of('vae_digits', conditions=('digit',))
  with pytest.raises(errors.UserError, match='0 to 9'):
    asked(config, 'digit=10')
  for value in ('-1', 'nan', 'inf'):
    with pytest.raises(errors.UserError, match=r'temperature=.*0 or more'):
      asked(config, f'temperature={value}')
  with pytest.raises(errors.UserError, match='digit=-5 is not one of 0 to 9'):
    asked(config, 'digit=-5')
  np.testing.assert_array_equal(asked(config, 'digit=7')['digit'], [7, 7])


def test_the_digit_is_read_from_the_name_of_a_file():
  config = config_of('vae_digits', conditions=('digit',))
  config.data.sample_rate = 22050
  stored = {'audio': np.full(100, 16384, np.int16), 'sample_rate': 22050,
            'id': b'some/7_theo_20.wav'}
  row = pictures.preprocess(config)(stored, None)
  assert row['digit'] == 7 and row['audio'].shape == (config.model.samples,)
  np.testing.assert_array_equal(row['audio'][:100], np.full(100, 0.5))
  with pytest.raises(errors.UserError, match='digit'):
    pictures.preprocess(config)({**stored, 'id': b'theo.wav'}, None)
  with pytest.raises(errors.UserError, match='8000 Hz'):
    pictures.preprocess(config)({**stored, 'sample_rate': 8000}, None)


def test_a_config_is_not_changed_by_its_use():
  config = config_of('vae_digits')
  before = config_lib.flatten(config)
  jax.eval_shape(clip_range.make(config, (4, 8)).encode,
                 jax.ShapeDtypeStruct((1, config.model.samples), jnp.float32))
  assert config_lib.flatten(config) == before


ABLATED = [(name, ablation)
           for name in ('autoencoder_nsynth', 'vae_digits', 'vaegan_nsynth')
           for ablation in ('', *config_lib.module(name).ablations())]


@pytest.mark.parametrize('name, ablation', ABLATED)
def test_a_sound_can_be_given_whatever_the_representation(
    name, ablation, tmp_path):
  config = config_lib.load(name)
  if ablation:
    config.update_from_flattened_dict(
        config_lib.module(name).ablations()[ablation])
  sound = 0.1 * np.ones(config.model.samples, np.float32)
  soundfile.write(tmp_path / 'a.wav', sound, config.data.sample_rate, 'FLOAT')
  module = importlib.import_module(config.module)
  given = [f'{k}=3' for k in config.model.conditions]
  batch = generate.prompt(
      module, config, 1, [f'audio={tmp_path}/a.wav', *given])
  np.testing.assert_allclose(batch['audio'], sound[None])
  if given:
    with pytest.raises(errors.UserError, match='=NUMBER is missing'):
      generate.prompt(module, config, 1, [f'audio={tmp_path}/a.wav'])
