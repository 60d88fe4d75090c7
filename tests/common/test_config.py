import json

import ml_collections
import pytest

from common import config, errors


def test_every_setting_of_the_trainer_has_a_default_that_json_keeps(tmp_path):
  c = config.default()
  config.write(c, tmp_path / 'config.json')
  assert config.read(tmp_path / 'config.json').to_dict() == c.to_dict()


def test_bare_names_and_paths_find_the_same_file():
  for name in config.names():
    assert config.find(name) == config.find(str(config.find(name)))


def test_a_name_that_is_nearly_right_is_suggested(monkeypatch):
  monkeypatch.setattr(config, 'names', lambda: ['lstm_jsb', 'wavegan_sc09'])
  with pytest.raises(errors.UserError, match="did you mean 'lstm_jsb'"):
    config.find('lstm_jbs')


def test_a_wrong_size_lists_the_sizes():
  with pytest.raises(errors.UserError, match=r"'huge' .*; known: paper, tiny"):
    config.check_size('huge', 'paper', 'tiny')


def test_flatten_names_nested_settings_as_flags_do():
  c = ml_collections.ConfigDict({'a': 1, 'b': {'c': (1, 2), 'd': {'e': 'x'}}})
  assert config.flatten(c) == {'a': 1, 'b.c': [1, 2], 'b.d.e': 'x'}


def test_only_settings_that_change_the_computation_bind_a_workdir():
  a, b = config.default(), config.default()
  b.steps, b.mesh.fsdp, b.checkpoint.every, b.data.workers = 9, 2, 7, 3
  config.check_same(a, b, 'w')
  b.batch_size, b.data.name = 3, 'other'
  with pytest.raises(errors.UserError) as e:
    config.check_same(a, b, 'w')
  assert 'batch_size (64 there, 3 now)' in str(e.value)
  assert "data.name ('' there, 'other' now)" in str(e.value)
  assert 'mesh' not in str(e.value)


def test_a_missing_or_broken_config_names_the_workdir(tmp_path):
  with pytest.raises(errors.UserError, match='is not a workdir'):
    config.read(tmp_path / 'config.json')
  (tmp_path / 'config.json').write_text('{"a": ')
  with pytest.raises(errors.UserError, match='not valid JSON'):
    config.read(tmp_path / 'config.json')


def test_a_config_is_replaced_at_once(tmp_path, monkeypatch):
  path = tmp_path / 'config.json'
  config.write(config.default(), path)
  before = path.read_text()
  monkeypatch.setattr(json, 'dumps', lambda *a, **k: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    config.write(config.default(), path)
  assert path.read_text() == before


def test_settings_are_changed_to_values_of_their_type():
  c = config.default()
  c.model.update(rate=0.5, sizes=[1, 2], plain=False)
  config.change(c, ['steps=7', 'model.rate=2', 'model.sizes=(3, 4, 5)',
                    'data.name=a/b=c', 'model.plain=True'])
  flat = config.flatten(c)
  assert (flat['steps'], flat['model.rate'], flat['model.sizes'],
          flat['data.name'], flat['model.plain']) == (
              7, 2.0, [3, 4, 5], 'a/b=c', True)


@pytest.mark.parametrize('given, message', [
    ('steps', 'steps does not work; use NAME=VALUE'),
    ('step=7', "no setting 'step'; did you mean 'steps'"),
    ('steps=many', 'steps=many does not work; use int, such as 1000'),
    ('steps=1.5', 'use int'), ('steps=True', 'use int')])
def test_changes_that_cannot_work_are_one_sentence(given, message):
  with pytest.raises(errors.UserError, match=message):
    config.change(config.default(), [given])
