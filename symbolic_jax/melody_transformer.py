"""Music Transformer that plays to a melody (Huang et al. 2018, table 4).

An encoder reads the melody of a few seconds of music, ten tokens a second
(symbolic_jax/melody.py), and a decoder writes all that is played there, melody
included, as events and END. Both are those of tensor2tensor
(common/nn/transformer.py), with relative positions (`distances`,
`encoder_distances`; 0: none) in their attention to themselves, and none in the
decoder's attention to the encoder.

The released code gives the encoder the decoder's kind of attention. Its
relative one is made for a mask of what follows: without it, keys that follow
the query get terms of other distances. Here the encoder has distances both
ways. The released encoder's constant 'target space' vector is left out.

Examples are as in the released data: windows of 5 to 30 s with the notes that
begin there, ended where the window ends; stretched and transposed, melody and
all, before they are encoded. There every piece was cut ten times over in
advance, here there is a new window of it in each epoch. One with more events
than `model.length` is halved until its parts fit; all of them are scored, but
training takes only the first.

Likelihood: nats per token, END among them, in consecutive windows of
`model.eval_s`: every note counts once, in the window that it begins in.

Shapes: B rows, L tokens, S tokens of melodies.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import errors, midi, optim
from common.nn import transformer
from symbolic_jax import language_model, pieces
from symbolic_jax import melody as melody_lib

__all__ = ['build', 'music', 'preprocess', 'prompt', 'segments']

# What is played to if no melody is given: Ah! vous dirai-je, maman (1761).
TUNE = (60, 60, 67, 67, 69, 69, 67, 65, 65, 64, 64, 62, 62, 60)
TUNE_S = 0.5  # A note; every seventh is twice as long.


# ---------------------------------------------------------------- examples


def preprocess(config):
  """A window of a piece, with its melody."""
  kind, rows = pieces.make(config), _rows(config)

  def fn(example, rng):
    notes = _any_window(kind.notes(example), rng, *config.model.window_s)
    return rows(notes, rng)[0]

  return fn


def segments(config):
  """A whole piece as consecutive windows; those without notes are left out."""
  kind, rows, length = pieces.make(config), _rows(config), config.model.eval_s

  def fn(example):
    notes = kind.notes(example)
    count = int(notes['start_s'].max() / length) + 2  # However it is rounded.
    parts = (_window(notes, n * length, (n + 1) * length)
             for n in range(count))
    return [row for part in parts if len(part) for row in rows(part)]

  return fn


def music(config):
  """A whole piece, or with an rng a window of it, as it is shown."""
  kind, length = pieces.make(config), config.model.eval_s

  def fn(example, rng):
    notes = kind.notes(example)
    if rng is not None:
      notes = _any_window(notes, rng, length, length)
    return {k: x[0] for k, x in kind.shown(kind.played(notes)[None]).items()}

  return fn


def _any_window(notes, rng, least, most):
  """Of so many seconds, at any time; where no note is, at the nearest one."""
  length = rng.uniform(least, most)
  start = rng.uniform(0, max(notes['end_s'].max() - length, 0))
  part = _window(notes, start, start + length)
  if not len(part):
    start = notes['start_s'][np.abs(notes['start_s'] - start).argmin()]
    part = _window(notes, start, start + length)
  return part


def _window(notes, start, end):
  """The notes that begin there, ended where it ends; time begins at 0."""
  notes = notes[(notes['start_s'] >= start) & (notes['start_s'] < end)]
  notes['end_s'] = np.minimum(notes['end_s'], end) - start
  notes['start_s'] -= start
  return notes


def _rows(config):
  kind, length = pieces.make(config), config.model.length
  pad = lambda x, n: np.pad(x, (0, n - len(x)), constant_values=pieces.PAD)

  def fn(notes, rng=None):
    """Notes of a window -> its example, or those of its parts."""
    tokens, melody = kind.row(notes, rng)
    if len(tokens) <= length:
      return [{'tokens': pad(tokens, length),
               'melody': pad(melody, kind.hears)}]
    middle = notes['end_s'].max() / 2
    if middle < 1 / 50:  # Halves would be shorter than two steps of 10 ms.
      raise errors.UserError(
          f'config.model.length={length} is too short for {len(tokens)} events '
          f'in {2 * middle:.2f} s; use {len(tokens)} or more')
    parts = _window(notes, 0, middle), _window(notes, middle, np.inf)
    return [row for part in parts if len(part) for row in fn(part, rng)]

  return fn


def prompt(config, count: int, *, melody: str = '', melody_s: float = 0.0,
           primer: str = '', primer_s: float = 0.0,
           temperature: float | None = None, top_k: int | None = None,
           top_p: float | None = None, beams: int = 0):
  """Conditions for `sample`: a melody to play to, and how to draw.

  Args:
    config: of the run.
    count: number of samples.
    melody: MIDI file; where it has several notes at once, their upper line is
      the melody. Without one it is "Ah! vous dirai-je, maman".
    melody_s: how much of it, from its first note on; 0 for all.
    primer: MIDI file whose beginning every sample starts with; the melody is
      told from the same moment on.
    primer_s: how much of it, from its first note on; 0 for up to half of the
      tokens of a sample.
    temperature: 1 draws from the model, lower is safer, 0 takes the best.
    top_k: draws among this many tokens only, 0 for all.
    top_p: draws among the fewest tokens with this much mass.
    beams: draws nothing; the samples are the likeliest that a search finds
      which keeps so many beginnings.
  """
  kind = pieces.make(config)
  language_model.check_part('melody', melody, melody_s)
  batch = language_model.conditions(
      config, count, config.model.length, primer=primer, primer_s=primer_s,
      temperature=temperature, top_k=top_k, top_p=top_p, beams=beams)
  if melody:
    with errors.about(f'melody={melody}'):
      given = kind.melody_of(melody, melody_s)
  else:
    given = kind.melody.encode(_tune())[:kind.hears]
  given = np.pad(given, (0, kind.hears - len(given)),
                 constant_values=pieces.PAD)
  return batch | {'melody': np.tile(given, (count, 1))}


def _tune():
  notes = np.zeros(len(TUNE), midi.NOTE)
  beats = np.ones(len(TUNE))
  beats[6::7] = 2
  notes['end_s'] = np.cumsum(beats) * TUNE_S
  notes['start_s'] = notes['end_s'] - beats * TUNE_S
  notes['pitch'] = TUNE
  return notes


# ---------------------------------------------------------------- model


def build(config):
  m = config.model
  _check(config)
  kind = pieces.make(config)
  shape = {'width': m.width, 'layers': m.layers, 'heads': m.heads,
           'attention_width': m.attention_width,
           'feed_forward': m.feed_forward, 'block': m.block,
           'dropout': m.dropout, 'remat': m.remat,
           'dtype': jnp.dtype(config.dtype)}
  encoder = transformer.Encoder(vocab=kind.melody.vocab,
                                distances=m.encoder_distances, **shape)
  decoder = transformer.Transformer(vocab=kind.vocab, distances=m.distances,
                                    **shape)

  def encode(params, melody, key=None):
    return encoder.apply(
        {'params': params['encoder']}, melody, melody != melody_lib.PAD,
        train=key is not None, rngs=None if key is None else {'dropout': key})

  def init(key, inputs):
    first, second = jax.random.split(key)
    memory, variables = encoder.init_with_output(
        first, inputs['melody'], inputs['melody'] != melody_lib.PAD)
    return {'encoder': variables['params'],
            'decoder': decoder.init(second, inputs['tokens'],
                                    memory=memory)['params']}

  def logits(params, inputs, key):
    keys = (None, None) if key is None else jax.random.split(key)
    memory = encode(params, inputs['melody'], keys[0])
    return decoder.apply(
        {'params': params['decoder']}, inputs['tokens'], memory=memory,
        train=key is not None,
        rngs=None if key is None else {'dropout': keys[1]})[0]

  def sampler(params, rows, tokens, batch):
    """The encoder runs once, and so do the keys and values made of it."""
    single, apart = decoder.for_steps(params['decoder'])
    memories = decoder.memories(apart, encode(params, batch['melody']))

    def step(carry, token):
      caches, position = carry
      out, caches = single.apply({'params': apart}, token[:, None], (), caches,
                                 position, memory=memories)
      return (caches, position + 1), out[:, 0]

    return (decoder.empty_caches(rows, tokens), jnp.int32(0)), step

  def inputs(batch):
    return {'tokens': language_model.shift(batch['tokens']),
            'melody': batch['melody']}

  # Adam as tensor2tensor sets it; no clipping, no label smoothing.
  tx = optax.adam(optim.inverse_root(m.learning_rate, m.width, m.warmup),
                  b1=0.9, b2=0.997, eps=1e-9)
  return language_model.build(config, language_model.Network(
      init, logits, sampler, inputs), tx)


def _check(config):
  m = config.model
  errors.at_least(m, layers=1, heads=1, width=1, attention_width=1,
                  feed_forward=1, distances=0, encoder_distances=0, block=0,
                  warmup=1)
  errors.require(m.melody in melody_lib.WAYS, f'model.melody={m.melody!r}',
                 ' or '.join(map(repr, melody_lib.WAYS)))
  errors.require(m.tokens == 'accompaniment', f'model.tokens={m.tokens!r}',
                 "'accompaniment'")
  errors.require(not m.eval_length, f'model.eval_length={m.eval_length}',
                 '0: how long windows are is model.eval_s')
  errors.require(
      len(m.window_s) == 2 and 0 < m.window_s[0] <= m.window_s[1] < np.inf,
      f'model.window_s={tuple(m.window_s)}',
      '(5.0, 30.0): the least and the most')
  errors.require(0 < m.eval_s < np.inf, f'model.eval_s={m.eval_s}',
                 'a number of seconds')
  errors.require(m.width % 2 == 0 and m.width % m.heads == 0,
                 f'model.width={m.width}',
                 f'an even multiple of model.heads={m.heads}')
  errors.require(m.attention_width % m.heads == 0,
                 f'model.attention_width={m.attention_width}',
                 f'a multiple of model.heads={m.heads}')
