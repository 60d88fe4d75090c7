"""Against the paper's figures, closed forms and one-shot results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import soundfile

from common import config as config_lib
from common import errors, generate
from common.data import chunks
from common.metrics import distance
from common.model import Mean
from common.spectral import multiscale
from vqvae_jax import jukebox_vqvae

NAME = 'jukebox_vqvae_music'


def load(size='tiny', **changes):
  config = config_lib.load(f'{NAME}:{size}')
  config.update_from_flattened_dict(
      {f'model.{k}': v for k, v in changes.items()})
  return config


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


@pytest.fixture(scope='module')
def config():
  return load()


@pytest.fixture(scope='module')
def batch(config):
  audio = 0.3 * jax.random.normal(
      jax.random.key(5), (config.batch_size, config.model.samples))
  return {'audio': audio, 'mask': jnp.ones(config.batch_size),
          'index': jnp.arange(config.batch_size)}


@pytest.fixture(scope='module')
def state(config, batch):
  """After three steps, so that codebooks and averages are their own."""
  model = jukebox_vqvae.build(config)
  state = jax.jit(model.init)(jax.random.key(0), batch)
  step = jax.jit(model.train_step, static_argnums=3)
  for i in range(3):
    state, _ = step(state, batch, jax.random.key(i), 0)
    state = state.replace(step=state.step + 1)
  return state


@pytest.mark.parametrize('size, want', [
    ('paper', [(441_856, 458_177), (116_384, 124_641), (168_224, 176_481)]),
    ('small_vqvae', [(106_080, 114_337), (178_688, 186_945)]),
    ('defaults', [(222_656, 255_105), (477_568, 510_017)])])
def test_parameters_are_as_many_as_released(size, want):
  model = jukebox_vqvae.build(load(size))
  shapes = jax.eval_shape(model.init, jax.random.key(0), None)
  got = [(count(level['encoder']), count(level['decoder']))
         for level in shapes.params.values()]
  assert got == want


def test_with_its_codebooks_the_paper_size_has_two_million_numbers():
  model = jukebox_vqvae.build(load('paper'))
  shapes = jax.eval_shape(model.init, jax.random.key(0), None)
  codes = sum(book.codes.size for book in shapes.vars.values())
  assert count(shapes.params) + codes == 1_878_979


@pytest.mark.parametrize('size, samples, lengths, rates', [
    ('paper', 262_144, (32_768, 8_192, 2_048), (60.6, 15.2, 3.8)),
    ('small_vqvae', 262_144, (8_192, 1_024), (6.9, 0.86))])
def test_code_shapes_and_bitrates(size, samples, lengths, rates):
  config = load(size, samples=samples)
  codec = jukebox_vqvae.codec(config)
  model = jukebox_vqvae.build(config)
  batch = {'audio': jax.ShapeDtypeStruct((2, samples), jnp.float32)}
  state = jax.eval_shape(model.init, jax.random.key(0), batch)
  codes = jax.eval_shape(codec.encode, state, batch)
  for level, (length, rate) in enumerate(zip(lengths, rates, strict=True)):
    name = f'level{level}'
    assert codes[name].shape == (2, length) == (2, *codec.shapes[name])
    bits = length * np.log2(codec.sizes[name])
    seconds = samples / config.data.sample_rate
    assert bits / seconds / 1000 == pytest.approx(rate, abs=0.05)
  for group in codec.groups:
    out = jax.eval_shape(
        codec.decode, state, {k: codes[k] for k in group}, batch)
    assert out.shape == (2, samples)


@pytest.mark.parametrize('size, samples, sounds, codes', [
    ('paper', 2**17, (91_878, 5_134, 21_038), (11_485, 160, 164)),
    ('small_vqvae', 2**17, (5_118, 42_142), (160, 164))])
def test_receptive_fields_are_those_of_the_released_code(
    size, samples, sounds, codes):
  count_ = len(sounds)
  config = load(size, samples=samples, widths=(1,) * count_, code_width=1)
  levels = jukebox_vqvae.Levels(config)
  # All weights positive, so that nothing is cut off or cancels.
  params = jax.tree.map(lambda x: jnp.full(x.shape, 0.5),
                        jax.eval_shape(levels.init, jax.random.key(0)))
  for l, name in enumerate(levels.names):
    length = samples // levels.hops[l]

    def code(x, l=l, name=name, at=length // 2):
      return levels.encoders[l].apply(
          {'params': params[name]['encoder']}, x)[0, at, 0]

    def sample(z, name=name):
      return levels.decode(params, {name: z})[name][0, samples // 2]

    seen = jax.jit(jax.grad(code))(jnp.ones((1, samples, 1)))
    assert np.count_nonzero(seen) == sounds[l]
    seen = jax.jit(jax.grad(sample))(jnp.ones((1, length, 1)))
    assert np.count_nonzero(seen) == codes[l]
  farthest = max((n - h) // 2 for n, h in zip(
      sounds, levels.hops, strict=True))
  assert farthest <= levels.reach() < 1.02 * farthest + 2 * levels.hops[-1]


@pytest.mark.parametrize('separate', [True, False])
def test_nothing_beyond_reach_matters_and_something_near_it_does(separate):
  config = load(samples=1024, separate=separate)
  levels = jukebox_vqvae.Levels(config)
  params = levels.init(jax.random.key(0))
  audio = jax.random.normal(jax.random.key(1), (1, 1024))
  middle = {k: len(range(0, 1024, h)) // 2
            for k, h in zip(levels.names, levels.hops, strict=True)}
  farthest = 0
  for name, hop in zip(levels.names, levels.hops, strict=True):
    gradient = jax.jit(jax.grad(lambda x, name=name: levels.encode(
        params, x)[name][0, middle[name]].sum()))(audio)[0]
    touched = np.flatnonzero(np.asarray(gradient))
    start = middle[name] * hop
    left, right = start - touched.min(), touched.max() - (start + hop - 1)
    assert 0 < max(left, right) <= levels.reach()
    farthest = max(farthest, left)

    vectors = levels.encode(params, audio)
    group = next(g for g in levels.groups() if g[-1] == name)

    def sample(v, vectors, name=name, group=group):
      given = {k: v if k == name else vectors[k] for k in group}
      return levels.decode(params, given)[name][0, 512]

    gradient = np.abs(jax.jit(jax.grad(sample))(
        vectors[name], vectors)[0]).sum(-1)
    touched = np.flatnonzero(gradient) * hop
    assert 512 - touched.min() <= levels.reach()
    assert touched.max() - 512 <= levels.reach()
  assert farthest > levels.reach() / 3


def test_decoders_begin_with_the_largest_dilation():
  stack = jukebox_vqvae.Stack(3, 3, 0, False, True, False, jnp.float32)
  x = jnp.zeros((1, 65, 2)).at[0, 32].set(1.0)
  variables = stack.init(jax.random.key(0), x)
  first = variables['params']['unit_0']
  only = jukebox_vqvae.Stack(1, 3, 0, False, True, False, jnp.float32)
  assert jukebox_vqvae.dilations(3, 3, 0) == [1, 3, 9]
  assert jukebox_vqvae.dilations(5, 3, 2) == [1, 3, 1, 3, 1]
  # Of the reversed stack, unit 0 reaches 9 frames, not 1.
  unit = jukebox_vqvae.Unit(9, 1.0, jnp.float32)
  rest = jax.tree.map(jnp.zeros_like, {
      k: v for k, v in variables['params'].items() if k != 'unit_0'})
  got = stack.apply({'params': {'unit_0': first} | rest}, x)
  np.testing.assert_allclose(got, unit.apply({'params': first}, x), atol=1e-6)
  assert not np.allclose(
      only.apply({'params': {'unit_0': first}}, x), got, atol=1e-4)


def test_a_unit_is_the_formula():
  x = jax.random.normal(jax.random.key(0), (1, 12, 2))
  unit = jukebox_vqvae.Unit(3, 0.5, jnp.float32)
  variables = unit.init(jax.random.key(1), x)
  p = jax.device_get(variables['params'])
  h = np.maximum(np.asarray(x[0]), 0.0)
  padded = np.pad(h, ((3, 3), (0, 0)))
  h = sum(padded[3 * k:3 * k + 12] @ p['Conv_0']['kernel'][k]
          for k in range(3)) + p['Conv_0']['bias']
  h = np.maximum(h, 0.0) @ p['Conv_1']['kernel'][0] + p['Conv_1']['bias']
  np.testing.assert_allclose(
      unit.apply(variables, x)[0], x[0] + 0.5 * h, atol=1e-6)


def test_remat_changes_no_gradient():
  x = jax.random.normal(jax.random.key(0), (1, 32, 2))
  stacks = [jukebox_vqvae.Stack(2, 3, 0, True, False, remat, jnp.float32)
            for remat in (False, True)]
  params = stacks[0].init(jax.random.key(1), x)
  a, b = (jax.grad(lambda p, s=s: (s.apply(p, x) ** 2).sum())(params)
          for s in stacks)
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=1e-5, atol=1e-6), a, b)


def test_initial_weights_are_within_pytorchs_bounds():
  params = jukebox_vqvae.Levels(load()).init(jax.random.key(0))['level0']
  down = params['encoder']['down_0_1']['kernel']  # 8 inputs, 4 taps.
  up = params['decoder']['up_0_0']['kernel']  # 8 outputs, 4 taps.
  for kernel in (down, up):
    bound = (4 * 8) ** -0.5
    assert 0.9 * bound < np.abs(kernel).max() <= bound


def test_the_loss_is_the_sum_of_the_terms_of_all_levels(config, batch):
  model = jukebox_vqvae.build(config)
  state = model.init(jax.random.key(0), batch)
  _, metrics = jax.jit(model.train_step, static_argnums=3)(
      state, batch, jax.random.key(1), 0)
  want = sum(metrics[f'{n}/l2'] + 0.02 * metrics[f'{n}/linf']
             + metrics[f'{n}/spectral'] + 0.02 * metrics[f'{n}/commit']
             for n in ('level0', 'level1'))
  np.testing.assert_allclose(metrics['loss'], want, rtol=1e-6)


def test_a_step_is_the_papers(batch):
  config = load(clip=1e-3, ema_decay=0.9, bandwidth_l2=0.5,
                bandwidth_spectral=7.0, learning_rate=0.01, warmup=4)
  model, c = jukebox_vqvae.build(config), config.model
  levels = jukebox_vqvae.Levels(config)
  step = jax.jit(model.train_step, static_argnums=3)
  before, _ = step(model.init(jax.random.key(0), batch), batch,
                   jax.random.key(1), 0)
  before = before.replace(step=jnp.int32(1))
  after, metrics = step(before, batch, jax.random.key(2), 0)

  def loss(params):
    total, values = 0.0, {}
    z = levels.encode(params, batch['audio'])
    for name in levels.names:
      codes = before.vars[name].codes
      distance_ = ((z[name][:, :, None] - codes[None, None]) ** 2).sum(-1)
      chosen = codes[distance_.argmin(-1)]
      passed = z[name] + jax.lax.stop_gradient(chosen - z[name])
      y = levels.decode(params, {name: passed})[name]
      square = (y - batch['audio']) ** 2
      values[name] = {
          'l2': square.mean() / 0.5,
          'linf': jnp.sort(square, 1)[:, -32:].mean() / 0.5,
          'spectral': multiscale.jukebox(
              y, batch['audio'], c.resolutions).mean() / 7.0,
          'commit': ((z[name] - chosen) ** 2).mean()}
      v = values[name]
      total += v['l2'] + 0.02 * v['linf'] + v['spectral'] + 0.02 * v['commit']
    return total, values

  (total, values), grads = jax.jit(
      jax.value_and_grad(loss, has_aux=True))(before.params)
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-5)
  for name, terms in values.items():
    for k, v in terms.items():
      np.testing.assert_allclose(metrics[f'{name}/{k}'], v, rtol=1e-4)

  # Clipped to a norm of 1e-3; Adam's second step, at a quarter of the rate.
  norm = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(grads)))
  assert float(norm) > 1e-3
  clipped = jax.tree.map(lambda x: x / norm * 1e-3, grads)
  adam = before.opt[1][0]
  mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, adam.mu, clipped)
  nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, adam.nu, clipped)
  want = jax.tree.map(
      lambda p, m, v: p - 0.01 / 4 * (m / (1 - 0.9**2)) / (
          jnp.sqrt(v / (1 - 0.999**2)) + 1e-8), before.params, mu, nu)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
  jax.tree.map(close, after.params, want)
  moved = [np.abs(a - b).max() for a, b in zip(
      jax.tree.leaves(after.params), jax.tree.leaves(before.params),
      strict=True)]
  assert max(moved) > 1e-3
  jax.tree.map(
      lambda e, p, q: np.testing.assert_allclose(
          e, 0.9 * p + 0.1 * q, rtol=1e-5, atol=1e-7),
      after.ema, before.ema, after.params)


def test_averaging_follows_the_batch_unless_it_is_set(batch):
  config = load(ema_decay=0.0)
  config.batch_size = 8
  model = jukebox_vqvae.build(config)
  state = model.init(jax.random.key(0), batch)
  state = state.replace(ema=jax.tree.map(jnp.ones_like, state.params))
  after, _ = jax.jit(model.train_step, static_argnums=3)(
      state, batch, jax.random.key(1), 0)
  jax.tree.map(
      lambda e, p: np.testing.assert_allclose(
          e, 0.999 + 0.001 * p, rtol=1e-6), after.ema, after.params)


def test_terms_of_the_loss_by_hand(config, batch):
  c = config.model
  noise = jax.random.normal(jax.random.key(9), batch['audio'].shape)
  x, y = np.asarray(batch['audio']), np.asarray(noise)
  square = (x - y) ** 2
  np.testing.assert_allclose(
      jukebox_vqvae.largest_residuals(y, x, 32),
      np.sort(square, 1)[:, -32:].mean(1), rtol=1e-6)
  want = []
  for n_fft, hop, win in c.resolutions:
    window = np.pad(scipy.signal.get_window('hann', win),
                    (n_fft - win) // 2)
    spectra = []
    for rows in (x, y):
      rows = np.pad(rows, ((0, 0), (n_fft // 2, n_fft // 2)), mode='reflect')
      frames = np.lib.stride_tricks.sliding_window_view(
          rows, n_fft, axis=1)[:, ::hop]
      spectra.append(np.abs(np.fft.rfft(frames * window)))
    want.append(np.sqrt(((spectra[0] - spectra[1]) ** 2).sum((1, 2))))
  np.testing.assert_allclose(
      multiscale.jukebox(y, x, c.resolutions), np.mean(want, 0), rtol=1e-5)


def test_without_a_spectral_loss_no_metric_names_it(batch):
  config = load(spectral_weight=0.0)
  model = jukebox_vqvae.build(config)
  state = model.init(jax.random.key(0), batch)
  _, metrics = jax.eval_shape(
      lambda s, b, k: model.train_step(s, b, k, 0), state, batch,
      jax.random.key(1))
  assert not [k for k in metrics if 'spectral' in k]


def test_the_first_update_has_a_rate_of_zero_and_codes_from_the_data(batch):
  config = load(decay=1 - 1e-6)  # So that codes stay where they begin.
  model = jukebox_vqvae.build(config)
  state = model.init(jax.random.key(0), batch)
  after, _ = jax.jit(model.train_step, static_argnums=3)(
      state, batch, jax.random.key(1), 0)
  jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
  vectors = jukebox_vqvae.Levels(config).encode(state.params, batch['audio'])
  for name, book in after.vars.items():
    z = np.asarray(vectors[name]).reshape(-1, config.model.code_width)
    away = np.abs(np.asarray(book.codes)[:, None] - z[None]).max(-1).min(-1)
    assert away.max() < 2e-4 * np.abs(z).max()


def test_gradients_reach_each_level_from_its_own_sound_alone(config, batch):
  levels = jukebox_vqvae.Levels(config)
  params = levels.init(jax.random.key(0))

  def loss(params):
    z = levels.encode(params, batch['audio'])
    return (levels.decode(params, z)['level1'] ** 2).sum()

  grads = jax.grad(loss)(params)
  norm = lambda tree: sum(float(jnp.abs(x).sum())
                          for x in jax.tree.leaves(tree))
  assert norm(grads['level0']) == 0.0
  assert norm(grads['level1']['encoder']) > 0.0


def test_joint_levels_share_one_encoder_and_one_sound(batch):
  config = load(separate=False)
  levels = jukebox_vqvae.Levels(config)
  params = levels.init(jax.random.key(0))
  z = levels.encode(params, batch['audio'])
  assert z['level1'].shape == (8, 128, 4)
  assert levels.groups() == (('level1',), ('level1', 'level0'))
  whole = levels.decode(params, z)
  assert whole.keys() == {'level0'}
  grads = jax.grad(lambda p: (levels.decode(
      p, levels.encode(p, batch['audio']))['level0'] ** 2).sum())(params)
  for part in jax.tree.leaves(grads):
    assert float(jnp.abs(part).sum()) > 0.0


def test_evaluation_is_by_the_averaged_weights(config, batch, state):
  model = jukebox_vqvae.build(config)
  got = model.eval_step(state, batch, jax.random.key(0))
  broken = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
  same = model.eval_step(broken, batch, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, got, same)
  codec = jukebox_vqvae.codec(config)
  codes = codec.encode(state, batch)
  sound = codec.decode(state, {'level1': codes['level1']}, batch)
  want = Mean.of(distance.si_sdr(sound, batch['audio']), batch['mask'])
  np.testing.assert_allclose(got['level1/si_sdr'].compute(), want.compute(),
                             rtol=1e-5)


def test_silent_clips_have_no_decibels(config, state):
  model = jukebox_vqvae.build(config)
  batch = {'audio': jnp.zeros((2, config.model.samples)),
           'mask': jnp.ones(2)}
  out = model.eval_step(state, batch, jax.random.key(0))
  assert float(out['level0/convergence'].weight) == 0.0
  assert np.isfinite(float(out['level0/l2'].compute()))


@pytest.mark.parametrize('separate', [True, False])
def test_a_step_is_finite_with_silence(separate, config):
  config = load(separate=separate)
  model = jukebox_vqvae.build(config)
  batch = {'audio': jnp.zeros((8, config.model.samples)),
           'mask': jnp.ones(8)}
  state = model.init(jax.random.key(0), batch)
  step = jax.jit(model.train_step, static_argnums=3)
  for i in range(2):
    state, metrics = step(state.replace(step=jnp.int32(i)), batch,
                          jax.random.key(i), 0)
  assert all(np.isfinite(float(v)) for v in metrics.values())
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize('length', [1, 7, 1024, 2048, 5000, 9000])
def test_windows_give_the_codes_and_the_sound_of_one_pass(
    length, config, state):
  audio = np.asarray(0.3 * jax.random.normal(jax.random.key(2), (length,)))
  levels = jukebox_vqvae.Levels(config)
  padded = np.pad(audio, (0, -length % levels.hops[-1]))[None]
  want = jukebox_vqvae.encode(levels, state, padded)
  windows = list(jukebox_vqvae._windows(levels, config).of(length))
  assert len(windows) == 1 if length <= 2048 else len(windows) > 1
  got = jukebox_vqvae.encode_long(config, state, audio)
  for name in levels.names:
    np.testing.assert_array_equal(got[name], want[name][0])
    sound = np.concatenate(list(jukebox_vqvae.decode_long(
        config, state, {name: got[name]})))
    np.testing.assert_allclose(
        sound, jukebox_vqvae.decode(levels, state, {name: want[name]})[0],
        atol=1e-6)
  out = np.concatenate(list(jukebox_vqvae.reconstruct(
      config, state, audio, ('level1',))))
  assert out.shape == audio.shape


def test_windows_share_one_size_and_tile_the_sound(config):
  levels = jukebox_vqvae.Levels(config)
  for length in (2049, 4096, 10_000, 12_345):
    windows = list(jukebox_vqvae._windows(levels, config).of(length))
    assert {w.end - w.begin for w in windows} == {2048}
    assert [w.start for w in windows[1:]] == [w.stop for w in windows[:-1]]
    assert windows[0].start == 0 and windows[-1].stop >= length
    for w in windows:
      assert w.begin == 0 or w.start - w.begin >= levels.reach()
      assert w.stop == w.end or w.end - w.stop >= levels.reach()


def test_a_file_of_any_rate_goes_through_generate(config, state, tmp_path):
  path = tmp_path / 'song.wav'
  rng = np.random.default_rng(0)
  soundfile.write(path, 0.1 * rng.normal(size=(11025, 2)), 22050)
  batch = generate.prompt(jukebox_vqvae, config, 4, [
      f'audio={path}', 'level=1'])
  model = jukebox_vqvae.build(config)
  blocks = list(model.sample(state, batch, jax.random.key(0))['stream'])
  assert len(blocks) > 1
  assert sum(map(len, blocks)) == 8000
  assert np.abs(np.concatenate(blocks)).max() <= 1.0


@pytest.mark.parametrize('given, error', [
    ([], 'give --prompt=audio=FILE, or --from_eval'),
    (['audio=none.wav'], 'none.wav does not exist'),
    (['audio={short}'], 'has 5 samples at 16000 Hz, fewer than one hop, 8'),
    (['audio={nan}'], 'NaN'),
    (['audio={long}', 'level=2'], 'level=2: this codec has the levels 0 to 1')])
def test_bad_prompts_are_one_sentence(given, error, config, tmp_path):
  files = {'short': np.ones(5), 'long': np.ones(100),
           'nan': np.full(100, np.nan)}
  for name, audio in files.items():
    soundfile.write(tmp_path / f'{name}.wav', audio, 16000, 'FLOAT')
  given = [g.format(**{k: tmp_path / f'{k}.wav' for k in files})
           for g in given]
  with pytest.raises(errors.UserError, match=error):
    generate.prompt(jukebox_vqvae, config, 4, given)


def test_codes_of_another_codec_are_refused(config, state):
  decode = lambda codes: list(
      jukebox_vqvae.decode_long(config, state, codes))
  with pytest.raises(errors.UserError, match='codes from 3 to 16 do not fit a '
                     'codebook of 16'):
    decode({'level0': np.array([3, 16])})
  with pytest.raises(errors.UserError, match='whole numbers'):
    decode({'level0': np.array([0.5])})
  with pytest.raises(errors.UserError, match=r'shape \(1, 3\), not of one'):
    decode({'level0': np.zeros((1, 3), int)})
  with pytest.raises(errors.UserError, match='make no sound; give those'):
    decode({'level7': np.zeros(3, int)})
  with pytest.raises(errors.UserError, match='without samples'):
    jukebox_vqvae.encode_long(config, state, np.zeros(0))
  joint = load(separate=False)
  with pytest.raises(errors.UserError, match='different lengths'):
    list(jukebox_vqvae.decode_long(joint, state, {
        'level0': np.zeros(4, int), 'level1': np.zeros(4, int)}))


@pytest.mark.parametrize('changes, error', [
    ({'samples': 1001}, 'no multiple of the hop 8 .* use 1000'),
    ({'samples': 4}, 'use 8'),
    ({'widths': (8,)}, r'model.widths=\(8,\) is for 1 levels'),
    ({'downs': (), 'widths': (), 'depths': ()}, r'model.downs=\(\) .*each'),
    ({'downs': (2, 0)}, r'model.downs=\(2, 0\) does not work'),
    ({'depths': (2, 0)}, r'model.depths=\(2, 0\) does not work'),
    ({'dilation_growth': 0}, 'dilation_growth=0 .*1 or more'),
    ({'dilation_cycle': -1}, 'dilation_cycle=-1 .*0 or more'),
    ({'warmup': 0}, 'model.warmup=0 is not above 0'),
    ({'bandwidth_l2': 0.0}, 'model.bandwidth_l2=0.0 is not above 0'),
    ({'ema_decay': 1.0}, 'not in .0, 1.'),
    ({'window': 64}, 'model.window=64 has to be a multiple'),
    ({'codebook_init': 'zeros'}, "init='zeros' is not one of"),
    ({'resolutions': ((256, 300, 240),)}, 'hop <= win_length <= n_fft')])
def test_bad_settings_are_one_sentence(changes, error):
  with pytest.raises(errors.UserError, match=error):
    jukebox_vqvae.build(load(**changes))


def test_released_weights_are_of_separate_levels():
  with pytest.raises(errors.UserError, match='separate=False has no released'):
    jukebox_vqvae.official(load(separate=False))


def test_data_of_another_rate_is_refused(config):
  example = {'audio': np.zeros(4000, np.int16), 'sample_rate': 22050}
  with pytest.raises(errors.UserError, match='is at 22050 Hz; prepare it at'):
    jukebox_vqvae.preprocess(config)(example, np.random.default_rng(0))


def test_evaluation_is_of_windows_that_follow_each_other(config):
  audio = np.arange(2500, dtype=np.float32) / 2500
  rows = lambda n: [r['audio'] for r in jukebox_vqvae.segments(config)(
      {'audio': audio[:n]})]
  np.testing.assert_array_equal(
      rows(2500), [audio[:1024], audio[1024:2048]])
  np.testing.assert_array_equal(
      rows(1600), [audio[:1024], audio[576:1600]])
  short, = jukebox_vqvae.segments(config)({'audio': audio[:10]})
  np.testing.assert_array_equal(short['audio'][10:], 0.0)
  whole, = jukebox_vqvae.segments(config)({'audio': audio[:1024]})
  np.testing.assert_array_equal(whole['audio'], audio[:1024])


def recordings(*seconds):
  """Sounds of 16 Hz in chunks of ten seconds; samples count from 1."""
  records = []
  for name, length in enumerate(16 * s for s in seconds):
    audio = np.arange(1, length + 1, dtype=np.float32)
    starts = [160 * n for n in range(max(1, length // 160))]
    ends = [*starts[1:], length]
    records += [{'id': name, 'chunk': n, 'offset': s, 'audio': audio[s:e]}
                for n, (s, e) in enumerate(zip(starts, ends, strict=True))]
  return chunks.Recordings(records)


@pytest.mark.parametrize('seconds, begins', [
    (39, [[0], [13], [26]]),  # In seconds, of each chunk.
    (57, [[0], [13], [26], [39], []]),  # 5 s are left, less than half.
    # 8 s are left, and the window goes 2 s back, to where its chunk begins.
    (60, [[0], [13], [26], [39], [], [50]]), (8, [[0]]), (19, [[0]]),
    # 11 s are left of the last chunk's 17.
    (37, [[0], [13], [24]])])
def test_windows_longer_than_chunks_follow_each_other_across_them(
    seconds, begins):
  """Of 13 s. The next recording is not read."""
  config = load(samples=13 * 16)
  config.data.sample_rate = 16
  source, fn = recordings(seconds, 26), jukebox_vqvae.segments(config)
  for i, starts in enumerate(begins):
    rows = [r['audio'] for r in fn(source[i])]
    assert len(rows) == len(starts)
    for row, start in zip(rows, starts, strict=True):
      whole = np.arange(16 * start, 16 * (start + 13)) + 1
      np.testing.assert_array_equal(row, np.where(
          whole <= 16 * seconds, whole, 0))
  after = [len(fn(source[i])) for i in range(len(begins), len(source))]
  assert after == [1, 1]
  # A stored chunk by itself knows of no other.
  alone = {k: v for k, v in source[0].items() if k != 'following'}
  row, = fn(alone)
  assert np.count_nonzero(row['audio']) == min(len(alone['audio']), 13 * 16)


def test_integers_of_16_bits_become_samples(config):
  example = {'audio': np.full(1024, 16384, np.int16), 'sample_rate': 16000}
  row, = jukebox_vqvae.segments(config)(example)
  assert row['audio'].dtype == np.float32
  np.testing.assert_array_equal(row['audio'], 0.5)


def test_measured_bandwidths_are_the_variance_and_the_mean_norm(config):
  rng = np.random.default_rng(0)
  clips = [rng.normal(0.1, s, 4096).astype(np.float32) for s in (0.1, 0.3)]
  got = jukebox_vqvae.measure(config, clips)
  assert got['bandwidth_l2'] == pytest.approx(
      np.concatenate(clips).astype(np.float64).var(), rel=1e-5)
  louder = jukebox_vqvae.measure(config, [2 * x for x in clips])
  assert louder['bandwidth_spectral'] == pytest.approx(
      2 * got['bandwidth_spectral'], rel=1e-5)
  with pytest.raises(errors.UserError, match='all are silent'):
    jukebox_vqvae.measure(config, [np.zeros(4096)])


@pytest.mark.parametrize('name', sorted(
    config_lib.module(NAME).ablations()))
def test_every_ablation_builds_at_paper_size(name):
  config = load('paper')
  config.update_from_flattened_dict(config_lib.module(NAME).ablations()[name])
  model = jukebox_vqvae.build(config)
  batch = {'audio': jax.ShapeDtypeStruct((4, 393_216), jnp.float32),
           'mask': jax.ShapeDtypeStruct((4,), jnp.float32)}
  state = jax.eval_shape(model.init, jax.random.key(0), batch)
  after, _ = jax.eval_shape(
      lambda s, b, k: model.train_step(s, b, k, 0), state, batch,
      jax.random.key(0))
  assert jax.tree.structure(after) == jax.tree.structure(state)
