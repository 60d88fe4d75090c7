"""Recordings of any length, in chunks of ten seconds or a little more.

The chunks of a recording are records of their own that follow each other, so
that a window of one is read without the rest: `cut` makes them, `Recordings`,
`read_on` and `window` read across their seams.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

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


class Recordings:
  """A split's records; each chunk can fetch the one that follows it."""

  def __init__(self, source):
    self._source = source

  def __len__(self):
    return len(self._source)

  def __getitem__(self, i: int) -> dict:
    example = self._source[i]
    if 'chunk' not in example:
      return example
    return {**example, 'following': functools.partial(
        self._following, i, example['id'], example['chunk'])}

  def _following(self, i, recording, number) -> dict | None:
    """None at the end of a recording, or of the part of it in this split."""
    if i + 1 == len(self):
      return None
    example = self[i + 1]
    after = example['id'] == recording and example['chunk'] == number + 1
    return example if after else None


def read_on(example: dict[str, Any], length: int) -> np.ndarray:
  """`length` samples from the start of a record on, or all that there are."""
  parts = [example['audio'][:length]]
  missing = length - len(parts[0])
  following = example.get('following', lambda: None)
  while missing > 0 and (after := following()):
    parts.append(after['audio'][:missing])
    missing -= len(parts[-1])
    following = after['following']
  return np.concatenate(parts)


def window(example: dict[str, Any], length: int, rng: np.random.Generator
           ) -> np.ndarray:
  """`length` samples from anywhere in a record on; fewer if there are fewer.

  With all chunks drawn alike, so are all windows of a recording, but for those
  of its last chunk, which is longer and has no starts near its end.
  """
  audio = example['audio']
  start = int(rng.integers(max(len(audio), 1)))
  if start + length > len(audio):
    audio = read_on(example, start + length)
    if start + length > len(audio):  # Near the end: the others are as likely.
      start = int(rng.integers(max(len(audio) - length, 0) + 1))
  return audio[start:start + length]
