"""Autoencoders and codecs: sounds as latents or codes, and priors over them."""

import common

if getattr(common, '_OWNER', None) != 'ostinato':
  raise ImportError(
      f'{__name__} found another package named `common` at '
      f'{list(getattr(common, "__path__", []))}; uninstall it, or leave the '
      'folder that holds it, then reinstall ostinato')
