"""Finding a phase: our Griffin-Lim beside librosa's and torchaudio's, and PGHI.

  python benchmarks/griffin_lim.py
  python benchmarks/griffin_lim.py --clips=1 --seconds=10 --rounds=5

Noise at 16 kHz, frames of 1024 every 256, float32, from random phases; fast
iterations (momentum 0.99; the classic ones cost the same). torchaudio is left
out where it is not installed; it is not among our requirements. All take turns
in one process; the least time of all rounds counts, per iteration, with
compiling left out. Beside the time on the clock stands that of all processors.
"""

import importlib.util
import time

import jax
import librosa
import numpy as np
from absl import app, flags

from common.spectral import inversion

_CLIPS = flags.DEFINE_integer('clips', 8, 'In a batch.')
_SECONDS = flags.DEFINE_float('seconds', 4.0, 'Of audio a clip.')
_ITERATIONS = flags.DEFINE_integer('iterations', 32, 'Of Griffin-Lim.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'How often.')
N_FFT, HOP, RATE = 1024, 256, 16000


def methods(magnitude, iterations: int) -> dict:
  """Name: a function that does all iterations."""
  on_device = jax.device_put(magnitude)
  ours = jax.jit(lambda m, key: inversion.griffin_lim(
      m, N_FFT, HOP, iterations=iterations, momentum=0.99, key=key))
  key = jax.random.key(0)
  turned = np.ascontiguousarray(magnitude.swapaxes(-1, -2))
  found = {
      'ours': lambda: ours(on_device, key).block_until_ready(),
      'librosa': lambda: librosa.griffinlim(
          turned, n_iter=iterations, hop_length=HOP)}
  if importlib.util.find_spec('torchaudio'):
    import torch
    import torchaudio
    tensor = torch.from_numpy(turned)
    window = torch.hann_window(N_FFT)
    found['torchaudio'] = lambda: torchaudio.functional.griffinlim(
        tensor, window, N_FFT, HOP, N_FFT, 1.0, iterations, 0.99, None, True)
  return found


def least(fns: dict, rounds: int) -> dict:
  """Name: (seconds by the clock, seconds of all processors)."""
  best = {name: (float('inf'),) * 2 for name in fns}
  for fn in fns.values():
    fn()  # Compiles.
  for _ in range(rounds):
    for name, fn in fns.items():
      begin = time.perf_counter(), time.process_time()
      fn()
      took = time.perf_counter() - begin[0], time.process_time() - begin[1]
      best[name] = tuple(map(min, best[name], took))
  return best


def main(argv):
  del argv
  samples = round(_SECONDS.value * RATE)
  audio = np.random.default_rng(0).normal(
      size=(_CLIPS.value, samples)).astype(np.float32)
  magnitude = np.abs(librosa.stft(audio, n_fft=N_FFT, hop_length=HOP))
  magnitude = np.ascontiguousarray(magnitude.swapaxes(-1, -2))
  print(f'{_CLIPS.value} clips of {_SECONDS.value:g} s, '
        f'{jax.default_backend()}')
  iterations = _ITERATIONS.value
  best = least(methods(magnitude, iterations), _ROUNDS.value)
  for name, (clock, processor) in best.items():
    print(f'{name:12} {1000 * clock / iterations:9.2f} ms an iteration '
          f'{clock / best["ours"][0]:6.2f} times ours   processor '
          f'{1000 * processor / iterations:9.2f} ms '
          f'{processor / best["ours"][1]:6.2f} times ours')
  one = magnitude[0]
  best = least({
      'pghi': lambda: inversion.pghi(one, N_FFT, HOP),
      'rtpghi': lambda: inversion.rtpghi(one, N_FFT, HOP)}, _ROUNDS.value)
  for name, (_, processor) in best.items():
    print(f'{name:12} {1000 * processor / _SECONDS.value:9.2f} ms of one '
          'processor a second of audio')


if __name__ == '__main__':
  app.run(main)
