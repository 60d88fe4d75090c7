"""Functional harmony and four-part writing, from the rules of a textbook.

Shapes: C chords, V candidate voicings. Voices are soprano, alto, tenor, bass.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np

# Lowest and highest note of each voice: those of the JSB chorales.
RANGES = ((60, 81), (52, 74), (46, 69), (36, 66))
_CENTRES = np.array([70, 65, 58, 50])
_MOST_VOICINGS = 120
_FORBIDDEN = 90  # Cost of parallel fifths or octaves.

SCALES = {'major': (0, 2, 4, 5, 7, 9, 11),
          'minor': (0, 2, 3, 5, 7, 8, 10, 11)}  # With the leading note.

# Root, third and fifth over the tonic.
_TRIADS = {
    'major': {'I': (0, 4, 7), 'ii': (2, 5, 9), 'iii': (4, 7, 11),
              'IV': (5, 9, 0), 'V': (7, 11, 2), 'vi': (9, 0, 4),
              'vii': (11, 2, 5), 'V/V': (2, 6, 9)},
    'minor': {'I': (0, 3, 7), 'ii': (2, 5, 8), 'III': (3, 7, 10),
              'IV': (5, 8, 0), 'V': (7, 11, 2), 'VI': (8, 0, 3),
              'VII': (10, 2, 5), 'vii': (11, 2, 5)},
}

# How often a chord is followed by another, in percent.
_NEXT = {
    'major': {
        'I': {'I': 12, 'ii': 14, 'iii': 4, 'IV': 22, 'V': 28, 'vi': 16,
              'vii': 4},
        'ii': {'ii': 5, 'V': 68, 'vii': 12, 'I': 15},
        'iii': {'vi': 55, 'IV': 35, 'I': 10},
        'IV': {'IV': 4, 'I': 30, 'V': 36, 'ii': 18, 'vii': 12},
        'V': {'V': 8, 'I': 66, 'vi': 20, 'IV': 6},
        'vi': {'ii': 26, 'IV': 28, 'V': 22, 'I': 10, 'iii': 6, 'V/V': 8},
        'vii': {'I': 92, 'vi': 8},
        'V/V': {'V': 100}},
    'minor': {
        'I': {'I': 12, 'ii': 8, 'III': 6, 'IV': 22, 'V': 28, 'VI': 12,
              'VII': 8, 'vii': 4},
        'ii': {'V': 80, 'I': 20},
        'III': {'VI': 40, 'IV': 30, 'VII': 20, 'I': 10},
        'IV': {'IV': 4, 'I': 32, 'V': 40, 'ii': 12, 'VII': 12},
        'V': {'V': 8, 'I': 70, 'VI': 18, 'IV': 4},
        'VI': {'ii': 22, 'IV': 30, 'V': 20, 'III': 14, 'I': 14},
        'VII': {'III': 70, 'I': 30},
        'vii': {'I': 100}},
}


class Chord(NamedTuple):
  notes: tuple[int, ...]  # Pitch classes: root, third, fifth, seventh if any.
  bass: int  # Pitch class of the lowest voice.
  leading: int  # The key's leading note, as a pitch class.


def progression(rng, tonic: int, mode: str, count: int, cadence: str
                ) -> list[Chord]:
  """`count` chords that begin near the tonic and close with a cadence.

  'full' ends V-I, 'half' on V, 'plagal' IV-I.
  """
  names = list(_TRIADS[mode])
  chain = np.array([[_NEXT[mode][a].get(b, 0) for b in names]
                    for a in names]) / 100
  ending = {'full': ['V', 'I'], 'half': ['V'], 'plagal': ['IV', 'I']}[cadence]
  # A walk of the chain that is known to end in `ending`: each step is weighted
  # by how likely the rest can follow.
  steps = count - len(ending)
  ahead = [np.eye(len(names))[names.index(ending[0])]]
  for _ in range(steps):
    ahead.append(chain @ ahead[-1])
  start = np.array([{'I': 6, 'V': 2, 'vi': 1, 'VI': 1}.get(n, 0)
                    for n in names])
  walk = []
  for i in range(steps):
    weight = (chain[walk[-1]] if walk else start) * ahead[steps - i]
    walk.append(rng.choice(len(names), p=weight / weight.sum()))
  degrees = [names[i] for i in walk] + ending
  chords = []
  for i, degree in enumerate(degrees):
    notes = _TRIADS[mode][degree]
    closing = i >= steps
    following = degrees[i + 1] if i + 1 < count else None
    if degree == 'V' and following == 'I' and rng.random() < 0.4:
      notes += (5,)  # The seventh.
    if degree == 'vii' or (degree == 'ii' and mode == 'minor'):
      bass = notes[1]  # Diminished triads stand on their third.
    elif degree == 'I' and i == steps - 1 and ending[0] == 'V' and (
        rng.random() < 0.3):
      bass = notes[2]  # The cadence's six-four chord.
    elif closing or i == 0 or rng.random() < 0.62:
      bass = notes[0]
    else:
      bass = notes[1]
    chords.append(Chord(tuple((n + tonic) % 12 for n in notes),
                        (bass + tonic) % 12, (tonic + 11) % 12))
  return chords


def write_voices(rng, chords: list[Chord], previous=None) -> np.ndarray:
  """A voicing of each chord, [C, 4]: the cheapest path, with some chance.

  The soprano follows an arch of its own. `previous`: the four notes before.
  """
  options = [_voicings(c)[0] for c in chords]
  arch = np.interp(np.linspace(0, 1, len(chords)), [0, 0.5, 1],
                   rng.uniform((65, 67, 64), (77, 80, 74)))
  total, came_from = None, []
  for i, chord in enumerate(chords):
    own = _voicings(chord)[1] + rng.gumbel(scale=2.5, size=len(options[i]))
    own += 0.15 * (options[i][:, 0] - arch[i]) ** 2
    if i:
      ways = total[:, None] + _moves(chords[i - 1], chord)
      came_from.append(ways.argmin(0))
      total = ways.min(0) + own
    else:
      total = own
      if previous is not None:
        total = total + 0.5 * np.abs(options[0] - previous).sum(1)
        for a, b in itertools.combinations(range(4), 2):
          total += _FORBIDDEN * parallel(
              previous[a], previous[b], options[0][:, a], options[0][:, b])
  path = [int(total.argmin())]
  for back in reversed(came_from):
    path.append(int(back[path[-1]]))
  return np.stack([o[j] for o, j in zip(options, path[::-1], strict=True)])


@functools.lru_cache(1024)
def _voicings(chord):
  """All ways to set a chord, [V, 4], and what each costs, [V]."""
  rows = [[p for p in range(low, high + 1)
           if p % 12 in ((chord.bass,) if voice == 3 else chord.notes)]
          for voice, (low, high) in enumerate(RANGES)]
  v = np.array(list(itertools.product(*rows)))
  gaps = v[:, :-1] - v[:, 1:]
  counts = np.stack([(v % 12 == n).sum(1) for n in chord.notes], 1)  # [V, n]
  root, third, fifth = counts[:, 0], counts[:, 1], counts[:, 2]
  ok = ((gaps >= 0).all(1) & (gaps[:, :2] <= 12).all(1) & (gaps[:, 2] <= 19)
        & (root >= 1) & (third >= 1) & (third <= 2)
        & ((v % 12 == chord.leading).sum(1) <= 1))
  if len(chord.notes) == 4:
    ok &= counts[:, 3] == 1
  cost = (0.04 * (v - _CENTRES) ** 2).sum(1) + 4.0 * (fifth == 0)
  cost += 3.0 * (third == 2) + 2.0 * (fifth == 2) + 3.0 * (gaps[:, 0] == 0)
  cost += 3.0 * (gaps[:, 1] == 0) + 3.0 * (gaps[:, 2] == 0)
  best = np.flatnonzero(ok)
  best = best[np.argsort(cost[best], kind='stable')][:_MOST_VOICINGS]
  return v[best], cost[best]


@functools.lru_cache(2048)
def _moves(before, after):
  """Cost of each voicing of one chord after each of another: [V, V] uint8."""
  a = _voicings(before)[0][:, None]
  b = _voicings(after)[0][None]
  move = b - a  # [V, V, 4]
  size = np.abs(move)
  upper = size[..., :3]
  cost = size @ np.array([1.0, 1.0, 1.0, 0.5])
  cost += 3.0 * (size[..., 0] > 4) + 4.0 * (size == 0).sum(-1)
  cost += (15.0 * (upper > 7) + 60.0 * (upper > 9)).sum(-1)
  cost += 40.0 * (size[..., 3] > 12) + 4.0 * (size == 6).sum(-1)
  cost += 8.0 * ((move > 0).all(-1) | (move < 0).all(-1))
  for i, j in itertools.combinations(range(4), 2):
    cost += _FORBIDDEN * parallel(a[..., i], a[..., j], b[..., i], b[..., j])
  for i in range(3):  # No voice passes the place its neighbour just left.
    cost += 6.0 * ((b[..., i + 1] > a[..., i]) | (b[..., i] < a[..., i + 1]))
  if (before.leading + 1) % 12 in after.notes:  # It wants to rise.
    cost += 12.0 * ((a % 12 == before.leading) & (move != 1))[
        ..., (0, 3)].sum(-1)
  if len(before.notes) == 4:  # A seventh falls.
    falls = (move == 0) | (move == -1) | (move == -2)
    cost += 12.0 * ((a % 12 == before.notes[3]) & ~falls).sum(-1)
  return np.minimum(cost, 255).astype(np.uint8)


def parallel(high, low, next_high, next_low):
  """Whether two voices move from a fifth or octave to another one."""
  interval = (high - low) % 12
  return ((interval == (next_high - next_low) % 12)
          & ((interval == 0) | (interval == 7)) & (high != next_high))
