"""Every command and every example of the README is run."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()


def blocks(language: str) -> list[str]:
  return re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)


def commands() -> list[str]:
  return [line.partition('  #')[0].strip() for block in blocks('bash')
          for line in block.splitlines() if line.strip()]


def run(command: str, cwd, environment):
  words = shlex.split(command)
  if words[0] == 'python':
    words[0] = sys.executable
  done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True,
                        text=True, timeout=400, check=False)
  assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
  return done.stdout


def test_the_commands_run_one_after_the_other(tmp_path, environment):
  python = [c for c in commands() if c.startswith('python')]
  assert len(python) >= 8
  for command in python:
    run(command, tmp_path, environment)
  assert (tmp_path / 'report.html').stat().st_size > 10_000
  assert len(list((tmp_path / 'runs/lstm/generated').glob('*.mid'))) == 4
  assert (tmp_path / 'runs/sweep/sweep.md').exists()


def test_make_knows_the_two_commands(tmp_path, environment):
  rest = [c for c in commands() if not c.startswith('python')]
  assert rest == ['make demo', 'make test']
  for command in rest:
    shown = run(f'{command} -n --no-print-directory VENV={tmp_path}/none',
                ROOT, environment)
    assert 'pip install' in shown  # Each makes its own environment.
  assert shown.rstrip().endswith('-m pytest -n 2')


def test_the_demo_uses_what_exists(environment, tmp_path):
  """The demo's own commands, shortened to a few steps."""
  shown = run('make demo -n --no-print-directory VENV=none', ROOT, environment)
  lines = re.sub(r'\\\n\s*', ' ', shown).splitlines()
  ours = [x.replace('none/bin/python', 'python') for x in lines
          if x.startswith('none/bin/python -m common.')]
  assert len(ours) >= 8
  for command in ours:
    command = command.replace(':demo', ':tiny').replace('/demo', '/tiny')
    out = run(command, tmp_path, environment)
  assert out.strip().splitlines()[-1].endswith('report.html')
  assert (tmp_path / out.strip().splitlines()[-1].split()[-1]).exists()


def test_the_example_model_trains_through_the_binary(tmp_path, environment):
  model, config = blocks('python')
  (tmp_path / 'mean_tone.py').write_text(model)
  (tmp_path / 'mean_tone_notes.py').write_text(config)
  environment = {**environment, 'PYTHONPATH': f'{ROOT}:{tmp_path}'}
  prepare, = re.findall(r'^`(python -m common.prepare .*?)`', README, re.M)
  run(prepare, tmp_path, environment)
  command = re.search(r'"""(python -m .*?)"""', config, re.DOTALL).group(1)
  out = run(command.replace('\\\\\n', ''), tmp_path, environment)
  losses = [float(x) for x in re.findall(r'eval/mse (\S+)', out)]
  assert losses and losses[-1] < 1
  assert (tmp_path / 'runs/mean/samples/000020_00.wav').exists()


@pytest.mark.parametrize('link', re.findall(r'\]\((?!http)(.*?)\)', README))
def test_links_lead_somewhere(link):
  assert (ROOT / link).exists()


def test_every_config_is_in_the_table_of_models():
  from common import config
  for name in config.names():
    assert f'`{name}`' in README
