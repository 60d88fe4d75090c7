"""Jukebox's VQ-VAE on music (vqvae_jax/jukebox_vqvae.py).

  python -m common.train --config=jukebox_vqvae_music --workdir=runs/codec

Data: audio_folder/music-44100, a folder of your music made ready by `python -m
common.prepare`; the paper's 1.2 million songs are not public. The sizes
'small_vqvae' and 'defaults' are the released code's other settings, for
audio_folder/music-22050 and audio_folder/music-44100; 'small' trains on a
minute of music on a CPU; 'demo' and 'tiny' need no download.

Spectral convergence in dB, by level. The paper's numbers are from memory, and
its data is not to be had: read them as an order.

                                  hop 128   hop 32   hop 8
  ours                            not run
  the size 'small' (docs/vqvae.md)   -0.6     -2.0    -7.7
  this config                        -8.3    -12.4   -23.0
  no restarts                        -8.3    -12.4   -21.1
  codebook of 256                                    -15.9
  without spectral loss              -6.3
  one hierarchical autoencoder       +2.9
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'small_vqvae', 'defaults', 'small', 'demo', 'tiny'."""
  config_lib.check_size(
      size, 'paper', 'small_vqvae', 'defaults', 'small', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'vqvae_jax.jukebox_vqvae'
  c.data.name = 'audio_folder/music-44100'
  c.data.sample_rate = 44100
  c.model.samples = 393216  # 8.9 s.
  c.model.downs = (3, 2, 2)  # Halvings of the rate: hops 8, 32, 128.
  c.model.widths = (64, 32, 32)  # Of each level, the finest first.
  c.model.depths = (8, 4, 4)
  c.model.dilation_growth = 3
  c.model.dilation_cycle = 0  # 0: never.
  c.model.rescaled = False  # True: residual units weigh 1 / sqrt(depth).
  c.model.code_width = 64
  c.model.codebook_size = 2048
  c.model.codebook_init = 'data'
  c.model.decay = 0.99
  c.model.restart_below = 1.0  # Vectors a step, averaged; 0: no restarts.
  c.model.separate = True
  c.model.commit_weight = 0.02
  c.model.linf_weight = 0.02  # The paper's text has only L2.
  c.model.linf_count = 2048
  c.model.spectral_weight = 1.0
  c.model.resolutions = ((2048, 240, 1200), (1024, 120, 600), (512, 50, 240))
  # What the losses are divided by, of 43 seconds of strings, trumpet and piano
  # in clips of this length; jukebox_vqvae.measure finds those of your data.
  c.model.bandwidth_l2 = 0.0052
  c.model.bandwidth_spectral = 2068.0
  c.model.learning_rate = 3e-4
  c.model.warmup = 100
  c.model.clip = 1.0
  c.batch_size = 256
  c.steps = 384_618
  c.model.ema_decay = 0.0  # 0: 1 - batch_size / 8000, as released.
  c.model.remat = False  # True: units are computed again for gradients.
  c.model.window = 2**20  # Samples at a time, of sounds of any length.
  c.eval_every = c.sample_every = c.checkpoint.every = 5000
  if size == 'small_vqvae':
    c.data.name = 'audio_folder/music-22050'
    c.data.sample_rate = 22050
    c.model.samples = 262144
    c.model.downs = (5, 3)  # Hops 32 and 256.
    c.model.widths = (32, 32)
    c.model.depths = (4, 4)
    c.model.codebook_size = 1024
    c.model.linf_weight = 0.0
    c.model.bandwidth_spectral = 1429.0
    c.batch_size = 4
  elif size == 'defaults':
    c.model.samples = 262144
    c.model.downs = (1, 1)  # Hops 2 and 4.
    c.model.widths = (128, 128)
    c.model.depths = (3, 3)
    c.model.dilation_growth = 1
    c.model.codebook_size = 512
    c.model.commit_weight = 1.0
    c.model.linf_weight = 0.0
    c.model.bandwidth_spectral = 1698.0
    c.batch_size = 4
  elif size == 'small':
    c.data.name = 'audio_folder/music-22050'
    c.data.sample_rate = 22050
    c.model.samples = 8192  # 0.37 s.
    c.model.widths = (32, 16, 16)
    c.model.depths = (4, 4, 4)
    c.model.code_width = 32
    c.model.codebook_size = 128  # A step has 256 vectors of level 2.
    c.model.linf_count = 64
    c.model.bandwidth_l2 = 0.0056
    c.model.bandwidth_spectral = 299.0
    c.model.learning_rate = 1e-3
    c.model.ema_decay = 0.99
    c.model.window = 2**17
    c.batch_size = 4
    c.steps = 1000
    c.log_every = 50
    c.eval_every = c.checkpoint.every = 250
    c.sample_every = 500
  elif size == 'demo':
    c.data.name = 'synthetic_pieces/demo'
    c.data.sample_rate = 16000
    c.model.samples = 8192
    c.model.widths = (16, 16, 16)
    c.model.depths = (2, 2, 2)
    c.model.code_width = 16
    c.model.codebook_size = 64
    c.model.linf_count = 64
    c.model.bandwidth_l2 = 0.03
    c.model.bandwidth_spectral = 200.0
    c.model.learning_rate = 1e-3
    c.model.ema_decay = 0.98
    c.model.window = 2**16
    c.batch_size = 8
    c.steps = 200
    c.log_every = 20
    c.eval_every = c.sample_every = c.checkpoint.every = 100
  elif size == 'tiny':
    c.data.name = 'synthetic_pieces/tiny'
    c.data.sample_rate = 16000
    c.model.samples = 1024
    c.model.downs = (2, 1)
    c.model.widths = (8, 4)
    c.model.depths = (2, 1)
    c.model.code_width = 4
    c.model.codebook_size = 16
    c.model.linf_count = 32
    c.model.bandwidth_l2 = 0.03
    c.model.bandwidth_spectral = 30.0
    c.model.resolutions = ((256, 60, 240), (128, 30, 100))
    c.model.ema_decay = 0.9
    c.model.window = 2048
    c.batch_size = 8
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 4
    c.num_samples = 2
  return c


def ablations() -> dict[str, dict]:
  """The paper's four changes undone, and codebook sizes."""
  return {
      'no_restarts': {'model.restart_below': 0.0},
      'no_spectral_loss': {'model.spectral_weight': 0.0},
      'one_stft': {'model.resolutions': ((1024, 120, 600),)},
      'joint_levels': {'model.separate': False},
      'codes_256': {'model.codebook_size': 256},
  }


PAPER = {
    'base': {'level0/convergence_db': -23.0,
             'level1/convergence_db': -12.4,
             'level2/convergence_db': -8.3},
    'no_restarts': {'level0/convergence_db': -21.1,
                    'level1/convergence_db': -12.4,
                    'level2/convergence_db': -8.3},
    'no_spectral_loss': {'level2/convergence_db': -6.3},
    'joint_levels': {'level2/convergence_db': 2.9},
    'codes_256': {'level0/convergence_db': -15.9},
}
