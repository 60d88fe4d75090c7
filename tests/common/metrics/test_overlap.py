"""common/metrics/overlap.py against sets of tuples."""

import itertools
import json
import pathlib
import tracemalloc

import numpy as np
import pytest

from common.metrics import overlap, symbolic

CHORALES = (pathlib.Path(__file__).resolve().parents[4]
            / 'shared/data/jsb_chorales')


def grams(piece, n):
  piece = list(piece)
  return [tuple(piece[i:i + n]) for i in range(len(piece) - n + 1)]


def naive(samples, training, n):
  """Share of each sample's n-grams that are in the training set."""
  known = {gram for piece in training for gram in grams(piece, n)}
  return [np.mean([gram in known for gram in grams(sample, n)])
          if len(sample) >= n else np.nan for sample in samples]


def naive_run(sample, training, i):
  """The longest run from place i by growing it, and the pieces that have it."""
  best, where = 0, {-1}
  for number, piece in enumerate(training):
    for j in range(len(piece)):
      n = 0
      while (i + n < len(sample) and j + n < len(piece)
             and sample[i + n] == piece[j + n]):
        n += 1
      if n > best:
        best, where = n, {number}
      elif n == best:
        where.add(number)
  return best, where


def pieces(rng, count, vocab, low=0, high=120):
  return [rng.integers(vocab, size=n) for n in rng.integers(low, high, count)]


@pytest.mark.parametrize('seed, vocab', [(0, 2), (1, 3), (2, 5), (3, 12)])
@pytest.mark.parametrize('block', [7, 1 << 18])
def test_shares_equal_sets_of_tuples(seed, vocab, block, monkeypatch):
  monkeypatch.setattr(overlap, '_BLOCK', block)
  rng = np.random.default_rng(seed)
  training, samples = pieces(rng, 12, vocab), pieces(rng, 6, vocab)
  samples[2] = np.concatenate([samples[2], training[3][5:60]])
  copies = overlap.find(samples, training)
  for n in range(4, 41):
    np.testing.assert_allclose(
        copies.share(n), naive(samples, training, n), atol=1e-12)


@pytest.mark.parametrize('shortest', [1, 4, 32])
def test_runs_equal_growing_them(shortest):
  rng = np.random.default_rng(shortest)
  training, samples = pieces(rng, 5, 3, 40, 90), pieces(rng, 3, 3, 30, 50)
  samples += [training[1].copy(), np.concatenate([samples[0], training[4]])]
  copies = overlap.find(samples, training, shortest)
  for sample, runs, numbers in zip(
      samples, copies.runs, copies.pieces, strict=True):
    for i, (run, number) in enumerate(zip(runs, numbers, strict=True)):
      want, where = naive_run(sample, training, i)
      if want < shortest:
        want, where = 0, {-1}
      assert run == want and number in where
  np.testing.assert_array_equal(
      copies.longest(), [runs.max() for runs in copies.runs])


def test_a_copied_passage_is_found_with_its_length_and_piece():
  rng = np.random.default_rng(0)
  training = [rng.integers(388, size=1000) for _ in range(20)]
  sample = rng.integers(388, size=500)
  sample[50:350] = training[13][600:900]
  copies = overlap.find([sample, training[5]], training)
  np.testing.assert_array_equal(copies.longest(), [300, 1000])
  assert copies.runs[0][50] == 300 and copies.pieces[0][50] == 13
  assert copies.share(32)[0] == pytest.approx((300 - 31) / (500 - 31))
  assert copies.share(1000)[1] == 1 and np.isnan(copies.share(1000)[0])


def test_runs_do_not_go_over_the_ends_of_pieces():
  whole = np.arange(40)
  copies = overlap.find([whole], [whole[:20], whole[20:]])
  np.testing.assert_array_equal(copies.runs[0][[0, 10, 16, 17, 20, 39]],
                                [20, 10, 4, 0, 20, 0])
  two = overlap.find([whole[:20], whole[20:]], [whole])
  np.testing.assert_array_equal(two.longest(), [20, 20])


def test_order_matters_and_types_do_not():
  a = np.array([1, 2, 3, 4, 5, 6], np.int16)
  assert overlap.find([a[::-1]], [a]).longest()[0] == 0
  assert overlap.find([a.tolist()], iter([a.astype(np.uint8)])).longest() == 6


def test_nothing_has_nothing():
  assert overlap.find([], [[1, 2, 3, 4]]).longest().shape == (0,)
  for training in ([], [[]], [[1, 2, 3]]):
    copies = overlap.find([[], [1, 2, 3, 4, 5]], training)
    np.testing.assert_array_equal(copies.longest(), [0, 0])
    np.testing.assert_array_equal(copies.share(4), [np.nan, 0])


def test_lengths_that_were_not_looked_for_are_an_error():
  copies = overlap.find([[1, 2, 3, 4, 5]], [[1, 2, 3]])
  with pytest.raises(ValueError, match='shortest=3'):
    copies.share(3)
  with pytest.raises(ValueError, match='shortest=33'):
    overlap.find([], [], 33)


def test_notes_are_the_same_in_another_key_and_with_other_lengths():
  rng = np.random.default_rng(0)
  onset = np.sort(rng.integers(200, size=60))
  notes = np.stack([onset, onset + 1, rng.integers(40, 80, 60)], 1)
  other = notes + [5, 9, -7]  # Later, longer and lower.
  for any_key, longest in ((True, 59), (False, 0)):
    sample, piece = (overlap.symbols(n, any_key) for n in (other, notes))
    assert overlap.find([sample], [piece]).longest()[0] == longest
  shuffled = rng.permutation(notes + [5, 9, 0])
  np.testing.assert_array_equal(overlap.symbols(shuffled, False),
                                overlap.symbols(notes, False))


def test_each_interval_and_step_is_a_symbol_of_its_own():
  seen = {}
  for step, interval in itertools.product(range(4), range(-127, 128)):
    if step or interval >= 0:  # Together: from low to high.
      low = max(0, -interval)
      notes = np.array([[0, 1, low], [step, step + 1, low + interval]])
      seen[int(overlap.symbols(notes)[0])] = step, interval
  assert len(seen) == 4 * 255 - 127
  assert overlap.symbols(np.zeros((0, 3), int)).shape == (0,)


def test_memory_does_not_grow_with_the_training_set():
  rng = np.random.default_rng(0)
  samples = [rng.integers(388, size=500)]

  def peak(count):
    tracemalloc.start()
    overlap.find(samples, (rng.integers(388, size=5000) for _ in range(count)))
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size

  peak(1)
  assert peak(60) < 1.2 * peak(6)


def test_chorales_copy_themselves_in_any_key_but_not_each_other():
  path = CHORALES / 'Jsb16thSeparated.json'
  if not path.exists():
    pytest.skip(f'the chorales are not in {CHORALES}')
  splits = json.loads(path.read_text())

  def symbols(piece, key=0):
    voices = np.array(piece)
    roll = voices[:, None] == np.arange(128)[:, None]
    return overlap.symbols(symbolic.notes_of(roll) + [0, 0, key])

  training = [symbols(piece) for piece in splits['train']]
  test = [symbols(piece) for piece in splits['test']]
  own = overlap.find([symbols(splits['train'][7], 3)], training)
  assert own.share(32)[0] == 1 and own.longest()[0] == len(training[7])
  copies = overlap.find(test, training)
  shares = [copies.share(n).mean() for n in (4, 8, 16, 32)]
  assert max(copies.longest() / [len(piece) for piece in test]) < .5
  np.testing.assert_allclose(
      shares, [np.mean(naive(test, training, n)) for n in (4, 8, 16, 32)])
