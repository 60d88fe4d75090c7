"""Classifier of single notes: pitch and family of instrument, from log-mel.

What Inception score, FID, pitch accuracy and entropy are measured with. That
of the GANSynth paper was never released, so this one is our own: a residual
network (He et al. 2016, pre-activation) that keeps the frequency axis to the
end, since pitch is a place on it. Numbers by different classifiers cannot be
compared: keep its workdir with the results.

Shapes: B batch, N samples, T frames, F bands, C channels, D features, K MIDI
pitches from `lowest_pitch`, I families.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import errors
from common.model import Mean, Model, TrainState
from common.nn.dropout import Dropout
from common.spectral import representations

FAMILIES = 11  # NSynth's.
_GROUP = 8  # Channels that are normalised together.
_SPARE = 1024  # Samples beyond a cut, where its two ends meet in an FFT.


class Prediction(NamedTuple):
  features: jax.Array  # [B, D], what FID and KID compare.
  pitch: jax.Array  # [B, K] logits.
  family: jax.Array  # [B, I] logits.


class Block(nn.Module):
  """Two convolutions beside a shortcut."""

  width: int
  stride: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):  # [B, T, F, C] -> [B, T / stride, F / stride, width]
    strides = (self.stride, self.stride)
    h = _norm_relu(x, self.dtype)
    if x.shape[-1] != self.width or self.stride > 1:
      x = nn.Conv(self.width, (1, 1), strides, use_bias=False,
                  dtype=self.dtype)(h)
    h = nn.Conv(self.width, (3, 3), strides, use_bias=False,
                dtype=self.dtype)(h)
    h = _norm_relu(h, self.dtype)
    return x + nn.Conv(self.width, (3, 3), use_bias=False, dtype=self.dtype)(h)


class Network(nn.Module):
  """Log-mel to features and logits."""

  widths: tuple[int, ...]  # Of each stage; all but the first halve T and F.
  blocks: int  # Of each stage.
  features: int
  pitches: int
  dropout: float = 0.0  # Of what the features are made from.
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train=False):  # [B, T, F, 1] -> Prediction
    x = (x + 4.0) / 4.0  # Log-mel of notes: mean about -4, deviation 4.
    x = nn.Conv(self.widths[0], (5, 5), (2, 2), use_bias=False,
                dtype=self.dtype)(x.astype(self.dtype))
    for i, width in enumerate(self.widths):
      for j in range(self.blocks):
        x = Block(width, 2 if i and not j else 1, self.dtype)(x)
    x = _norm_relu(x, self.dtype).mean(1)  # Over time; frequency stays.
    x = Dropout(self.dropout)(x.reshape(x.shape[0], -1), train)
    x = nn.Dense(self.features, dtype=self.dtype)(x).astype(jnp.float32)
    features = nn.relu(nn.LayerNorm()(x))  # Of order 1, as KID's kernel likes.
    return Prediction(features, nn.Dense(self.pitches, name='pitch')(features),
                      nn.Dense(FAMILIES, name='family')(features))


def _norm_relu(x, dtype):
  # By groups: no statistics of a batch, a sound's features are its own.
  return nn.relu(nn.GroupNorm(
      num_groups=None, group_size=min(_GROUP, x.shape[-1]), dtype=dtype)(x))


def _network(config):
  m = config.model
  for width in m.widths:
    if width > _GROUP and width % _GROUP:
      raise errors.UserError(
          f'model.widths={tuple(m.widths)}: {width} is not a multiple of '
          f'{_GROUP}; use {width // _GROUP * _GROUP}')
  net = Network(tuple(m.widths), m.blocks, m.features, m.pitches, m.dropout,
                jnp.dtype(config.dtype))
  mel = representations.make(
      'log_mel', m.length, config.data.sample_rate, n_fft=m.n_fft, hop=m.hop,
      bands=m.bands)
  return net, mel


def predictor(config):
  """The network as a pure function: (params, audio [B, any N]) -> Prediction.

  `params` is state.params['model']. Sounds are cut, or filled with zeros, to
  the length that it was trained on.
  """
  net, mel = _network(config)

  def predict(params, audio):
    audio = audio[:, :config.model.length]
    audio = jnp.pad(audio, ((0, 0), (0, config.model.length - audio.shape[1])))
    return net.apply({'params': params}, mel.encode(audio))

  return predict


# ---------------------------------------------------------------- examples


def preprocess(config):
  """A note, transposed, with noise and at another level.

  Transposition is by resampling: the pitch is another class then, and 63
  recorded notes become a few hundred.
  """
  d, m = config.data, config.model

  def fn(example, rng):
    lowest = m.lowest_pitch - int(example['pitch'])
    shift = int(rng.integers(max(-d.transpose, min(0, lowest)), 1 + min(
        d.transpose, max(0, lowest + m.pitches - 1))))
    row = _row(config, example, shift)
    level = row['audio'].std() * 10.0 ** (-rng.uniform(d.snr_db, 100.0) / 20)
    row['audio'] += rng.normal(size=m.length, scale=level).astype(np.float32)
    row['audio'] *= np.float32(10.0 ** (-rng.uniform(0, d.gain_db) / 20))
    return row

  return fn


def segments(config):
  """The note as it is."""
  return lambda example: [_row(config, example)]


def _row(config, example, shift=0):
  d, m = config.data, config.model
  pitch, audio = int(example['pitch']), np.array(example['audio'], np.float32)
  if not 0 <= pitch - m.lowest_pitch < m.pitches:
    raise errors.UserError(
        f'data.name={d.name!r} has a note of pitch {pitch}; model.lowest_pitch='
        f'{m.lowest_pitch} and model.pitches={m.pitches} reach from '
        f'{m.lowest_pitch} to {m.lowest_pitch + m.pitches - 1}')
  if shift:
    audio = transpose(audio[:math.ceil(m.length * 2**(shift / 12)) + _SPARE],
                      shift)
  return {'audio': np.pad(audio[:m.length], (0, max(0, m.length - len(audio)))),
          'pitch': np.int32(pitch + shift),
          'family': np.int32(example['instrument']['family'])}


def transpose(audio, semitones: int):
  """Audio [N] faster or slower, by cutting or padding its spectrum."""
  length = round(len(audio) * 2.0 ** (-semitones / 12))
  spectrum = np.fft.rfft(audio)[:length // 2 + 1]
  return (np.fft.irfft(spectrum, length) * (length / len(audio))
          ).astype(np.float32)


# ---------------------------------------------------------------- model


def build(config) -> Model:
  m = config.model
  net, mel = _network(config)
  tx = optax.adamw(optax.cosine_decay_schedule(m.learning_rate, m.decay_steps),
                   weight_decay=m.weight_decay)

  def score(params, batch, key=None):
    """{name: [B]}: nats and whether the best guess is right, of both."""
    found = net.apply({'params': params}, mel.encode(batch['audio']),
                      train=key is not None,
                      rngs=None if key is None else {'dropout': key})
    out = {}
    for name, logits, label in (
        ('pitch', found.pitch, batch['pitch'] - m.lowest_pitch),
        ('family', found.family, batch['family'])):
      out[f'{name}_nll'] = optax.softmax_cross_entropy_with_integer_labels(
          logits, label)
      out[f'{name}_accuracy'] = (logits.argmax(-1) == label).astype(jnp.float32)
    return out

  def init(key, batch):
    del batch  # The config has all the shapes.
    params = {'model': net.init(key, jnp.zeros((1, *mel.shape)))['params']}
    return TrainState.create(params, {'model': tx.init(params['model'])})

  def train_step(state, batch, key, stage):
    del stage  # One stage only.

    def loss_fn(params):
      found = {k: v.mean() for k, v in score(params, batch, key).items()}
      return found['pitch_nll'] + found['family_nll'], found

    params = state.params['model']
    (loss, found), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt = tx.update(grads, state.opt['model'], params)
    state = state.replace(
        params={'model': optax.apply_updates(params, updates)},
        opt={'model': opt})
    return state, {'loss/total': loss, 'loss/pitch': found['pitch_nll'],
                   'loss/family': found['family_nll'],
                   'train/pitch_accuracy': found['pitch_accuracy'],
                   'train/family_accuracy': found['family_accuracy']}

  def eval_step(state, batch, key):
    del key  # Nothing is random.
    return {k: Mean.of(v, batch['mask'])
            for k, v in score(state.params['model'], batch).items()}

  return Model(init=init, train_step=train_step, eval_step=eval_step)
