"""The contract between a model file and all the rest. Read this first.

A model file (`gansynth_jax/wavegan.py`, `symbolic_jax/lstm.py`, ...) exports

  preprocess(config) -> fn(example, rng) -> dict of numpy arrays
      One stored example to one training example, on the host.
  build(config) -> Model
      The model as pure functions, closed over its config.

and, where the default does not fit,

  segments(config) -> fn(example) -> list of dicts
      All evaluation examples of one stored example, so that a likelihood
      covers every token of a piece. Default: `preprocess` with a fixed rng.
  prompt(config, count, *, ...) -> Batch
      The conditions that `sample` understands, from plain keyword arguments:
      `common.generate` passes the user's `--prompt name=value` to it. What
      has a name like 'host_audio' stays in numpy, of any size and type.
      Default: no conditions.
  music(config) -> fn(example, rng) -> {'roll': [T, 128, K]} or {'notes': ..}
      Of a model of notes: a stored example as `sample` would return it, a crop
      of it as long as a sample; with None for rng all of it. What
      `common.evaluate --generated` compares samples with.
  codec(config) -> Codec
      Of a model whose sounds are codes: what priors, `common.encode` and the
      rate-distortion table of `common.evaluate` need of it.
  official(config) -> (names, batch)
      Where released weights have each of our arrays: their names by ours
      ('params/g/block_1/conv0/kernel', 'vars/top/codes'), and the shapes of a
      training batch. Where their layout is another, a pair: their name, and a
      function that makes ours of it, of one numpy array of any numbers (for a
      kernel of PyTorch, lambda w: w.transpose(2, 1, 0)). `common.convert` makes
      a run of them.

A batch is a dict of arrays with leading axis B. Every batch has `mask` [B]
(1 for a real row, 0 for padding; training batches have no padding), and
evaluation batches have `index` [B], the number of the example in the split.

The model provides the step, not the loss: several optimisers, five critic
updates or a codebook that moves by averages are all written down in
`train_step`, where the paper's algorithm can be read in one place.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

PyTree = Any
Key = jax.Array  # A typed PRNG key, jax.random.key(...).
Batch = Mapping[str, jax.Array]
Metrics = Mapping[str, jax.Array]  # Scalars, named 'loss' or 'group/name'.


@flax.struct.dataclass
class TrainState:
  """Everything that changes during training, and nothing else."""

  step: jax.Array  # int32 [], advanced by the trainer only.
  params: PyTree  # {'g': .., 'd': ..} or {'model': ..}: what gradients reach.
  opt: PyTree  # Optimiser states, keyed as the model likes.
  vars: PyTree  # Moves without gradients: codebooks, statistics, frozen nets.
  ema: PyTree  # Averaged copies of params, {} if unused.

  @classmethod
  def create(cls, params, opt, vars=None, ema=None):
    return cls(step=jnp.zeros((), jnp.int32), params=params, opt=opt,
               vars={} if vars is None else vars,
               ema={} if ema is None else ema)


@flax.struct.dataclass
class Mean:
  """A metric that adds up over batches, devices and hosts."""

  total: jax.Array
  weight: jax.Array

  @classmethod
  def of(cls, values, mask):
    """Mean of `values` [B, ...] where `mask` (same shape, or [B]) is 1."""
    mask = jnp.broadcast_to(
        mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)),
        values.shape)
    # `where`, not a product: a padded row may hold anything, inf included.
    return cls(jnp.where(mask > 0, values * mask, 0.0).sum(), mask.sum())

  def __add__(self, other):
    return Mean(self.total + other.total, self.weight + other.weight)

  def compute(self):
    return self.total / self.weight


class Stage(NamedTuple):
  start: int = 0  # First step of the stage.
  batch_size: int | None = None  # None: config.batch_size.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """What `build(config)` returns: pure functions of a TrainState."""

  init: Callable[[Key, Batch], TrainState]
  # (state, batch, key, stage) -> (state, metrics); `stage` is a static int.
  train_step: Callable[[TrainState, Batch, Key, int],
                       tuple[TrainState, Metrics]]
  # Sums over the rows that `mask` admits. The key is the same for every batch
  # of an evaluation: per-row randomness comes from `row_keys`.
  eval_step: Callable[[TrainState, Batch, Key], Mapping[str, Mean]]
  # 'audio' [B, N] in [-1, 1], or 'roll' [B, T, 128, K], 'tokens', 'notes', or
  # 'codes' [B, T, F]; and, where the model can tell, 'score' [B]: the higher,
  # the more likely a sample.
  # Not jitted by the caller: a model may drive a long loop from the host. For
  # prompts of its own it may instead give a 'stream': an iterator of numpy
  # blocks of audio [N], which follow each other in one sound of any length.
  # None for a model that generates nothing, like a classifier.
  sample: Callable[[TrainState, Batch, Key], Mapping[str, Any]] | None = None
  stages: tuple[Stage, ...] = (Stage(),)

  def stage_at(self, step: int) -> int:
    """Index of the stage that `step` belongs to."""
    return max(i for i, s in enumerate(self.stages) if s.start <= step)


class Codec(NamedTuple):
  """Sounds as codes, and back. Pure functions of the model's TrainState."""

  # (state, batch with 'audio' [B, N]) -> {name: codes [B, ...], int32}.
  encode: Callable[[TrainState, Batch], Mapping[str, jax.Array]]
  # (state, codes, batch of conditions) -> audio [B, N]. The codes are those of
  # one of the `groups`.
  decode: Callable[[TrainState, Mapping[str, jax.Array], Batch], jax.Array]
  shapes: Mapping[str, tuple[int, ...]]  # Of the codes of one example.
  sizes: Mapping[str, int]  # How many different codes there are.
  # Names that together make a sound, coarse before fine: (('top', 'bottom'),)
  # or, where each level is a codec of its own, (('level2',), ('level1',), ..).
  groups: tuple[tuple[str, ...], ...]


def row_keys(key: Key, index: jax.Array) -> Key:
  """One key per example number: the same draws whatever the batch size."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, index)
