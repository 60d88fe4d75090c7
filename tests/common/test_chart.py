from xml.etree import ElementTree

import numpy as np
import pytest

from common import chart


def parse(lines, title='loss'):
  return ElementTree.fromstring(chart.svg(title, lines))


def line(values, steps=None, **kwargs):
  values = np.asarray(values, np.float64)
  steps = np.arange(len(values)) if steps is None else np.asarray(steps)
  return chart.Line('a', 0, steps, values, **kwargs)


def dots(svg):  # [N, 2], in pixels.
  return np.array([[float(c.get('cx')), float(c.get('cy'))]
                   for c in svg.iter('circle')])


def vertical(svg):
  """{text of a tick: its height in pixels}."""
  grid = [float(p.get('d').split()[1].partition('H')[0])
          for p in svg.iter('path') if p.get('class') == 'grid']
  names = [t.text for t in svg.iter('text') if t.get('text-anchor') == 'end']
  return dict(zip(names, grid, strict=True))


def horizontal(svg):
  return {t.text: float(t.get('x')) for t in svg.iter('text')
          if t.get('text-anchor') == 'middle'}


def test_values_stand_at_the_ticks_that_name_them():
  svg = parse([line([0.0, 1.0, 2.0, 4.0], [0, 1000, 2000, 4000], marked=True)])
  ticks, steps = vertical(svg), horizontal(svg)
  for (x, y), value in zip(dots(svg), [0, 1, 2, 4], strict=True):
    assert y == ticks[str(value)]
    if value < 4:  # The last name is moved into the picture.
      assert x == pytest.approx(steps[f'{value}k' if value else '0'], abs=0.1)


def test_a_wide_positive_range_is_logarithmic():
  svg = parse([line([1e-2, 1e-1, 1.0, 10.0, 100.0], marked=True)])
  assert list(vertical(svg)) == ['0.01', '0.1', '1', '10', '100']
  np.testing.assert_allclose(np.diff(dots(svg)[:, 1], 2), 0, atol=0.11)
  assert 'logarithmic' in svg.get('aria-label')


@pytest.mark.parametrize('values', [[-1e-2, 100.0], [0.0, 100.0], [1.0, 99.0]])
def test_other_ranges_are_linear(values):
  svg = parse([line(values, marked=True)])
  assert 'logarithmic' not in svg.get('aria-label')


@pytest.mark.parametrize('values', [
    [0.0], [3.0], [-2.0, -2.0], [1e-30, 2e-30], [1e20, 3e20], [5.0, 5.0 + 1e-9],
    [1e-8, 1e8]])
def test_any_values_stay_inside_the_picture(values):
  svg = parse([line(values, marked=True)])
  _, _, width, height = map(float, svg.get('viewBox').split())
  at = dots(svg)
  assert np.isfinite(at).all()
  assert (at >= 0).all() and (at <= [width, height]).all()
  names = vertical(svg)
  assert 1 <= len(names) <= 7
  assert max(map(len, names)) <= 12


@pytest.mark.parametrize('low, high', [
    (0, 1), (0, 20000), (-3.7, 12.2), (0.31, 0.32), (50, 1e6), (0, 7e-5)])
def test_ticks_are_few_round_and_even(low, high):
  ticks = chart._ticks(low, high, 5)
  assert 2 <= len(ticks) <= 6
  assert low <= ticks[0] and ticks[-1] <= high
  steps = np.diff(ticks)
  np.testing.assert_allclose(steps, steps[0])
  digit = float(f'{steps[0]:.3e}'.partition('e')[0])
  assert digit in (1, 2, 5)


def test_steps_are_named_in_thousands_and_millions():
  svg = parse([line(np.arange(5.0), np.arange(5) * 500_000)])
  assert list(horizontal(svg)) == ['0', '500k', '1M', '1.5M', '2M']


def test_a_run_that_starts_late_does_not_leave_the_picture_empty():
  svg = parse([line([1.0, 2.0], [90_000, 100_000], marked=True)])
  assert dots(svg)[0, 0] < 100


def test_long_curves_become_means_with_their_range():
  values = np.tile([0.0, 10.0], 5000)
  svg = parse([line(values)])
  paths = {p.get('class'): p.get('d') for p in svg.iter('path')}
  assert len(paths['line']) < 20 * chart._POINTS
  ticks = vertical(svg)
  points = lambda d: np.array([
      [float(v) for v in p.split()] for p in d.strip('MZ').split('L')])
  means = points(paths['line'])
  np.testing.assert_allclose(
      means[:, 1], (ticks['0'] + ticks['10']) / 2, atol=2)
  band = points(paths['band'])
  assert (band[:, 1].min(), band[:, 1].max()) == (ticks['10'], ticks['0'])


def test_every_dot_tells_its_run_step_and_value():
  svg = parse([line([0.5, 0.25], [1000, 2000], marked=True)])
  titles = [c.find('title').text for c in svg.iter('circle')]
  assert titles == ['a, step 1,000: 0.5', 'a, step 2,000: 0.25']


def test_names_are_escaped():
  run = '<b>"&'
  svg = parse([chart.Line(run, 0, np.arange(2), np.ones(2))], title=run)
  assert svg.get('aria-label').startswith(run)
  assert next(svg.iter('title')).text == run


def test_ninth_run_takes_the_first_colour_dashed():
  svg = parse([line([1.0])._replace(colour=i) for i in (0, 8)])
  first, ninth = (g.get('class').split() for g in svg.iter('g'))
  assert first == ['run', 'run0'] and ninth == ['run', 'run0', 'dashed']
