"""Made-up music. An example depends on (split, index) only, not on how many.

Shapes: T steps of a grid, L labels (notes).
"""

import functools
import hashlib
import itertools

import numpy as np

from common import midi, synth
from common.data import harmony

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


def note_labels(split: str, index: int) -> tuple[int, int, int]:
  """(instrument, pitch, velocity) of an example: no two have the same."""
  bank, i = divmod(index, _PER_BANK[split])
  i += sum(_PER_BANK[s] for s in SPLITS[:SPLITS.index(split)])
  rest, v = divmod(int(_bank_order(bank)[i]), len(VELOCITIES))
  instrument, p = divmod(rest, len(PITCHES))
  return bank * _IN_BANK + instrument, PITCHES[p], VELOCITIES[v]


@functools.lru_cache(4)
def _bank_order(bank):
  return _rng('notes', bank).permutation(
      _IN_BANK * len(PITCHES) * len(VELOCITIES))


def note(split: str, index: int) -> dict:
  """One example with NSynth's keys."""
  label, pitch, velocity = note_labels(split, index)
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
  number, family = divmod(label % _IN_BANK, len(FAMILIES))
  family = FAMILIES[family]
  kinds = synth.FAMILIES[family]
  source, voice = kinds[number % len(kinds)]
  return family, source, synth.vary(voice, _rng('instrument', label))


# --- Notes as codes, as from the spectrogram VQ-VAE-2 -----------------------

CODE_SHAPES = {'top': (4, 32), 'bottom': (8, 64)}  # [frames, bins]
CODES = 512
_SILENT = 7


def codes(split: str, index: int) -> dict:
  """Two maps of codes: the top one tells pitch and family, the bottom follows.

  No codec made them: `codec` is 0.
  """
  label, pitch, velocity = note_labels(split, index)
  family = FAMILIES.index(_instrument(label)[0])
  rng = _rng('codes', split, index)
  frames, bins = CODE_SHAPES['top']
  t, f = np.arange(frames)[:, None], np.arange(bins)
  # A partial in every step-th bin; those above die away the sooner.
  sounds = (f % (2 + pitch % 12 // 2) == pitch % 2) & (
      f * t < 12 + 4 * family + velocity // 4)
  top = np.where(sounds, 32 + 40 * family + 2 * f // 8 + t, _SILENT)
  top = np.where(rng.random(top.shape) < 0.05,
                 rng.integers(CODES, size=top.shape), top)
  bottom = np.repeat(np.repeat(top, 2, 0), 2, 1)
  bottom = (bottom + 3 * (np.arange(bottom.shape[1]) % 2)
            + rng.integers(2, size=bottom.shape)) % CODES
  return {
      'id': f'{instrument_names()[label]}-{pitch:03d}-{velocity:03d}',
      'codec': 0, 'pitch': pitch, 'instrument_family': family,
      'top': top.astype(np.int16), 'bottom': bottom.astype(np.int16)}


# --- Chorales, as in the JSB set --------------------------------------------

_STEPS = 4  # Of the grid in a beat.


def chorale(split: str, index: int) -> dict:
  """{'id': int, 'voices': [T, 4] int16}; -1 is a rest.

  Phrases of a few bars, each with its own cadence and perhaps in a related
  key. In half of the chorales the first two phrases come twice.
  """
  rng = _rng('chorale', split, index)
  tonic, mode = _key(rng)
  phrases = int(rng.choice([4, 5, 6, 7, 8, 9, 10],
                           p=[.1, .15, .25, .2, .15, .1, .05]))
  plan = []  # (number of chords, beats of the last one).
  while len(plan) < phrases or sum(c - 1 + hold for c, hold in plan) < 25:
    plan.append((int(rng.choice([5, 6, 7, 11], p=[.1, .15, .6, .15])),
                 int(rng.choice([1, 2, 3], p=[.15, .65, .2]))))
  parts, previous = [], None
  for i, (count, hold) in enumerate(plan):
    last = i == len(plan) - 1
    key = (tonic, mode) if i == 0 or last else _related(rng, tonic, mode)
    cadence = 'full' if last else rng.choice(['full', 'half', 'plagal'],
                                             p=[.6, .32, .08])
    chords = harmony.progression(rng, *key, count, cadence)
    notes = harmony.write_voices(rng, chords, previous)
    previous = notes[-1]
    voices = _ornament(rng, np.repeat(notes, _STEPS, 0), key)
    parts.append(np.concatenate(
        [voices, np.repeat(voices[-1:], (hold - 1) * _STEPS, 0)]))
  if rng.random() < 0.5:
    parts[2:2] = parts[:2]
  if rng.random() < 0.09:  # As often as in the real set.
    for i in rng.choice(len(parts) - 1, 2, replace=False):
      silent = slice(None) if rng.random() < 0.5 else rng.integers(4)
      parts[i] = parts[i].copy()
      parts[i][-_STEPS:, silent] = -1
  return {'id': index, 'voices': np.concatenate(parts).astype(np.int16)}


# --- Performances, as in MAESTRO --------------------------------------------


def performance(split: str, index: int) -> dict:
  """A chorale as a pianist might play it: tempo, touch and loudness move.

  {'id', 'canonical_composer', 'canonical_title': str, 'year': int,
   'duration': float, 'midi': bytes, 'notes': int}
  """
  rng = _rng('performance', split, index)
  voices = chorale(split, index)['voices']
  steps = len(voices)
  # Seconds a step: a tempo of its own, a slow sway, and a slowing at the end.
  sway = np.cumsum(rng.normal(0, 0.02, steps))
  ending = np.maximum(np.arange(steps) - steps + 12, 0) / 12
  step_s = rng.uniform(0.11, 0.17) * np.exp(
      np.clip(sway - sway.mean(), -0.2, 0.2) + 0.6 * ending**2)
  time_s = np.concatenate([[0], np.cumsum(step_s)])
  swell = 8 * np.sin(np.arange(steps) * 2 * np.pi / rng.uniform(48, 80))
  rows = []
  for voice, line in enumerate(voices.T):
    new = np.flatnonzero(np.diff(line, prepend=-2))
    for start, end in zip(new, [*new[1:], steps], strict=True):
      if line[start] < 0:
        continue
      begin = time_s[start] + abs(rng.normal(0, 0.012))
      held = (time_s[end] - time_s[start]) * rng.uniform(0.8, 1.0)
      loud = (62 + 14 * (voice == 0) + 4 * (voice == 3) + swell[start]
              + 5 * (start % 16 == 0) + rng.normal(0, 4))
      rows.append((begin, begin + held, line[start], np.clip(loud, 20, 120),
                   0, False))
  notes = np.array(rows, midi.NOTE)
  return {'id': f'{split}_{index}', 'canonical_composer': 'none',
          'canonical_title': f'chorale {index}', 'year': 2022,
          'duration': np.float32(notes['end_s'].max()),
          'midi': midi.encode(notes), 'notes': len(notes)}


def _key(rng):
  """A tonic (0 is C) and a mode, in the keys that chorales are written in."""
  if rng.random() < 0.6:
    return int(rng.choice([0, 2, 3, 5, 7, 9, 10])), 'major'
  return int(rng.choice([0, 2, 4, 5, 7, 9, 11])), 'minor'


def _related(rng, tonic, mode):
  chance = rng.random()
  if chance < 0.6:
    return tonic, mode
  if chance < 0.8:
    return (tonic + 7) % 12, mode
  if mode == 'major':
    return (tonic + 9) % 12, 'minor'
  return (tonic + 3) % 12, 'major'


def _ornament(rng, voices, key):
  """Passing notes, neighbours and the like between chords a beat apart.

  One is left out where it would cross another voice or make parallel fifths
  or octaves.
  """
  tonic, mode = key
  scale = {(d + tonic) % 12 for d in harmony.SCALES[mode]}
  voices = voices.copy()
  for start in range(0, len(voices) - _STEPS, _STEPS):
    after = start + _STEPS
    for voice in rng.permutation(4):
      if voices[start, voice] != voices[after - 1, voice]:
        continue  # A suspension resolves here.
      now, then = int(voices[start, voice]), int(voices[after, voice])
      new = voices[start:after + _STEPS].copy()
      column = new[:, voice]
      between = [p for p in range(min(now, then) + 1, max(now, then))
                 if p % 12 in scale]
      if now > then:
        between.reverse()
      chance = rng.random()
      if len(between) == 1 and chance < 0.75:
        column[2:4] = between  # A passing note on the half beat.
      elif len(between) == 2 and chance < 0.35:
        column[2:4] = between if chance < 0.1 else between[1]
      elif now == then and chance < 0.3:
        column[2:4] = rng.choice([p for p in range(now - 2, now + 3)
                                  if p % 12 in scale])
      elif 1 <= now - then <= 2 and chance < 0.2 and voice < 3:
        column[4:6] = now  # Suspended, and resolved downwards.
      elif chance < 0.12:  # Another note of the chord.
        column[2:4] = rng.choice([p for p in range(now - 5, now + 6) if p % 12
                                  in voices[start] % 12])
      else:
        continue
      if _well_set(new, voice, voices[start - 1] if start else None):
        voices[start:after + _STEPS] = new
  return voices


def _well_set(voices, voice, before):
  """Whether a voice keeps its place, its range and the rules: [8, 4]."""
  mine = voices[:, voice]
  low, high = harmony.RANGES[voice]
  if mine.min() < low or mine.max() > high:
    return False
  if (voices[:, :-1] < voices[:, 1:]).any():
    return False
  if before is not None:
    voices = np.concatenate([before[None], voices])
  return not any(
      harmony.parallel(*voices[:-1, pair].T, *voices[1:, pair].T).any()
      for pair in (sorted((voice, other)) for other in range(4)
                   if other != voice))


# --- Songs, as in LPD-5 -----------------------------------------------------

LPD5_PROGRAMS = (midi.DRUMS, 0, 24, 32, 48)
_BEAT = 24  # Steps.
_BAR = 4 * _BEAT

# Chords of a bar each, as degrees of the scale from 0.
_LOOPS = {
    'major': ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (5, 3, 0, 4),
              (0, 3, 1, 4), (0, 2, 3, 4), (3, 4, 2, 5), (0, 0, 3, 4)),
    'minor': ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 4), (0, 5, 3, 4),
              (0, 2, 6, 3), (5, 6, 0, 0)),
}
_NATURAL = {'major': (0, 2, 4, 5, 7, 9, 11), 'minor': (0, 2, 3, 5, 7, 8, 10)}

# Strokes of the kit in a bar of sixteen parts: bass drum and snare.
_GROOVES = (
    ((0, 8), (4, 12)), ((0, 7, 8), (4, 12)), ((0, 6, 8), (4, 12)),
    ((0, 3, 8, 10), (4, 12)), ((0, 10), (4, 12)), ((0, 4, 8, 12), (4, 12)),
    ((0, 6, 10), (4, 12, 15)), ((0, 8, 11), (4, 12)), ((0, 2, 8), (8,)),
)
# Starts and lengths in sixteenths.
_BASS_LINES = (
    ((0, 4), (4, 4), (8, 4), (12, 4)), ((0, 6), (6, 2), (8, 6), (14, 2)),
    tuple((i, 2) for i in range(0, 16, 2)), ((0, 8), (8, 8)),
    ((0, 3), (3, 3), (6, 4), (10, 2), (12, 4)), ((0, 6), (6, 10)),
)
_COMPING = (
    ((0, 4), (4, 4), (8, 4), (12, 4)), ((0, 16),), ((0, 8), (8, 8)),
    ((0, 3), (3, 3), (6, 10)), ((2, 2), (6, 2), (10, 2), (14, 2)),
    ((0, 6), (6, 6), (12, 4)), ((4, 2), (12, 2)),
)
_MOTIFS = (
    ((0, 4), (4, 4), (8, 8)), ((0, 2), (2, 2), (4, 4), (8, 4), (12, 4)),
    ((0, 6), (6, 2), (8, 8)), ((2, 2), (4, 2), (6, 2), (8, 4), (12, 4)),
    ((0, 3), (3, 3), (6, 2), (8, 6)), ((0, 12),),
    ((0, 2), (2, 2), (4, 2), (6, 2), (8, 2), (10, 2), (12, 4)),
)


def roll(split: str, index: int) -> dict:
  """One song with the keys of the LPD-5 set; roll [T, 128, 5] uint8.

  Sections of four bars in a form like AABA; a section is the same whenever it
  returns, but for the touch and the drummer's fills.
  """
  rng = _rng('roll', split, index)
  tonic, mode = int(rng.integers(12)), rng.choice(['major', 'minor'],
                                                  p=[.65, .35])
  form = rng.choice(['AABA', 'AB', 'ABAB', 'AABB', 'ABC', 'AABAC'])
  sections = {name: _section(rng, tonic, mode) for name in sorted(set(form))}
  groove = _GROOVES[rng.integers(len(_GROOVES))]
  hats = int(rng.choice([1, 2, 4], p=[.15, .65, .2]))  # Sixteenths apart.
  present = rng.random(5) < (.95, .9, .75, .95, .7)
  present[1] |= not present[2:].any()  # Never the drums alone.
  notes = []
  for number, name in enumerate(form):
    notes += _drums(rng, groove, hats, number * 4)
    notes += [(number * 4 * _BAR + start, number * 4 * _BAR + end, pitch,
               velocity, track)
              for start, end, pitch, velocity, track in sections[name]]
  table = np.zeros(len(notes), midi.NOTE)
  start, end, pitch, velocity, track = np.array(notes).T
  table['start_s'], table['end_s'], table['pitch'] = start, end, pitch
  table['velocity'] = np.clip(velocity + rng.integers(-6, 7, len(notes)),
                              20, 127)
  programs = np.array(LPD5_PROGRAMS)[track]
  table['program'] = np.maximum(programs, 0)
  table['is_drum'] = programs == midi.DRUMS
  table = midi.in_order(table[present[track]])
  n_steps = len(form) * 4 * _BAR
  out = np.zeros((n_steps, 128, 5), np.uint8)
  played = midi.to_roll(table, 1.0, LPD5_PROGRAMS)[:n_steps]
  out[:len(played)] = played
  digest = hashlib.md5(f'{split}/{index}'.encode()).hexdigest()
  return {'id': digest, 'msd_id': 'TR' + digest[:16].upper(),
          'tempo': np.full(n_steps, rng.integers(70, 161), np.float32),
          'n_steps': n_steps, 'roll': out}


def _section(rng, tonic, mode):
  """Four bars of all but the drums: (start, end, pitch, velocity, track)."""
  loop = _LOOPS[mode][rng.integers(len(_LOOPS[mode]))]
  scale = _NATURAL[mode]
  bass_line = _BASS_LINES[rng.integers(len(_BASS_LINES))]
  comping = _COMPING[rng.integers(len(_COMPING))]
  motifs = [_MOTIFS[i] for i in rng.integers(len(_MOTIFS), size=2)]
  arpeggio = rng.permutation([0, 1, 2, 1])
  guitar_strums = rng.random() < 0.5
  tune_track = int(rng.choice([1, 4]))  # Piano or strings.
  degree = int(rng.integers(7, 12))  # Of the tune, in steps of the scale.
  notes = []

  def add(bar, begin, length, pitch, velocity, track):
    # A sixteenth has six steps; what is held stops one step early.
    at = bar * _BAR + begin * _BEAT // 4
    notes.append((at, at + length * _BEAT // 4 - 1, pitch, velocity, track))

  for bar, root in enumerate(loop):
    chord = sorted(_degree(scale, tonic, root + k, 52) for k in (0, 2, 4))
    low = 28 + (_degree(scale, tonic, root, 24) - 28) % 12
    fifth = low + 7
    following = 28 + (_degree(scale, tonic, loop[(bar + 1) % 4], 24) - 28) % 12
    for i, (begin, length) in enumerate(bass_line):
      pitch = low
      if begin >= 12 and length == 4 and following != low:
        pitch = following + (1 if following < low else -1)  # Leads there.
      elif i % 4 == 2 and len(bass_line) > 2:
        pitch = fifth
      add(bar, begin, length, pitch, 92, 3)
    for begin, length in comping:
      for pitch in chord:
        add(bar, begin, length, pitch, 72, 1)
    if guitar_strums:
      for begin, length in comping:
        for pitch in chord:
          add(bar, begin, length, pitch + 12, 68, 2)
    else:
      for i in range(8):
        add(bar, 2 * i, 2, chord[arpeggio[i % 4]] + 12 * (i % 8 == 4), 66, 2)
    if tune_track == 1:
      for pitch in chord:
        add(bar, 0, 16, pitch + 12, 58, 4)
    for begin, length in motifs[bar // 2 if bar < 3 else 0]:
      # A walk along the scale that meets the chord on the strong beats.
      degree = int(np.clip(degree + rng.choice(
          [-2, -1, 0, 1, 2], p=[.12, .31, .14, .31, .12]), 5, 14))
      if begin % 8 == 0:
        degree += min((d for d in (-1, 0, 1, 2)
                       if (degree + d - root) % 7 in (0, 2, 4)), key=abs)
      add(bar, begin, length, _degree(scale, tonic, degree, 60), 96,
          tune_track)
  return notes


def _drums(rng, groove, hats, first_bar):
  """Four bars; the last one may end in a fill."""
  kick, snare = groove
  notes = []
  for bar in range(4):
    fill = 12 if bar == 3 and rng.random() < 0.6 else 16
    strokes = [(i, 36, 104) for i in kick if i < fill]
    strokes += [(i, 38, 100) for i in snare if i < fill]
    strokes += [(i, 42, 80 if i % 4 == 0 else 62)
                for i in range(0, fill, hats)]
    if bar == 0:
      strokes = [(0, 49, 100)] + [s for s in strokes if s[:2] != (0, 42)]
    strokes += [(i, pitch, 84 + 5 * (i - 12)) for i, pitch in
                zip(range(fill, 16), (38, 48, 45, 41), strict=False)]
    for i, pitch, velocity in strokes:
      at = (first_bar + bar) * _BAR + i * _BEAT // 4
      notes.append((at, at + 1, pitch, velocity, 0))
  return notes


def _degree(scale, tonic, degree, low):
  """MIDI pitch of a step of the scale; step 0 is in the octave from `low`."""
  return low + (tonic - low) % 12 + scale[degree % 7] + 12 * (degree // 7)


# --- Pieces, as in MusicNet -------------------------------------------------

PIECE_RATE = 16000

# MusicNet's ensembles; General MIDI programs from 0 for each voice.
_ENSEMBLES = {
    'Solo Piano': (0,), 'String Quartet': (40, 40, 41, 42),
    'Accompanied Violin': (40, 0), 'Wind Quintet': (73, 68, 71, 70, 60),
    'Solo Cello': (42,)}
_KEYS = ('C', 'C sharp', 'D', 'E flat', 'E', 'F', 'F sharp', 'G', 'A flat',
         'A', 'B flat', 'B')
_NOTE_VALUES = {
    0.25: 'Sixteenth', 0.5: 'Eighth', 0.75: 'Dotted Eighth', 1: 'Quarter',
    1.5: 'Dotted Quarter', 2: 'Half', 3: 'Dotted Half', 4: 'Whole'}
_MOVEMENTS = ('Adagio', 'Andante', 'Moderato', 'Allegro')


def piece(split: str, index: int) -> dict:
  """One short piece with MusicNet's keys, its sound made from its labels."""
  rng = _rng('piece', split, index)
  tonic, mode = _key(rng)
  ensemble = rng.choice(list(_ENSEMBLES), p=[.4, .2, .2, .1, .1])
  beats_per_minute = rng.uniform(60, 120)
  beats = int(rng.uniform(9.5, 18) * beats_per_minute / 60)
  chords = []
  while len(chords) < beats:
    count = min(8, beats - len(chords))
    if beats - len(chords) - count < 3:
      count = beats - len(chords)
    end = len(chords) + count == beats
    chords += harmony.progression(rng, tonic, mode, count,
                                  'full' if end else 'half')
  voices = _ornament(rng, np.repeat(harmony.write_voices(rng, chords),
                                    _STEPS, 0), (tonic, mode))
  # (start, length) in beats, program, pitch, velocity.
  labels = np.array(sorted(_score(rng, str(ensemble), voices)))
  # The beat sways by a few percent, as players do.
  grid = np.arange(4 * beats + 5) / 4
  pace = 1 + 0.05 * np.sin(2 * np.pi * (grid / rng.uniform(6, 12)
                                        + rng.random()))
  clock = np.concatenate([[0], np.cumsum(pace[:-1] / 4)]) * (
      60 / beats_per_minute) + 0.1
  begin, length = labels[:, 0], labels[:, 1]
  time = np.round(np.stack([np.interp(begin, grid, clock),
                            np.interp(begin + length, grid, clock)],
                           1) * PIECE_RATE).astype(np.int64)
  notes = np.zeros(len(labels), midi.NOTE)
  notes['start_s'], notes['end_s'] = time.T / PIECE_RATE
  notes['program'], notes['pitch'], notes['velocity'] = labels[:, 2:].T
  audio = synth.render(notes, PIECE_RATE)
  number = 3 * index + SPLITS.index(split)
  return {
      'id': str(3000 + number),  # MusicNet's own end below 3000.
      'composer': 'Ostinato',
      'composition': f'{ensemble} No {number + 1} in {_KEYS[tonic]} {mode}',
      'movement': _MOVEMENTS[int((beats_per_minute - 60) / 15.01)],
      'ensemble': str(ensemble),
      'source': 'synthesiser',
      'transcriber': 'none',
      'catalog': str(number + 1),
      'seconds': np.float32(len(audio) / PIECE_RATE),
      'audio': np.round(audio * 32767).astype(np.int16),
      'labels_time': time,
      'labels': np.stack([labels[:, 2] + 1, labels[:, 3]], 1).astype(np.int32),
      'labels_beat': labels[:, :2].astype(np.float32),
      'note_value': '\n'.join(_NOTE_VALUES[v] for v in length),
  }


def _score(rng, ensemble, voices):
  """Notes of a piece: (start, length) in beats, program, pitch, velocity."""
  programs = _ENSEMBLES[ensemble]
  beats = len(voices) // _STEPS
  notes = []

  def sing(column, program, velocity):
    # Equal steps make one note, of a length that has a name.
    edges = np.flatnonzero(np.diff(column, prepend=-1, append=-1))
    for start, end in itertools.pairwise(edges.tolist()):
      while start < end:
        length = max(v for v in _NOTE_VALUES if v * _STEPS <= end - start)
        notes.append((start / _STEPS, length, program, int(column[start]),
                      velocity))
        start += int(length * _STEPS)

  def break_chords(program, velocity, order):
    for beat in range(beats):
      chord = voices[beat * _STEPS]
      for i, k in enumerate(order):
        length = 1 / len(order)
        notes.append((beat + i * length, length, program, int(chord[k]),
                      velocity))

  if ensemble == 'Solo Piano':
    sing(voices[:, 0], 0, 96)
    order = [(3, 1, 2, 1), (3, 2), (3, 2, 1, 2)][rng.integers(3)]
    break_chords(0, 68, order)
  elif ensemble == 'Accompanied Violin':
    sing(voices[:, 0], 40, 100)
    order = [(3, 2, 1, 2), (3, 1), (3,)][rng.integers(3)]
    break_chords(0, 70, order)
    if len(order) == 1:
      for voice in (1, 2):
        sing(voices[:, voice], 0, 64)
  elif ensemble == 'Solo Cello':
    break_chords(42, 92, [(3, 2, 1, 2), (3, 1, 2, 1)][rng.integers(2)])
  else:
    for voice in range(4):
      sing(voices[:, voice], programs[voice], 96 - 4 * voice)
    if len(programs) == 5:  # The horn holds the bass an octave up.
      sing(voices[:, 3] + 12, programs[4], 70)
  return notes


def _rng(*key) -> np.random.Generator:
  digest = hashlib.sha256(repr((_SEED, *key)).encode()).digest()
  return np.random.default_rng(np.frombuffer(digest, np.uint32))
