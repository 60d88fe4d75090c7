"""Units -> serialised examples, in this process or in many.

The order stays, and the bytes do not depend on how many processes work.
"""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import process
from typing import NamedTuple

from tensorflow_datasets.core import example_serializer

from common.data.builders import base

IN_FLIGHT_BYTES = 64 << 20  # Of units at work or waiting for it.
PATIENCE_S = 2.0  # Of work in this process before others are started.


class Decoded(NamedTuple):
  records: list[bytes]
  tally: dict[str, float]
  skipped: str = ''  # Why there are no records.


class Decoder:
  """unit -> Decoded. Can be sent to another process."""

  def __init__(self, builder):
    self._builder, self._features = builder, builder.info.features
    self._serializer = example_serializer.ExampleSerializer(
        self._features.get_serialized_info())

  def __call__(self, unit: base.Unit | base.LeftOut) -> Decoded:
    if isinstance(unit, base.LeftOut):
      return Decoded([], {}, unit.reason)
    records, tally = [], collections.Counter()
    examples = iter(self._builder.example(unit))
    while True:
      try:
        key, example = next(examples)
      except StopIteration:
        return Decoded(records, dict(tally))
      except base.Skip as e:
        return Decoded([], {}, str(e))
      except Exception as e:  # One odd file must not end hours of work.
        return Decoded([], {}, _unexpected(e))
      try:
        encoded = self._serializer.get_tf_example(
            self._features.encode_example(example))
      except Exception as e:  # All files would have it: not to be skipped.
        raise RuntimeError(f'{unit.name}: example {key!r} does not have the '
                           'features of its data set') from e
      # Otherwise two processes write the same example in different order.
      records.append(encoded.SerializeToString(deterministic=True))
      tally.update(self._builder.tally(example))


class Workers:
  """Decodes a stream of units in order, a bounded number of them at a time.

  Worker processes start once the work is worth it. A unit that kills its
  process is skipped.
  """

  def __init__(self, decoder: Decoder, count: int):
    self._decoder, self._count = decoder, count
    self._pool, self._patience_s = None, PATIENCE_S

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._pool:
      self._pool.shutdown(cancel_futures=True)

  def __call__(self, units: Iterable[tuple[int, base.Unit | base.LeftOut]]
               ) -> Iterator[tuple[int, base.Unit | base.LeftOut, Decoded]]:
    waiting, flying = collections.deque(), 0

    def first():
      nonlocal flying
      shard, unit, future = waiting[0]
      try:
        result = future.result()
      except process.BrokenProcessPool:
        self._one_by_one(waiting)
        result = waiting[0][2].result()
      waiting.popleft()
      flying -= unit.size
      return shard, unit, result

    for shard, unit in units:
      while waiting and (len(waiting) >= 8 * self._count
                         or flying + unit.size > IN_FLIGHT_BYTES):
        yield first()
      flying += unit.size
      waiting.append((shard, unit, self._submit(unit)))
    while waiting:
      yield first()

  def _submit(self, unit):
    if isinstance(unit, base.Unit) and self._count and self._patience_s <= 0:
      try:
        return self._running().submit(_decode, unit)
      except process.BrokenProcessPool as e:  # `first` finds out about it.
        future = concurrent.futures.Future()
        future.set_exception(e)
        return future
    future = concurrent.futures.Future()
    began = time.perf_counter()
    future.set_result(self._decoder(unit))
    self._patience_s -= time.perf_counter() - began
    return future

  def _running(self):
    if self._pool is None:
      self._pool = concurrent.futures.ProcessPoolExecutor(
          self._count, multiprocessing.get_context('spawn'), _start_worker,
          (self._decoder,))
      # If not even this works, it is no fault of a unit.
      self._pool.submit(os.getpid).result()
    return self._pool

  def _one_by_one(self, waiting):
    """Decodes again what was lost when a process died, and finds out why."""
    self._pool = None
    for i, (shard, unit, future) in enumerate(waiting):
      if future.done() and not future.exception():
        continue
      again = concurrent.futures.Future()
      try:
        again.set_result(self._running().submit(_decode, unit).result())
      except process.BrokenProcessPool:
        self._pool = None
        again.set_result(Decoded(
            [], {}, 'killed the process that decoded it'))
      waiting[i] = shard, unit, again


def _start_worker(decoder):
  global _decoder
  _decoder = decoder
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The first process ends us.
  # It may be killed: nothing else would tell us.
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
  multiprocessing.parent_process().join()
  os._exit(1)


def _decode(unit):
  return _decoder(unit)


def _unexpected(error):
  frame = error.__traceback__
  while frame.tb_next:
    frame = frame.tb_next
  file = os.path.basename(frame.tb_frame.f_code.co_filename)
  return f'unexpected {type(error).__name__} ({file}:{frame.tb_lineno})'
