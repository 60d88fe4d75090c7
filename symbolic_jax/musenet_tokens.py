"""MuseNet's tokens, as recovered from the client of its public demo.

One token joins pitch, volume and instrument; volume 0 ends a note. Ids:

  128 b + pitch   block b of BLOCKS: piano off, piano at 13 volumes, then of
                  each other instrument on and off, drums (which never end)
  3968...4095     waits of 1...128 units; longer ones repeat the longest
  4096...4098     start, end, end of a sample
  4099...4225     which instruments play: 4098 + the sum of their GROUPS
  4226...4835     composers and styles

A piece is composer, instruments, start, music, end. The client counts units in
48ths of a beat and plays them as 10 ms; here a unit is 10 ms of the file. Order
within a unit is ours: note by note, the earlier one's end first. The client's
is that of the events in the file.

Shapes: N notes, L tokens, B rows, V vocabulary.
"""

import pathlib
import types
import unicodedata

import flax
import jax
import jax.numpy as jnp
import numpy as np

from common import errors, midi
from symbolic_jax import grammar, timeline

WAIT, LONGEST_WAIT = 3968, 128
START, END, END_SAMPLE = 4096, 4097, 4098
SET = 4098  # Of no instruments: plus a sum of GROUPS.
FIRST_COMPOSER, LAST_COMPOSER = 4226, 4835
VOCAB = LAST_COMPOSER + 1
UNITS_PER_S = 100

INSTRUMENTS = ('piano', 'violin', 'cello', 'bass', 'guitar', 'flute',
               'clarinet', 'trumpet', 'harp', 'drums')
PIANO, DRUMS = 0, 9
GROUPS = types.MappingProxyType({
    'drums': 1, 'winds': 2, 'harp': 4, 'guitar': 8, 'bass': 16, 'strings': 32,
    'piano': 64})
# Some of the 605 names: plain surnames and styles. `read_composers` takes all.
COMPOSERS = types.MappingProxyType({
    'chopin': 4226, 'liszt': 4227, 'broadway': 4229, 'rachmaninoff': 4230,
    'ragtime': 4231, 'haydn': 4352, 'wagner': 4365, 'gershwin': 4533,
    'clementi': 4546, 'country': 4625, 'jazz': 4627, 'mozart': 4630,
    'handel': 4631, 'tchaikovsky': 4632, 'beethoven': 4634, 'schumann': 4635,
    'bach': 4637, 'brahms': 4641, 'ravel': 4644, 'schubert': 4647,
    'granados': 4648, 'albeniz': 4649, 'mendelssohn': 4650, 'debussy': 4651,
    'grieg': 4652, 'folk': 4655, 'mussorgsky': 4656, 'balakirev': 4658,
    'satie': 4666, 'stravinsky': 4670, 'vivaldi': 4671, 'alkan': 4673,
    'weber': 4674, 'busoni': 4682, 'scarlatti': 4683, 'franck': 4705,
    'paganini': 4708, 'scriabin': 4715, 'joplin': 4732, 'rameau': 4763})

_OF_INSTRUMENT = np.array([64, 32, 32, 16, 8, 2, 2, 2, 4, 1])  # Its group.
_MUSIC = WAIT + LONGEST_WAIT
_PROGRAMS = np.array([0, 40, 42, 32, 24, 73, 71, 56, 46, 0])  # Played by.
# General MIDI program -> instrument.
_FROM_PROGRAM = np.full(128, PIANO)
for _instrument, _members in enumerate((
    (), (40, 41, 44, 45, 48, 49, 50, 51), (42, 43), range(32, 40),
    range(24, 32), range(72, 80), range(64, 72), range(56, 64), (46,))):
  _FROM_PROGRAM[list(_members)] = _instrument
# Of each block: its instrument, and its volume; 0 is an end.
BLOCKS = ((PIANO, 0), *((PIANO, 24 + 8 * n) for n in range(13)),
          *((i, v) for i in range(1, DRUMS) for v in (80, 0)), (DRUMS, 80))
_INSTRUMENT, _VOLUME = np.array(BLOCKS).T
# Of each instrument, its block of ends; drums have none.
_OFF = np.array([0, *range(15, 30, 2), -1])


def instrument_of(notes) -> np.ndarray:
  """Index in INSTRUMENTS of each note; what has no other is a piano."""
  return np.where(notes['is_drum'], DRUMS, _FROM_PROGRAM[notes['program']])


def is_start(tokens):
  """Whether each id [...] begins a note."""
  block = jnp.where((tokens >= 0) & (tokens < WAIT), tokens // 128, 0)
  return jnp.asarray(_VOLUME)[block] > 0  # Block 0 is of ends.


def encode(notes) -> np.ndarray:
  """Music tokens [L] int32 of a table of notes, without a prefix."""
  timeline.check(notes, 0, 127, 'MIDI')
  instrument = instrument_of(notes)
  order = np.lexsort((notes['pitch'], instrument, notes['start_s']))
  notes, instrument = notes[order], instrument[order]
  step, number, is_end = timeline.in_order(
      *timeline.on_grid(notes, UNITS_PER_S))
  # Halves up; round() would take 36, 52, 68, ... to the even one.
  volume = np.clip((notes['velocity'] + 4) // 8 - 2, 1, 13)
  on = np.where(instrument == PIANO, volume, np.where(
      instrument == DRUMS, 30, 12 + 2 * instrument))
  block = np.where(is_end, _OFF[instrument][number], on[number])
  events = 128 * block + notes['pitch'].astype(np.int64)[number]
  tells = block >= 0
  return timeline.lay_out(step[tells], events[tells, None], WAIT, LONGEST_WAIT)


def decode(tokens) -> np.ndarray:
  """Notes of tokens [L], in order of time; a prefix and ends are left out.

  Drums last a tenth of a second. Ends of what does not sound say nothing, and
  what never ends lasts to the last unit.
  """
  tokens = timeline.check_tokens(tokens, VOCAB)
  tokens = tokens[tokens < _MUSIC]
  is_wait = tokens >= WAIT
  step = np.cumsum(np.where(is_wait, tokens - WAIT + 1, 0))
  last = step[-1] if len(step) else 0
  tokens, step = tokens[~is_wait], step[~is_wait]
  instrument, volume = (x[tokens // 128] for x in (_INSTRUMENT, _VOLUME))
  start, end = timeline.pair(128 * instrument + tokens % 128, volume == 0)
  begin = step[start]
  finish = np.where(end < 0, last, step[end])
  finish = np.where(instrument[start] == DRUMS, begin + UNITS_PER_S // 10,
                    finish)
  notes = np.zeros(len(start), midi.NOTE)
  notes['start_s'], notes['end_s'] = begin / UNITS_PER_S, finish / UNITS_PER_S
  notes['pitch'] = (tokens % 128)[start]
  notes['velocity'] = volume[start]
  notes['program'] = _PROGRAMS[instrument[start]]
  notes['is_drum'] = instrument[start] == DRUMS
  order = np.lexsort((notes['pitch'], instrument[start], notes['start_s']))
  return notes[order[(finish > begin)[order]]]


def prefix(composer: str = '', instruments=(), names=COMPOSERS) -> np.ndarray:
  """What stands before the music; each part may be left out.

  Args:
    composer: one of `names`; of a full name the last word will do.
    instruments: of GROUPS or INSTRUMENTS.
    names: composer -> id.
  """
  tokens = []
  if composer:
    tokens.append(composer_id(composer, names))
  if len(instruments):
    tokens.append(instruments_id(instruments))
  return np.array([*tokens, START], np.int32)


def composer_id(composer: str, names=COMPOSERS) -> int:
  """The token of 'chopin', 'Frédéric Chopin', 'Chopin / his arranger', ..."""
  plain = unicodedata.normalize('NFKD', composer).casefold()
  plain = ''.join(c for c in plain if not unicodedata.combining(c))
  plain = plain.split('/')[0].strip()
  for name in (plain, plain.replace(' ', ''), plain.split(' ')[-1]):
    if name in names:
      return names[name]
  raise errors.UserError(
      f'composer={composer} is unknown{errors.suggest(plain, names)}')


def instruments_id(instruments) -> int:
  """The token of a set of instruments or groups of them."""
  groups = {**dict(zip(INSTRUMENTS, _OF_INSTRUMENT.tolist(), strict=True)),
            **GROUPS}
  total = 0
  for name in instruments:
    if name not in groups:
      raise errors.UserError(
          f'instrument {name} is unknown{errors.suggest(name, groups)}')
    total |= groups[name]
  if not total:
    raise errors.UserError(f'no instruments; name some of {", ".join(GROUPS)}')
  return SET + total


def groups_of(notes) -> list[str]:
  """The groups that play in a table of notes: its `instruments`."""
  used = set(_OF_INSTRUMENT[instrument_of(notes)].tolist())
  return [name for name, value in GROUPS.items() if value in used]


def read_composers(path) -> dict[str, int]:
  """Names and ids from a text file with a line 'id name' for each.

  The whole list is tokens.txt of github.com/MrCheeze/musenet-midi. Lines whose
  id is no composer's are left out, and so are its gaps.
  """
  try:
    lines = pathlib.Path(path).read_text('utf-8').splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    names = {name.strip(): int(number) for number, name in pairs
             if FIRST_COMPOSER <= int(number) <= LAST_COMPOSER
             and not name.startswith('-----')}
  except OSError as e:
    raise errors.UserError(f'{path} cannot be read: {e.strerror}') from None
  except ValueError:
    names = {}
  if not names:
    raise errors.UserError(
        f'{path} is no list of composers; give lines such as "4226 chopin", '
        f'with ids from {FIRST_COMPOSER} to {LAST_COMPOSER}')
  return names


@flax.struct.dataclass
class State:
  """What GRAMMAR carries.

  Attributes:
    part: [B], 0 before anything, 1 after a composer, 2 after the instruments,
      3 in the music, 4 after its end.
    groups: [B], the sum of the GROUPS that may play.
    held: [B, 9, 128], how many notes sound that began before this unit.
    fresh: [B, 9, 128], how many began in it.
    may_wait: [B], whether time may pass: not after a wait that is not the
      longest.
  """

  part: jax.Array
  groups: jax.Array
  held: jax.Array
  fresh: jax.Array
  may_wait: jax.Array


def _start(rows):
  count = jnp.zeros((rows, DRUMS, 128), jnp.int32)
  return State(part=jnp.zeros(rows, jnp.int32),
               groups=jnp.full(rows, sum(GROUPS.values())), held=count,
               fresh=count, may_wait=jnp.ones(rows, bool))


def _advance(state, tokens):
  is_note = (tokens >= 0) & (tokens < WAIT)
  is_wait = (tokens >= WAIT) & (tokens < _MUSIC)
  is_set = (tokens > SET) & (tokens < FIRST_COMPOSER)
  block = jnp.where(is_note, tokens // 128, 30)  # 30: drums, not counted.
  is_end = jnp.asarray(_VOLUME)[block] == 0
  cell = (jnp.arange(DRUMS)[None, :, None]
          == jnp.asarray(_INSTRUMENT)[block][:, None, None]) & (
              jnp.arange(128)[None, None] == (tokens % 128)[:, None, None])
  held = jnp.maximum(state.held - (cell & is_end[:, None, None]), 0)
  fresh = state.fresh + (cell & ~is_end[:, None, None])
  passes = is_wait[:, None, None]
  part = jnp.select(
      [tokens >= FIRST_COMPOSER, is_set, tokens == END, tokens >= 0],
      [1, 2, 4, 3], state.part)
  return State(
      part=part, groups=jnp.where(is_set, tokens - SET, state.groups),
      held=jnp.where(passes, held + fresh, held),
      fresh=jnp.where(passes, 0, fresh),
      may_wait=jnp.where(is_note, True, jnp.where(
          is_wait, tokens == _MUSIC - 1, state.may_wait)))


def _allowed(state):
  rows = state.part.shape[0]
  may_play = (state.groups[:, None] & jnp.asarray(_OF_INSTRUMENT)[None]) > 0
  ends = jnp.pad(state.held > 0, ((0, 0), (0, 1), (0, 0)))  # Drums never.
  notes = jnp.where((jnp.asarray(_VOLUME) == 0)[None, :, None],
                    ends[:, _INSTRUMENT], may_play[:, _INSTRUMENT, None])
  part = state.part[:, None]
  wide = lambda may, width: jnp.broadcast_to(may, (rows, width))
  music = part == 3
  return jnp.concatenate([
      notes.reshape(rows, -1) & music,
      wide(state.may_wait[:, None] & music, LONGEST_WAIT),
      part < 3,  # START
      part >= 3,  # END, and nothing else once it came.
      jnp.zeros_like(music),
      wide(part < 2, FIRST_COMPOSER - SET - 1),
      wide(part < 1, VOCAB - FIRST_COMPOSER)], axis=1)


# What `prefix` and `encode` write, then END for ever.
GRAMMAR = grammar.Grammar(_start, _advance, _allowed)
