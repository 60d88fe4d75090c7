"""Notes as pitch, step and duration: what an LSTM with three outputs reads.

As in TensorFlow's tutorial on generating music with an RNN. `step` is the time
from the start of the note before; the first note has 0, so a silence before it
is not told, and neither are velocities. Pitch is one of 128 classes, the others
are seconds of any size: there is no grammar to mask.

Shapes: N notes.
"""

import numpy as np

from common import errors, midi
from symbolic_jax import timeline

PITCH, STEP, DURATION = range(3)


def encode(notes) -> np.ndarray:
  """[N, 3] float32: pitch, step and duration of notes in order of time."""
  timeline.check(notes, 0, 127, 'MIDI')
  if notes['is_drum'].any():
    raise errors.UserError(
        f'{notes["is_drum"].sum()} of {len(notes)} notes are drums, whose '
        'pitches are no notes; leave them out')
  notes = notes[np.lexsort((notes['pitch'], notes['start_s']))]
  step = np.diff(notes['start_s'], prepend=notes['start_s'][0])
  return np.stack([notes['pitch'], step, notes['end_s'] - notes['start_s']],
                  axis=1).astype(np.float32)


def decode(triples, velocity: int = midi.VELOCITY, program: int = 0):
  """Notes of triples [N, 3]; the first begins after its own step.

  What a model may say beyond reason is mended: pitches are rounded to one of
  128, steps are no less than 0, and notes without length are dropped.
  """
  triples = np.asarray(triples, np.float64).reshape(-1, 3)
  notes = np.zeros(len(triples), midi.NOTE)
  notes['pitch'] = np.clip(np.round(triples[:, PITCH]), 0, 127)
  notes['start_s'] = np.cumsum(np.maximum(triples[:, STEP], 0))
  notes['end_s'] = notes['start_s'] + triples[:, DURATION]
  notes['velocity'], notes['program'] = velocity, program
  return notes[triples[:, DURATION] > 0]
