"""LSTM language model on piano performances (symbolic_jax/lstm.py).

  python -m common.train --config=lstm_maestro --workdir=runs/lstm_maestro

Data: maestro/v3 (962 / 137 / 177 performances, 22.9 million events in train),
made by `python -m common.prepare` from maestro-v3.0.0-midi.zip. The sizes
'demo' and 'tiny' need no download: their performances are synthetic.

Validation, nats per event, all events in segments of 2048:

  ours                                     not run
  unigram (add 1), fitted on train         4.889   MAESTRO v3
  bigram (add 0.1)                         4.093   MAESTRO v3
  3 LSTMs of 1024 (this config)            1.969   Huang et al. 2018, table 3,
  ... and attention                        1.959   on other recordings: see
  relative Transformer                     1.835   music_transformer_maestro

1.959 is as we recall it. "1024att" is all that is said of its attention; here
it is that of Magenta's attention_rnn, as wide as a layer, to 40 outputs.

The network is that of the table; `units_512` is the released PerformanceRNN.
Vocabularies: a language model has two ids more than there are events (padding,
end), and MAESTRO needs the keys 21 to 108 only, so the published 388 events of
keys 0 to 127 are 390 ids here (`keys_128`), and 308 are 310. `no_velocity` has
the fewest: 278. Its nats per event are of other events, and do not compare with
the others; nor does bits per second, for it tells less.

The released code trained on excerpts of 512 events; how long those of the table
were is not said, only that pieces of 2048 were compared. Here they are 2048, as
all else in the table, and `excerpts_512` has the other: as many events, and
scored in segments of 2048 like the rest (nll_from_0, nll_from_512, ... say how
it does beyond its length).
"""

from common import config as config_lib


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'demo' (minutes on a CPU) or 'tiny' (seconds)."""
  config_lib.check_size(size, 'paper', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'symbolic_jax.lstm'
  c.data.name = 'maestro/v3'
  c.batch_size = 64  # PerformanceRNN.
  c.steps = 20_000  # Ours: as many events as music_transformer_maestro sees.
  c.eval_every = c.sample_every = c.checkpoint.every = 500
  c.checkpoint.best = 'eval/nll'
  c.model.tokens = 'events'
  c.model.low, c.model.high = 21, 108  # 310 ids; 0 and 127: 390.
  c.model.velocities = 32  # 0: none are told.
  c.model.stretch = (0.95, 0.975, 1.0, 1.025, 1.05)
  c.model.transpose = 3
  c.model.length = 2048
  c.model.eval_length = 0  # Longer: also the likelihood beyond `length`.
  c.model.layers = 3
  c.model.units = 1024
  c.model.learning_rate = 1e-3  # PerformanceRNN, as the next two.
  c.model.clip = 3.0
  c.model.dropout = 0.0
  c.model.attention = 0  # To so many outputs of the first layer; 0: none.
  c.model.accumulate = 1  # Slices of a batch, for less memory.
  c.model.temperature = 1.0  # As PerformanceRNN samples.
  c.model.top_k = 0
  c.model.top_p = 1.0
  if size == 'demo':
    c.data.name = 'synthetic_performances/demo'
    c.batch_size = 16
    c.steps = 600
    c.log_every = 20
    c.eval_every = c.sample_every = c.checkpoint.every = 200
    c.model.layers, c.model.units, c.model.length = 1, 128, 256
    c.model.learning_rate = 8e-3
  elif size == 'tiny':
    c.data.name = 'synthetic_performances/tiny'
    c.batch_size = 4
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 2
    c.num_samples = 2
    c.model.layers, c.model.units, c.model.length = 2, 16, 32
  return c


def ablations() -> dict[str, dict]:
  """The released network and its excerpts, and other vocabularies."""
  return {
      # It carries 40 outputs along each step: four slices for memory.
      'attention': {'model.attention': 40, 'model.accumulate': 4},
      'units_512': {'model.units': 512},
      'excerpts_512': {'model.length': 512, 'model.eval_length': 2048,
                       'steps': 80_000},  # As many events.
      'keys_128': {'model.low': 0, 'model.high': 127},
      'no_velocity': {'model.velocities': 0},
      'dropout_0.3': {'model.dropout': 0.3},
      'bfloat16': {'dtype': 'bfloat16'},
  }


PAPER = {  # On other recordings: see above.
    'base': {'eval/nll': 1.969}, 'attention': {'eval/nll': 1.959}}
