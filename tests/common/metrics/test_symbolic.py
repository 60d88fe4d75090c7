"""common/metrics/symbolic.py by hand, against loops, and on Bach's chorales.

The figures of the chorales are MusPy 0.5's (notes: runs of equal pitch in a
voice, 16 steps a bar).
"""

import itertools
import json
import pathlib

import numpy as np
import pytest
from scipy import integrate, stats

from common import midi
from common.metrics import symbolic

CHORALES = (pathlib.Path(__file__).resolve().parents[4]
            / 'shared/data/jsb_chorales')
C, MAJOR, MINOR = 60, (0, 4, 7), (0, 3, 7)


def notes(*rows):
  return np.array(rows, np.int64).reshape(-1, 3)


def melody(*pitches):
  return notes(*[(i, i + 1, pitch) for i, pitch in enumerate(pitches)])


def chord(*pitches, steps=24):
  roll = np.zeros((steps, 128), bool)
  roll[:, list(pitches)] = True
  return roll


def triad(root, kind):
  return [root + x for x in kind]


def row(*lengths, gap=1):
  """Notes of one pitch, one after the other."""
  sounds = np.concatenate([[True] * n + [False] * gap for n in lengths])
  roll = np.zeros((len(sounds), 128), bool)
  roll[:, C] = sounds
  return roll


def hits(*steps, bar=96, pitch=36, length=1):
  roll = np.zeros((bar, 128), bool)
  for step in steps:
    roll[step:step + length, pitch] = True
  return roll


def random_roll(seed, steps=4 * 96, density=.02, hold=.7):
  rng = np.random.default_rng(seed)
  roll = rng.random((steps, 128)) < density
  for t in range(1, steps):
    roll[t] |= roll[t - 1] & (rng.random(128) < hold)
  return roll & (np.arange(128) >= 24) & (np.arange(128) < 108)


# ---------------------------------------------------------------- views


def test_notes_and_rolls_are_two_views_of_the_same():
  roll = random_roll(0)
  found = symbolic.notes_of(roll)
  np.testing.assert_array_equal(
      symbolic.roll_of(found), roll[:found[:, 1].max()])
  assert (np.diff(found[:, 0]) >= 0).all()
  assert roll.sum() == (found[:, 1] - found[:, 0]).sum()


def test_tracks_keep_their_notes_apart():
  a, b = chord(60, steps=8), chord(60, 64, steps=8)
  b[4, 60] = False
  np.testing.assert_array_equal(
      symbolic.notes_of(np.stack([a, b], -1)),
      notes((0, 4, 60), (0, 8, 60), (0, 8, 64), (5, 8, 60)))
  assert len(symbolic.notes_of(a | b)) == 2


def test_notes_on_a_grid_are_those_of_midi_tables():
  roll = random_roll(1)
  table = midi.from_roll(roll[..., None], .125, [0])
  np.testing.assert_array_equal(
      symbolic.on_grid(table, .125), symbolic.notes_of(roll))
  table['end_s'] = table['start_s'] + .001
  found = symbolic.on_grid(table, .125)
  assert (found[:, 1] - found[:, 0] == 1).all()


def test_floats_sound_from_a_half():
  roll = chord(60, steps=4)
  for other in (roll * .5, roll.astype(np.uint8) * 100, roll * .9 + .1):
    np.testing.assert_array_equal(
        symbolic.notes_of(other), notes((0, 4, 60)))
    assert symbolic.polyphony(other) == 1


# ---------------------------------------------------------------- notes


def test_entropy_is_in_bits_and_counts_each_note_once():
  assert symbolic.pitch_entropy(melody(*range(60, 68))) == pytest.approx(3)
  octaves = melody(60, 72, 61, 73)
  assert symbolic.pitch_entropy(octaves) == pytest.approx(2)
  assert symbolic.pitch_class_entropy(octaves) == pytest.approx(1)
  assert symbolic.pitch_class_entropy(
      notes((0, 100, 60), (100, 101, 61))) == pytest.approx(1)
  assert symbolic.pitch_entropy(melody(60, 60, 60)) == 0
  assert symbolic.pitch_class_entropy(melody(60, 60, 60, 61)) == pytest.approx(
      .811278, abs=1e-6)


def test_scales_in_any_key_are_consistent():
  for root in range(12):
    major = [root + 48 + x for x in (0, 2, 4, 5, 7, 9, 11)]
    minor = [root + 48 + x for x in (0, 2, 3, 5, 7, 8, 10)]
    assert symbolic.scale_consistency(melody(*major)) == 1
    assert symbolic.scale_consistency(melody(*minor)) == 1
  assert symbolic.scale_consistency(melody(*range(12))) == pytest.approx(7 / 12)
  harmonic_minor = melody(0, 2, 3, 5, 7, 8, 11)
  assert symbolic.scale_consistency(harmonic_minor) == pytest.approx(6 / 7)


def test_pitches_and_range():
  found = melody(60, 64, 60, 55)
  assert symbolic.pitches_used(found) == 3 and symbolic.pitch_range(found) == 9


def test_groove_counts_steps_of_neighbouring_bars_that_differ():
  first, other = [(0, 1, 60), (4, 5, 60)], [(8, 9, 60), (12, 13, 60)]
  assert symbolic.groove_consistency(
      notes(*first, *other, (15, 16, 60)), 8, 2) == 1 - 1 / 8
  # One step in bar 0, none in bar 1.
  assert symbolic.groove_consistency(
      notes((0, 1, 60), (9, 15, 60)), 8) == 1 - 2 / 8


def test_groove_has_an_empty_bar_more_after_an_end_on_the_bar_line():
  same = notes((0, 4, 60), (4, 8, 60), (8, 12, 60), (12, 16, 60))
  assert symbolic.groove_consistency(same, 8, bars=2) == 1
  assert symbolic.groove_consistency(same, 8) == 1 - (0 + 2 / 8) / 2


def test_notes_that_begin_together_are_one_onset():
  assert symbolic.groove_consistency(
      notes((0, 1, 60), (0, 1, 64), (8, 9, 60)), 8, 2) == 1


# ---------------------------------------------------------------- steps


def test_polyphony_is_over_steps_that_sound_and_its_rate_over_all():
  roll = np.zeros((8, 128), bool)
  roll[0, [60]] = roll[1, [60, 64]] = roll[2, [60, 64, 67]] = True
  assert symbolic.polyphony(roll) == 2
  assert symbolic.polyphony_rate(roll) == 1 / 8  # More than two.
  assert symbolic.polyphony_rate(roll, 1) == 2 / 8  # Two and more.


# ---------------------------------------------------------------- bars


def test_empty_bars_are_counted_and_the_code_counts_the_others():
  roll = np.concatenate([chord(60), chord(), chord(), chord(60, steps=12)])
  assert symbolic.empty_bar_rate(roll, 24) == .5
  roll = np.concatenate([chord(60), chord(), chord(60), chord(60)])
  assert symbolic.empty_bar_rate(roll, 24) == .25
  assert symbolic.empty_bar_rate(roll, 24, musegan_compat=True) == .75


def test_pitch_classes_are_counted_in_bars_that_sound():
  roll = np.concatenate([chord(48, 60, 72), chord(), chord(60, 64, 67)])
  assert symbolic.used_pitch_classes(roll, 24) == 2
  assert symbolic.used_pitch_classes(roll, 72) == 3
  high = chord(127, 115, 120)  # The last octave is not whole.
  assert symbolic.used_pitch_classes(high, 24) == 2


def test_the_code_of_musegan_counts_groups_of_seven_neighbours():
  for kind in (MAJOR, MINOR):
    roll = chord(*triad(C, kind))
    assert symbolic.used_pitch_classes(roll, 24) == 3
    assert symbolic.used_pitch_classes(roll, 24, musegan_compat=True) == 2
  for pitches, groups in ((range(24, 31), 1), (range(24, 32), 2),
                          ((107,), 1), (range(24, 108), 12)):
    assert symbolic.used_pitch_classes(
        chord(*pitches), 24, musegan_compat=True) == groups
  assert np.isnan(symbolic.used_pitch_classes(
      chord(23, 108), 24, musegan_compat=True))  # Not among its pitches.


@pytest.mark.parametrize('lengths', [(4, 1, 4, 2), (24, 2, 1, 3)])
def test_notes_of_two_steps_qualify_and_of_three_in_the_paper(lengths):
  roll = row(*lengths)
  assert symbolic.qualified_notes(roll, len(roll)) == .75
  assert symbolic.qualified_notes(roll, len(roll), 3) == .5


def test_notes_are_cut_at_bar_lines_and_bars_count_alike():
  roll = np.concatenate([hits(3, bar=4), hits(0, bar=4), hits(bar=4),
                         hits(0, 2, bar=4, length=2)])
  roll[2, 36] = True  # Steps 2 to 4: a note of three, cut to two and one.
  assert symbolic.qualified_notes(roll, len(roll)) == 1
  assert symbolic.qualified_notes(roll, 4) == (1 + 0 + 1) / 3
  assert symbolic.qualified_notes(roll, 4, 3) == (0 + 0 + 1) / 3


def test_in_the_code_of_musegan_all_notes_qualify():
  # A step is 84 long; by hand: on and off of one note are 84 apart.
  assert symbolic.qualified_notes(
      row(1, 1, 1), 8, threshold=84, musegan_compat=True) == 1
  assert symbolic.qualified_notes(
      row(1, 1, 1), 8, threshold=85, musegan_compat=True) == 0
  # Its lowest pitch is not counted where the music begins.
  lowest = hits(0, 4, pitch=24, bar=8)
  assert symbolic.qualified_notes(lowest, 8, musegan_compat=True) == 2 / 1
  roll = random_roll(2, density=.005, hold=0)
  assert symbolic.qualified_notes(roll, 96) < .02
  assert symbolic.qualified_notes(roll, 96, musegan_compat=True) > .95


def test_the_mask_of_drums_is_that_of_the_released_code():
  np.testing.assert_array_equal(
      symbolic.drum_mask(96, .3), np.tile([1, .3, 0, 0, 0, .3], 16))
  assert symbolic.drum_mask(96, .3).sum() == pytest.approx(25.6)
  assert symbolic.drum_mask(96, .1).sum() == pytest.approx(19.2)
  np.testing.assert_array_equal(
      symbolic.drum_mask(48, .1, 3), np.tile([1, .1, .1], 16))
  np.testing.assert_array_equal(
      symbolic.drum_mask(64, .1, 4), np.tile([1, .1, 0, .1], 16))
  np.testing.assert_array_equal(
      symbolic.drum_mask(32, .1, 2), np.tile([1, .1], 16))


def test_drums_on_sixteenths_keep_to_the_pattern():
  assert symbolic.drum_pattern(hits(*range(0, 96, 6)), 96) == 1
  triplets = hits(*range(0, 96, 8))
  assert symbolic.drum_pattern(triplets, 96) == pytest.approx(1 / 3)
  assert symbolic.drum_pattern(triplets, 96, .1) == pytest.approx(1 / 3)
  even = sum(hits(i, pitch=i) for i in range(96)) > 0  # An onset in each step.
  assert symbolic.drum_pattern(even, 96) == pytest.approx(25.6 / 96)
  assert symbolic.drum_pattern(even, 96, .1) == pytest.approx(.2)


def test_drums_may_be_late_as_long_as_all_are():
  late = hits(*range(2, 96, 6))
  assert symbolic.drum_pattern(late, 96) == 1
  assert symbolic.drum_pattern(late, 96, .1, musegan_compat=True) == 0
  by_one = hits(*range(1, 96, 6))
  assert symbolic.drum_pattern(by_one, 96, .1, musegan_compat=True) == (
      pytest.approx(.1))


def test_the_code_of_musegan_counts_steps_in_which_a_drum_is_on():
  held = hits(*range(0, 96, 6), length=2)
  assert symbolic.drum_pattern(held, 96) == 1
  assert symbolic.drum_pattern(held, 96, .1, musegan_compat=True) == (
      pytest.approx((1 + .1) / 2))
  assert symbolic.drum_pattern(hits(), 96, musegan_compat=True) == 0


def test_bars_of_drums_count_alike_and_silent_ones_do_not():
  roll = np.concatenate([hits(*range(0, 96, 6)), hits(), hits(0, 3)])
  assert symbolic.drum_pattern(roll, 96) == pytest.approx((1 + .5) / 2)


@pytest.mark.parametrize('interval, want', list(enumerate(
    [0, 2.545987, 2.398, 2, 1.936492, 1.737225, 2.828427, 1.737225, 1.936492,
     2, 2.398, 2.545987])))
def test_tonal_distance_of_two_pitch_classes(interval, want):
  for octave in (0, 24):
    assert symbolic.tonal_distance(
        chord(C), chord(C + interval - octave), 24) == pytest.approx(
            want, abs=5e-4 if interval in (2, 10) else 1e-6)


def test_tonal_distance_of_triads():
  c = chord(*triad(C, MAJOR))
  for root, kind, want, digits in (
      (C + 7, MAJOR, 1.213352, 1e-6), (C - 3, MINOR, .799305, 1e-6),
      (C + 6, MAJOR, 1.970, 5e-4)):
    assert symbolic.tonal_distance(
        c, chord(*triad(root, kind)), 24) == pytest.approx(want, abs=digits)
  assert symbolic.tonal_distance(c, chord(C), 24) == pytest.approx(
      1.029, abs=5e-4)
  assert symbolic.tonal_distance(c, chord(C + 4, C + 19, C), 24) == (
      pytest.approx(0, abs=1e-12))


def test_matched_bass_and_guitar_are_near_in_harmony_but_not_by_the_code():
  right, wrong = [], []
  for root in range(28, 40):  # Bass E1 to D#2.
    for kind in (MAJOR, MINOR):
      bass, guitar = chord(root, steps=96), chord(
          *triad(root + 24, kind), steps=96)
      right.append(symbolic.tonal_distance(bass, guitar, 24))
      wrong.append(symbolic.tonal_distance(bass, guitar, 24, True))
  assert np.mean(right) == pytest.approx(1.05, abs=5e-3)
  assert np.mean(wrong) > 1.3


def test_beats_without_one_of_the_tracks_are_skipped_or_drop_the_bar():
  a = np.concatenate([chord(C)] * 8)
  b = np.concatenate([chord(), *[chord(C + 7)] * 3, *[chord(C)] * 4])
  assert symbolic.tonal_distance(a, b, 24) == pytest.approx(
      3 * 1.737225 / 7, abs=1e-6)
  assert symbolic.tonal_distance(a, b, 24, musegan_compat=True) == 0
  assert np.isnan(symbolic.tonal_distance(a[:96], b[:96], 24, True))
  with pytest.raises(ValueError, match='8 and 4 beats'):
    symbolic.tonal_distance(a, b[:96], 24)


@pytest.mark.parametrize('seed', range(3))
def test_metrics_of_bars_equal_loops_as_in_the_code_of_the_paper(seed):
  a, b = random_roll(seed), random_roll(seed + 10)
  a[96:192] = False
  b[200:230] = False
  shares, patterns, classes, groups, tonal, bad_tonal = [], [], [], [], [], []
  mask = [1, .3, 0, 0, 0, .3] * 16
  for bar in range(4):
    x, y = (r[96 * bar:96 * (bar + 1)].astype(int) for r in (a, b))
    for fold, found, whole in ((lambda p: p % 12, tonal, False),
                               (lambda p: (p - 24) // 7, bad_tonal, True)):
      beats = []
      for beat in range(0, 96, 24):
        centres = []
        for z in (x, y):
          chroma = np.zeros(12)
          for p in np.nonzero(z[beat:beat + 24])[1]:
            chroma[fold(p)] += 1
          phi = lambda k: np.array([
              np.sin(k * 7 / 6 * np.pi), np.cos(k * 7 / 6 * np.pi),
              np.sin(k * 1.5 * np.pi), np.cos(k * 1.5 * np.pi),
              np.sin(k * 2 / 3 * np.pi) / 2, np.cos(k * 2 / 3 * np.pi) / 2])
          if chroma.any():
            centres.append(sum(c * phi(k) for k, c in enumerate(chroma))
                           / chroma.sum())
        if len(centres) == 2:
          beats.append(np.linalg.norm(centres[0] - centres[1]))
      if not whole:
        found += beats
      elif len(beats) == 4:
        found.append(np.mean(beats))
    if not x.any():
      continue
    used = np.flatnonzero(x.any(0))
    classes.append(len({p % 12 for p in used}))
    groups.append(len({(p - 24) // 7 for p in used}))
    lengths, onsets = [], []
    for p in used:
      t = 0
      for on, run in itertools.groupby(x[:, p]):
        n = len(list(run))
        if on:
          lengths.append(n)
          onsets.append(t)
        t += n
    shares.append(np.mean([n >= 2 for n in lengths]))
    patterns.append(max(sum(mask[t - r] for t in onsets) for r in range(6))
                    / len(onsets))
  for got, want in (
      (symbolic.empty_bar_rate(a, 96), .25),
      (symbolic.used_pitch_classes(a, 96), np.mean(classes)),
      (symbolic.used_pitch_classes(a, 96, True), np.mean(groups)),
      (symbolic.qualified_notes(a, 96), np.mean(shares)),
      (symbolic.drum_pattern(a, 96), np.mean(patterns)),
      (symbolic.tonal_distance(a, b, 24), np.mean(tonal)),
      (symbolic.tonal_distance(a, b, 24, True), np.mean(bad_tonal))):
    assert got == pytest.approx(want, rel=1e-12)


def test_silence_has_no_value():
  none, silent = notes(), np.zeros((96, 128), bool)
  for value in (
      symbolic.pitch_entropy(none), symbolic.pitch_class_entropy(none),
      symbolic.scale_consistency(none), symbolic.groove_consistency(none, 16),
      symbolic.polyphony(silent), symbolic.used_pitch_classes(silent, 96),
      symbolic.qualified_notes(silent, 96), symbolic.drum_pattern(silent, 96),
      symbolic.qualified_notes(silent, 96, musegan_compat=True),
      symbolic.tonal_distance(silent, silent, 24),
      symbolic.polyphony_rate(silent[:0]),
      symbolic.empty_bar_rate(silent[:0], 96)):
    assert np.isnan(value)
  assert symbolic.empty_bar_rate(silent, 96) == 1
  assert symbolic.polyphony_rate(silent) == 0
  assert symbolic.pitches_used(none) == symbolic.pitch_range(none) == 0
  assert symbolic.notes_of(silent).shape == (0, 3)
  assert symbolic.roll_of(none).shape == (0, 128)


# ---------------------------------------------------------------- two sets


@pytest.fixture(scope='module')
def sets():
  rng = np.random.default_rng(0)
  return rng.normal(0, 1, 120), rng.normal(1.5, 2, 80)


def test_overlapping_area_is_the_integral_of_the_smaller_density(sets):
  a, b = sets
  p, q = stats.gaussian_kde(a), stats.gaussian_kde(b)
  low, high = min(a.min(), b.min()), max(a.max(), b.max())
  want, _ = integrate.quad(lambda x: min(p(x)[0], q(x)[0]), low, high)
  assert symbolic.overlapping_area(a, b) == pytest.approx(want, abs=1e-5)
  assert symbolic.overlapping_area(b, a) == pytest.approx(want, abs=1e-5)


def test_overlap_of_known_densities():
  # Two numbers 1 apart: Scott's bandwidth is 2 ** -.2 of their deviation.
  a, sd = np.array([0., 1.]), 2 ** -.2 * np.sqrt(.5)
  want = stats.norm.cdf(1 / sd) - stats.norm.cdf(-1 / sd)
  assert symbolic.overlapping_area(a, a) == pytest.approx(want / 2, abs=1e-6)
  assert symbolic.overlapping_area(a, a + 100) < 1e-9


def test_equal_sets_overlap_and_do_not_diverge(sets):
  a, b = sets
  between = stats.gaussian_kde(a).integrate_box_1d(a.min(), a.max())
  assert symbolic.overlapping_area(a, a) == pytest.approx(between, abs=1e-5)
  assert between > .95
  assert symbolic.divergence(a, a) == 0
  assert symbolic.divergence(a, b) > .1


def test_divergence_is_on_one_grid_and_mgeval_has_two(sets):
  a, b = sets
  p, q = stats.gaussian_kde(a), stats.gaussian_kde(b)
  grid = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 1000)
  assert symbolic.divergence(a, b) == pytest.approx(
      stats.entropy(p(grid), q(grid)), rel=1e-9)
  one, other = (np.linspace(x.min(), x.max(), 1000) for x in sets)
  assert symbolic.divergence(a, b, mgeval_compat=True) == pytest.approx(
      stats.entropy(p(one), q(other)), rel=1e-9)
  # It does not see a shift, not even one that leaves nothing in common.
  assert symbolic.divergence(a, a + 50, mgeval_compat=True) == pytest.approx(
      0, abs=1e-9)
  far = symbolic.divergence(a, a + 50)
  assert np.isfinite(far) and far > 10


def test_a_set_without_spread_has_no_density():
  for f in (symbolic.overlapping_area, symbolic.divergence):
    assert np.isnan(f([1., 1, 1], [0., 1, 2]))
    assert np.isnan(f([0., 1, 2], [3.]))


def test_distances_within_a_set_and_to_another():
  a, b = np.array([[0., 0], [3, 4], [0, 1]]), np.array([[0., 0], [6, 8]])
  np.testing.assert_allclose(
      symbolic.distances(a), [5, 1, 5, 18 ** .5, 1, 18 ** .5])
  np.testing.assert_allclose(
      symbolic.distances(a, b), [0, 10, 5, 5, 1, 85 ** .5])


# ---------------------------------------------------------------- chorales


@pytest.fixture(scope='module')
def chorales():
  path = CHORALES / 'Jsb16thSeparated.json'
  if not path.exists():
    pytest.skip(f'the chorales are not in {CHORALES}')
  return json.loads(path.read_text())


def figures(piece):
  voices = np.array(piece)  # [T, 4], -1 for rests.
  tracks = voices[:, None] == np.arange(128)[:, None]
  roll, found = tracks.any(-1), symbolic.notes_of(tracks)
  return [len(voices), len(found), symbolic.pitches_used(found),
          symbolic.used_pitch_classes(roll, len(roll)),
          symbolic.pitch_range(found), symbolic.pitch_entropy(found),
          symbolic.pitch_class_entropy(found),
          symbolic.scale_consistency(found), symbolic.polyphony(roll),
          symbolic.polyphony_rate(roll), symbolic.groove_consistency(found, 16)]


@pytest.mark.parametrize('split, want', [
    ('test', [228, 197, 24, 8, 39, 4.344900, 2.834435, .989848, 3.850877, 1,
              .825893]),
    ('train', [192, 151, 26, 9, 36, 4.414790, 2.927375, .966887, 3.9375, 1,
               .770833])])
def test_first_chorales_have_the_figures_of_muspy(chorales, split, want):
  np.testing.assert_allclose(figures(chorales[split][0]), want, atol=6e-7)


@pytest.mark.parametrize('split, want', [
    ('train', [215.284, 3.02909, .92496, 3.91952, .99792, .80199]),
    ('valid', [209.171, 3.02555, .92699, 3.91344, .99293, .80332]),
    ('test', [227.597, 3.02588, .92972, 3.92306, .99654, .80227])])
def test_splits_of_chorales_have_the_means_of_muspy(chorales, split, want):
  means = np.mean([figures(piece) for piece in chorales[split]], 0)
  assert means[1] == pytest.approx(want[0], abs=6e-4)
  np.testing.assert_allclose(means[6:], want[1:], rtol=0, atol=6e-6)


@pytest.mark.parametrize('grid, want', [('16th', 3.4135), ('quarter', 3.1834)])
def test_entropy_over_steps_is_another_number(grid, want):
  path = CHORALES / f'jsb-chorales-{grid}.json'
  if not path.exists():
    pytest.skip(f'the chorales are not in {CHORALES}')
  splits = json.loads(path.read_text())
  pitches = [int(p) for split in splits.values() for piece in split
             for step in piece for p in step]
  assert symbolic.pitch_class_entropy(melody(*pitches)) == pytest.approx(
      want, abs=6e-5)
