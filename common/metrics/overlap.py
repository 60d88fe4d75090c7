"""Is a sample a copy? Runs of it that occur in a training set.

A piece is a row of whole numbers: tokens, or the notes of `symbols`, which can
be compared in any key. For each place of a sample we find the longest run from
there on that a training piece has too; what share of its n-grams are copied,
for any n, and how long its longest copy is follow from that.

The training set is read once, piece by piece, and compared with the n-grams of
the samples. Only these are kept, as hashes: about 450 bytes for each number of
the samples, however large the training set. Two n-grams have the same 64-bit
hash by accident once in 2e19: for 2e5 places against 2e7 that is once in 4e6
comparisons.

Shapes: N notes, L symbols of a piece, P samples.
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

SHORTEST = 4  # Shorter runs are in every piece.

_MOST = 32  # Up to here the n-grams of the samples are in tables.
_BLOCK = 1 << 18  # Places of a training piece that are looked up together.


@dataclasses.dataclass(frozen=True)
class Copies:
  """What of each sample is in the training set.

  Attributes:
    runs: [L] of each sample, the length of the longest copied run that begins
      there; 0 if it is shorter than `shortest`.
    pieces: [L] of each sample, a training piece that has this run, from 0; -1
      for none.
    shortest: runs were looked for from this length on.
  """

  runs: list[np.ndarray]
  pieces: list[np.ndarray]
  shortest: int

  def share(self, n: int) -> np.ndarray:
    """Share of each sample's n-grams that are copied: [P], NaN without any."""
    if n < self.shortest:
      raise ValueError(f'n={n}, but runs were looked for from {self.shortest} '
                       f'on; use find(..., shortest={n})')
    return np.array([(run[:len(run) - n + 1] >= n).mean()
                     if len(run) >= n else np.nan for run in self.runs])

  def longest(self) -> np.ndarray:
    """Length of the longest copied run of each sample: [P]."""
    return np.array([run.max(initial=0) for run in self.runs], np.int64)


class _Text(NamedTuple):
  codes: np.ndarray  # [L] uint64, the hash of each symbol.
  left: np.ndarray  # [L], symbols from here to the end of the piece.


def symbols(notes, any_key: bool = True) -> np.ndarray:
  """A number for each note but the first: its interval, and its step in time.

  Args:
    notes: whole numbers [N, 3]: onset, end, pitch. Ends do not matter; notes
      that begin together are read from low to high.
    any_key: the interval is that from the note before, so that transposing
      changes nothing; else it is the pitch itself.
  """
  notes = np.asarray(notes, np.int64)
  notes = notes[np.lexsort((notes[:, 2], notes[:, 0]))]
  onset, pitch = notes[:, 0], notes[:, 2]
  return (np.diff(onset) * 256
          + (np.diff(pitch) + 128 if any_key else pitch[1:]))


def find(samples: Iterable, training: Iterable, shortest: int = SHORTEST
         ) -> Copies:
  """Which runs of the samples are in a training set.

  Args:
    samples, training: pieces, each a row [L] of whole numbers. A run lies in
      one piece.
    shortest: from which length on runs are looked for.
  """
  if not 1 <= shortest <= _MOST:
    raise ValueError(f'shortest={shortest} is not in 1...{_MOST}')
  samples = [np.asarray(sample) for sample in samples]
  search = _Search(_text(samples), shortest)
  for number, piece in enumerate(training):
    theirs = _text([piece])
    for i in range(0, len(theirs.codes), _BLOCK):
      search.read(number, theirs, i, min(i + _BLOCK, len(theirs.codes)))
  ends = np.cumsum([len(sample) for sample in samples])
  runs, pieces = ([x[end - len(sample):end]
                   for sample, end in zip(samples, ends, strict=True)]
                  for x in search.result())
  return Copies(runs, pieces, shortest)


class _Search:
  """What the training pieces read so far have of our text."""

  def __init__(self, text: _Text, shortest: int):
    self._text, self._shortest = text, shortest
    # Of each length: the hashes of our n-grams in order, and a piece with each.
    self._tables = {}
    for n, *grams in self._grams():
      keys = np.unique(grams[1])
      self._tables[n] = keys, np.full(len(keys), -1, np.int32)
    self._at, self._key = grams  # Of the longest.
    # Of runs as long as these and longer.
    self._runs = np.zeros(len(text.codes), np.int32)
    self._pieces = np.full(len(text.codes), -1, np.int32)

  def read(self, number: int, theirs: _Text, start: int, stop: int) -> None:
    """Finds the runs that begin in theirs[start:stop]."""
    at, key = np.arange(start, stop), np.zeros(stop - start, np.uint64)
    for n in range(1, _MOST + 1):
      at, key = _grow(theirs, at, key, n)
      if n in self._tables:
        keys, found = self._tables[n]
        if not len(keys):
          return
        place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        hit = keys[place] == key
        found[place[hit]] = number
        at, key = at[hit], key[hit]
    self._follow(number, theirs, at, key)

  def _follow(self, number, theirs, at, key):
    """From runs of _MOST on, both texts together, until none is left."""
    our_at, our_key, n = self._at, self._key, _MOST
    while True:
      ours = np.isin(our_key, key)
      our_at, our_key = our_at[ours], our_key[ours]
      if not len(our_at):
        return
      longer = our_at[self._runs[our_at] < n]
      self._runs[longer], self._pieces[longer] = n, number
      same = np.isin(key, our_key)
      n += 1
      at, key = _grow(theirs, at[same], key[same], n)
      our_at, our_key = _grow(self._text, our_at, our_key, n)

  def result(self) -> tuple[np.ndarray, np.ndarray]:
    """The longest run from each place of our text, and its piece."""
    runs, pieces = self._runs.copy(), self._pieces.copy()
    for n, at, key in self._grams():
      keys, found = self._tables[n]
      piece = found[np.searchsorted(keys, key)]
      better = (piece >= 0) & (runs[at] < n)
      runs[at[better]], pieces[at[better]] = n, piece[better]
    return runs, pieces

  def _grams(self):
    """(n, places, hashes) of our n-grams, for each length of the tables."""
    at = np.arange(len(self._text.codes))
    key = np.zeros(len(at), np.uint64)
    for n in range(1, _MOST + 1):
      at, key = _grow(self._text, at, key, n)
      if n >= self._shortest:
        yield n, at, key


def _text(pieces) -> _Text:
  lengths = np.array([len(piece) for piece in pieces], np.int64)
  numbers = np.concatenate([np.empty(0, np.int64), *pieces]).astype(np.int64)
  left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(numbers))
  return _Text(_mix(numbers.view(np.uint64)), left)


def _grow(text: _Text, at, key, n: int):
  """From (n-1)-grams at `at` with the hashes `key` to n-grams."""
  fits = text.left[at] >= n
  at = at[fits]
  return at, _mix(key[fits] + text.codes[at + n - 1])


def _mix(x):
  """Another uint64 for each (SplitMix64: Steele et al. 2014)."""
  x = x + np.uint64(0x9e3779b97f4a7c15)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
  return x ^ (x >> np.uint64(31))
