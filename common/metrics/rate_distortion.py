"""How good a codec is for its bits: one row for each sound it can decode.

Beside each row are two ways to spend the same bits without learning anything:
mu-law samples of 8 bits at a lower sample rate, and quantised log-mel frames
that Griffin-Lim makes audible.

Columns: kbit/s; convergence, the spectral convergence of Jukebox: the decibels
of its mean; mel, the distance of DAC's seven mel spectrograms; lsd, the
log-spectral distance in dB; si_sdr in dB. All are means over the split's clips;
silent clips have no convergence, lsd and si_sdr.

Shapes: B batch, N samples, T frames, M bands.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import soxr

from common import sharding
from common.data import pipeline
from common.metrics import distance
from common.spectral import companding, inversion, mel, multiscale, stft

COLUMNS = {'kbit_s': '.2f', 'convergence_db': '.2f', 'mel': '.3f',
           'lsd_db': '.2f', 'si_sdr_db': '.2f'}
MU_LAW_BITS = 8
N_FFT, HOP = 2048, 512  # Of the mel frames.
MEL_BITS, MOST_BANDS = 4, 256  # A band; more bits once there are that many.
RANGE_DB = 80.0  # Below a clip's loudest band is nothing.


def measure(run, source) -> tuple[dict, dict]:
  """({name: {column: value}}, {codes: {'usage': .., 'perplexity': ..}}).

  Every process measures the whole split.
  """
  codec, config, mesh = run.module.codec(run.config), run.config, run.mesh
  by_row = sharding.by_row(mesh)

  def split(fn):
    def traced(*args):
      with sharding.tracing(mesh):
        return fn(*args)
    return jax.jit(traced, out_shardings=by_row)

  encode = split(codec.encode)
  decoders = {'+'.join(group): (group, split(codec.decode))
              for group in codec.groups}
  rate = config.data.sample_rate
  segments = pipeline.segments_of(run.module, config)
  rows = {}  # Name: (bits a second, function of audio).
  sums, histograms = {}, {k: np.zeros(n) for k, n in codec.sizes.items()}
  state = jax.device_put(run.state.replace(opt={}), sharding.replicated(mesh))
  size = -(-config.batch_size // mesh.size) * mesh.size
  for batch in pipeline.evaluate(source, segments, process=(0, 1),
                                 batch_size=size):
    placed = jax.device_put(batch, by_row)
    audio, mask = batch['audio'], batch['mask']
    seconds = audio.shape[1] / rate
    codes = encode(state, placed)
    for name, values in sharding.fetch(codes).items():
      histograms[name] += np.bincount(
          values[mask > 0].ravel(), minlength=codec.sizes[name])
    for name, (group, decode) in decoders.items():
      sound = decode(state, {k: codes[k] for k in group}, placed)
      bits = sum(math.prod(codec.shapes[k]) * math.log2(codec.sizes[k])
                 for k in group) / seconds
      rows[name] = bits
      _add(sums, name, sharding.fetch(sound), audio, mask, rate)
      for kind, (own, baseline) in {
          'mu-law': mu_law(audio, rate, bits),
          'mel': griffin_lim(audio, rate, bits)}.items():
        rows[f'{name} as {kind}'] = own
        _add(sums, f'{name} as {kind}', baseline, audio, mask, rate)
  table = {name: {'kbit_s': bits / 1000} | {
      k: float(total / weight) for k, (total, weight) in sums[name].items()
      if weight} for name, bits in rows.items()}
  for row in table.values():
    if 'convergence_db' in row:
      row['convergence_db'] = float(
          multiscale.decibels(row['convergence_db']))
  return table, {name: {
      'usage': float((n > 0).mean()),
      'perplexity': perplexity(n)} for name, n in histograms.items()}


def perplexity(counts: np.ndarray) -> float:
  """exp of the entropy of a histogram of codes."""
  p = counts[counts > 0] / counts.sum()
  return float(np.exp(-(p * np.log(p)).sum()))


def distances(audio, reference, sample_rate: int):
  """{column: [B]}, and which references are loud enough to have them.

  The convergence is still a ratio.
  """
  power = lambda x: jnp.abs(stft.stft(x, **multiscale.REPORTED)) ** 2
  convergence, loud = multiscale.reported_convergence(audio, reference)
  return {
      'convergence_db': convergence,
      'mel': multiscale.dac_mel(audio, reference, sample_rate),
      'lsd_db': distance.log_spectral_distance(
          power(audio), power(reference)),
      'si_sdr_db': distance.si_sdr(audio, reference),
  }, loud


def _add(sums, name, audio, reference, mask, rate):
  values, loud = jax.device_get(_distances(
      np.asarray(audio, np.float32), reference, rate))
  row = sums.setdefault(name, {k: np.zeros(2) for k in values})
  for k, v in values.items():
    weight = mask * (1.0 if k == 'mel' else loud)
    row[k] += np.where(weight > 0, v, 0.0).sum(), weight.sum()


_distances = jax.jit(distances, static_argnums=2)


def mu_law(audio, sample_rate: int, bits: float):
  """Audio [B, N] by mu-law samples at that many bits a second.

  Returns the bits a second that it really took, and the audio. Where there are
  enough for every sample, a sample has more bits, 16 at most.
  """
  rate = min(max(int(bits // MU_LAW_BITS), 1), sample_rate)
  depth = min(int(bits // rate), 16)
  mu = 2**depth - 1

  def one(row):
    low = soxr.resample(row, sample_rate, rate)
    low = np.asarray(companding.mu_decode(
        companding.mu_encode(np.clip(low, -1.0, 1.0), mu), mu))
    back = soxr.resample(low, rate, sample_rate)[:len(row)]
    return np.pad(back, (0, len(row) - len(back)))

  return rate * depth, np.stack([one(row) for row in np.asarray(audio)])


def griffin_lim(audio, sample_rate: int, bits: float):
  """Audio [B, N] by quantised log-mel frames, likewise.

  The loudest band of each clip is known for nothing.
  """
  per_frame = bits * HOP / sample_rate
  bands = int(min(max(per_frame // MEL_BITS, 1), MOST_BANDS))
  depth = int(min(max(per_frame // bands, 1), 16))
  return bands * depth * sample_rate / HOP, jax.device_get(
      _mel_codec(sample_rate, bands, depth)(audio))


@functools.lru_cache
def _mel_codec(sample_rate, bands, depth):
  matrix = mel.filterbank(sample_rate, N_FFT, bands, allow_empty=True)
  back = mel.inverse(matrix)
  steps = 2**depth - 1

  @jax.jit
  def through(audio):
    frames = mel.project(jnp.abs(stft.stft(audio, N_FFT, HOP)), matrix)
    level = companding.amplitude_to_db(frames, amin=1e-8)
    top = level.max((1, 2), keepdims=True)
    unit = jnp.clip((level - top) / RANGE_DB + 1.0, 0.0, 1.0)
    unit = jnp.round(unit * steps) / steps
    level = (unit - 1.0) * RANGE_DB + top
    heard = jnp.where(unit > 0.0, companding.db_to_amplitude(level), 0.0)
    return inversion.griffin_lim(
        jnp.maximum(mel.project(heard, back), 0.0), N_FFT, HOP, iterations=32,
        momentum=0.99, length=audio.shape[1])

  return through


def text(rows, books) -> str:
  """The table for a person."""
  width = max(map(len, rows)) + 2
  lines = [f'{"":{width}}' + ''.join(f'{c:>16}' for c in COLUMNS)]
  for name, values in rows.items():
    lines.append(f'{name:{width}}' + ''.join(
        f'{format(values[c], f) if c in values else "-":>16}'
        for c, f in COLUMNS.items()))
  lines += [f'codes of {name}: {v["usage"]:.1%} used, perplexity '
            f'{v["perplexity"]:.1f}' for name, v in books.items()]
  return '\n'.join(lines)
