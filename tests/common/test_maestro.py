import csv
import io
import json
import pathlib
import zipfile

import numpy as np
import pytest
import soundfile
import soxr

from common import errors, midi
from common.data import builders
from common.data.builders import maestro

ROOT = pathlib.Path(__file__).resolve().parents[2]
REAL = ROOT.parent / 'shared' / 'data' / 'maestro'
ZIP = 'maestro-v3.0.0-midi.trainval.zip'
COLUMNS = ['canonical_composer', 'canonical_title', 'split', 'year',
           'midi_filename', 'audio_filename', 'duration']
ROWS = [
    ['Frédéric Chopin', 'Étude, Op. 10', 'train', 2018, '2018/a.midi',
     '2018/a.wav', 5.25],
    ['Bach', 'Fugue "in C"', 'validation', 2004, '2004/b.midi', '2004/b.wav',
     25.0],
    ['Bach', 'Prelude', 'train', 2004, '2004/c.midi', '2004/c.wav', 12.5],
    ['Haydn', 'Sonata', 'test', 2018, '2018/d.midi', '2018/d.wav', 1.0],
]


def midi_bytes(tmp_path, seed, seconds):
  rng = np.random.default_rng(seed)
  notes = np.zeros(20, midi.NOTE)
  notes['start_s'] = np.sort(rng.uniform(0, seconds - 0.5, 20))
  notes['end_s'] = notes['start_s'] + 0.4
  notes['pitch'] = np.arange(40, 60)
  notes['velocity'] = rng.integers(1, 127, 20)
  midi.write(tmp_path / 'a.mid', notes)
  return (tmp_path / 'a.mid').read_bytes()


def sound(seed, seconds, rate):
  """Two channels of tones."""
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * rate)) / rate
  return np.stack([0.3 * np.sin(2 * np.pi * f * t + rng.random())
                   for f in rng.uniform(100, 3000, 2)], 1)


def wav_bytes(audio, rate):
  out = io.BytesIO()
  soundfile.write(out, audio, rate, format='WAV', subtype='PCM_16')
  return out.getvalue()


def tables(release, rows):
  """The files of metadata as that version has them."""
  records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
  if release == 3:  # Columns with fields numbered in text.
    records = {c: {str(i): row[j] for i, row in enumerate(rows)}
               for j, c in enumerate(COLUMNS)}
  out = io.StringIO(newline='')
  csv.writer(out).writerows([COLUMNS, *rows])
  return {'csv': out.getvalue().encode(),
          'json': json.dumps(records, ensure_ascii=False).encode()}


def tree(tmp_path, release=3, rows=ROWS, table=('csv', 'json'), audio=False):
  """{name: bytes} of a release."""
  root = f'maestro-v{release}.0.0'
  files = {f'{root}/LICENSE': b'CC BY-NC-SA 4.0', f'{root}/README': b'x'}
  made = tables(release, rows)
  files |= {f'{root}/{root}.{kind}': made[kind] for kind in table}
  for i, row in enumerate(rows):
    files[f'{root}/{row[4]}'] = midi_bytes(tmp_path, i, row[6])
    if audio:
      rate = 48000 if row[3] == 2018 else 44100
      files[f'{root}/{row[5]}'] = wav_bytes(sound(i, row[6], rate), rate)
  return files


def as_zip(folder, files, name='maestro-v3.0.0-midi.zip'):
  with zipfile.ZipFile(folder / name, 'w', zipfile.ZIP_DEFLATED) as z:
    for file, content in files.items():
      z.writestr(file, content)


def as_tree(folder, files):
  for file, content in files.items():
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content)


def prepare(tmp_path, config='v3'):
  report = builders.make(f'maestro/{config}', tmp_path / 'data',
                         tmp_path).prepare()
  return report, {
      s: list(builders.open_split(f'maestro/{config}', s, tmp_path / 'data'))
      for s in report['splits']}


def skipped(tmp_path, config='v3'):
  path = tmp_path / f'data/maestro/{config}/1.0.0/skipped.tsv'
  return [tuple(line.split('\t')) for line in
          path.read_text('utf-8').splitlines()[1:]]


@pytest.mark.parametrize('release', [1, 2, 3])
@pytest.mark.parametrize('table', ['csv', 'json'])
@pytest.mark.parametrize('container', ['midi zip', 'zip', 'tree', 'itself'])
def test_all_releases_and_containers_give_the_same(tmp_path, release, table,
                                                   container):
  files = tree(tmp_path, release, table=(table,))
  name = f'maestro-v{release}.0.0'
  if container.endswith('zip'):
    as_zip(tmp_path, files,
           f'{name}-midi.zip' if container == 'midi zip' else f'{name}.zip')
  else:
    as_tree(tmp_path, files)
  if container == 'itself':  # The folder may be given as it is.
    builder = builders.make(f'maestro/v{release}', tmp_path / 'data',
                            tmp_path / name)
    assert builder.prepare()['splits']['train']['examples'] == 2
    return
  report, splits = prepare(tmp_path, f'v{release}')
  assert list(splits) == ['train', 'valid', 'test']
  got = {e['id']: (split, e) for split in splits for e in splits[split]}
  assert len(got) == 4
  for i, row in enumerate(ROWS):
    split, e = got[row[4].encode()]
    assert split == row[2].replace('validation', 'valid')
    assert e == {
        'id': row[4].encode(), 'canonical_composer': row[0].encode(),
        'canonical_title': row[1].encode(), 'year': row[3],
        'duration': row[6], 'midi': midi_bytes(tmp_path, i, row[6]),
        'notes': 20}
  assert report['splits']['train']['notes'] == 40
  assert report['splits']['train']['hours'] == pytest.approx(17.75 / 3600)


@pytest.mark.parametrize('container', [as_zip, as_tree])
def test_audio_comes_in_chunks_with_its_notes(tmp_path, container):
  files = tree(tmp_path, audio=True)
  if container is as_zip:
    as_zip(tmp_path, files, 'maestro-v3.0.0.zip')
  else:
    as_tree(tmp_path, files)
  report, splits = prepare(tmp_path, 'v3_16k')
  assert report['splits']['valid']['performances'] == 1
  assert report['splits']['valid']['notes'] == 20
  assert report['splits']['train']['performances'] == 2
  chunks = splits['valid']
  assert [(e['chunk'], e['offset'], len(e['audio'])) for e in chunks] == [
      (0, 0, 160_000), (1, 160_000, 240_000)]  # The rest is in the last one.
  notes = midi.parse(files['maestro-v3.0.0/2004/b.midi']).notes
  for e, (start, end) in zip(chunks, [(0, 10), (10, 25)], strict=True):
    here = notes[(notes['start_s'] < end) & (notes['end_s'] > start)]
    assert len(e['notes']) == len(here)
    np.testing.assert_allclose(np.sort(e['notes_s'][:, 0]),
                               np.sort(here['start_s'] - start), atol=1e-5)
    assert set(map(tuple, e['notes'].tolist())) == set(zip(
        here['pitch'].tolist(), here['velocity'].tolist(), strict=True))
  for name, i, rate, split in (('2018/a', 0, 48000, 'train'),
                               ('2004/b', 1, 44100, 'valid')):
    parts = [e for e in splits[split] if e['id'] == f'{name}.midi'.encode()]
    whole = np.round(sound(i, ROWS[i][6], rate) * 32767).mean(1)
    got = np.concatenate([e['audio'] for e in parts])
    assert len(got) == round(ROWS[i][6] * 16000)
    expected = soxr.resample(whole, rate, 16000)
    # At the ends, another implementation of the filter rings otherwise.
    np.testing.assert_allclose(got[400:-400], expected[400:-400], atol=2.5)


def test_audio_at_its_own_rate_is_untouched(tmp_path):
  as_zip(tmp_path, tree(tmp_path, audio=True), 'maestro-v3.0.0.zip')
  _, splits = prepare(tmp_path, 'v3_44k')
  got = np.concatenate([e['audio'] for e in splits['valid']])
  with io.BytesIO(wav_bytes(sound(1, 25.0, 44100), 44100)) as f:
    expected = soundfile.read(f, dtype='int16')[0].astype(float).mean(1)
  np.testing.assert_array_equal(got, np.rint(expected))


def test_the_real_files_have_the_published_notes(tmp_path):
  if not (REAL / ZIP).exists():
    pytest.skip(f'no real MAESTRO in {REAL}')
  (tmp_path / 'maestro-v3.0.0-midi.zip').symlink_to(REAL / ZIP)
  builder = builders.make('maestro/v3', tmp_path / 'data', tmp_path)
  report = builder.prepare(workers=2)['splits']
  assert {s: (r['performances'], r['notes'], round(r['hours'], 2))
          for s, r in report.items()} == {
              'train': (962, 5_659_329, 159.24),
              'valid': (137, 639_425, 19.43)}
  assert not any(r['skipped'] for r in report.values())


def test_the_real_tables_agree(tmp_path, monkeypatch):
  path = REAL / ZIP
  if not path.exists():
    pytest.skip(f'no real MAESTRO in {REAL}')
  from_csv = maestro._read_table(path, 3)
  assert len(from_csv) == 1099
  assert all(isinstance(row, maestro.Row) for row in from_csv)
  read = maestro.archives.read_member
  monkeypatch.setattr(maestro.archives, 'read_member', lambda p, name, limit: (
      None if name.endswith('csv') else read(p, name, limit)))
  assert maestro._read_table(path, 3) == from_csv
  hours = {s: sum(r.duration for r in from_csv if r.split == s) / 3600
           for s in ('train', 'valid')}
  assert {s: round(h, 2) for s, h in hours.items()} == {
      'train': 159.24, 'valid': 19.43}


def test_what_is_broken_is_in_the_report(tmp_path):
  rows = [*ROWS,
          ['x', 'y', 'train', 2018, '2018/absent.midi', 'z.wav', 1.0],
          ['x', 'y', 'train', 2018, '2018/broken.midi', 'z.wav', 1.0],
          ['x', 'y', 'train', 2018, '2018/silent.midi', 'z.wav', 1.0],
          ['x', 'y', 'dev', 2018, '2018/e.midi', 'z.wav', 1.0],
          ['x', 'y', 'train', 'soon', '2018/f.midi', 'z.wav', 1.0],
          ['x', 'y', 'train', 2018, '2018/g.midi', 'z.wav', 'nan'],
          ['x', 'y', 'train', 2018, '', 'z.wav', 1.0]]
  files = tree(tmp_path, rows=rows[:4]) | {
      f'maestro-v3.0.0/maestro-v3.0.0.{k}': v
      for k, v in tables(3, rows).items()}
  midi.write(tmp_path / 'empty.mid', np.zeros(0, midi.NOTE))
  files |= {'maestro-v3.0.0/2018/broken.midi': b'MThd',
            'maestro-v3.0.0/2018/silent.midi':
                (tmp_path / 'empty.mid').read_bytes(),
            '../2018/a.midi': b'', '/2018/a.midi': b''}
  as_zip(tmp_path, files)
  _, splits = prepare(tmp_path)
  assert [len(s) for s in splits.values()] == [2, 1, 1]
  assert sorted(row for row in skipped(tmp_path)) == sorted([
      ('train', '../2018/a.midi', "name with '..'"),
      ('train', '/2018/a.midi', 'absolute name'),
      ('train', '2018/absent.midi', 'not in the archive'),
      ('train', 'maestro-v3.0.0/2018/broken.midi', 'no MIDI header'),
      ('train', 'maestro-v3.0.0/2018/silent.midi', 'no notes'),
      *(('train', f'row {i} of the table', 'broken row')
        for i in (8, 9, 10, 11))])


def test_broken_audio_is_in_the_report(tmp_path):
  files = tree(tmp_path, audio=True)
  rows = tables(3, [*ROWS, *([*ROWS[0][:4], f'2018/{i}.midi', f'2018/{i}.wav',
                              1.0] for i in 'efgh')])
  root = 'maestro-v3.0.0'
  files |= {f'{root}/{root}.{k}': v for k, v in rows.items()}
  whole = files[f'{root}/2018/d.wav']
  good = files[f'{root}/2018/d.midi']
  files |= {f'{root}/2018/e.wav': whole[:-1000], f'{root}/2018/e.midi': good,
            f'{root}/2018/f.wav': b'', f'{root}/2018/f.midi': good,
            f'{root}/2018/g.wav': whole, f'{root}/2018/g.midi': b'no',
            f'{root}/2018/h.wav': whole}
  as_zip(tmp_path, files, 'maestro-v3.0.0.zip')
  prepare(tmp_path, 'v3_16k')
  reasons = {name[-5:]: reason for _, name, reason in skipped(
      tmp_path, 'v3_16k')}
  assert reasons == {
      'e.wav': 'wav file that is shorter than its header says',
      'f.wav': 'wav file that is shorter than its header says',
      'g.wav': 'its MIDI file: no MIDI header',
      'h.wav': 'its MIDI file: not in the archive'}


@pytest.mark.parametrize('content', [
    b'', b'[', b'[' * 10**5, b'3', b'{}', b'{"split": 3}', b'\xff',
    json.dumps({c: ['x'] for c in COLUMNS}).encode()])
@pytest.mark.parametrize('kind', ['csv', 'json'])
def test_a_table_of_another_shape_is_named(tmp_path, kind, content):
  files = tree(tmp_path, table=())
  files[f'maestro-v3.0.0/maestro-v3.0.0.{kind}'] = content
  as_zip(tmp_path, files)
  with pytest.raises(errors.UserError, match=(
      rf'its maestro-v3\.0\.0\.{kind} is not the published table')):
    prepare(tmp_path)


def test_without_a_table_nothing_is_guessed(tmp_path):
  as_zip(tmp_path, tree(tmp_path, table=()))
  with pytest.raises(errors.UserError, match='has neither maestro-v3'):
    prepare(tmp_path)


@pytest.mark.parametrize('config, name', [
    ('v3', r'maestro-v3\.0\.0-midi\.zip .*\(58\.4 MB\)'),
    ('v1', r'maestro-v1\.0\.0-midi\.zip'),
    ('v2_16k', r'maestro-v2\.0\.0\.zip')])
def test_a_missing_archive_is_named(tmp_path, config, name):
  with pytest.raises(errors.UserError, match=name):
    prepare(tmp_path, config)
