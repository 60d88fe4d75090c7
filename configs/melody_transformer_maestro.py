"""Playing to a melody (symbolic_jax/melody_transformer.py).

  python -m common.train --config=melody_transformer_maestro \\
      --workdir=runs/melody_transformer
  python -m common.generate --workdir=runs/melody_transformer \\
      --prompt=melody=tune.mid

Data: maestro/v3, made by `python -m common.prepare` from
maestro-v3.0.0-midi.zip. The sizes 'demo' and 'tiny' need no download: their
performances are synthetic.

The paper gives no sizes for this model: these are those of its table 3, six
layers in the encoder and six in the decoder.

Validation, nats per token, all notes in windows of 17.5 s:

  ours                                     not run
  Transformer, sinusoids                   2.066   table 4 of the paper, on the
  relative (this config)                   1.786   Piano-e-Competition, whose
                                                   split was not released
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'demo' (minutes on a CPU) or 'tiny' (seconds)."""
  config_lib.check_size(size, 'paper', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'symbolic_jax.melody_transformer'
  c.data.name = 'maestro/v3'
  # 725 tokens on average, so that these are the 9000 of tensor2tensor's preset.
  c.batch_size = 12
  c.steps = 300_000
  c.eval_every = c.sample_every = c.checkpoint.every = 5000
  c.checkpoint.best = 'eval/nll'
  c.model.tokens = 'accompaniment'
  c.model.melody = 'likeliest'  # How it is found: symbolic_jax/melody.py.
  c.model.low, c.model.high = 21, 108
  c.model.stretch = (0.95, 0.975, 1.0, 1.025, 1.05)
  c.model.transpose = 3
  c.model.window_s = (5.0, 30.0)
  c.model.eval_s = 17.5  # What a window of training lasts on average.
  c.model.length = 2048
  c.model.eval_length = 0
  c.model.layers = 6  # Of the encoder, and of the decoder.
  c.model.width = 256
  c.model.attention_width = 512
  c.model.feed_forward = 2048
  c.model.heads = 8
  c.model.distances = 1024
  c.model.encoder_distances = 316  # Each way: as long as melodies are.
  c.model.block = 512  # Queries at a time: the same numbers, less memory.
  c.model.dropout = 0.1
  c.model.learning_rate = 2.0  # As tensor2tensor counts: common/optim.py.
  c.model.warmup = 8000
  c.model.remat = False
  c.model.accumulate = 1  # Slices of a batch, for less memory.
  c.model.temperature = 1.0
  c.model.top_k = 0
  c.model.top_p = 1.0
  if size == 'demo':
    c.data.name = 'synthetic_performances/demo'
    c.batch_size = 8
    c.steps = 300
    c.log_every = 20
    c.eval_every = c.sample_every = c.checkpoint.every = 100
    c.model.window_s, c.model.eval_s = (2.0, 8.0), 5.0
    c.model.layers, c.model.length, c.model.distances = 2, 256, 128
    c.model.width = c.model.attention_width = c.model.feed_forward = 128
    c.model.encoder_distances = 84
    c.model.heads, c.model.warmup, c.model.block = 4, 100, 0
    c.model.learning_rate = 0.3  # So short a warmup makes 2.0 too fast.
  elif size == 'tiny':
    c.data.name = 'synthetic_performances/tiny'
    c.batch_size = 4
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 2
    c.num_samples = 2
    c.model.window_s, c.model.eval_s = (1.0, 2.0), 1.5
    c.model.layers, c.model.length, c.model.distances = 2, 48, 16
    c.model.width = c.model.attention_width = c.model.feed_forward = 16
    c.model.encoder_distances = 8
    c.model.heads, c.model.warmup, c.model.block = 2, 2, 16
  return c


def ablations() -> dict[str, dict]:
  """Table 4's other Transformer, and other encoders and melodies."""
  plain = {'model.encoder_distances': 0}
  return {
      'baseline': {**plain, 'model.distances': 0},
      'plain_encoder': plain,
      'skyline_melody': {'model.melody': 'skyline'},
  }


PAPER = {'baseline': {'eval/nll': 2.066}, 'base': {'eval/nll': 1.786}}
