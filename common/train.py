"""Trains a config.

  python -m common.train --config=lstm_jsb:tiny --workdir=runs/lstm
  python -m common.train --config=configs/wavegan_sc09.py --workdir=runs/wg \\
      --config.seed=1 --config.model.phase_shuffle=4

Run again with the same flags, it goes on where it stopped.
"""

from absl import flags

from common import app, errors

app.define_config()
_WORKDIR = app.define_workdir()
_DATA_DIR = app.define_data_dir()
app.define_distributed()
_WANDB = flags.DEFINE_string(
    'wandb', None, 'Weights & Biases project to log to as well.')


def main(argv):
  del argv
  from common import trainer  # After the flags: jax reads the environment.

  if flags.FLAGS.config is None:
    raise errors.UserError('--config is missing: give a name like '
                           'lstm_jsb:tiny, or a path (see --help)')
  trainer.fit(flags.FLAGS.config, _WORKDIR.value, _DATA_DIR.value,
              _WANDB.value)


if __name__ == '__main__':
  app.run(main)
