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
