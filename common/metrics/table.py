"""The row of the GANSynth paper's table 1 for any model that makes sound.

Three sets are listened to: the training split, the evaluation split, and
sounds generated under the conditions of the evaluation split's rows. Of each
sound only some numbers are kept, so memory does not grow with its length. Two
rows come out: the generated sounds against the evaluation split, and, for
scale, the evaluation split against the training split; bins (NDB) are always
the training split's.

Shapes: P sounds, B of a batch, N samples, D features, K pitches.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from common import errors, runs, sharding
from common.data import pipeline
from common.metrics import classifier, frechet, inception, ndb, pitch
from common.spectral import representations

MOST_F0 = 1000  # Sounds whose pitch is estimated: a tenth of a second each.

_BATCH = 64  # At most: a model need not generate at its training batch size.

# Names of the columns and how to print them; the paper's first.
COLUMNS = {
    'ndb': 'd', 'fid': '.4g', 'is': '.2f', 'pa': '.1%', 'pe': '.2f',
    'f0': '.1%', 'kid': '.4g', 'fad_logmel': '.4g', 'fad': '.4g'}


@dataclasses.dataclass
class Sounds:
  """What is kept of a set of sounds."""

  binned: np.ndarray  # [P, some] of a log-mel spectrogram.
  asked: np.ndarray | None  # [P] MIDI, where the model is told a pitch.
  heard: np.ndarray  # [up to MOST_F0] MIDI, NaN where there is none.
  features: np.ndarray | None = None  # [P, D]
  p_pitch: np.ndarray | None = None  # [P, K]
  logmel: frechet.Gaussian | None = None
  embedded: frechet.Gaussian | None = None


class Listener:
  """Turns batches of audio into `Sounds`.

  judge: the run of a classifier, or None for what needs none.
  embed: a function (audio [B, N], sample_rate) -> [P, D], or None.
  """

  def __init__(self, sample_rate: int, length: int, judge=None, embed=None):
    if judge and judge.config.module != classifier.__name__:
      raise errors.UserError(
          f'--classifier is a run of {judge.config.module}; give that of '
          '--config=classifier_nsynth')
    if judge and judge.config.data.sample_rate != sample_rate:
      raise errors.UserError(
          f'--classifier was trained at {judge.config.data.sample_rate} Hz, '
          f'the model makes sound at {sample_rate} Hz; train one with '
          f'--config.data.sample_rate={sample_rate}')
    self._rate, self._length = sample_rate, length
    self._judge, self._embed = judge, embed
    predict = judge and classifier.predictor(judge.config)
    mel = representations.make('log_mel', length, sample_rate, n_fft=2048,
                               hop=1024, bands=128)
    used = ndb.dimensions(int(np.prod(mel.shape)))

    @jax.jit
    def hear(params, audio):
      out = {'binned': mel.encode(audio).reshape(len(audio), -1)[:, used]}
      if judge:
        found = predict(params, audio)
        out |= {'features': found.features,
                'p_pitch': jax.nn.softmax(found.pitch)}
      return out

    self._hear = hear

  def __call__(self, batches, estimate_f0: bool = True) -> Sounds:
    """From (audio [B, any N], mask [B], MIDI pitch [B] or None)."""
    kept, asked, heard = {}, [], []
    params = self._judge and self._judge.state.params['model']
    logmel = self._rate == frechet.LOGMEL_RATE and frechet.Gaussian()
    embedded = self._embed and frechet.Gaussian()
    for audio, mask, wanted in batches:
      audio = jnp.asarray(audio)
      audio = audio.mean(-1) if audio.ndim == 3 else audio
      audio = audio[:, :self._length]
      audio = jnp.pad(audio, ((0, 0), (0, self._length - audio.shape[1])))
      found = sharding.fetch(self._hear(params, audio))
      audio, real = sharding.fetch(audio), np.asarray(mask) > 0
      for k, x in found.items():
        kept.setdefault(k, []).append(x[real])
      if logmel:
        logmel.add(frechet.logmel_patches(audio, self._rate)[
            np.repeat(real, frechet.patches_in(self._length))])
      if embedded:
        embedded.add(self._embed(audio[real], self._rate))
      if wanted is not None:
        asked.append(np.asarray(wanted)[real])
        if estimate_f0 and len(heard) < MOST_F0:
          heard += list(pitch.estimate(
              audio[real][:MOST_F0 - len(heard)], self._rate))
    return Sounds(
        **{k: np.concatenate(x) for k, x in kept.items()},
        asked=np.concatenate(asked) if asked else None,
        heard=np.array(heard), embedded=embedded or None,
        logmel=logmel if logmel and logmel.count > 1 else None)


def row(sounds: Sounds, reference: Sounds, bins: ndb.Bins, lowest_pitch: int
        ) -> dict[str, float]:
  """One row of the table; only what could be measured is in it.

  bins: of the training set.
  lowest_pitch: MIDI pitch of the classifier's class 0.
  """
  against_train = ndb.compare(bins.counts, bins.count(sounds.binned))
  out = {'ndb': against_train.different, 'ndb_js': against_train.divergence}
  if sounds.features is not None:
    gaussians = [frechet.Gaussian.of(s.features) for s in (sounds, reference)]
    out['fid'] = frechet.distance(*gaussians)
    out['kid'] = frechet.kid(sounds.features, reference.features)
    out['kid_subsets'], out['kid_subsets_std'] = frechet.kid_over_subsets(
        sounds.features, reference.features)
    out['is'] = inception.score(sounds.p_pitch)
    if len(sounds.p_pitch) >= 10 * inception.SPLITS:
      out['is_splits'], out['is_splits_std'] = inception.score_over_splits(
          sounds.p_pitch)
    out['pe'] = pitch.entropy(sounds.p_pitch)
    if sounds.asked is not None:
      known = range(lowest_pitch, lowest_pitch + sounds.p_pitch.shape[1])
      if not {int(sounds.asked.min()), int(sounds.asked.max())} <= set(known):
        raise errors.UserError(
            f'pitches from {sounds.asked.min()} to {sounds.asked.max()} are '
            f'asked for, --classifier knows {known[0]} to {known[-1]}; train '
            'one for these')
      out['pa'] = pitch.accuracy(sounds.p_pitch, sounds.asked - lowest_pitch)
  if len(sounds.heard):
    out['f0'] = pitch.agreement(
        sounds.heard, sounds.asked[:len(sounds.heard)])
  for name, ours, theirs in (
      ('fad_logmel', sounds.logmel, reference.logmel),
      ('fad', sounds.embedded, reference.embedded)):
    if ours and theirs:
      out[name] = frechet.distance(ours, theirs)
  return out


def measure(run, held_out, train, count: int = 0, judge=None, embed=None
            ) -> tuple[dict[str, dict[str, float]], dict]:
  """Rows 'real' and 'generated', and what they were measured on.

  Args:
    run: of a model whose sample() returns 'audio'.
    held_out, train: the splits.
    count: sounds to generate; 0 for as many as `held_out` has rows.
    judge, embed: as in `Listener`.
  """
  if run.model.sample is None:
    raise errors.UserError(
        f'{run.config.module} generates nothing; --classifier and --embedding '
        'are for models that do')
  segments = pipeline.segments_of(run.module, run.config)
  size = min(_BATCH, run.config.batch_size)
  size = -(-size // run.mesh.size) * run.mesh.size
  example = next(pipeline.evaluate(
      held_out, segments, batch_size=1, process=(0, 1)))
  if 'audio' not in example:
    raise errors.UserError(
        f'the examples of {run.config.module} are no audio, but '
        f'{", ".join(sorted(example))}; --classifier and --embedding are for '
        'models of sound')
  listen = Listener(run.config.data.sample_rate, example['audio'].shape[1],
                    judge, embed)
  real = lambda source: (
      (_place(batch, run.mesh)['audio'], batch['mask'],
       asked(run.config, batch))
      for batch in pipeline.evaluate(
          source, segments, batch_size=size, process=(0, 1)))
  learnt = listen(real(train), estimate_f0=False)
  kept = listen(real(held_out))
  count = count or len(kept.binned)
  made = listen(_generate(run, held_out, segments, count, size))
  bins = ndb.Bins(learnt.binned, max(1, min(ndb.BINS, len(learnt.binned) // 2)))
  lowest = judge.config.model.lowest_pitch if judge else 0
  return {
      'real': row(kept, learnt, bins, lowest),
      'generated': row(made, kept, bins, lowest),
  }, {'train': len(learnt.binned), 'real': len(kept.binned),
      'generated': len(made.binned), 'f0': len(made.heard),
      'bins': len(bins.counts)}


def asked(config, batch):
  """The pitches that a batch asks its model for, MIDI [B], or None.

  `pitch`, or `label` counted from model.lowest_pitch.
  """
  if 'pitch' in batch:
    return batch['pitch']
  if 'label' in batch and 'lowest_pitch' in config.model:
    return batch['label'] + config.model.lowest_pitch
  return None


def conditions(source, segments, count: int, batch_size: int):
  """Batches of the split's rows, from the start again until there are `count`.

  Rows are numbered on, so a condition that returns makes another sound.
  """
  first = 0
  while first < count:
    start = first
    for batch in pipeline.evaluate(source, segments, batch_size=batch_size,
                                   process=(0, 1)):
      index = (batch['index'] + start).astype(np.int32)
      mask = batch['mask'] * (index < count)
      first += int(batch['mask'].sum())
      yield {**batch, 'index': index, 'mask': mask.astype(np.float32)}
      if first >= count:
        return


def text(rows, counts) -> str:
  """The rows for a person."""
  used = [c for c in COLUMNS if any(c in r for r in rows.values())]
  names = {'ndb': f'NDB/{counts["bins"]}'}
  lines = [f'{"":12}{"n":>8}' + ''.join(
      f'{names.get(c, c if "_" in c else c.upper()):>12}' for c in used)]
  for name, values in rows.items():
    cells = [format(values[c], COLUMNS[c]) if c in values else '-'
             for c in used]
    lines.append(f'{name:12}{counts[name]:>8}' + ''.join(
        f'{c:>12}' for c in cells))
  return '\n'.join(lines)


def _generate(run, source, segments, count, size):
  key = runs.make_key(run.config, run.mesh, 'sample')
  state = runs.gathered(run)
  for batch in conditions(source, segments, count, size):
    arrays = run.model.sample(state, _place(batch, run.mesh), key)
    if 'audio' not in arrays:
      raise errors.UserError(
          f'{run.config.module} does not make audio, but {", ".join(arrays)}; '
          '--classifier and --embedding are for models of sound')
    yield arrays['audio'], batch['mask'], asked(run.config, batch)


def _place(batch, mesh):
  """Whole host batch -> this process's rows, over all devices."""
  local = len(batch['mask']) // jax.process_count()
  mine = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
  return sharding.place({k: x[mine] for k, x in batch.items()},
                        sharding.by_row(mesh))
