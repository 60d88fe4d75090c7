"""Notes and tokens a second: encoders and decoders beside plain loops.

  python benchmarks/tokenise.py
  python benchmarks/tokenise.py --maestro=maestro-v3.0.0-midi.zip

Without a file, notes are made up. With MAESTRO v3 all of its files are read
first, and its notes, tokens, their kinds and the likelihoods of trivial models
are printed beside the published counts; then some of them are timed. All
tokenise the same notes in turn; the least processor time of all rounds counts.
"""

import csv
import io
import time
import zipfile

import jax
import numpy as np
from absl import app, flags

from common import midi
from symbolic_jax import events, musenet_tokens, note_sequences, remi

_MAESTRO = flags.DEFINE_string('maestro', None, 'The zip with MIDI files.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'How often.')
_FILES = flags.DEFINE_integer('files', 40, 'How many are timed.')
_FOLDER = 'maestro-v3.0.0/'

PIANO = events.Events()


def made_up(count: int) -> list[np.ndarray]:
  """Tables of 6,000 notes with chords and velocities that often change."""
  out = []
  for seed in range(count):
    rng = np.random.default_rng(seed)
    notes = np.zeros(6000, midi.NOTE)
    notes['start_s'] = np.sort(rng.uniform(0, 600, 3000)).repeat(2)
    notes['end_s'] = notes['start_s'] + rng.uniform(0.02, 2, 6000)
    notes['pitch'] = rng.integers(21, 109, 6000)
    notes['velocity'] = rng.integers(30, 110, 6000)
    out.append(notes)
  return out


def loop(notes) -> list[int]:
  """`Events.encode`, note by note."""
  notes = sorted(notes.tolist(), key=lambda note: (note[0], note[2]))
  stream = []
  for i, note in enumerate(notes):
    start, end = int(note[0] * 100 + 0.5), int(note[1] * 100 + 0.5)
    stream.append((start, i, False))
    stream.append((max(end, start + 1), i, True))
  stream.sort()
  tokens, now, level = [], 0, None
  for step, i, is_end in stream:
    while step > now:
      tokens.append(PIANO.shift + min(step - now, 100) - 1)
      now += min(step - now, 100)
    pitch = notes[i][2] - PIANO.low
    if is_end:
      tokens.append(PIANO.off + pitch)
      continue
    if (notes[i][3] - 1) // 4 != level:
      level = (notes[i][3] - 1) // 4
      tokens.append(PIANO.velocity + level)
    tokens.append(PIANO.on + pitch)
  return tokens


def maestro(path: str) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
  """Notes and tokens of each file, by split; prints what it takes."""
  splits, spent = {}, {'unpack': 0.0, 'parse': 0.0, 'pedal': 0.0, 'encode': 0.0}
  with zipfile.ZipFile(path) as archive:
    rows = csv.DictReader(io.StringIO(
        archive.read(f'{_FOLDER}maestro-v3.0.0.csv').decode()))
    for row in rows:
      times = [time.process_time()]

      def timed(value):
        times.append(time.process_time())
        return value

      data = timed(archive.read(_FOLDER + row['midi_filename']))
      song = timed(midi.parse(data))
      notes = timed(PIANO.select(song))
      tokens = timed(PIANO.encode(notes))
      splits.setdefault(row['split'], []).append((notes, tokens))
      for name, seconds in zip(spent, np.diff(times), strict=True):
        spent[name] += seconds
  files = sum(map(len, splits.values()))
  print(f'{files} files in {sum(spent.values()):.1f} s of processor time: '
        + ', '.join(f'{name} {s:.1f} s' for name, s in spent.items()))
  return splits


def count(splits) -> None:
  """Beside the published figures of MAESTRO v3."""
  published = {'train': (5_659_329, 22_885_711),
               'validation': (639_425, 2_591_657),
               'test': (741_410, 2_989_305)}
  for name, pieces in splits.items():
    found = tuple(sum(len(piece[i]) for piece in pieces) for i in (0, 1))
    print(f'{name}: {len(pieces)} files, {found[0]:,} notes, {found[1]:,} '
          f'tokens; published {published[name][0]:,} and '
          f'{published[name][1]:,}: '
          f'{"equal" if found == published[name] else "DIFFERENT"}')
  tokens = {name: [piece[1] - 2 for piece in pieces]
            for name, pieces in splits.items()}
  train = np.concatenate(tokens['train'])
  kinds = np.bincount(train, minlength=308)
  on, off, shift, velocity = (
      int(x.sum()) for x in np.split(kinds, [88, 176, 276]))
  print(f'train: NOTE_ON {on:,}, NOTE_OFF {off:,}, TIME_SHIFT {shift:,} '
        f'({kinds[275]:,} of the longest), VELOCITY {velocity:,}')

  def before(pieces):  # 308 before the first token of a piece.
    return np.concatenate([np.append(308, x[:-1]) for x in pieces])

  one = np.log(kinds + 1) - np.log(len(train) + 308)
  two = np.bincount(before(tokens['train']) * 308 + train,
                    minlength=309 * 308).reshape(309, 308) + 0.1
  two = np.log(two / two.sum(1, keepdims=True))
  for name in tokens.keys() - {'train'}:
    x = np.concatenate(tokens[name])
    print(f'{name}: unigram {-one[x].mean():.4f}, bigram '
          f'{-two[before(tokens[name]), x].mean():.4f} nats a token')


def speed(tables) -> None:
  beats_s = np.arange(10_000) / 2
  encoded = {
      'loop': (loop, None),
      'events': (PIANO.encode, PIANO.decode),
      'musenet': (musenet_tokens.encode, musenet_tokens.decode),
      'remi': (lambda x: remi.Remi().encode(x, beats_s), remi.Remi().decode),
      'note_sequences': (note_sequences.encode, note_sequences.decode)}
  for notes in tables:
    assert loop(notes) == PIANO.encode(notes).tolist()
  best, sizes = {}, {}
  for _ in range(_ROUNDS.value):
    for name, (encode, decode) in encoded.items():
      begin = time.process_time()
      tokens = [encode(notes) for notes in tables]
      took = [time.process_time() - begin]
      if decode:
        begin = time.process_time()
        for x in tokens:
          decode(x)
        took.append(time.process_time() - begin)
      sizes[name] = sum(map(len, tokens))
      best[name] = np.minimum(best.get(name, np.inf), took)
  total = sum(map(len, tables))
  for name, took in best.items():
    # Of note_sequences, a token is a note.
    line = f'{name:15} encode {total / took[0]:12,.0f} notes/s '
    line += f'{sizes[name] / took[0]:12,.0f} tokens/s '
    line += f'{best["loop"][0] / took[0]:6.1f} times the loop'
    if len(took) > 1:
      line += f'; decode {sizes[name] / took[1]:12,.0f} tokens/s'
    print(line)


def masks() -> None:
  """What a grammar adds to a step of a sampling loop."""
  for name, rules in (('events', PIANO.grammar()),
                      ('musenet', musenet_tokens.GRAMMAR),
                      ('remi', remi.Remi().grammar())):
    for rows in (1, 64):
      @jax.jit
      def run(state):
        def step(state, _):
          token = jax.numpy.argmax(rules.allowed(state), axis=1)
          return rules.advance(state, token), token
        return jax.lax.scan(step, state, length=500)

      state = rules.start(rows)
      jax.block_until_ready(run(state))
      took = []
      for _ in range(_ROUNDS.value):
        begin = time.perf_counter()
        jax.block_until_ready(run(state))
        took.append(time.perf_counter() - begin)
      print(f'grammar of {name}, {rows} rows: {min(took) / 500 * 1e6:.1f} us a '
            f'step on {jax.devices()[0].platform}')


def main(argv):
  del argv
  tables = made_up(_FILES.value)
  if _MAESTRO.value:
    splits = maestro(_MAESTRO.value)
    count(splits)
    tables = [notes for pieces in splits.values() for notes, _ in pieces]
    tables = tables[::max(1, len(tables) // _FILES.value)]
  speed(tables)
  masks()


if __name__ == '__main__':
  app.run(main)
