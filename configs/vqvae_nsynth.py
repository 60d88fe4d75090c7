"""VQ-VAE on spectrograms of NSynth (vqvae_jax/vqvae.py).

  python -m common.train --config=vqvae_nsynth --workdir=runs/vqvae

Data: nsynth/full, notes of four seconds, made ready by `python -m
common.prepare`. The size 'small' is for 63 recorded notes in NSynth's layout
(nsynth/full with a --data_dir of its own); 'tiny' needs no download: its notes
are synthetic.

Van den Oord et al. 2017 have it on images and on waveforms; layers and learning
rate are those of Sonnet's example for CIFAR-10, on spectrograms of 1024 bins x
128 frames, with two more halvings: 64 x 8 codes, 1.15 kbit/s. The quantiser is
Jukebox's: first codes from the data, and restarts. Sonnet's averages are the
ablation 'sonnet'; with gradients, as in the paper and as the example is set,
'gradient'. The paper's number (CIFAR-10, 4.67 bits per dimension) is of another
task.
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'small' (recorded notes, on a CPU) or 'tiny' (seconds)."""
  config_lib.check_size(size, 'paper', 'small', 'tiny')
  c = config_lib.default()
  c.module = 'vqvae_jax.vqvae'
  c.data.name = 'nsynth/full'
  c.data.sample_rate = 16000
  c.model.samples = 64000
  c.model.representation = 'bazin_if'  # Or any other of common.spectral.
  c.model.frames = 128  # Options of it; 0: its default, or it has none.
  c.model.bins = 1024
  c.model.n_fft = c.model.hop = c.model.bands = 0
  c.model.break_hz = 0.0
  c.model.mask_silence = True
  c.model.magnitude_scale = (0.08367, 0.29795)  # As in vqvae2_nsynth.
  c.model.phase_scale = (1.0, 0.0)
  # That the square error is divided by. Sonnet: that of the training data.
  c.model.variance = 1.0
  c.model.channels = (32, 64, 96, 128)  # After each halving.
  c.model.width = 128
  c.model.residuals = 2
  c.model.relu_conv = True  # Before them. Runs made without it have none.
  c.model.inner = 32  # Width inside a residual.
  c.model.initial = 'sonnet'  # Weights; or 'torch'.
  c.model.codebook = 'averages'  # Or 'gradient', as in the paper.
  c.model.codebook_size = 512
  c.model.code_width = 64
  c.model.codebook_init = 'data'  # Or 'kmeans', 'normal', 'uniform'.
  c.model.decay = 0.99
  c.model.first_count = 1.0
  c.model.debias = False
  c.model.smoothing = 0.0
  c.model.restart_below = 1.0  # Uses per step, on average; 0: never.
  c.model.corruption = ()
  c.model.beta = 0.25
  c.model.conditions = ('pitch', 'instrument_family')  # For the decoder; or ().
  c.model.label_width = 16
  c.model.learning_rate = 3e-4
  c.batch_size = 32
  c.steps = 250_000
  c.log_every = 100
  c.eval_every = c.sample_every = c.checkpoint.every = 10_000
  if size == 'small':
    c.data.eval = 'train'  # There is no other split.
    c.model.samples = 16000  # A second: 512 x 64, 128 codes.
    c.model.frames = 64
    c.model.bins = 512
    c.model.magnitude_scale = (0.08684, 0.33955)
    c.model.channels = (16, 32, 48, 64)
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
  """Codebooks: of the paper, of Sonnet's example, and sizes; conditions."""
  return {
      'gradient': {'model.codebook': 'gradient',
                   'model.codebook_init': 'uniform'},
      'sonnet': {'model.codebook_init': 'uniform', 'model.first_count': 0.0,
                 'model.debias': True, 'model.smoothing': 1e-5,
                 'model.restart_below': 0.0},
      'no_restart': {'model.restart_below': 0.0},
      'kmeans': {'model.codebook_init': 'kmeans'},
      'codebook_128': {'model.codebook_size': 128},
      'codebook_2048': {'model.codebook_size': 2048},
      'unconditional': {'model.conditions': ()},
      'ifmel': {'model.representation': 'bazin_ifmel',
                'model.magnitude_scale': (0.06392, 0.03873),
                'model.phase_scale': (0.46099, -0.00571)},
  }
