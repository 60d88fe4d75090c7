"""Generated notes beside the data's: what they are like, and what is copied.

Three sets are looked at: a crop of each piece of the training split (of the
first thousand), one of each piece of the evaluation split, and generated
pieces, drawn from a model or read from MIDI files. A crop is as long as what
the model generates. Two rows come out: `generated`, compared with the
evaluation split, and, for scale, `real`: the evaluation split, compared with
the training split. Copies are looked for, in any key, in all of every training
piece.

Metrics are those of common/metrics/symbolic.py. Of several tracks those of
pitch and time are of all together, those of bars are means over the tracks.
Bars are of four beats, at the 120 beats a minute that `data.step_s` means;
performances, which have no grid, have no bars.

Shapes: T steps, K tracks, P pieces, N notes.
"""

import collections
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from common import errors, midi, runs, sharding
from common.data import pipeline
from common.metrics import overlap, symbolic, table

FREE_STEP_S = 0.01  # Of notes that have no grid; that of their tokens.
BAR_S = 2.0
# Notes as `overlap.symbols` counts them, from the second on.
COPIED = 8  # Of the n-grams whose share is told.
LONG = 32  # From here on a run is a long copy.

_MOST = 1000
_BATCH = 64


class Piece(NamedTuple):
  values: dict[str, float]  # NaN where a metric has none.
  symbols: np.ndarray  # [N - 1], see `overlap`.


class Score(NamedTuple):
  """A piece on a grid.

  Attributes:
    notes: [N, 3] of all pitched tracks, as symbolic has them.
    tracks: [K, T, 128] bool, without drums; None of a table of notes.
    drums: [T, 128] bool.
    step_s: seconds of a step.
  """

  notes: np.ndarray
  tracks: np.ndarray | None
  drums: np.ndarray | None
  step_s: float


def check(run, draws: bool = True) -> None:
  """Refuses models that make no notes, or cannot draw them."""
  can = run.model.sample or not draws
  if not can or not hasattr(run.module, 'music'):
    raise errors.UserError(
        f'{run.config.module} makes no notes to compare with the data; for '
        'sounds --generated goes with --classifier or --embedding')


def read(music, data) -> Score:
  """Of {'roll': [T, 128, K]} or {'notes': a table}, and config.data."""
  step_s = data.get('step_s', FREE_STEP_S)
  if 'roll' not in music:
    notes = music['notes']
    return Score(symbolic.on_grid(notes[~notes['is_drum']], step_s), None,
                 None, step_s)
  roll = np.asarray(music['roll'])
  roll = roll >= 0.5 if roll.dtype.kind == 'f' else roll != 0
  is_drum = np.array(data.programs) == midi.DRUMS
  return Score(symbolic.notes_of(roll[..., ~is_drum]),
               np.moveaxis(roll[..., ~is_drum], 2, 0),
               roll[..., is_drum].any(2), step_s)


def look(music, data) -> Piece:
  """What is kept of a piece: arguments as of `read`."""
  score = read(music, data)
  if score.tracks is None:
    values = _free(score, symbolic.roll_of(score.notes))
  else:
    values = _free(score, score.tracks.any(0)) | _of_bars(score)
  return Piece(values, overlap.symbols(score.notes))


def compare(ours, theirs) -> dict[str, dict[str, float]]:
  """{metric: mean, std, and how two lists of pieces overlap in it}.

  What cannot be measured is left out.
  """
  out = {}
  for name in dict.fromkeys(itertools.chain(*(p.values for p in ours))):
    a, b = (np.array([p.values[name] for p in pieces if np.isfinite(
        p.values.get(name, np.nan))]) for pieces in (ours, theirs))
    if not len(a):
      continue
    cell = {'mean': float(a.mean()), 'std': float(a.std())}
    if len(b):
      cell |= {'overlap': symbolic.overlapping_area(a, b),
               'divergence': symbolic.divergence(a, b)}
    out[name] = {k: v for k, v in cell.items() if np.isfinite(v)}
  return out


def copies(found: overlap.Copies, pieces: slice) -> dict[str, float]:
  """Of some of the pieces that were looked for."""
  share, longest = found.share(COPIED)[pieces], found.longest()[pieces]
  share = share[np.isfinite(share)]
  out = {'longest_copy': float(longest.max(initial=0)),
         'long_copies': float((longest >= LONG).mean())}
  if len(share):
    out[f'copied_{COPIED}'] = float(share.mean())
  return out


def of_files(paths: list[str], data) -> list[dict[str, np.ndarray]]:
  """{'notes'} of whole MIDI files, from their first note on, without drums.

  On the grid of the data's beats, if it has one.
  """
  out = []
  for path in paths:
    notes = (midi.read_steady(path) if 'step_s' in data
             else midi.sustained(midi.load(path)))
    notes = notes[~notes['is_drum']]
    errors.require(len(notes) > 1, f'{path} with {len(notes)} pitched notes',
                   'a file of two or more')
    step_s = data.get('step_s', FREE_STEP_S)  # Whole ones: all round alike.
    first = step_s * (notes['start_s'].min() // step_s)
    notes['start_s'] -= first
    notes['end_s'] -= first
    out.append({'notes': notes})
  return out


def of_each(found: overlap.Copies, names: list[str], train) -> str:
  """For a person: how much of the last pieces is copied, and from where."""
  width, lines = max(map(len, names)), []
  for name, share, runs_, where in zip(
      names, found.share(COPIED)[-len(names):], found.runs[-len(names):],
      found.pieces[-len(names):], strict=True):
    most = int(runs_.max(initial=0))
    told = f'{name:{width}}  {share:6.3f} of the {COPIED}-grams copied'
    if most:
      piece = int(where[runs_.argmax()])
      ident = train[piece].get('id', piece)
      ident = ident.decode() if isinstance(ident, bytes) else ident
      told += f', at most {most} notes (training piece {piece}: {ident})'
    lines.append(told)
  return '\n'.join(lines)


def measure(run, held_out, train, made
            ) -> tuple[dict[str, dict], dict[str, dict[str, float]], dict,
                       overlap.Copies]:
  """Rows 'real' and 'generated' of metrics and of copies, and their sizes.

  Args:
    run: of a model whose file exports `music`.
    held_out, train: the splits.
    made: {'roll' or 'notes'} of each piece: `generate` or `of_files`.
  """
  music, data = run.module.music(run.config), run.config.data
  crop = lambda source, i: look(
      music(source[i], np.random.default_rng(i)), data)
  real = [crop(held_out, i) for i in range(len(held_out))]
  made = [look(one, data) for one in made]
  learnt = [crop(train, i) for i in range(min(len(train), _MOST))]
  found = overlap.find(
      [p.symbols for p in (*real, *made)],
      (overlap.symbols(read(music(train[i], None), data).notes)
       for i in range(len(train))))
  return {
      'real': compare(real, learnt), 'generated': compare(made, real),
  }, {
      'real': copies(found, slice(len(real))),
      'generated': copies(found, slice(len(real), None)),
  }, {'train': len(train), 'real': len(real), 'generated': len(made)}, found


def text(rows, copied, counts) -> str:
  """The rows for a person."""
  lines = [f'{"":22}{"real":>20}{"generated":>20}{"overlap":>9}{"KL":>8}'
           f'{"real-train":>12}{"KL":>8}']
  shown = lambda cell, name, form: (
      format(cell[name], form) if name in cell else '-')
  for name in rows['generated'] | rows['real']:
    real, made = (rows[row].get(name, {}) for row in ('real', 'generated'))
    means = [f'{shown(c, "mean", ".4g")} ± {shown(c, "std", ".2g")}'
             for c in (real, made)]
    lines.append(
        f'{name:22}{means[0]:>20}{means[1]:>20}'
        f'{shown(made, "overlap", ".3f"):>9}'
        f'{shown(made, "divergence", ".3f"):>8}'
        f'{shown(real, "overlap", ".3f"):>12}'
        f'{shown(real, "divergence", ".3f"):>8}')
  for name, label in (
      (f'copied_{COPIED}', f'{COPIED}-grams copied'),
      ('longest_copy', 'longest copy (notes)'),
      ('long_copies', f'with {LONG} and more')):
    lines.append(f'{label:22}' + ''.join(
        f'{shown(copied[row], name, ".4g"):>20}'
        for row in ('real', 'generated')))
  lines.append(f'{"pieces":22}{counts["real"]:>20}{counts["generated"]:>20}')
  return '\n'.join(lines)


def flat(rows, copied) -> dict[str, float]:
  """{'generated/pitch_entropy': .., 'generated/pitch_entropy_overlap': ..}."""
  out = {}
  for row, cells in rows.items():
    for name, cell in cells.items():
      out[f'{row}/{name}'] = cell['mean']
      if 'overlap' in cell:
        out[f'{row}/{name}_overlap'] = cell['overlap']
    out |= {f'{row}/{k}': v for k, v in copied[row].items()}
  return out


def _free(score, roll):
  """Of a score and its roll [T, 128], whatever its bars."""
  notes, seconds = score.notes, len(roll) * score.step_s
  return {
      'notes_per_s': len(notes) / seconds if seconds else 0.0,
      'pitches_used': symbolic.pitches_used(notes),
      'pitch_range': symbolic.pitch_range(notes),
      'pitch_entropy': symbolic.pitch_entropy(notes),
      'pitch_class_entropy': symbolic.pitch_class_entropy(notes),
      'scale_consistency': symbolic.scale_consistency(notes),
      'polyphony': symbolic.polyphony(roll),
      'polyphony_rate': symbolic.polyphony_rate(roll)}


def _of_bars(score):
  bar = round(BAR_S / score.step_s)
  values = collections.defaultdict(list)
  for track in score.tracks:
    values['empty_bar_rate'].append(symbolic.empty_bar_rate(track, bar))
    values['used_pitch_classes'].append(
        symbolic.used_pitch_classes(track, bar))
    values['qualified_notes'].append(symbolic.qualified_notes(track, bar))
  for a, b in itertools.combinations(score.tracks, 2):
    values['tonal_distance'].append(symbolic.tonal_distance(a, b, bar // 4))
  if score.drums.any():
    values['drum_pattern'].append(symbolic.drum_pattern(
        score.drums, bar, sixteenth=bar // 16))
  known = {k: [x for x in v if np.isfinite(x)] for k, v in values.items()}
  bars = -(-score.tracks.shape[1] // bar)
  return {'groove_consistency': symbolic.groove_consistency(
              score.notes, bar, bars),
          **{k: float(np.mean(v)) if v else np.nan for k, v in known.items()}}


def generate(run, source, count: int) -> Iterator[dict[str, np.ndarray]]:
  """{'roll' or 'notes'} of so many pieces, under the split's conditions."""
  check(run)
  key = runs.make_key(run.config, run.mesh, 'sample')
  everywhere = sharding.replicated(run.mesh)
  state = runs.gathered(run)
  segments = pipeline.segments_of(run.module, run.config)
  for batch in table.conditions(source, segments, count, min(_BATCH, count)):
    arrays = sharding.fetch(run.model.sample(
        state, sharding.place(batch, everywhere), key))
    kind = 'roll' if 'roll' in arrays else 'notes'
    for piece, real in zip(arrays[kind], batch['mask'], strict=True):
      if real:
        yield {kind: piece}
