"""Spectral autoencoder on NSynth (vqvae_jax/autoencoder.py).

  python -m common.train --config=autoencoder_nsynth --workdir=runs/autoencoder

Data: nsynth/full, 289,205 notes in train, made ready by `python -m
common.prepare`. The size 'small' is for 63 recorded notes in the same layout
(docs/gansynth.md); 'demo' and 'tiny' need no download: their notes are
synthetic.

The paper (Engel et al. 2017) trained on six K40 for five days and reports no
number for spectrograms as such. Ours at its size: not run. The size 'small',
stopped at step 220 (of 800), on 16 of its 63 training notes: mean square error
0.0094, spectral convergence -0.7 dB after Griffin-Lim: far from done.
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'small' (minutes on a CPU), 'demo' or 'tiny'."""
  config_lib.check_size(size, 'paper', 'small', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'vqvae_jax.autoencoder'
  c.data.name = 'nsynth/full'
  c.data.sample_rate = 16000
  c.model.samples = 64000
  c.model.conditions = ('pitch',)  # Also 'instrument_family'; (): none.
  c.model.label_width = 128
  c.model.representation = 'log_magnitude'
  c.model.frames = c.model.bins = 0  # Of those that take them.
  c.model.n_fft = 1024
  c.model.hop = 256
  c.model.bands = 0  # Of those that have them; 0: their default.
  c.model.bands_per_octave = 0
  c.model.iterations = 1000  # Of Griffin-Lim: momentum .99, the paper's 0.
  c.model.range = 'top_db'
  c.model.floor = 1e-13**0.5  # 1e-13 is that of powers.
  c.model.top_db = 120.0
  # 512 x 256 pictures to 1 x 1.
  c.model.encoder_filters = (128, 128, 128, 256, 256, 256, 512, 512, 512)
  c.model.encoder_kernels = (5, 4, 4, 4, 4, 4, 4, 4, 4)
  # Those of the decoder have the same order: it is no mirror image.
  c.model.decoder_filters = (512, 512, 256, 256, 256, 128, 128, 128, 128)
  c.model.decoder_kernels = (4, 4, 4, 4, 4, 4, 4, 5, 5)
  c.model.time_strides = (2, 2, 2, 2, 2, 2, 2, 2, 1)
  c.model.frequency_strides = (2, 2, 2, 2, 2, 2, 2, 2, 2)
  c.model.hidden = 1024  # Width of the 1 x 1 convolutions around the latents.
  c.model.latent_size = 1984
  c.model.norm_momentum = 0.999
  c.model.weight_peak = 10.0  # Of the error at 0 Hz.
  c.model.weight_flat_hz = 4000.0  # From here on the weight is 1.
  c.model.fit_decay = 0.999  # Of the density that samples are drawn from.
  c.model.learning_rate = 1e-4
  c.batch_size = 8
  c.steps = 1_000_000  # Released: without end.
  c.log_every = 100
  c.eval_every = c.sample_every = c.checkpoint.every = 10_000
  if size == 'small':
    c.data.eval = 'train'  # There is no other split.
    c.model.samples = 16000  # A second: 64 frames.
    c.model.iterations = 32
    c.model.encoder_filters = (16, 32, 32, 64, 64, 64)
    c.model.encoder_kernels = (5, 4, 4, 4, 4, 4)
    c.model.decoder_filters = (64, 64, 64, 32, 32, 16)
    c.model.decoder_kernels = (4, 4, 4, 4, 4, 5)
    c.model.time_strides = (2, 2, 2, 2, 2, 2)
    c.model.frequency_strides = (2, 2, 2, 2, 2, 2)
    c.model.hidden = 128
    c.model.latent_size = 16  # Of each of 8 pixels.
    c.model.label_width = 16
    c.model.norm_momentum = 0.95
    c.model.fit_decay = 0.99
    c.model.learning_rate = 1e-3
    c.steps = 800  # 100 epochs.
    c.log_every = 50
    c.eval_every = c.sample_every = c.checkpoint.every = 200
  elif size == 'demo':
    c.data.name = 'synthetic_notes/demo'
    c.model.samples = 16000
    c.model.iterations = 32
    c.model.encoder_filters = (8, 16, 16, 32, 32, 32)
    c.model.encoder_kernels = (5, 4, 4, 4, 4, 4)
    c.model.decoder_filters = (32, 32, 32, 16, 16, 8)
    c.model.decoder_kernels = (4, 4, 4, 4, 4, 5)
    c.model.time_strides = (2, 2, 2, 2, 2, 2)
    c.model.frequency_strides = (2, 2, 2, 2, 2, 2)
    c.model.hidden = 64
    c.model.latent_size = 16
    c.model.label_width = 16
    c.model.norm_momentum = 0.95
    c.model.fit_decay = 0.99
    c.model.learning_rate = 1e-3
    c.steps = 200
    c.log_every = 20
    c.eval_every = c.sample_every = c.checkpoint.every = 100
  elif size == 'tiny':
    c.data.name = 'synthetic_notes/tiny'
    c.model.samples = 500
    c.model.n_fft = 64
    c.model.hop = 32
    c.model.iterations = 4
    c.model.encoder_filters = (4, 6, 8)
    c.model.encoder_kernels = (5, 4, 4)
    c.model.decoder_filters = (8, 6, 4)
    c.model.decoder_kernels = (4, 4, 5)
    c.model.time_strides = (2, 2, 2)
    c.model.frequency_strides = (2, 2, 2)
    c.model.hidden = 16
    c.model.latent_size = 4
    c.model.label_width = 4
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 4
    c.num_samples = 2
  return c


def ablations() -> dict[str, dict]:
  """What the picture is of, how much the latents hold, and the loss.

  Bands as many as the bins, of longer windows.
  """
  wide = {'model.n_fft': 4096}
  return {
      'magnitude': {'model.representation': 'magnitude'},
      'log_frequency': wide | {'model.representation': 'log_frequency',
                               'model.bands_per_octave': 64},
      'log_mel': wide | {'model.representation': 'log_mel',
                         'model.bands': 512},
      'magnitude_if': {'model.representation': 'magnitude_if'},
      'latents_248': {'model.latent_size': 248},
      'latents_62': {'model.latent_size': 62},
      'no_pitch': {'model.conditions': ()},
      'not_weighted': {'model.weight_peak': 1.0},
  }
