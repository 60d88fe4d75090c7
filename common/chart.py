"""Learning curves as SVG, for a page with the colours --run0 ... --run7.

Everything scales with the page; text stays text.
"""

import html
import math
from typing import NamedTuple

import numpy as np

COLOURS = 8  # Later runs take the same colours again, dashed.
_WIDTH, _HEIGHT = 360, 200
_TOP, _RIGHT, _BOTTOM = 8, 12, 24
_LETTER = 6.9  # Width of a digit of the axes' text.
_POINTS = 120  # A longer curve becomes means and a band from least to most.


class Line(NamedTuple):
  run: str
  colour: int  # Number of the run.
  steps: np.ndarray
  values: np.ndarray  # Finite.
  marked: bool = False  # A dot at each value: evaluations, which are few.


def svg(title: str, lines: list[Line]) -> str:
  """All lines over one pair of axes; the vertical one may be logarithmic."""
  values = np.concatenate([line.values for line in lines])
  steps = np.concatenate([line.steps for line in lines])
  log = bool(values.min() > 0 and values.max() > 100 * values.min())
  of = np.log10 if log else np.asarray
  low, high = _padded(of(values.min()), of(values.max()), 0.05)
  # From step 0, unless that leaves much of the picture empty.
  first = 0 if steps.min() < 0.2 * steps.max() else steps.min()
  left, right = _padded(first, steps.max(), 0.0)
  marks = _decades(low, high) if log else _ticks(low, high, 5)
  names = [_short(10.0 ** m if log else m) for m in marks]
  margin = 10 + _LETTER * max(map(len, names))
  x = lambda s: margin + (_WIDTH - _RIGHT - margin) * (s - left) / (
      right - left)
  y = lambda v: _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - of(v)) / (
      high - low)

  out = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
         f'aria-label="{html.escape(_summary(title, lines, log))}">']
  for m, name in zip(marks, names, strict=True):
    at = y(10.0 ** m if log else m)
    out.append(f'<path class="grid" d="M{margin:.1f} {at:.1f}H'
               f'{_WIDTH - _RIGHT}"/><text x="{margin - 6:.1f}" '
               f'y="{at + 4:.1f}" text-anchor="end">{name}</text>')
  for m in _ticks(left, right, 5):
    # The outermost names stay inside the picture.
    half = _LETTER * len(_thousands(m)) / 2
    at = min(x(m), _WIDTH - half)
    out.append(f'<text x="{at:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">'
               f'{_thousands(m)}</text>')
  faint = any(line.marked for line in lines)
  out += [_draw(line, x, y, faint and not line.marked) for line in lines]
  return ''.join(out) + '</svg>'


def _draw(line, x, y, faint) -> str:
  kind = f'run run{line.colour % COLOURS}'
  kind += ' dashed' * (line.colour >= COLOURS) + ' faint' * faint
  steps, mean, least, most = _thinned(line.steps, line.values)
  out = f'<g class="{kind}"><title>{html.escape(line.run)}</title>'
  if least is not None:
    band = [*zip(steps, most, strict=True),
            *zip(steps[::-1], least[::-1], strict=True)]
    out += f'<path class="band" d="{_path(band, x, y)}Z"/>'
  middle = _path(zip(steps, mean, strict=True), x, y)
  out += f'<path class="line" d="{middle}"/>'
  if line.marked or len(steps) == 1:  # A path of one point would not show.
    out += ''.join(
        f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="3"><title>'
        f'{html.escape(line.run)}, step {s:,}: {v:.6g}</title></circle>'
        for s, v in zip(line.steps, line.values, strict=True))
  return out + '</g>'


def _path(points, x, y) -> str:
  return 'M' + 'L'.join(f'{x(s):.1f} {y(v):.1f}' for s, v in points)


def _thinned(steps, values):
  if len(steps) <= _POINTS:
    return steps, values, None, None
  parts = np.array_split(values, _POINTS)
  return (np.array([s.mean() for s in np.array_split(steps, _POINTS)]),
          *(np.array([f(p) for p in parts]) for f in (np.mean, np.min, np.max)))


def _padded(low, high, share) -> tuple[float, float]:
  """The range with a margin, and never empty."""
  extra = share * (high - low) if high > low else 0.1 * abs(low) or 1.0
  return float(low - extra), float(high + extra)


def _ticks(low, high, count) -> list[float]:
  """At most `count` + 1 multiples of 1, 2 or 5 times a power of ten."""
  power = 10.0 ** math.floor(math.log10((high - low) / count))
  step = next(m * power for m in (1, 2, 5, 10)
              if high - low <= count * m * power * (1 + 1e-9))
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [float(f'{i * step:.12g}') for i in range(first, last + 1)]


def _decades(low, high) -> list[int]:
  first, last = math.ceil(low), math.floor(high)
  return list(range(first, last + 1, 1 + (last - first) // 5))


def _short(value: float) -> str:
  if value and not 1e-3 <= abs(value) < 1e5:
    mantissa, exponent = f'{value:.3e}'.split('e')
    return f'{float(mantissa):g}e{int(exponent)}'
  return f'{value:.6g}'


def _thousands(step: float) -> str:
  for size, letter in ((1e6, 'M'), (1e3, 'k')):
    if abs(step) >= size:
      return f'{step / size:g}{letter}'
  return f'{step:g}'


def _summary(title, lines, log) -> str:
  """What a reader who cannot see the curves is told."""
  last = '; '.join(f'{line.run} ends at {line.values[-1]:.4g}, step '
                   f'{line.steps[-1]:,}' for line in lines)
  return f'{title} over steps{", logarithmic" if log else ""}: {last}'
