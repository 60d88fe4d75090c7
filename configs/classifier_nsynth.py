"""Classifier of notes, for the metrics (common/metrics/classifier.py).

  python -m common.train --config=classifier_nsynth --workdir=runs/classifier

Data: nsynth/gansynth_subset, as GANSynth: acoustic notes of pitch 24 to 84.
The size 'small' is for a handful of recorded notes, prepared as nsynth/full
with a train split only, of which it holds a fifth back; it transposes them.
The sizes 'demo' and 'tiny' need no download: their notes are synthetic.

GANSynth's classifier was never released. On real test notes it had (Engel et
al. 2019, table 1) a pitch accuracy of 98.2 % and an entropy of 0.22 nats; ours
on nsynth/gansynth_subset: not run. The size 'small' had the pitch of 12 of 12
held-out recorded notes right, and the family of 11 (docs/metrics.md).
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'small' (recorded notes), 'demo' or 'tiny' (seconds)."""
  config_lib.check_size(size, 'paper', 'small', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'common.metrics.classifier'
  c.data.name = 'nsynth/gansynth_subset'
  c.data.sample_rate = 16000
  c.data.transpose = 0  # Semitones up or down at most, by resampling.
  c.data.gain_db = 20.0  # Notes are made quieter by up to so much.
  c.data.snr_db = 20.0  # White noise is added, quieter by so much to 100 dB.
  c.steps = 20_000  # 21 epochs.
  c.batch_size = 64
  c.model.length = 64000  # Samples.
  c.model.n_fft = 2048
  c.model.hop = 512
  c.model.bands = 256  # A semitone is a band at 200 Hz.
  c.model.widths = (32, 64, 128, 256)
  c.model.blocks = 2
  c.model.features = 256  # D: what FID and KID compare.
  c.model.dropout = 0.3
  c.model.lowest_pitch = 24
  c.model.pitches = 61
  c.model.learning_rate = 1e-3
  c.model.decay_steps = 20_000  # Of the cosine.
  c.model.weight_decay = 1e-4
  if size == 'paper':
    return c
  c.model.hop = 1024
  c.model.blocks = 1
  c.model.widths = (16, 32, 64, 128)
  c.model.features = 128
  c.data.transpose = 6
  if size == 'small':
    c.data.name = 'nsynth/full'
    # Notes lie in order of instrument: of each ten the first two are held back.
    c.data.eval = '+'.join(f'train[{i}%:{i + 2}%]' for i in range(0, 100, 10))
    c.data.train = '+'.join(
        f'train[{i + 2}%:{i + 10}%]' for i in range(0, 100, 10))
    c.model.lowest_pitch, c.model.pitches = 0, 128
    c.model.length, c.model.hop = 8000, 512  # As gansynth_nsynth:small.
    c.batch_size = 32
    c.steps = c.model.decay_steps = 1000
    c.eval_every = c.checkpoint.every = 100
  elif size == 'demo':
    c.data.name = 'synthetic_notes/demo'
    c.batch_size = 16
    c.steps = c.model.decay_steps = 300
    c.log_every = 20
    c.eval_every = c.checkpoint.every = 100
  elif size == 'tiny':
    c.data.name = 'synthetic_notes/tiny'
    c.batch_size = 4
    c.steps = 2
    c.log_every = 1
    c.eval_every = c.checkpoint.every = 2
    c.model.length, c.model.bands = 8192, 64
    c.model.n_fft, c.model.hop = 1024, 512
    c.model.widths, c.model.features = (16, 16), 16
  return c


def ablations() -> dict[str, dict]:
  """What one would ask about."""
  return {
      'transpose_3': {'data.transpose': 3},
      'bands_128': {'model.bands': 128},
      'wide': {'model.widths': (64, 128, 256, 512)},
      'bfloat16': {'dtype': 'bfloat16'},
  }
