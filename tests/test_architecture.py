"""Arrows point one way: configs -> families -> common."""

import ast
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FAMILIES = ('gansynth_jax', 'vqvae_jax', 'symbolic_jax')


def imports(path: pathlib.Path) -> set[str]:
  """Top-level packages that a file imports."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {a.name.partition('.')[0] for a in node.names}
    elif isinstance(node, ast.ImportFrom) and not node.level:
      found.add((node.module or '').partition('.')[0])
  return found


def files(*folders):
  return [p for f in folders for p in sorted((ROOT / f).rglob('*.py'))]


@pytest.mark.parametrize('path', files('common', *FAMILIES), ids=str)
def test_common_imports_no_family_and_families_not_each_other(path):
  own = path.relative_to(ROOT).parts[0]
  others = {*FAMILIES, 'configs', 'tests'} - {own}
  assert not imports(path) & others


@pytest.mark.parametrize('path', files('configs'), ids=str)
def test_configs_import_no_model(path):
  assert not imports(path) & {*FAMILIES, 'jax', 'flax', 'optax'}


@pytest.mark.parametrize('path', files('common', 'configs', *FAMILIES), ids=str)
def test_nothing_imports_tensorflow_torch_or_matplotlib(path):
  assert not imports(path) & {'tensorflow', 'torch', 'matplotlib'}


def test_the_trainer_knows_no_model():
  path = ROOT / 'common' / 'trainer.py'
  text = path.read_text()
  assert len(text.splitlines()) < 300
  for word in ('grad', 'optax', 'nn.', 'flax', 'loss'):
    assert word not in text.replace('gradient clipping', ''), word


def test_one_file_knows_orbax():
  users = [p.name for p in files('common', *FAMILIES) if 'orbax' in imports(p)]
  assert users == ['checkpoint.py']


def test_one_function_refuses_what_does_not_work():
  users = [p.name for p in files('common', *FAMILIES)
           if '} does not work; use {' in p.read_text()]
  assert users == ['errors.py']


@pytest.mark.parametrize('path', files('common', *FAMILIES), ids=str)
def test_every_module_says_its_idea(path):
  tree = ast.parse(path.read_text())
  assert not tree.body or ast.get_docstring(tree)


def test_the_wheel_installs_our_four_names_only_and_works(tmp_path):
  source = tmp_path / 'source'  # A build/ of old would bring back lost files.
  for folder in ('common', 'configs', *FAMILIES):
    shutil.copytree(ROOT / folder, source / folder)
  for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  subprocess.run(
      [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps',
       '--no-build-isolation', '--disable-pip-version-check',
       '-w', str(tmp_path), str(source)], check=True, timeout=120,
      cwd=tmp_path)
  wheel, = tmp_path.glob('*.whl')
  names = zipfile.ZipFile(wheel).namelist()
  tops = {n.partition('/')[0] for n in names}
  assert tops <= {'common', *FAMILIES} | {
      t for t in tops if t.endswith('.dist-info')}
  zipfile.ZipFile(wheel).extractall(tmp_path / 'site')
  shown = subprocess.run(
      [sys.executable, '-c', 'from common import config; '
       "print(config.__file__, config.load('lstm_jsb:tiny').module)"],
      check=True, capture_output=True, text=True, cwd=tmp_path,
      env={**os.environ, 'PYTHONPATH': str(tmp_path / 'site')}).stdout
  assert shown.split() == [str(tmp_path / 'site/common/config.py'),
                           'symbolic_jax.lstm']
