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

import numpy as np
import tensorboardX
from tensorboardX.proto import summary_pb2

from common import audio, errors, image, midi


class Writer:
  """Appends from `step` on; what a killed run wrote after it is dropped."""

  def __init__(self, workdir, step: int, config, wandb: str | None = None):
    self._workdir = pathlib.Path(workdir)
    self._wandb = wandb and _wandb(wandb, self._workdir, config)
    self._data = config.data
    self._metrics = _open(self._workdir / 'metrics.jsonl', step)
    self._timing = _open(self._workdir / 'timing.jsonl', step)
    self._board = tensorboardX.SummaryWriter(
        str(self._workdir / 'tensorboard'), purge_step=step + 1)

  def metrics(self, step: int, values: dict[str, float]) -> None:
    self._lines(self._metrics, step, values)

  def timing(self, step: int, values: dict[str, float]) -> None:
    self._lines(self._timing, step, values)

  def samples(self, step: int, arrays: dict[str, np.ndarray]) -> None:
    files = write_samples(
        self._workdir / 'samples', f'{step:06d}', arrays, self._data)
    for name, picture in files.items():
      # By hand: add_image would need Pillow, for the same PNG.
      self._board.file_writer.add_summary(summary_pb2.Summary(
          value=[summary_pb2.Summary.Value(
              tag=name, image=summary_pb2.Summary.Image(
                  height=picture.shape[0], width=picture.shape[1],
                  colorspace=3, encoded_image_string=image.png(picture)))]),
          step)
    for i, wave in enumerate(arrays.get('audio', ())):
      self._board.add_audio(f'sample_{i:02d}', np.reshape(wave, (-1, 1)), step,
                            sample_rate=self._data.sample_rate)
    self._board.flush()

  def close(self) -> None:
    self._metrics.close()
    self._timing.close()
    self._board.close()
    if self._wandb:
      self._wandb.finish()

  def _lines(self, file, step, values):
    values = {k: float(v) for k, v in values.items()}
    file.write(json.dumps({'step': step, **values}) + '\n')
    file.flush()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)
    if self._wandb:
      self._wandb.log(values, step=step)


def write_samples(folder: pathlib.Path, stem: str, arrays, data
                  ) -> dict[str, np.ndarray]:
  """One wav or mid file and one picture per sample; returns the pictures."""
  folder.mkdir(parents=True, exist_ok=True)
  pictures = {}
  for i, wave in enumerate(arrays.get('audio', ())):
    audio.write(folder / f'{stem}_{i:02d}.wav', wave, data.sample_rate)
    pictures[f'{i:02d}'] = image.spectrogram(wave, data.sample_rate)
  for i, roll in enumerate(arrays.get('roll', ())):
    midi.write(folder / f'{stem}_{i:02d}.mid',
               midi.from_roll(roll, data.step_s, data.programs))
    pictures[f'{i:02d}'] = image.roll(roll)
  for name, picture in pictures.items():
    (folder / f'{stem}_{name}.png').write_bytes(image.png(picture))
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
    temporary = path.with_suffix('.tmp')
    temporary.write_bytes(b''.join(kept))
    os.replace(temporary, path)
  return path.open('a')


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
