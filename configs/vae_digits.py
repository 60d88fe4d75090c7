"""VAE of spectrograms on spoken digits (vqvae_jax/vae.py).

  python -m common.train --config=vae_digits --workdir=runs/vae_digits

Data: audio_folder/digits-22050, the recordings of the Free Spoken Digit Dataset
(3000 clips, `7_theo_20.wav`), made ready by `python -m common.prepare`. The
size 'small' is for a hundred of them; 'demo' and 'tiny' need no download: their
notes are synthetic.

The course it comes from reports no numbers. Ours at its size: not run; those of
the size 'small' are in docs/vqvae.md.
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'small' (minutes on a CPU), 'demo' or 'tiny'."""
  config_lib.check_size(size, 'paper', 'small', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'vqvae_jax.vae'
  c.data.name = 'audio_folder/digits-22050'
  c.data.sample_rate = 22050
  c.model.samples = 16317  # 0.74 s: 64 frames.
  c.model.conditions = ()  # Or 'digit'; 'pitch', 'instrument_family' of notes.
  c.model.label_width = 16
  c.model.representation = 'log_magnitude'
  c.model.frames = c.model.bins = 0  # Of those that take them.
  c.model.n_fft = 512
  c.model.hop = 256
  c.model.bands = 0  # Of those that have bands; 0: their default.
  c.model.bands_per_octave = 0
  c.model.iterations = 32  # Of Griffin-Lim.
  c.model.range = 'min_max'
  c.model.floor = 1e-5
  c.model.top_db = 80.0
  # 256 x 64 pictures to 8 x 4.
  c.model.filters = (512, 256, 128, 64, 32)
  c.model.kernel_size = 3
  c.model.time_strides = (2, 2, 2, 2, 1)
  c.model.frequency_strides = (2, 2, 2, 2, 2)
  c.model.latent_size = 128
  c.model.norm_momentum = 0.99
  c.model.reconstruction_weight = 1e6
  c.model.kl_weight = 1.0
  c.model.learning_rate = 5e-4
  c.batch_size = 64
  # 150 epochs of the course's 3000 clips; 188 of the 2400 or so in our train.
  c.steps = 7050
  c.log_every = 47
  c.eval_every = c.sample_every = c.checkpoint.every = 470
  if size == 'small':
    c.model.filters = (32, 32, 64, 64, 32)
    c.model.latent_size = 32
    c.model.norm_momentum = 0.9
    c.model.learning_rate = 2e-3
    c.batch_size = 16
    c.steps = 800  # 160 epochs.
    c.log_every = 50
    c.eval_every = c.checkpoint.every = 200
    c.sample_every = 800
  elif size == 'demo':
    c.data.name = 'synthetic_notes/demo'
    c.data.sample_rate = 16000
    c.model.filters = (16, 16, 32, 32, 32)
    c.model.latent_size = 32
    c.model.norm_momentum = 0.9
    c.batch_size = 16
    c.steps = 200
    c.log_every = 20
    c.eval_every = c.sample_every = c.checkpoint.every = 100
  elif size == 'tiny':
    c.data.name = 'synthetic_notes/tiny'
    c.data.sample_rate = 16000
    c.model.samples = 500
    c.model.n_fft = 64
    c.model.hop = 32
    c.model.iterations = 4
    c.model.filters = (4, 6, 8)
    c.model.time_strides = (2, 2, 1)
    c.model.frequency_strides = (2, 2, 2)
    c.model.latent_size = 4
    c.model.reconstruction_weight = 1e3
    c.batch_size = 8
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 4
    c.num_samples = 2
  return c


def ablations() -> dict[str, dict]:
  """What the picture is of, how much the latents hold, and their price.

  Bands as many as the bins, of longer windows.
  """
  wide = {'model.n_fft': 2048}
  return {
      'magnitude': {'model.representation': 'magnitude'},
      'log_frequency': wide | {'model.representation': 'log_frequency',
                               'model.bands_per_octave': 30},
      'log_mel': wide | {'model.representation': 'log_mel',
                         'model.bands': 256},
      'magnitude_if': {'model.representation': 'magnitude_if'},
      'latents_8': {'model.latent_size': 8},
      'latents_512': {'model.latent_size': 512},
      'kl_0': {'model.kl_weight': 0.0},
      'kl_10': {'model.kl_weight': 10.0},
      'kl_100': {'model.kl_weight': 100.0},
      'digit': {'model.conditions': ('digit',)},
  }
