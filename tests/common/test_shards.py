import errno
import itertools
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import toy_set
from array_record.python import array_record_module

from common import errors
from common.data import builders, decoding, pipeline, shards
from common.data.builders import base

TESTS = pathlib.Path(toy_set.__file__).parent


def contents(folder):
  return {str(p.relative_to(folder)): p.read_bytes()
          for p in pathlib.Path(folder).rglob('*') if p.is_file()}


def numbers(builder, split='train'):
  return [int(x['x']) for x in builder.as_data_source(split)]


@pytest.fixture
def at_once(monkeypatch):
  """Worker processes take all the work."""
  monkeypatch.setattr(decoding, 'PATIENCE_S', 0.0)


def test_examples_keep_the_order_of_the_archive_across_shards(tmp_path):
  builder = toy_set.make(tmp_path, train_2=b'200*3')
  report = builder.prepare()
  assert numbers(builder) == [0, 1, 200, 201, 202, *range(3, 13), 14,
                              *range(14, 23)]
  assert numbers(builder, 'valid') == [0, 1, 2, 3]
  info = builder.info.splits['train']
  # Five units each, and one of them has three examples.
  assert info.shard_lengths == [7, 5, 5, 5, 3]
  assert info.num_examples == 25
  assert report['splits']['train'] == {
      'units': 23, 'examples': 25, 'bytes': info.num_bytes, 'numbers': 25,
      'hours': 25 * 1.5 / 3600, 'skipped': {}}
  first = builder.as_data_source('train')[2]
  assert (first['id'], first['label']) == (b'train/2', 0)
  np.testing.assert_array_equal(first['y'], np.full(2000, 200, np.float32))


def test_shards_are_cut_by_bytes_too(tmp_path, monkeypatch):
  monkeypatch.setattr(toy_set.ToySet, 'SHARD_BYTES', 4)
  builder = toy_set.make(tmp_path, train_1=b'2222222', train_20=b'33')
  builder.prepare()
  # 0 1 | 2222222 | 2 3 4 5 | 6 7 8 9 | 10 11 | ... as bytes.
  assert builder.info.splits['train'].shard_lengths == [
      1, 1, 4, 4, 2, 2, 2, 2, 2, 2, 1]
  assert numbers(builder)[:3] == [0, 2222222, 2]


def test_the_bytes_are_the_same_with_any_number_of_workers(tmp_path, at_once):
  changed = dict(train_3=b'filtered', train_4=b'7*2', train_9=b'?',
                 valid_0=b'filtered')
  (tmp_path / 'a').mkdir()
  expected = toy_set.make(tmp_path / 'a', **changed)
  report = expected.prepare(workers=0)
  for workers in (1, 2):
    builder = toy_set.ToySet(
        config=toy_set.ToySet.find_config('tiny'),
        data_dir=tmp_path / str(workers), manual_dir=tmp_path / 'a/manual')
    assert builder.prepare(workers=workers) == report
    assert contents(builder.data_dir) == contents(expected.data_dir)


def test_what_is_skipped_is_counted_and_named(tmp_path):
  builder = toy_set.make(
      tmp_path, train_3=b'filtered', train_4=b'7*2', train_9=b'filtered',
      train_x=b'what', **{'train_a\tb.md': b'', 'valid_\udcff.md': b'',
                          'train_../up': b'1'})
  report = builder.prepare()
  where = f'toy_set.py:{where_numbers_are_parsed()}'
  assert report['splits']['train']['skipped'] == {
      'filtered out': 2, 'broken in the middle': 1,
      f'unexpected ValueError ({where})': 1, 'not a number': 1,
      "name with '..'": 1}
  # What came before the failure in the same file is not kept.
  assert 7 in numbers(builder) and numbers(builder).count(7) == 1
  folder = pathlib.Path(builder.data_dir)
  assert (folder / 'skipped.tsv').read_text() == (
      'split\tfile\treason\n'
      'train\ttrain/3\tfiltered out\n'
      'train\ttrain/4\tbroken in the middle\n'
      'train\ttrain/9\tfiltered out\n'
      f'train\ttrain/x\tunexpected ValueError ({where})\n'
      'train\ttrain/a\\tb.md\tnot a number\n'
      "train\ttrain/../up\tname with '..'\n"
      'valid\tvalid/\\udcff.md\tnot a number\n')
  assert json.loads((folder / 'report.json').read_text()) == report


def where_numbers_are_parsed():
  lines = pathlib.Path(toy_set.__file__).read_text().splitlines()
  return 1 + next(i for i, line in enumerate(lines) if 'int(x)' in line)


def test_a_shard_without_examples_is_left_out(tmp_path):
  builder = toy_set.make(tmp_path, **{
      f'train_{i}': b'filtered' for i in range(5, 10)})
  builder.prepare()
  assert builder.info.splits['train'].shard_lengths == [5, 5, 5, 3]
  assert len(list(pathlib.Path(builder.data_dir).glob('*train*'))) == 4


def test_a_split_without_examples_is_one_sentence(tmp_path):
  builder = toy_set.make(tmp_path, **{
      f'valid_{i}': b'filtered' for i in range(4)})
  with pytest.raises(errors.UserError, match=(
      r"toy_set/tiny/1.0.0: split 'valid' got no examples \(4 read, skipped: "
      r'4 filtered out\)')):
    builder.prepare()
  assert not shards.is_complete(pathlib.Path(builder.data_dir))


def test_an_example_of_the_wrong_type_is_our_fault_and_not_skipped(tmp_path):
  with pytest.raises(RuntimeError, match='train/3: example 13 does not have'):
    toy_set.make(tmp_path, train_3=b'13').prepare()


def test_a_truncated_archive_gives_what_it_has(tmp_path):
  builder = toy_set.make(tmp_path)
  path = tmp_path / 'manual/toy.tar'
  # The headers and contents of 23 + 2 members, and half a header.
  path.write_bytes(path.read_bytes()[:25 * 1024 + 200])
  report = builder.prepare()
  assert numbers(builder, 'valid') == [0, 1]
  assert report['splits']['valid']['skipped'] == {'truncated archive': 1}
  assert report['warnings'] == [
      f'{path} has 25,800 bytes, the published one has 30,720']


# --- Kills ------------------------------------------------------------------

# Each child is killed at its n-th look at a file or at an example, and what it
# left is completed by another one.
KILLED = '''
import itertools, os, pathlib, sys
sys.path.insert(0, {tests!r})
import toy_set
from common.data import builders, decoding, shards

def child(folder, kill_at):
  pid = os.fork()
  if pid:
    return os.waitpid(pid, 0)[1]
  count = itertools.count(1)
  def hook(event, args):
    if event in ('toy_set.example', 'open', 'os.rename', 'os.remove',
                 'os.mkdir', 'os.rmdir') and (
        event != 'open' or str(folder) in str(args[0])):
      if next(count) == kill_at:
        os.kill(os.getpid(), 9)
  builder = toy_set.ToySet(
      config=toy_set.ToySet.find_config('tiny'), data_dir=folder,
      manual_dir={manual!r})
  sys.addaudithook(hook)
  try:
    builder.prepare()
  except BaseException:
    import traceback
    traceback.print_exc()
    os._exit(1)
  os._exit(0)
'''


def forks(tmp_path, code):
  """Runs `code` in a process that may fork: ours has threads."""
  toy_set.make(tmp_path, train_3=b'filtered', train_x=b'?', **{
      'train_y.md': b''})
  out = subprocess.run(
      [sys.executable, '-c', KILLED.format(
          tests=str(TESTS), manual=str(tmp_path / 'manual')) + code],
      cwd=TESTS.parent, capture_output=True, text=True, timeout=300)
  assert out.returncode == 0, out.stderr
  return out.stdout


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path):
  out = forks(tmp_path, f'''
root = pathlib.Path({str(tmp_path)!r})
assert child(root / 'whole', 0) == 0
for at in itertools.count(1, 2):  # All of them take too long.
  status = child(root / str(at), at)
  if status == 0:
    break
  assert status == 9, status
  assert child(root / str(at), 0) == 0
print(at)
''')
  at = int(out)
  assert at > 100  # Moments that were tried.
  expected = contents(tmp_path / 'whole')
  assert len(expected) == 11
  for i in range(1, at + 1, 2):
    assert contents(tmp_path / str(i)) == expected, i


def test_killed_again_and_again_it_comes_to_the_same_bytes(tmp_path):
  out = forks(tmp_path, f'''
import random
root = pathlib.Path({str(tmp_path)!r})
assert child(root / 'whole', 0) == 0
rng = random.Random(0)
for life in range(1000):
  if child(root / 'again', rng.randrange(15, 40)) == 0:
    break
print(life)
''')
  assert 3 < int(out) < 900
  assert contents(tmp_path / 'again') == contents(tmp_path / 'whole')


def test_finished_shards_are_not_decoded_again(tmp_path, monkeypatch):
  builder = toy_set.make(tmp_path)
  decoded = []
  example = toy_set.ToySet.example

  def stop_at(limit):
    def decode(self, unit):
      decoded.append(unit.name)
      if len(decoded) == limit:
        signal.raise_signal(signal.SIGINT)
      return example(self, unit)
    monkeypatch.setattr(toy_set.ToySet, 'example', decode)

  stop_at(13)
  with pytest.raises(KeyboardInterrupt):
    builder.prepare()
  assert decoded == [f'train/{i}' for i in range(13)]
  with pytest.raises(errors.UserError, match='prepare it with'):
    builders.open_split('synthetic_chorales/tiny', 'train', tmp_path / 'data')
  decoded.clear()
  stop_at(1000)
  said = []
  builder.prepare(say=said.append)
  assert decoded == [*(f'train/{i}' for i in range(10, 23)),
                     *(f'valid/{i}' for i in range(4))]
  assert said == [f'going on with what is in {tmp_path}/data/toy_set/tiny/'
                  'incomplete.1.0.0']
  assert len(numbers(builder)) == 23


def test_other_files_are_not_mixed_with_what_was_begun(tmp_path):
  with pytest.raises(RuntimeError):
    toy_set.make(tmp_path, train_20=b'13').prepare()
  builder = toy_set.make(tmp_path, train_0=b'500')
  said = []
  builder.prepare(say=said.append)
  assert numbers(builder)[0] == 500
  assert len(said) == 1 and said[0].endswith('beginning anew')


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
  toy_set.make(tmp_path)
  code = f'''
import sys, time
sys.path.insert(0, {str(TESTS)!r})
import toy_set
from common.data import decoding
decoding.PATIENCE_S = 0.0

class Slow(toy_set.ToySet):
  pass

if __name__ == '__main__':
  import multiprocessing
  def progress(*_):
    print([p.pid for p in multiprocessing.active_children()], flush=True)
    time.sleep(100)
  toy_set.ToySet(
      config=toy_set.ToySet.find_config('tiny'),
      data_dir={str(tmp_path / 'data')!r},
      manual_dir={str(tmp_path / 'manual')!r}).prepare(
          workers=2, progress=progress)
'''
  script = tmp_path / 'script.py'
  script.write_text(code)
  parent = subprocess.Popen(
      [sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
      env={'PYTHONPATH': str(TESTS.parent), 'PATH': ''})
  timer = threading.Timer(60, parent.kill)
  timer.start()
  with parent.stdout:
    pids = json.loads(parent.stdout.readline())
  alive = [is_alive(p) for p in pids]
  parent.kill()
  parent.wait()
  timer.cancel()
  # The pool starts its second one only when the first is busy.
  assert 1 <= len(pids) <= 2 and all(alive)
  for _ in range(100):
    if not any(map(is_alive, pids)):
      break
    time.sleep(0.1)
  assert not any(map(is_alive, pids))


def is_alive(pid):
  try:
    state = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')')[1]
  except FileNotFoundError:
    return False
  return state.split()[0] != 'Z'


# --- Workers ----------------------------------------------------------------


def test_a_file_that_kills_its_process_is_skipped_alone(tmp_path, at_once):
  builder = toy_set.make(tmp_path, train_3=b'kill', train_15=b'kill')
  report = builder.prepare(workers=2)
  assert report['splits']['train']['skipped'] == {
      'killed the process that decoded it': 2}
  assert numbers(builder) == [i for i in [*range(13), 14, *range(14, 23)]
                              if i not in (3, 15)]


def test_workers_hold_a_bounded_number_of_bytes(monkeypatch):
  monkeypatch.setattr(decoding, 'IN_FLIGHT_BYTES', 100)
  pulled = []

  def units():
    for size in (10, 20, 60, 300, 50, 50, 50, 1, 1, 1):
      pulled.append(size)
      yield 0, base.Unit('x', b'', size)

  workers = decoding.Workers(lambda unit: decoding.Decoded([], {}), 4)
  ahead, done = [], []
  for _, unit, _ in workers(units()):
    done.append(unit.size)
    ahead.append(pulled[len(done):])
  assert done == pulled
  # The last one pulled waits outside until there is room for it.
  assert ahead == [[20, 60, 300], [60, 300], [300], [50], [50, 50], [50, 1],
                   [1, 1, 1], [1, 1], [1], []]


def test_a_few_units_are_in_flight_however_small(monkeypatch):
  pulled = itertools.count()
  units = ((0, base.Unit(str(next(pulled)), b'')) for _ in range(1000))
  workers = decoding.Workers(lambda unit: decoding.Decoded([], {}), 3)
  next(iter(workers(units)))
  assert next(pulled) == 8 * 3 + 1


# --- Archives and the report ------------------------------------------------


def test_a_missing_archive_says_where_it_is_published(tmp_path):
  builder = toy_set.make(tmp_path)
  (tmp_path / 'manual/toy.tar').unlink()
  with pytest.raises(errors.UserError) as e:
    builder.prepare()
  assert str(e.value) == (
      f'dataset toy_set/tiny: toy.tar is not in {tmp_path}/manual; download it '
      '(0.0 MB) from https://example.com/toy.tar into a folder, then: python '
      '-m common.prepare --dataset=toy_set/tiny --manual_dir=FOLDER')
  assert not (tmp_path / 'data/toy_set/tiny/incomplete.1.0.0').exists()


@pytest.mark.parametrize('manual', ['manual', 'manual/toy'])
def test_an_unpacked_archive_serves_as_well(tmp_path, manual):
  builder = toy_set.make(tmp_path)
  builder.prepare()
  for name, data in toy_set.files().items():
    path = tmp_path / 'b/manual/toy' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  unpacked = toy_set.ToySet(
      config=toy_set.ToySet.find_config('tiny'), data_dir=tmp_path / 'b',
      manual_dir=tmp_path / 'b' / manual)
  assert unpacked.prepare()['warnings'] == []
  assert sorted(numbers(unpacked)) == numbers(builder)


def test_a_wrong_sum_is_a_warning_on_request(tmp_path):
  assert toy_set.make(tmp_path).prepare()['warnings'] == []
  (tmp_path / 'b').mkdir()
  warning, = toy_set.make(tmp_path / 'b').prepare(verify=True)['warnings']
  assert 'toy.tar has sha256 ' in warning and warning.endswith('one has abc')


def test_counts_are_compared_with_the_published_ones(tmp_path, monkeypatch):
  monkeypatch.setattr(toy_set.ToySet, 'PUBLISHED', {
      'tiny': {'train': {'examples': 23, 'hours': 0.01, 'numbers': 20},
               'test': {'examples': 3}}, 'other': {'train': {'examples': 1}}})
  report = toy_set.make(tmp_path).prepare()
  assert report['checked'] == ['train 23 examples', 'train 0.01 hours',
                               'train 20 numbers', 'test 3 examples']
  assert report['warnings'] == [
      'train has 23 numbers, the published data set has 20',
      'test has 0 examples, the published data set has 3']


def test_a_full_disk_is_an_error_of_the_disk(tmp_path):
  writer = array_record_module.ArrayRecordWriter('/dev/full', 'group_size:1')
  writer.write(bytes(100_000))
  with pytest.raises(OSError) as e:
    shards._close(writer, 'here')
  assert (e.value.errno, e.value.filename) == (errno.ENOSPC, 'here')


def test_tfds_can_ask_for_it_too(tmp_path):
  builder = toy_set.make(tmp_path)
  builder.download_and_prepare()
  assert len(numbers(builder)) == 23


def test_two_processes_read_disjoint_shards_of_the_whole_split(
    tmp_path, monkeypatch):
  builder = toy_set.make(tmp_path, train_13=b'13*1')
  builder.prepare()
  source = builder.as_data_source('train')
  preprocess = lambda example, rng: {'x': example['x']}
  seen = []
  for p in range(2):
    monkeypatch.setattr(jax, 'process_index', lambda p=p: p)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    batches = pipeline.train(source, preprocess, batch_size=2, seed=0)
    seen.append([int(b['x'][0]) for b in itertools.islice(batches, 23)])
  # Two epochs in 23 global batches of two.
  both = [x for pair in zip(*seen, strict=True) for x in pair]
  assert sorted(both[:23]) == sorted(both[23:]) == list(range(23))
