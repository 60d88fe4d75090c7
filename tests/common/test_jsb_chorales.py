import json
import pathlib
import pickle

import numpy as np
import pytest

from common import errors
from common.data import builders
from common.data.builders import base, jsb_chorales

ROOT = pathlib.Path(__file__).resolve().parents[2]
REAL = ROOT.parent / 'shared' / 'data' / 'jsb_chorales'
CONFIGS = ('16th_separated', '16th', '8th', 'quarter')
SPLITS = ('train', 'valid', 'test')

# Soprano, alto, tenor, bass; nan is a rest.
PIECE = np.array([[60, 57, 53, 41], [60, 57, 53, 41], [62, 60, np.nan, 50],
                  [np.nan] * 4], np.float16)
PIECES = {'test': [PIECE + 1], 'train': [PIECE, PIECE[:2]],
          'valid': [PIECE + 2]}


def as_lists(piece, rest=None):
  """As the published json has it: whole pieces are floats if any rests."""
  steps = [[p for p in row if not np.isnan(p)] if rest is None else
           [rest if np.isnan(p) else int(p) for p in row] for row in piece]
  if rest is None:
    steps = [[float(p) if np.isnan(piece).any() else int(p) for p in step]
             for step in steps]
  return steps


def write_npz(folder):
  arrays = {}
  for split, pieces in PIECES.items():
    arrays[split] = np.empty(len(pieces), object)
    arrays[split][:] = pieces
  np.savez_compressed(folder / 'Jsb16thSeparated.npz', **arrays)


def write_json(folder):
  (folder / 'Jsb16thSeparated.json').write_text(json.dumps(
      {s: [as_lists(p, -1) for p in pieces] for s, pieces in PIECES.items()}))
  for grid in ('16th', '8th', 'quarter'):
    (folder / f'jsb-chorales-{grid}.json').write_text(json.dumps(
        {s: [as_lists(p) for p in pieces] for s, pieces in PIECES.items()}))


def write_pkl(folder):
  for grid in ('16th', '8th', 'quarter'):
    (folder / f'jsb-chorales-{grid}.pkl').write_bytes(pickle.dumps(
        {s: [[tuple(map(np.int64, step)) for step in as_lists(p)]
             for p in pieces] for s, pieces in PIECES.items()}, 2))


def prepare(config, data_dir, manual_dir):
  builder = builders.make(f'jsb_chorales/{config}', data_dir, manual_dir)
  return builder.prepare(), {
      s: list(builders.open_split(f'jsb_chorales/{config}', s, data_dir))
      for s in SPLITS}


@pytest.fixture(scope='module')
def real(tmp_path_factory):
  if not REAL.is_dir():
    pytest.skip(f'no real chorales in {REAL}')
  folder = tmp_path_factory.mktemp('jsb')
  return {c: prepare(c, folder, REAL) for c in CONFIGS}


@pytest.mark.parametrize('write', [write_npz, write_json])
def test_voices_come_from_either_file(tmp_path, write):
  write(tmp_path)
  report, splits = prepare('16th_separated', tmp_path / 'data', tmp_path)
  assert [len(splits[s]) for s in SPLITS] == [2, 1, 1]
  first, second = splits['train']
  assert (first['id'], second['id']) == (0, 1)
  assert first['voices'].dtype == np.int16
  np.testing.assert_array_equal(first['voices'], [
      [60, 57, 53, 41], [60, 57, 53, 41], [62, 60, -1, 50], [-1] * 4])
  np.testing.assert_array_equal(splits['test'][0]['voices'][2],
                                [63, 61, -1, 51])
  # It is not the published file, and says so.
  assert any('train has 2 examples' in w and '229' in w
             for w in report['warnings'])


@pytest.mark.parametrize('write', [write_json, write_pkl])
@pytest.mark.parametrize('grid', ['16th', '8th', 'quarter'])
def test_rolls_come_from_either_file(tmp_path, write, grid):
  write(tmp_path)
  _, splits = prepare(grid, tmp_path / 'data', tmp_path)
  roll = splits['train'][0]['roll']
  assert roll.shape == (4, 88) and roll.dtype == np.uint8
  expected = [{60, 57, 53, 41}, {60, 57, 53, 41}, {62, 60, 50}, set()]
  assert [set((np.flatnonzero(row) + 21).tolist()) for row in roll] == expected
  assert roll.max() == 1
  assert [len(splits[s]) for s in SPLITS] == [2, 1, 1]


def test_the_published_files_have_the_published_counts(real):
  for config, steps_per_quarter in zip(CONFIGS, (4, 4, 2, 1), strict=True):
    report, splits = real[config]
    assert report['warnings'] == []
    assert [len(splits[s]) for s in SPLITS] == [229, 76, 77]
    assert [report['splits'][s]['steps'] for s in SPLITS] == [
        n * steps_per_quarter // 4 for n in (55_228, 18_408, 18_900)]
    for split in SPLITS:
      assert [e['id'] for e in splits[split]] == list(range(len(splits[split])))


# Lengths: shortest, median, longest; voice-steps that sound; rests; runs of
# one pitch; rests of each voice.
@pytest.mark.parametrize('split, lengths, sounding, rests, runs, by_voice', [
    ('train', (100, 228, 516), 220_501, 411, 49_300, (73, 96, 118, 124)),
    ('valid', (128, 216, 576), 73_043, 589, 15_897, (140, 144, 157, 148)),
    ('test', (128, 228, 640), 75_316, 284, 17_525, (68, 76, 72, 68)),
])
def test_the_voices_have_the_published_figures(real, split, lengths, sounding,
                                               rests, runs, by_voice):
  pieces = [e['voices'] for e in real['16th_separated'][1][split]]
  sizes = [len(p) for p in pieces]
  assert (min(sizes), np.median(sizes), max(sizes)) == lengths
  assert all(n % 4 == 0 for n in sizes)
  cells = np.concatenate(pieces)
  assert (cells >= 0).sum() == sounding and (cells < 0).sum() == rests
  assert tuple((cells < 0).sum(0)) == by_voice
  assert sum(((p >= 0) & (np.diff(p, axis=0, prepend=-2) != 0)).sum()
             for p in pieces) == runs


def test_the_voices_keep_their_ranges(real):
  cells = np.concatenate([e['voices'] for s in SPLITS
                          for e in real['16th_separated'][1][s]])
  sounding = np.ma.masked_less(cells, 0)
  assert sounding.min(0).tolist() == [60, 52, 46, 36]
  assert sounding.max(0).tolist() == [81, 74, 69, 66]


def test_trivial_models_score_what_is_known(real):
  separated, quarter = real['16th_separated'][1], real['quarter'][1]
  tokens = {s: np.concatenate([e['voices'].ravel() for e in separated[s]])
            for s in SPLITS}
  # 46 pitches and the rest, one added to each count.
  symbols = {s: np.where(t < 0, 0, t - 35) for s, t in tokens.items()}
  counts = np.bincount(symbols['train'], minlength=47) + 1
  nll = -np.log(counts / counts.sum())
  assert [round(float(nll[symbols[s]].mean()), 4) for s in SPLITS] == [
      3.3646, 3.3905, 3.4026]
  # 88 independent keys.
  train, test = (np.concatenate([e['roll'] for e in quarter[s]])
                 for s in ('train', 'test'))
  p = (train.sum(0, dtype=int) + 1) / (len(train) + 2)
  nll = -(test * np.log(p) + (1 - test) * np.log(1 - p)).sum(1)
  assert round(float(nll.mean()), 4) == 11.0614


def test_an_id_is_the_same_piece_in_all_forms(real):
  for split in SPLITS:
    for voices, sixteenths, eighths, quarters in zip(
        *(real[c][1][split] for c in CONFIGS), strict=True):
      expected = np.zeros((len(voices['voices']), 128), np.uint8)
      step, voice = np.nonzero(voices['voices'] >= 0)
      expected[step, voices['voices'][step, voice]] = 1
      np.testing.assert_array_equal(sixteenths['roll'], expected[:, 21:109])
      np.testing.assert_array_equal(eighths['roll'], sixteenths['roll'][::2])
      # Another edition in another key: most of it is there, moved.
      ours, theirs = sixteenths['roll'][::4], quarters['roll']
      assert len(ours) == len(theirs)
      assert max((np.roll(ours, by, 1) == theirs).all(1).mean()
                 for by in range(6, 18)) > 0.8


def test_the_quarter_form_is_transposed_to_c(real):
  rolls = np.concatenate([e['roll'] for s in SPLITS
                          for e in real['quarter'][1][s]])
  keys = rolls.sum(0, dtype=int)
  used = np.flatnonzero(keys) + 21
  assert (used.min(), used.max()) == (43, 96)
  assert [int(keys[(np.arange(88) + 21) % 12 == c].sum())
          for c in range(12)] == [18470, 653, 10249, 6177, 7909, 8054, 894,
                                  18670, 2990, 6143, 4488, 5305]
  assert (rolls.sum(1) == 0).sum() == 64  # Legal data, not padding.


@pytest.mark.parametrize('piece, reason', [
    ([], 'not four voices'), ([[60, 57, 53]], 'not four voices'),
    ([[60, 57, 53, 128]], 'no MIDI pitch'), ([[60, 57, 53, -2]], 'no MIDI'),
    ([[60, 57, 53, 1e300]], 'no MIDI'), ([[60.5, 57, 53, 41]], 'no MIDI'),
    ([[60, 57, 53, float('inf')]], 'no MIDI'), ('text', 'not a table'),
    (None, 'not four voices'), ([[60, 57, 53, 41], [60]], 'not a table'),
    ([[10**400, 57, 53, 41]], 'not a table'), ({'a': 1}, 'not a table'),
    ([[[60]] * 4], 'not four voices'),
])
def test_a_piece_that_has_not_four_voices_is_skipped(piece, reason):
  with pytest.raises(base.Skip, match=reason):
    jsb_chorales.voices(piece)


@pytest.mark.parametrize('piece, reason', [
    ([], 'not a list'), (None, 'not a list'), ('text', 'not a list'),
    ([60], 'not a list'), ([[60], 'x'], 'not a list'),
    ([[20]], 'no key'), ([[109]], 'no key'), ([[60.5]], 'no key'),
    ([[float('nan')]], 'no key'), ([['x']], 'not a table'),
    ([[[60, 61]]], 'no key'), ([[{}]], 'not a table'),
    ([[10**400]], 'not a table'),
])
def test_a_piece_that_is_no_roll_is_skipped(piece, reason):
  with pytest.raises(base.Skip, match=reason):
    jsb_chorales.roll(piece)


def test_a_broken_piece_is_reported_and_the_others_are_kept(tmp_path):
  pieces = {s: [[[60]], [[200]], 7] for s in SPLITS}
  (tmp_path / 'jsb-chorales-8th.json').write_text(json.dumps(pieces))
  report, splits = prepare('8th', tmp_path / 'data', tmp_path)
  assert [len(splits[s]) for s in SPLITS] == [1, 1, 1]
  assert report['splits']['test']['skipped'] == {
      'a number that is no key of a piano': 1,
      'not a list of pitches at each step': 1}


@pytest.mark.parametrize('name, content', [
    ('quarter.json', b''), ('quarter.json', b'[1, 2]'),
    ('quarter.json', b'\xff'),
    ('quarter.json', b'[' * 10**5), ('quarter.json', b'{"train": 3}'),
    ('quarter.json', b'{"test": []}'),
    ('quarter.pkl', b''), ('quarter.pkl', b'cos\nsystem\n(S"touch ran"\ntR.'),
    ('quarter.pkl', pickle.dumps({'train': {'a': 1}})),
])
def test_a_file_that_is_not_the_published_one_is_named(tmp_path, monkeypatch,
                                                       name, content):
  monkeypatch.chdir(tmp_path)
  (tmp_path / f'jsb-chorales-{name}').write_bytes(content)
  with pytest.raises(errors.UserError, match=(
      r'is not the published file: .*download it again from https://github')):
    prepare('quarter', tmp_path / 'data', tmp_path)
  assert not (tmp_path / 'ran').exists()


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(errors.UserError, match=(
      r'Jsb16thSeparated\.npz is not in .*; download it \(0\.1 MB\) from '
      r'https://github\.com/czhuang')):
    prepare('16th_separated', tmp_path / 'data', tmp_path)
