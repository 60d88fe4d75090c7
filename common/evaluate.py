"""Measures a run's checkpoint on a whole split; writes results.json.

  python -m common.evaluate --workdir=runs/lstm
  python -m common.evaluate --workdir=runs/lstm --split=test --step=20000
"""

import json
import pathlib

from absl import flags

from common import app

_WORKDIR = app.define_workdir()
_DATA_DIR = app.define_data_dir()
app.define_distributed()
_SPLIT = flags.DEFINE_string('split', None, "Default: the config's data.eval.")
_STEP = flags.DEFINE_integer('step', None, 'Default: the newest checkpoint.')


def main(argv):
  del argv
  import jax

  from common import evaluation, runs
  from common.data import builders

  run = runs.load(_WORKDIR.value, _STEP.value)
  split = _SPLIT.value or run.config.data.eval
  source = builders.open_split(run.config.data.name, split, _DATA_DIR.value)
  metrics, rows = evaluation.Evaluation(
      run.config, run.module, run.model, run.mesh, source)(run.state)
  results = {'step': run.step, 'split': split, 'examples': rows,
             'metrics': metrics}
  if jax.process_index() == 0:
    path = pathlib.Path(_WORKDIR.value) / 'results.json'
    path.write_text(json.dumps(results, indent=1) + '\n')
    for name, value in metrics.items():
      print(f'{name:24} {value:.6g}')
    print(f'step {run.step}, {rows} rows of {run.config.data.name} {split}: '
          f'{path}')


if __name__ == '__main__':
  app.run(main)
