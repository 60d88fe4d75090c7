"""VQ-VAE-2 on spectrograms of NSynth (vqvae_jax/vqvae2.py).

  python -m common.train --config=vqvae2_nsynth --workdir=runs/vqvae2

Data: nsynth/full, notes of four seconds, made ready by `python -m
common.prepare`. The size 'small' is for 63 recorded notes in NSynth's layout
(nsynth/full with a --data_dir of its own); 'tiny' needs no download: its notes
are synthetic.

Settings are those of Bazin et al. 2021 (arXiv 2104.07519) and its released
code: 1024 bins x 128 frames of log magnitude and instantaneous frequency, codes
of 32 x 4 (top) and 64 x 8 (bottom), 1.44 kbit/s. They published no table of
reconstruction. The ablation 'image' has the factors of Razavi et al. 2019 (4
and 2), as for pictures of 256 x 256.
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'small' (recorded notes, on a CPU) or 'tiny' (seconds)."""
  config_lib.check_size(size, 'paper', 'small', 'tiny')
  c = config_lib.default()
  c.module = 'vqvae_jax.vqvae2'
  c.data.name = 'nsynth/full'
  c.data.sample_rate = 16000
  c.model.samples = 64000
  c.model.representation = 'bazin_if'  # Or any other of common.spectral.
  c.model.frames = 128  # Options of it; 0: its default, or it has none.
  c.model.bins = 1024
  c.model.n_fft = c.model.hop = c.model.bands = 0
  c.model.break_hz = 0.0
  c.model.mask_silence = True
  # (a, b): a channel is normalised as a x + b, the range of magnitudes to
  # [-.8, .8]. Of the recorded notes, whose peaks reach full scale as NSynth's
  # do; vqvae2.measure finds those of any set.
  c.model.magnitude_scale = (0.08367, 0.29795)
  c.model.phase_scale = (1.0, 0.0)
  c.model.channels = (32, 64, 96, 128)  # After each halving: a sixteenth.
  c.model.top_channels = (64,)  # And half of it.
  c.model.width = 128
  c.model.residuals = 2
  c.model.inner = 32  # Width inside a residual. Razavi et al.: 64.
  c.model.relu_skip = False  # The skip of the released code is after a ReLU.
  c.model.initial = 'torch'  # Weights; or 'sonnet'.
  c.model.codebook = 'averages'  # Or 'gradient'.
  c.model.codebook_size = 512
  c.model.code_width = 64
  c.model.codebook_init = 'data'  # Or 'kmeans', 'normal', 'uniform'.
  c.model.decay = 0.99
  c.model.first_count = 1.0
  c.model.debias = False
  c.model.smoothing = 0.0
  c.model.restart_below = 1.0  # Uses per step, on average; 0: never.
  c.model.corruption = ()  # Bazin et al. tried (.1, .8, .1).
  c.model.beta = 0.25
  c.model.loss = 'mse'  # Of pictures; of audio 'jukebox' or 'ddsp'.
  # Of 'mse': nats of log magnitude, or 'normalized'. The released code has the
  # first, with its normaliser on or off; the magnitude then weighs more.
  c.model.loss_domain = 'raw'
  c.model.conditions = ()  # 'pitch', 'instrument_family': for the decoder.
  c.model.label_width = 16
  c.model.learning_rate = 3e-4
  c.batch_size = 64
  c.steps = 2_500_000  # 560 epochs of 289,205 notes.
  c.log_every = 100
  c.eval_every = c.sample_every = c.checkpoint.every = 10_000
  if size == 'small':
    c.data.eval = 'train'  # There is no other split.
    c.model.samples = 16000  # A second: 512 x 64, 160 codes as in the paper.
    c.model.frames = 64
    c.model.bins = 512
    c.model.magnitude_scale = (0.08684, 0.33955)
    c.model.channels = (16, 32, 48, 64)
    c.model.top_channels = (32,)
    c.model.width = 64
    c.model.inner = 16
    c.model.codebook_size = 128
    c.model.code_width = 32
    c.model.learning_rate = 1e-3
    c.batch_size = 16
    c.steps = 3000
    c.eval_every = c.sample_every = c.checkpoint.every = 500
    c.num_samples = 8
  elif size == 'tiny':
    c.data.name = 'synthetic_notes/tiny'
    c.model.samples = 2048
    c.model.frames = 129
    c.model.bins = 32
    c.model.channels = (4, 8)
    c.model.top_channels = (4,)
    c.model.width = 8
    c.model.residuals = 1
    c.model.inner = 4
    c.model.codebook_size = 16
    c.model.code_width = 4
    c.model.label_width = 2
    c.batch_size = 8
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 4
    c.num_samples = 2
  return c


def ablations() -> dict[str, dict]:
  """Restarts, codebooks, the ports' own forms, losses, and the mel axis."""
  return {
      'no_restart': {'model.restart_below': 0.0},
      'codebook_256': {'model.codebook_size': 256},
      'codebook_2048': {'model.codebook_size': 2048},
      # The quantiser of both ports, and the skip of Bazin et al.'s.
      'port': {'model.codebook_init': 'normal', 'model.first_count': 0.0,
               'model.smoothing': 1e-5, 'model.restart_below': 0.0},
      'relu_skip': {'model.relu_skip': True},
      'inner_64': {'model.inner': 64},
      'image': {'model.channels': (64, 128)},
      'ifmel': {'model.representation': 'bazin_ifmel',
                'model.magnitude_scale': (0.06392, 0.03873),
                'model.phase_scale': (0.46099, -0.00571)},
      'corruption': {'model.corruption': (0.1, 0.8, 0.1)},
      'loss_normalized': {'model.loss_domain': 'normalized'},
      'loss_jukebox': {'model.loss': 'jukebox'},
      'loss_ddsp': {'model.loss': 'ddsp'},
      'unmasked': {'model.mask_silence': False,
                   'model.magnitude_scale': (0.08074, 0.31551)},
      'conditional': {'model.conditions': ('pitch', 'instrument_family')},
  }
