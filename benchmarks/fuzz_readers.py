"""Does any reader of strangers' files do more than refuse what is broken?

  python benchmarks/fuzz_readers.py
  python benchmarks/fuzz_readers.py --reader=wav --inputs=1000000
  python benchmarks/fuzz_readers.py --reader=wav --first=4711 --inputs=1

Each input is a small valid file with a few of its bytes changed, cut out,
doubled or mixed with another's. A reader may return anything, or raise its own
errors. What counts as a crash: any other exception, the death of the process,
more than 2 GiB of memory, more than 5 s for one input. Input i is the same
each time, so that --first shows a crash again, with its traceback.
"""

import collections
import contextlib
import io
import json
import multiprocessing
import os
import pickle
import resource
import signal
import struct
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import soundfile
from absl import app, flags

from common import audio, errors, midi, smf, torch_checkpoint
from common.data import tfrecord, unpickle, wav
from common.data.builders import base, lakh, musicnet, nsynth

_READER = flags.DEFINE_list('reader', [], 'Which readers; all by default.')
_INPUTS = flags.DEFINE_integer('inputs', 100_000, 'Inputs for each reader.')
_FIRST = flags.DEFINE_integer('first', 0, 'Number of the first input.')
_SECONDS = 5  # For one input.
_MEMORY = 2 << 30  # Bytes, over what the process has when it begins.


class Reader(NamedTuple):
  """What is tested: bytes go in."""

  read: Callable[[bytes], object]
  errors: tuple[type[Exception], ...]
  valid: Callable[[], list[bytes]]  # Files to change.


# --- Readers and valid files for them ---------------------------------------


def _masked(data):
  crc = tfrecord.crc32c(data)
  return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xA282EAD8)
                     & 0xFFFFFFFF)


def _records(payloads):
  return b''.join(
      (n := struct.pack('<Q', len(p))) + _masked(n) + p + _masked(p)
      for p in payloads)


def _field(number, payload):
  size = len(payload)
  return (bytes([number << 3 | 2]) + (
      bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7]))
          + payload)


def _examples():
  floats = np.linspace(-1, 1, 100, dtype='<f4').tobytes()
  features = {
      b'note_str': _field(1, _field(1, b'bass_acoustic_000-023-025')),
      b'audio': _field(2, _field(1, floats)),
      b'loose': _field(2, b''.join(
          b'\x0d' + floats[4 * i:4 * i + 4] for i in range(10))),
      b'pitch': _field(3, _field(1, b'\x17')),
      b'qualities': _field(3, _field(1, bytes(9) + b'\x01')),
      b'note': _field(3, b'\x08\xac\x02\x08' + b'\xff' * 9 + b'\x01')}
  whole = b''.join(_field(1, _field(1, k) + _field(2, v))
                   for k, v in features.items())
  return [_field(1, whole), b'']


def _wavs():
  out = []
  x = np.sin(np.arange(200) / 10)
  for kind, subtype, channels in (('WAV', 'PCM_16', 1), ('WAV', 'FLOAT', 1),
                                  ('WAVEX', 'FLOAT', 2)):
    f = io.BytesIO()
    soundfile.write(f, np.stack([x] * channels, 1), 16000, subtype,
                    format=kind)
    out.append(f.getvalue())
  return out


def _sounds():
  x = np.sin(np.arange(2000) / 10).astype(np.float32)
  out = [audio.encode(x, 16000, kind) for kind in ('wav', 'flac', 'mp3')]
  for kind, subtype in (('WAV', 'PCM_24'), ('OGG', 'VORBIS'),
                        ('AIFF', 'PCM_16')):
    f = io.BytesIO()
    soundfile.write(f, x, 16000, subtype, format=kind)
    out.append(f.getvalue())
  return out


class _Tree:  # An interval tree as musicnet.npz has it.

  def __init__(self, intervals):
    self.intervals = intervals

  def __reduce__(self):
    return _Tree, (self.intervals,)


def _pickles():
  recording = np.empty(2, object)
  recording[0] = np.linspace(-1, 1, 50)
  recording[1] = _Tree([(0, 22050, (42, 72, 1, 0.0, 'Quarter'))])
  own = f'{_Tree.__module__}\n_Tree'.encode()
  return [
      pickle.dumps(recording, 2).replace(
          own, b'intervaltree.intervaltree\nIntervalTree'),
      *(pickle.dumps({'train': [[(60, 64), (), (67,)]], 'n': 2**70, 'x': 1.5,
                      'y': [True, None, b'bytes', 'text'],
                      'z': np.arange(5)}, p) for p in range(5))]


def _npys():
  out = [_header('|O', (2,)) + _pickles()[0]]
  for x in (np.arange(12).reshape(3, 4), np.zeros((0, 128), bool),
            np.asfortranarray(np.eye(3))):
    f = io.BytesIO()
    np.save(f, x)
    out.append(f.getvalue())
  return out


def _header(descr, shape):
  f = io.BytesIO()
  np.lib.format.write_array_header_1_0(
      f, {'descr': descr, 'fortran_order': False, 'shape': shape})
  return f.getvalue()


def _npzs():
  out = []
  for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    f = io.BytesIO()
    with zipfile.ZipFile(f, 'w', method) as z:
      for i, content in enumerate(_npys()):
        z.writestr(f'{i}.npy', content)
      z.writestr('info.json', '{"beat_resolution": 24}')
    out.append(f.getvalue())
  return out


def _torches():
  """Checkpoints of PyTorch: a zip file, and the stream that was before."""
  text = lambda word: b'X' + struct.pack('<I', len(word)) + word
  content = np.linspace(-1, 1, 6, dtype='<f4').tobytes()

  def state(more):
    return b'\x80\x02}(' + b''.join(
        text(name) + b'ctorch._utils\n_rebuild_tensor_v2\n((' + text(b'storage')
        + b'ctorch\nFloatStorage\n' + text(b'0') + text(b'cpu') + b'K\x06'
        + more + b'tQK\x00' + shape + b'\x89ccollections\nOrderedDict\n)RtR'
        for name, shape in ((b'a', b'K\x06\x85K\x01\x85'),
                            (b'b.c', b'K\x02K\x03\x86K\x01K\x02\x86'))
    ) + (text(b'hps') + b'cargparse\nNamespace\n)\x81}' + text(b'lr')
         + b'G' + bytes(8) + b'sbu.')

  f = io.BytesIO()
  with zipfile.ZipFile(f, 'w') as z:
    z.writestr('m/data.pkl', state(b''))
    z.writestr('m/byteorder', 'little')
    z.writestr('m/data/0', content)
  stream = b''.join(pickle.dumps(x, 2) for x in (
      0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}))
  return [f.getvalue(), stream + state(b'N') + pickle.dumps(['0'], 2)
          + struct.pack('<Q', 6) + content]


def _jsons():
  records = {f'bass_acoustic_000-{pitch:03d}-025': {
      'note': 5, 'note_str': f'bass_acoustic_000-{pitch:03d}-025',
      'instrument': 417, 'instrument_str': 'bass_acoustic_000',
      'pitch': pitch, 'velocity': 25, 'sample_rate': 16000,
      'qualities': [0, 1] * 5, 'qualities_str': ['dark'],
      'instrument_family': 0, 'instrument_family_str': 'bass',
      'instrument_source': 0, 'instrument_source_str': 'acoustic'}
             for pitch in (23, 24)}
  return [json.dumps(records).encode(),
          json.dumps(records, indent=2).encode()]


def _midis():
  notes = b''.join(bytes([i % 3, 0x90, 60 + i % 4, 90, 9, 60 + i % 4, 0])
                   for i in range(12))
  meta = b'\x00\xff\x51\x03\x07\xa1\x20\x05\xff\x58\x04\x04\x02\x18\x08'
  pedal = b'\x00\xb1\x40\x7f\x00\x91\x3c\x40\x81\x10\x3c\x00\x05\xb1\x40\x00'
  other = b'\x00\xc1\x05\x00\xd1\x11\x02\x12\x00\xf0\x03\x41\x10\xf7'
  end = b'\x00\xff\x2f\x00'
  tracks = [meta + end, other + pedal + notes + end, notes + pedal + end]
  return [b'MThd' + struct.pack('>IHHH', 6, kind, 3, division) + b''.join(
      b'MTrk' + struct.pack('>I', len(t)) + t for t in tracks)
          for kind, division in ((0, 96), (1, 480), (2, 480), (1, 0xE728))]


def _rolls():
  roll = {'data': np.full(6, 90, np.uint8), 'shape': np.array([96, 128]),
          'indices': np.arange(6, dtype=np.int32),
          'indptr': np.repeat([0, 6], [61, 68]).astype(np.int32)}
  f = io.BytesIO()
  np.savez(f, tempo=np.full(96, 120.0), **{
      f'pianoroll_0_csc_{name}': array for name, array in roll.items()})
  with zipfile.ZipFile(f, 'a') as z:
    z.writestr('info.json', json.dumps({'beat_resolution': 24, '0': {
        'program': 24, 'is_drum': False, 'name': 'Guitar'}}))
  return [f.getvalue()]


def _read_frames(data):
  for payload, check in tfrecord.frames(io.BytesIO(data)):
    tfrecord.intact(payload, check)


def _read_wav(data):
  f = wav.Wav(io.BytesIO(data))
  f.read(f.samples)


def _read_sound(data):
  with tempfile.NamedTemporaryFile(dir='/dev/shm') as f:
    f.write(data)
    f.flush()
    audio.read(f.name, 16000)


def _read_torch(data):
  with tempfile.NamedTemporaryFile(dir='/dev/shm') as f:
    f.write(data)
    f.flush()
    found = torch_checkpoint.Checkpoint(f.name)
    for name in found.shapes:
      found.read(name)


def _read_json(data):
  for key, value in nsynth._json_records(io.BytesIO(data)):
    with contextlib.suppress(*nsynth._BROKEN):
      nsynth._note(key, value)


READERS = {
    'midi': Reader(lambda data: midi.sustained(midi.parse(data)),
                   (smf.Error,), _midis),
    'lpd': Reader(lakh.read, (base.Skip,), _rolls),
    'tfrecord': Reader(
        _read_frames, (tfrecord.Error,),
        lambda: [_records(_examples()), _records([b'', b'a', bytes(300)])]),
    'example': Reader(tfrecord.example, (tfrecord.Error,), _examples),
    'wav': Reader(_read_wav, (wav.Error,), _wavs),
    'sound': Reader(_read_sound, (errors.UserError,), _sounds),
    'pickle': Reader(unpickle.loads, (unpickle.Error,), _pickles),
    'npy': Reader(lambda data: unpickle.npy(io.BytesIO(data)),
                  (unpickle.Error,), _npys),
    'npz': Reader(lambda data: unpickle.npz(data, 1 << 24),
                  (unpickle.Error,), _npzs),
    'torch': Reader(_read_torch, (errors.UserError,), _torches),
    'nsynth_json': Reader(_read_json, (nsynth._BrokenJson,), _jsons),
    'musicnet_csv': Reader(musicnet._read_labels, (musicnet._Broken,), lambda: [
        b'start_time,end_time,instrument,note,start_beat,end_beat,note_value\n'
        b'9182,90078,43,53,4.0,1.5,Dotted Quarter\n'
        b'9182,33758,42,65,4.0,0.5,"Eighth"\n']),
}


# --- Changing files ---------------------------------------------------------

# Bytes and numbers at the edges of their ranges.
_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
_NUMBERS = (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000,
            0xFFFFFFFE, 0xFFFFFFFF)


def mutated(files: list[bytes], number: int) -> bytes:
  """Input `number`: one of the files with one to eight changes."""
  rng = np.random.default_rng(number)
  data = bytearray(files[rng.integers(len(files))])
  for _ in range(min(8, rng.geometric(0.4))):
    at = int(rng.integers(len(data) + 1))
    length = int(rng.integers(1, 33))
    match rng.integers(9):
      case 0 if at < len(data):
        data[at] ^= 1 << int(rng.integers(8))
      case 1 if at < len(data):
        data[at] = int(rng.integers(256))
      case 2 if at < len(data):
        data[at] = _BYTES[rng.integers(len(_BYTES))]
      case 3:
        data[at:at + 4] = struct.pack(
            '<>'[rng.integers(2)] + 'I', _NUMBERS[rng.integers(len(_NUMBERS))])
      case 4:
        del data[at:at + length]
      case 5:
        data[at:at] = data[at:at + length]
      case 6:
        data[at:at] = rng.bytes(length)
      case 7 if rng.random() < 0.3:
        del data[at:]
      case 8:  # Another file's middle.
        other = files[rng.integers(len(files))]
        start = int(rng.integers(len(other) + 1))
        data[at:at + length] = other[start:start + length]
  return bytes(data)


# --- Running ----------------------------------------------------------------


def _timeout(*_):
  raise TimeoutError(f'more than {_SECONDS} s')


def _run(name, first, last, pipe):
  """Sends (first input not done, outcomes, slowest, traceback of the last)."""
  reader = READERS[name]
  files = reader.valid()
  # Sound libraries tell there what they think of each file.
  os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
  signal.signal(signal.SIGALRM, _timeout)
  with open('/proc/self/statm') as f:
    size = int(f.read().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY,) * 2)
  outcomes, slowest = collections.Counter(), 0.0
  for number in range(first, last):
    data = mutated(files, number)
    if number % 100 == 0:
      pipe.send((number, dict(outcomes), slowest, ''))
    begin = time.perf_counter()
    signal.alarm(_SECONDS)
    try:
      reader.read(data)
      outcomes['read'] += 1
    except reader.errors:
      outcomes['refused'] += 1
    except BaseException:  # Exit and interrupt would be crashes too.
      outcomes['crashed'] += 1
      pipe.send((number + 1, dict(outcomes), slowest,
                 traceback.format_exc()))
    signal.alarm(0)
    slowest = max(slowest, time.perf_counter() - begin)
  pipe.send((last, dict(outcomes), slowest, ''))


def fuzz(name: str, first: int, inputs: int) -> int:
  """Prints a line about one reader; returns the number of crashes."""
  for file in READERS[name].valid():
    READERS[name].read(file)
  context = multiprocessing.get_context('spawn')
  total, slowest, begin = collections.Counter(), 0.0, time.perf_counter()
  at, last, careful, seen = first, first + inputs, 0, set()
  while at < last:
    ours, theirs = context.Pipe(duplex=False)
    # After a death, one by one until the input is found.
    end = at + 1 if at < careful else last
    child = context.Process(target=_run, args=(name, at, end, theirs))
    child.start()
    theirs.close()
    outcomes = {}
    try:
      while True:
        at, outcomes, seconds, crash = ours.recv()
        slowest = max(slowest, seconds)
        where = crash.strip().rsplit('\n  File ', 1)[-1]
        if crash and where not in seen:
          seen.add(where)
          print(f'{name}: input {at - 1}: {crash}', flush=True)
    except EOFError:
      child.join()
    total.update(outcomes)
    if child.exitcode and at < careful:
      print(f'{name}: input {at}: the process died ({child.exitcode})',
            flush=True)
      total['crashed'] += 1
      at += 1
    elif child.exitcode:
      careful = min(at + 100, last)
  seconds = time.perf_counter() - begin
  print(f'{name:12} {inputs:,} inputs in {seconds:.0f} s: {total["read"]:,} '
        f'read, {total["refused"]:,} refused, {total["crashed"]:,} crashed; '
        f'the slowest took {slowest:.3f} s', flush=True)
  return total['crashed']


def main(argv):
  del argv
  crashes = sum(fuzz(name, _FIRST.value, _INPUTS.value)
                for name in _READER.value or READERS)
  return 1 if crashes else 0


if __name__ == '__main__':
  app.run(main)
