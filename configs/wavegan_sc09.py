"""WaveGAN on spoken digits (gansynth_jax/wavegan.py).

  python -m common.train --config=wavegan_sc09 --workdir=runs/wavegan_sc09

Data: audio_folder/sc09, the digits zero to nine of Speech Commands (1850
utterances a word in train, 5.3 hours, 16 kHz), as a folder of wav files made
ready by `python -m common.prepare`. The sizes 'demo' and 'tiny' need no
download: their notes are synthetic.

The paper trained for 200,000 generator updates, about 4 days on a P100. Its
Inception score on SC09 (table 1; 50,000 samples, its own classifier):

  ours                             not run
  real data, train / test          9.18 / 8.01
  WaveGAN without phase shuffle    4.12
  phase shuffle n=2 (this config)  4.67
  phase shuffle n=4                4.54
  nearest neighbour upsampling     3.77
  post-processing filter           3.92
  dropout in the critic, not here  3.93
"""

from ml_collections import config_dict

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'demo' (a minute or two on a CPU) or 'tiny' (seconds)."""
  config_lib.check_size(size, 'paper', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'gansynth_jax.wavegan'
  c.data.name = 'audio_folder/sc09'
  c.data.sample_rate = 16000
  # True: one slice a record (a clip, or a chunk of up to 20 s), its start.
  c.data.first_slice = False
  # True: what the released code ends up doing, here by the record's peak or, if
  # larger, the window's.
  c.data.peak_normalize = False
  c.steps = 200_000  # Of the generator, as the paper counts.
  c.eval_every = c.sample_every = c.checkpoint.every = 1000
  c.model.length = 16384  # Samples; or 32768, 65536.
  c.model.dim = 64
  c.model.kernel_size = 25
  c.model.latent_size = 100
  c.model.upsample = 'transpose'  # Or 'nearest'.
  c.model.post_filter = 0  # Length; the paper's is 512.
  c.model.batch_norm = False  # Of G, and of D unless loss is 'wgan-gp'.
  c.model.phase_shuffle = 2
  c.model.shuffle_per_example = False
  c.model.loss = 'wgan-gp'  # Or 'wgan', 'lsgan', 'dcgan'.
  c.model.penalty_weight = 10.0
  c.model.learning_rate = config_dict.placeholder(float)  # None: the loss's.
  c.model.critic_updates = 5
  c.batch_size = 5 * 64  # Each critic update has 64 clips of its own.
  if size == 'demo':
    c.data.name = 'synthetic_notes/demo'
    c.data.first_slice = True
    c.model.dim = 8
    c.model.upsample = 'nearest'  # Least noisy of what a minute can give.
    c.model.learning_rate = 5e-4
    c.batch_size = 5 * 16
    c.steps = 120
    c.log_every = 10
    c.eval_every = c.sample_every = c.checkpoint.every = 40
  elif size == 'tiny':
    c.data.name = 'synthetic_notes/tiny'
    c.data.first_slice = True
    c.model.dim = 2
    c.batch_size = 5 * 4
    c.steps = 2
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 2
    c.num_samples = 2
  return c


def ablations() -> dict[str, dict]:
  """Table 1 without its dropout row, and the released code's other losses."""
  return {
      'phase_shuffle_0': {'model.phase_shuffle': 0},
      'phase_shuffle_4': {'model.phase_shuffle': 4},
      'nearest': {'model.phase_shuffle': 0, 'model.upsample': 'nearest'},
      'post_filter': {'model.phase_shuffle': 0, 'model.post_filter': 512},
      'wgan': {'model.loss': 'wgan'},
      'lsgan': {'model.loss': 'lsgan'},
      'dcgan': {'model.loss': 'dcgan'},
  }
