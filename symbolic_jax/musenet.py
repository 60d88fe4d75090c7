"""MuseNet (Payne 2019), from what its announcement says.

A Transformer reads one token a note's start or end (symbolic_jax/
musenet_tokens.py), after a composer and a set of instruments; either is left
out now and then in training, so that neither has to be given. To a token's own
vector are added those of

  its place in the sample
  the time      one for all tokens between two waits, counted from the sample's
                beginning
  the chord     its number among the notes that begin at this time
  the part      which of 128 equal parts of the piece it is in
  the countdown how many tokens the piece goes on for, from 127 down to 0

Published are 72 layers, 24 heads, full attention to 4096 tokens and these
ideas. Width, optimiser and rates are not, nor what exactly is counted, nor how
rows are mixed (mixup): here all vectors of two rows, and their losses. What is
not published is ours; so is the choice of the blocks of the Sparse Transformer
(Child et al. 2019), whose memory-saving and kernels MuseNet was built on. Its
patterns of attention are settings of `config.model`:

  attention  'dense', 'strided' or 'fixed' (common/nn/attention.py); 'fused' is
             dense by a GPU's own kernel, which drops out no weights
  combine    'turns': layers see near keys and far ones in turns; 'both': each
             layer sees both; 'heads': half of the heads each

Not here: the 'inner critic', a second head that ranked samples, and a
transposition that gets less towards the end of training.

Shapes: B rows, L tokens.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import errors
from common.nn import attention, transformer
from symbolic_jax import language_model, musenet_tokens, pieces
from symbolic_jax.language_model import music

__all__ = ['build', 'music', 'preprocess', 'prompt', 'segments']

PARTS = 128  # Of a piece, and where its countdown begins.
CHORD = 32  # Notes of a chord that are told apart; ours.
SPARSE = ('strided', 'fixed')
PREFIX = 3  # Tokens before the music, at most.


# ---------------------------------------------------------------- examples


def preprocess(config):
  """A random crop of a piece's music, after composer and instruments."""
  length = config.model.length
  cut = _cutter(config, length)

  def fn(example, rng):
    prefix, music, room = cut(example, rng)
    start = int(rng.integers(max(len(music) - room, 0) + 1))
    return _row(config.model.length, prefix, music, start)

  return fn


def segments(config):
  """A piece as consecutive crops; what stands before the music is not scored.

  It is given again to each crop.
  """
  length = config.model.eval_length or config.model.length
  cut = _cutter(config, length)

  def fn(example):
    prefix, music, room = cut(example, None)
    counts = (np.arange(length) >= len(prefix)).astype(np.float32)
    return [_row(length, prefix, music, start) | {'counts': counts}
            for start in range(0, len(music), room)]

  return fn


def _cutter(config, length):
  kind = pieces.make(config)

  def fn(example, rng):
    """What stands before the music, the music, how much of it fits a row."""
    tokens = kind.encode(example, rng)
    begin = int(np.argmax(tokens == musenet_tokens.START + 1)) + 1
    return tokens[:begin], tokens[begin:], length - begin

  return fn


def _row(length, prefix, music, start):
  tokens = np.concatenate([prefix, music[start:start + length - len(prefix)]])
  return {'tokens': np.pad(tokens, (0, length - len(tokens)),
                           constant_values=pieces.PAD),
          'place': np.int32(start), 'total': np.int32(len(music))}


def prompt(config, count: int, *, composer: str = '', instruments: str = '',
           primer: str = '', primer_s: float = 0.0, piece_tokens: int = 0,
           temperature: float | None = None, top_k: int | None = None,
           top_p: float | None = None):
  """Conditions for `sample`; what is not given the model chooses.

  Args:
    config: of the run.
    count: number of samples.
    composer: or style: chopin, jazz, ...
    instruments: that may play, as in "piano,strings".
    primer: MIDI file whose beginning every sample starts with.
    primer_s: how much of it, from its first note on; 0 for up to half of the
      sample.
    piece_tokens: of how long a piece this is the beginning; 0: all of it, so
      that it comes to an end.
    temperature: 1 draws from the model, lower is safer, 0 takes the best.
    top_k: draws among this many tokens only, 0 for all.
    top_p: draws among the fewest tokens with this much mass; 1 for all.
  """
  kind, length = pieces.make(config), config.model.length
  errors.require(piece_tokens == 0 or piece_tokens >= length,
                 f'piece_tokens={piece_tokens}',
                 f'0, or {length} (a sample) and more')
  before = kind.conditions(composer, instruments)
  if len(before) and not primer:  # Which brings its own START.
    before = np.append(before, musenet_tokens.START + 1)
  batch = language_model.conditions(
      config, count, length, primer=primer, primer_s=primer_s,
      temperature=temperature, top_k=top_k, top_p=top_p, before=before)
  if piece_tokens:
    batch['total'] = np.full(count, piece_tokens, np.int32)
  return batch


# ---------------------------------------------------------------- model


@flax.struct.dataclass
class Place:
  """Where a row is: all [B] int32.

  Attributes:
    time: waits so far.
    chord: notes begun since the last of them.
    music: tokens of music so far, from the beginning of the piece.
  """

  time: jax.Array
  chord: jax.Array
  music: jax.Array

  @classmethod
  def start(cls, music):
    return cls(jnp.zeros_like(music), jnp.zeros_like(music), music)


def features(tokens, total, place: Place):
  """Of each input [B, L]: time, chord, part and countdown; and where we are.

  Args:
    tokens: [B, L] inputs, the first of them at `place`.
    total: [B], tokens of music in the whole piece, END among them.
    place: before these.
  """
  ids = tokens - 1
  is_wait = (ids >= musenet_tokens.WAIT) & (ids < musenet_tokens.START)
  is_start = musenet_tokens.is_start(ids)
  is_music = ((ids >= 0) & (ids < musenet_tokens.START)
              | (ids == musenet_tokens.END))
  so_far = lambda x: jnp.cumsum(x, 1, dtype=jnp.int32)
  time = place.time[:, None] + so_far(is_wait)
  begun = place.chord[:, None] + so_far(is_start)
  chord = begun - jax.lax.cummax(jnp.where(is_wait, begun, 0), axis=1)
  music = place.music[:, None] + so_far(is_music)
  last = total[:, None] - 1
  own = jnp.clip(music - is_music, 0, last)  # Its number in the piece.
  values = {
      'time': time,
      'chord': jnp.where(is_start, jnp.minimum(chord, CHORD - 1), 0),
      'part': PARTS * own // total[:, None],
      'countdown': jnp.minimum(last - own, PARTS - 1)}
  return values, Place(time[:, -1], chord[:, -1], music[:, -1])


def build(config):
  m = config.model
  _check(config)
  length = max(m.length, m.eval_length)
  sizes = {'time': length, 'chord': CHORD} if m.timing else {}
  if m.structure:
    sizes |= {'part': PARTS, 'countdown': PARTS}
  net = transformer.Transformer(
      vocab=pieces.make(config).vocab, width=m.width, layers=m.layers,
      heads=m.heads, attention_width=m.width, feed_forward=4 * m.width,
      place='learned', learned=length, added=tuple(sizes.values()),
      sparse=_sparse(m), fused=m.attention == 'fused', block=m.block,
      activation='gelu', output_scale=(2 * m.layers) ** -0.5,
      dropout=m.dropout, remat=m.remat, dtype=jnp.dtype(config.dtype))

  def added(tokens, total, place):
    values, place = features(tokens, total, place)
    return tuple(values[name] for name in sizes), place

  def whole(inputs):
    return added(inputs['tokens'], inputs['total'],
                 Place.start(inputs['place']))[0]

  def init(key, inputs):
    return net.init(key, inputs['tokens'], added=whole(inputs))['params']

  def logits(params, inputs, key, mix=None):
    if mix is not None:
      share, other = mix
      mix = transformer.Mix(share, other['tokens'], whole(other))
    return net.apply({'params': params}, inputs['tokens'], added=whole(inputs),
                     mix=mix, train=key is not None,
                     rngs=None if key is None else {'dropout': key})[0]

  def sampler(params, rows, tokens, batch):
    if tokens > length:
      raise errors.UserError(f'a sample of {tokens} tokens needs more places '
                             f'than the {length} that were learned; make it '
                             'shorter')
    single, params = net.for_steps(params)
    total = batch.get('total', jnp.full(rows, tokens - PREFIX))

    def step(carry, token):
      caches, position, place = carry
      values, place = added(token[:, None], total, place)
      out, caches = single.apply({'params': params}, token[:, None], (), caches,
                                 position, values)
      return (caches, position + 1, place), out[:, 0]

    place = Place.start(jnp.zeros(rows, jnp.int32))
    return (net.empty_caches(rows, tokens), jnp.int32(0), place), step

  def inputs(batch):
    return {'tokens': language_model.shift(batch['tokens']),
            'place': batch['place'], 'total': batch['total']}

  # As the Sparse Transformer was trained; its rate is that of the config.
  tx = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(optax.warmup_cosine_decay_schedule(
          0.0, m.learning_rate, m.warmup, m.decay), weight_decay=0.01))
  return language_model.build(config, language_model.Network(
      init, logits, sampler, inputs, m.mixup), tx)


def _sparse(m):
  """The patterns that layers take in turns."""
  if m.attention not in SPARSE:
    return ()
  parts = ('near', 'far') if m.combine == 'turns' else (m.combine,)
  return tuple(attention.Sparse(m.attention, m.stride, m.columns, part)
               for part in parts)


def _check(config):
  m = config.model
  errors.at_least(m, layers=1, heads=1, width=1, block=0, accumulate=1)
  errors.require(m.tokens == 'musenet', f'model.tokens={m.tokens!r}',
                 "'musenet'")
  errors.require(m.length > PREFIX, f'model.length={m.length}',
                 f'{PREFIX + 1} or more')
  errors.require(not m.eval_length or m.eval_length > PREFIX,
                 f'model.eval_length={m.eval_length}',
                 f'0, or {PREFIX + 1} or more')
  errors.require(m.width % m.heads == 0, f'model.width={m.width}',
                 f'a multiple of model.heads={m.heads}')
  errors.require(m.attention in ('dense', 'fused', *SPARSE),
                 f'model.attention={m.attention!r}',
                 "'dense', 'fused', 'strided' or 'fixed'")
  errors.require(m.combine in ('turns', 'both', 'heads'),
                 f'model.combine={m.combine!r}', "'turns', 'both' or 'heads'")
  if m.attention in SPARSE:
    errors.require(m.stride >= 1, f'model.stride={m.stride}',
                   'about the square root of model.length')
    errors.require(m.columns >= 1 and m.stride % m.columns == 0,
                   f'model.columns={m.columns}',
                   f'a divisor of model.stride={m.stride}')
    errors.require(m.combine != 'turns' or m.layers % 2 == 0,
                   f"model.combine='turns' with model.layers={m.layers}",
                   'an even number of them')
    errors.require(m.combine != 'heads' or m.heads % 2 == 0,
                   f"model.combine='heads' with model.heads={m.heads}",
                   'an even number of them')
  errors.require(m.mixup >= 0, f'model.mixup={m.mixup}', '0 (none) or more')
  errors.require(not m.mixup or config.batch_size // m.accumulate > 1,
                 f'model.mixup={m.mixup} with one row at a time (batch_size='
                 f'{config.batch_size}, model.accumulate={m.accumulate})',
                 'at least two, or model.mixup=0')
  errors.require(0 <= m.drop <= 1, f'model.drop={m.drop}', '0 to 1')
  errors.require(0 <= m.warmup < m.decay, f'model.warmup={m.warmup}',
                 f'0 or more, below model.decay={m.decay}')
  language_model.check_decay(config)
