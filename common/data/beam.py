"""The same shards, written by Apache Beam on many machines.

Archives are read as one stream for each split; decoding, which is the work, is
spread. The files are those that one machine would have written, to the byte.
"""

import pathlib
import shlex
from collections.abc import Callable

from common import errors
from common.data import decoding, shards

try:
  import apache_beam
  from apache_beam.options import pipeline_options
except ImportError:
  apache_beam = None


def writer(options: str) -> Callable[..., None]:
  """What `shards.prepare` takes as `write`, with options of Beam's own."""
  if apache_beam is None:
    raise errors.UserError('--beam needs Apache Beam; install it with: '
                           "pip install 'ostinato[beam]'")
  parsed = pipeline_options.PipelineOptions(shlex.split(options))

  def write(builder, work: pathlib.Path) -> None:
    decoder = decoding.Decoder(builder)
    with apache_beam.Pipeline(options=parsed) as pipeline:
      _ = (pipeline
           | 'splits' >> apache_beam.Create(builder.splits())
           | 'units' >> apache_beam.FlatMap(_units, builder, work)
           # Otherwise one machine would decode all that it has read.
           | 'spread' >> apache_beam.Reshuffle()
           | 'decode' >> apache_beam.MapTuple(
               lambda shard, i, unit: (shard, (i, unit.name, decoder(unit))))
           | 'gather' >> apache_beam.GroupByKey()
           | 'write' >> apache_beam.MapTuple(
               lambda shard, rows: _write(work, *shard, rows)))

  return write


def _units(split, builder, work):
  builder.start()  # On another machine than the first time.
  count = 0
  for i, (shard, unit) in enumerate(shards.numbered(builder, split)):
    count = shard + 1
    if not shards.is_done(work, split, shard):
      yield (split, shard), i, unit
  shards.end_split(work, split, count)


def _write(work, split, shard, rows):
  shards.write_shard(work, split, shard, (
      (name, decoded) for _, name, decoded in sorted(
          rows, key=lambda row: row[0])))
