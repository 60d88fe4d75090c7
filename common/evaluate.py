"""Measures a run's checkpoint on a whole split; writes results_SPLIT.json.

  python -m common.evaluate --workdir=runs/lstm
  python -m common.evaluate --workdir=runs/lstm --split=test --step=20000

Of a model that makes sound, also the table of the GANSynth paper, with a run
of --config=classifier_nsynth as the judge (docs/metrics.md):

  python -m common.evaluate --workdir=runs/gansynth --split=test \\
      --classifier=runs/classifier

Of a model of notes, what so many samples are like beside the split, and how
much of them is copied from the training set:

  python -m common.evaluate --workdir=runs/lstm --generated=100

The same of MIDI files, wherever they are from; each of them is told how much of
it is copied, and from which piece:

  python -m common.evaluate --workdir=runs/lstm --midi='songs/*.mid'

With another setting than in training; this goes to a file of its own,
results_SPLIT,NAME=VALUE.json, as do MIDI files:

  python -m common.evaluate --workdir=runs/lstm --set=model.eval_length=1024

Of a codec, also its distortion at its bitrate, beside what mu-law samples and
Griffin-Lim make of as many bits.
"""

import glob
import json

from absl import flags

from common import app, errors, files, workdir

_WORKDIR = app.define_workdir()
_DATA_DIR = app.define_data_dir()
app.define_distributed()
_SPLIT = flags.DEFINE_string('split', None, "Default: the config's data.eval.")
_STEP = app.define_step()
_BATCH_SIZE = app.define_batch_size()
_CLASSIFIER = flags.DEFINE_string(
    'classifier', None, 'Workdir of a classifier: adds IS, FID, KID, NDB and '
    'pitch accuracy of generated sounds.')
_EMBEDDING = flags.DEFINE_string(
    'embedding', None, "Adds the Frechet audio distance: 'module:function', "
    "(audio [B, N], sample_rate) -> [P, D]; or 'REAL.npz,GENERATED.npz', files "
    'of embeddings [P, D] made elsewhere.')
_SET = flags.DEFINE_multi_string(
    'set', [], 'NAME=VALUE: a setting of the config that is to be another here '
    'than in training, such as model.eval_length=1024.')
_MIDI = flags.DEFINE_string(
    'midi', None, "MIDI files to look at in place of --generated samples, as "
    "in 'songs/*.mid'.")
_GENERATED = flags.DEFINE_integer(
    'generated', 0, 'Samples to generate: sounds for these (0: as many as the '
    'split has rows), or notes, which are compared with the data.',
    lower_bound=0)


def main(argv):
  del argv
  import jax

  from common import evaluation, progress, runs
  from common.data import builders

  errors.require(
      not _MIDI.value or not (
          _GENERATED.value or _CLASSIFIER.value or _EMBEDDING.value),
      '--midi with --generated, --classifier or --embedding',
      'one or the other')
  run = runs.load(_WORKDIR.value, _STEP.value, _SET.value)
  if _BATCH_SIZE.value:
    run.config.batch_size = _BATCH_SIZE.value
  split = _SPLIT.value or run.config.data.eval
  source = builders.open_split(run.config.data.name, split, _DATA_DIR.value)
  # Opens all it needs before the long work.
  table = _table(run, source) or _notes_table(run, source)
  metrics, rows = evaluation.Evaluation(
      run.config, run.module, run.model, run.mesh, source)(run.state)
  results = {'step': run.step, 'rows': rows, 'metrics': metrics}
  if table:
    results['metrics'] |= table(results)
  if hasattr(run.module, 'codec'):
    results['metrics'] |= _rate_distortion(run, source)
  changes = [*_SET.value, *[f'midi={_MIDI.value}'] * bool(_MIDI.value)]
  path = workdir.results_file(_WORKDIR.value, split, changes)
  # Shown first: a full disk loses no hours of work.
  progress.say('\n'.join(f'{name:24} {value:.6g}'
                         for name, value in metrics.items()))
  progress.say(f'step {run.step}, {rows} rows of {run.config.data.name} '
               f'{split}: {path}')
  if jax.process_index() == 0:
    files.write(path, json.dumps(results, indent=1) + '\n')


def _rate_distortion(run, source) -> dict[str, float]:
  from common import progress
  from common.metrics import rate_distortion
  rows, books = rate_distortion.measure(run, source)
  progress.say(rate_distortion.text(rows, books))
  return {f'{name}/{k}': v for part in (rows, books)
          for name, row in part.items() for k, v in row.items()}


def _table(run, source):
  """A function of `results`, which it adds to: {'generated/fid': ..}, or None.

  What the numbers were measured on goes into the results.
  """
  from common import progress, runs
  from common.data import builders
  from common.metrics import frechet, table

  embedding = _EMBEDDING.value or ''
  if not (_CLASSIFIER.value or embedding):
    return None
  embed = embedding and '.npz' not in embedding and frechet.load_embedding(
      embedding)
  of_files = '.npz' in embedding and frechet.distance_of_files(embedding)
  judge = _CLASSIFIER.value and runs.load(_CLASSIFIER.value)
  train = builders.open_split(
      run.config.data.name, run.config.data.train, _DATA_DIR.value)

  def measure(results) -> dict[str, float]:
    out = {'generated/fad': of_files} if of_files is not False else {}
    if judge or embed:
      rows, counts = table.measure(
          run, source, train, _GENERATED.value, judge or None, embed or None)
      progress.say(table.text(rows, counts))
      out |= {f'{name}/{k}': v for name, row in rows.items()
              for k, v in row.items()}
      results['sounds'] = counts
    if judge:
      results['classifier'] = {
          'workdir': _CLASSIFIER.value, 'step': judge.step}
    if embedding:
      results['embedding'] = embedding
    return out

  return measure


def _notes_table(run, source):
  """As `_table`, of notes."""
  from common import progress
  from common.data import builders
  from common.metrics import notes_table

  if not _GENERATED.value and not _MIDI.value:
    return None
  names = sorted(glob.glob(_MIDI.value or ''))
  errors.require(not _MIDI.value or names, f'--midi={_MIDI.value}',
                 'a pattern of files that are there')
  notes_table.check(run, draws=not names)
  given = notes_table.of_files(names, run.config.data)
  train = builders.open_split(
      run.config.data.name, run.config.data.train, _DATA_DIR.value)

  def measure(results) -> dict[str, float]:
    rows, copied, counts, found = notes_table.measure(
        run, source, train,
        given or notes_table.generate(run, source, _GENERATED.value))
    progress.say(notes_table.text(rows, copied, counts))
    if names:
      progress.say(notes_table.of_each(found, names, train))
      results['midi'] = names
    results['notes'] = {'pieces': counts, 'rows': rows, 'copies': copied}
    return notes_table.flat(rows, copied)

  return measure


if __name__ == '__main__':
  app.run(main)
