import hashlib
import pathlib
import re

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from common import audio, errors, midi
from common.data import builders, chunks, pipeline
from common.data.builders import folder as folder_lib
from gansynth_jax import wavegan

CHUNK = 160_000
SHARED = pathlib.Path(__file__).parents[3] / 'shared/data'


def tone(samples, rate=16000, hz=440.0):
  return (0.5 * np.sin(2 * np.pi * hz / rate * np.arange(samples))).astype(
      np.float32)


def sound(path, samples, rate=16000, hz=440.0, **kwargs):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, tone(samples, rate, hz), rate, **kwargs)


def song(path, pitches, step_s=0.5, **columns):
  notes = np.zeros(len(pitches), midi.NOTE)
  notes['start_s'] = step_s * np.arange(len(pitches))
  notes['end_s'] = notes['start_s'] + 0.9 * step_s
  notes['pitch'], notes['velocity'] = pitches, 80
  for name, value in columns.items():
    notes[name] = value
  path.parent.mkdir(parents=True, exist_ok=True)
  midi.write(path, notes)


def prepare(tmp_path, name, **options):
  """{split: [example]}, report"""
  builder = builders.make(name, tmp_path / 'data', tmp_path / 'mine')
  report = builder.prepare(**options)
  return {split: list(builder.as_data_source(split))
          for split in builder.info.splits}, report


def ids(examples):
  return [x['id'].decode() for x in examples]


def test_folders_called_train_valid_and_test_are_the_splits(tmp_path):
  for name in ('train/zero/a', 'train/one/b', 'train/c', 'valid/one/a',
               'test/zero/x/y', 'other/z', 'w'):
    sound(tmp_path / 'mine' / f'{name}.wav', 1600)
  (tmp_path / 'mine/train/notes.txt').write_text('no sound')
  split, report = prepare(tmp_path, 'audio_folder/words')
  assert {k: ids(v) for k, v in split.items()} == {
      'train': ['train/c.wav', 'train/one/b.wav', 'train/zero/a.wav'],
      'valid': ['valid/one/a.wav'], 'test': ['test/zero/x/y.wav']}
  assert [x['label'] for x in split['train']] == [0, 1, 2]
  names = tfds.builder_from_directory(builders.newest(
      tmp_path / 'data/audio_folder/words')).info.features['label'].names
  assert names == ['.', 'one', 'zero']
  assert report['splits']['train']['skipped'] == {
      'not in train, valid or test': 2}


def test_else_the_contents_choose_the_split_and_stay_there(tmp_path):
  for i in range(60):
    sound(tmp_path / f'mine/{i % 3}/{i}.wav', 100 + i)
  split, _ = prepare(tmp_path, 'audio_folder/a')
  of = {i: k for k, v in split.items() for i in ids(v)}
  for name, where in of.items():
    digest = hashlib.sha256((tmp_path / 'mine' / name).read_bytes()).hexdigest()
    part = int(digest[:6], 16) / 16**6
    assert where == ('train' if part < 0.8 else
                     'valid' if part < 0.9 else 'test')
  assert len(of) == 60 and len(split) == 3
  for path in (tmp_path / 'mine').rglob('*.wav'):
    path.rename(path.with_name(f'renamed_{path.name}'))
  for i in range(60, 90):
    sound(tmp_path / f'mine/{i % 3}/{i}.wav', 100 + i)
  split, _ = prepare(tmp_path, 'audio_folder/b')
  again = {i: k for k, v in split.items() for i in ids(v)}
  assert len(again) == 90
  assert of == {i.replace('renamed_', ''): k for i, k in again.items()
                if 'renamed_' in i}


def test_samples_are_those_of_the_file(tmp_path):
  rng = np.random.default_rng(0)
  stereo = rng.integers(-30000, 30000, (500, 2)).astype(np.int16) & ~1
  path = tmp_path / 'mine/train/a.wav'
  path.parent.mkdir(parents=True)
  soundfile.write(path, stereo, 16000)
  split, report = prepare(tmp_path, 'audio_folder/a')
  example, = split['train']
  np.testing.assert_array_equal(example['audio'],
                                stereo.astype(np.int32).mean(1))
  assert example['audio'].dtype == np.int16
  assert (example['sample_rate'], example['chunk']) == (16000, 0)
  assert report['splits']['train']['hours'] == 500 / 16000 / 3600


@pytest.mark.parametrize('suffix', ['wav', 'flac', 'ogg', 'mp3', 'WAV'])
@pytest.mark.parametrize('name, rate', [('a', 16000), ('a-22050', 22050)])
def test_every_format_comes_out_at_the_rate_of_the_name(
    tmp_path, suffix, name, rate):
  path = tmp_path / f'mine/train/a.{suffix}'
  path.parent.mkdir(parents=True)
  if suffix == 'mp3':
    path.write_bytes(audio.encode(tone(44100, 44100), 44100, 'mp3'))
  else:
    sound(path, 44100, 44100)
  split, _ = prepare(tmp_path, f'audio_folder/{name}')
  example, = split['train']
  assert example['sample_rate'] == rate
  assert builders.make(f'audio_folder/{name}', tmp_path / 'data'
                       ).info.metadata['sample_rate'] == rate
  assert abs(len(example['audio']) - rate) <= 1
  middle = slice(1000, rate - 1000)
  want = tone(rate, rate)[middle]
  got = example['audio'][middle] / 32768
  assert np.abs(got - want).max() < (0.03 if suffix in ('ogg', 'mp3') else 1e-3)


@pytest.mark.parametrize('samples, chunks', [
    (1, [1]), (CHUNK, [CHUNK]), (2 * CHUNK - 1, [2 * CHUNK - 1]),
    (2 * CHUNK, [CHUNK, CHUNK]), (3 * CHUNK - 1, [CHUNK, 2 * CHUNK - 1]),
    (27 * CHUNK + 9, [CHUNK] * 26 + [CHUNK + 9])])
def test_long_files_become_chunks_in_order(tmp_path, samples, chunks):
  path = tmp_path / 'mine/train/a.wav'
  path.parent.mkdir(parents=True)
  want = (np.arange(samples) % 60_001 - 30_000).astype(np.int16)
  soundfile.write(path, want, 16000)
  split, report = prepare(tmp_path, 'audio_folder/a')
  assert [len(x['audio']) for x in split['train']] == chunks
  assert [x['chunk'] for x in split['train']] == list(range(len(chunks)))
  assert [x['offset'] for x in split['train']] == [
      CHUNK * i for i in range(len(chunks))]
  assert set(ids(split['train'])) == {'train/a.wav'}
  np.testing.assert_array_equal(
      np.concatenate([x['audio'] for x in split['train']]), want)
  assert report['splits']['train']['hours'] == pytest.approx(
      samples / 16000 / 3600)


@pytest.mark.parametrize('rate', [44100, 8000, 22050, 16001])
def test_no_seam_where_a_long_file_is_decoded_in_segments(
    tmp_path, rate, monkeypatch):
  monkeypatch.setattr(folder_lib, '_SEGMENT', 2)
  rng = np.random.default_rng(0)
  path = tmp_path / 'mine/train/a.wav'
  path.parent.mkdir(parents=True)
  noise = rng.integers(-20000, 20000, 55 * rate).astype(np.int16)
  soundfile.write(path, noise, rate)
  split, report = prepare(tmp_path, 'audio_folder/a')
  assert report['splits']['train']['units'] == 3
  got = np.concatenate([x['audio'] for x in split['train']])
  whole = audio.read(path, 16000)
  assert abs(len(got) - len(whole)) <= 1
  n = min(len(got), len(whole))
  # One step of 16 bits.
  assert np.abs(got[:n] / 32768 - np.clip(whole[:n], -1, 1)).max() < 1.1 / 32768


def test_windows_of_the_pipeline_cross_the_chunks(tmp_path):
  rng = np.random.default_rng(0)
  whole = rng.integers(-2**15, 2**15, 45 * 8000).astype(np.int16)
  (tmp_path / 'mine/train').mkdir(parents=True)
  soundfile.write(tmp_path / 'mine/train/long.wav', whole, 8000)
  sound(tmp_path / 'mine/train/z.wav', 8000, 8000)
  prepare(tmp_path, 'audio_folder/mine-8000')
  source = builders.open_split('audio_folder/mine-8000', 'train',
                               tmp_path / 'data')
  length = 12 * 8000  # Longer than a chunk.
  batches = pipeline.train(
      source, lambda example, rng: {'audio': np.pad(
          window := chunks.window(example, length, rng),
          (0, length - len(window)))}, batch_size=5, seed=0)
  at = {}
  for _ in range(8):
    for row in next(batches)['audio']:
      start = np.flatnonzero(whole == row[0])
      start = [i for i in start if np.array_equal(whole[i:i + 9], row[:9])]
      if start:  # Of the long file.
        np.testing.assert_array_equal(row, whole[start[0]:start[0] + length])
        at[start[0] // 80_000] = True
  assert len(at) > 2


@pytest.mark.parametrize('suffix', ['flac', 'ogg', 'mp3'])
def test_segments_of_a_compressed_file_fit_together(
    tmp_path, suffix, monkeypatch):
  monkeypatch.setattr(folder_lib, '_SEGMENT', 1)
  path = tmp_path / f'mine/train/a.{suffix}'
  path.parent.mkdir(parents=True)
  x = tone(35 * 44100, 44100) * np.linspace(0, 1, 35 * 44100, dtype=np.float32)
  if suffix == 'mp3':
    path.write_bytes(audio.encode(x, 44100, 'mp3'))
  else:
    with soundfile.SoundFile(path, 'w', 44100, 1) as f:
      for i in range(0, len(x), 65536):  # More at once overflows its stack.
        f.write(x[i:i + CHUNK])
  split, _ = prepare(tmp_path, 'audio_folder/a')
  got = np.concatenate([e['audio'] for e in split['train']]) / 32768
  whole = audio.read(path, 16000)
  n = min(len(got), len(whole))
  assert n > 34.9 * 16000
  assert np.abs(got[:n] - whole[:n]).max() < 1.1 / 32768


def test_wavegan_trains_on_it(tmp_path):
  sound(tmp_path / 'mine/train/short.wav', 16000)
  sound(tmp_path / 'mine/train/long.flac', 3 * CHUNK)
  split, _ = prepare(tmp_path, 'audio_folder/sc09')
  from configs import wavegan_sc09
  fn = wavegan.preprocess(wavegan_sc09.get_config())
  rng = np.random.default_rng(0)
  for example in split['train']:
    out = fn(example, rng)['audio']
    assert out.shape == (16384,) and out.dtype == np.float32
    assert 0.49 < np.abs(out).max() < 0.51


def test_broken_sound_is_skipped_and_named(tmp_path):
  mine = tmp_path / 'mine/train'
  sound(mine / 'good.wav', 1000)
  whole = (mine / 'good.wav').read_bytes()
  sound(mine / 'empty.wav', 0)
  (mine / 'zero.flac').touch()
  (mine / 'text.mp3').write_text('no sound at all\n' * 100)
  (mine / 'head.wav').write_bytes(whole[:20])
  sound(mine / 'slow.wav', 100, rate=100)
  soundfile.write(mine / 'nan.wav', np.full(100, np.nan), 16000, 'FLOAT')
  # Says to have four gigabytes: what is there is read.
  (mine / 'liar.wav').write_bytes(
      whole[:40] + b'\xf0\xff\xff\xff' + whole[44:])
  (mine / 'link.wav').symlink_to(mine / 'good.wav')
  split, report = prepare(tmp_path, 'audio_folder/a')
  assert {x['id'].decode(): len(x['audio']) for x in split['train']} == {
      'train/good.wav': 1000, 'train/liar.wav': 1000}
  assert report['splits']['train']['skipped'] == {
      'cannot be read as sound': 3, 'no samples': 1, 'link': 1,
      'sample rate not from 1000 to 1000000': 1,
      'samples that are NaN or infinite': 1}


def test_midi_files_keep_their_bytes_and_are_counted(tmp_path):
  song(tmp_path / 'mine/train/a.mid', [60, 62, 64])
  song(tmp_path / 'mine/valid/b.midi', [65], step_s=2.0)
  split, report = prepare(tmp_path, 'midi_folder/mine')
  example, = split['train']
  assert example['midi'] == (tmp_path / 'mine/train/a.mid').read_bytes()
  assert example['notes'] == 3 and example['seconds'] == pytest.approx(1.45)
  assert ids(split['valid']) == ['valid/b.midi']
  assert report['splits']['train']['notes'] == 3
  assert report['splits']['valid']['hours'] == pytest.approx(1.8 / 3600)


def test_midi_files_with_the_same_notes_are_kept_once(tmp_path):
  mine = tmp_path / 'mine'
  tune = [60, 64, 67, 72, 67, 64]
  song(mine / 'train/a.mid', tune)
  song(mine / 'train/faster.mid', tune, step_s=0.3)
  song(mine / 'train/louder.mid', tune, velocity=120)
  song(mine / 'train/organ.mid', tune, program=19)
  # Also across splits, which would leak.
  song(mine / 'valid/same.mid', tune)
  song(mine / 'train/other.mid', [*tune[:-1], 65])
  song(mine / 'train/higher.mid', [p + 1 for p in tune])
  song(mine / 'train/drums.mid', tune, is_drum=True)
  song(mine / 'valid/v.mid', [50])
  split, report = prepare(tmp_path, 'midi_folder/mine')
  assert ids(split['train']) == [f'train/{n}.mid' for n in (
      'a', 'drums', 'higher', 'other')]
  assert ids(split['valid']) == ['valid/v.mid']
  assert report['splits']['train']['skipped'] == {
      'same notes as another file': 4}


def test_midi_files_without_notes_or_sense_are_skipped(tmp_path):
  mine = tmp_path / 'mine/train'
  song(mine / 'a.mid', [60])
  song(mine / 'empty.mid', [])
  (mine / 'zero.mid').touch()
  (mine / 'text.mid').write_text('MThd or not')
  split, report = prepare(tmp_path, 'midi_folder/mine')
  assert ids(split['train']) == ['train/a.mid']
  assert report['splits']['train']['skipped'] == {
      'not a valid MIDI file': 2, 'no notes': 1}


@pytest.mark.parametrize('name, sentence', [
    ('audio_folder', 'of small letters, .* for example audio_folder/mine'),
    ('audio_folder/Mine', 'of small letters'),
    ('audio_folder/../x', 'of small letters'),
    ('audio_folder/a-44,1', "'44,1' is no sample rate"),
    ('audio_folder/a-999', "'999' is no sample rate"),
    ('midi_folder/a-44100', 'of small letters')])
def test_a_name_that_cannot_be_says_what_would_work(tmp_path, name, sentence):
  with pytest.raises(errors.UserError, match=sentence):
    builders.make(name, tmp_path)


def test_a_folder_without_files_for_training_is_one_sentence(tmp_path):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine/song.mp4').touch()
  with pytest.raises(errors.UserError, match=re.escape(
      f'{tmp_path}/mine has 0 usable sound files (.wav, .flac, .ogg, .mp3), '
      'none for training; add more')):
    prepare(tmp_path, 'audio_folder/a')


def test_a_file_that_changes_between_two_attempts_starts_anew(
    tmp_path, monkeypatch):
  for i in range(3):
    sound(tmp_path / f'mine/train/{i}.wav', 100)
  monkeypatch.setattr(folder_lib.AudioFolder, 'SHARD_UNITS', 1)
  example = folder_lib.AudioFolder.example

  def stop(self, unit):
    if '2.wav' in unit.name:
      raise KeyboardInterrupt
    return example(self, unit)

  with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
    m.setattr(folder_lib.AudioFolder, 'example', stop)
    prepare(tmp_path, 'audio_folder/a')
  sound(tmp_path / 'mine/train/0.wav', 200)
  split, _ = prepare(tmp_path, 'audio_folder/a')
  assert [len(x['audio']) for x in split['train']] == [200, 100, 100]


@pytest.mark.skipif(not SHARED.is_dir(), reason='no recordings at hand')
def test_real_files_of_many_kinds_are_read(tmp_path):
  builder = builders.make('audio_folder/digits', tmp_path,
                          SHARED / 'spoken_digits')
  counts = builder.prepare()['splits']
  assert sum(c['examples'] for c in counts.values()) == 100
  assert not any(c['skipped'] for c in counts.values())
