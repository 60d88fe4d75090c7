import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import toy_codec

from common import config as config_lib
from common import errors, generate, runs, sharding, trainer
from common.data import builders, codes
from vqvae_jax import code_prior, pixelsnail

SHAPE, UPPER, SIZE = (4, 6), (2, 3), 11
NAMES = {'top': UPPER, 'bottom': SHAPE}


def small(size='tiny', **changes):
  """A prior over (4, 6) codes of 11, or over (2, 3) that condition them."""
  config = config_lib.load(f'code_prior_nsynth:{size}')
  bottom = config.model.codes == 'bottom'
  config.update_from_flattened_dict({
      'model.shape': SHAPE if bottom or not changes.pop('upper', False)
      else UPPER, 'model.upper_shape': UPPER, 'model.size': SIZE,
      'model.upper_size': SIZE, 'model.blocks': 2, 'model.output_layers': 1})
  config.update_from_flattened_dict(changes)
  return config


def rows(config, count=3, seed=0):
  rng = np.random.default_rng(seed)
  m = config.model
  batch = {'mask': np.ones(count, np.float32),
           'index': np.arange(count, dtype=np.int32),
           'pitch': rng.integers(128, size=count).astype(np.int32),
           'instrument_family': rng.integers(11, size=count).astype(np.int32),
           m.codes: rng.integers(
               m.size, size=(count, *m.shape), dtype=np.int32)}
  if m.condition:
    batch[m.condition] = rng.integers(
        m.upper_size, size=(count, *m.upper_shape), dtype=np.int32)
  return batch


def build(config):
  """The model, compiled: op by op a network of many layers is slow."""
  _, model = runs.build(config)
  return dataclasses.replace(
      model, init=jax.jit(model.init), eval_step=jax.jit(model.eval_step),
      train_step=jax.jit(model.train_step, static_argnums=3))


def network(config):
  """(PixelSNAIL, Condition, params), with weights large enough to matter."""
  m = config.model
  net = pixelsnail.PixelSNAIL(
      tuple(m.shape), m.size, m.channels, m.kernel, m.blocks, m.layers,
      m.width, m.attention, m.heads, m.output_layers, m.activation, 0.0)
  params = build(config).init(jax.random.key(0), {}).params['model']
  return net, jax.tree.map(lambda x: 1.5 * x, params)


@pytest.mark.parametrize('changes', [
    {}, {'model.attention': False}, {'model.kernel': 5},
    {'model.activation': 'elu', 'model.layers': 0}], ids=str)
def test_logits_depend_on_all_codes_before_and_on_none_after(changes):
  config = small(**changes)
  net, params = network(config)
  batch = rows(config, 1)
  x, told = batch['top'], jnp.ones((1, 1, 1, config.model.channels))
  run = jax.jit(lambda x: net.apply({'params': params['net']}, x, told))
  positions = math.prod(SHAPE)
  same = np.repeat(x, positions, 0)
  changed = same.reshape(positions, positions).copy()
  np.fill_diagonal(changed, (np.diag(changed) + 1) % SIZE)
  moved = np.abs(run(changed.reshape(same.shape)) - run(same)).max(-1)
  moved = moved.reshape(positions, positions) > 0  # [code changed, logits]
  assert not np.tril(moved).any()
  # The one just before, in the frame or the frame above, is always seen.
  for i in range(positions):
    t, f = divmod(i, SHAPE[1])
    for there in ((t, f + 1), (t + 1, f)):
      if there[0] < SHAPE[0] and there[1] < SHAPE[1]:
        assert moved[i, there[0] * SHAPE[1] + there[1]], (i, there)
    # The key after a code knows it, and is seen from the second on. In its
    # last bin a code has no such neighbour.
    if config.model.attention and f + 1 < SHAPE[1]:
      assert moved[i, i + 2:].all(), i


@pytest.mark.parametrize('changes', [
    {}, {'model.attention': False, 'model.kernel': 5},
    {'model.activation': 'elu'}, {'dtype': 'bfloat16'}], ids=str)
@pytest.mark.parametrize('size', ['tiny', 'tiny_bottom'])
def test_with_a_cache_the_logits_are_those_of_all_codes_at_once(size, changes):
  config = small(size, **changes)
  m, batch = config.model, rows(config)
  net, params = network(config)
  net = net.clone(dtype=jnp.dtype(config.dtype))
  told = jax.random.normal(jax.random.key(1), (
      3, *(SHAPE if m.condition else (1, 1)), m.condition_channels))
  x = batch[m.codes]
  whole = jax.jit(net.apply)({'params': params['net']}, x, told)

  @jax.jit
  def step(cache, code, number):
    out, new = net.apply(
        {'params': params['net'], **cache}, code[:, None, None], told,
        at=pixelsnail.Position(number, SHAPE), mutable='cache')
    return new, out[:, 0, 0]

  flat = x.reshape(3, -1)
  sizes, _ = jax.eval_shape(step, {}, flat[:, 0], jnp.int32(0))
  cache = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sizes)
  code = np.full(3, code_prior.NOTHING)
  # A cache holds what was computed: rounded in bfloat16 at other places.
  atol = 2e-6 if config.dtype == 'float32' else 0.1
  for i in range(flat.shape[1]):
    cache, logits = step(cache, code, jnp.int32(i))
    np.testing.assert_allclose(
        logits, whole.reshape(3, -1, SIZE)[:, i], atol=atol, err_msg=str(i))
    code = flat[:, i]


def test_greedy_samples_are_the_best_codes_of_the_uncached_network():
  config = small(**{'model.temperature': 0.0})
  model = build(config)
  batch = rows(config)
  state = model.init(jax.random.key(0), batch)
  drawn = model.sample(state, batch, jax.random.key(1))['codes']
  assert drawn.shape == (3, *SHAPE) and drawn.dtype == jnp.int32
  # Each is what the network, given it, finds the best: accuracy 1.
  metrics = model.eval_step(state, {**batch, 'top': drawn}, jax.random.key(2))
  assert metrics['accuracy'].compute() == 1.0


def test_samples_follow_the_distribution_of_the_network():
  config = small(**{'model.shape': (1, 2), 'model.size': 3,
                    'model.kernel': 3, 'model.classes.pitch': 0,
                    'model.classes.instrument_family': 0})
  model = build(config)
  state = model.init(jax.random.key(0), {})
  state = state.replace(params=jax.tree.map(lambda x: 3 * x, state.params))
  count = 20000
  drawn = model.sample(state, {'index': np.arange(count)},
                       jax.random.key(1))['codes'].reshape(count, 2)
  found = np.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9) / count
  pairs = np.stack(np.divmod(np.arange(9), 3), 1).astype(np.int32)
  nll = [float(model.eval_step(
      state, {'top': p.reshape(1, 1, 2), 'mask': np.ones(1)},
      None)['nll'].total) for p in pairs]  # Sum of the two codes' nats.
  want = np.exp(-np.array(nll))
  assert abs(want.sum() - 1) < 1e-5 and want.max() > 2 * want.min()
  np.testing.assert_allclose(found, want, atol=4 * np.sqrt(.25 / count))


def test_an_untrained_prior_knows_nothing():
  for size in ('tiny', 'tiny_bottom'):
    config = config_lib.load(f'code_prior_nsynth:{size}')
    model = build(config)
    batch = rows(config, 4)
    state = model.init(jax.random.key(0), batch)
    metrics = model.eval_step(state, batch, jax.random.key(1))
    np.testing.assert_allclose(
        metrics['nll'].compute(), np.log(512), atol=0.15)
    np.testing.assert_allclose(
        metrics['bits_per_code'].compute(),
        metrics['nll'].compute() / np.log(2), rtol=1e-6)


@pytest.mark.parametrize('size', ['tiny', 'tiny_bottom'])
def test_constant_codes_are_learnt(size):
  config = small(size, **{'model.learning_rate': 1e-2, 'model.dropout': 0.0})
  model = build(config)
  batch = rows(config)
  batch[config.model.codes][:] = 7
  state = model.init(jax.random.key(0), batch)
  for i in range(60):
    state, metrics = model.train_step(state, batch, jax.random.key(i), 0)
  assert metrics['loss/nll'] < 0.02 and metrics['train/accuracy'] == 1.0
  drawn = model.sample(state, batch, jax.random.key(9))['codes']
  assert (drawn == 7).mean() > 0.9


def test_classes_tell_two_halves_of_the_data_apart():
  config = small(**{'model.learning_rate': 1e-2, 'model.dropout': 0.0,
                    'model.class_dropout': 0.3})
  model = build(config)
  batch = rows(config, 8)
  batch['pitch'] = np.int32([60, 72] * 4)
  batch['top'] = np.broadcast_to(
      np.int32([2, 5] * 4)[:, None, None], (8, *SHAPE))
  state = model.init(jax.random.key(0), batch)
  for i in range(80):
    state, _ = model.train_step(state, batch, jax.random.key(i), 0)
  key = jax.random.key(1)
  nll = lambda **changes: float(model.eval_step(
      state, {**batch, **changes}, key)['nll'].compute())
  assert nll() < 0.05
  assert nll(pitch=batch['pitch'][::-1].copy()) > 0.1
  # Left out, the first code is a coin and the rest follows it.
  nothing = np.full(8, code_prior.NOTHING, np.int32)
  left_out = nll(pitch=nothing, instrument_family=nothing)
  np.testing.assert_allclose(
      left_out, np.log(2) / math.prod(SHAPE), atol=0.03)
  for pitch, code in ((60, 2), (72, 5)):
    prompt = code_prior.prompt(config, 16, pitch=pitch)
    drawn = model.sample(state, prompt, key)['codes']
    assert (drawn == code).mean() > 0.9


@pytest.mark.parametrize('layers', [0, 1])
def test_a_top_code_moves_only_what_its_convolutions_reach(layers):
  config = small('tiny_bottom', **{
      'model.shape': (12, 16), 'model.upper_shape': (6, 8)})
  m, batch = config.model, rows(config, 1)
  condition = pixelsnail.Condition(
      m.condition_channels, 3, layers, m.upper_size, (2, 2), {}, m.activation,
      0.0)
  variables = condition.init(jax.random.key(1), batch['top'], {})
  run = jax.jit(lambda top: condition.apply(variables, top, {}))
  before = run(batch['top'])
  assert before.shape == (1, 12, 16, 8)
  reach = 1 + 2 * layers  # Of 3 x 3 convolutions.
  for t, f in ((0, 0), (2, 4), (5, 7)):
    top = batch['top'].copy()
    top[0, t, f] = (top[0, t, f] + 1) % SIZE
    moved = np.abs(run(top) - before).max((0, -1)) > 0
    want = np.zeros((12, 16), bool)
    want[2 * max(0, t - reach):2 * (t + reach + 1),
         2 * max(0, f - reach):2 * (f + reach + 1)] = True
    np.testing.assert_array_equal(moved, want)


def test_logits_move_with_the_condition_at_their_place_and_before():
  config = small('tiny_bottom')
  net, params = network(config)
  m, batch = config.model, rows(config, 1)
  told = np.zeros((1, *SHAPE, m.condition_channels), np.float32)
  run = jax.jit(lambda told: net.apply(
      {'params': params['net']}, batch['bottom'], told))
  before = run(told)
  for t, f in ((0, 0), (1, 4), (3, 5)):
    changed = told.copy()
    changed[0, t, f] = 1.0
    moved = np.abs(run(changed) - before).max((0, -1)).reshape(-1) > 0
    i = t * SHAPE[1] + f
    assert moved[i] and not moved[:i].any()


def test_the_bottom_is_told_the_top_at_its_own_place():
  """Bottom codes that copy the top one above them are learnt to 0."""
  config = small('tiny_bottom', **{
      'model.learning_rate': 1e-2, 'model.dropout': 0.0,
      'model.condition_layers': 0, 'model.attention': False})
  model = build(config)
  copied = lambda batch: {**batch, 'bottom': np.repeat(
      np.repeat(batch['top'], 2, 1), 2, 2)}
  state = model.init(jax.random.key(0), {})
  for i in range(250):
    state, _ = model.train_step(
        state, copied(rows(config, 16, i)), jax.random.key(i), 0)
  fresh = copied(rows(config, 16, 10**6))
  metrics = model.eval_step(state, fresh, jax.random.key(1))
  # A neighbour's code would leave ln 11 = 2.4 nats for half of them.
  assert metrics['nll'].compute() < 0.25
  drawn = model.sample(state, {k: fresh[k] for k in ('top', 'index')},
                       jax.random.key(2))['codes']
  assert (drawn == fresh['bottom']).mean() > 0.9


def test_codes_that_are_given_stay_and_the_rest_is_drawn():
  config = small()
  model = build(config)
  batch = rows(config)
  state = model.init(jax.random.key(0), batch)
  given = batch.pop('top')
  given[:, 2] = code_prior.NOTHING
  drawn = model.sample(state, {**batch, 'given_top': given},
                       jax.random.key(1))['codes']
  np.testing.assert_array_equal(drawn[:, [0, 1, 3]], given[:, [0, 1, 3]])
  assert (drawn[:, 2] >= 0).all() and len(np.unique(drawn[:, 2])) > 3


def test_frames_are_free_that_the_span_touches():
  codes_ = jnp.arange(8).reshape(1, 8, 1)  # Of 4 s: half a second each.
  free = lambda *span: np.flatnonzero(
      code_prior._keep(codes_, jnp.float32([span]), 4.0)[0, :, 0] < 0).tolist()
  assert free(0.0, 4.0) == list(range(8))
  assert free(1.0, 2.0) == [2, 3]
  assert free(0.9, 2.1) == [1, 2, 3, 4]
  assert free(3.9, 9.0) == [7]


def parameters(m, classes=()):
  """By hand: each convolution has a kernel, a scale and a bias per output."""
  conv = lambda i, o, area=1, bias=True: i * o * area + o + o * bias
  e = 2 if m.activation == 'concat_elu' else 1
  c, w, k = m.channels, m.width, m.kernel
  gated = lambda i, w, area, told=0, beside=0: (
      conv(e * i, w, area) + conv(e * w, 2 * i, area)
      + (conv(told, 2 * i, bias=False) if told else 0)
      + (conv(e * beside, w) if beside else 0))
  told = m.condition_channels
  block = m.layers * gated(c, w, k * k, told)
  if m.attention:
    a = c // 2
    block += gated(2 * c + 2, c, 1) + gated(c + 2, c, 1)
    block += conv(c + 2, a) + 2 * conv(2 * c + 2, a)
    block += gated(c, c, 1, beside=a)
  else:
    block += conv(c + 2, c)
  half = k // 2
  net = (conv(m.size, c, k * half) + conv(m.size, c, (half + 1) * half)
         + m.blocks * block + m.output_layers * gated(c, w, 1)
         + conv(e * c, m.size))
  condition = sum(classes) * told
  if m.condition:
    area = m.condition_kernel**2
    condition += conv(m.upper_size, told, area)
    condition += m.condition_layers * gated(told, told, area)
  return {'net': net, 'condition': condition}


@pytest.mark.parametrize('size', ['paper', 'paper_bottom', 'port',
                                  'port_bottom', 'tiny', 'tiny_bottom'])
def test_the_number_of_parameters_is_that_of_the_layers(size):
  config = config_lib.load(f'code_prior_nsynth:{size}')
  model = build(config)
  state = jax.eval_shape(model.init, jax.random.key(0), {})
  assert {k: sum(x.size for x in jax.tree.leaves(tree))
          for k, tree in state.params['model'].items()} == parameters(
              config.model, (128, 11))


def test_the_port_has_its_parameters():
  """Of the released code with its defaults, counted from its layers."""
  config = config_lib.load('code_prior_nsynth:port')
  config.model.classes.pitch = config.model.classes.instrument_family = 0
  m = config.model
  state = jax.eval_shape(runs.build(config)[1].init, jax.random.key(0), {})
  assert state.params['model'].keys() == {'net'}
  c = 256
  # 4 blocks of 4 residual ones of two 5 x 5 convolutions, 256 to 256 and 512.
  layer = 25 * c * c + 2 * c + 25 * c * 2 * c + 4 * c
  pair = lambda i: (i * c + 2 * c) + (c * 2 * i + 4 * i)  # Gated, 1 x 1.
  attention = ((c + 2) * 128 + 2 * ((2 * c + 2) * 128) + 6 * 128
               + pair(2 * c + 2) + pair(c + 2)
               + pair(c) + 128 * c + 2 * c)
  first = 512 * c * 10 + 2 * c + 512 * c * 6 + 2 * c
  last = c * 512 + 2 * 512
  assert sum(x.size for x in jax.tree.leaves(state.params)) == (
      first + 4 * (4 * layer + attention) + last)
  assert (m.channels, m.layers, m.blocks) == (c, 4, 4)


# ---------------------------------------------------------------- upstream


def toy_prior(name, workdir='', top='', **changes):
  config = config_lib.load('code_prior_nsynth:tiny_bottom' if name == 'bottom'
                           else 'code_prior_nsynth:tiny')
  config.update_from_flattened_dict({
      'model.shape': toy_codec.SHAPES[name],
      'model.upper_shape': toy_codec.SHAPES['top'],
      'model.size': 16, 'model.upper_size': 16, 'data.name': 'codes/toy',
      'upstream.codec': str(workdir), 'upstream.top': str(top), 'steps': 2,
      'num_samples': 1, **changes})
  return config


@pytest.fixture(scope='module')
def pipeline_(data_dir, tmp_path_factory):
  """Folder with a codec, its codes, and priors over both levels."""
  folder = tmp_path_factory.mktemp('priors')
  (folder / 'synthetic_notes').symlink_to(f'{data_dir}/synthetic_notes')
  trainer.fit(toy_codec.get_config(), folder / 'codec', folder)
  codes.write(runs.load(folder / 'codec'), folder / 'codec', 'codes/toy',
              folder)
  for name in ('top', 'bottom'):
    trainer.fit(toy_prior(name, folder / 'codec',
                          folder / 'top' if name == 'bottom' else ''),
                folder / name, folder)
  return folder


def sampled(run, **prompt):
  given = [f'{k}={v}' for k, v in prompt.items()]
  batch = generate.prompt(run.module, run.config, 3, given)
  batch = sharding.place(batch, sharding.replicated(run.mesh))
  return sharding.fetch(run.model.sample(run.state, batch, jax.random.key(0)))


def test_from_nothing_to_sound(pipeline_):
  """Top codes, bottom codes given them, and the codec makes them audible."""
  run = runs.load(pipeline_ / 'bottom')
  out = sampled(run)
  assert out['audio'].shape == (3, 32) and out['codes'].shape == (3, 4, 8)
  gain = run.state.vars['codec']['params']['gain']
  want = (2 * (out['codes'] + 0.5) / 16 - 1) / gain
  np.testing.assert_allclose(
      out['audio'], want.reshape(3, 32).clip(-1, 1), rtol=1e-5)
  assert (pipeline_ / 'bottom/samples/000002_00.wav').exists()
  assert not np.array_equal(out['codes'][0], out['codes'][1])


def test_the_codec_in_the_state_is_the_upstream_one_and_stays(pipeline_):
  codec = runs.load(pipeline_ / 'codec').state
  for name in ('top', 'bottom'):
    state = runs.load(pipeline_ / name).state
    np.testing.assert_array_equal(
        state.vars['codec']['params']['gain'], codec.params['gain'])
    assert state.params.keys() == {'model'}


def test_top_codes_alone_are_no_sound(pipeline_):
  assert sampled(runs.load(pipeline_ / 'top')).keys() == {'codes'}


def test_a_part_of_a_sound_is_made_anew(pipeline_):
  run = runs.load(pipeline_ / 'bottom')
  gain = float(run.state.vars['codec']['params']['gain'])
  wave = np.linspace(-0.8, 0.8, 32, dtype=np.float32)
  soundfile.write(pipeline_ / 'ramp.wav', wave, 16000, 'FLOAT')
  codec = toy_codec.codec(toy_codec.get_config())
  kept = codec.encode(run.state.replace(params={'gain': gain}),
                      {'audio': wave[None]})['bottom'][0]
  second = 16 / 16000  # The second half of the two milliseconds.
  out = sampled(run, audio=pipeline_ / 'ramp.wav', start_s=second)
  for codes_ in out['codes']:
    np.testing.assert_array_equal(codes_[:2], kept[:2])
    assert not np.array_equal(codes_[2:], kept[2:])
  out = sampled(run, audio=pipeline_ / 'ramp.wav', end_s=second)
  for codes_ in out['codes']:
    np.testing.assert_array_equal(codes_[2:], kept[2:])
    assert not np.array_equal(codes_[:2], kept[:2])


def test_wrong_data_is_one_sentence(pipeline_, tmp_path):
  example = builders.open_split('codes/toy', 'train', pipeline_)[0]
  fit = lambda config: code_prior.preprocess(config)(example, None)
  assert fit(toy_prior('bottom', pipeline_ / 'codec')).keys() == {
      'top', 'bottom', 'pitch', 'instrument_family'}
  for config, message in (
      (toy_prior('top', **{'model.size': 5}), 'do not fit a codebook of 5'),
      (toy_prior('top', **{'model.shape': (4, 8)}), r'of shape \(2, 4\), not'),
      (toy_prior('top', **{'model.codes': 'tap'}), "did you mean 'top'"),
      (toy_prior('top', **{'model.classes.pitch': 3}), 'is not below'),
      (toy_prior('top', **{'model.classes': {'tempo': 3}}),
       'does not say the tempo')):
    with pytest.raises(errors.UserError, match=message):
      fit(config)
  config = toy_codec.get_config()
  config.seed = 1
  trainer.fit(config, tmp_path, pipeline_)
  with pytest.raises(errors.UserError, match='codes of another codec'):
    fit(toy_prior('top', tmp_path))


def test_the_state_of_an_upstream_run_is_whole_on_every_device(
    pipeline_, monkeypatch):
  """Also where fsdp split it in training; its optimiser stays behind."""
  split = config_lib.read(pipeline_ / 'top/config.json')
  split.mesh.fsdp = 2
  monkeypatch.setattr(config_lib, 'read', lambda path: split)
  monkeypatch.setattr(sharding, 'SMALL', 1)
  whole = lambda tree: [x.sharding.is_fully_replicated
                        for x in jax.tree.leaves(tree)]
  assert not all(whole(runs.load(pipeline_ / 'top').state.params))
  code_prior._open.cache_clear()
  run = code_prior._open(str(pipeline_ / 'top'))
  code_prior._open.cache_clear()
  assert all(whole(run.state)) and not jax.tree.leaves(run.state.opt)


def test_both_priors_must_be_of_one_codec(pipeline_, tmp_path):
  config = toy_codec.get_config()
  config.seed = 2
  trainer.fit(config, tmp_path, pipeline_)
  model = build(toy_prior('bottom', tmp_path, pipeline_ / 'top'))
  state = model.init(jax.random.key(0), {})
  batch = code_prior.prompt(toy_prior('bottom', tmp_path), 1)
  with pytest.raises(errors.UserError, match='of another codec'):
    model.sample(state, batch, jax.random.key(0))


def test_a_class_that_the_codec_is_told_must_be_given(pipeline_, monkeypatch):
  codec = pipeline_ / 'codec'
  told = config_lib.read(codec / 'config.json')
  told.model.conditions = ('pitch',)
  real = config_lib.read
  monkeypatch.setattr(config_lib, 'read', lambda path: (
      told if path == codec / 'config.json' else real(path)))
  code_prior._open.cache_clear()
  code_prior._upstream.cache_clear()
  with pytest.raises(errors.UserError, match='is told the pitch'):
    runs.build(toy_prior('top', codec, **{'model.classes.pitch': 0}))
  with pytest.raises(errors.UserError, match='pitch=-1 does not work'):
    code_prior.prompt(toy_prior('top', codec), 1)
  assert code_prior.prompt(toy_prior('top', codec), 1, pitch=3)['pitch'] == 3
  code_prior._open.cache_clear()
  code_prior._upstream.cache_clear()


def test_an_upstream_that_does_not_fit_is_one_sentence(pipeline_):
  codec = pipeline_ / 'codec'
  for config, message in (
      (toy_prior('top', '/nowhere/run'), "'/nowhere/run' is not the workdir"),
      (toy_prior('top', codec, **{'model.size': 15}), '16, the config has'),
      (toy_prior('bottom', codec, **{'model.upper_shape': (4, 4)}),
       'the config has'),
      (toy_prior('top', codec, **{'model.codes': 'middle'}),
       "no codes 'middle'"),
      (toy_prior('top', pipeline_ / 'top'), 'has no codes; give'),
      (toy_prior('top', top=codec), 'goes with model.condition')):
    with pytest.raises(errors.UserError, match=message):
      runs.build(config)
  for top, message in (('', 'upstream.top=WORKDIR'),
                       (codec, "is no prior over 16 'top' codes")):
    config = toy_prior('bottom', codec, top)
    model = build(config)
    state = model.init(jax.random.key(0), {})
    with pytest.raises(errors.UserError, match=message):
      model.sample(state, code_prior.prompt(config, 1), jax.random.key(0))


@pytest.mark.parametrize('changes, message', [
    ({'model.kernel': 4}, 'kernel=4 is even'),
    ({'model.kernel': 1}, 'kernel=1 does not work; use 3 or more'),
    ({'model.size': 1}, 'size=1 does not work; use 2 or more'),
    ({'model.heads': 0}, 'heads=0 does not work; use 1 or more'),
    ({'model.heads': 3}, 'does not split into model.heads=3'),
    ({'model.activation': 'relu'}, "'relu' is not one of"),
    ({'model.dropout': 1.0}, r'not in \[0, 1\)'),
    ({'model.shape': (2048,)}, 'is not .frames, bins.'),
    ({'model.codes': ''}, 'name the codes'),
    ({'model.condition': 'top'}, 'name the codes'),
])
def test_wrong_settings_are_one_sentence(changes, message):
  with pytest.raises(errors.UserError, match=message):
    runs.build(small(**changes))


def test_a_map_must_be_a_multiple_of_the_one_above():
  with pytest.raises(errors.UserError, match='not a multiple'):
    runs.build(small('tiny_bottom', **{'model.upper_shape': (3, 3)}))


@pytest.mark.parametrize('prompt, message', [
    ({'temperature': -1.0}, 'temperature=-1.0'), ({'top_k': 12}, 'top_k=12'),
    ({'temperature': np.inf}, 'temperature=inf'),
    ({'top_p': 0.0}, 'top_p=0.0'), ({'pitch': 128}, '-1 to 127'),
    ({'instrument_family': 11}, '-1 to 10'), ({'start_s': 1.0}, 'audio=FILE'),
    ({'audio': 'x.wav'}, 'has no codec')])
def test_wrong_prompts_are_one_sentence(prompt, message):
  with pytest.raises(errors.UserError, match=message):
    code_prior.prompt(small(), 1, **prompt)


def test_a_class_that_was_not_learnt_is_refused():
  config = small(**{'model.classes.pitch': 0})
  with pytest.raises(errors.UserError, match='trained without it'):
    code_prior.prompt(config, 1, pitch=60)
  assert 'pitch' not in code_prior.prompt(config, 1)


def test_a_state_is_of_the_codec_without_its_optimiser(pipeline_):
  spec = json.loads((pipeline_ / 'top/batch.json').read_text())
  assert set(spec) == {'top', 'pitch', 'instrument_family', 'mask'}
  state = runs.load(pipeline_ / 'top').state
  assert state.vars['codec'].keys() == {'step', 'params', 'vars', 'ema'}
