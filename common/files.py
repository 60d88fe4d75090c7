"""Files that appear under their name when they are complete."""

import os
import pathlib


def write(path, content: str | bytes) -> None:
  """All at once: a killed run leaves the old file or none, never a half one."""
  temporary = f'{path}.tmp'
  if isinstance(content, str):
    content = content.encode('utf-8')
  pathlib.Path(temporary).write_bytes(content)
  os.replace(temporary, path)
