"""Recurrent networks on piano rolls: which keys sound, frame after frame.

The task of Boulanger-Lewandowski et al. (2012), with the networks that later
papers compared on it (Chung et al. 2014): layers of LSTM, GRU or tanh units
read a frame of 88 keys and say for each key, on its own, how likely it is to
sound in the next.

Likelihood: nats per frame, summed over the 88 keys, over all frames of all
pieces. The first frame of a piece is predicted from a frame of silence, and
counts. A piece longer than `config.model.length` is scored in consecutive
segments that begin with a fresh state. A model that knows nothing has
88 ln 2 = 61.00.

Accuracy: TP / (TP + FP + FN) of Bay et al. (2009) over all frames; a key is
predicted where it is more likely than not.

Shapes: B rows, T frames, K = 88 keys, H units. Inside the network time comes
first: [T, B, ...].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import errors, midi, sampling
from common import model as model_lib
from common.nn.dropout import Dropout
from symbolic_jax import language_model, lstm, timeline

LOW, KEYS = 21, 88  # A piano's.
FREE = -1  # In a primer: not given.


# ---------------------------------------------------------------- network


def tanh_cell(w, h, x):  # [H, H], two of [B, H]
  return jnp.tanh(x + _dot(h, w))


def gru_cell(w, h, x):  # [H, 3H], [B, H], [B, 3H]
  """Chung et al. 2014: the reset gate acts before the product."""
  units = h.shape[-1]
  gates = nn.sigmoid(x[:, :2 * units] + _dot(h, w[:, :2 * units]))
  reset, update = jnp.split(gates, 2, axis=-1)
  new = jnp.tanh(x[:, 2 * units:] + _dot(reset * h, w[:, 2 * units:]))
  return h + update * (new - h)


def _dot(h, w):
  return jnp.dot(h.astype(w.dtype), w, preferred_element_type=jnp.float32)


CELLS = {'tanh': (tanh_cell, 1), 'gru': (gru_cell, 3)}


class Layer(nn.Module):
  """One layer of tanh or GRU units; the kernel has inputs above the state."""

  cell: str
  units: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, carry):  # [T, B, inputs] -> [T, B, H]
    cell, gates = CELLS[self.cell]
    inputs, width = x.shape[-1], gates * self.units
    kernel = self.param('kernel', nn.initializers.glorot_uniform(),
                        (inputs + self.units, width))
    bias = self.param('bias', nn.initializers.zeros, (width,))
    kernel = kernel.astype(self.dtype)
    x = x @ kernel[:inputs] + bias.astype(self.dtype).reshape(1, 1, -1)

    def step(h, x):
      h = cell(kernel[inputs:], h, x)
      return h, h.astype(self.dtype)

    h, hs = jax.lax.scan(step, *carry, x)
    return hs, (h,)


class Network(nn.Module):
  """Logits of the keys of the next frame after each frame."""

  cell: str
  units: int
  layers: int
  dropout: float = 0.0  # Of each layer's output.
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, keys, carry=None, train=False):
    """[B, T, K] -> float32 logits [B, T, K] and the carry to go on from."""
    carry = carry or self.start(keys.shape[0])
    x = keys.swapaxes(0, 1).astype(self.dtype)
    after = []
    for n, state in enumerate(carry):
      name = f'layer_{n}'
      layer = (lstm.Layer(x.shape[-1], self.units, self.dtype, name=name)
               if self.cell == 'lstm' else
               Layer(self.cell, self.units, self.dtype, name=name))
      x, state = layer(x, state)
      x = Dropout(self.dropout)(x, train)
      after.append(state)
    logits = nn.Dense(KEYS, kernel_init=nn.initializers.glorot_uniform(),
                      name='output')(x.astype(jnp.float32))
    return logits.swapaxes(0, 1), tuple(after)

  def start(self, rows: int):
    """The state before a piece: zeros for each layer."""
    zeros = jnp.zeros((rows, self.units), jnp.float32)
    one = ((zeros, zeros.astype(self.dtype)) if self.cell == 'lstm'
           else (zeros,))
    return (one,) * self.layers


# ---------------------------------------------------------------- examples


def keys_of(example, every: int) -> np.ndarray:
  """The frames of a stored piece: [T, K] uint8 of zeros and ones."""
  if 'roll' in example:
    return example['roll'][::every]
  voices = example['voices'][::every]  # Of a chorale; -1 rests.
  return (voices[:, :, None] == LOW + np.arange(KEYS)).any(1).astype(np.uint8)


def _crop(keys, length, rng):
  start = rng.integers(max(len(keys) - length, 0) + 1)
  return keys[start:start + length]


def _row(keys, length):
  """Padded, and how many frames are real."""
  return {'keys': np.pad(keys, ((0, length - len(keys)), (0, 0))),
          'frames': np.int32(len(keys))}


def preprocess(config):
  """A random crop of a piece; a shorter piece is padded."""
  m = config.model

  def fn(example, rng):
    return _row(_crop(keys_of(example, m.every), m.length, rng), m.length)

  return fn


def segments(config):
  """A whole piece as consecutive crops, the last one padded."""
  m = config.model

  def fn(example):
    keys = keys_of(example, m.every)
    return [_row(keys[i:i + m.length], m.length)
            for i in range(0, len(keys), m.length)]

  return fn


def music(config):
  """A whole piece, or with an rng a crop, as `sample` would return it."""
  m = config.model

  def fn(example, rng):
    keys = keys_of(example, m.every)
    if rng is not None:
      keys = _crop(keys, m.length, rng)
    return {'roll': _roll(keys, np) > 0}

  return fn


def _roll(keys, xp):  # [..., T, K] -> [..., T, 128, 1]
  edges = [(0, 0)] * (keys.ndim - 1) + [(LOW, 128 - LOW - KEYS)]
  return xp.pad(keys, edges)[..., None]


def prompt(config, count: int, *, primer: str = '', primer_s: float = 0.0,
           duration_s: float = 0.0, temperature: float | None = None):
  """Conditions for `sample`: a MIDI file to continue, and how to draw.

  Args:
    config: of the run.
    count: number of samples.
    primer: MIDI file whose beginning every sample starts with; drums do not
      count. Its tempo does not either: a frame is a quarter, two a second.
    primer_s: how much of it, from its first note on; 0 for up to half of the
      sample.
    duration_s: length of a sample, primer included; 0 for that of training.
      A frame lasts `config.data.step_s`.
    temperature: 1 draws from the model, lower is safer, 0 takes each key that
      is more likely than not.
  """
  step_s = config.data.step_s
  draws = sampling.draws(count, KEYS, temperature=temperature)
  language_model.check_part('primer', primer, primer_s)
  for name, seconds in (('duration_s', duration_s), ('primer_s', primer_s)):
    errors.require(seconds == 0 or step_s <= seconds < np.inf,
                   f'{name}={seconds}', f'0, or {step_s} (a frame) and more')
  frames = round(duration_s / step_s) or config.model.length
  given = np.full((frames, KEYS), FREE, np.int8)
  if primer:
    with errors.about(f'primer={primer}'):
      keys = _read(primer, step_s)
    keys = keys[:round(primer_s / step_s) or max(frames // 2, 1)]
    errors.require(
        len(keys) < frames, f'primer_s={primer_s} ({len(keys)} frames)',
        f'fewer than the {frames} frames of a sample, or a longer duration_s')
    given[:len(keys)] = keys
  return {'mask': np.ones(count, np.float32),
          'index': np.arange(count, dtype=np.int32), **draws,
          'primer': np.tile(given, (count, 1, 1))}


def _read(path, step_s):
  """Frames [T, K] of a MIDI file, from its first note on."""
  notes = midi.read_steady(path)
  notes = notes[~notes['is_drum']]
  timeline.check(notes, LOW, LOW + KEYS - 1, 'a piano')
  start, end = timeline.on_grid(notes, 1 / step_s)
  keys = np.zeros((end.max(), KEYS), np.int8)
  for note, a, b in zip(notes, start, end, strict=True):
    keys[a:b, note['pitch'] - LOW] = 1
  return keys[start.min():]


# ---------------------------------------------------------------- model


def nats(logits, keys):  # [..., K] -> [...]
  """Of a whole frame, given whether each key sounds (0 or 1)."""
  return optax.sigmoid_binary_cross_entropy(logits, keys).sum(-1)


def build(config) -> model_lib.Model:
  m = config.model
  known = ('lstm', *CELLS)
  if m.cell not in known:
    raise errors.UserError(f'model.cell={m.cell!r} does not exist'
                           f'{errors.suggest(m.cell, known)}')
  errors.at_least(m, length=1, every=1, layers=1, units=1)
  net = Network(m.cell, m.units, m.layers, m.dropout, jnp.dtype(config.dtype))
  tx = optax.chain(optax.clip_by_global_norm(m.clip),
                   optax.adam(m.learning_rate))

  def score(params, batch, key):
    """Logits [B, T, K], nats [B, T], and which frames are real [B, T]."""
    keys = batch['keys']
    before = jnp.pad(keys[:, :-1], ((0, 0), (1, 0), (0, 0)))
    logits, _ = net.apply({'params': params}, before, train=key is not None,
                          rngs=None if key is None else {'dropout': key})
    place = jnp.arange(keys.shape[1])[None]
    real = (place < batch['frames'][:, None]) * batch['mask'][:, None]
    return logits, nats(logits, keys.astype(jnp.float32)), real

  def init(key, batch):
    params = {'model': net.init(key, batch['keys'][:1])['params']}
    return model_lib.TrainState.create(
        params, {'model': tx.init(params['model'])})

  def train_step(state, batch, key, stage):
    del stage  # One stage only.

    def loss_fn(params):
      _, nll, real = score(params, batch, key)
      return (nll * real).sum() / real.sum()

    params = state.params['model']
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt = tx.update(grads, state.opt['model'], params)
    state = state.replace(
        params={'model': optax.apply_updates(params, updates)},
        opt={'model': opt})
    return state, {'loss/nll': loss, 'train/grad_norm': optax.tree.norm(grads)}

  def eval_step(state, batch, key):
    """Nats and accuracy per frame."""
    del key  # Nothing is random.
    logits, nll, real = score(state.params['model'], batch, None)
    is_on, guess = batch['keys'] > 0, logits > 0
    count = lambda x: (x.sum(-1) * real).sum()
    return {'nll': model_lib.Mean.of(nll, real),
            'accuracy': model_lib.Mean(count(is_on & guess),
                                       count(is_on | guess))}

  @jax.jit
  def draw(params, batch, key):
    row_keys = model_lib.row_keys(key, batch['index'])
    rows = row_keys.shape[0]
    primer = batch.get(
        'primer', jnp.full((rows, m.length, KEYS), FREE, jnp.int8))
    temperature = jnp.broadcast_to(
        batch.get('temperature', m.temperature), rows)[:, None]

    def step(carry, t_and_given):
      carry, frame = carry
      t, given = t_and_given
      logits, carry = net.apply({'params': params}, frame[:, None], carry)
      logits = logits[:, 0]
      # Positive with probability sigmoid(logit / temperature).
      noise = jax.vmap(lambda key: jax.random.logistic(
          jax.random.fold_in(key, t), (KEYS,)))(row_keys)
      drawn = (logits + temperature * noise > 0).astype(given.dtype)
      frame = jnp.where(given == FREE, drawn, given)
      free = (given == FREE).any(-1)
      score = -nats(logits, frame.astype(jnp.float32)) * free
      return (carry, frame), (frame, score, free)

    silence = jnp.zeros((rows, KEYS), primer.dtype)
    _, (keys, scores, free) = jax.lax.scan(
        step, (net.start(rows), silence),
        (jnp.arange(primer.shape[1]), primer.swapaxes(0, 1)))
    return {'roll': _roll(keys.swapaxes(0, 1), jnp) > 0,
            'score': scores.sum(0) / jnp.maximum(free.sum(0), 1)}

  def sample(state, batch, key):
    """Draws a row for each of batch['index'], each key on its own.

    A batch may have `primer` [B, T, K] of 0, 1 and -1 (free), which says how
    long a sample is, and `temperature` [B]. 'score' is the mean log-likelihood
    of the frames drawn.
    """
    return draw(state.params['model'], batch, key)

  return model_lib.Model(init=init, train_step=train_step,
                         eval_step=eval_step, sample=sample)
