import numpy as np
import pytest
import soxr

from common.data import chunks


class Sound:
  """Samples that can only be read forward, and never past the end."""

  def __init__(self, audio, sample_rate):
    self.sample_rate, self.samples = sample_rate, len(audio)
    self._audio, self._at = audio, 0

  def read(self, samples):
    assert 0 <= samples <= self.samples - self._at
    self._at += samples
    return self._audio[self._at - samples:self._at]


def noise(seconds, rate):
  rng = np.random.default_rng(0)
  return rng.uniform(-0.9, 0.9, round(seconds * rate)).astype(np.float32)


@pytest.mark.parametrize('seconds, lengths', [
    (0.01, [0.01]), (9.99, [9.99]), (10, [10]), (19.9, [19.9]),
    (20, [10, 10]), (34.5, [10, 10, 14.5])])
@pytest.mark.parametrize('rate', [8000, 11025])
def test_chunks_are_the_whole_recording(seconds, lengths, rate):
  audio = noise(seconds, rate)
  found = list(chunks.cut(Sound(audio, rate)))
  assert [c.number for c in found] == list(range(len(lengths)))
  assert [c.span[1] - c.span[0] for c in found] == [
      round(n * rate) for n in lengths]
  offsets, parts = zip(*(c.at(rate) for c in found), strict=True)
  assert offsets == tuple(c.span[0] for c in found)
  np.testing.assert_array_equal(np.concatenate(parts), np.rint(audio * 32768))


@pytest.mark.parametrize('rate, new', [(44100, 16000), (48000, 16000),
                                       (48000, 44100), (44100, 11025)])
def test_chunks_are_resampled_as_if_they_were_one(rate, new):
  audio = noise(31, rate)
  offsets, parts = zip(*(c.at(new) for c in chunks.cut(Sound(audio, rate))),
                       strict=True)
  assert offsets == (0, 10 * new, 20 * new)
  got = np.concatenate(parts)
  expected = soxr.resample(audio, rate, new) * 32768
  assert len(got) == len(expected) == 31 * new
  # No seam: off by rounding to 16 bits alone, at most.
  assert np.abs(got - np.clip(expected, -32768, 32767)).max() < 1.01


def test_loud_samples_are_clipped():
  audio = np.array([1.5, 1.0, -1.0, -2.0], np.float32)
  chunk, = chunks.cut(Sound(audio, 8000))
  assert chunk.at(8000)[1].tolist() == [32767, 32767, -32768, -32768]


def records(*lengths, names=None):
  """A split of recordings of so many samples, in chunks of ten."""
  out = []
  for name, length in zip(names or 'abcdef', lengths, strict=False):
    audio = np.arange(length) + 100 * (ord(name) - ord('a'))
    for number in range(max(1, length // 10)):
      end = length if number == max(1, length // 10) - 1 else 10 * number + 10
      out.append({'id': name, 'chunk': number,
                  'audio': audio[10 * number:end]})
  return chunks.Recordings(out)


@pytest.mark.parametrize('length', [1, 4, 10, 13, 25])
def test_windows_cross_the_seams_of_a_recording_and_no_other(length):
  source, rng = records(34, 7, 20), np.random.default_rng(0)
  for i in range(len(source)):
    whole = {'a': (0, 34), 'b': (100, 107), 'c': (200, 220)}[source[i]['id']]
    for _ in range(50):
      got = chunks.window(source[i], length, rng)
      room = whole[1] - source[i]['audio'][0]
      assert len(got) == min(length, room)
      np.testing.assert_array_equal(got, got[0] + np.arange(len(got)))
      assert whole[0] <= got[0] and got[-1] < whole[1]


def test_all_windows_of_a_recording_are_alike():
  source, rng = records(30), np.random.default_rng(0)
  starts = [int(chunks.window(source[i], 4, rng)[0])
            for _ in range(2000) for i in range(3)]
  count = np.bincount(starts, minlength=30)
  assert (count[27:] == 0).all()  # No room for four samples.
  assert count[:20].std() < 30 and abs(count[:20].mean() - 200) < 1e-9
  assert abs(count[20:27].mean() - 2000 / 7) < 1e-9
  assert count[20:27].std() < 40


def test_a_seam_is_read_only_when_a_window_crosses_it():
  read = []

  class Counted(list):
    def __getitem__(self, i):
      read.append(i)
      return super().__getitem__(i)

  whole = records(30)
  source = chunks.Recordings(Counted(whole[i] for i in range(3)))
  rng = np.random.default_rng(0)
  for _ in range(1000):
    chunks.window(source[0], 2, rng)
  assert set(read) == {0, 1} and 60 < read.count(1) < 140  # One of ten.


def test_a_missing_chunk_ends_a_window():
  whole = records(30)
  source = chunks.Recordings([whole[0], whole[2]])
  rng = np.random.default_rng(0)
  assert max(chunks.window(source[0], 4, rng)[-1] for _ in range(100)) == 9


def test_records_that_are_no_chunks_are_as_stored():
  example = {'audio': np.arange(8), 'pitch': 60}
  assert chunks.Recordings([example])[0] is example
  rng = np.random.default_rng(0)
  starts = {int(chunks.window(example, 5, rng)[0]) for _ in range(100)}
  assert starts == {0, 1, 2, 3}
  np.testing.assert_array_equal(chunks.window(example, 9, rng), np.arange(8))
  assert len(chunks.window({'audio': np.zeros(0)}, 3, rng)) == 0
