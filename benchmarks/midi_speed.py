"""Files and notes a second: our MIDI reader beside others.

  python benchmarks/midi_speed.py
  python benchmarks/midi_speed.py --folder=FOLDER --files=150

Without a folder, files are made up: 40 songs of 4,000 notes. Readers that are
not installed are left out; pretty_midi is not among our requirements. All
read the same files in turn; the least processor time of all rounds counts.
"""

import importlib.util
import io
import pathlib
import random
import tempfile
import time

import numpy as np
from absl import app, flags

from common import midi

_FOLDER = flags.DEFINE_string('folder', None, 'MIDI files, at any depth.')
_FILES = flags.DEFINE_integer('files', 100, 'At most so many of them.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'How often.')


def made_up(count: int) -> list[bytes]:
  """Songs of four instruments, 4,000 notes each."""
  out = []
  with tempfile.TemporaryDirectory() as folder:
    for seed in range(count):
      rng = np.random.default_rng(seed)
      notes = np.zeros(4000, midi.NOTE)
      notes['start_s'] = np.sort(rng.uniform(0, 240, 4000))
      notes['end_s'] = notes['start_s'] + rng.uniform(0.05, 1, 4000)
      notes['pitch'] = rng.integers(30, 90, 4000)
      notes['velocity'] = rng.integers(1, 128, 4000)
      notes['program'] = rng.choice([0, 24, 33, 48], 4000)
      path = pathlib.Path(folder) / 'song.mid'
      midi.write(path, notes)
      out.append(path.read_bytes())
  return out


def readers() -> dict:
  """Name: bytes -> number of notes."""
  found = {
      'ours': lambda data: len(midi.parse(data).notes),
      'ours, with pedal': lambda data: len(midi.sustained(midi.parse(data)))}
  if importlib.util.find_spec('symusic'):
    import symusic
    found['symusic'] = lambda data: symusic.Score.from_midi(data).note_num()
  if importlib.util.find_spec('mido'):
    import mido
    found['mido, messages'] = lambda data: sum(
        m.type == 'note_on' and m.velocity > 0
        for track in mido.MidiFile(file=io.BytesIO(data)).tracks
        for m in track)
  if importlib.util.find_spec('pretty_midi'):
    import pretty_midi
    found['pretty_midi'] = lambda data: sum(
        len(i.notes) for i in pretty_midi.PrettyMIDI(
            io.BytesIO(data)).instruments)
  return found


def readable(data: bytes, fns) -> bool:
  """Some readers refuse more than others: only what all can read is timed."""
  for fn in fns:
    try:
      fn(data)
    except Exception:
      return False
  return True


def main(argv):
  del argv
  if _FOLDER.value:
    paths = sorted(p for p in pathlib.Path(_FOLDER.value).rglob('*')
                   if p.suffix.lower() in ('.mid', '.midi'))
    random.Random(0).shuffle(paths)
    files = [p.read_bytes() for p in paths[:_FILES.value]]
  else:
    files = made_up(40)
  fns = readers()
  files = [data for data in files if readable(data, fns.values())]
  print(f'{len(files)} files, {sum(map(len, files)) / 1e6:.1f} MB')
  best = dict.fromkeys(fns, float('inf'))
  notes = {}
  for _ in range(_ROUNDS.value):
    for name, fn in fns.items():
      begin = time.process_time()
      notes[name] = sum(map(fn, files))
      best[name] = min(best[name], time.process_time() - begin)
  for name, seconds in best.items():
    print(f'{name:18} {len(files) / seconds:8.1f} files/s '
          f'{notes[name] / seconds:12,.0f} notes/s  '
          f'{1000 * seconds / len(files):7.2f} ms a file  '
          f'{seconds / best["ours"]:6.2f} times ours')


if __name__ == '__main__':
  app.run(main)
