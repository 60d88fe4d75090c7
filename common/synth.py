"""A small synthesiser: one voice per family of instruments, and a drum kit.

Two engines, both without a loop over samples or harmonics:
  Struck  partials of constant frequency that decay exponentially (piano,
          plucked strings, bars): one matrix product for the whole note.
  Held    an oscillator that reads two band-limited wave tables, a dark and a
          bright one, and fades between them (bowed, blown, sung, synthetic).

Shapes: N samples, P partials.
"""

import dataclasses
import functools

import numpy as np

TAIL_S = 0.5  # Silence may follow the last note's end for this long.
_HIGHEST = 0.47  # Frequency that is still made, as a part of the rate.
_MOST_PARTIALS = 80  # Of a string; higher ones are too faint to hear.
_BODY_HZ = 150.0  # Below, the body of a string instrument radiates less.
_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Struck:
  """A string or bar that is hit or plucked once."""

  slope: float = 1.2  # Partial k starts at k**-slope.
  position: float = 0.13  # Where it is hit, as a part of its length.
  stretch: float = 0.0  # Inharmonicity B of a stiff string.
  ratios: tuple = ()  # Of a bar's partials to the first; (): a string.
  decay_s: float = 1.5  # Of the first partial at middle C, to 1/e.
  damping: float = 0.7  # Partial k decays k**damping as fast.
  after: float = 0.0  # Share of the sound that decays five times as slowly.
  release_s: float = 0.08
  noise: float = 0.05  # Of the hammer or the pick.
  noise_hz: float = 2000.0

  def tone(self, pitch, velocity, held_s, length_s, sample_rate, rng):
    """`length_s` of one note, of which it is held for `held_s`."""
    f0, loud = hertz(pitch), velocity / 127
    n = round(length_s * sample_rate)
    if self.ratios:
      k = ratio = np.array(self.ratios)
    else:
      k = np.arange(1, _MOST_PARTIALS + 1)
      ratio = k * np.sqrt((1 + self.stretch * k**2) / (1 + self.stretch))
    ratio = ratio[ratio * f0 < _HIGHEST * sample_rate]
    k = k[:len(ratio)]
    # A harder stroke is a brighter one.
    level = k ** -(self.slope + 1.2 * (0.6 - loud))
    if not self.ratios:
      level *= np.abs(np.sin(np.pi * k * self.position)) + 0.02
      level /= 1 + _BODY_HZ / (k * f0)
    level /= np.sqrt((level**2).sum())
    # High strings ring for a shorter time.
    rate = k**self.damping / (self.decay_s * 2 ** ((60 - pitch) / 24))
    if self.after:
      level = np.concatenate([level * (1 - self.after), level * self.after])
      rate, ratio = np.concatenate([rate, rate / 5]), np.tile(ratio, 2)
    out = _decaying(ratio * f0, rate, level, n, sample_rate)
    t = np.arange(n, dtype=np.float32) / sample_rate
    if self.noise:
      burst = min(n, round(0.2 * sample_rate))
      out[:burst] += (
          self.noise * (0.3 + loud) * np.exp(-t[:burst] / 0.012)
          * _noise(self.noise_hz, burst, sample_rate, rng))
    out *= _ramp(t, 0.002) * _release(t, held_s, self.release_s)
    return out * (0.15 + 0.85 * loud) ** 1.5


@dataclasses.dataclass(frozen=True)
class Held:
  """An oscillator through a filter, an envelope and a resonant body."""

  slope: float = 1.0  # Harmonic k has k**-slope (1: saw) before the filter.
  even: float = 1.0  # Level of the even harmonics (clarinet: little).
  drawbars: tuple = ()  # Levels of harmonics 1, 2, ..; (): by the slope.
  cutoff_hz: float = 2000.0  # Of the low-pass filter, when played softly.
  sweep: float = 1.5  # Octaves that the filter opens at full level.
  formants: tuple = ()  # Of the body: (hertz, bandwidth, level).
  attack_s: float = 0.05
  decay_s: float = 0.3  # From full level to the level that is sustained.
  sustain: float = 0.8
  release_s: float = 0.1
  vibrato_cents: float = 0.0
  vibrato_hz: float = 5.3
  detune_cents: float = 0.0  # Two weaker oscillators, this far off each way.
  noise: float = 0.01  # Breath or bow.
  noise_hz: float = 2500.0

  def tone(self, pitch, velocity, held_s, length_s, sample_rate, rng):
    """`length_s` of one note, of which it is held for `held_s`."""
    f0, loud = hertz(pitch), velocity / 127
    n = round(length_s * sample_rate)
    t = np.arange(n, dtype=np.float32) / sample_rate
    fall = np.float32(self.sustain) + np.float32(1 - self.sustain) * np.exp(
        -np.maximum(t - self.attack_s, 0) / np.float32(self.decay_s))
    envelope = _ramp(t, self.attack_s) * fall
    bright = envelope * np.float32(0.25 + 0.75 * loud)
    envelope *= _release(t, held_s, self.release_s)
    dark_table, bright_table = _tables(self, pitch, sample_rate)
    cycles = np.arange(n) * (f0 / sample_rate)
    if self.vibrato_cents:
      # It begins after a third of a second; its mean is the note's pitch.
      depth = self.vibrato_cents / 1200 * np.log(2) * _ramp(t - 0.3, 0.4)
      phase = 2 * np.pi * (self.vibrato_hz * t + rng.random())
      cycles -= depth * np.cos(phase) * (
          f0 / (2 * np.pi * self.vibrato_hz))
    out = np.zeros(n, np.float32)
    oscillators = ((0, 0.8), (-1, 0.42), (1, 0.42)) if self.detune_cents else (
        (0, 1.0),)
    for offset, level in oscillators:
      shifted = cycles * 2 ** (offset * self.detune_cents / 1200)
      where = (shifted + rng.random()) % 1 * (len(dark_table) - 1)
      i = where.astype(np.int32)
      part = (where - i).astype(np.float32)
      dark = dark_table[i] * (1 - part) + dark_table[i + 1] * part
      light = bright_table[i] * (1 - part) + bright_table[i + 1] * part
      out += np.float32(level) * (dark + bright * (light - dark))
    if self.noise:
      chiff = 1 + 3 * np.exp(-t / 0.04)
      out += self.noise * chiff * _noise(self.noise_hz, n, sample_rate, rng)
    return out * envelope * (0.15 + 0.85 * loud) ** 1.5

  def spectrum(self, f0, sample_rate, opened):
    """Levels of the harmonics below half the rate; `opened` is 0 or 1."""
    k = np.arange(1, int(_HIGHEST * sample_rate / f0) + 1)
    if self.drawbars:
      level = np.zeros(len(k))
      m = min(len(k), len(self.drawbars))
      level[:m] = self.drawbars[:m]
    else:
      level = k**-self.slope * np.where(k % 2, 1.0, self.even)
    # The filter follows the pitch by half, so that no note is a mere sine.
    cutoff = self.cutoff_hz * 2 ** (self.sweep * opened) * (f0 / 262) ** 0.5
    level /= np.sqrt(1 + (k * f0 / cutoff) ** 4)
    if self.formants:
      gain = 0.06 + sum(a / (1 + ((k * f0 - hz) / width) ** 2)
                        for hz, width, a in self.formants)
      level = level * gain
    return level


# One entry for each kind of instrument within a family, with NSynth's names
# for family and source.
FAMILIES = {
    'bass': (
        ('synthetic', Held(cutoff_hz=250, sweep=3.5, attack_s=0.006,
                           decay_s=0.35, sustain=0.35, release_s=0.06,
                           noise=0.0, detune_cents=2.0)),
        ('acoustic', Struck(slope=1.5, position=0.21, decay_s=0.9,
                            damping=0.9, stretch=2e-5, noise=0.06,
                            noise_hz=900)),
        ('electronic', Struck(slope=1.1, position=0.1, decay_s=1.2,
                              damping=0.6, stretch=2e-5, noise=0.08,
                              noise_hz=2500))),
    'brass': (
        ('acoustic', Held(slope=0.7, cutoff_hz=500, sweep=2.6, attack_s=0.06,
                          decay_s=0.25, sustain=0.75, release_s=0.08,
                          formants=((1200, 700, 1.0), (2300, 900, 0.5)),
                          vibrato_cents=6, noise=0.006)),),
    'flute': (
        ('acoustic', Held(slope=1.9, cutoff_hz=1200, sweep=1.0, attack_s=0.08,
                          sustain=0.9, release_s=0.1, vibrato_cents=12,
                          vibrato_hz=4.8, noise=0.035, noise_hz=3000)),),
    'guitar': (
        ('acoustic', Struck(slope=1.0, position=0.17, decay_s=1.0,
                            damping=0.75, stretch=2e-5, noise=0.12,
                            noise_hz=3000)),
        ('electronic', Struck(slope=0.8, position=0.09, decay_s=1.6,
                              damping=0.55, stretch=1e-5, noise=0.05,
                              noise_hz=2500))),
    'keyboard': (
        ('acoustic', Struck(slope=1.25, position=0.12, decay_s=0.7,
                            damping=0.6, stretch=6e-5, after=0.3, noise=0.06,
                            noise_hz=1200)),
        ('electronic', Struck(slope=1.9, position=0.3, decay_s=1.5,
                              damping=1.1, noise=0.03, noise_hz=2500))),
    'mallet': (
        # Bars: the marimba's are tuned to 1:4:10.
        ('acoustic', Struck(slope=1.6, ratios=(1, 4, 10.1), decay_s=0.35,
                            damping=0.9, release_s=0.3, noise=0.12,
                            noise_hz=1500)),
        ('acoustic', Struck(slope=1.1, ratios=(1, 3.98, 9.9, 16.2),
                            decay_s=1.8, damping=0.6, release_s=0.3,
                            noise=0.05, noise_hz=4000))),
    'organ': (
        ('electronic', Held(drawbars=(1, 0.8, 0.6, 0.5, 0, 0.3, 0, 0.25),
                            cutoff_hz=6000, sweep=0.5, attack_s=0.01,
                            sustain=1.0, release_s=0.05, noise=0.004)),
        ('electronic', Held(drawbars=(0.6, 1, 0.1, 0.6, 0, 0.1, 0, 0.5),
                            cutoff_hz=5000, sweep=0.5, attack_s=0.02,
                            sustain=1.0, release_s=0.08, noise=0.008))),
    'reed': (
        ('acoustic', Held(slope=0.9, even=0.12, cutoff_hz=1300, sweep=1.3,
                          attack_s=0.04, sustain=0.9, release_s=0.07,
                          vibrato_cents=4, noise=0.01)),  # Clarinet.
        ('acoustic', Held(slope=0.6, cutoff_hz=1800, sweep=1.4, attack_s=0.05,
                          sustain=0.85, release_s=0.07, vibrato_cents=8,
                          formants=((1050, 300, 1.0), (2800, 600, 0.6)),
                          noise=0.01))),  # Oboe.
    'string': (
        ('acoustic', Held(slope=1.0, cutoff_hz=2200, sweep=1.2, attack_s=0.1,
                          sustain=0.9, release_s=0.14, vibrato_cents=14,
                          vibrato_hz=5.6, noise=0.02,
                          formants=((290, 120, 0.6), (460, 150, 0.7),
                                    (1100, 500, 0.6), (2500, 800, 0.9)))),),
    'synth_lead': (
        ('synthetic', Held(slope=1.0, cutoff_hz=700, sweep=3.0,
                           attack_s=0.008, decay_s=0.5, sustain=0.7,
                           release_s=0.08, noise=0.0, detune_cents=4.0)),
        ('synthetic', Held(slope=1.0, even=0.05, cutoff_hz=900, sweep=2.6,
                           attack_s=0.01, decay_s=0.4, sustain=0.75,
                           release_s=0.1, noise=0.0, vibrato_cents=7))),
    'vocal': (
        ('acoustic', Held(slope=1.1, cutoff_hz=3000, sweep=0.8, attack_s=0.09,
                          sustain=0.9, release_s=0.12, vibrato_cents=16,
                          vibrato_hz=5.2, noise=0.015,
                          formants=((720, 90, 1.0), (1180, 110, 0.5),
                                    (2650, 160, 0.25)))),  # 'ah'
        ('synthetic', Held(slope=1.1, cutoff_hz=3000, sweep=0.8,
                           attack_s=0.12, sustain=0.95, release_s=0.2,
                           vibrato_cents=8, noise=0.015, detune_cents=3.0,
                           formants=((430, 80, 1.0), (830, 100, 0.4),
                                     (2600, 160, 0.15))))),  # 'oh'
}

# General MIDI's sixteen groups of eight programs.
_GROUPS = ('keyboard', 'mallet', 'organ', 'guitar', 'bass', 'string', 'string',
           'brass', 'reed', 'flute', 'synth_lead', 'string', 'synth_lead',
           'guitar', 'mallet', 'mallet')


def hertz(pitch):
  return 440.0 * 2 ** ((pitch - 69) / 12)


def vary(voice, rng):
  """Another instrument of the same kind."""
  names = ('slope', 'position', 'decay_s', 'damping', 'cutoff_hz', 'attack_s',
           'release_s', 'vibrato_cents', 'noise', 'noise_hz')
  spread = dict(slope=0.12, position=0.2, damping=0.1, cutoff_hz=0.25)
  changes = {name: getattr(voice, name)
             * np.exp(spread.get(name, 0.3) * rng.uniform(-1, 1))
             for name in names if hasattr(voice, name)}
  if getattr(voice, 'formants', ()):
    shift = np.exp(0.1 * rng.uniform(-1, 1))
    changes['formants'] = tuple(
        (hz * shift, width, level) for hz, width, level in voice.formants)
  return dataclasses.replace(voice, **changes)


@functools.cache
def voice_of(program: int):
  """The voice of a General MIDI program."""
  if 52 <= program <= 54:
    family = 'vocal'
  else:
    family = _GROUPS[program // 8]
  kinds = FAMILIES[family]
  voice = kinds[program % 8 * len(kinds) // 8][1]
  return voice if program % 8 == 0 else vary(
      voice, np.random.default_rng(program))


def render(notes: np.ndarray, sample_rate: int) -> np.ndarray:
  """A table of notes (`midi.NOTE`) as sound, float32 [N] with peak 0.9."""
  n = round((notes['end_s'].max(initial=0.0) + TAIL_S) * sample_rate)
  out = np.zeros(n, np.float32)
  rng = np.random.default_rng(0)
  for note in notes:
    begin = round(note['start_s'] * sample_rate)
    pitch, velocity = int(note['pitch']), int(note['velocity'])
    if note['is_drum']:
      sound = _drum(pitch, sample_rate) * (velocity / 127) ** 1.5
    elif hertz(pitch) > _HIGHEST * sample_rate:
      continue  # The sample rate cannot hold it.
    else:
      voice = voice_of(int(note['program']))
      held_s = note['end_s'] - note['start_s']
      sound = voice.tone(pitch, velocity, held_s,
                         held_s + min(5 * voice.release_s, TAIL_S),
                         sample_rate, rng)
    sound = sound[:n - begin]
    out[begin:begin + len(sound)] += sound
  peak = np.abs(out).max(initial=0.0)
  return out * np.float32(0.9 / peak) if peak else out


@functools.lru_cache(128)
def _drum(pitch, sample_rate):
  """One stroke of General MIDI's kit, by kind: [N]."""
  rng = np.random.default_rng(pitch)
  def skin(hz, drop, decay_s):  # A membrane whose pitch falls.
    t = np.arange(round(6 * decay_s * sample_rate)) / sample_rate
    cycles = hz * t + hz * drop * 0.03 * (1 - np.exp(-t / 0.03))
    return np.sin(2 * np.pi * cycles) * np.exp(-t / decay_s)
  def hiss(hz, decay_s):
    n = round(6 * decay_s * sample_rate)
    t = np.arange(n) / sample_rate
    return _noise(hz, n, sample_rate, rng) * np.exp(-t / decay_s)
  def add(a, b):
    n = max(len(a), len(b))
    return np.pad(a, (0, n - len(a))) + np.pad(b, (0, n - len(b)))
  if pitch in (35, 36):  # Bass drums.
    out = add(1.6 * skin(50, 3.0, 0.11), 0.1 * hiss(2500, 0.006))
  elif pitch in (37, 38, 39, 40):  # Stick, snares, clap.
    out = add(0.5 * skin(185, 0.6, 0.05), 0.55 * hiss(3500, 0.07))
  elif pitch in (41, 43, 45, 47, 48, 50):  # Toms.
    out = add(1.2 * skin(60 * 2 ** ((pitch - 35) / 12), 0.7, 0.14),
              0.05 * hiss(2000, 0.02))
  elif pitch in (42, 44):  # Closed hats.
    out = 0.3 * hiss(7000, 0.025)
  elif pitch in (46, 49, 51, 52, 53, 55, 57, 59):  # Open hat, cymbals.
    out = 0.3 * hiss(6000, 0.12 if pitch in (46, 51, 53, 59) else 0.4)
  else:  # Smaller percussion.
    out = add(0.5 * skin(400 + 12 * (pitch - 60), 0.1, 0.04),
              0.15 * hiss(5000, 0.02))
  return (out * _ramp(np.arange(len(out)) / sample_rate, 0.001)).astype(
      np.float32)


@functools.lru_cache(1024)
def _tables(voice, pitch, sample_rate):
  """Dark and bright wave of one cycle, of RMS 1; the last point repeats."""
  f0 = hertz(pitch)
  dark, bright = (voice.spectrum(f0, sample_rate, b) for b in (0, 1))
  size = 1 << max(11, int(np.ceil(np.log2(48 * len(dark)))))
  # Phases of a pulse are all alike; these spread its energy over the cycle.
  k = np.arange(1, len(dark) + 1)
  phase = np.exp(1j * np.pi * k**2 / (len(dark) + 1))
  out = []
  for level in (dark, bright):
    full = np.zeros(size // 2 + 1, complex)
    full[1:len(level) + 1] = level * phase
    wave = np.fft.irfft(full)
    wave /= np.sqrt((wave**2).mean())
    out.append(np.append(wave, wave[0]).astype(np.float32))
  return out


def _decaying(hz, rate, level, n, sample_rate):
  """Sum of level * exp(-rate t) * sin(2 pi hz t): [P], .. -> [N].

  exp(s (128 i + j)) is a product of a part of i and a part of j, so the sum
  over the partials is a matrix product.
  """
  s = (2j * np.pi * hz - rate) / sample_rate
  coarse = np.exp(s * _BLOCK * np.arange(-(-n // _BLOCK))[:, None])  # [I, P]
  fine = level[:, None] * np.exp(s[:, None] * np.arange(_BLOCK))  # [P, J]
  a = np.concatenate([coarse.real, coarse.imag], 1).astype(np.float32)
  b = np.concatenate([fine.imag, fine.real]).astype(np.float32)
  # In slices too small for BLAS to start its threads: that costs more than it
  # saves here, and far more when another program uses the processor.
  rows = max(1, (1 << 17) // b.size)
  a = np.pad(a, ((0, -len(a) % rows), (0, 0))).reshape(-1, rows, a.shape[1])
  return (a @ b).ravel()[:n]


def _ramp(t, seconds):
  return np.clip(t / np.float32(seconds), 0, 1)


def _release(t, held_s, release_s):
  """1 while the note is held, then an exponential fall that ends at 0."""
  after = np.maximum(t - np.float32(held_s), 0)
  end = max(float(t[-1]) - held_s, 1e-3) if len(t) else 1.0
  return np.exp(-after / np.float32(release_s)) * np.clip(
      4 * (1 - after / np.float32(end)), 0, 1)


def _noise(hz, n, sample_rate, rng):
  """Noise around `hz`, RMS 1: [N], from a random place of a fixed stretch."""
  stretch = _coloured(round(hz, 3), sample_rate)
  begin = int(rng.integers(len(stretch)))
  return np.resize(np.roll(stretch, -begin) if n > len(stretch) - begin
                   else stretch[begin:], n)


@functools.lru_cache(64)
def _coloured(hz, sample_rate):
  white = np.random.default_rng(1).standard_normal(1 << 16)
  f = np.fft.rfftfreq(len(white), 1 / sample_rate)
  gain = 1 / (1 + ((f - hz) / (0.7 * hz)) ** 2)
  out = np.fft.irfft(np.fft.rfft(white) * gain)
  return (out / np.sqrt((out**2).mean())).astype(np.float32)
