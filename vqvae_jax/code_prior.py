"""Priors over maps of codes: PixelSNAIL, as VQ-VAE-2 has them.

Chen et al. 2018 (arXiv 1712.09763) for the network (vqvae_jax/pixelsnail.py);
Razavi et al. 2019, table of the appendix, for its sizes: a prior over the top
codes, and one over the bottom codes given the top ones. Codes are drawn one
after the other, time frame by time frame, from the lowest frequency up.

The paper's priors know the class; those of the PyTorch port that most people
use (size 'port' of the config) do not. Here pitch and instrument family, if the
config says so, are embedded and added to the condition of each block. In a
tenth of the examples they are left out, so that sounds can be drawn without
them.

A prior reads what common.encode has written. With `config.upstream.codec` it
carries the codec's weights in its own state and samples are sounds, where it
knows all the codes of one: a prior over 'bottom' draws 'top' by the prior in
`config.upstream.top`.

Shapes: B batch, T time frames, F frequencies, K codes, C channels.
"""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import audio as audio_lib
from common import config as config_lib
from common import errors, runs, sampling
from common.data import codes as codes_lib
from common.model import Mean, Model, TrainState, row_keys
from vqvae_jax import pixelsnail

NOTHING = -1  # A code that is free, or a class that is not said.


# ---------------------------------------------------------------- model


def build(config) -> Model:
  m = config.model
  classes = _classes(config)
  upstream = _check(config)
  shape, dtype = tuple(m.shape), jnp.dtype(config.dtype)
  net = pixelsnail.PixelSNAIL(
      shape, m.size, m.channels, m.kernel, m.blocks, m.layers, m.width,
      m.attention, m.heads, m.output_layers, m.activation, m.dropout, dtype)
  condition = pixelsnail.Condition(
      m.condition_channels, m.condition_kernel, m.condition_layers,
      m.upper_size if m.condition else 0,
      tuple(a // b for a, b in zip(shape, m.upper_shape, strict=True))
      if m.condition else (1, 1), classes, m.activation, m.dropout, dtype)
  conditioned = bool(m.condition or classes)
  tx = optax.adam(m.learning_rate)

  def told(params, batch, key=None):
    """The condition's map, None without one; with a key there is dropout."""
    if not conditioned:
      return None
    labels = {k: batch.get(k, jnp.full(1, NOTHING)) for k in classes}
    rngs = None
    if key is not None:
      key, key_drop = jax.random.split(key)
      rngs = {'dropout': key}
      # All classes of a row at once.
      drop = jax.random.bernoulli(
          key_drop, m.class_dropout, batch[m.codes].shape[:1])
      labels = {k: jnp.where(drop, NOTHING, x) for k, x in labels.items()}
    return condition.apply({'params': params['condition']},
                           batch.get(m.condition), labels,
                           train=key is not None, rngs=rngs)

  def logits(params, batch, key=None):  # [B, T, F, K]
    key, key_condition = (None, None) if key is None else jax.random.split(key)
    return net.apply(
        {'params': params['net']}, batch[m.codes],
        told(params, batch, key_condition), train=key is not None,
        rngs=None if key is None else {'dropout': key})

  def score(params, batch, key=None):  # Both [B, T, F].
    guess = logits(params, batch, key)
    nll = optax.softmax_cross_entropy_with_integer_labels(
        guess, batch[m.codes])
    return nll, guess.argmax(-1) == batch[m.codes]

  def init(key, batch):
    del batch  # The config has all the shapes.
    key, key_condition = jax.random.split(key)
    params, map_ = {}, None
    if conditioned:
      labels = {k: jnp.zeros(1, jnp.int32) for k in classes}
      upper = (jnp.zeros((1, *m.upper_shape), jnp.int32) if m.condition
               else None)
      map_, variables = condition.init_with_output(
          key_condition, upper, labels)
      params['condition'] = variables['params']
    params['net'] = net.init(key, jnp.zeros((1, *shape), jnp.int32),
                             map_)['params']
    return TrainState.create(
        {'model': params}, {'model': tx.init(params)},
        vars={'codec': jax.tree.map(jnp.asarray, upstream.state)}
        if upstream else {})

  def train_step(state, batch, key, stage):
    del stage  # One stage only.

    def loss_fn(params):
      nll, right = score(params, batch, key)
      return nll.mean(), right.mean()

    params = state.params['model']
    (loss, right), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt = tx.update(grads, state.opt['model'], params)
    state = state.replace(
        params={'model': optax.apply_updates(params, updates)},
        opt={'model': opt})
    return state, {'loss/nll': loss, 'train/accuracy': right,
                   'train/grad_norm': optax.tree.norm(grads)}

  def eval_step(state, batch, key):
    """Nats and bits per code; log2 K bits are what no prior would need."""
    del key  # Nothing is random.
    nll, right = score(state.params['model'], batch)
    mean = lambda x: Mean.of(x.astype(jnp.float32), batch['mask'])
    return {'nll': mean(nll), 'bits_per_code': mean(nll / math.log(2)),
            'accuracy': mean(right)}

  def begin(params, rows):
    """The cache before the first code, and the step that draws from it."""
    def advance(cache, code, number, map_):
      out, new = net.apply(
          {'params': params['net'], 'cache': cache}, code[:, None, None], map_,
          at=pixelsnail.Position(number, shape), mutable='cache')
      return new['cache'], out[:, 0, 0]

    sizes = jax.eval_shape(
        advance, {}, jnp.zeros(rows, jnp.int32), jnp.zeros((), jnp.int32),
        jnp.zeros((rows, 1, 1, m.condition_channels)) if conditioned else None)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sizes[0]), (
        advance)

  @jax.jit
  def draw(params, batch, given, key):
    """Codes [B, T, F]; those of `given` that are not NOTHING stay."""
    rows = batch['index'].shape[0]
    map_ = told(params, batch)
    cache, advance = begin(params, rows)
    if map_ is not None:
      map_ = jnp.broadcast_to(map_, (rows, *map_.shape[1:]))

    def step(carry, code):
      cache, number = carry
      cache, guess = advance(cache, code, number, map_)
      return (cache, number + 1), guess

    codes = sampling.decode(
        step, (cache, jnp.zeros((), jnp.int32)), jnp.full(rows, NOTHING),
        row_keys(key, batch['index']), math.prod(shape),
        forced=given.reshape(rows, -1),
        temperature=batch.get('temperature', m.temperature),
        top_k=batch.get('top_k', m.top_k), top_p=batch.get('top_p', m.top_p))
    return codes.reshape(rows, *shape)

  @jax.jit
  def encode(frozen, audio):
    return upstream.codec.encode(_state(frozen), {
        'audio': audio, 'mask': jnp.ones(audio.shape[0]),
        'index': jnp.arange(audio.shape[0])})

  @jax.jit
  def decode(frozen, codes, batch):
    return upstream.codec.decode(_state(frozen), codes, batch).clip(-1.0, 1.0)

  def sample(state, batch, key):
    """Draws a map of codes for each of batch['index'], or a sound.

    A batch may have `temperature`, `top_k`, `top_p` [B] instead of the
    config's; the classes [B]; the codes above (else they are drawn, too);
    `audio` [B, N], of which all codes are kept that are not within `span`
    [B, 2] seconds; or `given_CODES` [B, T, F] that are kept, -1 where free.
    """
    batch = dict(batch)
    if 'audio' in batch:
      kept = encode(state.vars['codec'], batch['audio'])
      batch |= {f'given_{k}': _keep(x, batch['span'], upstream.seconds)
                for k, x in kept.items() if f'given_{k}' not in batch}
      del batch['audio'], batch['span']
    if m.condition and m.condition not in batch:
      # Else row 1 would draw by the key of all codes above.
      key, key_upper = jax.random.split(key)
      batch[m.condition] = _draw_upper(
          config, batch, state.vars.get('codec'), key_upper)
    given = batch.get(f'given_{m.codes}', jnp.full(
        (len(batch['index']), *shape), NOTHING))
    drawn = draw(state.params['model'], batch, given, key)
    codes = {m.codes: drawn, **({m.condition: batch[m.condition]}
                                if m.condition else {})}
    if upstream and any(set(g) == codes.keys() for g in upstream.codec.groups):
      rest = {k: x for k, x in batch.items() if k not in codes}
      return {'audio': decode(state.vars['codec'], codes, rest),
              'codes': drawn}
    return {'codes': drawn}

  return Model(init=init, train_step=train_step, eval_step=eval_step,
               sample=sample)


def _keep(codes, span, seconds):
  """`codes` [B, T, F] of frames outside of `span` [B, 2], NOTHING inside."""
  frame_s = seconds / codes.shape[1]
  t = jnp.arange(codes.shape[1])[None]
  inside = ((t + 1) * frame_s > span[:, :1]) & (t * frame_s < span[:, 1:])
  return jnp.where(inside[:, :, None], NOTHING, codes)


def _draw_upper(config, batch, codec, key):
  """The codes above, by the run that knows how to draw them."""
  m, workdir = config.model, config.upstream.top
  if not workdir:
    raise errors.UserError(
        f'this prior draws {m.codes!r} codes for given {m.condition!r} codes; '
        'name the run that draws these by --config.upstream.top=WORKDIR in '
        'training, or take them from data by --from_eval')
  run = _open(str(workdir))
  theirs = run.config.model
  if (run.config.module != config.module or theirs.codes != m.condition
      or theirs.size != m.upper_size
      or tuple(theirs.shape) != tuple(m.upper_shape)):
    raise errors.UserError(
        f'upstream.top={workdir} is no prior over {m.upper_size} '
        f'{m.condition!r} codes in {tuple(m.upper_shape)}; give the workdir of '
        f'a run with model.codes={m.condition}')
  other = run.state.vars.get('codec')
  if codec and other and codes_lib.digest(_state(codec)) != codes_lib.digest(
      _state(other)):
    raise errors.UserError(
        f'upstream.top={workdir} learnt codes of another codec, or of another '
        'step of it, than this run; train both on the codes of one')
  of_theirs = {k: x for k, x in batch.items() if k != f'given_{m.codes}'}
  return run.model.sample(run.state, of_theirs, key)['codes']


# ---------------------------------------------------------------- upstream


class Upstream(NamedTuple):
  codec: Any
  state: dict  # Of the codec, numpy arrays; no optimiser.
  digest: int
  seconds: float  # Of a sound.
  conditions: tuple[str, ...]  # Classes that its decoder is told.
  workdir: str


@functools.lru_cache(maxsize=4)
def _open(workdir: str, step: int = 0) -> runs.Run:
  """Its state is whole on every device, without the optimiser."""
  if not (pathlib.Path(workdir) / 'config.json').is_file():
    raise errors.UserError(
        f'upstream workdir {workdir!r} is not the workdir of a run; give the '
        'one of the run that made the codes, or of a prior over codes')
  run = runs.load(workdir, step or None)
  return dataclasses.replace(run, state=runs.gathered(run))


@functools.lru_cache(maxsize=4)
def _upstream(workdir: str, step: int) -> Upstream:
  run = _open(workdir, step)
  codec = codes_lib.of(run.module, run.config)
  batch = json.loads((pathlib.Path(workdir) / 'batch.json').read_text())
  state = run.state
  return Upstream(
      codec, jax.device_get({'step': state.step, 'params': state.params,
                             'vars': state.vars, 'ema': state.ema}),
      codes_lib.digest(state),
      batch['audio'][0][1] / run.config.data.sample_rate,
      tuple(run.config.model.get('conditions', ())), workdir)


def _state(frozen) -> TrainState:
  return TrainState(opt={}, **frozen)


def _classes(config) -> dict[str, int]:
  return {k: n for k, n in config.model.classes.to_dict().items() if n}


def _check(config) -> Upstream | None:
  """One sentence for each setting that cannot work; else the codec."""
  m = config.model
  errors.at_least(
      m, size=2, channels=2, kernel=3, blocks=1, layers=0, width=1, heads=1,
      output_layers=0, condition_layers=0, condition_channels=1,
      condition_kernel=1, upper_size=2)
  for name in ('kernel', 'condition_kernel'):
    if m[name] % 2 == 0:
      raise errors.UserError(f'model.{name}={m[name]} is even; use '
                             f'{m[name] + 1}: a position is in the middle')
  sampling.check_draws(m.size, {k: m[k] for k in sampling.DRAWS}, 'model.')
  if m.activation not in pixelsnail.ACTIVATIONS:
    raise errors.UserError(f'model.activation={m.activation!r} is not one of '
                           f'{", ".join(map(repr, pixelsnail.ACTIVATIONS))}')
  for name in ('dropout', 'class_dropout'):
    if not 0.0 <= m[name] < 1.0:
      raise errors.UserError(f'model.{name}={m[name]} is not in [0, 1)')
  if m.attention and (m.channels % 2 or m.channels // 2 % m.heads):
    raise errors.UserError(
        f'model.channels={m.channels}: half of it, the width of the attention, '
        f'does not split into model.heads={m.heads}; use a multiple of '
        f'{2 * m.heads}')
  if not m.codes or m.condition == m.codes:
    raise errors.UserError(
        f'model.codes={m.codes!r} and model.condition={m.condition!r}: name '
        "the codes to draw ('top') and others, or none, that are given ('')")
  maps = {'shape': m.shape} | ({'upper_shape': m.upper_shape}
                               if m.condition else {})
  for name, shape in maps.items():
    if len(shape) != 2 or min(shape) < 1:
      raise errors.UserError(
          f'model.{name}={tuple(shape)} is not (frames, bins): this prior is '
          'for maps of codes')
  if m.condition and any(a % b for a, b in zip(
      m.shape, m.upper_shape, strict=True)):
    raise errors.UserError(
        f'model.shape={tuple(m.shape)} is not a multiple of '
        f'model.upper_shape={tuple(m.upper_shape)}, whose codes condition it')
  if config.upstream.top and not m.condition:
    raise errors.UserError(
        f'upstream.top={config.upstream.top!r} goes with model.condition=top')
  if not config.upstream.codec:
    return None
  upstream = _upstream(str(config.upstream.codec), config.upstream.step)
  ours = {m.codes: (tuple(m.shape), m.size)} | (
      {m.condition: (tuple(m.upper_shape), m.upper_size)}
      if m.condition else {})
  for name, mine in ours.items():
    codec = upstream.codec
    if name not in codec.shapes:
      raise errors.UserError(
          f'upstream.codec={upstream.workdir} has no codes {name!r}'
          f'{errors.suggest(name, codec.shapes)}')
    theirs = tuple(codec.shapes[name]), codec.sizes[name]
    if theirs != mine:
      raise errors.UserError(
          f'upstream.codec={upstream.workdir} has {name!r} codes of shape '
          f'{theirs[0]} out of {theirs[1]}, the config has {mine[0]} out of '
          f'{mine[1]}; set model.shape, size, upper_shape and upper_size alike')
  for name in upstream.conditions:
    if name not in _classes(config):
      raise errors.UserError(
          f'upstream.codec={upstream.workdir} is told the {name} of a sound, '
          f'but model.classes.{name}=0; set it as the codec has it')
  return upstream


# ---------------------------------------------------------------- data


def preprocess(config):
  """A stored example's codes and classes, checked."""
  m = config.model
  wanted = {m.codes: (tuple(m.shape), m.size)} | (
      {m.condition: (tuple(m.upper_shape), m.upper_size)}
      if m.condition else {})
  classes = _classes(config)
  codec = (_upstream(str(config.upstream.codec), config.upstream.step).digest
           if config.upstream.codec else None)

  def fn(example, rng):
    del rng
    if codec not in (None, int(example.get('codec', 0))):
      raise errors.UserError(
          f'data.name={config.data.name!r} holds codes of another codec, or of '
          f'another step of it, than upstream.codec={config.upstream.codec}; '
          'encode the data again (python -m common.encode)')
    row = {}
    for name, (shape, size) in wanted.items():
      if name not in example:
        raise errors.UserError(
            f'data.name={config.data.name!r} has no codes {name!r}'
            f'{errors.suggest(name, example)}')
      codes = np.asarray(example[name])
      if codes.shape != shape:
        raise errors.UserError(
            f'data.name={config.data.name!r} has {name!r} codes of shape '
            f'{codes.shape}, not {shape}; they are of another codec than '
            'model.shape and model.upper_shape are for')
      if codes.min() < 0 or codes.max() >= size:
        raise errors.UserError(
            f'data.name={config.data.name!r} has {name!r} codes from '
            f'{codes.min()} to {codes.max()}, which do not fit a codebook of '
            f'{size} (model.size, model.upper_size)')
      row[name] = codes.astype(np.int32)
    for name, count in classes.items():
      if name not in example:
        raise errors.UserError(
            f'data.name={config.data.name!r} does not say the {name} of a '
            f'sound; set model.classes.{name}=0')
      if not 0 <= int(example[name]) < count:
        raise errors.UserError(
            f'data.name={config.data.name!r} has {name} {example[name]}, which '
            f'is not below model.classes.{name}={count}')
      row[name] = np.int32(example[name])
    return row

  return fn


# ---------------------------------------------------------------- prompts


def prompt(config, count, *, temperature: float | None = None,
           top_k: int | None = None, top_p: float | None = None,
           pitch: int = -1, instrument_family: int = -1, digit: int = -1,
           audio: str = '', start_s: float = 0.0, end_s: float = 0.0):
  """How to draw codes, for what pitch and instrument, and a sound to mend.

  temperature: 1 draws from the model, lower is safer, 0 takes the best.
  top_k: draws among this many codes only, 0 for all.
  top_p: draws among the fewest codes with this much mass; 1 for all.
  pitch: MIDI number; -1 leaves it open.
  instrument_family: 0 to 10, as NSynth numbers them; -1 leaves it open.
  digit: 0 to 9; -1 leaves it open.
  audio: a sound file whose codes are kept, but for those of a part.
  start_s, end_s: this part, in seconds, is made anew; end_s=0: to the end. What
    comes after it is kept, but not looked at.
  """
  classes = _classes(config)
  draws = sampling.draws(count, config.model.size, temperature=temperature,
                         top_k=top_k, top_p=top_p)
  given = {'pitch': pitch, 'instrument_family': instrument_family,
           'digit': digit}
  rows = lambda value, dtype: np.full(count, value, dtype)
  batch = {
      'mask': rows(1, np.float32), 'index': np.arange(count, dtype=np.int32),
      **draws}
  for name, value in given.items():
    if value != NOTHING and name not in classes:
      raise errors.UserError(
          f'{name}={value} does not work: this run was trained without it '
          f'(model.classes.{name}=0)')
    errors.require(NOTHING <= value < classes.get(name, 0), f'{name}={value}',
                   f'{NOTHING} to {classes.get(name, 0) - 1}')
  batch |= {k: rows(given.get(k, NOTHING), np.int32) for k in classes}
  if config.upstream.codec:
    codec = config_lib.read(pathlib.Path(config.upstream.codec, 'config.json'))
    for name in codec.model.get('conditions', ()):
      errors.require(
          given[name] != NOTHING, f'{name}={NOTHING}',
          f'0 to {classes[name] - 1}: the codec of this run is told it')
  if not audio:
    errors.require(not (start_s or end_s), f'start_s={start_s}, end_s={end_s}',
                   'them with audio=FILE')
    return batch
  if not config.upstream.codec:
    raise errors.UserError(
        f'audio={audio} does not work: this run has no codec (upstream.codec) '
        'to make codes of a sound')
  rate = codec.data.sample_rate
  samples = json.loads(pathlib.Path(config.upstream.codec, 'batch.json')
                       .read_text())['audio'][0][1]
  seconds = samples / rate
  end_s = end_s or seconds
  errors.require(0 <= start_s < min(end_s, seconds), f'start_s={start_s}',
                 f'0 or more, below end_s and the {seconds:g} s of a sound')
  wave = audio_lib.read(audio, rate)[:samples]
  wave = np.pad(wave, (0, samples - len(wave)))
  return batch | {'audio': np.tile(wave, (count, 1)),
                  'span': np.tile(np.float32([start_s, end_s]), (count, 1))}
