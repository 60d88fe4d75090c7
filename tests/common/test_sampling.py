"""Restriction of logits against brute force, and the decoding loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common import sampling


def brute_force(logits, temperature, top_k, top_p):
  """Probabilities [V] of one row, one token at a time, in float64."""
  p = np.exp(np.float64(logits) / temperature)
  p /= p.sum()
  best_first = sorted(range(len(p)), key=lambda i: (-p[i], i))
  if top_k:
    best_first = best_first[:top_k]
  left = sum(p[i] for i in best_first)
  kept, mass = [], 0.0
  for i in best_first:
    if mass >= top_p and kept:
      break
    kept.append(i)
    mass += p[i] / left
  out = np.zeros_like(p)
  out[kept] = p[kept]
  return out / out.sum()


def softmax(logits):
  return np.asarray(jax.nn.softmax(logits, axis=-1))


@pytest.mark.parametrize('top_k', [0, 1, 3, 11, 20])
@pytest.mark.parametrize('top_p', [1e-6, 0.3, 0.9, 1.0])
@pytest.mark.parametrize('temperature', [0.5, 1.0, 1.7])
def test_restrict_equals_brute_force(temperature, top_k, top_p):
  logits = np.random.default_rng(top_k).normal(size=(7, 11)) * 2
  got = softmax(sampling.restrict(jnp.asarray(logits), temperature, top_k,
                                  top_p))
  want = [brute_force(row, temperature, top_k, top_p) for row in logits]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_each_row_may_have_its_own_settings():
  logits = np.random.default_rng(0).normal(size=(4, 9))
  temperature = np.array([0.7, 1.0, 2.0, 1.0])
  top_k, top_p = np.array([0, 2, 5, 0]), np.array([1.0, 1.0, 0.5, 0.8])
  got = softmax(sampling.restrict(jnp.asarray(logits), temperature, top_k,
                                  top_p))
  want = [brute_force(*row)
          for row in zip(logits, temperature, top_k, top_p, strict=True)]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_top_p_keeps_the_token_that_crosses():
  logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
  kept = lambda p: np.isfinite(sampling.restrict(logits, top_p=p)).sum()
  assert [kept(p) for p in (0.0, 0.01, 0.49, 0.51, 0.79, 0.81, 0.96)] == [
      1, 1, 1, 2, 2, 3, 4]


def test_top_k_keeps_exactly_k_of_equal_tokens():
  got = sampling.restrict(jnp.zeros((1, 6)), top_k=4)
  assert np.isfinite(got).sum() == 4


def test_top_p_of_one_keeps_tokens_that_round_to_nothing():
  logits = jnp.array([[0.0, -30.0, -40.0]])
  got = sampling.restrict(logits, top_k=3, top_p=1.0)
  assert np.isfinite(got).all()


@pytest.mark.parametrize('temperature', [0.0, 1e-8, 1e-3])
def test_temperature_towards_zero_is_argmax_among_what_is_allowed(temperature):
  logits = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
  best = logits.argmax(1)
  logits[np.arange(50), best] = -np.inf  # Forbidden by a grammar.
  got = sampling.restrict(jnp.asarray(logits), temperature)
  keys = jax.random.split(jax.random.key(0), 50)
  draws = jax.vmap(jax.random.categorical)(keys, got)
  np.testing.assert_array_equal(draws, logits.argmax(1))


@pytest.mark.parametrize('temperature', [0.0, 1.0, 1e30])
def test_what_the_grammar_forbids_stays_forbidden(temperature):
  logits = jnp.array([[5.0, -jnp.inf, 1.0], [-jnp.inf, -jnp.inf, -2.0]])
  got = sampling.restrict(logits, temperature, 2, 0.999)
  assert np.isneginf(got[0, 1]) and np.isneginf(got[1, :2]).all()
  assert np.isfinite(got[:, 2]).any() and not np.isnan(got).any()


# ---------------------------------------------------------------- decode

CHAIN = np.array([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.2, 0.0, 0.8]])


def chain_step(carry, token):  # A Markov chain that counts its steps.
  return carry + 1, jnp.log(jnp.asarray(CHAIN, jnp.float32))[token]


def keys_of(rows, seed=0):
  return jax.random.split(jax.random.key(seed), rows)


def test_decode_draws_from_the_conditional_distribution():
  rows, length = 64, 200
  tokens = np.asarray(jax.jit(lambda k: sampling.decode(
      chain_step, 0, jnp.zeros(rows, jnp.int32), k, length))(keys_of(rows)))
  before = np.concatenate([np.zeros((rows, 1), int), tokens[:, :-1]], 1)
  for a in range(3):
    seen = np.bincount(tokens[before == a], minlength=3)
    deviation = np.sqrt(CHAIN[a] * (1 - CHAIN[a]) / seen.sum())
    assert (abs(seen / seen.sum() - CHAIN[a]) <= 4 * deviation).all()


def test_decode_feeds_each_token_to_the_next_step():
  step = lambda carry, token: (carry, jax.nn.one_hot((token + 1) % 10, 10))
  tokens = sampling.decode(step, (), jnp.array([3, 7]), keys_of(2), 5,
                           temperature=0.0)
  np.testing.assert_array_equal(tokens, [[4, 5, 6, 7, 8], [8, 9, 0, 1, 2]])


def test_forced_tokens_are_kept_and_continued():
  step = lambda carry, token: (carry, jax.nn.one_hot((token + 1) % 10, 10))
  forced = jnp.array([[5, 5, -1, -1], [-1, 0, -1, 8]])
  tokens = sampling.decode(step, (), jnp.array([1, 1]), keys_of(2), 4,
                           forced=forced, temperature=0.0)
  np.testing.assert_array_equal(tokens, [[5, 5, 6, 7], [2, 0, 1, 8]])


def test_rows_do_not_depend_on_their_neighbours():
  draw = lambda keys: np.asarray(sampling.decode(
      chain_step, 0, jnp.zeros(len(keys), jnp.int32), keys, 30))
  keys = keys_of(5)
  everyone = draw(keys)
  np.testing.assert_array_equal(draw(keys[3:4]), everyone[3:4])
  assert len({tuple(row) for row in everyone}) == 5


def chain_log_likelihood(tokens, first=0):
  pairs = zip([first, *tokens[:-1]], tokens, strict=True)
  with np.errstate(divide='ignore'):
    return np.log([CHAIN[a, b] for a, b in pairs])


def test_scores_are_the_likelihood_whatever_was_drawn_from():
  for options in ({}, {'temperature': 0.3}, {'top_k': 1}):
    tokens, scores = sampling.decode_scored(
        chain_step, 0, jnp.zeros(4, jnp.int32), keys_of(4), 20, **options)
    for row, score in zip(np.asarray(tokens), scores, strict=True):
      np.testing.assert_allclose(
          score, chain_log_likelihood(row), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- beams


def net(seed, vocab):
  """A step whose logits depend on all tokens so far, and on their order."""
  table = jnp.asarray(
      3 * np.random.default_rng(seed).normal(size=(1000, vocab)), jnp.float32)

  def step(carry, token):  # [1], [1]
    carry = (carry * 7 + token + 2) % 1000
    return carry, table[carry]
  return step


def exhaustive(step, vocab, length, forced):
  """All pieces that keep `forced`, the likeliest first."""
  found = []
  for tokens in itertools.product(range(vocab), repeat=length):
    if any(f not in (-1, t) for f, t in zip(forced, tokens, strict=True)):
      continue
    carry, before, total = jnp.zeros(1, jnp.int32), -1, 0.0
    for token, fixed in zip(tokens, forced, strict=True):
      carry, logits = step(carry, jnp.array([before]))
      if fixed < 0:
        total += float(jax.nn.log_softmax(logits[0])[token])
      before = token
    found.append((total, tokens))
  return sorted(found, reverse=True)


def search(step, length, beams, forced):
  tokens, score = jax.jit(lambda: sampling.beam_search(
      step, jnp.zeros(1, jnp.int32), jnp.int32(-1), length, beams,
      forced=jnp.array(forced)))()
  return np.asarray(tokens), np.asarray(score)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('forced', [[-1] * 4, [2, -1, 0, -1]])
def test_a_beam_for_every_beginning_is_exhaustive_search(seed, forced):
  step = net(seed, 3)
  want = exhaustive(step, 3, 4, forced)
  tokens, score = search(step, 4, 27, forced)
  n = min(27, len(want))
  np.testing.assert_array_equal(tokens[:n], [t for _, t in want[:n]])
  np.testing.assert_allclose(score[:n], [s for s, _ in want[:n]], rtol=1e-5)
  assert np.isneginf(score[n:]).all()


def test_one_beam_takes_the_best_token_each_time_and_more_do_no_worse():
  scores = []
  for seed in range(8):
    step = net(seed, 5)
    tokens, score = search(step, 12, 1, [-1] * 12)
    greedy = sampling.decode(
        step, jnp.zeros(1, jnp.int32), jnp.array([-1]), keys_of(1), 12,
        temperature=0.0)
    np.testing.assert_array_equal(tokens, greedy)
    more = search(step, 12, 16, [-1] * 12)[1]
    assert (np.diff(more) <= 0).all()
    scores.append((score[0], more[0]))
  one, more = np.transpose(scores)
  assert (more >= one - 1e-5).all() and (more > one + 0.1).any()
