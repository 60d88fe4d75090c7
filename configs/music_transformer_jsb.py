"""Music Transformer on four-part chorales (symbolic_jax/music_transformer.py).

  python -m common.train --config=music_transformer_jsb \\
      --workdir=runs/music_transformer_jsb
  python -m common.sweep --config=music_transformer_jsb \\
      --workdir=runs/jsb_table --seeds=0,1,2

Data: jsb_chorales/16th_separated (229 / 76 / 77 chorales), made by
`python -m common.prepare` from Jsb16thSeparated.json of
github.com/czhuang/JSB-Chorales-dataset. The sizes 'demo' and 'tiny' need no
download: their chorales are synthetic.

Validation, nats per token (S A T B on a 16th grid), table 2 of the paper:

  baseline                       5 layers of 256    .417   ours: not run
  concatenated positions         5 layers of 256    .398   ours: not run
  ... and voices                 5 layers of 256    .370   ours: not run
  relative                       5 layers of 512    .357   ours: not run
  ... and voices                 5 layers of 512    .347   ours: not run
  ... and pitch and time         5 layers of 512    .335   ours: not run

At the size 'small' (3 layers of 256, 256 tokens of context, 3,500 steps, mean
of 3 seeds): baseline_wide .694, relative .503, base .467. base with 512 tokens
of context and 15,000 steps: .388. All rows, curves and more: docs/symbolic.md.

The base of this config is the last row; `ablations()` are the others, and the
pairs of one width that the paper does not have.
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'small' (20 minutes on a CPU core), 'demo' (two
  minutes) or 'tiny' (seconds)."""
  config_lib.check_size(size, 'paper', 'small', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'symbolic_jax.music_transformer'
  c.data.name = 'jsb_chorales/16th_separated'
  c.data.step_s = 0.125  # A sixteenth at 120 beats a minute.
  c.data.programs = [40, 41, 42, 43]  # Violin, viola, cello, contrabass.
  # Batch, steps, warm-up and dropout on this data are not in the paper: ours.
  c.batch_size = 8
  c.steps = 6000  # About 210 epochs of 229 pieces.
  c.eval_every = 200
  c.sample_every = 1000
  c.checkpoint.every = 200
  c.checkpoint.keep_every = 1000  # 107 MB each.
  c.checkpoint.best = 'eval/nll'
  c.model.tokens = 'chorales'
  c.model.length = 1024  # "Common length" of the paper: 256 steps.
  c.model.eval_length = 0  # Longer: also the likelihood beyond `length`.
  c.model.layers = 5
  c.model.width = 512
  c.model.attention_width = 512
  c.model.feed_forward = 512
  c.model.heads = 8
  c.model.distances = 256
  c.model.clip = False
  c.model.local = False
  c.model.block = 256  # Queries at a time: the same numbers, less memory.
  c.model.place = 'concatenated'
  c.model.voice = True
  c.model.pitch_and_time = True
  c.model.rotary = False
  # A GPU's kernel for bfloat16: no tables, and queries as wide as values.
  c.model.fused = False
  c.model.dropout = 0.1
  c.model.learning_rate = 2.0  # As tensor2tensor counts: common/optim.py.
  c.model.warmup = 2000
  c.model.decay = 0  # The step at which the rate has come down to 0; 0: never.
  c.model.transpose = 0  # Semitones up or down at most; none in the paper.
  c.model.remat = False
  c.model.accumulate = 1  # Slices of a batch, for less memory.
  c.model.temperature = 1.0
  c.model.top_k = 0
  c.model.top_p = 1.0
  if size != 'paper':
    c.checkpoint.keep_every = 0
  if size == 'small':  # 'base', 'relative' and 'baseline_wide' are one size.
    c.batch_size = 4
    c.steps = c.model.decay = 3500  # 16 times as many tokens as train has.
    c.eval_every = c.checkpoint.every = 500
    c.sample_every = 0
    c.model.transpose = 3
    c.model.layers, c.model.length, c.model.distances = 3, 256, 128
    c.model.width = c.model.attention_width = 256
    c.model.heads, c.model.block = 4, 128
    c.model.learning_rate, c.model.warmup = 1.0, 1000  # At most 1.4e-3.
  elif size == 'demo':
    c.data.name = 'synthetic_chorales/demo'
    c.steps = 300
    c.log_every = 20
    c.eval_every = c.sample_every = c.checkpoint.every = 100
    c.model.layers, c.model.length, c.model.distances = 2, 256, 128
    c.model.width = c.model.attention_width = c.model.feed_forward = 128
    c.model.heads, c.model.warmup, c.model.block = 4, 100, 0
  elif size == 'tiny':
    c.data.name = 'synthetic_chorales/tiny'
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
  """The other rows of table 2, and what one would ask beyond it."""
  plain = {'model.place': 'sinusoid', 'model.voice': False,
           'model.pitch_and_time': False}
  concatenated = {'model.voice': False, 'model.pitch_and_time': False}
  voice = {'model.pitch_and_time': False}
  absolute = {'model.distances': 0}
  narrow = {'model.width': 256, 'model.attention_width': 256,
            'model.feed_forward': 1024}
  return {
      'baseline': plain | narrow | absolute,
      'concatenated': concatenated | narrow | absolute,
      'concatenated_voice': voice | narrow | absolute,
      'relative': plain,
      'relative_voice': voice,
      # Of one width, which the paper's rows are not.
      'relative_narrow': plain | narrow,
      'baseline_wide': plain | absolute,
      # Other positions.
      'rotary': plain | absolute | {
          'model.place': 'none', 'model.rotary': True},
      'learned': plain | absolute | {'model.place': 'learned'},
      'no_positions': plain | absolute | {'model.place': 'none'},
      'relative_only': plain | {'model.place': 'none'},
      'fused': plain | absolute | {'model.fused': True, 'dtype': 'bfloat16'},
      'clip': plain | {'model.clip': True},
      'local': plain | {'model.local': True, 'model.block': 128},
      'transpose_3': {'model.transpose': 3},
  }


PAPER = {  # Table 2, validation; 'relative_voice' perhaps .351.
    'baseline': {'eval/nll': 0.417}, 'concatenated': {'eval/nll': 0.398},
    'concatenated_voice': {'eval/nll': 0.370}, 'relative': {'eval/nll': 0.357},
    'relative_voice': {'eval/nll': 0.347}, 'base': {'eval/nll': 0.335}}
