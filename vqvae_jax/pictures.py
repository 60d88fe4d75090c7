"""Sounds as pictures for networks, and what all models of pictures share.

The settings in `config.model` that are read here:

  samples           of a sound
  representation    a name of common.spectral.representations, with its options
                    frames, bins, n_fft, hop, bands and break_hz; 0: its default
  magnitude_scale   (a, b): channel 0 is normalised as a x + b
  phase_scale       likewise of channel 1
  mask_silence      whether bins below -13 are all alike (`masked`)
  conditions        names of labels that the decoder is told: `LABELS`

Shapes: B batch, N samples, T frames, F bins or bands, C channels.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common import audio as audio_lib
from common import errors
from common.spectral import representations

# NSynth's, and what a name such as '7_theo_20.wav' begins with.
LABELS = {'pitch': 128, 'instrument_family': 11, 'digit': 10}
OPTIONS = ('frames', 'bins', 'n_fft', 'hop', 'bands', 'break_hz')
LOGARITHMS = ('log_magnitude', 'log_frequency', 'log_mel', 'gansynth_phase',
              'gansynth_if', 'gansynth_ifmel', 'ifmel', 'bazin_if',
              'bazin_ifmel')
SILENCE = float(np.log(2e-6))  # Of a magnitude of 1e-6, plus 1e-6.


@dataclasses.dataclass(frozen=True)
class Pictures:
  """Audio [B, N] to pictures [B, T, F, C] that a network can halve, and back.

  Values are normalised. The network's frames and bins may be a few more than
  the representation's, whose last ones are then repeated: `crop` removes them.
  """

  shape: tuple[int, int, int]  # (T, F, C) that the network sees.
  crop: Callable[[jax.Array], jax.Array]
  encode: Callable[[jax.Array], jax.Array]
  decode: Callable[[jax.Array], jax.Array]
  denormalise: Callable[[jax.Array], jax.Array]  # And crop.
  raw: Callable[[jax.Array], jax.Array]  # Audio to what is normalised.
  hop: int


def make(config, factor: int) -> Pictures:
  """`factor`: by how much the network divides frames and bins."""
  c = config.model
  check(config)
  rep = representations.make(
      c.representation, num_samples=c.samples,
      sample_rate=config.data.sample_rate,
      **{k: c[k] for k in OPTIONS if c.get(k)})
  frames, bins, channels = rep.shape
  size = [-(-n // factor) * factor for n in (frames, bins)]
  a, b = (jnp.array(x, jnp.float32)[None, None, None] for x in zip(
      *(c.magnitude_scale, c.phase_scale)[:channels], strict=True))

  def raw(x):
    y = rep.encode(x)
    return masked(y) if c.mask_silence else y

  def encode(x):
    y = a * raw(x) + b
    return jnp.pad(y, ((0, 0), (0, size[0] - frames), (0, size[1] - bins),
                       (0, 0)), mode='edge')

  def crop(y):
    return y[:, :frames, :bins]

  def denormalise(y):
    return (crop(y).astype(jnp.float32) - b) / a

  def decode(y):
    y = denormalise(y)
    return rep.decode(masked(y) if c.mask_silence else y)

  return Pictures((*size, channels), crop, encode, decode, denormalise, raw,
                  rep.hop)


def masked(picture, floor: float = SILENCE):
  """Log magnitudes below `floor` are `floor`, and their frequency is 0.

  Of what is not normalised. The phase of silence is noise, which a codebook
  would spend its codes on (Bazin et al. 2021, released code).
  """
  silent = picture[..., :1] < floor
  rest = jnp.where(silent, 0.0, picture[..., 1:])
  return jnp.concatenate([jnp.where(silent, floor, picture[..., :1]), rest], -1)


def check_clips(config) -> None:
  """One sentence for each setting of a sound that cannot work."""
  c = config.model
  if c.samples < 1:
    raise errors.UserError(f'model.samples={c.samples} is below 1')
  for name in c.conditions:
    if name not in LABELS:
      raise errors.UserError(
          f'model.conditions={tuple(c.conditions)}: {name!r} is not known'
          + errors.suggest(name, LABELS))


def check(config) -> None:
  """Likewise, of a sound and its picture."""
  c = config.model
  check_clips(config)
  for name in ('magnitude_scale', 'phase_scale'):
    if len(c[name]) != 2 or not c[name][0]:
      raise errors.UserError(f'model.{name}={c[name]} is not (a, b) with a '
                             'other than 0')
  if c.mask_silence and c.representation not in LOGARITHMS:
    raise errors.UserError(
        'model.mask_silence=True is for logarithms of magnitudes, which '
        f'model.representation={c.representation!r} does not have; set it to '
        f'False, or use one of {", ".join(LOGARITHMS)}')


def labels(config) -> tuple[tuple[str, int], ...]:
  """(('pitch', 128), ..): the labels in a batch."""
  return tuple((name, LABELS[name]) for name in config.model.conditions)


def preprocess(config):
  """A sound from its start, padded or cut; no change of its level."""
  c = config.model

  def fn(example, rng):
    del rng
    stored = example['audio']
    rate = example.get('sample_rate', config.data.sample_rate)
    if rate != config.data.sample_rate:
      raise errors.UserError(
          f'data.name={config.data.name!r} is at {rate} Hz; prepare it at '
          f'data.sample_rate={config.data.sample_rate}, or set that')
    full = 32768 if stored.dtype == np.int16 else 1
    audio = np.asarray(stored[:c.samples] / full, np.float32)
    if audio.ndim == 2:
      audio = audio.mean(1)
    row = {'audio': np.pad(audio, (0, c.samples - len(audio)))}
    for name in c.conditions:
      row[name] = np.int32(_label(config, example, name))
    return row

  return fn


def _label(config, example, name):
  try:
    if name == 'digit':
      return int(example['id'].decode().rpartition('/')[2][:1])
    return (example['instrument']['family'] if name == 'instrument_family'
            else example[name])
  except (KeyError, ValueError):
    raise errors.UserError(
        f'data.name={config.data.name!r} does not say the {name} of a sound; '
        'set model.conditions=() or prepare notes in the layout of nsynth/full '
        '(docs/data.md)') from None


def measure(config, examples, magnitude: float = 0.8, phase: float = 1.0
            ) -> dict[str, tuple[float, float]]:
  """The min-max normaliser of Bazin et al.: what to set in `config.model`.

  The range of channel 0 over the `examples` (stored ones) is mapped to
  [-magnitude, magnitude], that of channel 1 to [-phase, phase].
  """
  encode = jax.jit(make(config, 1).raw)
  fn = preprocess(config)
  low, high = [], []
  for example in examples:
    picture = np.asarray(encode(fn(example, None)['audio'][None]), np.float64)
    low.append(picture.min((0, 1, 2)))
    high.append(picture.max((0, 1, 2)))
  low, high = np.min(low or [[0.0]], 0), np.max(high or [[0.0]], 0)
  if not (high > low).all():
    raise errors.UserError(
        'there are no examples to measure, or one of their channels is the '
        'same everywhere; give some notes')
  out = {}
  for name, margin, lo, hi in zip(
      ('magnitude_scale', 'phase_scale'), (magnitude, phase), low, high,
      strict=False):  # Some representations have one channel.
    scale = 2 * margin / (hi - lo)
    out[name] = (float(scale), float(-margin - scale * lo))
  return out


def prompt(config, count: int, audio: str, hop: int, **given: int
           ) -> dict[str, Any]:
  """A batch of `count` rows from a sound file and labels.

  Labels that are -1 are not given. Without a sound it is then the middle C, or
  the first of the others; those of a sound only the user knows.
  """
  c, rate = config.model, config.data.sample_rate
  batch = {'index': np.arange(count, dtype=np.int32),
           'mask': np.ones(count, np.float32)}
  if audio:
    sound = audio_lib.read(audio, rate)
    if len(sound) < hop:
      raise errors.UserError(
          f'--prompt=audio={audio} has {len(sound)} samples at {rate} Hz, '
          f'fewer than one hop of {hop}; give a longer sound')
    windows = -(-len(sound) // c.samples)
    sound = np.pad(sound, (0, windows * c.samples - len(sound)))
    batch['audio'] = sound.reshape(windows, -1)[np.arange(count) % windows]
  for name, value in given.items():
    if value >= 0 and name not in c.conditions:
      raise errors.UserError(
          f'--prompt={name}={value}: this model was trained without, '
          f'model.conditions={tuple(c.conditions)}; drop it')
    if not -1 <= value < LABELS[name]:
      raise errors.UserError(f'--prompt={name}={value} is not one of 0 to '
                             f'{LABELS[name] - 1}')
  for name in c.conditions:
    value = given[name]
    if audio and value < 0:
      raise errors.UserError(
          f'--prompt={name}=NUMBER is missing: this model is told the {name} '
          f'of a sound, and {audio} does not say it')
    value = {'pitch': 60}.get(name, 0) if value < 0 else value
    batch[name] = np.full(count, value, np.int32)
  return batch
