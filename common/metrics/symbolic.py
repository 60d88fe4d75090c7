"""Metrics of notes: pitch, harmony, rhythm, and how two sets of them compare.

Two views of music. Notes are whole numbers [N, 3]: onset, end (exclusive) and
pitch, in steps of a grid; `on_grid` makes them of a table of `midi.NOTE`,
`notes_of` of a roll. A roll is [T, 128]: whole numbers and booleans sound where
they are not 0, floats from 0.5; `roll_of` makes one of notes. Every function
says which it takes. Leave drums out of all but `drum_pattern`. What has no
value (the entropy of silence) is NaN.

Of notes the definitions are those of MusPy 0.5, of bars those of MuseGAN (Dong
et al. 2018), where every bar stands alone: notes are cut at bar lines, and the
result is the mean over bars that are not empty. MuseGAN's released code differs
from its paper; `musegan_compat=True` gives what the code gives:

  empty_bar_rate      current code: the share of bars that are NOT empty
  used_pitch_classes  all versions: 12 groups of 7 neighbouring semitones
  qualified_notes     current code: nearly 1 for any music
  drum_pattern        current code: counts cells, not onsets; takes tau=0.1
  tonal_distance      the paper's code: those 12 groups; one silent beat drops
                      the bar

The paper's tables 1 and 2 come from its own code: compat for
`used_pitch_classes` and `tonal_distance`, defaults for the others.

Shapes: N notes, T steps, K tracks, M bars, R steps of a bar, P samples, D
features.
"""

import math

import numpy as np
from scipy import special, stats
from scipy.spatial import distance

SCALE = (0, 2, 4, 5, 7, 9, 11)  # Natural minor has the same 12 sets of pitches.
POINTS = 1000  # Where densities are compared; mgeval's number.

_LOW, _HIGH = 24, 108  # MuseGAN's 84 pitches: C1 to B7.

# Harte et al. 2006: circles of fifths, minor thirds and major thirds. [6, 12]
_ANGLES = np.arange(12) * np.array([[7 / 6], [3 / 2], [2 / 3]]) * np.pi
_RADII = np.array([[1.0], [1.0], [0.5]])
_TONAL = np.concatenate([_RADII * np.sin(_ANGLES), _RADII * np.cos(_ANGLES)])


# ---------------------------------------------------------------- views


def on_grid(notes, step_s: float) -> np.ndarray:
  """Notes [N, 3] of a table of `midi.NOTE`; each lasts a step or longer."""
  onset = np.round(notes['start_s'] / step_s).astype(np.int64)
  end = np.round(notes['end_s'] / step_s).astype(np.int64)
  return _in_order(np.stack(
      [onset, np.maximum(end, onset + 1), notes['pitch'].astype(np.int64)], 1))


def notes_of(roll) -> np.ndarray:
  """Notes [N, 3] of a roll [T, 128] or [T, 128, K]; each track has its own.

  A note is as long as its pitch sounds without a break.
  """
  change = np.diff(_padded(_on(roll)), axis=0).T  # [(K,) 128, T+1]
  # In order of track, pitch, time: beginnings and ends pair up.
  *_, pitch, onset = np.nonzero(change > 0)
  end = np.nonzero(change < 0)[-1]
  return _in_order(np.stack([onset, end, pitch], 1))


def roll_of(notes) -> np.ndarray:
  """Roll [T, 128] of notes, up to the last end."""
  notes = np.asarray(notes)
  roll = np.zeros((notes[:, 1].max(initial=0), 128), bool)
  for onset, end, pitch in notes:
    roll[onset:end, pitch] = True
  return roll


# ---------------------------------------------------------------- notes


def pitches_used(notes) -> int:
  """How many different pitches notes [N, 3] have."""
  return len(np.unique(np.asarray(notes)[:, 2]))


def pitch_range(notes) -> int:
  """Semitones from the lowest to the highest of notes [N, 3]."""
  pitch = np.asarray(notes)[:, 2]
  return int(np.ptp(pitch)) if len(pitch) else 0


def pitch_entropy(notes) -> float:
  """Bits, over 128 pitches; each of the notes [N, 3] counts once."""
  return _entropy(np.bincount(np.asarray(notes)[:, 2]))


def pitch_class_entropy(notes) -> float:
  """Bits, over 12 classes; each of the notes [N, 3] counts once."""
  return _entropy(_classes(notes))


def scale_consistency(notes) -> float:
  """Share of the notes [N, 3] in the major or minor scale that has most."""
  counts = _classes(notes)
  if not counts.any():
    return math.nan
  return float(max(np.roll(counts, -root)[list(SCALE)].sum()
                   for root in range(12)) / counts.sum())


def groove_consistency(notes, bar: int, bars: int = 0) -> float:
  """How alike the onsets of neighbouring bars are: 1 if always the same.

  1 - the mean share of the steps of a bar in which one of two neighbours has an
  onset and the other has none (Wu and Yang 2020).

  Args:
    notes: [N, 3].
    bar: steps of a bar.
    bars: number of bars; 0 for MusPy's end // bar + 1, with an empty bar more
      where the last note ends on a bar line.
  """
  notes = np.asarray(notes)
  bars = bars or int(notes[:, 1].max(initial=0)) // bar + 1
  if bars < 2:
    return math.nan
  onsets = np.zeros(bars * bar, bool)
  onsets[notes[:, 0]] = True
  onsets = onsets.reshape(bars, bar)
  return float((onsets[1:] == onsets[:-1]).mean())


# ---------------------------------------------------------------- steps


def polyphony(roll) -> float:
  """Mean number of pitches over steps of a roll [T, 128] that have any."""
  count = _on(roll).sum(1)
  return float(count[count > 0].mean()) if count.any() else math.nan


def polyphony_rate(roll, threshold: int = 2) -> float:
  """Share of steps of a roll [T, 128] with more pitches than `threshold`.

  As in MusPy and MuseGAN's current code; the code of MuseGAN's paper has its 2
  included: threshold=1.
  """
  roll = _on(roll)
  return float((roll.sum(1) > threshold).mean()) if len(roll) else math.nan


# ---------------------------------------------------------------- bars


def empty_bar_rate(roll, bar: int, musegan_compat: bool = False) -> float:
  """Share of bars of a roll [T, 128] in which nothing sounds.

  The last bar may be incomplete, here and in all functions of bars.
  """
  sounds = _bars(_on(roll), bar).any((1, 2))
  if not len(sounds):
    return math.nan
  return float((sounds if musegan_compat else ~sounds).mean())


def used_pitch_classes(roll, bar: int, musegan_compat: bool = False) -> float:
  """Pitch classes in a bar of a roll [T, 128]."""
  used = _bars(_chroma(roll, musegan_compat), bar).any(1).sum(1)  # [M]
  return _mean(used[used > 0])


def qualified_notes(roll, bar: int, threshold: int = 2,
                    musegan_compat: bool = False) -> float:
  """Share of the notes in a bar of a roll [T, 128] that are not too short.

  Args:
    roll: of one track.
    bar: steps of a bar; len(roll) cuts no note.
    threshold: the fewest steps that will do: 2 in all the code, 3 of 96 in the
      paper.
    musegan_compat: lengths are counted along (step, pitch) flattened, where a
      step is 84 long, and ends are paired with beginnings in that order.
  """
  roll = _on(roll)
  if musegan_compat:
    change = np.diff(_padded(roll[:, _LOW:_HIGH]), axis=0).reshape(-1)
    onset, end = np.flatnonzero(change > 0), np.flatnonzero(change < 0)
    # A note of the lowest pitch in the first step is not counted as one.
    notes = np.count_nonzero(onset)
    return (float(np.count_nonzero(end - onset >= threshold) / notes) if notes
            else math.nan)
  shares = []
  for one in _bars(roll, bar):
    onset, end, _ = notes_of(one).T
    if len(onset):
      shares.append((end - onset >= threshold).mean())
  return _mean(shares)


def drum_mask(steps: int, tau: float, sixteenth: int = 6) -> np.ndarray:
  """1 on each sixteenth, tau a step beside it: [steps]."""
  t = np.arange(steps)
  off = np.minimum(t % sixteenth, -t % sixteenth)
  return np.select([off == 0, off == 1], [1.0, tau])


def drum_pattern(roll, bar: int, tau: float = 0.3, sixteenth: int = 6,
                 musegan_compat: bool = False) -> float:
  """Share of drum onsets that keep to sixteenths.

  Args:
    roll: [T, 128] of the drums.
    bar: steps of a bar.
    tau: what an onset counts that is one step off: 0.3 in the code of the
      paper, 0.1 in later code.
    sixteenth: its steps: 6 of 96 a bar, 3 of 48.
    musegan_compat: counts all steps in which a drum is on, of all bars
      together, and the grid must begin on the bar line; else the best of its
      shifts counts, in each bar its own.
  """
  cells = _bars(_on(roll), bar)
  mask = drum_mask(bar, tau, sixteenth)
  if musegan_compat:
    total = cells.sum()
    return float((cells.sum((0, 2)) * mask).sum() / total) if total else 0.0
  before = np.pad(cells, ((0, 0), (1, 0), (0, 0)))[:, :-1]
  onsets = (cells & ~before).sum(2)  # [M, R]
  onsets = onsets[onsets.any(1)]
  shifted = np.stack([np.roll(mask, r) for r in range(sixteenth)], 1)
  return _mean((onsets @ shifted).max(1) / onsets.sum(1))


def tonal_distance(a, b, beat: int, musegan_compat: bool = False) -> float:
  """How far two tracks are apart in harmony; 0 for the same pitch classes.

  The distance of their centroids in the space of Harte et al. 2006, mean over
  the beats in which both sound.

  Args:
    a, b: rolls [T, 128].
    beat: steps of a beat.
    musegan_compat: uses only bars (of four beats) that are without a silent
      beat, and the wrong pitch classes.
  """
  centroids = []
  for roll in (a, b):
    chroma = _bars(_chroma(roll, musegan_compat), beat).sum(1)  # [beats, 12]
    total = chroma.sum(1, keepdims=True)
    share = np.divide(chroma, total, out=np.full(chroma.shape, np.nan),
                      where=total > 0)
    centroids.append(share @ _TONAL.T)
  a, b = centroids
  if len(a) != len(b):
    raise ValueError(f'tracks of {len(a)} and {len(b)} beats; give two of one '
                     'piece')
  d = np.linalg.norm(a - b, axis=1)
  if musegan_compat:
    d = d[:len(d) // 4 * 4].reshape(-1, 4).mean(1)
  return _mean(d[~np.isnan(d)])


# ---------------------------------------------------------------- two sets


def distances(a, b=None) -> np.ndarray:
  """Of each row of a [P, D] to each of b; without b, to each other one of a.

  Yang and Lerch 2020 compare the distances within a set with those from it to
  the other set. As in their code (mgeval), within a set every pair counts
  twice.
  """
  if b is not None:
    return distance.cdist(a, b).reshape(-1)
  d = distance.cdist(a, a)
  return d[~np.eye(len(d), dtype=bool)]


def overlapping_area(a, b) -> float:
  """What the densities of two sets of numbers [P] share.

  Densities are Gaussian kernel estimates with Scott's bandwidth. As in mgeval,
  the area ends at the smallest and the largest number: it is a few percent
  below 1 for a set and itself. A set without spread has no density: NaN.
  """
  if not (_spread(a) and _spread(b)):
    return math.nan
  grid = _grid([*a, *b])
  p, q = (stats.gaussian_kde(x)(grid) for x in (a, b))
  return float(np.trapezoid(np.minimum(p, q), grid))


def divergence(a, b, mgeval_compat: bool = False) -> float:
  """KL(a || b), nats, of the densities of two sets of numbers [P].

  The densities are those of `overlapping_area`, at points from the smallest
  number to the largest. mgeval's code takes the points of a and b from their
  own ranges, and so does not see that one is shifted.
  """
  if not (_spread(a) and _spread(b)):
    return math.nan
  grids = [_grid(x if mgeval_compat else [*a, *b]) for x in (a, b)]
  p, q = (special.log_softmax(stats.gaussian_kde(x).logpdf(grid))
          for x, grid in zip((a, b), grids, strict=True))
  return float((np.exp(p) * (p - q)).sum())


# ---------------------------------------------------------------- details


def _in_order(notes):
  return notes[np.lexsort((notes[:, 1], notes[:, 2], notes[:, 0]))]


def _on(roll):
  roll = np.asarray(roll)
  return roll >= 0.5 if roll.dtype.kind == 'f' else roll != 0


def _padded(roll):  # [T, ...] bool -> [T+2, ...] int8: diff of bools is xor.
  return np.pad(roll.astype(np.int8), [(1, 1)] + [(0, 0)] * (roll.ndim - 1))


def _bars(x, bar):  # [T, C] -> [M, R, C], the last one filled with silence.
  x = np.pad(x, ((0, -len(x) % bar), (0, 0)))
  return x.reshape(-1, bar, x.shape[1])


def _chroma(roll, musegan_compat):  # [T, 128] -> [T, 12]
  roll = _on(roll)
  if musegan_compat:
    return roll[:, _LOW:_HIGH].reshape(len(roll), 12, -1).sum(2)
  return np.pad(roll, ((0, 0), (0, 4))).reshape(len(roll), -1, 12).sum(1)


def _classes(notes):
  return np.bincount(np.asarray(notes)[:, 2] % 12, minlength=12)


def _entropy(counts):
  total = counts.sum()
  if not total:
    return math.nan
  return float(special.entr(counts / total).sum() / math.log(2))


def _mean(values):
  return float(np.mean(values)) if len(values) else math.nan


def _spread(x):
  return np.ptp(x) > 0


def _grid(x):
  return np.linspace(np.min(x), np.max(x), POINTS)
