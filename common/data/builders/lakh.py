"""The Lakh MIDI data set (Raffel 2016), and the piano rolls made from it.

`lakh_midi` holds the files; `lpd`, `lpd5` and `lpd17` the Lakh Pianoroll data
set (Dong et al. 2018): all tracks, or tracks merged into 5 or 17 families.

There are no official splits. A file goes by the first hex digit of its md5: e
is valid, f is test, the others are train. Where songs are known, it is the
digit of the md5 of the song's name, and songs that share a file stay together
(the first of them in order of names counts): no file and no song is in two
splits.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from common import errors, midi, smf
from common.data import archives, unpickle
from common.data.builders import base

F = tfds.features

SPLITS = ('train', 'valid', 'test')
STEPS_PER_BEAT, STEPS_PER_BAR = 24, 96  # Of the rolls; all bars are 4/4.
FAMILIES = ('Drums', 'Piano', 'Guitar', 'Bass', 'Strings')
MOST_STEPS = 100_000  # 35 minutes at 120 beats a minute.

# Phrases: four bars of C1 to B7.
BARS, LOWEST, PITCHES = 4, 24, 84
PHRASES = 6  # Of a song, at random, as for BinaryMuseGAN.

_LMD_URL = 'http://hog.ee.columbia.edu/craffel/lmd/'
_LPD_URL = 'https://salu133445.github.io/lakh-pianoroll-dataset/dataset'
_NAME = re.compile(r'(?:.*/)?([0-9a-f]{32})\.(?:mid|npz)')
_SONG = re.compile(r'.*/(TR[A-Z0-9]{16})/[^/]*')
_VERSION = re.compile(r'(.*?)(?:\.\d+)?\.mid')  # Title.mid, Title.1.mid, ...
_NPZ_LIMIT = 64 << 20  # Bytes; real files have less than one million.
_PATHS_LIMIT = 256 << 20
_NONE = np.zeros(0, np.int64)


class _File(NamedTuple):
  """What the names in an archive say of a file."""

  md5: str
  songs: tuple[str, ...]  # All that it belongs to, as far as known.
  split: str


class _Lakh(base.Builder, skip_registration=True):
  VERSION = tfds.core.Version('1.0.0')

  def names(self) -> Iterable[tuple[str, str, str]]:
    """(name in the archive, md5, song or '') of each file."""
    for name, _ in archives.open_members(
        self.path, lambda *_: None, lambda n: n.endswith(('.mid', '.npz'))):
      if found := _NAME.fullmatch(name):
        song = _SONG.fullmatch(name)
        yield name, found[1], song[1] if song else ''
      else:
        self.lost.append((name, 'its name is not an md5'))

  def start(self):
    self.path = self.find(self.archives()[0])
    self.lost = []  # Names and reasons.
    self.files, self._found = {}, set()  # Of songs; of splits.
    tied, md5_of, songs = _Ties(), {}, {}
    for name, md5, song in self.names():
      if song:
        tied.add(md5, song)
        md5_of[name] = md5
        songs.setdefault(md5, []).append(song)
      else:
        self._found.add(_split_of(md5))
    for name, md5 in md5_of.items():
      split = _split_of(hashlib.md5(tied.first(md5).encode()).hexdigest())
      self.files[name] = _File(md5, tuple(songs[md5]), split)
      self._found.add(split)
    if not self._found:
      raise errors.UserError(
          f'{self.path} has no files with names as in '
          f'{self.archives()[0].name}; download that again')

  def splits(self):
    return [split for split in SPLITS if split in self._found]

  def members(self, split, limit):
    """(name, file, contents) of the files of a split."""
    if split == self.splits()[0]:
      for row in self.lost:
        self.skip(*row)
    def want(name):
      file = self._file(name)
      return file is not None and file.split == split
    for name, data in archives.read_members(self.path, self.skip, want, limit):
      yield name, self._file(name), data

  def _file(self, name):
    if self.files:
      return self.files.get(name)
    found = _NAME.fullmatch(name)
    return found and _File(found[1], (), _split_of(found[1]))


class _Ties:
  """Files and songs that belong together, by way of each other."""

  def __init__(self):
    self._before = {}

  def add(self, file: str, song: str) -> None:
    a, b = self._root('file ' + file), self._root(' ' + song)
    self._before[max(a, b)] = min(a, b)  # Songs come before files.

  def first(self, file: str) -> str:
    """The first in order of all songs that are tied to a file."""
    return self._root('file ' + file)[1:]

  def _root(self, x):
    while (y := self._before.setdefault(x, x)) != x:
      self._before[x] = x = self._before[y]
    return x


def _split_of(digest: str) -> str:
  return {'e': 'valid', 'f': 'test'}.get(digest[0], 'train')


# --- MIDI files -------------------------------------------------------------


class LakhMidi(_Lakh):
  """MIDI files of all kinds from the web: 176,581 of them, or subsets."""

  BUILDER_CONFIGS: ClassVar = [
      tfds.core.BuilderConfig(name='full', description='each file once'),
      tfds.core.BuilderConfig(name='matched', description='files that match '
                              'a song of the Million Song data set'),
      tfds.core.BuilderConfig(name='clean', description='files whose artist '
                              'and title are known')]
  PUBLISHED: ClassVar = {'full': {'all': {'units': 176_581}},
                         'matched': {'all': {'units': 45_129}}}
  _ARCHIVES: ClassVar = {
      'full': base.Archive(
          'lmd_full.tar.gz', f'{_LMD_URL}lmd_full.tar.gz', 1_768_163_879,
          '6fcfe2ac49ca08f3f214cec86ab138d4fc4dabcd7f27f491a838dae6db45a12b',
          folder='lmd_full'),
      'matched': base.Archive(
          'lmd_matched.tar.gz', f'{_LMD_URL}lmd_matched.tar.gz', 1_407_072_670,
          '621ff830aed771f469e5bfa13dc12a33c6ed69090adeda63d0b5c47783af0191',
          folder='lmd_matched'),
      'clean': base.Archive('clean_midi.tar.gz', f'{_LMD_URL}clean_midi.tar.gz',
                            folder='clean_midi')}
  _PATHS = base.Archive('md5_to_paths.json', f'{_LMD_URL}md5_to_paths.json',
                        optional=True)

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, homepage='https://colinraffel.com/projects/lmd/',
        features=F.FeaturesDict({
            'id': F.Text(),  # The md5 of the file.
            'midi': F.Text(),  # Its bytes.
            # Lines: ids of the Million Song data set, or artist/title; names
            # that the file had on the web, where md5_to_paths.json is there.
            'songs': F.Text(), 'paths': F.Text(),
            'notes': np.int32, 'parts': np.int32, 'seconds': np.float32}))

  def archives(self):
    return [self._ARCHIVES[self.builder_config.name], self._PATHS]

  def start(self):
    super().start()
    # A file that belongs to many songs is read where it comes first.
    seen = set()
    self.files = {name: file for name, file in self.files.items()
                  if file.md5 not in seen and not seen.add(file.md5)}
    self._paths = {}
    if path := self.find(self._PATHS):
      self._paths = _read_paths(path)

  def names(self):
    if self.builder_config.name != 'clean':
      yield from super().names()
      return
    lose = lambda name, reason: self.lost.append((name, reason))
    for name, data in archives.read_members(
        self.path, lose, _VERSION.fullmatch, smf.MOST_BYTES):
      song = '/'.join(_VERSION.fullmatch(name)[1].split('/')[-2:])
      yield name, hashlib.md5(data).hexdigest(), song.lower()

  def units(self, split):
    for name, file, data in self.members(split, smf.MOST_BYTES):
      yield base.Unit(name, (file, self._paths.get(file.md5, []), data),
                      len(data))

  def example(self, unit):
    file, paths, data = unit.data
    if hashlib.md5(data).hexdigest() != file.md5:
      raise base.Skip('its md5 is not its name')
    try:
      song = midi.parse(data)
    except smf.Error as e:
      raise base.Skip(str(e)) from None
    if not len(song.notes):
      raise base.Skip('no notes')
    yield file.md5, {
        'id': file.md5, 'midi': data, 'songs': '\n'.join(file.songs),
        'paths': '\n'.join(paths), 'notes': len(song.notes),
        'parts': song.part.max() + 1, 'seconds': song.notes['end_s'].max()}

  def tally(self, example):
    return {'seconds': float(example['seconds']), 'notes': example['notes']}


def _read_paths(path):
  try:
    if path.stat().st_size > _PATHS_LIMIT:
      raise ValueError('far too large')
    table = json.loads(path.read_bytes())
    if not all(isinstance(p, str) for paths in table.values() for p in paths):
      raise ValueError('not lists of names')
  except (ValueError, TypeError, AttributeError, RecursionError):
    raise errors.UserError(
        f'{path} is not the published table of names; download it again from '
        f'{_LMD_URL}, or leave it out') from None
  return table


# --- Piano rolls ------------------------------------------------------------


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
  """Filters apply in this order; the report counts each."""

  subset: str
  genre: str = ''  # List of songs in labels.tar.gz.
  cells: int = 0  # That a family needs to sound in, each of them.
  steps_per_bar: int = 0  # Phrases of so many; 0 for whole songs.


def _subsets():
  return [
      Config(name='full', subset='full', description='all files'),
      Config(name='matched', subset='matched', description='files that match '
             'a song of the Million Song data set'),
      Config(name='cleansed', subset='cleansed', description='the best file '
             'of each song, 4/4 throughout, from its first beat on')]


class Track(NamedTuple):
  """The cells of a roll that sound, C of them."""

  step: np.ndarray  # [C]
  pitch: np.ndarray
  velocity: np.ndarray
  program: int
  is_drum: bool
  name: str


class Song(NamedTuple):
  tracks: list[Track]
  tempo: np.ndarray  # [T] float32, beats a minute; [0] where it is not known.
  n_steps: int  # Of the longest track.


class _Lpd(_Lakh):
  BUILDER_CONFIGS: ClassVar = _subsets()
  PREFIX = 'lpd'
  PUBLISHED: ClassVar = {'full': {'all': {'units': 174_154}},
                         'matched': {'all': {'units': 115_160}},
                         'cleansed': {'all': {'units': 21_425}}}
  # At github.com, beside the code of the data set.
  _LABELS = base.Archive(
      'labels.tar.gz', 'https://github.com/salu133445/lakh-pianoroll-dataset/'
      'tree/master/data', 869_278,
      '68191f8f394a15b8c9d6a379c95bceba857d4732220df272c6166e225808e5d6',
      folder='labels')

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, homepage=_LPD_URL,
        features=F.FeaturesDict({'id': F.Text(), 'msd_id': F.Text(),
                                 **self.content()}),
        metadata=tfds.core.MetadataDict(
            steps_per_beat=self.builder_config.steps_per_bar // 4
            or STEPS_PER_BEAT))

  def content(self) -> dict:
    """Features of the rolls."""
    raise NotImplementedError

  def archives(self):
    subset = self.builder_config.subset
    # Families can be made from all tracks, too.
    usable = [base.Archive(f'{name}.tar.gz', _LPD_URL, folder=folder,
                           optional=True)
              for prefix in dict.fromkeys((self.PREFIX, 'lpd'))
              for name in [f'{prefix}_{subset}']
              for folder in (name, f'{prefix}/{name}')]
    there = [archive for archive in usable if self.find(archive)]
    first = there[:1] or [dataclasses.replace(usable[0], optional=False)]
    return first + ([self._LABELS] if self.builder_config.genre else [])

  def start(self):
    super().start()
    self._genre = None
    if name := self.builder_config.genre:
      data = archives.read_member(self.find(self._LABELS), name, 1 << 20)
      if not data:
        raise errors.UserError(
            f'{self.find(self._LABELS)} has no {name}; download '
            f'{self._LABELS.name} again from {self._LABELS.url}')
      self._genre = set(data.decode('utf-8', 'replace').split())

  def units(self, split):
    merged = self.archives()[0].name.startswith(f'{self.PREFIX}_')
    for name, file, data in self.members(split, _NPZ_LIMIT):
      # The same file is there once for each of its songs.
      song = _SONG.fullmatch(name)
      song = song[1] if song else ''
      if self._genre is not None and song not in self._genre:
        self.skip(name, f'filter: not in {self.builder_config.genre}')
      else:
        yield base.Unit(name, (file.md5, song, merged, data), len(data))

  def example(self, unit):
    md5, song, merged, data = unit.data
    for key, content in self.contents(md5, read(data), merged):
      yield f'{md5} {song} {key}', {'id': md5, 'msd_id': song, **content}

  def tally(self, example):
    return {'steps': example['n_steps']} if 'n_steps' in example else {}

  def contents(self, md5, song: Song, merged: bool):
    """(key, features) of the examples in a file.

    merged: its tracks are families already.
    """
    raise NotImplementedError


class Lpd(_Lpd):
  """Lakh piano rolls with all their tracks, as lists of cells."""

  def content(self):
    per_step = lambda *shape: F.Tensor(shape=(None, *shape), dtype=np.int32,
                                       encoding='zlib')
    return {
        'tempo': F.Tensor(shape=(None,), dtype=np.float32, encoding='zlib'),
        'n_steps': np.int32,
        'cells': per_step(4),  # [step, pitch, track, velocity]
        'programs': per_step(),  # Of each track; -1 is a drum kit.
        'names': F.Text()}  # Lines, one for each track.

  def contents(self, md5, song, merged):
    cells = [np.stack([t.step, t.pitch, np.full(len(t.step), i), t.velocity], 1)
             for i, t in enumerate(song.tracks)]
    yield '', {
        'tempo': song.tempo, 'n_steps': song.n_steps,
        'cells': np.concatenate(cells).astype(np.int32),
        'programs': np.array([midi.DRUMS if t.is_drum else t.program
                              for t in song.tracks], np.int32),
        'names': '\n'.join(' '.join(t.name.split()) for t in song.tracks)}


class _Families(_Lpd):
  COUNT: int

  def content(self):
    return {
        'tempo': F.Tensor(shape=(None,), dtype=np.float32, encoding='zlib'),
        'n_steps': np.int32,
        'roll': F.Tensor(shape=(None, 128, self.COUNT), dtype=np.uint8,
                         encoding='zlib')}

  @staticmethod
  def family(track: Track) -> int:
    """Where a track of the original set goes; -1: nowhere."""
    raise NotImplementedError

  def contents(self, md5, song, merged):
    roll = np.zeros((song.n_steps, 128, self.COUNT), np.uint8)
    if merged and len(song.tracks) != self.COUNT:
      raise base.Skip(f'not {self.COUNT} tracks')
    for i, track in enumerate(song.tracks):
      family = i if merged else self.family(track)
      if merged and track.is_drum != (family == 0):
        raise base.Skip('drums are not the first track')
      if family >= 0:
        cells = track.step, track.pitch, family
        roll[cells] = np.maximum(roll[cells], track.velocity)
    if not roll.any():
      raise base.Skip('no notes')
    need = self.builder_config.cells
    if ((roll > 0).sum((0, 1)) < need).any():
      raise base.Skip(f'filter: a family with fewer than {need} cells')
    yield from self.results(md5, roll, song)

  def results(self, md5, roll, song):
    del md5
    yield '', {'tempo': song.tempo, 'n_steps': song.n_steps, 'roll': roll}


class Lpd5(_Families):
  """Lakh piano rolls of drums, piano, guitar, bass and strings; phrases."""

  COUNT = len(FAMILIES)
  PREFIX = 'lpd_5'
  BUILDER_CONFIGS: ClassVar = [
      *_subsets(),
      # Dong et al. 2018: rock, 4/4, first beat at 0, all five families. Which
      # of the lists of rock they took is not known.
      Config(name='musegan', subset='cleansed', cells=1,
             genre='lastfm/id_list_rock.txt', description='the songs of '
             'MuseGAN: rock, all families'),
      Config(name='musegan_phrases', subset='cleansed', cells=1,
             genre='lastfm/id_list_rock.txt', steps_per_bar=96,
             description='six phrases of each'),
      # 10 cells: the tutorial of MuseGAN's authors at ISMIR 2019.
      Config(name='phrases', subset='cleansed', cells=10, steps_per_bar=48,
             description='six phrases of each song with all families')]

  def content(self):
    steps = self.builder_config.steps_per_bar
    if not steps:
      return super().content()
    return {'start_bar': np.int32,
            'roll': F.Tensor(shape=(BARS, steps, PITCHES, self.COUNT),
                             dtype=np.bool_, encoding='zlib')}

  @staticmethod
  def family(track):
    if track.is_drum:
      return 0
    group = track.program // 8
    if group in (0, 3, 4):
      return {0: 1, 3: 2, 4: 3}[group]
    # No synthesiser effects, percussion or sound effects.
    return 4 if group < 12 or group == 13 else -1

  def results(self, md5, roll, song):
    if self.builder_config.steps_per_bar:
      yield from phrases(roll, self.builder_config.steps_per_bar, int(md5, 16))
    else:
      yield from super().results(md5, roll, song)


class Lpd17(_Families):
  """Lakh piano rolls of drums and the 16 families of General MIDI."""

  COUNT = 17
  PREFIX = 'lpd_17'

  @staticmethod
  def family(track):
    return 0 if track.is_drum else 1 + track.program // 8


def phrases(roll, steps: int, seed: int):
  """(start bar, features) of phrases at random bars of a roll [T, 128, 5].

  Bars are counted from step 0: `downbeat` in the files has only its first
  element set. A step of a coarser roll sounds if any of its steps does, so
  that no drum is lost: they sound for one step only.
  """
  bars = len(roll) // STEPS_PER_BAR
  if bars < BARS:
    raise base.Skip(f'filter: shorter than {BARS} bars')
  starts = np.random.default_rng(seed).choice(
      bars - BARS + 1, min(PHRASES, bars // BARS), replace=False)
  sounds = roll[:bars * STEPS_PER_BAR, LOWEST:LOWEST + PITCHES] > 0
  sounds = sounds.reshape(bars, steps, -1, PITCHES, roll.shape[2]).any(2)
  for start in sorted(starts.tolist()):
    yield start, {'start_bar': start, 'roll': sounds[start:start + BARS]}


def read(data: bytes) -> Song:
  """A file of the data set, as pypianoroll of any version wrote it."""
  try:
    members = unpickle.npz(data, _NPZ_LIMIT)
  except unpickle.Error as e:
    raise base.Skip(str(e)) from None
  try:
    info = json.loads(members['info.json'])
    # The second name since version 1.
    resolution = info.get('beat_resolution', info.get('resolution'))
    tracks = [_track(members, info[i], f'pianoroll_{i}_csc_') for i in sorted(
        (k for k in info if k.isdecimal()), key=int)]
    tempo = np.asarray(members.get('tempo', _NONE), np.float32).reshape(-1)
  except (AttributeError, KeyError, TypeError, ValueError, OverflowError,
          RecursionError):
    raise base.Skip('not a file of piano rolls') from None
  if resolution != STEPS_PER_BEAT:
    raise base.Skip(f'not {STEPS_PER_BEAT} steps a beat')
  n_steps = max((steps for _, steps in tracks), default=0)
  if not sum(len(track.step) for track, _ in tracks):
    raise base.Skip('no notes')
  return Song([track for track, _ in tracks], _tempo(tempo, n_steps), n_steps)


def _track(members, info, prefix):
  """A track, and its steps: none where a track is empty."""
  data, row, start, shape = (np.asarray(members[prefix + name]) for name in (
      'data', 'indices', 'indptr', 'shape'))
  steps, pitches = shape.tolist()
  if steps > MOST_STEPS:
    raise base.Skip(f'longer than {MOST_STEPS} steps')
  count = np.diff(start.astype(np.int64))  # Of each pitch.
  if not (pitches == 128 and start.shape == (129,) and start[0] == 0
          and (count >= 0).all()
          and data.shape == row.shape == (int(start[-1]),)
          and data.dtype.kind in 'biu' and row.dtype.kind in 'iu'
          and ((row >= 0) & (row < steps)).all()
          and ((data >= 0) & (data <= 127)).all()):
    raise ValueError('broken')
  program = info['program']
  if not isinstance(program, int) or not 0 <= program <= 127:
    raise ValueError('broken')
  on = data > 0
  return Track(row[on].astype(np.int64), np.repeat(np.arange(128), count)[on],
               data[on].astype(np.uint8), program, bool(info['is_drum']),
               str(info.get('name') or '')), steps


def _tempo(tempo, n_steps):
  """The tempo at each step.

  The tempi of the beats were tiled, where each should have been repeated.
  """
  if not len(tempo) or not np.isfinite(tempo).all():
    return np.zeros(0, np.float32)
  beats = len(tempo) // STEPS_PER_BEAT
  if len(tempo) == beats * STEPS_PER_BEAT and (
      tempo.reshape(-1, beats) == tempo[:beats]).all():
    tempo = np.repeat(tempo[:beats], STEPS_PER_BEAT)
  return np.pad(tempo, (0, max(0, n_steps - len(tempo))), 'edge')[:n_steps]
