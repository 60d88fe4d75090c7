"""Companding of samples (mu-law), and decibels.

Three rules turn mu-law values into integers. They differ in nearly every
sample, so data and model must have the same one:

| rule | integers at mu=255 | who |
|---|---|---|
| floor | 0 to 255; silence is 128, back 8.6e-5 | WaveNet, torchaudio |
| librosa | -128 to 127, expanded unevenly: 127 is 0.957 | librosa |
| nsynth | -128 to 128, which int8 does not hold | NSynth's WaveNet |
"""

import math

import jax.numpy as jnp

from common import errors

RULES = ('floor', 'librosa', 'nsynth')


def mu_compress(x, mu: int = 255):
  """Samples in [-1, 1] to mu-law values in [-1, 1]."""
  x = jnp.asarray(x, jnp.float32)
  sign = jnp.where(x < 0, -1.0, 1.0)  # Not jnp.sign: silence has a slope.
  return sign * jnp.log1p(mu * (sign * x)) / math.log1p(mu)


def mu_expand(y, mu: int = 255):
  """Inverse of `mu_compress`."""
  y = jnp.asarray(y, jnp.float32)
  sign = jnp.where(y < 0, -1.0, 1.0)
  return sign * jnp.expm1(sign * y * math.log1p(mu)) / mu


def mu_encode(x, mu: int = 255, rule: str = 'floor'):
  """Samples in [-1, 1] to int32."""
  y = mu_compress(x, mu)
  half = (mu + 1) // 2
  if _checked(rule) == 'floor':
    q = jnp.floor((y + 1) / 2 * mu + 0.5)
  elif rule == 'librosa':
    q = jnp.ceil((y + 1) / 2 * mu) - half
  else:
    q = jnp.floor(y * half)
  return q.astype(jnp.int32)


def mu_decode(q, mu: int = 255, rule: str = 'floor'):
  """Samples, float32, of integers of that rule."""
  q = jnp.asarray(q, jnp.float32)
  if _checked(rule) == 'floor':
    y = 2 * q / mu - 1
  elif rule == 'librosa':
    y = 2 * q / (mu + 1)
  else:  # Middles of the steps, but silence stays silent.
    y = jnp.where(q == 0, 0.0, (q + 0.5) * 2 / (mu + 1))
  return mu_expand(y, mu)


def _checked(rule):
  if rule not in RULES:
    raise errors.UserError(f'mu-law rule {rule!r}; use {", ".join(RULES)}')
  return rule


def power_to_db(power, *, ref: float = 1.0, amin: float = 1e-10,
                top_db: float | None = None):
  """10 log10(power / ref), neither below `amin`.

  Args:
    top_db: Nothing is further below the loudest value of the whole array, as
      librosa has it with 80. The others of a batch then change an example.
  """
  power = jnp.asarray(power, jnp.float32)
  db = 10 * (jnp.log10(jnp.maximum(power, amin))
             - math.log10(max(ref, amin)))
  return db if top_db is None else jnp.maximum(db, db.max() - top_db)


def amplitude_to_db(amplitude, *, ref: float = 1.0, amin: float = 1e-5,
                    top_db: float | None = None):
  """20 log10(amplitude / ref), neither below `amin`."""
  return power_to_db(jnp.square(jnp.asarray(amplitude, jnp.float32)),
                     ref=ref**2, amin=amin**2, top_db=top_db)


def db_to_power(db, *, ref: float = 1.0):
  return ref * jnp.power(10.0, jnp.asarray(db, jnp.float32) / 10)


def db_to_amplitude(db, *, ref: float = 1.0):
  return ref * jnp.power(10.0, jnp.asarray(db, jnp.float32) / 20)
