import html.parser
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from common import audio, errors, image, midi, report

CONFIG = {'module': 'family.net', 'steps': 40, 'seed': 0, 'dtype': 'float32',
          'data': {'name': 'notes/tiny', 'sample_rate': 16000},
          'model': {'beta': 1.0, 'note': '</td><script>x=1</script>&'}}


def fabricate(folder, kind, seed=0, done=True):
  """A workdir with curves, samples at three steps, and a torn last line."""
  rng = np.random.default_rng(seed)
  samples = folder / 'samples'
  samples.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps({**CONFIG, 'seed': seed}))
  lines = [{'step': s, 'loss/nll': 3 / s + 0.1 * rng.random(),
            'loss/adversarial': float(rng.standard_normal())}
           for s in range(1, 41)]
  lines += [{'step': s, 'eval/nll': 3 / s, 'eval/accuracy': 1 - 1 / s}
            for s in (20, 40)]
  (folder / 'metrics.jsonl').write_text(
      ''.join(json.dumps(x) + '\n' for x in lines) + '{"step": 41, "lo')
  (folder / 'timing.jsonl').write_text(
      '{"step": 1, "time/first_step_s": 7.0}\n'
      + ''.join(f'{{"step": {s}, "time/step_s": 0.25}}\n' for s in (20, 40)))
  if done:
    (folder / 'results_test.json').write_text(json.dumps(
        {'step': 40, 'rows': 7,
         'metrics': {'eval/nll': 0.0751 + seed, 'eval/accuracy': 0.975}}))
  for step in (10, 20, 40):
    for i in range(2):
      stem = samples / f'{step:06d}_{i:02d}'
      if kind == 'audio':
        wave = 0.3 * np.sin(np.arange(8000) * 0.1 * (i + 1))
        audio.write(f'{stem}.wav', wave, 16000)
        picture = image.spectrogram(wave, 16000)
      else:
        roll = np.zeros((8, 128, 1), np.uint8)
        roll[i:, 60 + i] = 100
        midi.write(f'{stem}.mid', midi.from_roll(roll, 0.25, (0,)))
        picture = image.roll(roll)
      stem.with_suffix('.png').write_bytes(image.png(picture))
  return folder


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  top = tmp_path_factory.mktemp('runs')
  return [fabricate(top / 'wave & <i>', 'audio'),
          fabricate(top / 'notes', 'midi', seed=1, done=False)]


@pytest.fixture(scope='module')
def page(folders):
  return report.page(report.read(folders), {}, samples=4, sample_steps=4)


class Page(html.parser.HTMLParser):
  """Elements and text of a page; fails where tags do not match."""

  VOID = ('meta', 'img', 'br', 'hr', 'link', 'input', 'path', 'circle')

  def __init__(self, text):
    super().__init__()
    self.elements, self.open, self.text = [], [], ''
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    self.open.append(tag)
    if tag in ('meta', 'img'):
      self.open.pop()

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] not in ('script', 'style'):
      self.text += data + '\n'

  def all(self, tag):
    return [attrs for name, attrs in self.elements if name == tag]


def test_page_is_whole_html_and_needs_nothing_else(page):
  found = Page(page)
  links = [attrs[k] for _, attrs in found.elements
           for k in ('src', 'href', 'xlink:href', 'action') if k in attrs]
  assert links and all(link.startswith('data:') for link in links)
  assert 'url(' not in page and '@import' not in page
  assert not found.all('link')
  assert not [a for a in found.all('script') if a]


def test_page_shows_every_metric_and_its_numbers(page):
  text = Page(page).text
  for name in ('eval/nll', 'eval/accuracy', 'nll', 'accuracy',
               'loss/adversarial', 'time/step_s', '0.0751', '0.975', '40',
               'not run'):
    assert re.search(rf'^{re.escape(name)}$', text, re.M), name
  assert 'time/first_step_s' not in text  # One number is no curve.
  assert text.count('family.net on notes/tiny') == 3  # Heading and two rows.


def test_training_and_evaluation_share_a_figure(page):
  labels = {a['aria-label'].partition(' over ')[0]: a['aria-label']
            for a in Page(page).all('svg')}
  assert set(labels) == {'nll', 'accuracy', 'loss/adversarial', 'time/step_s'}
  for run in ('wave & <i>', 'notes'):
    assert f'{run}, training ends at' in labels['nll']
    assert f'{run}, evaluation ends at 0.075, step 40' in labels['nll']


def test_strings_from_files_are_escaped(page):
  assert 'x=1' in Page(page).text
  assert '<script>x=1' not in page and '<i>' not in page.replace(
      '<i class=', '')


def test_pictures_and_sounds_are_labelled(page):
  found = Page(page)
  alts = [a['alt'] for a in found.all('img')]
  assert len(alts) == 12
  assert 'Spectrogram of sample 00 of wave & <i>, step 40' in alts
  assert 'Piano roll of sample 01 of notes, step 10' in alts
  assert len([a for a in found.all('audio') if a['aria-label']]) == 12
  assert len([a for a in found.all('a') if a['download'].endswith('.mid')]) == 6


def test_newest_samples_are_open_and_earlier_ones_folded(page):
  wave = page[page.index('<h3>'):page.rindex('<h3>')]
  newest, *earlier = wave.split('<details>')
  assert 'step 40' in newest and 'step 20' not in newest
  assert ['step 20' in e for e in earlier] == [True, False]


def test_torn_and_missing_files_are_noted(page):
  text = Page(page).text
  assert text.count('metrics.jsonl: 1 of 43 lines cannot be read') == 2


def test_broken_sound_leaves_the_rest_of_the_page(folders, tmp_path):
  copy = shutil.copytree(folders[1], tmp_path / 'run')
  (copy / 'samples' / '000040_00.mid').write_bytes(b'MThd rubbish')
  text = report.page(report.read([copy]), {}, 4, 4)
  found = Page(text)
  assert len(found.all('audio')) == 5
  assert '000040_00.mid is not a valid MIDI file' in found.text


def test_no_more_samples_than_asked_for(folders):
  found = Page(report.page(report.read(folders), {}, samples=1,
                           sample_steps=2))
  steps = [re.search(r'step (\d+)', a['alt'])[1] for a in found.all('img')]
  assert steps == ['40', '10'] * 2
  assert '(1 more in the folder)' in found.text


def test_settings_that_differ_from_the_first_run_are_marked(page):
  marked = re.findall(r'<mark>(.*?)</mark>', page)
  assert marked == ['1']  # The second run's seed.
  assert '7 settings that all runs share' in Page(page).text


def test_nothing_finite_and_nothing_at_all_still_make_a_page(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  text = Page(report.page(report.read([tmp_path]), {}, 4, 4)).text
  assert 'metrics.jsonl is missing' in text and 'No samples.' in text
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "loss": NaN}\n')
  text = Page(report.page(report.read([tmp_path]), {}, 4, 4)).text
  assert 'No finite value.' in text and '(some are not finite)' in text


def test_markdown_has_a_row_per_run_and_per_paper_entry(folders):
  paper = {'base': {'eval/nll': 0.07, 'eval/fid': 3.0}}
  table = report.markdown(report.read(folders), paper)
  head, rule, *rows = [[c.strip() for c in line.strip('|').split('|')]
                       for line in table.splitlines()]
  assert head == ['run', 'config', 'step', 'split', 'steps/s', 'eval/nll',
                  'eval/fid', 'eval/accuracy']
  assert all(set(c) <= set('-:') for c in rule)
  about = 'family.net on notes/tiny'
  assert rows == [
      ['wave & <i>', about, '40', 'test', '4', '0.0751', 'not run', '0.975'],
      ['notes', about, '40', 'not run', '4', 'not run', 'not run', 'not run'],
      ['paper, base', '', '', '', '', '0.07', '3', '–']]


def test_an_unfinished_run_says_how_far_it_is(folders, tmp_path):
  copy = shutil.copytree(folders[1], tmp_path / 'run')
  (copy / 'config.json').write_text(json.dumps({**CONFIG, 'steps': 12000}))
  assert '| 40 of 12,000 |' in report.markdown(report.read([copy]), {})


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
  for ablation in ('base', 'beta_0'):
    fabricate(tmp_path / ablation / 'seed_0', 'audio')
  runs = report.read([f'{tmp_path}/*/seed_*'])
  assert list(runs) == ['base/seed_0', 'beta_0/seed_0']
  assert list(report.read([f'{tmp_path}/base/seed_0'] * 2)) == ['seed_0']


@pytest.mark.parametrize('paths, message', [
    ([], 'empty'), (['nowhere'], "no folder 'nowhere'"),
    (['.'], 'not a workdir')])
def test_folders_that_cannot_be_read_are_refused(
    paths, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.UserError, match=message):
    report.read(paths)


MEASURE = '''<script>
addEventListener('load', () => setTimeout(() => parent.postMessage(
  JSON.stringify({
    width: innerWidth, scroll: document.documentElement.scrollWidth,
    sounds: [...document.querySelectorAll('audio')].map(a => a.duration),
    pictures: [...document.images].map(i => i.naturalWidth)}), '*'), 500));
</script></body>'''
FRAME = '''<!doctype html><iframe src="page.html" width="%d" height="800"
style="border: 0"></iframe><pre id="measured"></pre><script>
addEventListener('message', e => measured.textContent = e.data);</script>'''


@pytest.mark.skipif(not shutil.which('chromium'), reason='needs chromium')
@pytest.mark.parametrize('width', [360, 1280])
def test_a_browser_plays_and_shows_it_all_within_its_width(
    page, tmp_path, width):
  (tmp_path / 'page.html').write_text(page.replace('</body>', MEASURE))
  # A window cannot be as narrow as a phone; a frame can.
  (tmp_path / 'frame.html').write_text(FRAME % width)
  dom = subprocess.run(
      ['chromium', '--headless', '--no-sandbox', '--disable-gpu',
       '--disable-quic', '--no-first-run', '--disable-background-networking',
       '--disable-component-update', '--disable-sync',
       f'--user-data-dir={tmp_path / "profile"}',
       '--virtual-time-budget=4000', '--window-size=1400,900', '--dump-dom',
       f'file://{tmp_path / "frame.html"}'], capture_output=True, text=True,
      check=True, timeout=120, env={**os.environ, 'HOME': str(tmp_path)})
  measured = json.loads(
      re.search('<pre id="measured">(.+?)</pre>', dom.stdout)[1])
  assert measured['width'] == width
  assert measured['scroll'] <= width
  assert len(measured['pictures']) == 12 and min(measured['pictures']) > 0
  assert len(measured['sounds']) == 12
  assert all(s and 0.4 < s < 10 for s in measured['sounds'])  # None: infinite.


def test_each_split_that_was_measured_has_its_row(tmp_path):
  folder = fabricate(tmp_path / 'a', 'audio')
  (folder / 'results_valid.json').write_text(json.dumps(
      {'step': 40, 'rows': 7, 'metrics': {'eval/nll': 0.0612}}))
  rows = report.markdown(report.read([folder]), {}).splitlines()[2:]
  assert ['test' in rows[0], 'valid' in rows[1]] == [True, True]
  assert '0.0751' in rows[0] and '0.0612' in rows[1] and len(rows) == 2
