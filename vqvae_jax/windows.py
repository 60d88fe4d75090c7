"""A codec on a sound of any length, in the device's memory of one window.

Windows overlap by what a code, or a decoded sample, depends on: what is kept
of them is what one pass over everything would give.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from common import errors


class Window(NamedTuple):
  """Samples [begin, end) are computed with, [start, stop) are kept."""

  begin: int
  end: int
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Windows:
  hops: dict[str, int]  # Samples of a code of each level.
  reach: int  # Samples on each side of its own hop that a code depends on.
  size: int  # Samples, a multiple of the largest hop.

  def of(self, length) -> Iterator[Window]:
    """All of one size, so that they are compiled once; less sound is one."""
    hop = max(self.hops.values())
    total = -(-length // hop) * hop
    if total <= self.size:
      yield Window(0, total, 0, total)
      return
    stop = 0
    for begin in [*range(0, total - self.size, self.size - 2 * self.reach),
                  total - self.size]:
      start, end = stop, begin + self.size
      stop = total if end == total else end - self.reach
      yield Window(begin, end, start, stop)

  def encode(self, of_window: Callable, audio, names) -> dict:
    """Codes {name: [T]} of a sound [N]; `of_window` has those of [1, n]."""
    parts = {name: [] for name in names}
    for w in self.of(len(audio)):
      inside = np.asarray(audio[w.begin:w.end], np.float32)
      window = np.pad(inside, (0, w.end - w.begin - len(inside)))
      codes = jax.device_get(of_window(window[None]))
      for name, part in parts.items():
        hop = self.hops[name]
        part.append(codes[name][0, (w.start - w.begin) // hop:
                                (w.stop - w.begin) // hop])
    return {name: np.concatenate(part) for name, part in parts.items()}

  def decode(self, of_window: Callable, codes) -> Iterator[np.ndarray]:
    """Blocks of the sound [N] of codes {name: [T]}."""
    lengths = {k: len(v) * self.hops[k] for k, v in codes.items()}
    if len(set(lengths.values())) != 1:
      raise errors.UserError('these codes are of sounds of different lengths: '
                             f'{lengths} samples')
    for w in self.of(min(lengths.values())):
      audio = jax.device_get(of_window({
          k: v[None, w.begin // self.hops[k]:w.end // self.hops[k]]
          for k, v in codes.items()}))[0]
      yield audio[w.start - w.begin:w.stop - w.begin]
