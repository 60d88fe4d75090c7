"""GANSynth on NSynth (gansynth_jax/gansynth.py).

  python -m common.train --config=gansynth_nsynth --workdir=runs/gansynth

Data: nsynth/gansynth_subset, acoustic notes of pitch 24 to 84 (60,788 in
train), made ready by `python -m common.prepare`. The size 'small' is for 63
recorded notes in NSynth's layout (nsynth/full with a --data_dir of its own);
'demo' and 'tiny' need no download: their notes are synthetic.

The paper trained on 11 million images, 4.5 days on a V100. Its table 1, with a
pitch classifier that was never released:

                   NDB    FID    IS   pitch accuracy  pitch entropy
  ours             not run    (the size 'small': docs/gansynth.md)
  real data        2.2     13  47.1       98.2 %         0.22
  IF-Mel + H      29.3    167  38.1       97.9 %         0.40   (this config)
  IF + H          36.0    104  41.6       98.3 %         0.32
  Phase + H       37.6    592  36.2       97.6 %         0.44
  IF-Mel          37.0    600  29.6       94.1 %         0.63
  IF              37.0    708  36.3       96.8 %         0.44
  Phase           41.4    687  24.4       94.4 %         0.77
"""

from common import config as config_lib

# Training notes of each pitch from 24 on (TFDS 2.3, released splits).
PITCH_COUNTS = (
    551, 545, 561, 550, 549, 578, 547, 628, 626, 630, 670, 668, 751, 768, 788,
    801, 821, 871, 873, 860, 873, 844, 883, 865, 1058, 1036, 1094, 1065, 1186,
    1200, 1187, 1346, 1273, 1320, 1263, 1283, 1349, 1285, 1281, 1332, 1286,
    1301, 1220, 1300, 1209, 1257, 1288, 1223, 1258, 1183, 1178, 1125, 1171,
    1089, 1024, 1081, 966, 1043, 991, 959, 977)
# Of the recorded notes, from 21 on.
RECORDED_COUNTS = (
    1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0, 2, 1, 1, 0, 2,
    0, 0, 2, 1, 2, 1, 1, 3, 1, 3, 0, 4, 0, 3, 1, 2, 1, 1, 1, 2, 1, 1, 1, 4, 0,
    2, 1, 2, 0, 1, 1, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1)


def get_config(size: str = 'paper'):
  """`size`: 'paper', 'small' (an hour on a CPU), 'demo' or 'tiny'."""
  config_lib.check_size(size, 'paper', 'small', 'demo', 'tiny')
  c = config_lib.default()
  c.module = 'gansynth_jax.gansynth'
  c.data.name = 'nsynth/gansynth_subset'
  c.data.sample_rate = 16000
  c.model.samples = 64000
  c.model.representation = 'gansynth_ifmel'  # Or 'gansynth_if', '..._phase'.
  # Images begin with this size and double with each further block: 128 x 1024
  # ('+ H'), or 256 x 512 from (4, 8).
  c.model.start_frames = 2
  c.model.start_bins = 16
  c.model.blocks = 7
  c.model.fmap_base = 4096  # Width of a block b: base / 2^(b decay), at most
  c.model.fmap_decay = 1.0  # fmap_max.
  c.model.fmap_max = 256
  c.model.latent_size = 256
  c.model.lowest_pitch = 24
  c.model.pitch_counts = PITCH_COUNTS  # How often fakes have each pitch.
  # (a, b): a channel is normalised as a x + b. Released, for mel bins only;
  # other representations have those that gansynth.measure finds.
  c.model.magnitude_scale = (0.0661371661726, 0.113718730221)
  c.model.phase_scale = (0.8, 0.0)
  c.model.learning_rate = 8e-4
  c.model.penalty_weight = 10.0
  c.model.penalty_domain = 'raw'  # Or 'normalized', as most other code has it.
  c.model.drift_weight = 1e-3
  c.model.class_weight_g = 10.0
  c.model.class_weight_d = 10.0
  c.model.ema_decay = 0.999
  c.model.progressive = True
  c.model.stable_images = 800_000
  c.model.transition_images = 800_000
  # Rows by number of blocks, the first entry repeated in front where there are
  # fewer; (): batch_size everywhere.
  c.model.batch_sizes = ()
  c.batch_size = 8
  c.steps = 1_375_000  # 11 million images, counted once for each pair of steps.
  c.log_every = 100
  c.eval_every = c.sample_every = c.checkpoint.every = 10_000
  if size == 'small':
    c.data.name = 'nsynth/full'
    c.data.eval = 'train'  # There is no other split.
    c.model.samples = 8000  # Half a second.
    c.model.start_frames = 4
    c.model.start_bins = 64  # Coarser bins do not tell the pitches apart.
    c.model.blocks = 4  # 32 x 512.
    c.model.fmap_base = 128
    c.model.fmap_max = 64
    c.model.latent_size = 16
    c.model.lowest_pitch = 21
    c.model.pitch_counts = RECORDED_COUNTS
    c.model.learning_rate = 1e-3
    c.model.ema_decay = 0.995  # 6,100 steps, not a million.
    c.model.stable_images = 4_800
    c.model.transition_images = 4_800
    c.steps = 6_100
    c.eval_every = c.checkpoint.every = 300
    c.sample_every = 600
    c.num_samples = 8
  elif size == 'demo':
    c.data.name = 'synthetic_notes/demo'
    c.model.samples = 8000
    c.model.start_frames = 8
    c.model.start_bins = 128
    c.model.blocks = 3  # 32 x 512, in 5 stages: most of the time is compiling.
    c.model.fmap_base = 64
    c.model.fmap_max = 32
    c.model.latent_size = 32
    c.model.pitch_counts = (1,) * 61
    c.model.stable_images = 160
    c.model.transition_images = 160
    c.steps = 160
    c.log_every = 10
    c.eval_every = c.sample_every = c.checkpoint.every = 80
  elif size == 'tiny':
    c.data.name = 'synthetic_notes/tiny'
    c.model.samples = 300
    c.model.blocks = 3
    c.model.fmap_base = 32
    c.model.fmap_max = 8
    c.model.latent_size = 8
    c.model.stable_images = 8  # Steps 0; 1, 2; 3; ...
    c.model.transition_images = 16
    c.steps = 4
    c.log_every = 1
    c.eval_every = c.sample_every = c.checkpoint.every = 4
    c.num_samples = 2
  return c


def ablations() -> dict[str, dict]:
  """The rows of table 1, and training without growth.

  The constants of linear bins are those of the 63 recorded notes, whose peaks
  reach full scale as NSynth's do; gansynth.measure gives those of any set.
  """
  high = {'model.magnitude_scale': (0.0807415984, 0.3154864213)}
  low = {'model.magnitude_scale': (0.0836886230, 0.3562010703)}
  small = {'model.start_frames': 4, 'model.start_bins': 8}
  frequency = {'model.representation': 'gansynth_if'}
  phase = {'model.representation': 'gansynth_phase'}
  return {
      'if_h': frequency | high,
      'phase_h': phase | high,
      'ifmel': small,
      'if': small | frequency | low,
      'phase': small | phase | low,
      # Released: 4 million images.
      'not_progressive': {'model.progressive': False, 'steps': 500_000},
      'penalty_normalized': {'model.penalty_domain': 'normalized'},
  }


def _row(ndb, fid, inception, accuracy, entropy):
  return {'generated/ndb': ndb, 'generated/fid': fid, 'generated/is': inception,
          'generated/pa': accuracy, 'generated/pe': entropy}


PAPER = {  # Table 1, by a classifier that was never released.
    'base': _row(29.3, 167, 38.1, 0.979, 0.40),
    'if_h': _row(36.0, 104, 41.6, 0.983, 0.32),
    'phase_h': _row(37.6, 592, 36.2, 0.976, 0.44),
    'ifmel': _row(37.0, 600, 29.6, 0.941, 0.63),
    'if': _row(37.0, 708, 36.3, 0.968, 0.44),
    'phase': _row(41.4, 687, 24.4, 0.944, 0.77)}
