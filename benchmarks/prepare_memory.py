"""How much memory does it take to prepare an archive of any size?

  python benchmarks/prepare_memory.py --gigabytes=10 --folder=/big/disk

Two made-up sources of that size are prepared in turn, each by the binary in a
process of its own: NSynth's json-wav release (a tar.gz of notes, for train;
its other splits are small), and a folder of hour-long recordings (stereo,
44.1 kHz) for audio_folder. While it works, the memory of the process and its
workers is read from /proc five times a second. 'total' is their proportional
set size, in which memory that they share counts once.

The archive needs that much disk, the data set made of it up to twice as much;
all of it is deleted at the end.
"""

import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np
import soundfile
from absl import app, flags

_GIGABYTES = flags.DEFINE_float('gigabytes', 1.0, 'Of sound in each source.')
_FOLDER = flags.DEFINE_string('folder', None, 'Where to write. Default: /tmp.')
_WORKERS = flags.DEFINE_integer('workers', 2, 'As of common.prepare.')

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main(argv):
  del argv
  size = round(_GIGABYTES.value * 1e9)
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
    manual = pathlib.Path(folder) / 'manual'
    manual.mkdir()
    for split, share in (('train', size), ('valid', 2e6), ('test', 2e6)):
      write_notes(manual, split, int(share))
    measure('nsynth/full', manual)
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
    manual = pathlib.Path(folder) / 'manual'
    (manual / 'train').mkdir(parents=True)
    write_recordings(manual / 'train', size)
    measure('audio_folder/recordings', manual)


def write_notes(folder, split, size):
  rng = np.random.default_rng(0)
  time_s = np.arange(64000) / 16000
  # Sixteen notes, again and again under other names.
  wavs = []
  for i in range(16):
    sound = np.sin(2 * np.pi * 110 * 2**(i / 4) * time_s) * np.exp(-time_s)
    out = io.BytesIO()
    soundfile.write(out, 0.5 * sound + rng.normal(0, 1e-3, len(sound)), 16000,
                    format='WAV', subtype='PCM_16')
    wavs.append(out.getvalue())
  records = {}
  for i in range(size // len(wavs[0])):
    instrument, rest = divmod(i, 5 * 128)
    pitch, velocity = rest // 5, (25, 50, 75, 100, 127)[rest % 5]
    name = f'bass_acoustic_{instrument:03d}'
    note_str = f'{name}-{pitch:03d}-{velocity:03d}'
    records[note_str] = {
        'note': i, 'note_str': note_str, 'instrument': instrument,
        'instrument_str': name, 'pitch': pitch, 'velocity': velocity,
        'sample_rate': 16000, 'qualities': [0] * 10, 'qualities_str': [],
        'instrument_family': 0, 'instrument_family_str': 'bass',
        'instrument_source': 0, 'instrument_source_str': 'acoustic'}
  with tarfile.open(folder / f'nsynth-{split}.jsonwav.tar.gz', 'w:gz',
                    compresslevel=1) as tar:
    add(tar, f'nsynth-{split}/examples.json', json.dumps(records).encode())
    for i, note_str in enumerate(records):
      add(tar, f'nsynth-{split}/audio/{note_str}.wav', wavs[i % len(wavs)])


def add(tar, name, data):
  info = tarfile.TarInfo(name)
  info.size = len(data)
  tar.addfile(info, io.BytesIO(data))


def write_recordings(folder, size):
  rng = np.random.default_rng(0)
  second = rng.normal(0, 3000, (44100, 2)).astype(np.int16)
  seconds = size // second.nbytes
  for number, start in enumerate(range(0, seconds, 3600)):
    with soundfile.SoundFile(folder / f'{number}.wav', 'w', 44100, 2) as f:
      for _ in range(min(3600, seconds - start)):
        f.write(second)


def measure(name, manual):
  source = sum(p.stat().st_size for p in manual.rglob('*') if p.is_file())
  began = time.perf_counter()
  process = subprocess.Popen(
      [sys.executable, '-m', 'common.prepare', f'--dataset={name}',
       f'--manual_dir={manual}', f'--data_dir={manual.parent / "data"}',
       f'--workers={_WORKERS.value}'], cwd=ROOT, stdout=subprocess.PIPE)
  peak = {'first': 0, 'largest_worker': 0, 'total': 0}
  while process.poll() is None:
    workers = [memory(pid) for pid in children(process.pid)]
    first = memory(process.pid)
    now = {'first': first['Rss'], 'total': first['Pss'] + sum(
        w['Pss'] for w in workers), 'largest_worker': max(
            (w['Rss'] for w in workers), default=0)}
    peak = {k: max(v, now[k]) for k, v in peak.items()}
    time.sleep(0.2)
  if process.returncode:
    sys.exit(f'preparing {name} failed')
  largest = max(p.stat().st_size for p in (manual.parent / 'data').rglob('*'))
  print(json.dumps({
      'dataset': name, 'workers': _WORKERS.value,
      'source_mb': source // 10**6, 'largest_shard_mb': largest // 10**6,
      'seconds': round(time.perf_counter() - began, 1),
      **{f'{k}_mib': v >> 10 for k, v in peak.items()}}), flush=True)


def children(pid):
  try:
    text = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
  except FileNotFoundError:
    return []
  return [int(child) for child in text.split()]


def memory(pid) -> dict[str, int]:
  """Rss and Pss of a process in KiB, 0 if it has just ended."""
  found = {'Rss': 0, 'Pss': 0}
  try:
    lines = pathlib.Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
  except (FileNotFoundError, ProcessLookupError):
    return found
  for line in lines[1:]:
    name, value, *_ = line.replace(':', '').split()
    if name in found:
      found[name] = int(value)
  return found


if __name__ == '__main__':
  app.run(main)
