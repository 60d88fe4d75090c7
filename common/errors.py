"""One clear sentence for what a user can mend."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(ValueError):
  """Wrong input. The message names it and says what would work.

  Binaries print the message without a traceback and exit with status 2; any
  other exception is a bug of ours and keeps its traceback.
  """


def require(good, given: str, works: str) -> None:
  """Refuses what was given unless it is good; says what to use instead."""
  if not good:
    raise UserError(f'{given} does not work; use {works}')


def at_least(model, **least) -> None:
  """Refuses settings of `config.model` that are less than these."""
  for name, value in least.items():
    require(model[name] >= value, f'model.{name}={model[name]}',
            f'{value} or more')


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
  """Names something in front of each `UserError` from within."""
  try:
    yield
  except UserError as e:
    raise UserError(f'{what}: {e}') from None


def suggest(word: str, known: Iterable[str]) -> str:
  """'; did you mean "beta"?' where something is near, else all names."""
  known = sorted(known)
  near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
  if near:
    return f'; did you mean {near[0]!r}?'
  return f'; known: {", ".join(known) or "none"}'
