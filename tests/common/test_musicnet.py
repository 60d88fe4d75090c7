import io
import json
import pathlib
import pickle
import struct
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
import soxr
import tensorflow_datasets as tfds
from test_builders import spec

from common import errors
from common.data import builders
from common.data.builders import musicnet

SHARED = pathlib.Path(__file__).parents[3] / 'shared/data/musicnet'
needs_shared = pytest.mark.skipif(
    not SHARED.exists(), reason=f'the real samples are not in {SHARED}')

HEADER = 'start_time,end_time,instrument,note,start_beat,end_beat,note_value'
# Quoted commas, as published.
METADATA = '''\
id,composer,composition,movement,ensemble,source,transcriber,catalog_name,seconds
1727,Schubert,"Piano Quintet, in A",2. Andante,Piano Quintet,Archive,x,OP114,25
2131,Brahms,Sextet,"I. Allegro, ma non troppo",Sextet,Archive,x,OP18,3
2303,Bach,WTK,Fugue,Solo Piano,Ishizaka,x,BWV871,10
'''


def sound(seconds, seed):
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * 44100)) / 44100
  tones = sum(np.sin(2 * np.pi * (f * t + rng.random()))
              for f in rng.uniform(50, 4000, 5))
  return (0.15 * tones + 0.01 * rng.normal(size=len(t))).astype('<f4')


SOUNDS = {'1727': sound(25.3, 0), '2131': sound(3, 1), '2303': sound(10, 2)}
# start, end, instrument, note, start beat, length, its name.
NOTES = {
    '1727': [(0, 22050, 1, 60, 0.0, 1.0, 'Quarter'),
             (430000, 450000, 41, 72, 19.5, 1.5, 'Dotted Quarter'),
             (441000, 441441, 43, 40, 20.0, 0.5, 'Eighth'),
             (700000, 1100000, 43, 36, 30.25, 16.0, 'Whole')],
    '2131': [(44100, 88200, 61, 55, 4.0, 0.75, 'Dotted Eighth')],
    '2303': [],
}


def wav(samples, rate=44100, channels=1, claimed=None):
  """A wav of 32-bit floats, as published; `claimed` bytes of sound."""
  data = samples.tobytes()
  claimed = len(data) if claimed is None else claimed
  head = b'WAVEfmt ' + struct.pack('<IHHIIHH', 16, 3, channels, rate,
                                   4 * channels * rate, 4 * channels, 32)
  head += b'data' + struct.pack('<I', claimed)
  return b'RIFF' + struct.pack('<I', len(head) + len(data)) + head + data


def csv_of(notes):
  return '\n'.join([HEADER, *(','.join(map(str, n)) for n in notes), ''
                    ]).encode()


def tree():
  """The published archive: sound first, then labels."""
  folder = lambda i: 'test' if i == '2303' else 'train'
  return {
      **{f'musicnet/{folder(i)}_data/{i}.wav': wav(SOUNDS[i]) for i in SOUNDS},
      **{f'musicnet/{folder(i)}_labels/{i}.csv': csv_of(NOTES[i])
         for i in NOTES}}


def write_tar(path, files, extra=()):
  with tarfile.open(path, 'w:gz', compresslevel=1) as tar:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
    for info in extra:
      tar.addfile(info)


class Interval(tuple):
  """As pickled by the package of that name."""

  def __reduce__(self):
    return Interval, tuple(self)


class IntervalTree:

  def __init__(self, intervals):
    self.intervals = intervals

  def __reduce__(self):
    return IntervalTree, (self.intervals,)


@pytest.fixture
def interval_modules(monkeypatch):
  """The package that wrote the npz is there while the test writes one."""
  for cls, name in ((Interval, 'intervaltree.interval'),
                    (IntervalTree, 'intervaltree.intervaltree')):
    module = types.ModuleType(name)
    setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, name.split('.')[0],
                        types.ModuleType('intervaltree'))
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(cls, '__module__', name)


def npy(content, shape=(2,)):
  """An object array, as numpy.save writes it."""
  out = io.BytesIO()
  np.lib.format.write_array_header_1_0(out, {
      'descr': '|O', 'fortran_order': False, 'shape': shape})
  out.write(pickle.dumps(content, protocol=2))
  return out.getvalue()


def recording(audio, intervals):
  array = np.empty(2, object)
  array[0], array[1] = audio, IntervalTree(
      [Interval((start, end, data)) for start, end, data in intervals])
  return npy(array)


def write_npz(path, members):
  with zipfile.ZipFile(path, 'w') as z:
    for name, data in members.items():
      z.writestr(f'{name}.npy', data)


def build(tmp_path, config='full_44k', metadata=METADATA):
  if metadata is not None:
    (tmp_path / 'musicnet_metadata.csv').write_text(metadata)
  builder = builders.make(f'musicnet/{config}', tmp_path / 'out', tmp_path)
  report = builder.prepare()
  folder = pathlib.Path(builder.data_dir)
  lines = (folder / 'skipped.tsv').read_text().splitlines()
  return report, [line.split('\t') for line in lines[1:]], {
      split: list(builders.open_split(f'musicnet/{config}', split,
                                      tmp_path / 'out'))
      for split in report['splits']}


@pytest.fixture(scope='module')
def published(tmp_path_factory):
  """{config: what `build` returns} from the tar.gz."""
  out = {}
  for config in ('full_44k', '16k', '11k', 'labels_only'):
    folder = tmp_path_factory.mktemp(config)
    write_tar(folder / 'musicnet.tar.gz', tree())
    out[config] = build(folder, config), folder / 'out'
  return out


def same(a, b):
  assert a.keys() == b.keys()
  for split in a:
    assert len(a[split]) == len(b[split])
    for x, y in zip(a[split], b[split], strict=True):
      assert x.keys() == y.keys()
      for k in x:
        np.testing.assert_array_equal(x[k], y[k])


def test_recordings_are_stored_in_chunks_of_ten_seconds_and_the_rest(
    published):
  (report, skipped, splits), _ = published['full_44k']
  assert [(x['id'], x['chunk'], x['offset'], len(x['audio']))
          for split in ('train', 'valid', 'test') for x in splits[split]] == [
              (b'1727', 0, 0, 441000), (b'1727', 1, 441000, 674730),
              (b'2131', 0, 0, 132300), (b'2303', 0, 0, 441000)]
  assert not skipped
  assert report['splits']['train']['recordings'] == 1
  assert report['splits']['train']['hours'] == pytest.approx(25.3 / 3600)
  assert report['splits']['train']['notes'] == 4
  assert any(w.startswith('test has 1 recordings') for w in report['warnings'])


def test_audio_is_the_published_one_in_16_bits(published):
  (_, _, splits), _ = published['full_44k']
  for split, recording in (('train', '1727'), ('valid', '2131'),
                           ('test', '2303')):
    audio = np.concatenate([x['audio'] for x in splits[split]])
    assert audio.dtype == np.int16
    np.testing.assert_array_equal(audio, np.rint(SOUNDS[recording] * 32768))


@pytest.mark.parametrize('config, rate', [('16k', 16000), ('11k', 11025)])
def test_resampled_chunks_join_as_the_whole_resampled(published, config, rate):
  (_, _, splits), _ = published[config]
  chunks = splits['train']
  audio = np.concatenate([x['audio'] for x in chunks])
  assert chunks[1]['offset'] == len(chunks[0]['audio']) == 10 * rate
  whole = soxr.resample(SOUNDS['1727'], 44100, rate) * 32768
  assert len(audio) == len(whole)
  # Half a step of rounding, and as good as nothing at the seam.
  assert np.abs(audio - whole).max() < 0.51


def test_a_chunk_has_the_notes_that_sound_in_it(published):
  (_, _, splits), _ = published['full_44k']
  first, second = splits['train']
  np.testing.assert_array_equal(first['labels_time'],
                                [[0, 22050], [430000, 450000]])
  np.testing.assert_array_equal(first['labels'], [[1, 60], [41, 72]])
  np.testing.assert_array_equal(first['labels_beat'], [[0, 1], [19.5, 1.5]])
  assert first['note_value'] == b'Quarter\nDotted Quarter'
  # Counted from the start of the chunk: what began before is negative.
  np.testing.assert_array_equal(second['labels_time'], [
      [-11000, 9000], [0, 441], [259000, 659000]])
  np.testing.assert_array_equal(second['labels'], [[41, 72], [43, 40],
                                                   [43, 36]])
  assert second['note_value'] == b'Dotted Quarter\nEighth\nWhole'
  assert splits['test'][0]['labels'].shape == (0, 2)


def test_times_of_notes_count_samples_of_the_audio(published):
  (_, _, splits), _ = published['16k']
  first, second = splits['train']
  np.testing.assert_array_equal(first['labels_time'], [
      [0, 8000], [156009, 163265]])
  np.testing.assert_array_equal(second['labels_time'], [
      [-3991, 3265], [0, 160], [93968, 239093]])


def test_the_metadata_is_joined_with_its_quoted_commas(published):
  (_, _, splits), _ = published['full_44k']
  for x in splits['train']:
    assert x['composition'] == b'Piano Quintet, in A'
    assert (x['catalog'], x['seconds']) == (b'OP114', 25)
  assert splits['valid'][0]['movement'] == b'I. Allegro, ma non troppo'


def test_labels_alone_are_one_record_for_each_recording(published):
  (report, _, splits), _ = published['labels_only']
  for split, name in (('train', '1727'), ('valid', '2131'), ('test', '2303')):
    x, = splits[split]
    assert 'audio' not in x and x['id'] == name.encode()
    np.testing.assert_array_equal(
        x['labels_time'], np.reshape([n[:2] for n in NOTES[name]], (-1, 2)))
    np.testing.assert_array_equal(
        x['labels'], np.reshape([n[2:4] for n in NOTES[name]], (-1, 2)))
  assert report['splits']['train']['notes'] == 4
  assert report['splits']['train']['hours'] == pytest.approx(25 / 3600)


def test_the_schema_is_that_of_synthetic_pieces_and_the_place_of_a_chunk(
    published, tmp_path):
  made = tfds.builder_from_directory(builders.newest(
      published['16k'][1] / 'musicnet/16k')).info
  assert spec(made.features) == {
      **spec(builders.make('synthetic_pieces/tiny', tmp_path).info.features),
      'chunk': ((), 'int32'), 'offset': ((), 'int64')}
  assert made.metadata['sample_rate'] == 16000
  assert len(made.metadata['test_ids']) == 10
  labels = tfds.builder_from_directory(builders.newest(
      published['labels_only'][1] / 'musicnet/labels_only')).info
  assert labels.metadata['sample_rate'] == 44100
  assert spec(made.features).keys() - spec(labels.features).keys() == {
      'audio', 'chunk', 'offset'}


def test_the_unpacked_tree_gives_the_same_examples(published, tmp_path):
  for name, data in tree().items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(data)
  _, skipped, splits = build(tmp_path)
  assert not skipped
  same(splits, published['full_44k'][0][2])


@pytest.mark.usefixtures('interval_modules')
@pytest.mark.parametrize('dtype', ['<f4', '<f8'])
def test_the_npz_gives_the_same_examples_but_for_beats(
    published, tmp_path, dtype):
  # Measures and beats in them; the order of a tree is no order.
  write_npz(tmp_path / 'musicnet.npz', {i: recording(
      SOUNDS[i].astype(dtype), [(n[0], n[1], (n[2], n[3], 7, 0.5, n[6]))
                                for n in reversed(NOTES[i])])
                                        for i in SOUNDS})
  _, skipped, splits = build(tmp_path)
  assert not skipped
  expected = {split: [{**x, 'labels_beat': np.full_like(x['labels_beat'],
                                                        np.nan)} for x in rows]
              for split, rows in published['full_44k'][0][2].items()}
  same(splits, expected)


def test_a_split_of_the_published_names_is_a_partition():
  names = {str(i) for i in range(1727, 2679)}
  found = {s: {n for n in names if musicnet.split_of(n) == s}
           for s in musicnet.SPLITS}
  assert found['test'] == set(musicnet.TEST) and len(found['test']) == 10
  assert found['valid'] == set(musicnet.VALID) and len(found['valid']) == 6


@needs_shared
def test_the_real_metadata_is_read(tmp_path):
  table = musicnet._read_metadata(SHARED / 'musicnet_metadata.csv')
  assert len(table) == 330
  assert sum(row['seconds'] for row in table.values()) == 122_709
  assert sum(r['ensemble'] == 'Solo Piano' for r in table.values()) == 156
  assert sum(musicnet.split_of(i) == 'train' for i in table) == 314
  assert {*musicnet.TEST, *musicnet.VALID} <= table.keys()
  assert sum(table[i]['seconds'] for i in musicnet.TEST) == 1475


@needs_shared
def test_the_real_npz_is_read_without_its_package(tmp_path):
  # It holds one made-up recording, called 'test'.
  with zipfile.ZipFile(SHARED / 'musicnet_example.npz') as z:
    data = z.read('test.npy')
  write_npz(tmp_path / 'musicnet.npz', dict.fromkeys(
      ['1727', '2131', '2303'], data))
  _, skipped, splits = build(tmp_path)
  assert not skipped
  assert not any(name.startswith('intervaltree') for name in sys.modules)
  x, = splits['train']
  assert x['audio'].shape == (66150,) and np.abs(x['audio']).max() > 1000
  np.testing.assert_array_equal(x['labels'], [[42, 72], [42, 76], [42, 79]])
  np.testing.assert_array_equal(x['labels_time'], [[0, 22050]] * 3)
  assert x['note_value'] == b'Quarter\nQuarter\nQuarter'


def numbered(count):
  """Rows of metadata for hostile recordings 1, 2, ..."""
  return METADATA + ''.join(f'{i},a,b,c,d,e,f,g,1\n'
                            for i in range(1, count + 1))


def test_broken_recordings_are_skipped_and_reported(tmp_path):
  good = SOUNDS['2131'][:1000]
  wavs = {
      '1': (wav(good, claimed=8000), 'wav file that is shorter than its header'
            ' says'),
      '2': (b'', 'wav file that is shorter than its header says'),
      '3': (wav(good[:0]), 'no samples'),
      '4': (wav(good, channels=2), 'not mono at 44100 Hz'),
      '5': (wav(good, rate=22050), 'not mono at 44100 Hz'),
      '6': (b'hello' * 20, 'not a wav file'),
      '7': (wav(np.full(10, np.nan, '<f4')),
            'wav file with samples that are NaN or infinite'),
      '20': (wav(good), 'no labels, or a second time'),
  }
  line = '0,100,1,60,0.0,1.0,Quarter'
  labels = [
      b'', b'\xff\xfe', b'hello', f'{HEADER}\n0,1'.encode(),
      f'{HEADER}\n{line.replace("60", "200")}'.encode(),
      f'{HEADER}\n{line.replace("60", "-1")}'.encode(),
      f'{HEADER}\n{line.replace("100", "1e9")}'.encode(),
      f'{HEADER}\n{line.replace("100", "9" * 30)}'.encode(),
      f'{HEADER}\n{line.replace(",1,", ",0,")}'.encode(),
      f'{HEADER}\n{line.replace("Quarter", chr(7))}'.encode(),
      HEADER.replace('note,', 'nota,').encode()]
  files = tree()
  for i, (data, _) in wavs.items():
    files[f'musicnet/train_data/{i}.wav'] = data
    if i != '20':
      files[f'musicnet/train_labels/{i}.csv'] = csv_of([])
  for i, data in enumerate(labels, 8):
    files[f'musicnet/train_data/{i}.wav'] = wav(good)
    files[f'musicnet/train_labels/{i}.csv'] = data
  files['musicnet/train_labels/88.csv'] = csv_of([])  # Not in the metadata.
  files['musicnet/train_labels/19.csv'] = csv_of([])  # No audio.
  files['../2131.wav'] = files['/2131.wav'] = wav(good)
  link = tarfile.TarInfo('musicnet/train_data/2.wav')
  link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
  write_tar(tmp_path / 'musicnet.tar.gz', files, [link])
  report, skipped, splits = build(tmp_path, '16k', numbered(20))
  assert [x['id'] for x in splits['train']] == [b'1727', b'1727']
  reasons = {pathlib.PurePath(name).stem: why for _, name, why in skipped[::-1]}
  for i, (_, why) in wavs.items():
    assert reasons[i] == why, i
  for i in range(8, 8 + len(labels)):
    assert reasons[str(i)] == 'broken labels'
  assert reasons['19'] == 'labels without audio'
  assert ['train', 'musicnet/train_data/2.wav', 'link'] in skipped
  assert {why for s, _, why in skipped if s == 'valid'} == {
      "name with '..'", 'absolute name'}
  assert report['splits']['train']['skipped']['broken labels'] == len(labels)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
      'musicnet.tar.gz', 'musicnet_metadata.csv', 'out']


def test_of_a_truncated_archive_all_before_its_end_is_kept(tmp_path):
  files = tree()
  files['musicnet/train_data/2000.wav'] = wav(SOUNDS['1727'])
  files['musicnet/train_labels/2000.csv'] = csv_of([])
  whole = tmp_path / 'whole.tar.gz'
  write_tar(whole, dict(sorted(files.items(), key=lambda item: (
      '.wav' in item[0], '2000' in item[0]))))
  data = whole.read_bytes()
  (tmp_path / 'musicnet.tar.gz').write_bytes(data[:-len(data) // 10])
  _, skipped, splits = build(tmp_path, metadata=METADATA + (
      '2000,a,b,c,d,e,f,g,25\n'))
  assert ['train', 'musicnet/train_data/2000.wav', 'truncated'] in skipped
  # The chunks that were whole are kept.
  assert [x['id'] for x in splits['train']] == [b'1727', b'1727', b'2000']
  assert len(splits['test']) == 1


class Calls:

  def __reduce__(self):
    return exec, ('import builtins; builtins.ostinato_was_called = True',)


@pytest.mark.usefixtures('interval_modules')
def test_a_hostile_npz_runs_nothing_and_is_reported(tmp_path):
  audio = SOUNDS['2131'][:1000]
  tree = IntervalTree([])
  def array(*items):
    out = np.empty(len(items), object)
    out[:] = items
    return npy(out, (len(items),))
  wrong = {
      1: (npy(Calls()), 'pickle asks for'),
      2: (array(audio, Calls()), 'pickle asks for'),
      3: (array(audio), 'not an array and a tree'),
      4: (array(tree, audio), 'not an array and a tree'),
      5: (array('text', tree), 'audio that is not'),
      6: (recording(audio.reshape(2, -1), []), 'audio that is not'),
      7: (recording(np.float32([np.nan]), []), 'audio that is not'),
      8: (recording(audio, [(0, 1, (1, 60, 1, 0.0, 5))]), 'broken labels'),
      9: (recording(audio, [(0, 1, (1, 600, 1, 0.0, 'Half'))]),
          'broken labels'),
      10: (recording(audio, [('a', 1, (1, 60, 1, 0.0, 'Half'))]),
           'broken labels'),
      11: (recording(audio, [(0, 1, (1, 60))]), 'broken labels'),
      12: (recording(audio, [(0, 1, (1, 60, 1, 0.0, '\ud800'))]),
           'broken labels'),
      13: (recording(audio[:0], []), 'no samples'),
      14: (b'\x93NUMPY', 'broken npy header'),
      15: (recording(audio, [])[:-10], 'broken pickle'),
  }
  members = {str(i): data for i, (data, _) in wrong.items()}
  write_npz(tmp_path / 'musicnet.npz', members | {
      i: recording(SOUNDS[i], []) for i in SOUNDS})
  _, skipped, splits = build(tmp_path, metadata=numbered(len(wrong)))
  assert not hasattr(__import__('builtins'), 'ostinato_was_called')
  assert len(splits['train']) == 2
  reasons = {name: why for _, name, why in skipped}
  for i, (_, why) in wrong.items():
    assert why in reasons[f'{i}.npy'], i
  assert len(skipped) == len(wrong)


def test_a_recording_that_is_not_in_the_metadata_is_reported(tmp_path):
  files = tree()
  files['musicnet/train_data/2000.wav'] = wav(SOUNDS['2131'])
  files['musicnet/train_labels/2000.csv'] = csv_of([])
  write_tar(tmp_path / 'musicnet.tar.gz', files)
  for config in ('16k', 'labels_only'):
    _, skipped, _ = build(tmp_path, config)
    assert len(skipped) == 1
    assert '2000' in skipped[0][1]


@pytest.mark.parametrize('metadata', [
    'id,composer\n1,a\n', METADATA + '5,a,b,c,d,e,f,g\n',
    METADATA.replace('OP114,25', 'OP114,long')])
def test_metadata_of_another_shape_is_named(tmp_path, metadata):
  write_tar(tmp_path / 'musicnet.tar.gz', tree())
  with pytest.raises(errors.UserError, match=r'metadata.csv, line \d'):
    build(tmp_path, metadata=metadata)


def test_what_to_download_is_said(tmp_path):
  with pytest.raises(errors.UserError, match=r'11\.1 GB\) is not in .*zenodo'):
    build(tmp_path)
  write_tar(tmp_path / 'musicnet.tar.gz', tree())
  (tmp_path / 'musicnet_metadata.csv').unlink()
  with pytest.raises(errors.UserError, match=r'metadata.csv is not in .*zeno'):
    build(tmp_path, metadata=None)


def test_the_report_says_what_it_was_read_from(published):
  folder = builders.newest(published['16k'][1] / 'musicnet/16k')
  assert json.loads((folder / 'metadata.json').read_text())['release'] == (
      'musicnet.tar.gz')
