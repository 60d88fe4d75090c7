import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import config as config_lib
from common import errors, runs
from common.metrics import distance
from common.spectral import representations
from vqvae_jax import bottleneck as bottleneck_lib
from vqvae_jax import pictures, quantize, vqvae2

N = 2048


def load(size='tiny', **changes):
  config = config_lib.load(f'vqvae2_nsynth:{size}')
  config.update_from_flattened_dict(
      {f'model.{k}': v for k, v in changes.items()})
  return config


def batch_of(config, rows=4):
  rng = np.random.default_rng(0)
  t = np.arange(config.model.samples) / config.data.sample_rate
  hz = rng.uniform(200, 2000, (rows, 1))
  audio = 0.5 * np.sin(2 * np.pi * hz * t) * np.exp(-3 * t)
  labels = {k: jnp.asarray(rng.integers(0, 11, rows), jnp.int32)
            for k in config.model.conditions}
  return {'audio': jnp.asarray(audio, jnp.float32), 'mask': jnp.ones(rows),
          'index': jnp.arange(rows), **labels}


@functools.cache
def _model(items):
  config = load(**dict(items))
  return config, jax.jit(vqvae2.build(config).init)(
      jax.random.key(0), batch_of(config))


def made(**changes):
  """(config, its state)."""
  return _model(tuple(changes.items()))


def train(config, state, batch, steps):
  step = jax.jit(vqvae2.build(config).train_step, static_argnums=3)
  lines = []
  for i in range(steps):
    state, metrics = step(state, batch, jax.random.key(i), 0)
    state = state.replace(step=state.step + 1)
    lines.append({k: float(v) for k, v in metrics.items()})
  return state, lines


def sizes(config):
  _, model = runs.build(config)
  batch = {'audio': jax.ShapeDtypeStruct((1, config.model.samples),
                                         jnp.float32)}
  params = jax.eval_shape(model.init, jax.random.key(0), batch).params
  return {k: sum(x.size for x in jax.tree.leaves(v))
          for k, v in params.items()}


SHARED = {'enc_t': 287_232, 'quantize_conv_t': 8_256, 'dec_t': 287_232,
          'quantize_conv_b': 12_352, 'upsample_t': 65_600}


def test_the_spectrogram_model_has_the_size_and_codes_of_bazins():
  config = load('paper')
  found = sizes(config)
  assert found == {**SHARED, 'enc_b': 558_848, 'dec': 558_722}
  assert sum(found.values()) == 1_778_242
  codec = vqvae2.codec(config)
  # (32, 4) and (64, 8) there, frequency first.
  assert codec.shapes == {'top': (4, 32), 'bottom': (8, 64)}
  assert codec.sizes == {'top': 512, 'bottom': 512}
  assert codec.groups == (('top', 'bottom'),)


def test_the_image_model_has_the_size_of_rosinalitys():
  config = load('paper', channels=(64, 128))
  nets = vqvae2.networks(config, 3)
  shapes = {'enc_b': (256, 256, 3), 'enc_t': (64, 64, 128),
            'quantize_conv_t': (32, 32, 128), 'dec_t': (32, 32, 64),
            'quantize_conv_b': (64, 64, 192), 'upsample_t': (32, 32, 64),
            'dec': (64, 64, 128)}
  found = {k: sum(x.size for x in jax.tree.leaves(jax.eval_shape(
      net.init, jax.random.key(0), jnp.zeros((1, *shapes[k])))))
      for k, net in nets.items()}
  assert found == {**SHARED, 'enc_b': 364_160, 'dec': 364_035}
  assert sum(found.values()) == 1_388_867
  assert vqvae2.codec(config).shapes == {'top': (16, 128), 'bottom': (32, 256)}


def test_the_paper_trains_with_its_numbers():
  config = load('paper')
  assert config.batch_size == 64 and config.model.learning_rate == 3e-4
  # 560 epochs of the 289,205 notes for training.
  assert abs(config.steps - 560 * 289_205 / 64) / config.steps < 0.02


def test_it_learns_and_uses_both_levels():
  config = load(learning_rate=3e-3)
  model, batch = vqvae2.build(config), batch_of(config, 8)
  state = jax.jit(model.init)(jax.random.key(0), batch)
  before = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  state, lines = train(config, state, batch, 150)
  after = jax.jit(model.eval_step)(state, batch, jax.random.key(0))
  assert after['rec'].compute() < 0.3 * before['rec'].compute()
  assert after['rec'].compute() < 1.5 * lines[-1]['loss/rec']
  assert lines[-1]['top/perplexity'] > 4 and lines[-1]['bottom/perplexity'] > 4
  total = sum(lines[-1][f'loss/{k}']
              for k in ('rec', 'commit_top', 'commit_bottom'))
  np.testing.assert_allclose(lines[-1]['loss'], total, rtol=1e-5)
  # Both maps matter to what is heard.
  codec = vqvae2.codec(config)
  codes = codec.encode(state, batch)
  whole = codec.decode(state, codes, batch)
  for level in ('top', 'bottom'):
    other = codec.decode(
        state, {**codes, level: (codes[level] + 5) % 16}, batch)
    assert np.linalg.norm(other - whole) > 0.05 * np.linalg.norm(whole)


def test_the_first_step_encodes_with_codes_of_its_own_batch_then_updates():
  config, state = made()
  batch = batch_of(config)
  after, _ = train(config, state, batch, 1)
  parts = vqvae2._make(config)
  key = jax.random.split(jax.random.key(0), 3)
  levels = parts.encode(
      state.params, state.vars, parts.pictures.encode(batch['audio']), key[0],
      jnp.int32(0))
  for level, k in (('top', key[1]), ('bottom', key[2])):
    q = levels[level]
    rows = np.asarray(q.z).reshape(-1, 4)
    distance = np.abs(np.asarray(q.book.codes)[:, None] - rows[None]).max(-1)
    assert distance.min(1).max() < 1e-6  # All codes are vectors of the batch.
    np.testing.assert_array_equal(q.codes, quantize.nearest(q.z, q.book.codes))
    want, _ = parts.bottleneck.update(q, k, jnp.int32(0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        after.vars[level], want)


def test_the_loss_is_that_of_the_paper_and_moves_the_encoder_straight_through():
  """d loss / d z = d loss / d vectors + 2 beta (z - e) / numel, by level."""
  config, state = made()
  batch = batch_of(config)
  parts = vqvae2._make(config)
  target = parts.pictures.encode(batch['audio'])
  levels = parts.encode(state.params, state.vars, target)
  z = levels['bottom'].z
  book, top = state.vars['bottom'], levels['top'].vectors

  def error(vectors):
    picture = parts.decode(
        state.params, {'top': top, 'bottom': vectors}, batch)
    # In nats of magnitude, and units of pi.
    scale = jnp.array([config.model.magnitude_scale[0], 1.0])
    difference = parts.pictures.crop(picture - target)
    return ((difference / scale[None, None, None]) ** 2).mean()

  def loss(z):
    q = parts.bottleneck.quantise(z, book)
    return error(q.vectors) + q.penalty.mean()

  e = book.codes[levels['bottom'].codes]
  want = jax.grad(error)(e) + 2 * 0.25 * (z - e) / z.size
  np.testing.assert_allclose(jax.grad(loss)(z), want, rtol=1e-4, atol=1e-9)
  evaluated = vqvae2.build(config).eval_step(state, batch, jax.random.key(0))
  np.testing.assert_allclose(evaluated['rec'].compute(), error(e), rtol=1e-5)
  np.testing.assert_allclose(evaluated['commit_bottom'].compute(),
                             0.25 * ((z - e) ** 2).mean(), rtol=1e-5)


def test_the_error_may_be_that_of_normalised_pictures():
  for domain, scale in (('raw', (0.5, 1.0)), ('normalized', (1.0, 1.0))):
    config = load(loss_domain=domain, phase_scale=(1.0, 0.0),
                  magnitude_scale=(0.5, 0.1))
    model, parts, batch = vqvae2.build(config), vqvae2._make(config), batch_of(
        config)
    state = jax.jit(model.init)(jax.random.key(0), None)
    found = model.eval_step(state, batch, jax.random.key(0))['rec'].compute()
    target = parts.pictures.encode(batch['audio'])
    levels = parts.encode(state.params, state.vars, target)
    picture = parts.decode(
        state.params, {k: q.vectors for k, q in levels.items()}, batch)
    # Without the frames that only the network sees; (a x + b) / a has no b in
    # a difference.
    difference = np.asarray(picture - target)[:, :129, :32]
    np.testing.assert_allclose(
        found, ((difference / np.array(scale)) ** 2).mean(), rtol=1e-5)


def test_codes_that_learn_by_gradients_are_parameters():
  config, state = made(codebook='gradient', codebook_init='uniform')
  assert state.vars == {} and set(state.params['codes']) == {'top', 'bottom'}
  after, lines = train(config, state, batch_of(config), 3)
  moved = {k: float(jnp.abs(after.params['codes'][k] - v).max())
           for k, v in state.params['codes'].items()}
  assert min(moved.values()) > 1e-5
  assert set(lines[0]) >= {'top/perplexity', 'bottom/used'}


def test_corruption_moves_codes_by_one_in_training_only():
  config, _ = made(corruption=(0.1, 0.8, 0.1))
  bottleneck = bottleneck_lib.make(config)
  book = bottleneck.create(jax.random.key(0))
  z = jax.random.normal(jax.random.key(1), (8, 50, 50, 4))
  # Later than step 0, where the codes would begin anew.
  q = bottleneck.quantise(z, book, jax.random.key(2), jnp.int32(1))
  plain = bottleneck.quantise(z, book)
  np.testing.assert_array_equal(plain.codes, quantize.nearest(z, book.codes))
  shift = np.asarray((q.codes - plain.codes + 1) % 16)
  np.testing.assert_allclose(
      [(shift == i).mean() for i in range(3)], [0.1, 0.8, 0.1], atol=0.01)
  np.testing.assert_allclose(q.vectors, book.codes[q.codes], atol=1e-6)


def test_the_codec_is_what_the_model_does():
  config, state = made()
  model, codec, batch = vqvae2.build(config), vqvae2.codec(config), batch_of(
      config)
  codes = jax.jit(codec.encode)(state, batch)
  for name, shape in codec.shapes.items():
    assert codes[name].shape == (4, *shape) and codes[name].dtype == jnp.int32
    assert 0 <= codes[name].min() <= codes[name].max() < codec.sizes[name]
  audio = codec.decode(state, codes, batch)
  # The way of training, by vectors that pass their gradient straight on.
  want = model.eval_step(state, {**batch, 'mask': jnp.ones(4)},
                         jax.random.key(0))['si_sdr'].compute()
  np.testing.assert_allclose(
      distance.si_sdr(audio, batch['audio']).mean(), want, atol=1e-3)
  one = codec.decode(state, {k: x[2:3] for k, x in codes.items()},
                     {'index': jnp.zeros(1, jnp.int32)})
  np.testing.assert_allclose(one[0], audio[2], atol=1e-5)


@pytest.mark.parametrize('name, options, channels', [
    ('magnitude_if', dict(n_fft=64, hop=16), 2),
    ('log_mel', dict(n_fft=256, hop=64, bands=21), 1),
    ('gansynth_ifmel', dict(frames=160, bins=32), 2),
    ('complex', dict(n_fft=64, hop=16), 2)])
def test_any_representation_goes_whatever_its_size(name, options, channels):
  masks = name not in ('magnitude_if', 'complex')
  config = load(representation=name, mask_silence=masks, **{
      **dict.fromkeys(('frames', 'bins'), 0), **options})
  shape = representations.make(name, N, 16000, **options).shape
  p = pictures.make(config, 8)
  assert all(n % 8 == 0 for n in p.shape[:2]) and p.shape[2] == channels
  audio = batch_of(config)['audio']
  y = p.encode(audio)
  assert y.shape == (4, *p.shape) and p.crop(y).shape == (4, *shape)
  if channels == 2 and name != 'gansynth_ifmel':
    np.testing.assert_allclose(p.decode(y), audio, atol=1e-3)
  state = vqvae2.build(config).init(jax.random.key(0), None)
  _, lines = train(config, state, batch_of(config), 1)
  assert np.isfinite(list(lines[0].values())).all()


def test_silence_is_masked_on_the_way_in_and_on_the_way_out():
  x = jnp.array([[[[-13.2, 0.7], [-13.0, 0.7]]]])
  want = [[[[np.log(2e-6), 0.0], [-13.0, 0.7]]]]
  np.testing.assert_allclose(pictures.masked(x), want, rtol=1e-6)
  config = load()
  p = pictures.make(config, 8)
  silent = np.asarray(p.raw(jnp.zeros((1, N))))
  np.testing.assert_allclose(silent[..., 0], np.log(2e-6), rtol=1e-6)
  assert not silent[..., 1].any()
  # Below the floor, what is heard does not depend on the network.
  a, b = config.model.magnitude_scale
  below = jnp.full((1, *p.shape), a * -14 + b)
  heard = [p.decode(below.at[..., 1].set(f)) for f in (0.0, 0.5)]
  np.testing.assert_array_equal(*heard)
  config.model.mask_silence = False
  assert float(pictures.make(config, 8).raw(jnp.zeros((1, N)))[
      ..., 0].min()) < -13.8


def test_measured_scales_map_the_range_to_the_margins():
  config = load(mask_silence=False)
  audio = np.asarray(batch_of(config)['audio'])
  scales = vqvae2.measure(config, [{'audio': x} for x in audio])
  config.model.update(scales)
  y = np.asarray(pictures.make(config, 1).encode(jnp.asarray(audio)))
  np.testing.assert_allclose(y.max((0, 1, 2)), [0.8, 1.0], atol=1e-5)
  np.testing.assert_allclose(y.min((0, 1, 2)), [-0.8, -1.0], atol=1e-5)
  with pytest.raises(errors.UserError, match='no examples'):
    vqvae2.measure(config, [])


@pytest.mark.parametrize('kind', ['jukebox', 'ddsp'])
def test_spectral_losses_are_literal_and_have_gradients(kind):
  x, y = (np.random.default_rng(i).standard_normal((2, 3000)) for i in (0, 1))
  want = 0.0
  for n, hop, width in {
      'jukebox': [(2048, 240, 1200), (1024, 120, 600), (512, 48, 240)],
      'ddsp': [(2**k, 2**k // 4, 2**k) for k in range(6, 12)]}[kind]:
    window = np.pad(.5 - .5 * np.cos(2 * np.pi * np.arange(width) / width),
                    (n - width) // 2)
    s, t = (np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(
        z, n, axis=1)[:, ::hop] * window)) for z in (x, y))
    want = want + (((s - t) ** 2).mean((1, 2)) if kind == 'jukebox' else
                   np.abs(s - t).mean((1, 2))
                   + np.abs(np.log(s + 1e-7) - np.log(t + 1e-7)).mean((1, 2)))
  f = functools.partial(vqvae2.spectral, kind)
  np.testing.assert_allclose(f(x, y), want, rtol=1e-3)
  np.testing.assert_allclose(f(x, x), 0, atol=1e-6)
  zeros = jnp.zeros((2, 3000))
  for pair in ((x, y), (x, x), (zeros, y), (zeros, zeros)):
    assert np.isfinite(jax.grad(lambda a, b: f(a, b).sum())(
        *map(jnp.asarray, pair))).all()


def test_a_model_can_be_trained_on_the_audio_itself():
  config, state = made(loss='ddsp')
  _, lines = train(config, state, batch_of(config), 20)
  assert lines[-1]['loss/rec'] < lines[0]['loss/rec']
  assert np.isfinite(list(lines[-1].values())).all()


def test_labels_change_what_is_decoded():
  config, state = made(conditions=('pitch', 'instrument_family'))
  batch, codec = batch_of(config), vqvae2.codec(config)
  codes = codec.encode(state, batch)
  a = codec.decode(state, codes, batch)
  b = codec.decode(state, codes, {**batch, 'pitch': batch['pitch'] + 1})
  assert np.abs(a - b).max() > 1e-5
  example = {'audio': np.zeros(N, np.float32), 'pitch': 61,
             'instrument': {'family': 3}}
  row = vqvae2.preprocess(config)(example, None)
  assert (row['pitch'], row['instrument_family']) == (61, 3)
  del example['pitch']
  with pytest.raises(errors.UserError, match='does not say the pitch'):
    vqvae2.preprocess(config)(example, None)


@pytest.mark.parametrize('changes, says', [
    ({'loss': 'l1'}, "'mse'"), ({'loss_domain': 'x'}, "'raw'"),
    ({'loss': 'ddsp', 'samples': 2000}, '2048'),
    ({'top_channels': ()}, 'top_channels'), ({'codebook': 'ema'}, "'averages'"),
    ({'codebook': 'gradient'}, "'uniform'"), ({'codebook_size': 1}, 'size=1'),
    ({'codebook_init': 'pca'}, "'kmeans'"), ({'beta': -1.0}, 'beta'),
    ({'corruption': (1.0, 2.0)}, 'three weights'), ({'samples': 0}, 'samples'),
    ({'conditions': ('pich',)}, "did you mean 'pitch'"),
    ({'magnitude_scale': (0.0, 1.0)}, 'magnitude_scale'),
    ({'representation': 'magnitude_if'}, 'mask_silence'),
    ({'representation': 'mfcc', 'mask_silence': False}, 'no inverse'),
    ({'frames': 20}, 'frames=129 or more'), ({'n_fft': 64}, 'n_fft')])
def test_settings_that_cannot_work_are_refused(changes, says):
  with pytest.raises(errors.UserError, match=says):
    vqvae2.build(load(**changes))
