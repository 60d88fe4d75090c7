"""From the command to the first step, with a cold and a warm cache.

  python benchmarks/startup.py

Whole processes of `common.train` at the tiny sizes, each stopped after its
first step: once with an empty folder of compiled programs, then with the one
that this run filled, in turn.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from common import prepare

CONFIGS = ('lstm_jsb:tiny', 'wavegan_sc09:tiny')
ROUNDS = 3


def seconds(config: str, data_dir: str, cache: str) -> tuple[float, float]:
  """Of the whole process, and inside it until the first step is done."""
  with tempfile.TemporaryDirectory() as workdir:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, '-m', 'common.train', f'--config={config}',
         f'--workdir={workdir}', f'--data_dir={data_dir}',
         f'--cache_dir={cache}', '--config.steps=1', '--config.num_samples=0'],
        check=True, capture_output=True)
    whole = time.perf_counter() - began
    timing = pathlib.Path(workdir, 'timing.jsonl').read_text().splitlines()
  return whole, json.loads(timing[0])['time/first_step_s']


def main():
  print('| config | cache | whole process, s | its first step, s |')
  print('|---|---|---|---|')
  with tempfile.TemporaryDirectory() as data_dir:
    for name in ('synthetic_chorales/tiny', 'synthetic_notes/tiny'):
      prepare.prepare(name, data_dir)
    for config in CONFIGS:
      cold, warm = [], []
      for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as cache:
          cold.append(seconds(config, data_dir, cache))
          warm.append(seconds(config, data_dir, cache))
      for label, times in (('cold', cold), ('warm', warm)):
        whole, first = map(statistics.median, zip(*times, strict=True))
        print(f'| {config} | {label} | {whole:.1f} | {first:.1f} |', flush=True)


if __name__ == '__main__':
  main()
