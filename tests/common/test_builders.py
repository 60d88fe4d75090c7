import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from common import errors
from common.data import builders, synthetic

SIZES = {'train': 37, 'valid': 11, 'test': 5}
MAKERS = {'synthetic_notes': synthetic.note, 'synthetic_rolls': synthetic.roll,
          'synthetic_chorales': synthetic.chorale,
          'synthetic_pieces': synthetic.piece,
          'synthetic_performances': synthetic.performance}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  for name in MAKERS:
    builders.make(f'{name}/tiny', folder).prepare()
  return folder


def files(folder: pathlib.Path):
  return {p.relative_to(folder): p.read_bytes()
          for p in sorted(folder.rglob('*')) if p.is_file()}


def spec(features):
  """{'instrument/label': (shape, dtype)} as features.json would say."""
  flat = {}
  for name, f in features.items():
    if isinstance(f, tfds.features.FeaturesDict):
      flat.update({f'{name}/{k}': v for k, v in spec(f).items()})
    elif isinstance(f, (tfds.features.Text, tfds.features.ClassLabel)):
      flat[name] = type(f).__name__, getattr(f, 'num_classes', None)
    else:
      flat[name] = f.shape, np.dtype(f.np_dtype).name
  return flat


@pytest.mark.parametrize('name', MAKERS)
def test_every_example_is_stored_as_it_was_made(folder, name):
  for split, size in SIZES.items():
    source = builders.open_split(f'{name}/tiny', split, folder)
    assert len(source) == size
    for i in (0, size - 1):
      expected, got = MAKERS[name](split, i), source[i]
      assert expected.keys() == got.keys()
      for k, v in expected.items():
        if k == 'instrument':
          v = {'label': v['label'],
               'family': synthetic.FAMILIES.index(v['family']),
               'source': synthetic.SOURCES.index(v['source'])}
        if isinstance(v, dict):
          assert v == got[k]
        elif isinstance(v, str):
          assert v.encode() == got[k]
        else:
          assert np.asarray(v).dtype.kind == np.asarray(got[k]).dtype.kind
          np.testing.assert_array_equal(v, got[k])


def test_notes_have_the_schema_of_nsynth(folder):
  features = tfds.builder_from_directory(builders.newest(
      folder / 'synthetic_notes/tiny')).info.features
  qualities = ['bright', 'dark', 'distortion', 'fast_decay', 'long_release',
               'multiphonic', 'nonlinear_env', 'percussive', 'reverb',
               'tempo-synced']
  assert spec(features) == {
      'id': ('Text', None), 'audio': ((64000,), 'float32'),
      'pitch': ('ClassLabel', 128), 'velocity': ('ClassLabel', 128),
      'instrument/label': ('ClassLabel', 1006),
      'instrument/family': ('ClassLabel', 11),
      'instrument/source': ('ClassLabel', 3),
      **{f'qualities/{q}': ((), 'bool') for q in qualities}}
  assert features['instrument']['family'].names == [
      'bass', 'brass', 'flute', 'guitar', 'keyboard', 'mallet', 'organ',
      'reed', 'string', 'synth_lead', 'vocal']
  assert features['instrument']['source'].names == [
      'acoustic', 'electronic', 'synthetic']


def test_pieces_have_the_schema_of_musicnet(folder):
  info = tfds.builder_from_directory(builders.newest(
      folder / 'synthetic_pieces/tiny')).info
  text = ['id', 'composer', 'composition', 'movement', 'ensemble', 'source',
          'transcriber', 'catalog', 'note_value']
  assert spec(info.features) == {
      **{k: ('Text', None) for k in text}, 'seconds': ((), 'float32'),
      'audio': ((None,), 'int16'), 'labels_time': ((None, 2), 'int64'),
      'labels': ((None, 2), 'int32'), 'labels_beat': ((None, 2), 'float32')}
  assert info.metadata['sample_rate'] == 16000


def test_rolls_have_the_schema_of_lpd5(folder):
  features = tfds.builder_from_directory(builders.newest(
      folder / 'synthetic_rolls/tiny')).info.features
  assert spec(features) == {
      'id': ('Text', None), 'msd_id': ('Text', None),
      'tempo': ((None,), 'float32'), 'n_steps': ((), 'int32'),
      'roll': ((None, 128, 5), 'uint8')}


def test_chorales_have_the_schema_of_the_jsb_set(folder):
  features = tfds.builder_from_directory(builders.newest(
      folder / 'synthetic_chorales/tiny')).info.features
  assert spec(features) == {'id': ((), 'int32'),
                            'voices': ((None, 4), 'int16')}


def test_a_data_set_has_the_same_bytes_each_time(folder, tmp_path):
  builders.make('synthetic_chorales/tiny', tmp_path).prepare()
  again = files(tmp_path / 'synthetic_chorales/tiny')
  assert again and again == files(folder / 'synthetic_chorales/tiny')


def test_larger_sets_begin_with_the_examples_of_smaller_ones(folder, tmp_path):
  builders.make('synthetic_chorales/n45', tmp_path).prepare()
  small = builders.open_split('synthetic_chorales/tiny', 'train', folder)
  large = builders.open_split('synthetic_chorales/n45', 'train', tmp_path)
  assert len(large) == 45
  for split in ('valid', 'test'):
    assert len(builders.open_split('synthetic_chorales/n45', split,
                                   tmp_path)) == 5
  for i, example in enumerate(small):
    np.testing.assert_array_equal(example['voices'], large[i]['voices'])


def test_building_and_reading_import_no_tensorflow(tmp_path):
  code = (
      'import sys\n'
      'from common.data import builders\n'
      f'd = {str(tmp_path)!r}\n'
      "builders.make('synthetic_chorales/tiny', d).prepare()\n"
      "assert len(builders.open_split('synthetic_chorales/tiny', 'test', d)"
      "[0]['voices']) > 0\n"
      "bad = {'tensorflow', 'torch', 'jax'} & sys.modules.keys()\n"
      'assert not bad, bad\n')
  subprocess.run([sys.executable, '-c', code], check=True,
                 cwd=pathlib.Path(builders.__file__).parents[3])


def test_a_slice_of_a_split_can_be_opened(folder):
  source = builders.open_split('synthetic_chorales/tiny', 'train[:10]+valid',
                               folder)
  assert len(source) == 21


def test_an_unknown_split_names_the_known_ones(folder):
  with pytest.raises(errors.UserError, match=(
      r"synthetic_rolls/tiny has no split 'eval'; known: .*valid")):
    builders.open_split('synthetic_rolls/tiny', 'eval', folder)
  with pytest.raises(errors.UserError, match=r"'train\[:x\]' is not a part"):
    builders.open_split('synthetic_rolls/tiny', 'train[:x]', folder)


def test_a_missing_data_set_of_files_asks_for_them(tmp_path):
  with pytest.raises(errors.UserError) as e:
    builders.open_split('audio_folder/sc09', 'train', tmp_path)
  assert str(e.value) == (
      f'dataset audio_folder/sc09 is not in {tmp_path}; prepare it with: '
      'python -m common.prepare --dataset=audio_folder/sc09 '
      f'--data_dir={tmp_path} --manual_dir=FOLDER')


def test_a_missing_data_set_names_the_command_that_makes_it(tmp_path):
  with pytest.raises(errors.UserError) as e:
    builders.open_split('synthetic_notes/n7', 'train', tmp_path)
  assert str(e.value) == (
      f'dataset synthetic_notes/n7 is not in {tmp_path}; prepare it with: '
      'python -m common.prepare --dataset=synthetic_notes/n7 '
      f'--data_dir={tmp_path}')


@pytest.mark.parametrize('name, sentence', [
    ('synthetic_note/tiny', "did you mean 'synthetic_notes'?"),
    ('nonsense/tiny', 'known: .*synthetic_pieces'),
    ('synthetic_notes/huge', "no config 'huge'; .* tiny, demo, nNUMBER"),
    ('synthetic_notes', "no config ''; write synthetic_notes/CONFIG"),
    ('synthetic_notes/n0', "no config 'n0'"),
    ('synthetic_notes/n999999', 'use n240000'),
])
def test_a_wrong_name_says_what_would_work(tmp_path, name, sentence):
  for fn in (lambda: builders.make(name, tmp_path),
             lambda: builders.open_split(name, 'train', tmp_path)):
    with pytest.raises(errors.UserError, match=sentence):
      fn()


def test_the_newest_complete_version_is_read(folder, tmp_path):
  assert builders.newest(tmp_path) is None
  for version in ('1.9.0', '1.10.0', '2.0.0'):
    (tmp_path / version).mkdir()
  (tmp_path / 'incomplete.XYZ_3.0.0').mkdir()
  for unfinished in ('1.9.0', '1.10.0', 'incomplete.XYZ_3.0.0'):
    (tmp_path / unfinished / 'dataset_info.json').touch()
  assert builders.newest(tmp_path).name == '1.10.0'


def test_the_data_dir_comes_from_the_environment(monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', '/somewhere')
  assert builders.default_data_dir() == pathlib.Path('/somewhere')
  monkeypatch.delenv('TFDS_DATA_DIR')
  assert builders.default_data_dir() == pathlib.Path(
      '~/tensorflow_datasets').expanduser()
