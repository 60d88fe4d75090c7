"""GANSynth (Engel et al. 2019, arXiv 1902.08710).

Where paper and released code differ, the code is the default and a comment
says so. The networks and how they grow: progressive.py.

Shapes: B batch, N samples, T frames, F bins, Z latent size, L labels. Images
are [B, T, F, 2]: log magnitude, and phase or instantaneous frequency. They are
raw as the representation gives them, unless called normalised.
"""

import functools
import math
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import errors, losses, midi, progress
from common.model import Mean, Model, Stage, TrainState, row_keys
from common.spectral import representations
from gansynth_jax import progressive

# Table 1's data types: mel and linear frequency, instantaneous frequency and
# phase; and bins that are really mel. The magnitude is a power where bins are
# mel.
REPRESENTATIONS = ('gansynth_ifmel', 'gansynth_if', 'gansynth_phase', 'ifmel')
PENALTY_DOMAINS = ('raw', 'normalized')
# model.magnitude_scale of the released code, for gansynth_ifmel only.
RELEASED_SCALE = (0.0661371661726, 0.113718730221)

# Of rendered notes, in the released code.
ATTACK_S, RELEASE_S, LONGEST_S, TAIL_S = 0.01, 0.3, 3.0, 3.0
RENDER_ROWS = 8  # Notes generated at once.
_BLOCK = 1 << 16  # Samples that a stream yields at once.
_MOST_ROWS = 64  # Sounds generated at once: 4 GB at the paper's size.


def build(config) -> Model:
  c = config.model
  shape = _check(config)
  errors.require(  # Not in _check: measure finds the others by such a config.
      c.representation == 'gansynth_ifmel'
      or tuple(c.magnitude_scale) != RELEASED_SCALE,
      f'model.representation={c.representation!r} with the released '
      'model.magnitude_scale, which is of gansynth_ifmel,',
      'what gansynth.measure finds (docs/gansynth.md)')
  dtype = jnp.dtype(config.dtype)
  labels = len(c.pitch_counts)
  widths = tuple(
      progressive.num_filters(b, c.fmap_base, c.fmap_decay, c.fmap_max)
      for b in range(c.blocks + 1))
  generator = progressive.Generator(
      (c.start_frames, c.start_bins), widths, dtype=dtype)
  discriminator = progressive.Discriminator(widths, labels, dtype=dtype)
  representation = representations.make(
      c.representation, num_samples=c.samples,
      sample_rate=config.data.sample_rate, frames=shape[0], bins=shape[1])
  tx = optax.adam(c.learning_rate, b1=0.0, b2=0.99)
  log_counts = jnp.log(jnp.array(c.pitch_counts, jnp.float32))

  # Released: the schedule is left-padded with its first entry.
  rows = list(c.batch_sizes) or [config.batch_size]
  rows = rows[:1] * (c.blocks - len(rows)) + rows
  schedule = progressive.Schedule(
      blocks=c.blocks, stable_images=c.stable_images,
      transition_images=c.transition_images, rows=tuple(rows))
  stages = tuple(
      Stage(start, schedule.rows_of(i))
      for i, start in enumerate(schedule.starts)) if c.progressive else (
          Stage(0, rows[-1]),)

  def progress_at(step):
    return (schedule.progress(step) if c.progressive
            else jnp.float32(c.blocks - 1))

  # Constants of the two channels: normalised = a raw + b.
  a, b = (jnp.array(x, jnp.float32)[None, None, None]
          for x in zip(c.magnitude_scale, c.phase_scale, strict=True))

  def normalize(image):
    return jnp.clip(a * image + b, -1.0, 1.0)

  def generate(params, z, label, p, blocks=c.blocks):  # Raw.
    z = jnp.concatenate([z, jax.nn.one_hot(label, labels)], -1)
    image = generator.apply({'params': params}, z, p, blocks)
    return (image - b) / a

  def discriminate(params, image, p, blocks=c.blocks, stddev=None):
    # The released code's normalises inside: raw images are what it sees.
    return discriminator.apply(
        {'params': params}, normalize(image), p, blocks, stddev)

  def encode(batch):
    return representation.encode(batch['audio'])

  def draw(key, mask):
    """Latents, and labels as frequent as in the data: [B, Z], [B]."""
    key_z, key_label = jax.random.split(key)
    z = jax.random.normal(key_z, (mask.shape[0], c.latent_size))
    label = jax.random.categorical(key_label, log_counts, shape=mask.shape)
    # The mask is 1. It tells the compiler that they are split over devices as
    # the batch is: else each of them generates every row.
    return z * mask[:, None], label * mask.astype(jnp.int32)

  def init(key, batch):
    del batch  # The config has all the shapes.
    params = progressive.initial(key, jax.eval_shape(lambda: {
        'g': generator.init(key, jnp.zeros((1, c.latent_size + labels)), 0.0,
                            c.blocks)['params'],
        'd': discriminator.init(key, jnp.zeros((1, *shape, 2)), 0.0,
                                c.blocks)['params']}))
    return TrainState.create(
        params, {k: tx.init(v) for k, v in params.items()},
        vars={'stddev': {'real': jnp.zeros(()), 'fake': jnp.zeros(())}},
        ema={'g': jax.tree.map(jnp.copy, params['g'])})

  def loss_g(params, params_d, mask, key, p, blocks):
    z, label = draw(key, mask)
    fake = generate(params, z, label, p, blocks)
    score, logits, _ = discriminate(params_d, fake, p, blocks)
    nll = cross_entropy(logits, label).mean()
    loss = losses.wgan_generator(score).mean() + c.class_weight_g * nll
    return loss, {'loss/g': loss, 'class/fake': nll}

  def penalty(params, real, fake, key, p, blocks):
    """(||grad D|| - 1)^2 [B], of images of the final size.

    A pixel here stands for ratio^2 of theirs, which share its gradient: the
    norm of all is smaller by the ratio. The gradient of all scores goes
    through the batch's stddev, too.
    """
    ratio = 2 ** (c.blocks - blocks)
    if c.penalty_domain == 'raw':
      there, back = lambda x: ratio * x, lambda x: x / ratio
    else:
      there = lambda x: ratio * (a * x + b)
      back = lambda x: (x / ratio - b) / a
    score = lambda x: discriminate(params, back(x), p, blocks)[0]
    return losses.gradient_penalty(score, there(real), there(fake), key)

  def loss_d(params, params_g, batch, key, p, blocks):
    key_draw, key_penalty = jax.random.split(key)
    real = progressive.downscale(encode(batch), 2 ** (c.blocks - blocks))
    real = progressive.blend_real(real, blocks, p)
    fake = generate(params_g, *draw(key_draw, batch['mask']), p, blocks)
    on_real, logits, stddev_real = discriminate(params, real, p, blocks)
    on_fake, _, stddev_fake = discriminate(params, fake, p, blocks)
    gp = penalty(params, real, fake, key_penalty, p, blocks).mean()
    nll = cross_entropy(logits, batch['label']).mean()  # Not of the fakes.
    loss = (losses.wgan_critic(on_real, on_fake).mean()
            + c.penalty_weight * gp
            + c.drift_weight * (on_real**2).mean()
            + c.class_weight_d * nll)
    metrics = {
        'loss/d': loss, 'loss/gp': gp, 'class/real': nll,
        'critic/real': on_real.mean(), 'critic/fake': on_fake.mean(),
        'schedule/progress': p}
    return loss, (metrics, {'real': stddev_real, 'fake': stddev_fake})

  def descend(grads, opt, params):
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt

  def train_step(state, batch, key, stage):
    """An update of G, then one of D. Only D's has need of real rows."""
    blocks = schedule.blocks_of(stage) if c.progressive else c.blocks
    p = progress_at(state.step)
    key_g, key_d = jax.random.split(key)
    # A stage of the released code is a new process, which restores all but
    # the optimisers. Blocks that wait have no gradients and stay as they are.
    is_new = state.step == stages[stage].start
    opt = jax.tree.map(
        lambda new, old: jnp.where(is_new, new, old),
        {k: tx.init(v) for k, v in state.params.items()}, state.opt)

    (_, metrics_g), grads = jax.value_and_grad(loss_g, has_aux=True)(
        state.params['g'], state.params['d'], batch['mask'], key_g, p, blocks)
    g, opt_g = descend(grads, opt['g'], state.params['g'])
    ema = jax.tree.map(lambda old, new: old + (1 - c.ema_decay) * (new - old),
                       state.ema['g'], g)

    grads, (metrics_d, stddev) = jax.grad(loss_d, has_aux=True)(
        state.params['d'], g, batch, key_d, p, blocks)
    d, opt_d = descend(grads, opt['d'], state.params['d'])
    return state.replace(
        params={'g': g, 'd': d}, opt={'g': opt_g, 'd': opt_d},
        vars={'stddev': stddev}, ema={'g': ema}), {**metrics_g, **metrics_d}

  def conditions(batch, key):
    """Latents [B, Z] and labels [B] of rows, by their numbers."""
    z = latents(key, batch['index'], c.latent_size)
    if 'blend' in batch:
      z = progressive.slerp(
          z, latents(key, batch['end'], c.latent_size), batch['blend'])
    if 'label' in batch:
      return z, batch['label']
    return z, draw_labels(key, batch['index'], log_counts)

  def eval_step(state, batch, key):
    """The stddev is the last training batch's: rows are independent here.

    `stage` is not known, so all blocks run; at a progress they are the same
    function as the stage's own are.
    """
    p = progress_at(state.step)
    rows = {'index': batch['index']}  # Labels of the fakes are drawn, too.
    z, label = conditions(rows, key)
    real = progressive.blend_real(encode(batch), c.blocks, p)
    fake = generate(state.ema['g'], z, label, p)
    values = {}
    for name, image, target in (
        ('real', real, batch['label']), ('fake', fake, label)):
      score, logits, _ = discriminate(
          state.params['d'], image, p, stddev=state.vars['stddev'][name])
      values[f'critic/{name}'] = score
      values[f'class/{name}'] = cross_entropy(logits, target)
      values[f'accuracy/{name}'] = jnp.float32(logits.argmax(-1) == target)
    values['wasserstein'] = values['critic/real'] - values['critic/fake']
    return {k: Mean.of(v, batch['mask']) for k, v in values.items()}

  @jax.jit
  def sound(step, params, batch, key):  # [B, N]
    image = generate(params, *conditions(batch, key), progress_at(step))
    return representation.decode(image)

  def sample(state, batch, key):
    make = functools.partial(sound, state.step, state.ema['g'])
    if 'velocity' in batch:
      notes = jax.device_get(dict(batch))
      sounds = in_batches(lambda rows: make(rows, key), notes)
      return {'stream': half_scale(mix(notes, sounds,
                                       config.data.sample_rate))}
    parts = [make({k: x[i:i + _MOST_ROWS] for k, x in batch.items()}, key)
             for i in range(0, len(batch['index']), _MOST_ROWS)]
    return {'audio': jnp.concatenate(parts).clip(-1.0, 1.0)}

  return Model(init=init, train_step=train_step, eval_step=eval_step,
               sample=sample, stages=stages)


def cross_entropy(logits, label):
  return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def latents(key, index, size):
  """z [B, Z] ~ N(0, I), the same for the same number in `index` [B].

  The paper's text has a spherical prior; the released code does not normalise.
  """
  draw = lambda k: jax.random.normal(k, (size,))
  return jax.vmap(draw)(row_keys(key, index))


def draw_labels(key, index, log_counts):
  """Labels [B] of fakes, the same for the same number in `index` [B]."""
  pick = lambda k: jax.random.categorical(jax.random.fold_in(k, 1), log_counts)
  return jax.vmap(pick)(row_keys(key, index))


def _check(config) -> tuple[int, int]:
  """One sentence for each setting that cannot work; else (T, F)."""
  c = config.model
  for name, value, known in (
      ('representation', c.representation, REPRESENTATIONS),
      ('penalty_domain', c.penalty_domain, PENALTY_DOMAINS)):
    if value not in known:
      raise errors.UserError(
          f'model.{name}={value!r} is not one of {", ".join(map(repr, known))}')
  errors.at_least(c, blocks=1, start_frames=1, start_bins=1, stable_images=1,
                  transition_images=1, samples=1, latent_size=1, fmap_base=1,
                  fmap_max=1)
  if len(c.batch_sizes) > c.blocks:
    raise errors.UserError(
        f'model.batch_sizes={c.batch_sizes} has {len(c.batch_sizes)} entries, '
        f'one for each of the last blocks, but model.blocks={c.blocks}')
  if any(not isinstance(n, int) or n < 1 for n in c.batch_sizes):
    raise errors.UserError(f'model.batch_sizes={c.batch_sizes} are not all 1 '
                           'or more')
  if progressive.num_filters(
      c.blocks, c.fmap_base, c.fmap_decay, c.fmap_max) < 1:
    raise errors.UserError(
        f'model.fmap_base={c.fmap_base} leaves block {c.blocks} without a '
        'channel; use a larger one, or a smaller model.fmap_decay')
  for name in ('magnitude_scale', 'phase_scale'):
    if len(c[name]) != 2 or not c[name][0]:
      raise errors.UserError(f'model.{name}={c[name]} is not (a, b) with a '
                             'other than 0')
  counts = c.pitch_counts
  if (any(not isinstance(n, int | float) or n < 0 for n in counts)
      or not any(counts)):
    raise errors.UserError(
        'model.pitch_counts must say how often each pitch from '
        f'{c.lowest_pitch} on is drawn; for three equally likely ones 1,1,1')
  frames, bins = (n * 2 ** (c.blocks - 1) for n in (c.start_frames,
                                                    c.start_bins))
  covered = bins // 2 * (frames - 1) + 2 * bins
  if c.samples > covered:
    raise errors.UserError(
        f'model.samples={c.samples} does not fit {frames} frames of {bins} '
        f'bins (model.start_frames, start_bins and blocks), which cover '
        f'{covered} samples')
  return frames, bins


# ---------------------------------------------------------------- data


def preprocess(config):
  """A note from its start, padded or cut; no change of its level."""
  c = config.model
  highest = c.lowest_pitch + len(c.pitch_counts) - 1

  def fn(example, rng):
    del rng
    if 'pitch' not in example:
      raise errors.UserError(
          f'data.name={config.data.name!r} does not say what pitch a sound '
          'has; prepare notes in the layout of nsynth/full (docs/data.md)')
    pitch = int(example['pitch'])
    if not c.lowest_pitch <= pitch <= highest:
      raise errors.UserError(
          f'data.name={config.data.name!r} has a note of pitch {pitch}; '
          f'model.lowest_pitch={c.lowest_pitch} and the '
          f'{len(c.pitch_counts)} model.pitch_counts cover {c.lowest_pitch} to '
          f'{highest}: change these, or prepare a set without it')
    audio = np.asarray(example['audio'], np.float32)[:c.samples]
    return {'audio': np.pad(audio, (0, c.samples - len(audio))),
            'label': np.int32(pitch - c.lowest_pitch)}

  return fn


def measure(config, examples, margin: float = 0.8) -> dict:
  """The normaliser 'specgrams_simple' of the released code.

  What is written to model.magnitude_scale and model.phase_scale: the range of
  each channel over the `examples` (stored ones; released: 1000) is mapped to
  [-margin, margin].
  """
  c = config.model
  frames, bins = _check(config)
  encode = jax.jit(representations.make(
      c.representation, num_samples=c.samples,
      sample_rate=config.data.sample_rate, frames=frames, bins=bins).encode)
  make = preprocess(config)
  low, high = np.full(2, np.inf), np.full(2, -np.inf)
  for example in examples:
    image = np.asarray(encode(make(example, None)['audio'][None]), np.float64)
    low = np.minimum(low, image.min((0, 1, 2)))
    high = np.maximum(high, image.max((0, 1, 2)))
  if not (high > low).all():
    raise errors.UserError(
        'there are no examples to measure, or one of their channels is the '
        'same everywhere; give some notes')
  a = 2 * margin / (high - low)
  b = margin * (-2 * low / (high - low) - 1)
  return dict(zip(('magnitude_scale', 'phase_scale'),
                  zip(a.tolist(), b.tolist(), strict=True), strict=True))


# ---------------------------------------------------------------- prompts


def prompt(config, count, *, pitch: str = '', first: int = 0, last: int = -1,
           midi: str = '', seconds_per_instrument: float = 6.0):
  """Pitches, instruments (latents) by number, or a piece to play.

  pitch: MIDI numbers, like 60 or 48,60,72 or 48-72. Each instrument plays all
    of them, then the next does. Default: drawn as frequently as in the data.
  first: number of the first instrument; the rest follow it.
  last: if given, samples lie on the sphere between instruments first and last,
    all of one pitch.
  midi: a MIDI file to render, as one sound.
  seconds_per_instrument: in a MIDI file; from each to the next the timbre
    moves steadily.
  """
  errors.require(0 <= first < 10**9, f'--prompt=first={first}',
                 'a number from 0 to 999999999')
  errors.require(-1 <= last < 10**9, f'--prompt=last={last}',
                 'a number from 0 to 999999999')
  if midi:
    if pitch or last >= 0:
      raise errors.UserError(
          f'--prompt=midi={midi} has its own pitches and instruments; drop '
          'pitch and last')
    return _piece(config, midi, first, seconds_per_instrument)
  if seconds_per_instrument != 6.0:
    raise errors.UserError(
        f'--prompt=seconds_per_instrument={seconds_per_instrument} is for a '
        'piece; give midi=FILE too, or drop it')
  pitches = [_label(config, p) for p in _pitches(pitch)]
  row, size = np.arange(count), max(1, len(pitches))
  batch = {'mask': np.ones(count, np.float32),
           'index': np.int32(first + row // size)}
  if last >= 0:
    if size > 1:
      raise errors.UserError(
          f'--prompt=pitch={pitch}: between two instruments (last={last}) all '
          'samples have one pitch; give one')
    batch |= {'index': np.full(count, first, np.int32),
              'end': np.full(count, last, np.int32),
              'blend': np.linspace(0, 1, count, dtype=np.float32)}
  if pitches:
    batch['label'] = np.array(pitches, np.int32)[row % size]
  return batch


def _pitches(text: str) -> list[int]:
  """'48,60-62' -> [48, 60, 61, 62]."""
  try:
    ranges = [[int(x) for x in part.split('-')]
              for part in text.split(',') if text]
  except ValueError:
    ranges = [[]]
  if any(len(r) not in (1, 2) or r[-1] < r[0] for r in ranges):
    raise errors.UserError(f'--prompt=pitch={text} is no list of MIDI numbers; '
                           'write 60, or 48,60,72, or 48-72')
  return [p for r in ranges for p in range(r[0], r[-1] + 1)]


def _label(config, pitch: int) -> int:
  c = config.model
  label = pitch - c.lowest_pitch
  if not 0 <= label < len(c.pitch_counts) or not c.pitch_counts[label]:
    known = [c.lowest_pitch + i for i, n in enumerate(c.pitch_counts) if n]
    near = sorted(known, key=lambda p: (abs(p - pitch), p))[:3]
    raise errors.UserError(
        f'--prompt=pitch={pitch}: this model has learned pitches from '
        f'{known[0]} to {known[-1]}'
        + f', but not {pitch}' * (known[0] < pitch < known[-1])
        + f'; nearest: {", ".join(map(str, sorted(near)))}')
  return label


def _piece(config, path, first, seconds_per_instrument):
  """A row for each note of a MIDI file, by onset."""
  c, rate = config.model, config.data.sample_rate
  errors.require(
      0.01 <= seconds_per_instrument < math.inf,
      f'--prompt=seconds_per_instrument={seconds_per_instrument}',
      'a number of seconds from 0.01 on, like 6')
  notes = midi.read(path)
  # Released: pitches 36 to 84, drums and all. Here: what was trained.
  label = notes['pitch'] - c.lowest_pitch
  inside = (label >= 0) & (label < len(c.pitch_counts)) & ~notes['is_drum']
  counts = np.array(c.pitch_counts)[np.where(inside, label, 0)]
  keep = inside & (counts > 0)
  if not keep.any():
    raise errors.UserError(f'{path} has no note that this model has learned '
                           'to play; transpose it')
  if not keep.all():
    progress.say(f'{path}: {(~keep).sum()} of {len(notes)} notes are drums or '
                 'of pitches that were not in the training data; left out')
  notes, label = notes[keep], label[keep]
  # Released: the end of the note that is listed last, which others may
  # outlast; and int(total / seconds) instruments, of which one is no path.
  total = notes['end_s'].max()
  times = np.linspace(-1e-4, total, max(2, int(total / seconds_per_instrument)))
  left = np.searchsorted(times, notes['start_s']) - 1
  # A note may not be longer than what is generated.
  longest = max(0, c.samples - int(RELEASE_S * rate))
  held = np.minimum(notes['end_s'] - notes['start_s'], LONGEST_S)
  number = lambda x: np.asarray(x, np.int32)
  return {
      'index': number(first + left), 'end': number(first + left + 1),
      'blend': np.float32((notes['start_s'] - times[left])
                          / (times[left + 1] - times[left])),
      'label': number(label), 'velocity': number(notes['velocity']),
      'start': number(notes['start_s'] * rate),  # Samples.
      'held': number(np.minimum(held * rate, longest)),
      'total': np.full(len(notes), int(total + TAIL_S) * rate, np.int32),
      'mask': np.ones(len(notes), np.float32)}


# ---------------------------------------------------------------- rendering


def in_batches(make, notes):
  """The sound [N] of each note; one shape of batch, so one compilation."""
  keys = ('index', 'end', 'blend', 'label')
  count = len(notes['label'])
  for i in range(0, count, RENDER_ROWS):
    rows = {k: notes[k][i:i + RENDER_ROWS] for k in keys}
    spare = RENDER_ROWS - len(rows['label'])
    rows = {k: np.pad(x, (0, spare)) for k, x in rows.items()}
    yield from jax.device_get(make(rows))[:RENDER_ROWS - spare]


def envelope(held: int, sample_rate: int):
  """Attack, `held` samples from the start, and the release after them."""
  release = int(sample_rate * RELEASE_S)
  gain = np.ones(held + release)
  attack = gain[:int(sample_rate * ATTACK_S)]
  attack[:] = np.linspace(0.0, 1.0, len(attack))
  gain[held:] = np.linspace(1.0, 0.0, release)
  return gain


def mix(notes, sounds, sample_rate: int):
  """Blocks of the sum of all notes, which come in the order of their onsets.

  Memory holds the notes that still sound, however long the piece is.
  """
  longest = int(notes['held'].max()) + int(sample_rate * RELEASE_S)
  buffer = np.zeros(longest + _BLOCK)
  position = 0  # Of the buffer's first sample.

  def advance(to):
    nonlocal position
    while position < to:
      size = min(to - position, _BLOCK)
      yield buffer[:size].astype(np.float32)
      buffer[:-size] = buffer[size:]
      buffer[-size:] = 0.0
      position += size

  for i, sound in enumerate(sounds):
    start = int(notes['start'][i])
    if start + longest > position + len(buffer):
      yield from advance(start)
    gain = envelope(int(notes['held'][i]), sample_rate)[:len(sound)]
    sound = sound[:len(gain)] * gain
    peak = sound.max()  # Released: not of the absolute value.
    if peak > 0:  # Silence is 0 / 0 there.
      sound = sound / peak
    start -= position
    buffer[start:start + len(sound)] += sound * (notes['velocity'][i] / 127)
  yield from advance(int(notes['total'][0]))


def half_scale(blocks):
  """Blocks of a sound, so that its maximum is 1/2; they wait in a file."""
  with tempfile.TemporaryFile() as spool:
    peak = -math.inf
    for block in blocks:
      peak = max(peak, float(block.max()))
      spool.write(block.tobytes())
    spool.seek(0)
    while data := spool.read(4 * _BLOCK):
      block = np.frombuffer(data, np.float32)
      yield block / np.float32(2 * peak) if peak > 0 else block


# ---------------------------------------------------------------- weights


def official(config):
  """Where the released checkpoints have each of our arrays.

  Returns names of theirs by names of ours, and what a batch looks like. Both
  have kernels as height, width, inputs, outputs. Only what growing left
  behind, such as the optimisers' states, has no place in ours.
  """
  c = config.model
  names = {}

  def put(ours, theirs, kind):
    names[f'{ours}/kernel'] = f'{theirs}/{kind}/kernel'
    names[f'{ours}/bias'] = f'{theirs}/bias'

  for b in range(1, c.blocks + 1):
    block = f'Generator/progressive_gan_generator/progressive_gan_block_{b}'
    for layer in ('conv0', 'conv1', 'to_rgb'):
      put(f'params/g/block_{b}/{layer}', f'{block}/{layer}', 'conv2d')
    block = block.replace('Generator', 'Discriminator').replace(
        'gan_generator', 'gan_discriminator')
    for layer in ('from_rgb', 'conv0', 'conv1'):
      put(f'params/d/block_{b}/{layer}', f'{block}/{layer}', 'conv2d')
  put('params/d/score', 'Discriminator/progressive_gan_discriminator/'
      'progressive_gan_block_1/logits', 'dense')
  put('params/d/classes',
      'Discriminator/discriminator_cond/classification_logits', 'dense')
  names |= {k.replace('params/', 'ema/'): f'{v}/ExponentialMovingAverage'
            for k, v in names.items() if k.startswith('params/g/')}
  rows = config.batch_size
  return names, {
      'audio': jax.ShapeDtypeStruct((rows, c.samples), jnp.float32),
      'label': jax.ShapeDtypeStruct((rows,), jnp.int32),
      'mask': jax.ShapeDtypeStruct((rows,), jnp.float32)}
