"""Music Transformer on piano performances (symbolic_jax/music_transformer.py).

  python -m common.train --config=music_transformer_maestro \\
      --workdir=runs/music_transformer_maestro

Data: maestro/v3 (962 / 137 / 177 performances, 22.9 million events in train),
made by `python -m common.prepare` from maestro-v3.0.0-midi.zip. The sizes
'demo' and 'tiny' need no download: their performances are synthetic.

Validation, nats per event, all events in segments of 2048:

  ours                                     not run
  'small', its first 512 events (docs)     2.983   after 4.1 million events
  unigram (add 1), fitted on train         4.889   MAESTRO v3
  bigram (add 0.1)                         4.093   MAESTRO v3
  PerformanceRNN, 3 LSTMs of 1024          1.969   table 3 of the paper, on
  Transformer, 6 layers of 256             1.861   about 1100 pieces of the
  relative, global (this config)           1.835   Piano-e-Competition, whose
  relative, local                          1.840   split was not released
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'small' (under an hour on a CPU core), 'demo' (minutes) or
  'tiny' (seconds)."""
  config_lib.check_size(size, 'paper', 'small', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'symbolic_jax.music_transformer'
  c.data.name = 'maestro/v3'
  c.batch_size = 4  # 9000 tokens a step in tensor2tensor's preset of this size.
  c.steps = 300_000  # Ours.
  c.eval_every = c.sample_every = c.checkpoint.every = 5000
  c.checkpoint.best = 'eval/nll'
  c.model.tokens = 'events'
  c.model.low, c.model.high = 21, 108  # 310 ids; 0 and 127: 390.
  c.model.stretch = (0.95, 0.975, 1.0, 1.025, 1.05)
  c.model.transpose = 3
  c.model.length = 2048
  c.model.eval_length = 0  # 4096: also the likelihood beyond `length`.
  c.model.layers = 6
  c.model.width = 256
  c.model.attention_width = 512
  c.model.feed_forward = 2048
  c.model.heads = 8
  c.model.distances = 1024
  c.model.clip = False
  c.model.local = False
  c.model.block = 512  # Queries at a time: the same numbers, less memory.
  c.model.place = 'sinusoid'
  c.model.voice = False
  c.model.pitch_and_time = False
  c.model.rotary = False
  # A GPU's kernel for bfloat16: no tables, and queries as wide as values.
  c.model.fused = False
  c.model.dropout = 0.1
  c.model.learning_rate = 2.0  # As tensor2tensor counts: common/optim.py.
  c.model.warmup = 8000
  c.model.decay = 0  # The step at which the rate has come down to 0; 0: never.
  c.model.remat = False
  c.model.accumulate = 1  # Slices of a batch, for less memory.
  c.model.temperature = 1.0
  c.model.top_k = 0
  c.model.top_p = 1.0
  if size == 'small':
    c.steps = c.eval_every = 3000  # 6.1 million events, a quarter of an epoch.
    c.sample_every = 0
    c.checkpoint.every = 500
    c.checkpoint.best = ''  # Evaluated once: all of it takes minutes.
    c.model.layers, c.model.length, c.model.distances = 3, 512, 256
    c.model.attention_width, c.model.feed_forward = 256, 1024
    c.model.heads, c.model.block = 4, 128
    c.model.eval_length = 1024  # eval/nll_from_0 is within `length`.
    c.model.learning_rate, c.model.warmup = 0.5, 400  # At most 1.6e-3.
  elif size == 'demo':
    c.data.name = 'synthetic_performances/demo'
    c.batch_size = 8
    c.steps = 300
    c.log_every = 20
    c.eval_every = c.sample_every = c.checkpoint.every = 100
    c.model.layers, c.model.length, c.model.distances = 2, 256, 128
    c.model.width = c.model.attention_width = c.model.feed_forward = 128
    c.model.heads, c.model.warmup, c.model.block = 4, 100, 0
  elif size == 'tiny':
    c.data.name = 'synthetic_performances/tiny'
    c.batch_size = 4
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 2
    c.num_samples = 2
    c.model.layers, c.model.length, c.model.distances = 2, 32, 16
    c.model.width = c.model.attention_width = c.model.feed_forward = 16
    c.model.heads, c.model.warmup, c.model.block = 2, 2, 8
  return c


def ablations() -> dict[str, dict]:
  """The other Transformers of table 3, and positions that came later."""
  absolute = {'model.distances': 0}
  return {
      'baseline': absolute,
      'local': {**absolute, 'model.local': True, 'model.layers': 8,
                'model.feed_forward': 1024},
      'relative_local': {'model.local': True},
      'rotary': {**absolute, 'model.rotary': True, 'model.place': 'none'},
      'learned': {**absolute, 'model.place': 'learned'},
      'no_positions': {**absolute, 'model.place': 'none'},
      'relative_only': {'model.place': 'none'},
      'clip': {'model.clip': True},
  }


PAPER = {  # Table 3, on other recordings: see above. 'local' is recalled.
    'baseline': {'eval/nll': 1.861}, 'local': {'eval/nll': 1.863},
    'relative_local': {'eval/nll': 1.840}, 'base': {'eval/nll': 1.835}}
