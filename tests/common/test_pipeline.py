import itertools
import multiprocessing

import jax
import numpy as np
import pytest

from common import errors
from common.data import pipeline


class Source:

  def __init__(self, n):
    self._n = n

  def __len__(self):
    return self._n

  def __getitem__(self, i):
    return {'i': np.int32(i)}


def jitter(example, rng):
  return {'i': example['i'], 'draw': np.float32(rng.random())}


def take(n, **kwargs):
  defaults = dict(batch_size=6, seed=1)
  batches = pipeline.train(Source(10), jitter, **{**defaults, **kwargs})
  return list(itertools.islice(batches, n))


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_each_epoch_holds_every_example_once_in_another_order():
  order = np.concatenate([b['i'] for b in take(5)]).reshape(3, 10)
  for epoch in order:
    assert sorted(epoch) == list(range(10))
  assert not (order[0] == order[1]).all()


def test_draws_differ_between_epochs_and_between_seeds():
  rows = {(int(i), float(d)) for b in take(5)
          for i, d in zip(b['i'], b['draw'], strict=True)}
  assert len(rows) == 30
  assert not (take(1)[0]['i'] == take(1, seed=2)[0]['i']).all()


@pytest.mark.parametrize('start', [1, 4, 9])
def test_starting_at_batch_n_equals_skipping_n(start):
  assert_same(take(3, start=start), take(start + 3)[start:])


@pytest.mark.parametrize('start', [0, 3])
def test_processes_together_see_the_global_batch_in_order(monkeypatch, start):
  whole = take(4, start=start)
  parts = []
  for p in range(2):
    monkeypatch.setattr(jax, 'process_index', lambda p=p: p)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    parts.append(take(4, start=start))
  both = [{k: np.concatenate([a[k], b[k]]) for k in a}
          for a, b in zip(*parts, strict=True)]
  assert_same(both, whole)


def test_worker_processes_change_nothing_not_even_on_resume():
  from absl import flags
  flags.FLAGS.mark_as_parsed()  # Grain's workers read their own flags.
  whole = take(6)
  assert_same(take(3, workers=2), whole[:3])
  assert_same(take(3, workers=2, start=3), whole[3:])
  assert_same(take(2, workers=1, start=4), whole[4:])
  assert not multiprocessing.active_children()


def test_an_empty_split_is_refused():
  with pytest.raises(errors.UserError, match='no examples'):
    pipeline.train(Source(0), jitter, batch_size=2, seed=0)


def twice(example):
  return [{'i': example['i'], 'part': np.int32(p)}
          for p in range(int(example['i']) % 3)]  # 0, 1 or 2 rows each.


@pytest.mark.parametrize('batch_size', [1, 3, 4, 9, 50])
def test_evaluation_sees_every_row_once_and_masks_padding(batch_size):
  rows = []
  for batch in pipeline.evaluate(Source(10), twice, batch_size=batch_size):
    assert {len(x) for x in batch.values()} == {batch_size}
    rows += [(int(i), int(p), int(n)) for i, p, n, m in zip(
        batch['i'], batch['part'], batch['index'], batch['mask'], strict=True)
             if m]
  want = [(i, p) for i in range(10) for p in range(i % 3)]
  assert [r[:2] for r in rows] == want
  assert [r[2] for r in rows] == list(range(len(want)))


def test_evaluation_blocks_of_two_processes_make_the_whole():
  whole = list(pipeline.evaluate(Source(10), twice, batch_size=4))
  parts = [list(pipeline.evaluate(Source(10), twice, batch_size=4,
                                  process=(p, 2))) for p in range(2)]
  both = [{k: np.concatenate([a[k], b[k]]) for k in a}
          for a, b in zip(*parts, strict=True)]
  assert_same(both, whole)
