"""The two Beam graphs of a build, top to bottom. Between them the codecs are fitted, on train documents only.

    survey: inputs -> read -> deduplicate -> split -> blocks of records        (keys and places; no bytes travel)
    encode: blocks -> encode and check -> join into shards                     (bytes go from and to files)

Steps are in `survey.py` and `encode.py`. Both graphs hold for any runner that sees the same files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton

from pipeline.config import BuildConfig
from pipeline.dedup import bucket_count
from pipeline.encode import EncodeBlock, EncodeTask, JoinShard
from pipeline.filters import Filters
from pipeline.inputs import Inventory
from pipeline.records import REJECTED, pack, table, unpack
from pipeline.scratch import Scratch, save_json
from pipeline.split import folder_bytes, is_big
from pipeline.survey import (
    AssignGroups,
    Deduplicate,
    KeyByBlock,
    KeyRejected,
    Read,
    SampleFn,
    SaveIndex,
    SaveRejected,
    SaveSample,
    SumBuckets,
    Unpack,
    make_plan,
)

GUESSED_DOCUMENT_BYTES = 4096  # a line of JSONL, to choose the number of id ranges


def survey(root: beam.Pipeline, inventory: Inventory, config: BuildConfig, scratch: Scratch) -> None:
    """Read every document once and leave in scratch: blocks of records, the split's plan, the sample, the rejected."""
    filters = Filters(frozenset(config.languages), config.narrowed, config.max_bytes, config.keep_binary)
    ranges = bucket_count(sum(len(f.names) for f in inventory.files) + inventory.bytes // GUESSED_DOCUMENT_BYTES)

    listed = [("files", *item) for item in inventory.files] + [("lines", *item) for item in inventory.lines]
    items = root | "listed" >> beam.Create(listed)
    unpacked = (
        root
        | "compressed" >> beam.Create([tuple(item) for item in inventory.packed])
        | "unpack" >> beam.ParDo(Unpack(scratch)).with_outputs("rejected", main="lines")
    )
    read = (
        (items, unpacked.lines | "spread" >> beam.Reshuffle())
        | "inputs" >> beam.Flatten()
        | "read" >> beam.ParDo(Read(filters, ranges, scratch)).with_outputs("rejected", "lines", main="records")
    )
    unique = (
        read.records
        | "by id" >> beam.GroupByKey()
        | "deduplicate" >> beam.ParDo(Deduplicate()).with_outputs("rejected", main="documents")
    )

    sizes = unique.documents | "sizes" >> beam.Map(_total_bytes)
    total = sizes | "all bytes" >> beam.CombineGlobally(sum)
    big = (
        unique.documents
        | "folders" >> beam.FlatMap(lambda packed: folder_bytes(unpack([packed])))
        | "bytes by folder" >> beam.CombinePerKey(sum)
        | "too big" >> beam.FlatMap(lambda item, total: [item[0]] if is_big(item[1], total) else [], AsSingleton(total))
    )
    grouped = unique.documents | "assign groups" >> beam.ParDo(AssignGroups(config.seed), AsList(big))
    plan = (
        grouped
        | "bytes by group" >> beam.CombineGlobally(SumBuckets())
        | "choose val" >> beam.Map(make_plan, config.val_fraction, config.shard_bytes, config.block_bytes)
    )
    keyed = grouped | "place" >> beam.ParDo(
        KeyByBlock(config.seed, config.sample_bytes), AsSingleton(plan)
    ).with_outputs("sample", main="records")
    blocks = keyed.records | "by block" >> beam.GroupByKey() | "save blocks" >> beam.ParDo(SaveIndex(scratch))
    sample = (
        keyed.sample
        | "lowest draws" >> beam.CombinePerKey(SampleFn(config.sample_bytes))
        | "save sample" >> beam.ParDo(SaveSample(scratch))
    )

    before = [pack(table(inventory.rejected, REJECTED))] if inventory.rejected else []
    rejected = (
        (root | "not files" >> beam.Create(before), unpacked.rejected, read.rejected, unique.rejected)
        | "all rejected" >> beam.Flatten()
    )  # fmt: skip
    count = rejected | "rows" >> beam.Map(_rows) | "count rejected" >> beam.CombineGlobally(sum)
    left_out = (
        rejected
        | "place rejected" >> beam.ParDo(KeyRejected(), AsSingleton(count))
        | "by file" >> beam.GroupByKey()
        | "save rejected" >> beam.ParDo(SaveRejected(scratch), AsSingleton(count))
    )

    lines = read.lines | "count lines" >> beam.CombineGlobally(sum)
    results = {"plan": plan, "blocks": blocks, "sample": sample, "rejected": left_out, "lines": lines}
    for name, result in results.items():
        result | f"keep {name}" >> _Save(scratch.survey(name))


def encode(root: beam.Pipeline, blocks: Sequence[tuple[str, int]], task: EncodeTask) -> None:
    """Encode the blocks of the survey and write the shards of the staged set."""
    shards = (
        root
        | "blocks" >> beam.Create(list(blocks))
        | "encode" >> beam.ParDo(EncodeBlock(task))
        | "by shard" >> beam.GroupByKey()
        | "join" >> beam.ParDo(JoinShard(task))
    )
    shards | "keep shards" >> _Save(task.scratch.survey("shards"))


class _Save(beam.PTransform):
    """Everything in a (small) collection, as one JSON list in scratch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def expand(self, collection: Any) -> Any:
        path = self.path
        return collection | beam.combiners.ToList() | beam.Map(lambda items: save_json(path, items))


def _total_bytes(packed: bytes) -> int:
    return sum(unpack([packed])["size"].to_pylist())


def _rows(packed: bytes) -> int:
    return unpack([packed]).num_rows
