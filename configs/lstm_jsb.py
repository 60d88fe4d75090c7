"""LSTM language model on four-part chorales (symbolic_jax/lstm.py).

  python -m common.train --config=lstm_jsb --workdir=runs/lstm_jsb

Data: jsb_chorales/16th_separated (229 / 76 / 77 chorales), made by
`python -m common.prepare` from Jsb16thSeparated.json of
github.com/czhuang/JSB-Chorales-dataset. The sizes 'demo' and 'tiny' need no
download: their chorales are synthetic.

Validation, nats per token (S A T B on a 16th grid, every token of all pieces):

  ours                                      not run
  1 layer of 256 units, see below           0.473
  unigram (add 1), fitted on train          3.391
  unigram of each voice (add 1)             2.611
  bigram of each voice (add 0.1)            0.934
  CoCoNet, chronological                    0.436  Huang et al. 2018, table 2
  Transformer baseline                      0.417  the same
  Relative Transformer, pitch and time      0.335  the same

No LSTM was reported on this data in this unit: the table is there to place
ours. Not better than 3.3 means that nothing was learnt; .934 is the first
hurdle. Numbers on the quarter-note data (nats per step) are another unit.

0.473 (test: 0.483) is one seed of the size 'demo' with the real data, 256
units, learning rate 4e-3, dropout .2 and transposition up to 3, after 2,000
steps, 10 minutes on two busy CPU cores; docs/symbolic.md has the command. Its
pieces are scored in segments of 256 tokens, not 1024.
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'demo' (a minute on a CPU) or 'tiny' (seconds)."""
  config_lib.check_size(size, 'paper', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'symbolic_jax.lstm'
  c.data.name = 'jsb_chorales/16th_separated'
  c.data.step_s = 0.125  # A sixteenth at 120 beats a minute.
  c.data.programs = [40, 41, 42, 43]  # Violin, viola, cello, contrabass.
  c.batch_size = 64  # PerformanceRNN.
  # Ours; about 3.6 steps are an epoch (229 pieces). Without dropout the last
  # step need not be the best.
  c.steps = 1000
  c.eval_every = 50
  c.sample_every = 200
  c.checkpoint.every = 100
  c.checkpoint.best = 'eval/nll'
  c.model.tokens = 'chorales'
  c.model.eval_length = 0  # Longer: also the likelihood beyond `length`.
  c.model.layers = 3  # PerformanceRNN, as the next three and no dropout.
  c.model.units = 512
  c.model.learning_rate = 1e-3
  c.model.clip = 3.0
  c.model.dropout = 0.0
  c.model.attention = 0  # To so many outputs of the first layer; 0: none.
  c.model.length = 1024  # "Common length" on JSB in Huang et al.: 256 steps.
  c.model.transpose = 0  # Semitones up or down at most; none in their rows.
  c.model.accumulate = 1  # Slices of a batch, for less memory.
  c.model.temperature = 1.0  # As PerformanceRNN samples.
  c.model.top_k = 0
  c.model.top_p = 1.0
  if size == 'demo':
    c.data.name = 'synthetic_chorales/demo'
    c.batch_size = 16
    c.steps = 800
    c.log_every = 50
    c.eval_every = c.sample_every = c.checkpoint.every = 200
    c.model.layers, c.model.units, c.model.length = 1, 128, 256
    c.model.learning_rate = 8e-3
  elif size == 'tiny':
    c.data.name = 'synthetic_chorales/tiny'
    c.batch_size = 4
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 2
    c.num_samples = 2
    c.model.layers, c.model.units, c.model.length = 2, 16, 64
  return c


def ablations() -> dict[str, dict]:
  """Changes to the paper's size that one would ask about."""
  return {
      'units_1024': {'model.units': 1024},  # The larger PerformanceRNN.
      'layers_2': {'model.layers': 2},
      'dropout_0.3': {'model.dropout': 0.3},
      'transpose_3': {'model.transpose': 3},  # As PerformanceRNN augments.
      'length_512': {'model.length': 512},  # PerformanceRNN's excerpts.
      'bfloat16': {'dtype': 'bfloat16'},
  }
