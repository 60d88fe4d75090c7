"""What all language models of music share: examples, likelihood, sampling.

A model file brings a network and an optimiser (`build`), and re-exports
`preprocess`, `segments`, `prompt` and `music` from here. Which tokens there are
is said by `config.model.tokens`: symbolic_jax/pieces.py.

Likelihood: nats per token, over all tokens but padding. A piece longer than
`config.model.length` is scored in consecutive segments, the last one what is
left: every token is counted once, and none is predicted from more context than
in training (unless `config.model.eval_length` asks for it).

Shapes: B rows, L tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common import errors, optim, progress, sampling
from common import model as model_lib
from symbolic_jax import pieces

NOTHING = -1  # As an input token: there is none. As a primer's: a free one.


class Network(NamedTuple):
  """Logits of the next token.

  Attributes:
    init: (key, inputs) -> params.
    logits: (params, inputs, key) -> [B, L, V] after each input; with a key
      there is dropout. With `mixup` also of (share [B], inputs): how much of
      its own vector an input keeps, and whose the rest is.
    sampler: (params, rows, tokens, batch) -> (carry, step), for pieces of so
      many tokens; step: (carry, token [B]) -> (carry, [B, V]).
    inputs: batch -> inputs, a tree of arrays [B, ...].
    mixup: a and b of the beta distribution of that share; 0: none.
    window: how many tokens its places are learned for; longer samples are
      drawn window by window. 0: as many as asked for at once.
  """

  init: Callable[..., Any]
  logits: Callable[..., jax.Array]
  sampler: Callable[..., tuple[Any, Callable[..., tuple[Any, jax.Array]]]]
  inputs: Callable[..., Any] = lambda batch: shift(batch['tokens'])
  mixup: float = 0.0
  window: int = 0


def shift(tokens):  # [B, L] -> [B, L]: the input that predicts each token.
  return jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=NOTHING)


# ---------------------------------------------------------------- examples


def preprocess(config):
  """A random crop of a piece; a shorter piece is padded."""
  kind, length = pieces.make(config), config.model.length

  def fn(example, rng):
    tokens = _crop(kind, kind.encode(example, rng), length, rng)
    return {'tokens': _pad(tokens, length, pieces.PAD)}

  return fn


def segments(config):
  """A whole piece as consecutive crops, the last one padded."""
  kind = pieces.make(config)
  length = config.model.eval_length or config.model.length

  def fn(example):
    tokens = kind.encode(example, None)
    return [{'tokens': _pad(tokens[i:i + length], length, pieces.PAD)}
            for i in range(0, len(tokens), length)]

  return fn


def music(config):
  """A whole piece, or with an rng a crop, as it is shown; not varied."""
  kind, length = pieces.make(config), config.model.length

  def fn(example, rng):
    tokens = kind.encode(example, None)
    if rng is not None:
      tokens = _crop(kind, tokens, length, rng)
    return {k: x[0] for k, x in kind.shown(tokens[None]).items()}

  return fn


def prompt(config, count: int, *, primer: str = '', primer_s: float = 0.0,
           duration_s: float = 0.0, tokens: int = 0,
           temperature: float | None = None, top_k: int | None = None,
           top_p: float | None = None, beams: int = 0):
  """Conditions for `sample`: a MIDI file to continue, and how to draw.

  Args:
    config: of the run.
    count: number of samples.
    primer: MIDI file whose beginning every sample starts with.
    primer_s: how much of it, from its first note on; 0 for up to half of the
      sample.
    duration_s: length of a sample, primer included, where tokens last equally
      long (chorales, at 120 beats a minute, whatever a primer's tempo is).
    tokens: length of a sample in tokens, primer included; 0 for that of
      training, and no shorter. Where places are counted, longer ones are drawn
      half a window at a time.
    temperature: 1 draws from the model, lower is safer, 0 takes the best.
    top_k: draws among this many tokens only, 0 for all.
    top_p: draws among the fewest tokens with this much mass; 1 for all.
    beams: draws nothing; the samples are the likeliest that a search finds
      which keeps so many beginnings. If pieces may end, short ones win.
  """
  kind, length = pieces.make(config), config.model.length
  errors.require(not (tokens and duration_s), f'tokens={tokens}',
                 'it or duration_s, not both')
  errors.require(tokens % kind.group == 0, f'tokens={tokens}',
                 f'a multiple of {kind.group}')
  errors.require(np.isfinite(duration_s), f'duration_s={duration_s}',
                 'a number')
  wanted = tokens if tokens else kind.count(
      duration_s) if duration_s else length
  errors.require(wanted >= length, f'tokens={tokens}' if tokens else
                 f'duration_s={duration_s}',
                 f'0, or {kind.least(length)} and more')
  return conditions(
      config, count, wanted, primer=primer, primer_s=primer_s,
      temperature=temperature, top_k=top_k, top_p=top_p, beams=beams,
      longer=', or tokens=... for longer samples')


def conditions(config, count: int, wanted: int, *, primer: str, primer_s: float,
               temperature: float | None, top_k: int | None,
               top_p: float | None, beams: int = 0, before=(),
               longer: str = ''):
  """What `prompt` returns, for samples of `wanted` tokens.

  Args:
    config, count, primer, ..., beams: as `prompt` has them.
    wanted: no fewer than config.model.length.
    before: tokens that come before those of the primer.
    longer: what else to do where there is no room for a primer.
  """
  kind, length = pieces.make(config), config.model.length
  draws = sampling.draws(count, kind.vocab, temperature=temperature,
                         top_k=top_k, top_p=top_p)
  check_part('primer', primer, primer_s)
  batch = {
      'mask': np.ones(count, np.float32),
      'index': np.arange(count, dtype=np.int32), **draws}
  given = np.array(before, np.int32)
  if primer:
    with errors.about(f'primer={primer}'):
      music = kind.primer(primer, primer_s)
    room = wanted - len(given)
    if not primer_s:
      most = kind.group * (min(wanted // 2, room - 1) // kind.group)
      if len(music) > most:
        progress.say(f'primer={primer}: its first {most} of {len(music)} '
                     'tokens; primer_s= says how much')
      music = music[:most]
    errors.require(
        len(music) < room, f'primer_s={primer_s} ({len(music)} tokens)',
        f'fewer than the {room} tokens that a sample has for it, or primer_s=0'
        f'{longer}')
    given = np.append(given, music)
  if beams:
    errors.require(beams >= count, f'beams={beams} for {count} samples',
                   f'{count} or more')
    errors.require(not draws, f'beams={beams} with {", ".join(draws)}',
                   'one or the other: a search draws nothing')
    batch['beams'] = np.zeros((count, beams), np.float32)
  if len(given) or wanted > length:
    batch['primer'] = np.tile(_pad(given, wanted, NOTHING), (count, 1))
  return batch


def check_part(name: str, path: str, seconds: float) -> None:
  """Refuses a prompt NAME_s, how much of the file NAME is meant."""
  errors.require(0 <= seconds < np.inf, f'{name}_s={seconds}',
                 'a number of seconds, 0 or more')
  errors.require(path or not seconds, f'{name}_s={seconds} without a file',
                 f'it with {name}=FILE.mid')


def check_decay(config) -> None:
  """Refuses steps at a learning rate of 0."""
  m = config.model
  errors.require(not m.decay or config.steps <= m.decay,
                 f'steps={config.steps} with a rate that is 0 from '
                 f'model.decay={m.decay} on', f'model.decay={config.steps}')


def _crop(kind, tokens, length, rng):
  places = max(len(tokens) - length, 0) // kind.group + 1
  start = kind.group * int(rng.integers(places))
  return tokens[start:start + length]


def _pad(tokens, length, value):
  return np.pad(tokens, (0, length - len(tokens)), constant_values=value)


def _before(batch):
  """For each row the one before it, for the first the last.

  All in one array, so that devices exchange one message, before all else:
  several that wait for nothing have no order, and two devices that begin with
  different ones wait for each other.
  """
  leaves, tree = jax.tree.flatten(batch)
  bits = [jax.lax.bitcast_convert_type(x, jnp.int32).reshape(len(x), -1)
          for x in leaves]
  rolled = jnp.split(
      jnp.roll(jnp.concatenate(bits, 1), 1, axis=0),
      np.cumsum([x.shape[1] for x in bits])[:-1], axis=1)
  return tree.unflatten(
      jax.lax.bitcast_convert_type(new.reshape(x.shape), x.dtype)
      for new, x in zip(rolled, leaves, strict=True))


# ---------------------------------------------------------------- model


def build(config, net: Network, tx: optax.GradientTransformation
          ) -> model_lib.Model:
  m, kind = config.model, pieces.make(config)
  errors.at_least(m, accumulate=1)
  errors.require(config.batch_size % m.accumulate == 0,
                 f'model.accumulate={m.accumulate}',
                 f'a divisor of batch_size={config.batch_size}')
  sampling.check_draws(
      kind.vocab, {k: m[k] for k in sampling.DRAWS}, 'model.')
  grammar = kind.grammar

  def score(logits, batch):
    """Per token [B, L]: nats, whether the best guess is right, whether real.

    A batch may say in `counts` [B, L] that some are there for the others only.
    """
    tokens = batch['tokens']
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    real = (tokens != pieces.PAD) * batch['mask'][:, None]
    if 'counts' in batch:
      real *= batch['counts']
    return nll, logits.argmax(-1) == tokens, real

  def init(key, batch):
    params = {'model': net.init(key, jax.tree.map(
        lambda x: x[:1], net.inputs(batch)))}
    return model_lib.TrainState.create(
        params, {'model': tx.init(params['model'])})

  def mixed_loss(params, batch, key):
    """Zhang et al. 2018: two rows' vectors mixed, and their losses likewise."""
    key, own = jax.random.split(key)
    mix = jax.random.beta(own, net.mixup, net.mixup, batch['mask'].shape)
    before = _before(batch)
    logits = net.logits(params, net.inputs(batch), key,
                        (mix, net.inputs(before)))
    parts = []
    for share, rows in ((mix, batch), (1 - mix, before)):
      nll, right, real = score(logits, rows)
      real *= share[:, None]
      parts.append([(nll * real).sum(), real.sum(), (right * real).sum()])
    loss, weight, right = map(sum, zip(*parts, strict=True))
    return loss, (weight, {'right': right})

  def train_step(state, batch, key, stage):
    del stage  # One stage only.

    def loss_fn(params, batch, key):
      if net.mixup:
        return mixed_loss(params, batch, key)
      nll, right, real = score(
          net.logits(params, net.inputs(batch), key), batch)
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
    """Nats per token, per event of the kind, and bits per second of music."""
    del key  # Nothing is random.
    nll, right, real = score(
        net.logits(state.params['model'], net.inputs(batch), None), batch)
    total = model_lib.Mean.of(nll, real)
    per = lambda weight: model_lib.Mean(total.total, (weight * real).sum())
    bits = total.total / np.log(2)
    values = {
        'nll': total,
        'accuracy': model_lib.Mean.of(right.astype(jnp.float32), real),
        'bits_per_s': model_lib.Mean(
            bits, (kind.seconds(batch['tokens']) * real).sum())}
    for name, weight in kind.events(batch['tokens']).items():
      values[f'nats_per_{name}'] = per(weight)
    if m.eval_length > m.length:  # How it does beyond what it was trained on.
      for start in range(0, m.eval_length, m.length):
        part = slice(start, start + m.length)
        values[f'nll_from_{start}'] = model_lib.Mean.of(
            nll[:, part], real[:, part])
    return values

  def primer_of(batch):
    rows = batch['index'].shape[0]
    primer = batch.get('primer', jnp.zeros((rows, 0), jnp.int32))
    free = max(m.length - primer.shape[1], 0)
    return jnp.pad(primer, ((0, 0), (0, free)), constant_values=NOTHING)

  def sampler(params, state, rows, tokens, batch):
    """What `sampling` takes: a step of the network and of the grammar.

    The state is the grammar's, before the first of these tokens.
    """
    start, advance = net.sampler(params, rows, tokens, batch)

    def step(carry, token):
      carry, state = carry
      state = grammar.advance(state, token)
      carry, logits = advance(carry, token)
      return (carry, state), jnp.where(
          grammar.allowed(state), logits, -jnp.inf)

    return step, (start, state)

  def per_token(score, primer, tokens):
    drawn = (primer < 0) & (tokens != pieces.PAD)
    return score / jnp.maximum(drawn.sum(1), 1)

  @jax.jit
  def search(params, batch):
    rows, beams = batch['beams'].shape
    primer = primer_of(batch)
    length = primer.shape[1]
    tokens, score = sampling.beam_search(
        *sampler(params, grammar.start(1), 1, length,
                 jax.tree.map(lambda x: x[:1], batch)),
        jnp.int32(NOTHING), length, beams,
        forced=primer[0])
    tokens = tokens[:rows]
    return tokens, per_token(score[:rows], primer, tokens)

  @jax.jit
  def draw(params, batch, key):
    keys = model_lib.row_keys(key, batch['index'])
    primer = primer_of(batch)
    (rows, length), given = primer.shape, {
        k: batch.get(k, m[k]) for k in sampling.DRAWS}
    size = min(net.window or length, length)
    kept = kind.group * (size // 2 // kind.group)

    def window(state, keys, forced):
      return sampling.decode_scored(
          *sampler(params, state, rows, size, batch), jnp.full(rows, NOTHING),
          keys, size, forced=forced, **given)

    def go_on(carry, number_and_free):
      """The end of a window is read again as the beginning of the next."""
      state, tokens = carry
      number, free = number_and_free
      left, tokens = jnp.split(tokens, [size - kept], 1)
      state, _ = jax.lax.scan(
          lambda state, token: (grammar.advance(state, token), None), state,
          left.T)
      tokens, scores = window(
          state, jax.vmap(jax.random.fold_in, (0, None))(keys, number),
          jnp.concatenate([tokens, free], 1))
      return (state, tokens), (tokens[:, kept:], scores[:, kept:])

    start = grammar.start(rows)
    tokens, scores = window(start, keys, primer[:, :size])
    more = -(-(length - size) // (size - kept))
    if more:
      free = jnp.pad(primer[:, size:], (
          (0, 0), (0, size + more * (size - kept) - length)),
                     constant_values=NOTHING).reshape(rows, more, -1)
      _, rest = jax.lax.scan(
          go_on, (start, tokens),
          (size + jnp.arange(more), free.swapaxes(0, 1)))
      tokens, scores = (jnp.concatenate(
          [first, others.swapaxes(0, 1).reshape(rows, -1)], 1)[:, :length]
          for first, others in zip((tokens, scores), rest, strict=True))
    drawn = (primer < 0) & (tokens != pieces.PAD)
    return tokens, per_token(
        jnp.where(drawn, scores, 0.0).sum(1), primer, tokens)

  def sample(state, batch, key):
    """Draws a row for each of batch['index'].

    A batch may have `primer` [B, P], tokens that a sample keeps, -1 where free
    (beyond config.model.length it makes the sample longer), and `temperature`,
    `top_k`, `top_p` [B] instead of the config's. 'score' is the mean
    log-likelihood of the tokens drawn, among those that the grammar allows.

    With `beams` [B, how many] nothing is drawn: the rows are the best that a
    beam search finds from the first row's primer.
    """
    params = state.params['model']
    if 'beams' in batch:
      rows, beams = batch['beams'].shape
      errors.require(rows <= beams, f'beams={beams} for {rows} samples',
                     f'{rows} or more')
      wanted = batch['primer'].shape[1] if 'primer' in batch else m.length
      errors.require(wanted <= (net.window or wanted),
                     f'beams={beams} for {wanted} tokens',
                     f'up to {net.window} tokens, or no beams')
      tokens, score = search(params, batch)
    else:
      tokens, score = draw(params, batch, key)
    return {'tokens': tokens, 'score': score, **kind.shown(tokens)}

  return model_lib.Model(init=init, train_step=train_step,
                         eval_step=eval_step, sample=sample)
