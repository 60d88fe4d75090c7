import hashlib
import io
import json
import pathlib
import tarfile
import zipfile

import numpy as np
import pytest

from common import errors, midi
from common.data import builders
from common.data.builders import base, lakh

ROOT = pathlib.Path(__file__).resolve().parents[2]
REAL = ROOT.parent / 'shared' / 'data' / 'lpd_format'
SPLITS = ('train', 'valid', 'test')


def songs_of(split, count=16):
  """Ids of songs that go to a split."""
  names = (f'TR{chr(65 + i % 26) * 5}128F{i:07X}' for i in range(10**6))
  digits = {'train': '0123456789abcd', 'valid': 'e', 'test': 'f'}[split]
  return [n for n, _ in zip((n for n in names if hashlib.md5(
      n.encode()).hexdigest()[0] in digits), range(count), strict=False)]


SONGS = songs_of('train')
MIXED = sorted(songs_of('train', 6) + songs_of('valid', 5)
               + songs_of('test', 5))
EMPTY = (np.zeros((0, 128), bool), 0, False)


def md5(data):
  return hashlib.md5(data).hexdigest()


def some_midi(tmp_path, seed):
  notes = np.zeros(5, midi.NOTE)
  notes['start_s'] = np.arange(5) + seed / 16
  notes['end_s'], notes['pitch'] = notes['start_s'] + 1, 60 + np.arange(5)
  notes['velocity'], notes['program'] = 80, [0, 0, 0, 0, 40]
  midi.write(tmp_path / 'x.mid', notes)
  return (tmp_path / 'x.mid').read_bytes()


def some_files(tmp_path, count=60):
  """{md5: contents} of MIDI files, some for each split."""
  files = {md5(d): d for d in (some_midi(tmp_path, i) for i in range(count))}
  assert {'e', 'f'} < {name[0] for name in files}
  return files


def roll_bytes(tracks, layout='0.3', tempo=None, **changes):
  """An npz of piano rolls: [(roll [T, 128], program, is_drum)]."""
  steps = max(len(roll) for roll, _, _ in tracks)
  info = {'name': 'x', 'beat_resolution' if layout == '0.3' else 'resolution':
              24}
  arrays = {'tempo': np.full(steps, 120.0) if tempo is None else tempo,
            'downbeat': np.arange(steps) == 0}
  if layout == '1.x':
    arrays['tempo'] = arrays['tempo'][:, None]
    arrays['beat'] = np.arange(steps) % 24 == 0
  for i, (roll, program, is_drum) in enumerate(tracks):
    pitch, step = np.nonzero(roll.T)
    arrays |= {
        f'pianoroll_{i}_csc_data': roll[step, pitch],
        f'pianoroll_{i}_csc_indices': step.astype(np.int32),
        f'pianoroll_{i}_csc_indptr': np.searchsorted(
            pitch, np.arange(129)).astype(np.int32),
        f'pianoroll_{i}_csc_shape': np.array(roll.shape)}
    info[str(i)] = {'program': program, 'is_drum': is_drum, 'name': f'T {i}'}
  arrays |= {k: v for k, v in changes.items() if k in arrays}
  out = io.BytesIO()
  np.savez_compressed(out, **arrays)
  with zipfile.ZipFile(out, 'a') as z:
    z.writestr('info.json', changes.get('info', json.dumps(info)))
  return out.getvalue()


def five(seed, bars=6, silent=()):
  """Five tracks as in LPD-5, with as many notes in each."""
  rng = np.random.default_rng(seed)
  tracks = []
  for i, program in enumerate((0, 0, 24, 32, 48)):
    roll = np.zeros((bars * 96, 128), np.uint8)
    if i not in silent:
      at = rng.integers(0, len(roll), 12), rng.integers(24, 108, 12)
      roll[at] = rng.integers(1, 128, 12)
      roll[-1, 60] = 100
      tracks.append((roll, program, i == 0))
    else:
      tracks.append((EMPTY[0], program, i == 0))
  return tracks


def dense(tracks):
  steps = max(len(t[0]) for t in tracks)
  return np.stack([np.pad(t[0].astype(np.uint8), ((0, steps - len(t[0])),
                                                  (0, 0)))
                   for t in tracks], 2)


def as_tar(path, files):
  with tarfile.open(path, 'w:gz') as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))


def as_tree(folder, files):
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def prepare(tmp_path, name, manual_dir=None):
  report = builders.make(name, tmp_path / 'data',
                         manual_dir or tmp_path).prepare()
  return report, {s: list(builders.open_split(name, s, tmp_path / 'data'))
                  for s in report['splits']}


def skipped(tmp_path, name):
  path = tmp_path / f'data/{name}/1.0.0/skipped.tsv'
  return [tuple(line.split('\t')[1:])
          for line in path.read_text('utf-8').splitlines()[1:]]


def in_msd(prefix, song, name):
  return f'{prefix}/{song[2]}/{song[3]}/{song[4]}/{song}/{name}'


# --- MIDI files -------------------------------------------------------------


@pytest.mark.parametrize('container', ['tar', 'tree', 'itself'])
def test_the_whole_set_is_split_by_the_first_digit(tmp_path, container):
  files = some_files(tmp_path)
  members = {f'lmd_full/{k[0]}/{k}.mid': v for k, v in files.items()}
  if container == 'tar':
    as_tar(tmp_path / 'lmd_full.tar.gz', members)
  else:
    as_tree(tmp_path, members)
  first = next(iter(files))
  (tmp_path / 'md5_to_paths.json').write_text(json.dumps(
      {first: ['A/Song.mid', 'B/Ünten.mid']}))
  manual = tmp_path / 'lmd_full' if container == 'itself' else tmp_path
  report, splits = prepare(tmp_path, 'lakh_midi/full', manual)
  got = {e['id'].decode(): (s, e) for s in splits for e in splits[s]}
  assert got.keys() == files.keys()
  for name, (split, e) in got.items():
    assert split == {'e': 'valid', 'f': 'test'}.get(name[0], 'train')
    assert e['midi'] == files[name] and e['songs'] == b''
    assert (e['notes'], e['parts']) == (5, 2)
    notes = midi.parse(files[name]).notes
    assert e['seconds'] == np.float32(notes['end_s'].max())
    assert e['paths'].decode() == (
        'A/Song.mid\nB/Ünten.mid' if name == first and container != 'itself'
        else '')
  assert sum(r['notes'] for r in report['splits'].values()) == 5 * len(files)
  assert (f'all has {len(files)} units, the published data set has 176,581'
          in report['warnings'])


def test_matched_files_are_there_once_with_all_their_songs(tmp_path):
  files = list(some_files(tmp_path).items())
  # File i belongs to songs i//4 and, now and then, to another one.
  members, songs = {}, {}
  for i, (name, data) in enumerate(files):
    mine = [MIXED[i // 4]] + ([MIXED[(i // 4 + 3) % 15]] if i % 13 == 0 else [])
    songs[name] = mine
    for song in mine:
      members[in_msd('lmd_matched', song, f'{name}.mid')] = data
  as_tar(tmp_path / 'lmd_matched.tar.gz', members)
  _, splits = prepare(tmp_path, 'lakh_midi/matched')
  got = {e['id'].decode(): set(e['songs'].decode().split('\n'))
         for s in splits for e in splits[s]}
  assert got == {name: set(mine) for name, mine in songs.items()}
  assert sum(map(len, splits.values())) == len(files)
  where = {}
  for split in splits:
    for e in splits[split]:
      for song in e['songs'].split(b'\n'):
        assert where.setdefault(song, split) == split


def test_no_song_and_no_file_is_in_two_splits():
  rng = np.random.default_rng(0)
  pairs = [(f'{rng.integers(300):03d}', f'TR{rng.integers(300):03d}')
           for _ in range(260)]
  ties = lakh._Ties()
  for pair in pairs:
    ties.add(*pair)
  first = {}
  for file, song in pairs:
    assert first.setdefault(song, ties.first(file)) == ties.first(file)
    assert ties.first(file) <= song
  assert len(set(first.values())) > 50  # It does not tie all to all.
  # By hand: a-X, b-X, b-W, c-Y; c is apart.
  ties = lakh._Ties()
  for file, song in [('a', 'X'), ('c', 'Y'), ('b', 'W'), ('b', 'X')]:
    ties.add(file, song)
  assert [ties.first(f) for f in 'abc'] == ['W', 'W', 'Y']


def test_clean_files_are_split_by_song(tmp_path):
  files = list(some_files(tmp_path).values())
  members = {f'clean_midi/Artist {i % 7}/Song {i // 7}{v}.mid': d
             for i, d in enumerate(files[:30]) for v in ('',)}
  members |= {f'clean_midi/Artist {i % 7}/Song {i // 7}.{i}.mid': d
              for i, d in enumerate(files[30:])}
  members['clean_midi/ARTIST 1/Song 99.mid'] = files[0]  # Again.
  as_tar(tmp_path / 'clean_midi.tar.gz', members)
  _, splits = prepare(tmp_path, 'lakh_midi/clean')
  assert sum(map(len, splits.values())) == len(files)
  where = {}
  for split in splits:
    for e in splits[split]:
      for song in e['songs'].split(b'\n'):
        assert where.setdefault(song, split) == split
  again = next(e for s in splits for e in splits[s]
               if e['id'].decode() == md5(files[0]))
  assert again['songs'] == b'artist 0/song 0\nartist 1/song 99'


def test_broken_and_hostile_files_are_in_the_report(tmp_path):
  files = some_files(tmp_path)
  members = {f'lmd_full/{k[0]}/{k}.mid': v for k, v in files.items()}
  midi.write(tmp_path / 'x.mid', np.zeros(0, midi.NOTE))
  silent = (tmp_path / 'x.mid').read_bytes()
  good = next(iter(files.values()))
  a = 'a' * 32
  members |= {
      f'lmd_full/a/{a}.mid': good, f'lmd_full/0/{md5(b"")}.mid': b'',
      f'lmd_full/0/{md5(silent)}.mid': silent, 'lmd_full/0/song.mid': good,
      f'../{md5(good)}.mid': good, f'/tmp/{md5(good)}.mid': good}
  with tarfile.open(tmp_path / 'lmd_full.tar.gz', 'w:gz') as tar:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
    info = tarfile.TarInfo(f'lmd_full/b/{"b" * 32}.mid')
    info.type, info.linkname = tarfile.SYMTYPE, '/etc/passwd'
    tar.addfile(info)
  _, splits = prepare(tmp_path, 'lakh_midi/full')
  assert sum(map(len, splits.values())) == len(files)
  assert sorted(skipped(tmp_path, 'lakh_midi/full')) == sorted([
      (f'lmd_full/a/{a}.mid', 'its md5 is not its name'),
      (f'lmd_full/0/{md5(b"")}.mid', 'empty file'),
      (f'lmd_full/0/{md5(silent)}.mid', 'no notes'),
      ('lmd_full/0/song.mid', 'its name is not an md5'),
      (f'../{md5(good)}.mid', "name with '..'"),
      (f'/tmp/{md5(good)}.mid', 'absolute name'),
      (f'lmd_full/b/{"b" * 32}.mid', 'link')])


@pytest.mark.parametrize('content', ['', '[]', '{"a": 3}', '{"a": [3]}',
                                     '[' * 10**5])
def test_a_table_of_names_of_another_shape_is_named(tmp_path, content):
  as_tree(tmp_path, {f'lmd_full/{k[0]}/{k}.mid': v
                     for k, v in some_files(tmp_path, 40).items()})
  (tmp_path / 'md5_to_paths.json').write_text(content)
  with pytest.raises(errors.UserError, match=(
      r'md5_to_paths\.json is not the published table')):
    prepare(tmp_path, 'lakh_midi/full')


# --- Piano rolls ------------------------------------------------------------


@pytest.mark.parametrize('layout', ['0.3', '1.x'])
@pytest.mark.parametrize('container', ['tar', 'tree', 'tree in a tree'])
def test_rolls_of_all_layouts_come_back(tmp_path, layout, container):
  songs = {f'{d}{i:031x}': five(i, silent={1, 3} if i == 0 else ())
           for i, d in enumerate('0ef')}
  members = {f'lpd_5/lpd_5_full/{k[0]}/{k}.npz': roll_bytes(v, layout)
             for k, v in songs.items()}
  if container == 'tar':
    as_tar(tmp_path / 'lpd_5_full.tar.gz', members)
  else:
    as_tree(tmp_path, members)
  manual = tmp_path / 'lpd_5' if container == 'tree' else tmp_path
  _, splits = prepare(tmp_path, 'lpd5/full', manual)
  for split, (name, tracks) in zip(SPLITS, songs.items(), strict=True):
    e, = splits[split]
    assert e['id'].decode() == name and e['msd_id'] == b''
    assert e['n_steps'] == 576 and e['roll'].dtype == np.uint8
    np.testing.assert_array_equal(e['roll'], dense(tracks))
    np.testing.assert_array_equal(e['tempo'], np.full(576, 120, np.float32))


def test_rolls_of_one_song_stay_in_one_split(tmp_path):
  names = [f'{i:032x}' for i in range(40)]
  pairs = [(name, MIXED[i % 16]) for i, name in enumerate(names)]
  train = min(set(songs_of('train', 40)) - set(MIXED))
  first, second = sorted(set(songs_of('test', 9)) - set(MIXED))[-2:]
  # Two songs by one file: both go where the first of them goes.
  pairs += [('a' * 32, train), ('a' * 32, first), ('b' * 32, first),
            ('b' * 32, second)]
  assert train < first < second
  as_tar(tmp_path / 'lpd_5_matched.tar.gz', {
      in_msd('lpd_5_matched', song, f'{name}.npz'):
          roll_bytes(five(0, bars=1)) for name, song in pairs})
  _, splits = prepare(tmp_path, 'lpd5/matched')
  rows = [(split, e['id'].decode(), e['msd_id'].decode())
          for split in splits for e in splits[split]]
  assert len(rows) == 44  # Each pair is an example, as published.
  where = {}
  for split, file, song in rows:
    assert where.setdefault(file, split) == split
    assert where.setdefault(song, split) == split
  assert {where[song] for song in (train, first, second)} == {'train'}
  for split in SPLITS:
    for song in set(songs_of(split, 5)) & set(MIXED):
      assert where[song] == split


@pytest.mark.parametrize('program, is_drum, lpd5, lpd17', [
    (0, True, 0, 0), (40, True, 0, 0), (0, False, 1, 1), (7, False, 1, 1),
    (8, False, 4, 2), (23, False, 4, 3), (24, False, 2, 4), (31, False, 2, 4),
    (32, False, 3, 5), (39, False, 3, 5), (40, False, 4, 6), (95, False, 4, 12),
    (96, False, -1, 13), (103, False, -1, 13), (104, False, 4, 14),
    (111, False, 4, 14), (112, False, -1, 15), (127, False, -1, 16)])
def test_tracks_go_to_their_family(program, is_drum, lpd5, lpd17):
  track = lakh.Track(*[np.zeros(0, int)] * 3, program, is_drum, '')
  assert lakh.Lpd5.family(track) == lpd5
  assert lakh.Lpd17.family(track) == lpd17


def test_families_are_merged_from_all_tracks_where_they_are_not_there(tmp_path):
  rng = np.random.default_rng(0)
  tracks = [((rng.random((96, 128)) < 0.01) * rng.integers(
      1, 128, (96, 128), np.uint8), program, is_drum) for program, is_drum in
            [(48, False), (0, False), (0, True), (50, False), (5, False),
             (100, False)]]
  as_tar(tmp_path / 'lpd_full.tar.gz',
         {f'lpd_full/0/{"0" * 32}.npz': roll_bytes(tracks)})
  _, splits = prepare(tmp_path, 'lpd5/full')
  expected = np.zeros((96, 128, 5), np.uint8)
  for family, members in enumerate([[2], [1, 4], [], [], [0, 3]]):
    for i in members:
      expected[..., family] = np.maximum(expected[..., family], tracks[i][0])
  np.testing.assert_array_equal(splits['train'][0]['roll'], expected)
  _, splits = prepare(tmp_path, 'lpd17/full')
  roll = splits['train'][0]['roll']
  assert np.flatnonzero(roll.any((0, 1))).tolist() == [0, 1, 7, 13]
  np.testing.assert_array_equal(roll[..., 13], tracks[5][0])
  _, splits = prepare(tmp_path, 'lpd/full')
  e, = splits['train']
  assert e['programs'].tolist() == [48, 0, -1, 50, 5, 100]
  assert e['names'] == b'T 0\nT 1\nT 2\nT 3\nT 4\nT 5'
  back = np.zeros((e['n_steps'], 128, 6), np.uint8)
  step, pitch, track, velocity = e['cells'].T
  back[step, pitch, track] = velocity
  np.testing.assert_array_equal(back, dense(tracks))


def test_tempi_that_were_tiled_are_put_in_order():
  tracks = five(0, bars=1)
  beats = np.array([90.0, 100.0, 110.0, 120.0])
  tiled = lakh.read(roll_bytes(tracks, tempo=np.tile(beats, 24)))
  np.testing.assert_array_equal(tiled.tempo, np.repeat(beats, 24))
  right = lakh.read(roll_bytes(tracks, '1.x', tempo=np.repeat(beats, 24)))
  np.testing.assert_array_equal(right.tempo, np.repeat(beats, 24))
  short = lakh.read(roll_bytes(tracks, tempo=np.array([90.0])))
  np.testing.assert_array_equal(short.tempo, np.full(96, 90))


def test_filters_are_counted_one_by_one(tmp_path):
  rock = SONGS[:10]
  kinds = {'whole': dict(), 'silent': dict(silent={2}), 'short': dict(bars=3)}
  members = {}
  for i, song in enumerate(SONGS):
    kind = list(kinds)[i % 3]
    members[in_msd('lpd_5/lpd_5_cleansed', song, f'{i:032x}.npz')] = (
        roll_bytes(five(i, **kinds[kind])))
  as_tar(tmp_path / 'lpd_5_cleansed.tar.gz', members)
  as_tree(tmp_path, {'labels/lastfm/id_list_rock.txt':
                         '\n'.join(rock).encode() + b'\n'})
  expected = {'musegan': {
      'filter: not in lastfm/id_list_rock.txt': 6,
      'filter: a family with fewer than 1 cells': 3}}
  expected['musegan_phrases'] = {
      **expected['musegan'], 'filter: shorter than 4 bars': 3}
  expected['phrases'] = {'filter: a family with fewer than 10 cells': 5,
                         'filter: shorter than 4 bars': 5}
  for config, reasons in expected.items():
    report, splits = prepare(tmp_path, f'lpd5/{config}')
    got = {}
    for split in report['splits'].values():
      for reason, n in split['skipped'].items():
        got[reason] = got.get(reason, 0) + n
    assert got == reasons
    songs = {e['msd_id'].decode() for s in splits for e in splits[s]}
    assert len(songs) == 16 - sum(reasons.values())


def test_phrases_are_bars_of_their_song(tmp_path):
  song = five(3, bars=20)
  # A drum on an odd step, as in a triplet of 16ths or by hand.
  song[0][0][5 * 96 + 7, 36] = 99
  whole = dense(song)
  for config, steps in (('musegan_phrases', 96), ('phrases', 48)):
    as_tar(tmp_path / 'lpd_5_cleansed.tar.gz', {
        in_msd('lpd_5_cleansed', SONGS[2], f'{7:032x}.npz'): roll_bytes(song)})
    as_tree(tmp_path, {'labels/lastfm/id_list_rock.txt': SONGS[2].encode()})
    _, splits = prepare(tmp_path, f'lpd5/{config}')
    rows = splits['train']
    starts = [e['start_bar'] for e in rows]
    assert len(rows) == 5  # 20 bars are five phrases, and six are the most.
    assert starts == sorted(set(starts)) and 0 <= min(starts) <= max(
        starts) <= 16
    for e in rows:
      assert e['roll'].shape == (4, steps, 84, 5) and e['roll'].dtype == bool
      begin = e['start_bar'] * 96
      expected = whole[begin:begin + 384, 24:108] > 0
      expected = expected.reshape(4, steps, 96 // steps, 84, 5).any(2)
      np.testing.assert_array_equal(e['roll'], expected)


def test_phrases_begin_at_any_bar():
  roll = np.ones((8 * 96 + 50, 128, 5), np.uint8)
  found = {start for seed in range(200)
           for start, _ in lakh.phrases(roll, 48, seed)}
  assert found == {0, 1, 2, 3, 4}
  # The same for the same song.
  assert [s for s, _ in lakh.phrases(roll, 48, 5)] == [
      s for s, _ in lakh.phrases(roll, 48, 5)]
  with pytest.raises(base.Skip, match='shorter than 4 bars'):
    list(lakh.phrases(roll[:383], 48, 0))
  assert len(list(lakh.phrases(roll[:384], 96, 0))) == 1


@pytest.mark.parametrize('data, reason', [
    (b'', 'broken npz'), (b'PK', 'broken npz'),
    (roll_bytes(five(0, 1))[:-50], 'broken npz'),
    (roll_bytes(five(0, 1), info='[]'), 'not a file of piano rolls'),
    (roll_bytes(five(0, 1), info='{'), 'not a file of piano rolls'),
    (roll_bytes(five(0, 1), info='[' * 10**5), 'not a file of piano rolls'),
    (roll_bytes(five(0, 1), info='{"beat_resolution": 24}'), 'no notes'),
    (roll_bytes(five(0, 1), info='{"beat_resolution": 12}'), 'not 24 steps'),
    (roll_bytes(five(0, 1), info='{"beat_resolution": 24, "9": {}}'),
     'not a file of piano rolls'),
    (roll_bytes(five(0, 1), info='{"beat_resolution": 24, "0": {"program": '
                '200, "is_drum": false}}'), 'not a file of piano rolls'),
    (roll_bytes([EMPTY] * 5), 'no notes'),
    (roll_bytes(five(0, 1), pianoroll_0_csc_shape=np.array([2**40, 128])),
     'longer than 100000 steps'),
    (roll_bytes(five(0, 1), pianoroll_0_csc_shape=np.array([96, 2**40])),
     'not a file'),
    (roll_bytes(five(0, 1), pianoroll_0_csc_shape=np.array([10, 128])),
     'not a file'),
    (roll_bytes(five(0, 1), pianoroll_0_csc_shape=np.array([-1, 128])),
     'not a file'),
    (roll_bytes(five(0, 1), pianoroll_0_csc_indices=np.full(13, -1)),
     'not a file'),
    (roll_bytes(five(0, 1), pianoroll_0_csc_indptr=np.arange(129)),
     'not a file'),
    (roll_bytes(five(0, 1), pianoroll_0_csc_indptr=np.arange(129)[::-1]),
     'not a file'),
    (roll_bytes(five(0, 1), pianoroll_0_csc_data=np.full(13, 200)),
     'not a file'),
    (roll_bytes(five(0, 1), pianoroll_0_csc_data=np.full(13, 1.5)),
     'not a file'),
    (roll_bytes(five(0, 1), pianoroll_0_csc_data=np.zeros(3, np.uint8)),
     'not a file'),
])
def test_a_broken_roll_has_a_reason(data, reason):
  with pytest.raises(base.Skip, match=reason):
    lakh.read(data)


def test_an_object_array_in_a_roll_is_not_run(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)

  class Evil:
    def __reduce__(self):
      return open, ('ran', 'w')

  data = roll_bytes(five(0, 1), tempo=np.array([Evil()], object))
  with pytest.raises(base.Skip, match='pickle asks for'):
    lakh.read(data)
  assert not (tmp_path / 'ran').exists()


def test_a_file_without_five_tracks_is_skipped(tmp_path):
  as_tar(tmp_path / 'lpd_5_full.tar.gz', {
      f'lpd_5_full/0/{"0" * 32}.npz': roll_bytes(five(0)),
      f'lpd_5_full/1/{"1" * 32}.npz': roll_bytes(five(0)[:4]),
      f'lpd_5_full/2/{"2" * 32}.npz': roll_bytes(five(0)[::-1]),
      f'lpd_5_full/3/{"3" * 32}.npz': b'nothing'})
  report, splits = prepare(tmp_path, 'lpd5/full')
  assert len(splits['train']) == 1
  assert report['splits']['train']['skipped'] == {
      'not 5 tracks': 1, 'drums are not the first track': 1,
      'broken npz (BadZipFile)': 1}


@pytest.mark.parametrize('name, archive', [
    ('lakh_midi/full', 'lmd_full'), ('lakh_midi/clean', 'clean_midi'),
    ('lpd5/full', 'lpd_5_full')])
def test_an_archive_of_something_else_is_named(tmp_path, name, archive):
  as_tar(tmp_path / f'{archive}.tar.gz', {'README': b'', 'a/b.txt': b''})
  with pytest.raises(errors.UserError, match=f'{archive}.*has no files with'):
    prepare(tmp_path, name)


def test_a_missing_archive_or_list_is_named(tmp_path):
  for name, archive in (('lakh_midi/full', r'lmd_full\.tar\.gz .*1,768'),
                        ('lpd5/cleansed', r'lpd_5_cleansed\.tar\.gz'),
                        ('lpd17/matched', r'lpd_17_matched\.tar\.gz'),
                        ('lpd/full', r'lpd_full\.tar\.gz')):
    with pytest.raises(errors.UserError, match=archive):
      prepare(tmp_path, name)
  as_tar(tmp_path / 'lpd_5_cleansed.tar.gz', {
      in_msd('x', SONGS[0], f'{0:032x}.npz'): roll_bytes(five(0))})
  with pytest.raises(errors.UserError, match=r'labels\.tar\.gz is not in'):
    prepare(tmp_path, 'lpd5/musegan')
  as_tree(tmp_path, {'labels/lastfm/id_list_pop.txt': b''})
  with pytest.raises(errors.UserError, match=r'no lastfm/id_list_rock\.txt'):
    prepare(tmp_path, 'lpd5/musegan')


# --- Files as pypianoroll 0.3.0 wrote them ----------------------------------


@pytest.fixture(scope='module')
def real(tmp_path_factory):
  if not REAL.is_dir():
    pytest.skip(f'no rolls in the published layout in {REAL}')
  tmp_path = tmp_path_factory.mktemp('lpd')
  return {name: {e['id'].decode(): e for e in prepare(
      tmp_path, f'{name}/full', REAL)[1]['train']}
          for name in ('lpd', 'lpd5', 'lpd17')}


def test_real_rolls_have_the_known_cells(real):
  e = real['lpd5']['1a81ae092884234f3264e2f45927f00a']
  assert e['n_steps'] == 79 * 96 and e['roll'].shape == (79 * 96, 128, 5)
  assert np.count_nonzero(e['roll'], (0, 1)).tolist() == [
      1076, 12608, 7254, 5993, 27114]
  assert {k: e['roll'].shape for k, e in real['lpd5'].items()} == {
      '0f7309463023e4bdd689845cbfe1427a': (11760, 128, 5),  # 122.5 bars.
      '1a81ae092884234f3264e2f45927f00a': (7584, 128, 5),
      'db0a2236f0800a4d75bd3bbbfc030edd': (9504, 128, 5),
      'defc73e293b44e0e89af5b4d966b1dee': (3408, 128, 5)}
  for e in real['lpd5'].values():  # Beat by beat, not tiled.
    assert (e['tempo'].reshape(-1, 24) == e['tempo'][::24, None]).all()


def test_real_families_are_the_merged_tracks(real, tmp_path):
  (tmp_path / 'lpd_full').symlink_to(REAL / 'lpd_full')
  _, splits = prepare(tmp_path, 'lpd5/full')
  assert len(splits['train']) == 4
  for e in splits['train']:
    np.testing.assert_array_equal(
        e['roll'], real['lpd5'][e['id'].decode()]['roll'])
  for name, e in real['lpd'].items():
    step, pitch, track, velocity = e['cells'].T
    program = e['programs'][track]
    family = np.where(program < 0, 0, 1 + program // 8)
    roll = np.zeros_like(real['lpd17'][name]['roll'])
    np.maximum.at(roll, (step, pitch, family), velocity.astype(np.uint8))
    np.testing.assert_array_equal(roll, real['lpd17'][name]['roll'])
