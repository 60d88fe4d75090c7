"""One clear sentence for what a user can mend."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
  """Wrong input. The message names it and says what would work.

  Binaries print the message without a traceback and exit with status 2; any
  other exception is a bug of ours and keeps its traceback.
  """


def suggest(word: str, known: Iterable[str]) -> str:
  """'; did you mean "beta"?' where something is near, else all names."""
  known = sorted(known)
  near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
  if near:
    return f'; did you mean {near[0]!r}?'
  return f'; known: {", ".join(known) or "none"}'
