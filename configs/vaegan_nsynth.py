"""VAE-GAN of spectrograms on NSynth (vqvae_jax/vaegan.py).

  python -m common.train --config=vaegan_nsynth --workdir=runs/vaegan

Data: nsynth/full, made ready by `python -m common.prepare`. The paper (Larsen
et al. 2016) trained on 64 x 64 photographs of faces; here a picture is the
first second of a note, in 64 mel bands. The size 'small' is for 63 recorded
notes in the same layout (docs/gansynth.md); 'demo' and 'tiny' need no download:
their notes are synthetic.

The paper has no number for sounds. Ours at its size: not run.
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'small' (minutes on a CPU), 'demo' or 'tiny'."""
  config_lib.check_size(size, 'paper', 'small', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'vqvae_jax.vaegan'
  c.data.name = 'nsynth/full'
  c.data.sample_rate = 16000
  c.model.samples = 16128  # 64 frames.
  c.model.conditions = ()  # Or 'pitch', 'instrument_family'.
  c.model.label_width = 16
  c.model.representation = 'log_mel'
  c.model.frames = c.model.bins = 0  # Of those that take them.
  c.model.n_fft = 1024
  c.model.hop = 256
  c.model.bands = 64
  c.model.bands_per_octave = 0  # Of log_frequency; 0: its default.
  c.model.iterations = 32  # Of Griffin-Lim.
  c.model.range = 'min_max'
  c.model.floor = 1e-5
  c.model.top_db = 80.0
  c.model.encoder_filters = (64, 128, 256)
  c.model.encoder_hidden = 1024
  c.model.decoder_first = 256
  c.model.decoder_filters = (256, 128, 32)
  c.model.discriminator_first = 32
  c.model.discriminator_filters = (128, 256, 256)
  c.model.discriminator_hidden = 512
  c.model.latent_size = 128
  c.model.recon_depth = 9
  c.model.feature_weight = 1e-6  # g.
  c.model.real_weight = 0.5  # Of real pictures, against all others.
  c.model.equilibrium = 0.68
  c.model.margin = 0.35
  # Released: from 0.025 / batch to 1e-5 / batch, by a power of the time.
  c.model.learning_rate = 0.025 / 64
  c.model.learning_rate_end = 1e-5 / 64
  c.model.decay_power = 0.75
  c.model.decay_steps = 62_500
  c.batch_size = 64
  c.steps = 62_500  # 250 epochs of 250 batches.
  c.log_every = 50
  c.eval_every = c.sample_every = c.checkpoint.every = 2_500
  if size == 'small':
    c.data.eval = 'train'  # There is no other split.
    c.model.encoder_filters = (16, 32, 64)
    c.model.encoder_hidden = 128
    c.model.decoder_first = 64
    c.model.decoder_filters = (64, 32, 16)
    c.model.discriminator_first = 16
    c.model.discriminator_filters = (32, 64, 64)
    c.model.discriminator_hidden = 64
    c.model.latent_size = 32
    c.model.decay_steps = c.steps = 1_000
    c.batch_size = 16
    c.eval_every = c.sample_every = c.checkpoint.every = 500
  elif size == 'demo':
    c.data.name = 'synthetic_notes/demo'
    c.model.encoder_filters = (8, 16, 32)
    c.model.encoder_hidden = 64
    c.model.decoder_first = 32
    c.model.decoder_filters = (32, 16, 8)
    c.model.discriminator_first = 8
    c.model.discriminator_filters = (16, 32, 32)
    c.model.discriminator_hidden = 32
    c.model.latent_size = 16
    c.model.decay_steps = c.steps = 200
    c.batch_size = 16
    c.log_every = 20
    c.eval_every = c.sample_every = c.checkpoint.every = 100
  elif size == 'tiny':
    c.data.name = 'synthetic_notes/tiny'
    c.model.samples = 500
    c.model.n_fft = 64
    c.model.hop = 32
    c.model.representation = 'log_magnitude'
    c.model.iterations = 4
    c.model.encoder_filters = (4, 6, 8)
    c.model.encoder_hidden = 16
    c.model.decoder_first = 8
    c.model.decoder_filters = (8, 6, 4)
    c.model.discriminator_first = 4
    c.model.discriminator_filters = (4, 6, 8)
    c.model.discriminator_hidden = 16
    c.model.latent_size = 4
    c.model.decay_steps = c.steps = 4
    c.batch_size = 8
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 4
    c.num_samples = 2
  return c


def ablations() -> dict[str, dict]:
  """What the picture is of, what is compared, and the balance."""
  return {
      'magnitude': {'model.representation': 'magnitude'},
      'log_magnitude': {'model.representation': 'log_magnitude'},
      'log_frequency': {'model.representation': 'log_frequency',
                        'model.bands': 0, 'model.bands_per_octave': 8},
      'magnitude_if': {'model.representation': 'magnitude_if'},
      'pixels': {'model.recon_depth': 0},
      'first_layer': {'model.recon_depth': 1},
      'no_balance': {'model.margin': 100.0},
      'feature_weight_5e-5': {'model.feature_weight': 5e-5},
      'latents_32': {'model.latent_size': 32},
      'latents_512': {'model.latent_size': 512},
  }
