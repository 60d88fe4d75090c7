"""One page about one or many runs: curves, pictures, sounds, settings.

  python -m common.report --workdirs=runs/a,runs/b --out=report.html
  python -m common.report --workdirs='runs/sweep/*/seed_*' --out=report.html \\
      --markdown=table.md --config=lstm_jsb

The page holds everything it shows: it opens offline and can be mailed. With
--config, the paper's numbers stand beside ours: PAPER = {'base': {'eval/nll':
..}, ..} in the config file, by name of ablation.
"""

import base64
import glob
import html
import os
import pathlib

import numpy as np
from absl import flags

from common import app, audio, chart, errors, files, midi, workdir
from common import config as config_lib

_MIDI_RATE = 22050  # Of notes made audible.
_NOT_RUN = 'not run'


def main(argv):
  del argv
  f = flags.FLAGS
  paper = getattr(config_lib.module(f.config), 'PAPER', {}) if f.config else {}
  runs = read(f.workdirs)
  outputs = {f.out: page(runs, paper, f.samples, f.sample_steps)}
  if f.markdown:
    outputs[f.markdown] = markdown(runs, paper)
  for path, text in outputs.items():
    pathlib.Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    files.write(path, text)
    print(f'{len(runs)} runs, {len(text.encode()) / 1e6:.2g} MB: {path}')


def read(paths) -> dict[str, workdir.Workdir]:
  """Runs by the shortest names that tell them apart; `paths` may be globs."""
  found = []
  for path in paths:
    # A folder whose name looks like a pattern is itself.
    matches = [path] if os.path.isdir(path) else sorted(glob.glob(path))
    if not matches:
      raise errors.UserError(f'--workdirs: there is no folder {path!r}; give '
                             'workdirs of common.train, split by commas')
    found += [os.path.abspath(m) for m in matches]
  found = list(dict.fromkeys(found))
  if not found:
    raise errors.UserError('--workdirs is empty; give workdirs of '
                           'common.train, split by commas')
  names = [os.path.basename(p) for p in found]
  if len(set(names)) < len(names):
    top = os.path.commonpath(found)
    names = [os.path.relpath(p, top) for p in found]
  return {n: workdir.read(p) for n, p in zip(names, found, strict=True)}


def markdown(runs, paper) -> str:
  """One row per run, and one per set of numbers from the paper."""
  head, rows = _results(runs, paper)
  cell = lambda text: text.replace('|', '\\|')
  lines = [head, ['---'] * 4 + ['--:'] * (len(head) - 4), *rows]
  return ''.join(f'| {" | ".join(map(cell, row))} |\n' for row in lines)


def page(runs, paper, samples: int, sample_steps: int) -> str:
  """The HTML page; `samples` of each of `sample_steps` steps are shown."""
  title = ', '.join(runs) if len(runs) < 4 else f'{len(runs)} runs'
  about = dict.fromkeys(_about(run) for run in runs.values())
  notes = [f'{name}: {note}' for name, run in runs.items()
           for note in run.notes]
  sounds = [_sounds(i, name, run, samples, sample_steps, notes)
            for i, (name, run) in enumerate(runs.items())]
  body = [
      f'<header><h1>{_text(title)}</h1><p>{_text(" · ".join(about))}</p>'
      '</header><main>', _notes(notes), _section('Results', _table(
          runs, *_results(runs, paper))),
      _section('Curves', _curves(runs)), _section('Samples', ''.join(sounds)),
      _section('Settings', _settings(runs)), '</main>']
  return (
      '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      f'<title>{_text(title)}</title><style>{_STYLE}</style></head>'
      f'<body>{"".join(body)}<script>{_SCRIPT}</script></body></html>\n')


def _results(runs, paper):
  """Head and rows of text: one for each split that a run was measured on.

  What nobody measured is 'not run'.
  """
  measured = [found['metrics'] for run in runs.values()
              for found in run.results.values()]
  metrics = list(dict.fromkeys(
      name for group in [*paper.values(), *measured] for name in group))
  head = ['run', 'config', 'step', 'split', 'steps/s', *metrics]
  rows = []
  for name, run in runs.items():
    newest = max((int(steps[-1]) for steps, _ in run.curves.values()),
                 default=0)
    seconds = run.curves.get('time/step_s')
    for split, found in (run.results or {
        _NOT_RUN: {'step': newest, 'metrics': {}}}).items():
      step, of = found['step'], run.config.get('steps', found['step'])
      rows.append([
          name, _about(run), f'{step:,}' + f' of {of:,}' * (step != of), split,
          workdir.number(1 / np.median(seconds[1])) if seconds else _NOT_RUN,
          *(workdir.number(found['metrics'][m]) if m in found['metrics']
            else _NOT_RUN for m in metrics)])
  for name, numbers in paper.items():
    rows.append([f'paper, {name}', '', '', '', '', *(
        workdir.number(numbers[m]) if m in numbers else '–' for m in metrics)])
  return head, rows


def _table(runs, head, rows) -> str:
  left = lambda h: ' class="left"' * (h in ('run', 'config', 'split'))
  out = ['<table><thead><tr>', *(
      f'<th scope="col"{left(h)}>{_text(h)}</th>' for h in head),
      '</tr></thead>']
  swatches = {name: _swatch(i) for i, name in enumerate(runs)}
  for row in rows:
    out.append('<tr>' if row[0] in runs else '<tr class="paper">')
    out.append(f'<th scope="row">{swatches.get(row[0], "")}'
               f'{_text(row[0])}</th>')
    out += [f'<td{left(h)}>{_text(text)}</td>'
            for h, text in zip(head[1:], row[1:], strict=True)]
    out.append('</tr>')
  return _scroll('Results', ''.join(out) + '</table>')


def _curves(runs) -> str:
  """A figure per metric; 'eval/nll' shares one with 'loss/nll'."""
  figures = {}  # Title: names of its curves.
  names = list(dict.fromkeys(n for run in runs.values() for n in run.curves))
  for name in sorted(names, key=lambda n: not n.startswith('eval/')):
    metric = name.partition('/')[2]
    shared = f'eval/{metric}' in names
    figures.setdefault(metric if shared else name, []).append(name)
  # Timing last, and only what is a curve: the first step's time is not.
  titles = sorted(figures, key=lambda t: t.startswith('time/'))
  out = [_figure(runs, t, figures[t]) for t in titles if not (
      t.startswith('time/') and all(len(run.curves.get(t, ((),))[0]) < 2
                                    for run in runs.values()))]
  legend = ''.join(f'<li>{_swatch(i)}{_text(n)}</li>'
                   for i, n in enumerate(runs))
  return (f'<ul class="legend">{legend}</ul><p class="hint">Dots: evaluation. '
          'Lines: training, long ones as means with their range.</p>'
          f'<div class="charts">{"".join(out)}</div>')


def _figure(runs, title, names) -> str:
  lines, last = [], []
  for i, (run_name, run) in enumerate(runs.items()):
    shown = []
    for name in names:
      if name not in run.curves:
        continue
      steps, values = run.curves[name]
      finite = np.isfinite(values)
      kind = 'evaluation' if name.startswith('eval/') else 'training'
      if finite.any():
        lines.append(chart.Line(
            f'{run_name}, {kind}', i, steps[finite], values[finite],
            marked=kind == 'evaluation'))
      shown.append(f'{kind} ' * (len(names) > 1) + workdir.number(values[-1])
                   + ' (some are not finite)' * (not finite.all()))
    if shown:
      last.append(f'<li>{_swatch(i)}<span class="hidden">{_text(run_name)}: '
                  f'</span>{_text(" · ".join(shown))}</li>')
  drawn = chart.svg(title, lines) if lines else '<p>No finite value.</p>'
  return (f'<figure><figcaption>{_text(title)}</figcaption>{drawn}'
          f'<ul class="last" aria-label="last values">{"".join(last)}</ul>'
          '</figure>')


def _sounds(number, name, run, samples, sample_steps, notes) -> str:
  """A run's samples, the newest open, earlier steps folded below."""
  heading = f'<h3>{_swatch(number)}{_text(name)}</h3>'
  if not run.samples:
    return f'{heading}<p class="none">No samples.</p>'
  steps = sorted(run.samples)
  # Evenly over the run, with the first and the last.
  chosen = {steps[round(i)] for i in np.linspace(
      len(steps) - 1, 0, max(1, min(sample_steps, len(steps))))}
  out = []
  for step in sorted(chosen, reverse=True):
    indices = sorted(run.samples[step])
    cards = ''.join(
        _card(run, f'sample {index} of {name}, step {step:,}', index,
              run.samples[step][index], notes)
        for index in indices[:samples])
    more = len(indices) - samples
    label = f'Step {step:,}' + f' ({more} more in the folder)' * (more > 0)
    grid = f'<div class="cards">{cards}</div>'
    out.append(f'<p class="step">{label}</p>{grid}' if not out else
               f'<details><summary>{label}</summary>{grid}</details>')
  return heading + ''.join(out)


def _card(run, label, index, files, notes) -> str:
  out = []
  label = _text(label)
  if 'png' in files:
    kind = 'Piano roll' if 'mid' in files else 'Spectrogram'
    out.append(f'<img alt="{kind} of {label}" src="'
               f'{_uri("image/png", files["png"].read_bytes())}">')
  link = ''
  try:
    if 'mid' in files:
      sound = audio.synthesize(midi.read(files['mid']), _MIDI_RATE)
      source = _uri('audio/mpeg', audio.encode(sound, _MIDI_RATE, 'mp3'))
      data = _uri('audio/midi', files['mid'].read_bytes())
      link = (f'<a download="{_text(files["mid"].name)}" href="{data}" '
              f'aria-label="MIDI file of {label}">MIDI</a>')
    elif 'wav' in files:
      rate = run.config.get('data.sample_rate', 16000)
      source = _uri('audio/flac', audio.encode(
          audio.read(files['wav'], rate), rate, 'flac'))
    else:
      source = None
    if source:
      out.append(f'<audio controls preload="metadata" aria-label="{label}" '
                 f'src="{source}"></audio>')
  except errors.UserError as e:
    notes.append(str(e))
    out.append('<p class="none">The sound cannot be read.</p>')
  return (f'<div class="card">{"".join(out)}<p><span>{_text(index)}</span>'
          f'{link}</p></div>')


def _settings(runs) -> str:
  """What differs, marked where it is not as in the first run; then the rest."""
  keys = sorted({k for run in runs.values() for k in run.config})
  value = lambda run, key: (
      repr(run.config[key]) if key in run.config else '–')
  first = next(iter(runs.values()))

  def cell(run, key):
    text = _text(value(run, key))
    marked = value(run, key) != value(first, key)
    return f'<mark>{text}</mark>' if marked else text

  differ = [k for k in keys
            if len({value(run, k) for run in runs.values()}) > 1]
  out = ''
  if differ:
    head = ''.join(f'<th scope="col" class="left">{_swatch(i)}{_text(n)}</th>'
                   for i, n in enumerate(runs))
    rows = ''.join(
        f'<tr><th scope="row">{_text(k)}</th>' + ''.join(
            f'<td class="left">{cell(run, k)}</td>' for run in runs.values())
        + '</tr>' for k in differ)
    out = _scroll('Settings that differ', '<table><thead><tr><th scope="col" '
                  f'class="left">setting</th>{head}</tr></thead>{rows}</table>')
  same = [k for k in keys if k not in differ]
  rows = ''.join(f'<tr><th scope="row">{_text(k)}</th><td class="left">'
                 f'{cell(first, k)}</td></tr>' for k in same)
  shared = ' that all runs share' * (len(runs) > 1)
  table = _scroll('Settings', f'<table>{rows}</table>')
  return (f'{out}<details><summary>{len(same)} settings{shared}</summary>'
          f'{table}</details>')


def _notes(notes) -> str:
  if not notes:
    return ''
  items = ''.join(f'<li>{_text(n)}</li>' for n in notes)
  return f'<ul class="notes" aria-label="Notes">{items}</ul>'


def _section(title, content) -> str:
  return f'<section><h2>{title}</h2>{content}</section>'


def _scroll(label, content) -> str:
  """Wide content moves inside its own box; the tab key reaches it."""
  return (f'<div class="scroll" tabindex="0" role="region" '
          f'aria-label="{label}">{content}</div>')


def _swatch(number) -> str:
  dashed = ' dashed' * (number >= chart.COLOURS)
  return f'<i class="swatch run{number % chart.COLOURS}{dashed}"></i>'


def _about(run) -> str:
  names = (run.config.get('module'), run.config.get('data.name'))
  return ' on '.join(str(n) for n in names if n)


def _text(value) -> str:
  return html.escape(str(value))


def _uri(kind, data) -> str:
  return f'data:{kind};base64,{base64.b64encode(data).decode()}'


# One sound at a time.
_SCRIPT = '''
document.addEventListener('play', e => {
  for (const a of document.querySelectorAll('audio'))
    if (a !== e.target) a.pause();
}, true);
'''

_STYLE = '''
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #fff; --ink: #1d1c22; --soft: #6a6772;
  --rule: #e3e0da; --mark: #fdeec4; --note: #fff6e0;
  --run0: #2463c4; --run1: #c2570c; --run2: #1a8a4c; --run3: #b8327f;
  --run4: #947000; --run5: #7048c4; --run6: #0b8091; --run7: #66656e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141319; --card: #1c1b23; --ink: #e9e6ee; --soft: #9a96a6;
    --rule: #312f3a; --mark: #4a3d16; --note: #2c2616;
    --run0: #6aa7fb; --run1: #fb923c; --run2: #4ade80; --run3: #f472b6;
    --run4: #facc15; --run5: #a78bfa; --run6: #2dd4dc; --run7: #b0b0bb;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1240px;
  padding: 2.5rem clamp(.75rem, 4vw, 1.5rem) 4rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 {
  font-size: .8rem; text-transform: uppercase; letter-spacing: .09em;
  color: var(--soft); margin: 3rem 0 1rem; font-weight: 600;
}
h3 { font-size: 1rem; margin: 2rem 0 .4rem; }
header p { margin: .4rem 0 0; }
header p, .hint, .step, .none, .paper { color: var(--soft); }
.hint { font-size: .85rem; margin: 0 0 1rem; }
.step { font-size: .85rem; margin: 0 0 .6rem; }
.notes {
  margin: 1.5rem 0 0; padding: .7rem 1rem .7rem 2rem; border-radius: 6px;
  background: var(--note); font-size: .9rem;
}
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 8px;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td {
  padding: .45rem .8rem; white-space: nowrap; text-align: right;
  border-top: 1px solid var(--rule); font-weight: 400;
}
tr:first-child > *, thead + tr > * { border-top: 0; }
thead th { color: var(--soft); font-size: .8rem; text-align: right;
  border-bottom: 1px solid var(--rule); }
tbody th, th.left, td.left { text-align: left; }
tbody th {
  position: sticky; left: 0; background: var(--card); font-weight: 550;
}
.paper th { font-weight: 400; font-style: italic; }
mark { background: var(--mark); color: inherit; padding: .1em .35em;
  border-radius: 4px; }
ul.legend, ul.last { list-style: none; margin: 0; padding: 0; display: flex;
  flex-wrap: wrap; gap: .2rem 1.1rem; }
ul.legend { margin-bottom: .5rem; }
ul.last { margin-top: .4rem; font-size: .85rem; color: var(--soft); }
.charts, .cards { display: grid; gap: 1rem; grid-template-columns:
  repeat(auto-fill, minmax(min(100%, var(--least)), 1fr)); }
.charts { --least: 19rem; } .cards { --least: 16rem; }
figure, .card {
  margin: 0; padding: .9rem; border: 1px solid var(--rule);
  border-radius: 8px; background: var(--card); min-width: 0;
}
figcaption { font-weight: 600; font-size: .92rem; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft);
  font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); }
.line { fill: none; stroke: currentColor; stroke-width: 1.7;
  stroke-linejoin: round; stroke-linecap: round; }
.band { fill: currentColor; opacity: .14; }
.faint .line { opacity: .45; stroke-width: 1.2; }
circle { fill: currentColor; stroke: var(--card); stroke-width: 1; }
g.dashed .line { stroke-dasharray: 5 3; }
.run0 { color: var(--run0); } .run1 { color: var(--run1); }
.run2 { color: var(--run2); } .run3 { color: var(--run3); }
.run4 { color: var(--run4); } .run5 { color: var(--run5); }
.run6 { color: var(--run6); } .run7 { color: var(--run7); }
.swatch {
  display: inline-block; width: .65em; height: .65em; border-radius: 50%;
  background: currentColor; margin-right: .5em;
}
.swatch.dashed { background: none; border: .18em solid currentColor; }
.card { padding: .6rem; }
.card img { display: block; width: 100%; height: 8rem; border-radius: 4px; }
.card audio { display: block; width: 100%; height: 2.4rem; margin-top: .5rem; }
.card p { display: flex; justify-content: space-between; margin: .4rem .3rem 0;
  font-size: .82rem; color: var(--soft); }
a { color: var(--run0); }
details { margin-top: .8rem; }
summary { cursor: pointer; font-size: .85rem; color: var(--soft);
  padding: .3rem 0; }
details[open] > summary { margin-bottom: .5rem; }
:focus-visible { outline: 2px solid var(--run0); outline-offset: 2px; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
'''


if __name__ == '__main__':
  flags.DEFINE_list('workdirs', None, 'Runs, split by commas; * is a pattern.',
                    required=True)
  flags.DEFINE_string('out', 'report.html', 'The page.')
  flags.DEFINE_string('markdown', None, 'File for the table of results.')
  flags.DEFINE_string('config', None, "Whose PAPER numbers to show.")
  flags.DEFINE_integer('samples', 4, 'How many to show of each step.',
                       lower_bound=0)
  flags.DEFINE_integer('sample_steps', 4, 'How many steps to show samples of.',
                       lower_bound=1)
  app.run(main)
