import os
import subprocess
import sys

import numpy as np
import pytest
import toy_codec

from common import errors, runs, trainer
from common.data import builders, codes, pipeline, shards, synthetic

SOURCE = 'synthetic_notes/tiny'


@pytest.fixture(scope='module')
def workdirs(data_dir, tmp_path_factory):
  """Two runs of the toy codec, of different seeds."""
  out = []
  for seed in (0, 1):
    config = toy_codec.get_config()
    config.seed = seed
    out.append(tmp_path_factory.mktemp('codec'))
    trainer.fit(config, out[-1], data_dir)
  return out


@pytest.fixture
def data(data_dir, tmp_path):
  """A data folder of this test, with the notes in it."""
  (tmp_path / 'synthetic_notes').symlink_to(f'{data_dir}/synthetic_notes')
  return tmp_path


def write(workdir, data, name='codes/toy', **options):
  return codes.write(runs.load(workdir), workdir, name, data, **options)


def files(folder):
  return {p.relative_to(folder): p.read_bytes()
          for p in sorted(folder.rglob('*.array_record*'))}


def test_every_record_holds_the_codes_of_its_sound(workdirs, data):
  report = write(workdirs[0], data)
  assert {k: v['examples'] for k, v in report['splits'].items()} == {
      'train': 37, 'valid': 11, 'test': 5}
  run = runs.load(workdirs[0])
  codec = toy_codec.codec(run.config)
  for split in ('train', 'test'):
    notes = builders.open_split(SOURCE, split, data)
    records = builders.open_split('codes/toy', split, data)
    assert len(records) == len(notes)
    for i in (0, 7 % len(notes), len(notes) - 1):
      note, record = notes[i], records[i]
      want = codec.encode(run.state, {
          'audio': toy_codec.first(note, run.config)[None]})
      for name in ('top', 'bottom'):
        assert record[name].dtype == np.uint8  # 16 levels.
        np.testing.assert_array_equal(record[name], want[name][0])
      assert record['id'] == note['id']
      assert record['pitch'] == note['pitch']
      assert record['instrument_family'] == note['instrument']['family']
      assert record['codec'] == codes.digest(run.state)
      assert not record.keys() & {'audio', 'index', 'mask'}


def test_the_data_set_says_which_codec_made_it(workdirs, data):
  write(workdirs[0], data, splits=['test'])
  info = builders.open_split('codes/toy', 'test', data).dataset_info
  assert dict(info.splits).keys() == {'test'}
  meta = info.metadata
  assert meta['workdir'] == str(workdirs[0]) and meta['step'] == 1
  assert meta['sizes'] == {'top': 16, 'bottom': 16}
  assert meta['shapes'] == {'top': [2, 4], 'bottom': [4, 8]}
  assert meta['source'] == SOURCE


def test_a_second_time_nothing_is_done(workdirs, data):
  assert write(workdirs[0], data)
  assert write(workdirs[0], data) is None


def test_codes_of_another_codec_are_not_written_over(workdirs, data):
  write(workdirs[0], data)
  before = files(data / 'codes')
  with pytest.raises(errors.UserError, match=r'another codec.*remove'):
    write(workdirs[1], data)
  with pytest.raises(errors.UserError, match=r'splits \[.*\] there'):
    write(workdirs[0], data, splits=['test'])
  assert files(data / 'codes') == before
  assert before and write(workdirs[1], data, 'codes/other')
  assert files(data / 'codes/other') != files(data / 'codes/toy')


def test_weights_have_a_digest_of_their_own(workdirs):
  a, b = (codes.digest(runs.load(w).state) for w in workdirs)
  assert a != b and a == codes.digest(runs.load(workdirs[0]).state)
  assert 0 <= a < 2**63


def test_windows_are_different_draws_of_the_same_sound(workdirs, data):
  report = write(workdirs[0], data, splits=['valid'], windows=3)
  assert report['splits']['valid']['examples'] == 33
  records = builders.open_split('codes/toy', 'valid', data)
  notes = builders.open_split(SOURCE, 'valid', data)
  assert [r['id'] for r in records] == [n['id'] for n in notes for _ in 'abc']
  assert any(not np.array_equal(records[i]['bottom'], records[i + 1]['bottom'])
             for i in range(0, 33, 3))


def test_killed_it_goes_on_with_the_next_shard(workdirs, data, monkeypatch):
  monkeypatch.setattr(codes, 'SHARD_ROWS', 8)
  write(workdirs[0], data, 'codes/whole')
  real, calls = shards.write_shard, []

  def dying(work, split, shard, units):
    if (split, shard) == ('train', 3):
      raise KeyboardInterrupt
    calls.append((split, shard))
    real(work, split, shard, units)

  monkeypatch.setattr(shards, 'write_shard', dying)
  with pytest.raises(KeyboardInterrupt):
    write(workdirs[0], data)
  assert builders.newest(data / 'codes/toy') is None
  monkeypatch.setattr(shards, 'write_shard', lambda *a: calls.append(
      a[1:3]) or real(*a))
  said = []
  write(workdirs[0], data, say=said.append)
  assert said[0].startswith('going on with')
  assert calls == [('train', i) for i in range(5)] + [
      ('valid', 0), ('valid', 1), ('test', 0)]
  whole, resumed = (files(data / 'codes' / n) for n in ('whole', 'toy'))
  assert list(whole.values()) == list(resumed.values()) and len(whole) == 8


def test_what_another_codec_began_is_begun_anew(workdirs, data, monkeypatch):
  real = shards.write_shard

  def dying(work, split, *rest):
    if split == 'test':
      raise KeyboardInterrupt
    real(work, split, *rest)

  monkeypatch.setattr(shards, 'write_shard', dying)
  with pytest.raises(KeyboardInterrupt):
    write(workdirs[1], data)
  monkeypatch.setattr(shards, 'write_shard', real)
  said = []
  write(workdirs[0], data, say=said.append)
  assert 'beginning anew' in said[0]
  write(workdirs[0], data, 'codes/whole')
  assert list(files(data / 'codes/toy').values()) == list(
      files(data / 'codes/whole').values())


def test_wrong_input_is_one_sentence(workdirs, data, monkeypatch):
  for name in ('toy', 'notes/toy', 'codes/', 'codes/a/b', 'codes/a b'):
    with pytest.raises(errors.UserError, match='no name for codes'):
      write(workdirs[0], data, name)
  with pytest.raises(errors.UserError, match="no split 'tset'"):
    write(workdirs[0], data, splits=['tset'])
  with pytest.raises(errors.UserError, match=r'common\.encode --workdir'):
    builders.open_split('codes/nothing', 'train', data)
  with pytest.raises(errors.UserError, match=r'common\.prepare'):
    write(workdirs[0], data, source='synthetic_pieces/demo')
  monkeypatch.delattr(toy_codec, 'codec')
  with pytest.raises(errors.UserError, match='toy_codec has no codes'):
    write(workdirs[0], data)


def test_synthetic_codes_are_stored_as_they_were_made(data_dir):
  for split, size in (('train', 37), ('valid', 11), ('test', 5)):
    source = builders.open_split('synthetic_codes/tiny', split, data_dir)
    assert len(source) == size
    for i in (0, size - 1):
      made, stored = synthetic.codes(split, i), source[i]
      assert made.keys() == stored.keys()
      for k in made.keys() - {'id'}:
        np.testing.assert_array_equal(made[k], stored[k])
  assert made['id'].encode() == stored['id']
  assert source.dataset_info.metadata['sizes'] == {'top': 512, 'bottom': 512}


def test_synthetic_bottom_codes_follow_the_top_ones():
  for i in range(20):
    made = synthetic.codes('train', i)
    for name, shape in synthetic.CODE_SHAPES.items():
      assert made[name].shape == shape
      assert 0 <= made[name].min() <= made[name].max() < 512
    up = np.repeat(np.repeat(made['top'], 2, 0), 2, 1)
    assert set(np.unique((made['bottom'] - up) % 512)) <= {0, 1, 3, 4}


def test_training_reads_the_codes(workdirs, data):
  write(workdirs[0], data)
  source = builders.open_split('codes/toy', 'train[:50%]', data)
  batches = pipeline.train(
      source, lambda example, rng: {'top': example['top']}, batch_size=4,
      seed=0)
  batch = next(batches)
  assert batch['top'].shape == (4, 2, 4)
  assert len(source) == 18


def test_the_binary(workdirs, data, environment):
  environment['PYTHONPATH'] += f':{os.path.dirname(toy_codec.__file__)}'
  command = [sys.executable, '-m', 'common.encode',
             f'--workdir={workdirs[0]}', '--dataset=codes/toy',
             f'--data_dir={data}', '--splits=valid,test']
  run = lambda *more: subprocess.run(
      [*command, *more], env=environment, capture_output=True, text=True,
      timeout=120, check=False)
  done = run()
  assert done.returncode == 0, done.stderr
  assert done.stdout == 'codes/toy: valid 11, test 5 records of step 1\n'
  assert run().stdout == 'codes/toy is already complete\n'
  wrong = run('--dataset=synthetic_notes/x')
  assert wrong.returncode == 2 and wrong.stderr.startswith('error: --dataset=')
