"""Runs a codec over a data set and writes the codes, for priors to learn.

  python -m common.encode --workdir=runs/vqvae2 --dataset=codes/notes
  python -m common.train --config=code_prior_nsynth --workdir=runs/top \\
      --config.data.name=codes/notes --config.upstream.codec=runs/vqvae2

Each example becomes one record, or as many as an evaluation of the codec makes
of it; of long recordings --windows=K takes K random windows of each record
instead. Beside the codes a record has what is known of the sound (pitch,
instrument family, id). Stopped or killed, the same command goes on where it
was. Codes of another codec are never written over.
"""

from absl import flags

from common import app

_WORKDIR = app.define_workdir()
_DATA_DIR = app.define_data_dir()
_DATASET = flags.DEFINE_string(
    'dataset', None, 'What to write: codes/NAME.', required=True)
_SOURCE = flags.DEFINE_string(
    'source', None, 'Data set to encode. Default: what the codec was trained '
    'on.')
_SPLITS = flags.DEFINE_list('splits', None, 'Default: all of the data set.')
_WINDOWS = flags.DEFINE_integer(
    'windows', 0, 'Random windows of each stored example, as training sees '
    'them; 0: what an evaluation sees.', lower_bound=0)
_BATCH_SIZE = app.define_batch_size()
_STEP = app.define_step()


def main(argv):
  del argv
  import sys

  from common import runs
  from common.data import codes

  run = runs.load(_WORKDIR.value, _STEP.value)
  if _BATCH_SIZE.value:
    run.config.batch_size = _BATCH_SIZE.value
  report = codes.write(
      run, _WORKDIR.value, _DATASET.value, _DATA_DIR.value,
      source=_SOURCE.value, splits=_SPLITS.value, windows=_WINDOWS.value,
      say=lambda line: print(line, file=sys.stderr))
  if report is None:
    print(f'{_DATASET.value} is already complete')
    return
  counts = ', '.join(f'{split} {count["examples"]}'
                     for split, count in report['splits'].items())
  print(f'{_DATASET.value}: {counts} records of step {run.step}')


if __name__ == '__main__':
  app.run(main)
