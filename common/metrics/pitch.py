"""Is the pitch of a sound the one that was asked for?

By a classifier: accuracy and entropy. And by an estimate of the fundamental
frequency that has learnt nothing. Pitches are MIDI numbers. Shapes: P sounds,
K pitches, N samples.
"""

import numpy as np
from scipy import special

TOLERANCE = 0.5  # Semitones.

_LOWEST, _HIGHEST = 18, 110  # What the estimate looks for.


def accuracy(probabilities, labels) -> float:
  """Share of rows whose most probable class is `labels` [P]."""
  return float((np.argmax(probabilities, 1) == np.asarray(labels)).mean())


def entropy(probabilities) -> float:
  """Mean over sounds of the entropy of p(y|x), nats: not that of p(y)."""
  return float(special.entr(
      np.asarray(probabilities, np.float64)).sum(1).mean())


def estimate(audio, sample_rate: int) -> np.ndarray:
  """MIDI pitch of each sound [B, N]: [B] float, NaN where none is heard.

  The median over the voiced frames of probabilistic YIN (Mauch and Dixon
  2014).
  """
  import librosa  # Slow to import.
  return np.array([_estimate(librosa, x, sample_rate) for x in audio])


def agreement(estimates, requested, tolerance: float = TOLERANCE) -> float:
  """Share of sounds within `tolerance` semitones of the requested pitch."""
  off = np.abs(np.asarray(estimates) - requested)
  return float((off <= tolerance).mean())  # NaN is never near.


def _estimate(librosa, x, sample_rate: int) -> float:
  # A fifth of a semitone and 16 frames a second are as right as finer grids
  # on recorded notes, and ten times as fast.
  frame = 2048 * max(1, round(sample_rate / 16000))
  frequencies, voiced, _ = librosa.pyin(
      np.asarray(x, np.float32), sr=sample_rate,
      fmin=librosa.midi_to_hz(_LOWEST),
      fmax=min(librosa.midi_to_hz(_HIGHEST), sample_rate / 2 - 1),
      frame_length=frame, hop_length=frame // 2, resolution=0.2)
  if not voiced.any():
    return np.nan
  return float(np.median(librosa.hz_to_midi(frequencies[voiced])))
