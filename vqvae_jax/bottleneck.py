"""A codebook inside a model of pictures, as `config.model` says.

  codebook        'averages', a Codebook in `state.vars`, or 'gradient', an
                  array in `params`
  codebook_size, code_width, codebook_init, decay, first_count, debias,
  smoothing, restart_below: see quantize.Averages
  beta            weight of the commitment
  corruption      () or weights of the code before, the code itself and the one
                  after it: what training takes instead of each code

Shapes: B batch, D width of a code, K codes.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from common import errors
from vqvae_jax import pictures, quantize

CODEBOOKS = ('averages', 'gradient')


class Quantised(NamedTuple):
  vectors: jax.Array  # [B, ..., D]; their gradient goes to z.
  codes: jax.Array  # [B, ...]
  z: jax.Array  # [B, ..., D]
  book: Any  # That they were encoded with.
  penalty: jax.Array  # [B]


@dataclasses.dataclass(frozen=True)
class Bottleneck:
  averages: quantize.Averages
  by_gradient: bool
  beta: float
  corruption: tuple[float, ...]

  def create(self, key):
    """A Codebook, or codes [K, D]."""
    book = self.averages.create(key)
    return book.codes if self.by_gradient else book

  def codes(self, book):
    return book if self.by_gradient else book.codes

  def quantise(self, z, book, key=None, step=None) -> Quantised:
    """In training with `key` and `step`: codes may begin at step 0."""
    if key is not None and not self.by_gradient:
      book = self.averages.begin(book, z, key, step)
    codes = self.codes(book)
    indices = quantize.nearest(z, codes)
    if key is not None and self.corruption:
      weights = jnp.log(jnp.array(self.corruption))
      shift = jax.random.categorical(
          jax.random.fold_in(key, 1), weights, shape=indices.shape) - 1
      indices = (indices + shift) % self.averages.size
    penalty = self.beta * quantize.commitment(z, codes, indices)
    if self.by_gradient:
      penalty += quantize.codebook_loss(z, codes, indices)
    vectors = quantize.straight_through(z, codes, indices)
    return Quantised(vectors, indices, z, book, penalty)

  def update(self, q: Quantised, key, step):
    """(the book after the step, what to log of it)."""
    if not self.by_gradient:
      return self.averages.update(
          q.book, q.z, q.codes, jax.random.fold_in(key, 2), step)
    counts = jnp.zeros(self.averages.size).at[q.codes.reshape(-1)].add(1.0)
    return q.book, {'used': (counts > 0).mean(),
                    'perplexity': quantize.perplexity(counts)}


def make(config) -> Bottleneck:
  c = config.model
  if c.codebook not in CODEBOOKS:
    raise errors.UserError(f'model.codebook={c.codebook!r} is not one of '
                           f'{", ".join(map(repr, CODEBOOKS))}')
  by_gradient = c.codebook == 'gradient'
  if by_gradient and c.codebook_init in ('data', 'kmeans'):
    raise errors.UserError(
        f"model.codebook_init={c.codebook_init!r} is for codebook='averages'; "
        "with codebook='gradient' use 'uniform' or 'normal'")
  if c.beta < 0:
    raise errors.UserError(f'model.beta={c.beta} is below 0')
  weights = tuple(c.corruption)
  if weights and (len(weights) != 3 or min(weights) < 0 or not sum(weights)):
    raise errors.UserError(
        f'model.corruption={weights} is neither () nor three weights, of the '
        'code before, the code and the one after it, such as (.1, .8, .1)')
  return Bottleneck(quantize.Averages(
      size=c.codebook_size, width=c.code_width, init=c.codebook_init,
      decay=c.decay, first_count=c.first_count, debias=c.debias,
      smoothing=c.smoothing, restart_below=c.restart_below),
      by_gradient, c.beta, weights)


def prompt(config, count, *, audio: str = '', pitch: int = -1,
           instrument_family: int = -1, digit: int = -1):
  """A sound through the codes and back.

  audio: the sound file; it is mixed down and resampled. Rows are its windows
    in their order, again from the first after the last.
  pitch: MIDI number that the decoder is told, if it was trained with one.
  instrument_family: 0 to 10, likewise.
  digit: likewise.
  """
  if not audio:
    raise errors.UserError(
        'a codec makes no sounds of its own; give --prompt=audio=FILE, or '
        '--from_eval to hear those of the evaluation split')
  return pictures.prompt(
      config, count, audio, pictures.make(config, 1).hop, pitch=pitch,
      instrument_family=instrument_family, digit=digit)
