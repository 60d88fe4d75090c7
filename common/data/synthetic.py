"""Made-up music. An example depends on (split, index) only, not on how many.

Shapes: T steps of a grid, L labels (notes).
"""

import dataclasses
import functools
import hashlib

import numpy as np

from common import midi, synth

SPLITS = ('train', 'valid', 'test')
_SEED = 20_220_711

# --- Single notes, as in NSynth ---------------------------------------------

NOTE_RATE = 16000
NOTE_SAMPLES = 64000  # Held for 3 s, then 1 s to die away.
FAMILIES = ('bass', 'brass', 'flute', 'guitar', 'keyboard', 'mallet', 'organ',
            'reed', 'string', 'synth_lead', 'vocal')
SOURCES = ('acoustic', 'electronic', 'synthetic')
QUALITIES = ('bright', 'dark', 'distortion', 'fast_decay', 'long_release',
             'multiphonic', 'nonlinear_env', 'percussive', 'reverb',
             'tempo-synced')
PITCHES = range(24, 85)
VELOCITIES = (25, 50, 75, 100, 127)

# Three instruments a family make a bank of 10,065 different notes, of which
# each split gets its own. When a bank is used up, three more instruments come.
_PER_BANK = {'train': 8000, 'valid': 1000, 'test': 1000}
_BANKS = 30
MOST_NOTES = _BANKS * _PER_BANK['train']
_IN_BANK = 3 * len(FAMILIES)
_NUM_LABELS = 1006  # As many as NSynth has instruments.


@functools.cache
def instrument_names() -> list[str]:
  """Names of all instruments in the order of their labels."""
  names, seen = [], {}
  for label in range(_BANKS * _IN_BANK):
    family, source, _ = _instrument(label)
    number = seen.setdefault((family, source), 0)
    seen[family, source] += 1
    names.append(f'{family}_{source}_{number:03d}')
  return names + [f'unused_{i:03d}' for i in range(_NUM_LABELS - len(names))]


def note(split: str, index: int) -> dict:
  """One example with NSynth's keys."""
  bank, i = divmod(index, _PER_BANK[split])
  slot = i + sum(_PER_BANK[s] for s in SPLITS[:SPLITS.index(split)])
  combinations = _IN_BANK * len(PITCHES) * len(VELOCITIES)
  order = _rng('notes', bank).permutation(combinations)
  rest, v = divmod(int(order[slot]), len(VELOCITIES))
  instrument, p = divmod(rest, len(PITCHES))
  label, pitch = bank * _IN_BANK + instrument, PITCHES[p]
  velocity = VELOCITIES[v]
  family, source, voice = _instrument(label)
  audio = voice.tone(pitch, velocity, 3.0, 4.0, NOTE_RATE,
                     _rng('note', split, index))
  audio *= 0.9 / max(np.abs(audio).max(), 1e-6) * (velocity / 127) ** 0.7
  name = instrument_names()[label]
  is_struck = isinstance(voice, synth.Struck)
  qualities = {
      'bright': voice.slope < 0.9, 'dark': voice.slope > 1.5,
      'fast_decay': is_struck and voice.decay_s < 0.8,
      'long_release': voice.release_s > 0.2,
      'percussive': is_struck and voice.decay_s < 0.5}
  return {
      'id': f'{name}-{pitch:03d}-{velocity:03d}',
      'audio': audio.astype(np.float32),
      'pitch': pitch,
      'velocity': velocity,
      'instrument': {'label': label, 'family': family, 'source': source},
      'qualities': {q: bool(qualities.get(q, False)) for q in QUALITIES},
  }


def _instrument(label):
  """(family, source, voice) of an instrument."""
  bank, i = divmod(label, _IN_BANK)
  family = FAMILIES[i % len(FAMILIES)]
  kinds = synth.FAMILIES[family]
  source, voice = kinds[i // len(FAMILIES) % len(kinds)]
  return family, source, synth.vary(voice, _rng('instrument', label))


# --- Chorales, as in the JSB set --------------------------------------------

VOICE_RANGES = ((60, 81), (52, 74), (46, 69), (36, 66))


def chorale(split: str, index: int) -> dict:
  """{'id': int, 'voices': [T, 4] int16}."""
  rng = _rng('chorale', split, index)
  beats = int(rng.integers(25, 128))
  root = rng.choice([0, 0, 5, 7, 9], beats)
  chords = np.stack([root + 64, root % 5 + 60, root % 7 + 52, root % 12 + 43])
  return {'id': index, 'voices': np.repeat(chords.T, 4, 0).astype(np.int16)}


# --- Songs, as in LPD-5 -----------------------------------------------------


def roll(split: str, index: int) -> dict:
  rng = _rng('roll', split, index)
  steps = 96 * int(rng.integers(8, 17))
  out = np.zeros((steps, 128, 5), np.uint8)
  out[::24, 36, 0] = 100
  for bar in range(steps // 96):
    root = int(rng.choice([0, 5, 7, 9]))
    for k, low in ((1, 60), (2, 52), (3, 36), (4, 64)):
      out[bar * 96:bar * 96 + 95, low + root, k] = 90
  digest = hashlib.md5(f'{split}/{index}'.encode()).hexdigest()
  return {'id': digest, 'msd_id': 'TR' + digest[:16].upper(),
          'tempo': np.full(steps, 120, np.float32), 'n_steps': steps,
          'roll': out}


# --- Pieces, as in MusicNet -------------------------------------------------

PIECE_RATE = 16000


def piece(split: str, index: int) -> dict:
  rng = _rng('piece', split, index)
  n = int(rng.integers(20, 40))
  beat_s = 0.5
  notes = np.zeros(n, midi.NOTE)
  notes['start_s'] = np.arange(n) * beat_s
  notes['end_s'] = notes['start_s'] + beat_s
  notes['pitch'] = 60 + rng.choice([0, 2, 4, 5, 7, 9], n)
  notes['velocity'] = 90
  time = np.stack([notes['start_s'], notes['end_s']], 1) * PIECE_RATE
  audio = synth.render(notes, PIECE_RATE)
  return {
      'id': str(10000 + index), 'composer': 'Synthetic', 'composition': 'C',
      'movement': '1', 'ensemble': 'Solo Piano', 'source': 'synthetic',
      'transcriber': 'none', 'catalog': '', 'note_value':
      '\n'.join(['Quarter'] * n),
      'seconds': np.float32(len(audio) / PIECE_RATE),
      'audio': np.round(audio * 32767).astype(np.int16),
      'labels_time': np.round(time).astype(np.int64),
      'labels': np.stack([notes['program'] + 1, notes['pitch']],
                         1).astype(np.int32),
      'labels_beat': np.stack([np.arange(n), np.ones(n)],
                              1).astype(np.float32),
  }


def _rng(*key) -> np.random.Generator:
  digest = hashlib.sha256(repr((_SEED, *key)).encode()).digest()
  return np.random.default_rng(np.frombuffer(digest, np.uint32))
