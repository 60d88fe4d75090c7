"""Spectra: our STFT, mel and GANSynth's representation beside other libraries.

  python benchmarks/spectral.py
  python benchmarks/spectral.py --clips=64 --rounds=20

Clips of four seconds at 16 kHz, frames of 2048 every 512, float32, on whatever
device JAX has; the others are on the CPU. torch and torchaudio are left out
where they are not installed; they are not among our requirements. All take
turns in one process; the least time of all rounds counts, compiling left out.
Beside the time on the clock stands that of all processors, which other work on
the machine disturbs less. `gradient` is that of a loss, forward and backward.
"""

import importlib.util
import time

import jax
import jax.numpy as jnp
import librosa
import numpy as np
from absl import app, flags
from scipy import signal

from common.spectral import mel, representations, stft

_CLIPS = flags.DEFINE_integer('clips', 8, 'In a batch.')
_ROUNDS = flags.DEFINE_integer('rounds', 10, 'How often.')
N_FFT, HOP, RATE, SAMPLES, BANDS = 2048, 512, 16000, 64000, 80


def methods(x: np.ndarray) -> dict[str, dict]:
  """Task: {who: a function that does it to all clips}; ours comes first."""
  def compiled(fn, *args):
    fn, args = jax.jit(fn), jax.device_put(args)
    return lambda: jax.block_until_ready(fn(*args))

  spec = librosa.stft(x, n_fft=N_FFT, hop_length=HOP)
  bank = mel.filterbank(RATE, N_FFT, BANDS)
  forward = lambda x: stft.stft(x, N_FFT, HOP)
  log_mel = lambda x: jnp.log(mel.project(jnp.abs(forward(x)), bank) + 1e-6)
  gansynth = representations.make('gansynth_ifmel', SAMPLES, RATE)
  framing = dict(nperseg=N_FFT, noverlap=N_FFT - HOP)
  scaled = signal.stft(x, **framing)[2]
  found = {
      'stft': {
          'ours': compiled(forward, x),
          'librosa': lambda: librosa.stft(x, n_fft=N_FFT, hop_length=HOP),
          'scipy': lambda: signal.stft(x, **framing),
          'jax.scipy': compiled(
              lambda x: jax.scipy.signal.stft(x, **framing)[2], x)},
      'istft': {
          'ours': compiled(lambda s: stft.istft(s, N_FFT, HOP, length=SAMPLES),
                           spec.swapaxes(-1, -2)),
          'librosa': lambda: librosa.istft(spec, hop_length=HOP,
                                           length=SAMPLES),
          'scipy': lambda: signal.istft(scaled, **framing),
          'jax.scipy': compiled(
              lambda s: jax.scipy.signal.istft(s, **framing)[1], scaled)},
      'log mel': {
          'ours': compiled(log_mel, x),
          'librosa': lambda: np.log(librosa.feature.melspectrogram(
              y=x, sr=RATE, n_fft=N_FFT, hop_length=HOP, n_mels=BANDS,
              power=1) + 1e-6)},
      'log mel, gradient': {
          'ours': compiled(jax.grad(lambda x: log_mel(x).sum()), x)},
      'gansynth_ifmel': {
          'ours': compiled(gansynth.encode, x),
          'numpy, librosa': lambda: by_numpy(x)},
      'gansynth_ifmel, back': {
          'ours': compiled(gansynth.decode, gansynth.encode(x))},
  }
  if importlib.util.find_spec('torch'):
    for task, fn in by_torch(x).items():
      found[task]['torch'] = fn
  return found


def by_numpy(x):
  """GANSynth's steps as its code has them, in float32."""
  if not hasattr(by_numpy, 'matrix'):
    by_numpy.matrix = mel.gansynth_filterbank(1024).astype(np.float32)
  spec = librosa.stft(np.pad(x, [(0, 0), (3072, 0)]), n_fft=N_FFT,
                      hop_length=HOP, center=False)
  spec = spec[:, 1:].swapaxes(-1, -2)
  log, p = np.log(np.abs(spec) + 1e-6), np.unwrap(np.angle(spec), axis=-2)
  log = np.log(np.exp(2 * log) @ by_numpy.matrix + 1e-6)
  p = np.unwrap(p @ by_numpy.matrix, axis=-2)
  p = np.concatenate([p[:, :1], np.diff(p, axis=-2)], -2) / np.pi
  return np.stack([log, p], -1)


def by_torch(x):
  """The same tasks; its STFT reflects at the ends, which costs no more."""
  import torch
  x = torch.from_numpy(x)
  window = torch.hann_window(N_FFT)
  bank = torch.from_numpy(mel.filterbank(RATE, N_FFT, BANDS)).float()
  forward = lambda x: torch.stft(x, N_FFT, HOP, window=window,
                                 return_complex=True)
  log_mel = lambda x: torch.log(
      forward(x).abs().transpose(-1, -2) @ bank + 1e-6)
  spec = forward(x)

  def gradient():
    leaf = x.clone().requires_grad_()
    log_mel(leaf).sum().backward()

  return {'stft': lambda: forward(x),
          'istft': lambda: torch.istft(spec, N_FFT, HOP, window=window,
                                       length=SAMPLES),
          'log mel': lambda: log_mel(x), 'log mel, gradient': gradient}


def main(argv):
  del argv
  x = np.random.default_rng(0).standard_normal(
      (_CLIPS.value, SAMPLES)).astype(np.float32) / 10
  print(f'{_CLIPS.value} clips of {SAMPLES} samples, '
        f'{jax.devices()[0].device_kind}')
  for task, fns in methods(x).items():
    best = {who: (float('inf'),) * 2 for who in fns}
    for fn in fns.values():
      fn()  # Compiles, fills caches.
    for _ in range(_ROUNDS.value):
      for who, fn in fns.items():
        clock, processors = time.perf_counter(), time.process_time()
        fn()
        spent = (time.perf_counter() - clock,
                 time.process_time() - processors)
        best[who] = tuple(map(min, best[who], spent))
    for who, (clock, processors) in best.items():
      ours = best['ours']
      print(f'{task:21} {who:15} {1000 * clock:8.1f} ms '
            f'{1000 * processors:8.1f} ms of processors '
            f'{clock / ours[0]:7.2f} and {processors / ours[1]:6.2f} '
            'times ours')


if __name__ == '__main__':
  app.run(main)
