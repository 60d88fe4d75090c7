import gzip
import io
import json
import pathlib
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2
from test_builders import spec
from test_tfrecord import checksum, record

from common import errors
from common.data import builders, tfrecord
from common.data.builders import nsynth

SHARED = pathlib.Path(__file__).parents[3] / 'shared/data'
needs_shared = pytest.mark.skipif(
    not (SHARED / 'nsynth').exists(),
    reason=f'the real samples are not in {SHARED}')

# Instruments, their published numbers, and notes of the three splits.
NUMBERS = {'bass_acoustic_000': 417, 'string_acoustic_012': 3,
           'synth_lead_synthetic_001': 1005, 'organ_electronic_104': 0,
           'flute_acoustic_027': 77}
NOTES = {
    'train': ['bass_acoustic_000-023-025', 'bass_acoustic_000-024-127',
              'bass_acoustic_000-027-050', 'synth_lead_synthetic_001-060-100',
              'string_acoustic_012-084-075'],
    'valid': ['string_acoustic_012-085-075', 'string_acoustic_012-060-075',
              'organ_electronic_104-060-075'],
    'test': ['flute_acoustic_027-070-100', 'flute_acoustic_027-071-100'],
}
# Which the published csv would name: the acoustic ones of pitch 24 to 84.
SUBSET = {'bass_acoustic_000-024-127': 'train',
          'bass_acoustic_000-027-050': 'test',
          'string_acoustic_012-084-075': 'valid',
          'string_acoustic_012-060-075': 'train',
          'flute_acoustic_027-070-100': 'train',
          'flute_acoustic_027-071-100': 'valid'}


def fields(note_str):
  """A record of examples.json, with all 13 fields."""
  instrument, pitch, velocity = note_str.split('-')
  family, source, _ = instrument.rsplit('_', 2)
  qualities = np.random.default_rng(list(note_str.encode())).integers(0, 2, 10)
  return {
      'note': 5, 'note_str': note_str, 'instrument': NUMBERS[instrument],
      'instrument_str': instrument, 'pitch': int(pitch),
      'velocity': int(velocity), 'sample_rate': 16000,
      'qualities': qualities.tolist(),
      'qualities_str': [q for q, on in zip(nsynth.QUALITIES, qualities,
                                           strict=True) if on],
      'instrument_family': nsynth.FAMILIES.index(family),
      'instrument_family_str': family,
      'instrument_source': nsynth.SOURCES.index(source),
      'instrument_source_str': source}


def samples(note_str):
  rng = np.random.default_rng(list(note_str.encode()))
  return rng.integers(-2**15, 2**15, 64000, np.int16)


def wav(samples, rate=16000, claimed=None):
  data = samples.tobytes()
  head = b'WAVEfmt ' + struct.pack('<IHHIIHH', 16, 1, 1, rate, 2 * rate, 2, 16)
  head += b'data' + struct.pack('<I', len(data) if claimed is None else claimed)
  return b'RIFF' + struct.pack('<I', len(head) + len(data)) + head + data


def tree(split, json_last=True):
  """The json-wav release of a split: {name: bytes}."""
  records = json.dumps({n: fields(n) for n in NOTES[split]}, indent=2)
  index = {f'nsynth-{split}/examples.json': records.encode()}
  wavs = {f'nsynth-{split}/audio/{n}.wav': wav(samples(n))
          for n in NOTES[split]}
  return {**wavs, **index} if json_last else {**index, **wavs}


def example(note_str, /, audio=None, **changes):
  """A record of the TFRecord release; its audio is finer than 16 bits."""
  message = tf_example_pb2.Example()
  feature = message.features.feature
  audio = samples(note_str) / 32769 if audio is None else audio
  feature['audio'].float_list.value.extend(audio.astype(np.float32).tolist())
  for key, value in {**fields(note_str), **changes}.items():
    values = value if isinstance(value, list) else [value]
    if key == 'qualities_str' or isinstance(values[0], str):
      feature[key].bytes_list.value.extend(v.encode() for v in values)
    else:
      feature[key].int64_list.value.extend(values)
  return message.SerializeToString()


def fast_record(payload):
  """As `record`, whose checksum is slow."""
  assert checksum(b'1' * 9) == record(b'1' * 9)[-4:]
  crc = tfrecord.crc32c(payload)  # Tested against the slow one.
  mask = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
  return record(payload[:0])[:0] + struct.pack('<Q', len(payload)) + checksum(
      struct.pack('<Q', len(payload))) + payload + struct.pack('<I', mask)


def tfrecords(split):
  """Two shards."""
  payloads = [fast_record(example(n)) for n in NOTES[split]]
  return {f'nsynth-{split}.tfrecord-{i:05d}-of-00002':
          b''.join(payloads[i::2]) for i in range(2)}


def write_tar(path, files, mode='w:gz', extra=()):
  options = {'compresslevel': 1} if mode == 'w:gz' else {}
  with tarfile.open(path, mode, **options) as tar:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
    for info in extra:
      tar.addfile(info)


def write_json_wav(folder, json_last=True):
  for split in NOTES:
    write_tar(folder / f'nsynth-{split}.jsonwav.tar.gz',
              tree(split, json_last))


def write_tfrecord(folder):
  for split in NOTES:
    write_tar(folder / f'nsynth-{split}.tfrecord.tar', tfrecords(split), 'w')


def write_labels(folder):
  names = [f'guitar_electronic_{i:03d}' for i in range(1006)]
  for name, number in NUMBERS.items():
    names[number] = name
  (folder / 'nsynth-instrument_labels.txt').write_text('\n'.join(names) + '\n')


def write_subset(folder):
  (folder / 'nsynth-gansynth_splits.csv').write_text(
      'id,split\n' + ''.join(f'{i},{s}\n' for i, s in SUBSET.items()))


def build(folder, config='full'):
  builder = builders.make(f'nsynth/{config}', folder / 'out', folder)
  report = builder.prepare()
  lines = (pathlib.Path(builder.data_dir) / 'skipped.tsv').read_text()
  info = tfds.builder_from_directory(builder.data_dir).info
  return report, [line.split('\t') for line in lines.splitlines()[1:]], {
      split: {x['id'].decode(): x for x in builders.open_split(
          f'nsynth/{config}', split, folder / 'out')}
      for split in report['splits']}, info


@pytest.fixture(scope='module')
def json_wav(tmp_path_factory):
  folder = tmp_path_factory.mktemp('json_wav')
  write_json_wav(folder)
  return build(folder)


def same(a, b):
  assert a.keys() == b.keys()
  for split in a:
    assert list(a[split]) == list(b[split])
    for i in a[split]:
      for k in a[split][i]:
        np.testing.assert_array_equal(a[split][i][k], b[split][i][k])


def check(splits, info, audio_of):
  assert {s: list(x) for s, x in splits.items()} == NOTES
  names = info.features['instrument']['label'].names
  for rows in splits.values():
    for i, x in rows.items():
      expected = fields(i)
      np.testing.assert_array_equal(x['audio'], audio_of(i))
      assert x['audio'].dtype == np.float32
      assert (x['pitch'], x['velocity']) == (
          expected['pitch'], expected['velocity'])
      assert names[x['instrument']['label']] == expected['instrument_str']
      assert x['instrument']['label'] == expected['instrument']
      assert x['instrument']['family'] == expected['instrument_family']
      assert x['instrument']['source'] == expected['instrument_source']
      assert [x['qualities'][q] for q in nsynth.QUALITIES] == [
          bool(q) for q in expected['qualities']]


def test_the_json_wav_release_is_read(json_wav):
  report, skipped, splits, info = json_wav
  check(splits, info, lambda i: samples(i) / np.float32(32768))
  assert not skipped
  assert info.metadata['release'] == 'json-wav'
  assert report['splits']['train']['notes'] == 5
  assert report['splits']['train']['hours'] == pytest.approx(20 / 3600)
  assert any('289,205' in w for w in report['warnings'])


def test_the_tfrecord_release_is_read(tmp_path):
  write_tfrecord(tmp_path)
  write_labels(tmp_path)
  _, skipped, splits, info = build(tmp_path)
  assert not skipped
  for split in splits:  # Two shards: every second note.
    splits[split] = {i: splits[split][i] for i in NOTES[split]}
  check(splits, info, lambda i: (samples(i) / 32769).astype(np.float32))
  assert info.metadata['release'] == 'tfrecord'


def test_the_schema_is_that_of_the_official_builder(json_wav):
  # tensorflow_datasets/datasets/nsynth/nsynth_dataset_builder.py, 2.3.3.
  info = json_wav[-1]
  assert spec(info.features) == {
      'id': ('Text', None), 'audio': ((64000,), 'float32'),
      'pitch': ('ClassLabel', 128), 'velocity': ('ClassLabel', 128),
      'instrument/label': ('ClassLabel', 1006),
      'instrument/family': ('ClassLabel', 11),
      'instrument/source': ('ClassLabel', 3),
      **{f'qualities/{q}': ((), 'bool') for q in (
          'bright', 'dark', 'distortion', 'fast_decay', 'long_release',
          'multiphonic', 'nonlinear_env', 'percussive', 'reverb',
          'tempo-synced')}}
  assert info.features['instrument']['family'].names == [
      'bass', 'brass', 'flute', 'guitar', 'keyboard', 'mallet', 'organ',
      'reed', 'string', 'synth_lead', 'vocal']
  assert info.features['instrument']['source'].names == [
      'acoustic', 'electronic', 'synthetic']
  assert info.metadata['sample_rate'] == 16000
  assert str(info.version) == '2.3.3'


def test_the_schema_is_that_of_synthetic_notes(json_wav, tmp_path):
  made = builders.make('synthetic_notes/tiny', tmp_path).info
  assert spec(json_wav[-1].features) == spec(made.features)


def test_it_does_not_matter_where_the_json_is(json_wav, tmp_path):
  write_json_wav(tmp_path, json_last=False)
  same(json_wav[2], build(tmp_path)[2])


def test_the_unpacked_trees_give_the_same_examples(json_wav, tmp_path):
  for split in NOTES:
    for name, data in tree(split).items():
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / name).write_bytes(data)
  _, skipped, splits, _ = build(tmp_path)
  assert not skipped
  assert {s: sorted(x) for s, x in splits.items()} == {
      s: sorted(x) for s, x in NOTES.items()}
  same(json_wav[2], {s: {i: splits[s][i] for i in NOTES[s]} for s in splits})


@pytest.mark.parametrize('one_file', [True, False])
def test_unpacked_tfrecords_are_read(tmp_path, one_file):
  write_labels(tmp_path)
  for split in NOTES:
    path = tmp_path / f'nsynth-{split}.tfrecord'
    if one_file:
      path.write_bytes(b''.join(tfrecords(split).values()))
    else:
      path.mkdir()
      for name, data in tfrecords(split).items():
        (path / name).write_bytes(data)
  _, skipped, splits, _ = build(tmp_path)
  assert not skipped
  assert {s: sorted(x) for s, x in splits.items()} == {
      s: sorted(x) for s, x in NOTES.items()}


def test_a_split_that_is_not_there_is_left_out_and_said(tmp_path):
  write_tar(tmp_path / 'nsynth-test.jsonwav.tar.gz', tree('test'))
  report, _, splits, _ = build(tmp_path)
  assert splits.keys() == {'test'} and len(splits['test']) == 2
  assert any('train' in w for w in report['warnings'])


@pytest.mark.parametrize('release', ['json-wav', 'tfrecord'])
def test_the_gansynth_subset_follows_the_published_csv(tmp_path, release):
  if release == 'tfrecord':
    write_tfrecord(tmp_path)
    write_labels(tmp_path)
  else:
    write_json_wav(tmp_path)
  write_subset(tmp_path)
  _, skipped, splits, info = build(tmp_path, 'gansynth_subset')
  assert not skipped
  assert {i: s for s in splits for i in splits[s]} == SUBSET
  assert info.metadata['split_by'] == 'nsynth-gansynth_splits.csv'


def test_without_its_csv_the_subset_is_split_by_a_hash(tmp_path):
  write_json_wav(tmp_path)
  # So that each split has notes: the hash decides.
  found = {i: nsynth._subset_split(i) for i in SUBSET}
  assert set(found.values()) == {'train', 'valid', 'test'}
  _, _, splits, info = build(tmp_path, 'gansynth_subset')
  assert {i: s for s in splits for i in splits[s]} == found
  assert 'hash' in info.metadata['split_by'] or (
      'sha256' in info.metadata['split_by'])


def test_the_hash_splits_70_20_10():
  splits = [nsynth._subset_split(f'guitar_acoustic_{i:03d}-060-100')
            for i in range(20_000)]
  for split, share in (('train', 0.7), ('valid', 0.2), ('test', 0.1)):
    # Three standard deviations.
    assert abs(splits.count(split) / 20_000 - share) < 0.0098


def test_names_of_instruments_that_no_json_has_are_filled_in(json_wav):
  names = json_wav[-1].features['instrument']['label'].names
  assert len(set(names)) == 1006
  assert {n: names.index(n) for n in NUMBERS} == NUMBERS
  assert names[1] == 'unknown_0001'


def test_numbers_beyond_the_published_ones_get_free_labels(tmp_path):
  files = {}
  for split, notes in NOTES.items():
    records = {n: fields(n) for n in notes}
    for r in records.values():
      r['instrument'] += 1005  # Only the organ's, 0, stays in range.
    files = tree(split)
    files[f'nsynth-{split}/examples.json'] = json.dumps(records).encode()
    write_tar(tmp_path / f'nsynth-{split}.jsonwav.tar.gz', files)
  _, skipped, splits, info = build(tmp_path)
  assert not skipped
  names = info.features['instrument']['label'].names
  assert len(set(names)) == 1006 and names[1005] == 'organ_electronic_104'
  for rows in splits.values():
    for i, x in rows.items():
      assert names[x['instrument']['label']] == i.split('-')[0]


@needs_shared
def test_a_tree_of_real_recordings_is_read_without_tensorflow(tmp_path):
  (tmp_path / 'nsynth-test').symlink_to(SHARED / 'nsynth_style_notes')
  code = ('import sys\n'
          'from common.data import builders\n'
          f'd = {str(tmp_path)!r}\n'
          "builders.make('nsynth/full', d, d).prepare()\n"
          "bad = {'tensorflow', 'torch', 'jax'} & sys.modules.keys()\n"
          'assert not bad, bad\n')
  subprocess.run([sys.executable, '-c', code], check=True,
                 cwd=pathlib.Path(builders.__file__).parents[3])
  rows = list(builders.open_split('nsynth/full', 'test', tmp_path))
  assert len(rows) == 63
  assert min(x['pitch'] for x in rows) == 21
  assert max(x['pitch'] for x in rows) == 93
  names = tfds.builder_from_directory(builders.newest(
      tmp_path / 'nsynth/full')).info.features['instrument']['label'].names
  for x in rows:
    assert x['audio'].shape == (64000,) and x['audio'].dtype == np.float32
    assert 0 < np.abs(x['audio']).max() < 1
    assert x['id'].decode() == (f'{names[x["instrument"]["label"]]}-'
                                f'{x["pitch"]:03d}-{x["velocity"]:03d}')


@needs_shared
def test_real_records_are_all_understood():
  path = SHARED / 'nsynth/examples_test_acoustic_subset.json'
  with open(path, 'rb') as f:
    records = dict(nsynth._json_records(f))
  assert records == json.loads(path.read_text()) and len(records) == 1689
  families, instruments, playable = {}, {}, 0
  for key, value in records.items():
    note, instrument, number = nsynth._note(key, value)
    pitch, _, family, source, _ = nsynth._NOTE.unpack(note)
    family = nsynth.FAMILIES[family]
    families[family] = families.get(family, 0) + 1
    assert instruments.setdefault(instrument, number) == number
    assert nsynth.SOURCES[source] == 'acoustic'
    playable += 24 <= pitch <= 84
  assert families == {
      'guitar': 481, 'string': 306, 'brass': 269, 'reed': 235, 'mallet': 202,
      'keyboard': 119, 'flute': 55, 'vocal': 22}
  assert len(instruments) == 26 and playable == 1328


@needs_shared
def test_real_notes_pass_through_the_tfrecord_release_bit_by_bit(tmp_path):
  notes = np.load(SHARED / 'nsynth/example_nsynth_audio.npy')
  assert (notes * 32768 % 1 != 0).mean() > 0.4  # Not 16-bit audio.
  path = SHARED / 'nsynth/examples_test_acoustic_subset.json'
  records = list(json.loads(path.read_text()).items())[:16]
  payloads = []
  for (_, r), audio in zip(records, notes, strict=True):
    NUMBERS.setdefault(r['instrument_str'], r['instrument'])
    payloads.append(fast_record(example(r['note_str'], audio, **r)))
  (tmp_path / 'nsynth-test.tfrecord').write_bytes(b''.join(payloads))
  write_labels(tmp_path)
  _, skipped, splits, _ = build(tmp_path)
  assert not skipped
  for (i, r), audio in zip(records, notes, strict=True):
    np.testing.assert_array_equal(splits['test'][i]['audio'], audio)
    assert splits['test'][i]['pitch'] == r['pitch']


# --- Broken and hostile -----------------------------------------------------


def test_broken_wavs_are_skipped_and_reported(tmp_path):
  bad = {
      'train': [wav(samples('x')[:100]), wav(samples('x'), claimed=200_000),
                b'', wav(samples('x'), rate=8000)],
      'valid': [b'not a wav file' * 100, wav(samples('x')[:0])]}
  reasons = {
      'train': ['not 64000 samples', 'wav file that is shorter than its header '
                'says', 'wav file that is shorter than its header says',
                'not mono at 16000 Hz'],
      'valid': ['not a wav file', 'not 64000 samples']}
  expected = []
  for split in NOTES:
    files = tree(split)
    for note, data, why in zip(NOTES[split], bad.get(split, []),
                               reasons.get(split, []), strict=False):
      name = f'nsynth-{split}/audio/{note}.wav'
      files[name] = data
      expected.append([split, name, why])
    extra = tarfile.TarInfo(f'nsynth-{split}/audio/link.wav')
    extra.type, extra.linkname = tarfile.SYMTYPE, '/etc/passwd'
    expected.append([split, extra.name, 'link'])
    files[f'nsynth-{split}/../../{NOTES[split][0]}.wav'] = b'outside'
    expected.append([split, f'nsynth-{split}/../../{NOTES[split][0]}.wav',
                     "name with '..'"])
    files['stranger.wav'] = wav(samples('x'))
    expected.append([split, 'stranger.wav', 'not in examples.json'])
    again = f'copy/{NOTES[split][-1]}.wav'
    files[again] = wav(samples('x'))
    expected.append([split, again, 'a second time'])
    write_tar(tmp_path / f'nsynth-{split}.jsonwav.tar.gz', files,
              extra=[extra])
  report, skipped, splits, _ = build(tmp_path)
  assert sorted(skipped) == sorted(expected)
  assert {s: len(x) for s, x in splits.items()} == {
      'train': 1, 'valid': 1, 'test': 2}
  assert report['splits']['train']['skipped']['not 64000 samples'] == 1
  assert not (tmp_path.parent / f'{NOTES["train"][0]}.wav').exists()


@pytest.mark.parametrize('broken', [
    b'', b'[]', b'{', b'null', b'"text', b'{"a"', b'{"a": }', b'{5: 6}',
    b'[' * 100_000, b'{"a": ' * 100_000, b'\xff' * 1000, b'{"a": 1e999',
    b'{"a": ' + b'9' * 100_000 + b'}', b' ' * 10**6], ids=range(14))
def test_a_json_that_makes_no_sense_is_reported(tmp_path, broken):
  for split in NOTES:
    files = tree(split)
    if split == 'train':
      files['nsynth-train/examples.json'] = broken
    write_tar(tmp_path / f'nsynth-{split}.jsonwav.tar.gz', files, 'w')
    (tmp_path / f'nsynth-{split}.jsonwav.tar.gz').write_bytes(gzip.compress(
        (tmp_path / f'nsynth-{split}.jsonwav.tar.gz').read_bytes(), 1))
  with pytest.raises(errors.UserError, match=r'(?s)train.*examples\.json'):
    build(tmp_path)


WRONG = [
    ('pitch', 128), ('pitch', -1), ('pitch', 60.0), ('pitch', '60'),
    ('velocity', None), ('velocity', [75]), ('instrument', 1.5),
    ('instrument', float('inf')), ('instrument_str', 5),
    ('instrument_str', 'a\nb'), ('instrument_str', '\ud800'),
    ('instrument_str', ''), ('instrument_family_str', 'kazoo'),
    ('instrument_family_str', {}), ('instrument_source_str', 'real'),
    ('qualities', [0] * 9), ('qualities', [2] * 10), ('qualities', 3),
    ('qualities', [[]] * 10), ('qualities', '0' * 10), ('note_str', 'other'),
    ('note_str', None)]


def test_records_of_another_shape_are_skipped_and_reported(tmp_path):
  good = NOTES['test'][0]
  records = {f'flute_acoustic_027-{i:03d}-100': {
      **fields(f'flute_acoustic_027-{i:03d}-100'), key: value}
             for i, (key, value) in enumerate(WRONG)}
  for i, value in enumerate([None, 5, 'text', [], {}, [fields(good)]]):
    records[f'shape_{i}'] = value
  records['../../etc/passwd'] = {**fields(good), 'note_str': '../../etc/passwd'}
  del records['flute_acoustic_027-003-100']['velocity']
  files = {'examples.json': json.dumps({**records, good: fields(good)}
                                       ).encode(),
           **{f'{n}.wav': wav(samples('x')) for n in (*records, good)
              if '/' not in n}}
  write_tar(tmp_path / 'nsynth-test.jsonwav.tar.gz', files)
  report, _, splits, info = build(tmp_path)
  assert list(splits['test']) == [good]
  reasons = report['splits']['test']['skipped']
  assert reasons == {'broken record': len(records),
                     'not in examples.json': len(records) - 1}
  assert 'flute_acoustic_027' in info.features['instrument']['label'].names


def test_all_records_before_the_damage_of_a_json_are_used(tmp_path):
  files = tree('train')
  name = 'nsynth-train/examples.json'
  files[name] = files[name][:-100]  # In the last record.
  write_tar(tmp_path / 'nsynth-train.jsonwav.tar.gz', files)
  _, skipped, splits, _ = build(tmp_path)
  assert list(splits['train']) == NOTES['train'][:-1]
  assert [why for _, _, why in skipped] == [
      'broken JSON; what comes before is used', 'not in examples.json']


def test_of_a_truncated_tar_all_before_its_end_is_kept(tmp_path):
  path = tmp_path / 'nsynth-train.jsonwav.tar.gz'
  files = list(tree('train', json_last=False).items())
  files.insert(4, ('long', np.random.default_rng(0).bytes(700_000)))
  write_tar(path, dict(files))
  path.write_bytes(path.read_bytes()[:-100_000])
  _, skipped, splits, _ = build(tmp_path)
  kept = len(splits['train'])
  assert kept in (3, 4) and list(splits['train']) == NOTES['train'][:kept]
  whys = [why for _, _, why in skipped]
  assert {'truncated', 'truncated archive'} & set(whys)
  assert whys.count('in examples.json, but not there') == 5 - kept


def test_broken_tfrecords_are_skipped_and_reported(tmp_path):
  write_labels(tmp_path)
  whole = {n: fast_record(example(n)) for n in NOTES['train'] + NOTES['test']}
  a, b, c, d, e, f, g = whole.values()
  flipped = bytearray(b)
  flipped[1000] ^= 1
  short = fast_record(example(NOTES['train'][3], np.zeros(10)))
  nan = fast_record(example(NOTES['train'][3], np.full(64000, np.nan)))
  strange = fast_record(example(NOTES['train'][4], instrument_str='kazoo'))
  family = fast_record(example(NOTES['train'][4],
                               instrument_family_str='kazoo'))
  lied = bytearray(f)
  lied[0] ^= 1
  write_tar(tmp_path / 'nsynth-train.tfrecord.tar', {
      'one': a + flipped + short + nan + strange + family
      + fast_record(b'\xff' * 50) + fast_record(b'') + c,
      'two': d + e[:-1],
      'three': bytes(lied) + g,
      'four': b'',
      'README': b'This is a text of some length.',
      'five': g}, 'w')
  _, skipped, splits, _ = build(tmp_path)
  first, _, third, fourth, _, _, last = whole
  assert list(splits['train']) == [first, third, fourth, last]
  assert skipped == [
      ['train', 'one: 1', 'wrong checksum of a record'],
      ['train', 'one: 2', 'not 64000 samples'],
      ['train', 'one: 3', 'samples that are NaN or infinite'],
      ['train', 'one: 4', 'unknown instrument'],
      ['train', 'one: 5', 'broken record'],
      ['train', 'one: 6', 'broken record'],
      ['train', 'one: 7', 'broken record'],
      ['train', 'two', 'truncated TFRecord file'],
      ['train', 'three', 'not a TFRecord file'],
      ['train', 'README', 'not a TFRecord file']]


def test_what_to_download_is_said(tmp_path):
  with pytest.raises(errors.UserError, match=(
      r'not in .*: nsynth-train\.tfrecord\.tar, .*http')):
    build(tmp_path)
  write_tar(tmp_path / 'nsynth-test.jsonwav.tar.gz', tree('test'))
  with pytest.raises(errors.UserError, match=(
      r'gansynth_subset: .*nsynth-train.jsonwav.tar.gz, nsynth-valid')):
    build(tmp_path, 'gansynth_subset')
  other = tmp_path / 'other'
  other.mkdir()
  write_tar(other / 'nsynth-test.tfrecord.tar', tfrecords('test'), 'w')
  with pytest.raises(errors.UserError, match=r'instrument_labels\.txt .20 kB'):
    build(other)
  for text in (b'a\nb\n', b'a\n' * 1006, b'\xff\xfe' * 50):
    (other / 'nsynth-instrument_labels.txt').write_bytes(text)
    with pytest.raises(errors.UserError, match='not hold 1006 different'):
      build(other)


def test_a_split_csv_of_another_shape_is_named(tmp_path):
  write_json_wav(tmp_path)
  (tmp_path / 'nsynth-gansynth_splits.csv').write_text('a,b\n1,2\n')
  with pytest.raises(errors.UserError, match="does not begin with 'id,split'"):
    build(tmp_path, 'gansynth_subset')
