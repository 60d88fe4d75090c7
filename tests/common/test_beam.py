import pathlib
import subprocess
import sys

import pytest
import toy_set

from common import errors
from common.data import beam

TESTS = pathlib.Path(toy_set.__file__).parent


def test_without_beam_it_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(beam, 'apache_beam', None)
  with pytest.raises(errors.UserError, match=r"pip install 'ostinato\[beam\]'"):
    beam.writer('--runner=DirectRunner')


@pytest.mark.skipif(beam.apache_beam is None,
                    reason='apache-beam is not installed: pip install .[beam]')
@pytest.mark.parametrize('options', [
    '--runner=DirectRunner',
    '--runner=DirectRunner --direct_running_mode=multi_processing '
    '--direct_num_workers=2'])
def test_beam_writes_the_bytes_of_one_machine(tmp_path, options):
  alone = toy_set.make(tmp_path, train_3=b'filtered', train_4=b'7*2',
                       train_5=b'100*3', train_6=b'?', **{'train_x.md': b''})
  report = alone.prepare()
  # In a process of its own: Beam starts servers and threads.
  code = f'''
import pathlib, toy_set
from common.data import beam
if __name__ == '__main__':
  builder = toy_set.ToySet(
      config=toy_set.ToySet.find_config('tiny'),
      data_dir={str(tmp_path / 'beam')!r},
      manual_dir={str(tmp_path / 'manual')!r})
  print(builder.prepare(write=beam.writer({options!r})))
'''
  script = tmp_path / 'script.py'
  script.write_text(code)
  done = subprocess.run(
      [sys.executable, str(script)], capture_output=True, text=True,
      timeout=300, env={'PYTHONPATH': f'{TESTS.parent}:{TESTS}', 'PATH': ''})
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == str(report)
  folder = pathlib.Path(alone.data_dir)
  twin = tmp_path / 'beam' / folder.relative_to(tmp_path / 'data')
  one, other = ({p.name: p.read_bytes() for p in f.iterdir()}
                for f in (folder, twin))
  assert one == other
