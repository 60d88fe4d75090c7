"""Phases, their unwrapping, and the frequency they imply.

Shapes: T frames, F bins; all functions are along the frames of [..., T, F].
Instantaneous frequency is the wrapped advance of the phase from one frame to
the next in units of pi, so within [-1, 1], as in GANSynth; it is not an offset
from the centre of the bin. Bins whose values are real jump by exactly pi:
there it is 1 or -1 as rounding has it, which is the same phase.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def angle(spec):
  """Phase in (-pi, pi] of a complex spectrum; 0, gradient 0, at silence.

  jnp.angle has a NaN there, and on a CPU takes thirty times as long.
  """
  return _arctan2(spec.imag, spec.real)


@jax.custom_jvp
def _arctan2(y, x):
  """To 3e-7 of the exact angle; the sign of a zero counts for nothing."""
  high = jnp.maximum(jnp.abs(x), jnp.abs(y))
  low = jnp.minimum(jnp.abs(x), jnp.abs(y))
  ratio = low / jnp.where(high == 0, 1.0, high)  # In [0, 1].
  # atan(r) = pi/4 + atan((r - 1) / (r + 1)); within tan(pi/8) of 0 the
  # polynomial of the Cephes library for float32.
  steep = ratio > 0.41421356
  u = jnp.where(steep, (ratio - 1) / (ratio + 1), ratio)
  z = u * u
  a = u + u * z * (((0.0805374449538 * z - 0.138776856032) * z
                    + 0.199777106478) * z - 0.333329491539)
  a = jnp.where(steep, a + np.pi / 4, a)
  a = jnp.where(jnp.abs(y) > jnp.abs(x), np.pi / 2 - a, a)
  a = jnp.where(x < 0, np.pi - a, a)
  return jnp.where(y < 0, -a, a)


@_arctan2.defjvp
def _arctan2_jvp(primals, tangents):
  (y, x), (dy, dx) = primals, tangents
  square = x * x + y * y
  # The derivative is of size 1 / |spec|: it would overflow below this.
  silent = square < 1e-36
  slope = jnp.where(silent, 0.0, 1.0 / jnp.where(silent, 1.0, square))
  return _arctan2(y, x), (x * dy - y * dx) * slope


def wrap(x):
  """x minus whole turns, in [-pi, pi]: pi stays pi, and -pi stays -pi."""
  wrapped = x - 2 * np.pi * jnp.floor((x + np.pi) / (2 * np.pi))
  return jnp.where((wrapped <= -np.pi) & (x > 0), jnp.float32(np.pi), wrapped)


def unwrap(phase):
  """np.unwrap: whole turns added so that no step exceeds pi."""
  phase = jnp.asarray(phase, jnp.float32)
  step = jnp.diff(phase, axis=-2)
  turns = jnp.cumsum(wrap(step) - step, axis=-2)
  return phase + _behind(jnp.zeros_like(phase[..., :1, :]), turns)


def instantaneous_frequency(phase):
  """[..., T, F] in units of pi; frame 0 keeps its phase."""
  phase = jnp.asarray(phase, jnp.float32)
  # The difference of the unwrapped phase is the wrapped difference. Without
  # the sum in between nothing is lost to rounding.
  return _behind(phase[..., :1, :], wrap(jnp.diff(phase, axis=-2))) / np.pi


def integrate(frequency):
  """The phase, within [-pi, pi], of an instantaneous frequency."""
  frequency = jnp.asarray(frequency, jnp.float32)
  # Wrapped after each sum: a plain float32 sum of 4,000 frames is off by 2e-3
  # radians, and by a hundred times that one after another.
  return lax.associative_scan(
      lambda a, b: wrap(a + b), frequency * np.pi, axis=-2)


def polar(magnitude, phase):
  """Complex64 of both."""
  return lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))


def _behind(first, rest):
  return jnp.concatenate([first, rest], -2)
