"""LSTM language model: PerformanceRNN's network, for performances and chorales.

The baseline row of the Music Transformer (Huang et al. 2018, table 3). The
network is that of the released PerformanceRNN: one-hot tokens, a stack of TF
BasicLSTMCells, a linear layer to the logits of the next token. What differs
from the released code, and why:

  * It clips each variable's gradient at 3; here their global norm is clipped.
  * It starts from a given first event; here from a zero vector, so that every
    token of a piece is predicted and counted.
  * It leaves dropout on in its evaluation; here it is off.

With `config.model.attention` the first layer also looks back at so many of its
last outputs, as in the paper's row "LSTM + attention", whose code was not
released: here it is the wrapper of Magenta's attention_rnn.

Examples, likelihood and sampling: symbolic_jax/language_model.py. A segment of
a piece is scored from a zero state.

Shapes: B rows, L tokens, V vocabulary, H units, A outputs that are looked
back at, T time steps of the network.
Inside the network time comes first: [T, B, ...].
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from common import errors
from common import model as model_lib
from common.nn.dropout import Dropout
from symbolic_jax import language_model, pieces
from symbolic_jax.language_model import music, preprocess, prompt, segments

__all__ = ['build', 'music', 'preprocess', 'prompt', 'segments']


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


class AttentiveLayer(nn.Module):
  """A BasicLSTMCell layer that looks back at its last outputs.

  TF's AttentionCellWrapper, Bahdanau et al.'s attention: what was seen at one
  step is an input to the next, and mixed into the output. Before a piece there
  are outputs of 0, which can be looked at.
  """

  inputs: int
  units: int
  span: int  # How many outputs; A.
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, carry):  # [T, B, inputs] -> [T, B, H]
    glorot = nn.initializers.glorot_uniform()
    units = self.units
    dot = lambda x, w: jnp.dot(x.astype(self.dtype), w.astype(self.dtype),
                               preferred_element_type=jnp.float32)

    def dense(name, rows, columns):
      kernel = self.param(f'{name}_kernel', glorot, (rows, columns))
      bias = self.param(f'{name}_bias', nn.initializers.zeros, (columns,))
      return lambda *parts: dot(jnp.concatenate(parts, -1), kernel) + bias[None]

    enter = dense('enter', self.inputs + units, self.inputs)
    gates = dense('gates', self.inputs + units, 4 * units)
    query = dense('query', 2 * units, units)
    leave = dense('leave', 2 * units, units)
    key = self.param('key', glorot, (units, units))
    value = self.param('value', nn.initializers.lecun_uniform(), (units, 1))

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(carry, x):
      c, h, seen, outputs, keys = carry
      c, h = cell(gates(enter(x, seen), h), c)
      energy = dot(jnp.tanh(keys + query(c, h)[:, None]), value)  # [B, A, 1]
      seen = (nn.softmax(energy, axis=1) * outputs).sum(1)
      out = leave(h, seen)
      push = lambda window, new: jnp.concatenate(
          [window[:, 1:], new[:, None].astype(self.dtype)], axis=1)
      after = c, h, seen, push(outputs, out), push(keys, dot(out, key))
      return after, out.astype(self.dtype)

    carry, out = jax.lax.scan(step, carry, x)
    return out, carry

  @staticmethod
  def start(rows, units, span, dtype):
    state = jnp.zeros((rows, units), jnp.float32)
    window = jnp.zeros((rows, span, units), dtype)
    return state, state, state, window, window


class LSTM(nn.Module):
  """Logits of the next token after each input token."""

  vocab: int
  units: int
  layers: int
  dropout: float = 0.0  # Of each layer's output, as in the released code.
  attention: int = 0  # To so many outputs of the first layer; 0: none.
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
      args, name = (x.shape[-1], self.units), f'layer_{n}'
      layer = (AttentiveLayer(*args, self.attention, self.dtype, name=name)
               if self.attention and not n else
               Layer(*args, self.dtype, name=name))
      x, state = layer(x, state)
      x = Dropout(self.dropout)(x, train)
      after.append(state)
    logits = nn.Dense(self.vocab, kernel_init=nn.initializers.glorot_uniform(),
                      name='output')(x.astype(jnp.float32))
    return logits.swapaxes(0, 1), tuple(after)

  def start(self, rows: int):
    """The state before a piece: zeros for each layer."""
    c = jnp.zeros((rows, self.units), jnp.float32)
    first, *others = [(c, c.astype(self.dtype))] * self.layers
    if self.attention:
      first = AttentiveLayer.start(
          rows, self.units, self.attention, self.dtype)
    return first, *others


# ---------------------------------------------------------------- model


def build(config) -> model_lib.Model:
  m = config.model
  errors.at_least(m, layers=1, units=1)
  errors.require(m.attention >= 0, f'model.attention={m.attention}',
                 '0 (none), or how many outputs to look at, 40 say')
  net = LSTM(pieces.make(config).vocab, m.units, m.layers, m.dropout,
             m.attention, jnp.dtype(config.dtype))

  def init(key, inputs):
    return net.init(key, inputs)['params']

  def logits(params, inputs, key):
    return net.apply({'params': params}, inputs, train=key is not None,
                     rngs=None if key is None else {'dropout': key})[0]

  def sampler(params, rows, tokens, batch):
    del tokens, batch  # Its state is of one size, and knows no conditions.

    def step(carry, inputs):
      out, carry = net.apply({'params': params}, inputs[:, None], carry)
      return carry, out[:, 0]

    return net.start(rows), step

  return language_model.build(
      config, language_model.Network(init, logits, sampler),
      optax.chain(optax.clip_by_global_norm(m.clip),
                  optax.adam(m.learning_rate)))
