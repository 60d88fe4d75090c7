"""LSTM language model: PerformanceRNN's network, here on four-part chorales.

The baseline row of the Music Transformer (Huang et al. 2018, table 3). The
network is that of the released PerformanceRNN: one-hot tokens, a stack of TF
BasicLSTMCells, a linear layer to the logits of the next token. What differs
from the released code, and why:

  * It clips each variable's gradient at 3; here their global norm is clipped.
  * It starts from a given first event; here from a zero vector, so that every
    token of a piece is predicted and counted.
  * It leaves dropout on in its evaluation; here it is off.

Likelihood: nats per token, over all tokens but padding. A piece longer than
`config.model.length` is scored in consecutive segments, each from a zero state:
every token is counted once, and none is predicted from more context than in
training.

Shapes: B rows, L tokens, V vocabulary, H units, T time steps of the network.
Inside the network time comes first: [T, B, ...].
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import errors, midi, optim, sampling
from common import model as model_lib
from symbolic_jax import chorales

NOTHING = -1  # As an input token: the zero vector instead of a one-hot.


# ---------------------------------------------------------------- network


@functools.partial(jax.checkpoint, prevent_cse=False)  # Stores z and c only.
def cell(z, c):
  """BasicLSTMCell from pre-activations z [B, 4H] and cell c [B, H]."""
  i, j, f, o = jnp.split(z, 4, axis=-1)  # TF's order; j is the new input.
  c = c * nn.sigmoid(f + 1.0) + nn.sigmoid(i) * jnp.tanh(j)  # Forget bias 1.
  return c, nn.sigmoid(o) * jnp.tanh(c)


def scan_cells(w, x, c, h):
  """`recur` without its own gradient."""
  w = w.astype(x.dtype)

  def step(carry, x):
    c, h = carry
    z = x + jnp.dot(h, w, preferred_element_type=jnp.float32)
    c, h = cell(z, c)
    h = h.astype(x.dtype)
    return (c, h), h

  (c, h), hs = jax.lax.scan(step, (c, h), x)
  return hs, c, h


@jax.custom_vjp
def recur(w, x, c, h):
  """Runs the cells over time.

  Args:
    w: [H, 4H] recurrent weights.
    x: [T, B, 4H] what the inputs and the bias add to the pre-activations.
    c, h: [B, H] state before the first step; c is float32.

  Returns:
    Outputs [T, B, H] and the state after the last step.
  """
  return scan_cells(w, x, c, h)


def _recur_forward(w, x, c, h):
  out, back = jax.vjp(functools.partial(scan_cells, w), x, c, h)
  return out, (back, h, out[0])


def _recur_backward(saved, grads):
  back, h, hs = saved
  dx, dc, dh = back(grads)
  # The gradient to w is one matmul over all steps: the scan's own would add
  # up [H, 4H] at each step.
  before = jnp.concatenate([h[None], hs[:-1]])
  dw = jnp.einsum('tbh,tbg->hg', before, dx, preferred_element_type=jnp.float32)
  return dw, dx, dc, dh


recur.defvjp(_recur_forward, _recur_backward)


class Layer(nn.Module):
  """One BasicLSTMCell layer; its kernel is TF's, inputs above the state."""

  inputs: int
  units: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, carry):  # [T, B, inputs] -> [T, B, H]
    kernel = self.param('kernel', nn.initializers.glorot_uniform(),
                        (self.inputs + self.units, 4 * self.units))
    bias = self.param('bias', nn.initializers.zeros, (4 * self.units,))
    # All steps' inputs in one matmul; only the state's is left in the loop.
    x = x @ kernel[:self.inputs].astype(self.dtype)
    x += bias.astype(self.dtype).reshape(1, 1, -1)
    hs, *carry = recur(kernel[self.inputs:], x, *carry)
    return hs, tuple(carry)


class LSTM(nn.Module):
  """Logits of the next token after each input token."""

  vocab: int
  units: int
  layers: int
  dropout: float = 0.0  # Of each layer's output, as in the released code.
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens, carry=None, train=False):
    """[B, L] -> float32 logits [B, L, V] and the carry to go on from."""
    carry = carry or self.start(tokens.shape[0])
    # As a matmul, not a look-up: the gradient of a look-up adds into few rows
    # in any order on a GPU, and a resumed run would not repeat it exactly.
    x = jax.nn.one_hot(tokens.T, self.vocab, dtype=self.dtype)
    after = []
    for n, state in enumerate(carry):
      layer = Layer(x.shape[-1], self.units, self.dtype, name=f'layer_{n}')
      x, state = layer(x, state)
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
      after.append(state)
    logits = nn.Dense(self.vocab, kernel_init=nn.initializers.glorot_uniform(),
                      name='output')(x.astype(jnp.float32))
    return logits.swapaxes(0, 1), tuple(after)

  def start(self, rows: int):
    """The state before a piece: (c, h) of each layer, zeros."""
    c = jnp.zeros((rows, self.units), jnp.float32)
    return tuple((c, c.astype(self.dtype)) for _ in range(self.layers))


def shift(tokens):  # [B, L] -> [B, L]: the input that predicts each token.
  return jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=NOTHING)


# ---------------------------------------------------------------- examples


def preprocess(config):
  """A random crop that starts on a step; shorter pieces are padded."""
  steps = _steps(config)

  def fn(example, rng):
    voices = example['voices']
    start = rng.integers(max(len(voices) - steps, 0) + 1)
    voices = voices[start:start + steps]
    if config.model.transpose:
      reach = config.model.transpose
      voices = chorales.transpose(voices, rng.integers(-reach, reach + 1))
    return {'tokens': _pad(chorales.encode(voices), config.model.length)}

  return fn


def segments(config):
  """A whole piece as consecutive crops, the last one padded."""
  length = 4 * _steps(config)

  def fn(example):
    tokens = chorales.encode(example['voices'])
    return [{'tokens': _pad(tokens[i:i + length], length)}
            for i in range(0, len(tokens), length)]

  return fn


def prompt(config, count: int, *, primer: str = '', primer_s: float = 0.0,
           duration_s: float = 0.0, temperature: float = 1.0, top_k: int = 0,
           top_p: float = 1.0):
  """Conditions for `sample`: a MIDI file to continue, and how to draw.

  Args:
    config: of the run.
    count: number of samples.
    primer: MIDI file whose beginning every sample starts with.
    primer_s: how much of it, from its first note on; 0 for up to half of the
      sample.
    duration_s: length of a sample, primer included; 0 for that of training,
      and no shorter.
    temperature: 1 draws from the model, lower is safer, 0 takes the best.
    top_k: draws among this many tokens only, 0 for all.
    top_p: draws among the fewest tokens with this much mass.
  """
  step_s, steps = config.data.step_s, _steps(config)
  _require(temperature >= 0, f'temperature={temperature}', '0 or more')
  _require(0 <= top_k <= chorales.VOCAB, f'top_k={top_k}',
           f'0 (all) to {chorales.VOCAB}')
  _require(0 < top_p <= 1, f'top_p={top_p}', 'more than 0, up to 1')
  _require(primer_s == 0 or primer_s >= step_s, f'primer_s={primer_s}',
           f'0, or {step_s} (a sixteenth) and more')
  wanted = round(duration_s / step_s) if duration_s else steps
  _require(wanted >= steps, f'duration_s={duration_s}',
           f'0, or {steps * step_s} and more')
  rows = lambda value, dtype: np.full(count, value, dtype)
  batch = {
      'mask': rows(1, np.float32), 'index': np.arange(count, dtype=np.int32),
      'temperature': rows(temperature, np.float32),
      'top_k': rows(top_k, np.int32), 'top_p': rows(top_p, np.float32)}
  tokens = np.empty(0, np.int32)
  if primer:
    notes = midi.read(primer)
    try:
      voices = chorales.from_notes(notes, step_s, config.data.programs)
    except errors.UserError as e:
      raise errors.UserError(f'primer={primer}: {e}') from None
    kept = round(primer_s / step_s) if primer_s else wanted // 2
    tokens = chorales.encode(voices[:kept])
    _require(len(tokens) < 4 * wanted, f'primer_s={primer_s}',
             f'less than the {wanted * step_s} s of a sample, or '
             'duration_s=... for longer samples')
  if len(tokens) or wanted > steps:
    tokens = _pad(tokens, 4 * wanted, NOTHING)
    batch['primer'] = np.tile(tokens, (count, 1))
  return batch


def _steps(config) -> int:
  length = config.model.length
  if length < chorales.VOICES or length % chorales.VOICES:
    raise errors.UserError(
        f'config.model.length={length} is not a number of whole steps of four '
        f'voices; use {max(1, length // chorales.VOICES) * chorales.VOICES}')
  return length // chorales.VOICES


def _pad(tokens, length, value=chorales.PAD):
  return np.pad(tokens, (0, length - len(tokens)), constant_values=value)


def _require(good, given, works):
  if not good:
    raise errors.UserError(f'{given} does not work; use {works}')


# ---------------------------------------------------------------- model


def build(config) -> model_lib.Model:
  m = config.model
  vocab, length = chorales.VOCAB, 4 * _steps(config)
  net = LSTM(vocab, m.units, m.layers, m.dropout, jnp.dtype(config.dtype))
  tx = optax.chain(optax.clip_by_global_norm(m.clip),
                   optax.adam(m.learning_rate))

  def score(params, batch, key=None):
    """Per token [B, L]: nats, whether the best guess is right, whether real."""
    tokens = batch['tokens']
    logits, _ = net.apply({'params': params}, shift(tokens),
                          train=key is not None,
                          rngs=None if key is None else {'dropout': key})
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    real = (tokens != chorales.PAD) * batch['mask'][:, None]
    return nll, logits.argmax(-1) == tokens, real

  def init(key, batch):
    params = {'model': net.init(key, batch['tokens'][:1])['params']}
    return model_lib.TrainState.create(
        params, {'model': tx.init(params['model'])})

  def train_step(state, batch, key, stage):
    del stage  # One stage only.

    def loss_fn(params, batch, key):
      nll, right, real = score(params, batch, key)
      return (nll * real).sum(), (real.sum(), {'right': (right * real).sum()})

    params = state.params['model']
    loss, means, grads = optim.accumulate(
        loss_fn, params, batch, key, m.accumulate)
    updates, opt = tx.update(grads, state.opt['model'], params)
    state = state.replace(
        params={'model': optax.apply_updates(params, updates)},
        opt={'model': opt})
    return state, {'loss/nll': loss, 'train/accuracy': means['right'],
                   'train/grad_norm': optax.tree.norm(grads)}

  def eval_step(state, batch, key):
    del key  # Nothing is random.
    nll, right, real = score(state.params['model'], batch)
    return {'nll': model_lib.Mean.of(nll, real),
            'accuracy': model_lib.Mean.of(right.astype(jnp.float32), real)}

  @jax.jit
  def sample(state, batch, key):
    """Draws a row for each of batch['index'].

    A batch may have `primer` [B, P], tokens that a sample keeps, -1 where free
    (beyond config.model.length it makes the sample longer), and `temperature`,
    `top_k`, `top_p` [B] instead of the config's.
    """
    keys = model_lib.row_keys(key, batch['index'])
    rows = keys.shape[0]
    primer = batch.get('primer', jnp.zeros((rows, 0), jnp.int32))
    free = max(length - primer.shape[1], 0)
    primer = jnp.pad(primer, ((0, 0), (0, free)), constant_values=NOTHING)
    allowed = jnp.arange(vocab)[None] != chorales.PAD

    def step(carry, token):
      logits, carry = net.apply(
          {'params': state.params['model']}, token[:, None], carry)
      return carry, jnp.where(allowed, logits[:, 0], -jnp.inf)

    tokens = sampling.decode(
        step, net.start(rows), jnp.full(rows, NOTHING), keys, primer.shape[1],
        forced=primer, temperature=batch.get('temperature', m.temperature),
        top_k=batch.get('top_k', m.top_k), top_p=batch.get('top_p', m.top_p))
    return {'tokens': tokens,
            'roll': chorales.roll(chorales.decode(tokens))}

  return model_lib.Model(init=init, train_step=train_step,
                         eval_step=eval_step, sample=sample)
