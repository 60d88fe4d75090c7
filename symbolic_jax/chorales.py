"""Four-part chorales as sequences of tokens, and back.

One token per voice and step, as the Music Transformer reads them: S A T B of
the first sixteenth, S A T B of the second, and so on. A token says which pitch
sounds; whether it is struck or held is not told. 48 ids: 0 padding, 1 rest,
2...47 the pitches 36...81 from low to high.

Shapes: T steps, 4 voices (S A T B).
"""

import numpy as np

from common import errors
from symbolic_jax import grammar, timeline

VOICES = 4
REST = -1  # In an array of voices, whose other values are MIDI pitches.
LOW, HIGH = 36, 81  # All that the 382 chorales use.
PAD, REST_ID, FIRST = 0, 1, 2
VOCAB = FIRST + HIGH - LOW + 1  # 48

GRAMMAR = grammar.forbid([PAD], VOCAB)


def encode(voices) -> np.ndarray:
  """Voices [T, 4] (MIDI pitches, -1 rests) to tokens [4 T] int32."""
  voices = np.asarray(voices, np.int32)
  timeline.check_pitches(voices[voices != REST], LOW, HIGH, 'a chorale')
  tokens = np.where(voices == REST, REST_ID, voices - LOW + FIRST)
  return tokens.reshape(-1)


def decode(tokens):
  """Tokens [..., 4 T] to voices [..., T, 4]; padding becomes rests.

  For numpy and JAX arrays alike, as `roll`.
  """
  steps = tokens.reshape(*tokens.shape[:-1], -1, VOICES)
  sounds = steps >= FIRST
  return (steps - FIRST + LOW) * sounds + REST * ~sounds


def transpose(voices, semitones: int) -> np.ndarray:
  """Moved by `semitones`, or by less where a voice would leave the range."""
  sounds = voices != REST
  pitches = voices[sounds]
  if not len(pitches):
    return voices
  semitones = np.clip(semitones, LOW - pitches.min(), HIGH - pitches.max())
  return np.where(sounds, voices + semitones, REST)


def roll(voices):
  """Voices [..., T, 4] to a piano roll [..., T, 128, 4] of bools."""
  pitch = np.arange(128).reshape((1,) * (voices.ndim - 1) + (128, 1))
  return voices[..., None, :] == pitch


def from_notes(notes, step_s: float, programs) -> np.ndarray:
  """Voices [T, 4] of a table of notes (`midi.NOTE`), from the first note on.

  A voice is one of `programs` (S A T B) if the notes use no other programs and
  each plays one note at a time: so what the models write is read back. In any
  other file the notes of each step are ranked, the highest for S; with fewer
  than four the low voices rest. Drums are left out.
  """
  notes = notes[~notes['is_drum']]
  if not len(notes):
    raise errors.UserError('no notes (drums do not count); give a file '
                           'with one to four parts')
  timeline.check_pitches(notes['pitch'], LOW, HIGH, 'a chorale')
  start = np.round(notes['start_s'] / step_s).astype(np.int64)
  end = np.maximum(np.round(notes['end_s'] / step_s).astype(np.int64),
                   start + 1)
  first, total = start.min(), end.max()
  sounds = np.zeros((total, 128, VOICES), bool)
  named = set(notes['program'].tolist()) <= set(programs)
  for note, a, b in zip(notes, start, end, strict=True):
    voice = list(programs).index(note['program']) if named else 0
    sounds[a:b, note['pitch'], voice] = True
  if (sounds.sum(1) > 1).any():  # Not one voice per program.
    sounds = _by_height(sounds.any(-1), step_s)
  step, pitch, voice = np.nonzero(sounds)
  voices = np.full((total, VOICES), REST, np.int16)
  voices[step, voice] = pitch
  return voices[first:]


def _by_height(sounds, step_s):
  """[T, 128] -> [T, 128, 4], the highest pitch in voice 0."""
  most = sounds.sum(1)
  if most.max() > VOICES:
    at = most.argmax()
    raise errors.UserError(
        f'{most[at]} notes sound together {at * step_s:.2f} s from its start, '
        'a chorale has four voices; leave out doublings, or give a file in '
        'four parts')
  # How many sound at this pitch or above.
  rank = np.cumsum(sounds[:, ::-1], axis=1)[:, ::-1]
  return sounds[..., None] & (rank[..., None] == 1 + np.arange(VOICES))
