"""Recordings of any length, in chunks of ten seconds or a little more.

The chunks of a recording are records of their own that follow each other, so
that a window of one is read without the rest.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import soxr

SECONDS = 10
# Read on both sides for the resampler: more than its filter is long, and a
# whole number of samples at all common rates.
_MARGIN_S = 0.16


class Sound(Protocol):
  """What is cut: its mono samples come one after the other."""

  sample_rate: int
  samples: int  # In all.

  def read(self, samples: int) -> np.ndarray:
    """The next ones, float32."""


class Chunk(NamedTuple):
  number: int  # From 0.
  span: tuple[int, int]  # [start, end), samples of the recording.
  audio: np.ndarray  # float32, with a margin on each side that has one.
  before: int  # Samples of the first margin.
  sample_rate: int

  def at(self, sample_rate: int) -> tuple[int, np.ndarray]:
    """At another rate: samples before this chunk, and its own as int16."""
    # Exact, but for the end of the recording.
    scaled = lambda n: -(-n * sample_rate // self.sample_rate)
    start, end = self.span
    audio = self.audio
    if sample_rate != self.sample_rate:
      audio = soxr.resample(audio, self.sample_rate, sample_rate)
    audio = audio[scaled(self.before):scaled(self.before + end - start)]
    audio = np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)
    return scaled(start), audio


def cut(sound: Sound) -> Iterator[Chunk]:
  """A recording in order; what is left over belongs to its last chunk."""
  size = SECONDS * sound.sample_rate
  margin = round(_MARGIN_S * sound.sample_rate)
  count = max(1, sound.samples // size)
  audio, begin = np.zeros(0, np.float32), 0  # Of what is read and needed.
  for number in range(count):
    start = number * size
    end = sound.samples if number == count - 1 else start + size
    audio = audio[max(0, start - margin) - begin:]
    begin = max(0, start - margin)
    more = sound.read(min(end + margin, sound.samples) - begin - len(audio))
    audio = np.concatenate([audio, more])
    yield Chunk(number, (start, end), audio, start - begin, sound.sample_rate)
