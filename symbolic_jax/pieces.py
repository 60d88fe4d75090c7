"""What a piece of music is to a language model: tokens, and what they mean.

  chorales   four voices on a grid of sixteenths: jsb_chorales/16th_separated,
             synthetic_chorales (symbolic_jax/chorales.py)
  events     a piano played by hand, to 10 ms: maestro/v3
             (symbolic_jax/events.py)
  accompaniment  the same, with an end, and the melody apart
             (symbolic_jax/melody.py)
  musenet    many instruments, a composer and an ending: maestro/v3, lakh_midi,
             midi_folder (symbolic_jax/musenet_tokens.py)

Shapes: B rows, L tokens.
"""

import collections
import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from common import config as config_lib
from common import errors, midi
from symbolic_jax import chorales, grammar, musenet_tokens, timeline
from symbolic_jax import events as events_lib
from symbolic_jax import melody as melody_lib

PAD = 0  # In all vocabularies.


class Chorales:
  """Voice by voice, step by step; a crop begins with a soprano.

  Attributes:
    group: tokens that are not taken apart.
    vocab, grammar: of the tokens.
  """

  group = chorales.VOICES
  vocab = chorales.VOCAB
  grammar = chorales.GRAMMAR

  needs = ('data.step_s', 'data.programs')

  def __init__(self, config):
    self._step_s, self._programs = config.data.step_s, config.data.programs
    self._transpose = config.model.transpose
    errors.at_least(config.model, transpose=0)

  def encode(self, example, rng=None) -> np.ndarray:
    """Tokens of a stored example; with an rng it is varied as configured."""
    voices = example['voices']
    if rng is not None and self._transpose:
      reach = self._transpose
      voices = chorales.transpose(voices, rng.integers(-reach, reach + 1))
    return chorales.encode(voices)

  def primer(self, path: str, seconds: float) -> np.ndarray:
    """Tokens of a MIDI file, of its first seconds; 0 for all of it."""
    errors.require(seconds == 0 or seconds >= self._step_s,
                   f'primer_s={seconds}',
                   f'0, or {self._step_s} (a sixteenth) and more')
    voices = chorales.from_notes(
        midi.read_steady(path), self._step_s, self._programs)
    if seconds:
      voices = voices[:round(seconds / self._step_s)]
    return chorales.encode(voices)

  def count(self, seconds: float) -> int:
    return self.group * round(seconds / self._step_s)

  def least(self, tokens: int) -> str:
    return f'{tokens // self.group * self._step_s} s ({tokens} tokens)'

  def seconds(self, tokens):
    """How much time passes with each token."""
    return jnp.full(tokens.shape, self._step_s / self.group)

  def events(self, tokens):
    """{name: how many of these a token makes}."""
    return {'step': jnp.full(tokens.shape, 1 / self.group)}

  def shown(self, tokens):
    """What is written to files."""
    # Stored pieces come in all lengths: nothing is compiled for them.
    show = _chorale_rolls if isinstance(tokens, jax.Array) else _chorale_roll
    return {'roll': show(tokens)}


def _chorale_roll(tokens):
  return chorales.roll(chorales.decode(tokens))


_chorale_rolls = jax.jit(_chorale_roll)


class _Played:
  """What those share that are made of stored MIDI files, in free time."""

  group = 1

  def __init__(self, config):
    m = config.model
    errors.at_least(m, transpose=0)
    self._transpose, self._factors = m.transpose, list(m.stretch)
    errors.require(
        self._factors and all(0 < x < np.inf for x in self._factors),
        f'model.stretch={tuple(m.stretch)}',
        'factors of time, such as (0.95, 1.0, 1.05), or (1.0,) for none')
    self._files = collections.OrderedDict()

  def count(self, seconds):
    raise errors.UserError(f'duration_s={seconds} does not work here: tokens '
                           'take no fixed time; use tokens=...')

  def least(self, tokens):
    return f'{tokens} tokens'

  def _kept(self, example, read):
    """read(example), which takes longer than all the rest: so it is kept."""
    name = example['id']
    found = self._files.get(name)
    if found is None:
      if len(self._files) >= 4096:
        self._files.popitem(last=False)
      self._files[name] = found = read(example)
    return found

  def _stretched(self, notes, rng):
    """A copy, slower or faster."""
    notes = notes.copy()
    factor = self._factors[rng.integers(len(self._factors))]
    notes['start_s'] *= factor
    notes['end_s'] *= factor
    return notes

  def _shift(self, pitches, low, high, rng):
    """A random shift in semitones that keeps all pitches in the range."""
    down = max(-self._transpose, low - pitches.min(initial=high))
    up = min(self._transpose, high - pitches.max(initial=low))
    return rng.integers(down, up + 1)

  def _first(self, tokens, seconds):
    """Those of the first seconds, 0 for all; what sounds there goes on."""
    if not seconds:
      return tokens
    passed = np.cumsum(np.asarray(self.seconds(tokens), np.float64))
    return tokens[:np.searchsorted(passed, seconds + 1e-6, side='right')]


class Performances(_Played):
  """Events of a piano: see Chorales for what the functions mean."""

  needs = ('model.low', 'model.high', 'model.stretch')

  def __init__(self, config):
    super().__init__(config)
    m = config.model
    self._events = events_lib.Events(
        low=m.low, high=m.high, velocities=m.get('velocities', 32))
    self.vocab = self._events.vocab
    self.grammar = self._events.grammar(ends=False)

  def encode(self, example, rng=None):
    notes = self.notes(example)
    if rng is not None:
      notes = self.vary(notes, rng)
    return self._events.encode(notes).astype(np.int32)

  def notes(self, example):
    """The notes of a stored example, to read only."""
    return self._kept(example, self._read)

  def _read(self, example):
    notes = self._events.select(midi.parse(example['midi']))
    notes = notes[~notes['is_drum']]
    if not len(notes):
      raise errors.UserError(
          f'{example["id"].decode()} has no notes from {self._events.low} to '
          f'{self._events.high}; leave it out of the data set')
    return notes

  def vary(self, notes, rng):
    """Stretched and transposed, as configured."""
    notes = self._stretched(notes, rng)
    notes['pitch'] += self._shift(
        notes['pitch'], self._events.low, self._events.high, rng)
    return notes

  def primer(self, path, seconds):
    return self._first(self._events.encode(_from_first_note(path)), seconds)

  def seconds(self, tokens):
    e = self._events
    is_shift = (tokens >= e.shift) & (tokens < e.velocity)
    return jnp.where(is_shift, (tokens - e.shift + 1) / e.steps_per_s, 0.0)

  def events(self, tokens):
    e = self._events
    return {'note': (tokens >= e.on) & (tokens < e.off)}

  def shown(self, tokens):
    return {'notes': [self._events.decode(row) for row in np.asarray(tokens)]}


class Accompaniments(Performances):
  """What is played to a melody: all events of it and END, and the melody.

  Attributes:
    melody: the vocabulary of the melody.
    hears: most tokens of a melody.
  """

  needs = (*Performances.needs, 'model.melody', 'model.window_s',
           'model.eval_s')

  def __init__(self, config):
    super().__init__(config)
    m = config.model
    self.grammar = self._events.grammar(ends=True)
    self.melody = melody_lib.Melody(low=m.low, high=m.high)
    self._way = m.melody
    longest = max(m.window_s[1] * max(m.stretch), m.eval_s)
    self.hears = self.melody.steps(longest)

  def row(self, notes, rng=None):
    """Notes of a window, whose time begins at 0 -> tokens, melody's tokens.

    With an rng they are varied. The likeliest melody is found before that.
    """
    timeline.check(notes, self._events.low, self._events.high, 'these events')
    finds = self._way == 'likeliest'
    melody = melody_lib.likeliest(notes) if finds else notes[:0]
    if rng is not None:  # Both by the same draw.
      notes, melody = np.split(
          self.vary(np.append(notes, melody), rng), [len(notes)])
    return self.played(notes), self.melody.encode(
        notes, melody if finds else None)

  def played(self, notes):
    """Notes of a window -> tokens."""
    tokens = np.append(self._events.encode(notes), events_lib.END)
    return tokens.astype(np.int32)

  def melody_of(self, path, seconds):
    """Of a MIDI file, from its first note on; of its first seconds, or all."""
    notes = _from_first_note(path, drums=False)
    if seconds:
      notes = notes[notes['start_s'] < seconds]
      notes['end_s'] = np.minimum(notes['end_s'], seconds)
    lasts = notes['end_s'].max(initial=0.0)
    most = (self.hears - 1) / self.melody.steps_per_s
    if lasts > most:
      raise errors.UserError(
          f'a melody of {lasts:.1f} s is longer than the {most} s that the '
          f'model was made for; use melody_s={most} for its beginning')
    return self.melody.encode(notes)


def _after_end(ended, allowed):
  """allowed [B, V] -> [B, 1 + V]: padding for rows that have ended, else as is.

  An END for each of these places would count as a token that the model chose.
  """
  ended = ended[:, None]
  return jnp.concatenate([ended, allowed & ~ended], 1)


class Ensembles(_Played):
  """MuseNet's tokens, each one more than its id there, so that 0 is padding.

  A piece is composer, instruments, START, music, END. Which composers there
  are: `model.composers`, a file for `musenet_tokens.read_composers`, or ''.
  """

  vocab = musenet_tokens.VOCAB + 1
  # What it allows, it allows as ids: one less. After END comes padding.
  grammar = grammar.Grammar(
      musenet_tokens.GRAMMAR.start,
      lambda state, tokens: musenet_tokens.GRAMMAR.advance(state, tokens - 1),
      lambda state: _after_end(
          state.part == 4, musenet_tokens.GRAMMAR.allowed(state)))
  needs = ('model.transpose', 'model.stretch', 'model.volume', 'model.drop',
           'model.composers')

  def __init__(self, config):
    super().__init__(config)
    m = config.model
    errors.at_least(m, volume=0)
    self._volume, self._drop = m.volume, m.drop
    self.names = (musenet_tokens.read_composers(m.composers) if m.composers
                  else musenet_tokens.COMPOSERS)

  def encode(self, example, rng=None):
    """With an rng composer and instruments are left out now and then."""
    notes, parts = self._kept(example, self._read)
    if rng is not None:
      notes = self._stretched(notes, rng)
      notes['velocity'] = np.clip(notes['velocity'] + rng.integers(
          -self._volume, self._volume + 1), 1, 127)
      pitched = ~notes['is_drum']
      notes['pitch'][pitched] += self._shift(
          notes['pitch'][pitched], 0, 127, rng)
      parts = [x for x in parts if rng.random() >= self._drop]
    return np.concatenate([
        parts, [musenet_tokens.START], musenet_tokens.encode(notes),
        [musenet_tokens.END]]).astype(np.int32) + 1

  def _read(self, example):
    """Its notes, and the ids before START."""
    notes = midi.sustained(midi.parse(example['midi']))
    if not len(notes):
      raise errors.UserError(f'{example["id"].decode()} has no notes; leave it '
                             'out of the data set')
    parts = [musenet_tokens.instruments_id(musenet_tokens.groups_of(notes))]
    composer = example.get('canonical_composer', b'')
    with contextlib.suppress(errors.UserError):  # One who has no token.
      parts.insert(0, musenet_tokens.composer_id(composer.decode(), self.names))
    return notes, parts

  def conditions(self, composer: str, instruments: str) -> np.ndarray:
    """Tokens of 'chopin' and 'piano, violin', each of which may be empty."""
    names = [x.strip() for x in instruments.split(',') if x.strip()]
    return musenet_tokens.prefix(composer, names, self.names)[:-1] + 1

  def primer(self, path, seconds):
    """START, and the music of a file."""
    notes = _from_first_note(path)
    tokens = np.append(musenet_tokens.START, musenet_tokens.encode(notes)) + 1
    return self._first(tokens, seconds).astype(np.int32)

  def seconds(self, tokens):
    units = tokens - musenet_tokens.WAIT  # Of ids, plus one.
    is_wait = (units > 0) & (units <= musenet_tokens.LONGEST_WAIT)
    return jnp.where(is_wait, units / musenet_tokens.UNITS_PER_S, 0.0)

  def events(self, tokens):
    return {'note': musenet_tokens.is_start(tokens - 1)}

  def shown(self, tokens):
    return {'notes': [musenet_tokens.decode(row[row > PAD] - 1)
                      for row in np.asarray(tokens)]}


KINDS = {'chorales': Chorales, 'events': Performances, 'musenet': Ensembles,
         'accompaniment': Accompaniments}


def make(config) -> Chorales | Performances | Ensembles | Accompaniments:
  name, length = config.model.tokens, config.model.length
  if name not in KINDS:
    raise errors.UserError(f'model.tokens={name!r} is not one of '
                           f'{", ".join(map(repr, KINDS))}')
  group = KINDS[name].group
  for setting, value in (('length', length),
                         ('eval_length', config.model.eval_length or length)):
    if value < group or value % group:
      raise errors.UserError(
          f'config.model.{setting}={value} is not a number of whole steps of '
          f'{group} tokens; use {max(1, value // group) * group}')
  known = config_lib.flatten(config)
  if missing := [k for k in KINDS[name].needs if k not in known]:
    raise errors.UserError(
        f'model.tokens={name!r} needs {", ".join(missing)}; put them into the '
        'config, as music_transformer_jsb has them for chorales, '
        'music_transformer_maestro for events, musenet_maestro for musenet and '
        'melody_transformer_maestro for accompaniment')
  return KINDS[name](config)


def _from_first_note(path, drums=True):
  """The notes of a MIDI file, held by its pedal; the first begins at 0."""
  notes = midi.sustained(midi.load(path))
  if not drums:
    notes = notes[~notes['is_drum']]
  if len(notes):
    first = notes['start_s'].min()
    notes['start_s'] -= first
    notes['end_s'] -= first
  return notes
