"""The whole pipeline: take the shards of the worklist, read each, classify, write answers and failures."""

import apache_beam as beam

from pipeline.bigquery.worklist import Shard
from pipeline.run_config import RunConfig
from pipeline.transforms import Classify, ReadShard, WriteRows


def build(pipeline: beam.Pipeline, config: RunConfig, worklist_shards: list[Shard]) -> None:
    """Put the steps into `pipeline`. Only shard numbers are shuffled; all after `Spread` fuses into one stage."""
    shards = (
        pipeline
        | "Shards" >> beam.Create(worklist_shards, reshuffle=False)
        | "Spread" >> beam.Reshuffle().with_input_types(Shard).with_output_types(Shard)
    )
    rows = shards | "ReadShard" >> ReadShard(config)
    outcomes = rows | "Classify" >> Classify(config)
    write(outcomes, config)


def write(outcomes: beam.pvalue.DoOutputsTuple, config: RunConfig) -> None:
    """Answers and failures into their tables; an answer that BigQuery refuses is a failure."""
    rejected = outcomes.answers | "WriteAnswers" >> WriteRows(config, "answers")
    # A Flatten of failures and rejected would break the fusion: failures would wait for the end of the stage.
    outcomes.failures | "WriteFailures" >> WriteRows(config, "failures")
    rejected | "WriteRejected" >> WriteRows(config, "failures")
