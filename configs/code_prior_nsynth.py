"""Priors over the codes of a spectrogram VQ-VAE-2 (vqvae_jax/code_prior.py).

  python -m common.encode --workdir=runs/vqvae2 --dataset=codes/notes
  python -m common.train --config=code_prior_nsynth:port --workdir=runs/top \\
      --config.data.name=codes/notes --config.upstream.codec=runs/vqvae2
  python -m common.train --config=code_prior_nsynth:port_bottom \\
      --workdir=runs/bottom --config.data.name=codes/notes \\
      --config.upstream.codec=runs/vqvae2 --config.upstream.top=runs/top
  python -m common.generate --workdir=runs/bottom --prompt=pitch=60

Data: codes of NSynth's notes, top (4, 32) and bottom (8, 64) out of 512, made
by the first command from a run of --config=vqvae2_nsynth. 'demo' and 'tiny'
need none: their codes are synthetic, and samples are pictures of codes.

Sizes: 'paper' and 'paper_bottom' are those of Razavi et al. 2019 for ImageNet
(32 x 32 and 64 x 64 codes); 'port' and 'port_bottom' those of the PyTorch port,
which fit one accelerator; 'small' and 'small_bottom' learn 63 recorded notes
in minutes on a CPU. No paper reports a likelihood of these codes:

                      bits per code   accuracy
  ours                not run
  no prior (log2 K)       9             .002
  the port's users on images, top / bottom: accuracy about .4 / .3
"""

from common import config as config_lib

SIZES = ('paper', 'paper_bottom', 'port', 'port_bottom', 'small',
         'small_bottom', 'demo', 'tiny', 'tiny_bottom')


def get_config(size: str = 'paper'):
  """`size`: one of SIZES, with '_bottom' for codes that others condition."""
  config_lib.check_size(size, *SIZES)
  size, _, bottom = size.partition('_')
  c = config_lib.default()
  c.module = 'vqvae_jax.code_prior'
  c.data.name = 'codes/notes'
  c.data.sample_rate = 16000
  c.upstream = dict(
      codec='',  # Workdir of the run that made the codes: samples are sounds.
      step=0,  # Of it; 0: the newest. Say which if it is still in training.
      top='')  # Workdir of the prior over model.condition.
  c.batch_size = 32
  c.steps = 3_800_000  # 420 epochs of 289,205 notes.
  c.eval_every = c.sample_every = c.checkpoint.every = 10_000
  c.model.codes = 'top'
  c.model.shape = (4, 32)  # Frames, bins.
  c.model.size = 512
  c.model.condition = ''  # The codes that are given: 'top'.
  c.model.upper_shape = (4, 32)
  c.model.upper_size = 512
  c.model.classes = dict(  # How many there are; 0: not told.
      pitch=128, instrument_family=11, digit=0)
  c.model.class_dropout = 0.1
  c.model.channels = 512
  c.model.kernel = 5
  c.model.blocks = 4  # Of 5 layers: 20 layers and 4 attention layers.
  c.model.layers = 5
  c.model.width = 2048  # "Residual units".
  c.model.attention = True
  c.model.heads = 8
  c.model.output_layers = 20
  c.model.condition_layers = 20
  c.model.condition_channels = 512
  c.model.condition_kernel = 3
  c.model.activation = 'concat_elu'
  c.model.dropout = 0.1
  c.model.learning_rate = 3e-4
  c.model.temperature = 1.0
  c.model.top_k = 0
  c.model.top_p = 1.0
  if bottom:
    c.model.codes = 'bottom'
    c.model.condition = 'top'
    c.model.shape = (8, 64)
    c.model.width = 1024
    c.model.attention = False
    c.model.output_layers = 0
  if size == 'port':
    c.model.channels = 256
    c.model.layers = 4
    c.model.width = 256
    c.model.output_layers = 0
    c.model.condition_layers = 3
    c.model.condition_channels = 256
    c.model.activation = 'elu'
  elif size == 'small':
    # The 63 recorded notes have no other split, and vqvae2_nsynth:small has
    # maps of (2, 16) and (4, 32).
    c.data.train, c.data.eval = 'train[:50]', 'train[50:]'
    c.model.shape = (4, 32) if bottom else (2, 16)
    c.model.upper_shape = (2, 16)
    c.model.size = c.model.upper_size = 128
    c.model.channels = 32
    c.model.kernel = 3
    c.model.blocks = 2
    c.model.layers = 2
    c.model.width = 32
    c.model.heads = 4
    c.model.output_layers = 0
    c.model.condition_layers = 1
    c.model.condition_channels = 32
    c.model.dropout = 0.5
    c.model.learning_rate = 2e-3
    c.batch_size = 16
    c.steps = 75  # Later it knows the 50 notes by heart.
    c.log_every = c.eval_every = 25
    c.sample_every = c.checkpoint.every = 75
  elif size == 'demo':
    c.data.name = 'synthetic_codes/demo'
    c.model.channels = 32
    c.model.kernel = 3
    c.model.blocks = 2
    c.model.layers = 1
    c.model.width = 32
    c.model.heads = 2
    c.model.output_layers = 0
    c.model.condition_channels = 32
    c.model.learning_rate = 3e-3
    c.steps = 200
    c.log_every = 10
    c.eval_every = c.sample_every = c.checkpoint.every = 100
  elif size == 'tiny':
    c.data.name = 'synthetic_codes/tiny'
    c.model.channels = 8
    c.model.kernel = 3
    c.model.blocks = 1
    c.model.layers = 1
    c.model.width = 8
    c.model.heads = 2
    c.model.output_layers = 0
    c.model.condition_layers = 1
    c.model.condition_channels = 8
    c.batch_size = 8
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 4
    c.num_samples = 2
  return c


def ablations() -> dict[str, dict]:
  """What the sources disagree about, and what may be left out."""
  return {
      'no_class': {'model.classes.pitch': 0,
                   'model.classes.instrument_family': 0},
      'no_attention': {'model.attention': False},
      'elu': {'model.activation': 'elu'},
  }
