import collections

import numpy as np
import pytest

from common import midi, synth
from common.data import harmony, synthetic

MAKERS = {'note': synthetic.note, 'piece': synthetic.piece,
          'roll': synthetic.roll, 'chorale': synthetic.chorale}


@pytest.fixture(scope='module')
def notes():
  return [synthetic.note('train', i) for i in range(150)]


@pytest.fixture(scope='module')
def chorales():
  return [synthetic.chorale('train', i)['voices'] for i in range(150)]


@pytest.fixture(scope='module')
def rolls():
  return [synthetic.roll('train', i) for i in range(40)]


@pytest.fixture(scope='module')
def pieces():
  return [synthetic.piece('train', i) for i in range(12)]


def assert_equal(a, b):
  assert a.keys() == b.keys()
  for k in a:
    if isinstance(a[k], dict):
      assert_equal(a[k], b[k])
    else:
      np.testing.assert_array_equal(a[k], b[k])


@pytest.mark.parametrize('kind', MAKERS)
def test_an_example_depends_on_its_split_and_index_only(kind):
  make = MAKERS[kind]
  for split in synthetic.SPLITS:
    first = make(split, 3)
    make('train', 17)
    assert_equal(first, make(split, 3))
  content = {'note': 'audio', 'piece': 'audio', 'roll': 'roll',
             'chorale': 'voices'}[kind]
  examples = [make(split, i)[content] for split in synthetic.SPLITS
              for i in range(4)]
  assert len({e.tobytes() for e in examples}) == len(examples)


# Single notes.


def f0_by_autocorrelation(x, rate, low=30.0, high=1200.0):
  """Pitch from the repetition of the wave alone, in hertz."""
  n = len(x)
  power = np.abs(np.fft.rfft(x * np.hanning(n), 4 * n))**2
  r = np.fft.irfft(power)[:n]
  lags = np.arange(int(rate / high), int(rate / low))
  peaks = lags[(r[lags] > r[lags - 1]) & (r[lags] >= r[lags + 1])]
  # The first peak that is about as high as any: not a multiple of the period.
  lag = peaks[np.argmax(r[peaks] > 0.93 * r[peaks].max())]

  def refine(i):
    a, b, c = r[i - 1:i + 2]
    return i + 0.5 * (a - c) / (a - 2 * b + c)

  # Many periods on, the same peak tells the period more exactly.
  period = refine(lag)
  for m in range(2, int(0.1 * rate / period)):
    i = round(m * period)
    period = refine(i - 1 + r[i - 1:i + 2].argmax()) / m
  return rate / period


def test_the_pitch_that_sounds_is_the_label(notes):
  cents = []
  for e in notes:
    got = f0_by_autocorrelation(e['audio'][2400:12000].astype(np.float64),
                                synthetic.NOTE_RATE)
    cents.append(1200 * np.log2(got / synth.hertz(e['pitch'])))
  assert np.abs(cents).max() < 10, notes[np.abs(cents).argmax()]['id']
  assert np.median(np.abs(cents)) < 0.5


def test_notes_use_the_whole_scale_and_all_velocities_and_families(notes):
  assert {e['pitch'] for e in notes} <= set(range(24, 85))
  assert min(e['pitch'] for e in notes) < 30
  assert max(e['pitch'] for e in notes) > 78
  assert {e['velocity'] for e in notes} == {25, 50, 75, 100, 127}
  assert {e['instrument']['family'] for e in notes} == set(synthetic.FAMILIES)


def test_notes_are_named_and_labelled_as_in_nsynth(notes):
  names = synthetic.instrument_names()
  assert len(names) == len(set(names)) == 1006
  for e in notes:
    instrument, pitch, velocity = e['id'].rsplit('-', 2)
    assert instrument == names[e['instrument']['label']]
    family, source, number = instrument.rsplit('_', 2)
    assert family == e['instrument']['family']
    assert source == e['instrument']['source'] and len(number) == 3
    assert (pitch, velocity) == (f'{e["pitch"]:03d}', f'{e["velocity"]:03d}')
  assert len(e['qualities']) == 10 and 'tempo-synced' in e['qualities']


def test_no_note_is_in_two_splits_or_twice_in_one():
  ids = [synthetic.note_labels(split, i)
         for split, n in (('train', 8100), ('valid', 1100), ('test', 1100))
         for i in range(n)]
  assert len(ids) == len(set(ids))


def test_notes_are_finite_and_loud_enough_and_never_clip(notes):
  for e in notes:
    assert e['audio'].shape == (64000,) and e['audio'].dtype == np.float32
    assert 0.2 < np.abs(e['audio']).max() < 0.95
    assert np.isfinite(e['audio']).all()


def test_notes_start_at_once_and_die_away_after_three_seconds(notes):
  for e in notes:
    power = (e['audio']**2).reshape(40, -1).mean(1)  # Tenths of a second.
    assert power[:3].max() > 0.2 * power.max(), e['id']
    assert power[-1] < 1e-4 * power.max(), e['id']
    assert abs(e['audio'][-1]) < 1e-4
    assert power[32:].max() < 1.01 * power[:30].max()


def test_struck_families_decay_and_blown_ones_do_not(notes):
  fall = collections.defaultdict(list)
  for e in notes:
    power = (e['audio']**2).reshape(40, -1).mean(1)
    fall[e['instrument']['family']].append(10 * np.log10(power[28] / power[3]))
  for family in ('guitar', 'keyboard', 'mallet'):
    assert np.median(fall[family]) < -8, family
  for family in ('brass', 'flute', 'organ', 'reed', 'string', 'vocal'):
    assert np.median(fall[family]) > -4, family


def test_families_differ_in_timbre():
  centroid = {}
  for family, kinds in synth.FAMILIES.items():
    x = kinds[0][1].tone(60, 100, 1.0, 1.2, 16000, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(x))**2
    hz = np.fft.rfftfreq(len(x), 1 / 16000)
    centroid[family] = (power * hz).sum() / power.sum() / synth.hertz(60)
  ratios = np.sort(list(centroid.values()))
  assert ratios[0] < 1.1 and ratios[-1] > 2.5
  assert centroid['flute'] < centroid['string'] < centroid['brass']
  assert centroid['mallet'] < centroid['organ']


def test_reeds_have_weak_even_harmonics():
  clarinet = synth.FAMILIES['reed'][0][1]
  x = clarinet.tone(57, 100, 1.0, 1.2, 16000, np.random.default_rng(0))
  power = np.abs(np.fft.rfft(x[3200:12800] * np.hanning(9600), 16000))**2
  level = [power[220 * k - 6:220 * k + 7].sum() for k in range(1, 6)]
  assert level[1] < 0.1 * level[0] and level[1] < 0.1 * level[2]


def test_more_notes_than_there_are_bring_new_instruments():
  a, b = synthetic.note('train', 0), synthetic.note('train', 8000)
  assert b['instrument']['label'] // 33 == 1 + a['instrument']['label'] // 33


# Chorales.


def test_chorales_have_the_form_of_the_jsb_set(chorales):
  lengths = [len(v) for v in chorales]
  assert all(n % 4 == 0 for n in lengths)
  assert min(lengths) >= 100 and max(lengths) < 640
  assert 200 < np.median(lengths) < 300
  assert all(v.dtype == np.int16 and v.shape[1] == 4 for v in chorales)


def test_no_voice_leaves_its_range_or_crosses_another(chorales):
  lowest, highest = np.full(4, 127), np.zeros(4, int)
  for v in chorales:
    for k, (low, high) in enumerate(harmony.RANGES):
      sounding = v[:, k][v[:, k] >= 0]
      assert low <= sounding.min() and sounding.max() <= high
      lowest[k] = min(lowest[k], sounding.min())
      highest[k] = max(highest[k], sounding.max())
    full = v[(v >= 0).all(1)]
    assert (full[:, :-1] >= full[:, 1:]).all()
  # The ranges are used: an octave and more in each voice.
  assert ((highest - lowest) >= 15).all()


def test_parallel_fifths_and_octaves_are_rare(chorales):
  """The real chorales have them in 0.34 % of the moves of two voices."""
  found = moves = 0
  for v in chorales:
    v = v.astype(int)
    now, then = v[:-1], v[1:]
    for i in range(4):
      for j in range(i + 1, 4):
        both = ((now[:, i] != then[:, i]) & (now[:, j] != then[:, j])
                & (np.minimum(now, then).min(1) >= 0))
        before, after = (now[:, i] - now[:, j]) % 12, (
            then[:, i] - then[:, j]) % 12
        moves += both.sum()
        found += (both & (before == after) & np.isin(before, (0, 7))).sum()
  assert moves > 10_000
  assert found / moves < 0.0034


def test_chorales_move_like_chorales(chorales):
  same = np.concatenate([(v[1:] == v[:-1]).ravel() for v in chorales])
  assert 0.75 < same.mean() < 0.82  # JSB: .78.
  steps = np.concatenate([np.abs(np.diff(v.astype(int), axis=0))[
      (v[:-1] >= 0).all(1) & (v[1:] >= 0).all(1)].ravel() for v in chorales])
  steps = steps[steps > 0]
  assert (steps <= 2).mean() > 0.65  # JSB: .74.
  assert np.median(steps) == 2 and (steps > 12).mean() < 0.01


def test_few_chorales_rest(chorales):
  share = np.mean([(v < 0).any() for v in chorales])
  assert 0.02 < share < 0.2  # JSB: 33 of 382.


def test_chorales_close_on_a_triad_over_its_root(chorales):
  for v in chorales:
    last = v[-1][v[-1] >= 0].astype(int)
    over_bass = {int(p) for p in (last - last[-1]) % 12}
    assert over_bass <= {0, 3, 4, 7} and 0 in over_bass


def test_a_model_can_learn_more_than_each_voice_by_itself(chorales):
  """Held-out NLL of the upper voices by counting, knowing more and more."""
  train, test = chorales[:120], chorales[120:]

  def nll(context):
    counts = collections.defaultdict(lambda: np.full(128, 0.02))
    for v in train:
      for key, note in context(v):
        counts[key][note] += 1
    return -np.mean([np.log(counts[key][note] / counts[key].sum())
                     for v in test for key, note in context(v)])

  def bigram(v):
    return [((k, v[t - 1, k]), v[t, k]) for t in range(1, len(v))
            for k in (0, 1, 2)]

  def with_beat(v):
    return [((k, t % 4, v[t - 1, k]), v[t, k]) for t in range(1, len(v))
            for k in (0, 1, 2)]

  def with_bass(v):
    return [((k, t % 4, v[t - 1, k], v[t, 3] % 12,
              v[t, 3] == v[t - 1, 3]), v[t, k])
            for t in range(1, len(v)) for k in (0, 1, 2)]

  plain, beat, bass = nll(bigram), nll(with_beat), nll(with_bass)
  assert beat < 0.8 * plain
  assert bass < 0.95 * beat


# Rolls.


def test_rolls_have_the_form_of_lpd5(rolls):
  for e in rolls:
    assert e['roll'].dtype == np.uint8
    assert e['roll'].shape == (e['n_steps'], 128, 5)
    assert e['n_steps'] % 96 == 0 and e['roll'].max() <= 127
    assert e['tempo'].shape == (e['n_steps'],)
    assert len(e['id']) == 32 and len(e['msd_id']) == 18
    assert e['roll'][:, :, 1:].any()
  empty = np.mean([[not e['roll'][..., k].any() for k in range(5)]
                   for e in rolls], 0)
  assert (empty > 0).any() and (empty < 0.5).all()


def test_drums_last_one_step_and_stay_in_the_kit(rolls):
  for e in rolls:
    drums = e['roll'][..., 0] > 0
    assert not (drums[1:] & drums[:-1]).any()
    assert set(np.flatnonzero(drums.any(0))) <= {36, 38, 41, 42, 45, 48, 49}


def test_rolls_and_notes_are_the_same_music(rolls):
  for e in rolls[:10]:
    step_s = 60 / 120 / 24
    notes = midi.from_roll(e['roll'], step_s, synthetic.LPD5_PROGRAMS)
    again = midi.to_roll(notes, step_s, synthetic.LPD5_PROGRAMS)
    np.testing.assert_array_equal(again, e['roll'][:len(again)])
    assert not e['roll'][len(again):].any()


def test_the_bass_plays_notes_of_the_chords(rolls):
  """Its first note is among those that piano and guitar play in the bar."""
  hits = []
  for e in rolls:
    for bar in range(0, e['n_steps'], 96):
      bass = np.flatnonzero(e['roll'][bar, :, 3])
      others = np.flatnonzero(e['roll'][bar:bar + 96, :, 1:3].any((0, 2)))
      if len(bass) and len(others):
        hits.append(bass[0] % 12 in others % 12)
  assert len(hits) > 100 and np.mean(hits) > 0.95


def test_songs_repeat_their_sections(rolls):
  """Music of chance would never have two equal groups of four bars."""
  repeats = []
  for e in rolls:
    parts = (e['roll'][..., 1:] > 0).reshape(-1, 4 * 96, 128 * 4)
    repeats.append(len({p.tobytes() for p in parts}) < len(parts))
  assert 0.4 < np.mean(repeats) < 1


# Pieces.


def test_pieces_have_the_form_of_musicnet(pieces):
  for e in pieces:
    assert e['audio'].dtype == np.int16
    assert 10 < e['seconds'] < 20
    assert e['seconds'] == pytest.approx(len(e['audio']) / 16000)
    n = len(e['labels'])
    assert e['labels_time'].shape == e['labels_beat'].shape == (n, 2)
    assert len(e['note_value'].split('\n')) == n
    assert (e['labels_time'][:, 0] < e['labels_time'][:, 1]).all()
    assert e['labels_time'].max() <= len(e['audio'])
    assert (np.diff(e['labels_time'][:, 0]) >= 0).all()
    # MusicNet's own codes: General MIDI programs counted from 1.
    assert set(e['labels'][:, 0]) <= {1, 7, 41, 42, 43, 44, 61, 69, 71, 72, 74}
  assert len({e['ensemble'] for e in pieces}) > 2
  assert len({e['id'] for e in pieces}) == len(pieces)


def test_note_values_name_the_lengths_in_beats(pieces):
  names = {'Sixteenth': 0.25, 'Eighth': 0.5, 'Dotted Eighth': 0.75,
           'Quarter': 1, 'Dotted Quarter': 1.5, 'Half': 2, 'Dotted Half': 3,
           'Whole': 4}
  for e in pieces:
    np.testing.assert_array_equal(
        [names[v] for v in e['note_value'].split('\n')], e['labels_beat'][:, 1])


def test_pieces_use_their_level_and_never_clip(pieces):
  for e in pieces:
    assert 0.85 < np.abs(e['audio'].astype(int)).max() / 32768 < 0.95


def test_labels_are_where_the_notes_sound(pieces):
  """Energy at a label's pitch rises from before its start to after it."""
  rises = []
  for e in pieces:
    x = e['audio'] / 32768
    for (start, end), (_, pitch) in zip(e['labels_time'], e['labels'],
                                        strict=True):
      busy = ((e['labels'][:, 1] - pitch) % 12 == 0) & (
          e['labels_time'][:, 0] < end) & (
              e['labels_time'][:, 1] > start - 4000)
      if busy.sum() > 1 or start < 3000 or end - start < 2400:
        continue  # The same pitch sounds elsewhere.
      wave = np.exp(-2j * np.pi * synth.hertz(pitch) / 16000
                    * np.arange(2000)) * np.hanning(2000)
      before = abs(x[start - 2000:start] @ wave)
      after = abs(x[start + 400:start + 2400] @ wave)
      rises.append(after > 2 * before)
  assert len(rises) > 50 and np.mean(rises) > 0.95


def test_the_first_onset_of_the_sound_is_the_first_label(pieces):
  for e in pieces:
    first = e['labels_time'][0, 0]
    assert not e['audio'][:first].any()
    assert np.abs(e['audio'][first:first + 800]).max() > 200
