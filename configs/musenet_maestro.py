"""MuseNet on piano performances (symbolic_jax/musenet.py).

  python -m common.train --config=musenet_maestro \\
      --workdir=runs/musenet_maestro

Data: maestro/v3, made by `python -m common.prepare` from
maestro-v3.0.0-midi.zip. MuseNet's own data (Classical Archives, BitMidi,
collections from the web, and MAESTRO) was never released; MAESTRO has composers
but one instrument. --config.data.name=lakh_midi/full (or a folder of your own
MIDI files: midi_folder) has many instruments, and no composers. The sizes
'demo' and 'tiny' need no download: their performances are synthetic.

Published are 72 layers, 24 heads and 4096 tokens. The width is our choice, as
is all of the training: 768 (510 million parameters in the layers; 1536 would
have 2.04 billion). The size '1b' has 1.04 billion in 20 layers of 2048 with 16
heads: heads of 128 suit a GPU better, and that shape is ours altogether.

Validation, nats per token, in segments of 4096: ours: not run. None was
published.
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', '1b', 'demo' (minutes on a CPU) or 'tiny' (seconds)."""
  config_lib.check_size(size, 'paper', '1b', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'symbolic_jax.musenet'
  c.data.name = 'maestro/v3'
  c.batch_size = 32
  c.steps = 300_000
  c.dtype = 'bfloat16'
  c.eval_every = c.sample_every = c.checkpoint.every = 5000
  c.checkpoint.best = 'eval/nll'
  c.model.tokens = 'musenet'
  c.model.composers = ''  # A file of all 605 names; '': the 40 that we know.
  c.model.drop = 0.25  # How often composer or instruments are left out.
  c.model.transpose = 5  # Semitones up or down.
  c.model.volume = 16  # Louder or softer, of 127.
  c.model.stretch = (0.95, 0.975, 1.0, 1.025, 1.05)
  c.model.mixup = 0.2  # Parameter of its beta distribution; 0: none.
  c.model.length = 4096
  c.model.eval_length = 0
  c.model.layers = 72
  c.model.heads = 24
  c.model.width = 768
  c.model.timing = True  # The vectors of time and chord.
  c.model.structure = True  # Those of part and countdown.
  c.model.attention = 'dense'
  c.model.combine = 'turns'
  c.model.stride = 128  # Of sparse attention: twice the root of the length.
  c.model.columns = 8
  c.model.block = 512  # Queries at a time: the same numbers, less memory.
  c.model.dropout = 0.1
  c.model.learning_rate = 3e-4
  c.model.warmup = 5000
  c.model.decay = 300_000  # Steps until the rate is 0.
  c.model.remat = True
  c.model.accumulate = 4  # Slices of a batch, for less memory.
  c.model.temperature = 1.0
  c.model.top_k = 27  # Of the public demo, if its "truncation" meant this.
  c.model.top_p = 1.0
  if size == '1b':
    c.model.layers, c.model.heads, c.model.width = 20, 16, 2048
  elif size == 'demo':
    c.data.name = 'synthetic_performances/demo'
    c.dtype = 'float32'
    c.batch_size = 8
    c.steps = 300
    c.log_every = 20
    c.eval_every = c.sample_every = c.checkpoint.every = 100
    c.model.layers, c.model.length, c.model.stride = 2, 256, 16
    c.model.heads, c.model.width, c.model.block = 4, 128, 0
    c.model.learning_rate, c.model.warmup, c.model.decay = 1e-3, 50, 300
    c.model.remat, c.model.accumulate = False, 1
  elif size == 'tiny':
    c.data.name = 'synthetic_performances/tiny'
    c.dtype = 'float32'
    c.batch_size = 4
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 2
    c.num_samples = 2
    c.model.layers, c.model.length, c.model.stride = 2, 40, 8
    c.model.heads, c.model.width, c.model.block = 2, 16, 8
    c.model.columns, c.model.warmup, c.model.decay = 2, 2, 8
    c.model.remat, c.model.accumulate = False, 1
  return c


def ablations() -> dict[str, dict]:
  """The parts that the announcement names, and the patterns of its kernels."""
  return {
      'no_timing': {'model.timing': False},
      'no_structure': {'model.structure': False},
      'no_mixup': {'model.mixup': 0.0},
      'no_conditions': {'model.drop': 1.0},
      'fused': {'model.attention': 'fused'},
      'strided': {'model.attention': 'strided'},
      'fixed': {'model.attention': 'fixed'},
      'fixed_both': {'model.attention': 'fixed', 'model.combine': 'both'},
      'fixed_heads': {'model.attention': 'fixed', 'model.combine': 'heads'},
  }
