"""Configs: what they hold, how they are found, stored and compared."""

import ast
import importlib.util
import json
import pathlib
import types

import ml_collections

from common import errors, files

# Settings that may differ when a workdir is resumed: they say how far and on
# what machine to run, not what is computed.
RESUMABLE = ('steps', 'mesh', 'checkpoint', 'data.workers')


def default() -> ml_collections.ConfigDict:
  """Every setting that the trainer reads; a config file starts from this."""
  c = ml_collections.ConfigDict()
  c.module = ''  # Import path of the model file.
  c.seed = 0
  c.steps = 1000
  c.batch_size = 64  # Global: split over all devices.
  c.dtype = 'float32'  # Of the computation ('bfloat16'); parameters: float32.
  c.data = ml_collections.ConfigDict()
  c.data.name = ''  # 'builder/config', as given to common.prepare.
  c.data.train = 'train'
  c.data.eval = 'valid'
  c.data.workers = 0  # Processes that preprocess; 0: threads of this one.
  c.mesh = ml_collections.ConfigDict()
  c.mesh.data = -1  # -1: all devices that `fsdp` leaves.
  c.mesh.fsdp = 1  # Parameters are split over this axis.
  c.log_every = 100
  c.eval_every = 1000  # The last step is evaluated in any case.
  c.sample_every = 1000  # Likewise.
  c.num_samples = 4
  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every = 1000  # The last step is saved in any case.
  c.checkpoint.keep_last = 2
  c.checkpoint.keep_every = 0  # Also keep each step this divides; 0: none.
  # Also keep the step where this was lowest: 'eval/nll', or '-eval/accuracy'
  # where high is good. What reads a run takes it by --step=best.
  c.checkpoint.best = ''
  c.checkpoint.patience = 0  # Stop after so many evaluations no better; 0: no.
  c.model = ml_collections.ConfigDict()
  return c


def names() -> list[str]:
  """Names of all config files that come with the code."""
  return sorted(p.stem for p in _folder().glob('*.py')
                if not p.stem.startswith('_'))


def module(spec: str) -> types.ModuleType:
  """The config file of 'lstm_jsb' or 'lstm_jsb:tiny', or a path likewise."""
  path = find(spec.partition(':')[0])
  spec = importlib.util.spec_from_file_location(f'config_{path.stem}', path)
  loaded = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(loaded)
  return loaded


def load(spec: str) -> ml_collections.ConfigDict:
  """'lstm_jsb:tiny' -> its ConfigDict."""
  size = spec.partition(':')[2]
  return module(spec).get_config(*([size] if size else []))


def find(name: str) -> pathlib.Path:
  for path in (pathlib.Path(name), _folder() / f'{name}.py'):
    if path.suffix == '.py' and path.is_file():
      return path
  raise errors.UserError(
      f'config {name!r} is neither a file nor a name'
      f'{errors.suggest(pathlib.Path(name).stem, names())}')


def check_size(size: str, *known: str) -> None:
  if size not in known:
    raise errors.UserError(f'config size {size!r} does not exist'
                           f'{errors.suggest(size, known)}')


def flatten(config) -> dict:
  """{'model.beta': 4.0, ...}, with the values that JSON would keep."""
  tree = json.loads(json.dumps(
      config.to_dict() if hasattr(config, 'to_dict') else config))
  flat = {}

  def walk(prefix, node):
    if isinstance(node, dict):
      for k, v in node.items():
        walk(f'{prefix}{k}.', v)
    else:
      flat[prefix[:-1]] = node

  walk('', tree)
  return dict(sorted(flat.items()))


def write(config, path: pathlib.Path) -> None:
  """As JSON."""
  files.write(path, json.dumps(config.to_dict(), indent=1) + '\n')


def read(path: pathlib.Path) -> ml_collections.ConfigDict:
  try:
    return ml_collections.ConfigDict(json.loads(path.read_text()))
  except FileNotFoundError:
    raise errors.UserError(
        f'{path.parent} is not a workdir: it has no {path.name}; give the '
        '--workdir of a run of common.train') from None
  except (json.JSONDecodeError, ValueError) as e:
    raise errors.UserError(f'{path} is not valid JSON ({e}); restore it, or '
                           'train into a new workdir') from None


def change(config, given: list[str]) -> None:
  """Sets ['model.eval_length=1024']: each to a value of the type it has."""
  known = flatten(config)
  for item in given:
    name, equals, text = item.partition('=')
    errors.require(equals, item, 'NAME=VALUE')
    if name not in known:
      raise errors.UserError(
          f'{item}: there is no setting {name!r}{errors.suggest(name, known)}')
    old = known[name]
    try:
      value = text if isinstance(old, str) else ast.literal_eval(text)
    except (SyntaxError, ValueError):
      value = None
    if isinstance(old, float) and type(value) is int:
      value = float(value)
    if isinstance(old, list) and isinstance(value, tuple):
      value = list(value)
    errors.require(type(value) is type(old), item,
                   f'{type(old).__name__}, such as {old!r}')
    config.update_from_flattened_dict({name: value})


def check_same(stored, given, workdir) -> None:
  """Refuses to go on in a workdir that was made by another config."""
  a, b = flatten(stored), flatten(given)
  differ = [k for k in sorted(a.keys() | b.keys())
            if a.get(k) != b.get(k)
            and not any(k == r or k.startswith(r + '.') for r in RESUMABLE)]
  if differ:
    listed = ', '.join(f'{k} ({a.get(k)!r} there, {b.get(k)!r} now)'
                       for k in differ[:8])
    more = f' and {len(differ) - 8} more' if len(differ) > 8 else ''
    raise errors.UserError(
        f'workdir {workdir} holds a run with another config: {listed}{more}; '
        'use a new --workdir, or set them back')


def _folder() -> pathlib.Path:
  """`configs/` of a checkout, else the installed `common.configs`."""
  here = pathlib.Path(__file__).resolve().parent
  checkout = here.parent / 'configs'
  return checkout if checkout.is_dir() else here / 'configs'
