"""What a run writes for people and scripts, all under its workdir.

  metrics.jsonl  one object a line, bit-equal however often a run is resumed
  timing.jsonl   step times: they differ from run to run, so they live apart
  tensorboard/   the same numbers, pictures and sounds
  samples/       000100_00.wav, .mid, .png
"""

import hashlib
import importlib
import json
import os
import pathlib
import time

import numpy as np
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2, summary_pb2

from common import audio, errors, files, image, midi

PICTURE_STEP_S = 0.05  # A column of a picture of notes that have no grid.
PLAYED_RATE = 44_100  # Samples a second of notes that are played.


class Writer:
  """Appends from `step` on; what a killed run wrote after it is dropped."""

  def __init__(self, workdir, step: int, config, wandb: str | None = None):
    self._workdir = pathlib.Path(workdir)
    self._wandb = wandb and _wandb(wandb, self._workdir, config)
    self._data = config.data
    self._metrics = _open(self._workdir / 'metrics.jsonl', step)
    self._timing = _open(self._workdir / 'timing.jsonl', step)
    self._board = _Board(self._workdir / 'tensorboard', step)

  def metrics(self, step: int, values: dict[str, float]) -> None:
    self._lines(self._metrics, step, values)

  def timing(self, step: int, values: dict[str, float]) -> None:
    self._lines(self._timing, step, values)

  def samples(self, step: int, arrays: dict[str, np.ndarray]) -> None:
    files = write_samples(
        self._workdir / 'samples', f'{step:06d}', arrays, self._data)
    for name, picture in files.items():
      self._board.image(step, name, picture)
    for i, wave in enumerate(arrays.get('audio', ())):
      self._board.audio(step, f'sample_{i:02d}', wave, self._data.sample_rate)

  def close(self) -> None:
    self._metrics.close()
    self._timing.close()
    self._board.close()
    if self._wandb:
      self._wandb.finish()

  def _lines(self, file, step, values):
    values = {k: float(v) for k, v in values.items()}
    try:
      file.write(json.dumps({'step': step, **values}).encode() + b'\n')
    except OSError as e:
      raise errors.UserError(
          f'cannot write {file.name}: {e.strerror}; free some space or choose '
          'another --workdir; the last checkpoint there stays') from e
    self._board.scalars(step, values)
    if self._wandb:
      self._wandb.log(values, step=step)


class _Board:
  """TensorBoard's event files, written as we go.

  tensorboardX's own SummaryWriter writes from a thread, whose errors reach
  nobody, and needs Pillow for the PNG that we have already.
  """

  def __init__(self, folder: pathlib.Path, step: int):
    folder.mkdir(parents=True, exist_ok=True)
    self._records = record_writer.RecordWriter(str(
        folder / f'events.out.tfevents.{time.time():.6f}.{os.getpid()}'))
    self._event(0, file_version='brain.Event:2')
    # TensorBoard drops what a killed run wrote from here on.
    self._event(step + 1, session_log=event_pb2.SessionLog(
        status=event_pb2.SessionLog.START))

  def scalars(self, step: int, values: dict[str, float]) -> None:
    self._summary(step, [summary_pb2.Summary.Value(tag=k, simple_value=v)
                         for k, v in values.items()])

  def image(self, step: int, name: str, rgb: np.ndarray) -> None:
    height, width, _ = rgb.shape
    self._summary(step, [summary_pb2.Summary.Value(
        tag=name, image=summary_pb2.Summary.Image(
            height=height, width=width, colorspace=3,
            encoded_image_string=image.png(rgb)))])

  def audio(self, step: int, name: str, wave: np.ndarray, rate: int) -> None:
    self._summary(step, [summary_pb2.Summary.Value(
        tag=name, audio=summary_pb2.Summary.Audio(
            sample_rate=rate, num_channels=1, length_frames=len(wave),
            encoded_audio_string=audio.encode(wave, rate, 'wav'),
            content_type='audio/wav'))])

  def close(self) -> None:
    self._records.close()

  def _summary(self, step, values):
    self._event(step, summary=summary_pb2.Summary(value=values))

  def _event(self, step, **what):
    self._records.write(event_pb2.Event(
        wall_time=time.time(), step=step, **what).SerializeToString())
    self._records.flush()


def write_samples(folder: pathlib.Path, stem: str, arrays, data,
                  play: bool = False) -> dict[str, np.ndarray]:
  """One wav or mid file and one picture per sample; returns the pictures.

  With `play` notes get a wav file as well.
  """
  folder.mkdir(parents=True, exist_ok=True)
  pictures = {}

  def write_notes(i, notes):
    midi.write(folder / f'{stem}_{i:02d}.mid', notes)
    if play:
      audio.write(folder / f'{stem}_{i:02d}.wav',
                  audio.synthesize(notes, PLAYED_RATE), PLAYED_RATE)

  for i, wave in enumerate(arrays.get('audio', ())):
    audio.write(folder / f'{stem}_{i:02d}.wav', wave, data.sample_rate)
    pictures[f'{i:02d}'] = image.spectrogram(wave, data.sample_rate)
  for i, roll in enumerate(arrays.get('roll', ())):
    write_notes(i, midi.from_roll(roll, data.step_s, data.programs))
    pictures[f'{i:02d}'] = image.roll(roll)
  for i, notes in enumerate(arrays.get('notes', ())):
    write_notes(i, notes)
    if len(notes):
      pictures[f'{i:02d}'] = image.roll(midi.to_roll(
          notes, PICTURE_STEP_S, sorted(set(notes['program'].tolist()))))
  if 'audio' not in arrays:  # Codes without the codec that would sound them.
    for i, codes in enumerate(arrays.get('codes', ())):
      pictures[f'{i:02d}'] = image.codes(codes)
  for name, picture in pictures.items():
    files.write(folder / f'{stem}_{name}.png', image.png(picture))
  return {f'sample_{name}': p for name, p in pictures.items()}


def _open(path: pathlib.Path, step: int):
  """Ready to append, with only the whole lines up to `step` kept."""
  if path.exists():
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
      try:
        if json.loads(line)['step'] <= step and line.endswith(b'\n'):
          kept.append(line)
      except (ValueError, KeyError, TypeError):
        continue  # Torn by a kill.
    files.write(path, b''.join(kept))
  return path.open('ab', buffering=0)  # What is written is written.


def _wandb(project: str, workdir: pathlib.Path, config):
  try:
    wandb = importlib.import_module('wandb')
  except ImportError:
    raise errors.UserError(
        f'--wandb={project} needs Weights & Biases: '
        "pip install 'ostinato[wandb]'") from None
  # The id makes a resumed run go on in the same curve.
  name = str(workdir.resolve())
  return wandb.init(project=project, name=workdir.name, dir=str(workdir),
                    id=hashlib.sha256(name.encode()).hexdigest()[:16],
                    resume='allow', config=config.to_dict())
