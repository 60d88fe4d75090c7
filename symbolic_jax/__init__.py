"""Models of notes: likelihood models and GANs on rolls."""

import common

if getattr(common, '_OWNER', None) != 'ostinato':
  raise ImportError(
      f'{__name__} found another package named `common` at '
      f'{list(getattr(common, "__path__", []))}; uninstall it, or leave the '
      'folder that holds it, then reinstall ostinato')
