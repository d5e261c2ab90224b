"""The two Beam graphs of a build, top to bottom. Between them the codecs are fitted, on train documents only.
Below them those of `add-view` and `merge`, which read sets.

    survey: inputs -> read -> deduplicate -> choose -> split -> blocks of records  (keys and places; no bytes travel)
    encode: blocks -> encode and check -> join into shards                          (bytes go from and to files)
    add views: rows of a set -> encode and check -> write its shards anew           (the same)
    merge: ranges of ids -> what stays of each -> write the shards of that          (the same)

Steps are in `survey.py`, `blocks.py`, `rejected.py`, `encode.py`, `reuse/append.py` and `reuse/merging.py`. The graphs
hold for any runner that sees the same files.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton

from pipeline.blocks import KeyByBlock, SampleFn, SaveIndex, SaveSample
from pipeline.cleaning.choose import choose
from pipeline.cleaning.dedup import bucket_count
from pipeline.cleaning.filters import Filters
from pipeline.cleaning.near import leave_out_near
from pipeline.cleaning.val_twins import leave_out_twins
from pipeline.config import BuildConfig
from pipeline.encode import EncodeBlock, EncodeTask, JoinShard
from pipeline.reading.inputs import Inventory
from pipeline.reading.unsought import ReadOptions, as_item
from pipeline.records import REJECTED, pack, sum_counts, table, unpack
from pipeline.rejected import KeyRejected, SaveRejected
from pipeline.reuse.append import AppendTask, EncodeRows, JoinRows
from pipeline.reuse.merging import MergeTask, ReadRejected, Resolve, WriteMerged, add_up, make_layouts
from pipeline.reuse.rows import Rows
from pipeline.running.elements import elements
from pipeline.running.scratch import Scratch, save_json
from pipeline.split import folder_bytes, is_big
from pipeline.survey import AssignGroups, Deduplicate, Read, Unpack

GUESSED_DOCUMENT_BYTES = 4096  # of a JSONL file, to choose numbers of parts
REJECTED_ROWS = 1_000_000  # at most about so many rows a file of rejected/


def survey(root: beam.Pipeline, inventory: Inventory, config: BuildConfig, scratch: Scratch) -> None:
    """Read every document once and leave in scratch: blocks of records, the split's plan, the sample, the rejected."""
    languages = frozenset(config.languages)
    clean = config.cleaning
    asked = (config.narrowed, config.max_bytes, config.keep_binary)
    filters = Filters(languages, *asked, clean.rules, clean.scrub, config.detect_language, clean.sketcher)
    options = ReadOptions(config.exclude, config.max_expansion, config.content_column, config.strict)
    guess = inventory.found + inventory.line_bytes // GUESSED_DOCUMENT_BYTES
    ranges, rejected_files = bucket_count(guess), 1 + guess // REJECTED_ROWS

    items = elements(root, "inputs", _work_items(inventory), scratch)
    unpacked = items | "unpack" >> beam.ParDo(Unpack(scratch, options)).with_outputs("rejected", "found", main="items")
    read = (
        unpacked.items
        | "spread" >> beam.Reshuffle()
        | "read"
        >> beam.ParDo(Read(filters, options, ranges, scratch)).with_outputs("rejected", "found", "seen", main="records")
    )
    unique = (
        read.records
        | "by id" >> beam.GroupByKey()
        | "deduplicate" >> beam.ParDo(Deduplicate(scratch)).with_outputs("rejected", main="documents")
    )
    apart, near, compared = leave_out_near(unique.documents, clean, ranges, scratch)
    documents, not_chosen = choose(apart, config)

    total = documents | "sizes" >> beam.Map(_total_bytes) | "total" >> _combined(sum)
    big = (
        documents
        | "folders" >> beam.FlatMap(lambda packed: folder_bytes(unpack([packed])))
        | "by folder" >> beam.CombinePerKey(sum)
        | "too big"
        >> beam.FlatMap(lambda item, total: [item[0]] if is_big(item[1], total) else [], AsSingleton(total, 0))
    )
    grouped = documents | "group" >> beam.ParDo(AssignGroups(config.seed), AsList(big))
    kept, plan, twins, held = leave_out_twins(grouped, config, ranges, scratch)
    split = kept | "split" >> beam.ParDo(
        KeyByBlock(config.seed, config.sample_bytes), AsSingleton(plan, {})
    ).with_outputs("sample", main="records")
    split.records | "by block" >> beam.GroupByKey() | "save index" >> beam.ParDo(SaveIndex(scratch))
    (
        split.sample
        | "lowest draws" >> beam.CombinePerKey(SampleFn(config.sample_bytes))
        | "save sample" >> beam.ParDo(SaveSample(scratch))
    )

    (
        (unpacked.rejected, read.rejected, unique.rejected, *near, *not_chosen, *twins)
        | "all rejected" >> beam.Flatten()
        | "place rejected" >> beam.ParDo(KeyRejected(rejected_files))
        | "by file" >> beam.GroupByKey()
        | "save rejected" >> beam.ParDo(SaveRejected(rejected_files, scratch))
    )
    (
        (unpacked.found, read.found)
        | "found beside files" >> beam.Flatten()
        | "count" >> _combined(sum)
        | "save count" >> beam.Map(partial(save_json, scratch.survey("found")))
    )
    (
        (read.seen, *compared, *held)
        | "all seen" >> beam.Flatten()
        | "sum seen" >> _combined(sum_counts)
        | "save seen" >> beam.Map(partial(save_json, scratch.survey("seen")))
    )


def encode(root: beam.Pipeline, blocks: Sequence[tuple[str, int]], task: EncodeTask) -> None:
    """Encode the blocks of the survey and write the shards of the staged set."""
    (
        elements(root, "blocks", blocks, task.scratch)
        | "deal out" >> beam.Reshuffle()
        | "encode" >> beam.ParDo(EncodeBlock(task))
        | "by shard" >> beam.GroupByKey()
        | "join" >> beam.ParDo(JoinShard(task))
    )


def add_views(root: beam.Pipeline, rows: Sequence[Rows], task: AppendTask) -> None:
    """Encode the rows of a set in further views and write its shards anew."""
    (
        root
        | "rows" >> beam.Create([tuple(part) for part in rows])
        | "encode" >> beam.ParDo(EncodeRows(task))
        | "by shard" >> beam.GroupByKey()
        | "join" >> beam.ParDo(JoinRows(task))
    )


def merge(root: beam.Pipeline, ranges: int, rejected: Sequence[str], found: int, task: MergeTask) -> None:
    """Find what stays of each range of ids, write the shards of that, and put what does not with the rejected."""
    files = 1 + found // REJECTED_ROWS
    resolved = (
        root
        | "ranges" >> beam.Create(list(range(ranges)))
        | "resolve" >> beam.ParDo(Resolve(task, ranges)).with_outputs("rejected", main="sizes")
    )
    (
        resolved.sizes
        | "total" >> _combined(add_up)
        | "lay out" >> beam.FlatMap(make_layouts, task)
        | "spread" >> beam.Reshuffle()
        | "write" >> beam.ParDo(WriteMerged(task))
    )
    former = root | "rejected" >> beam.Create(list(rejected)) | "read rejected" >> beam.ParDo(ReadRejected())
    (
        (resolved.rejected, former)
        | "all rejected" >> beam.Flatten()
        | "place rejected" >> beam.ParDo(KeyRejected(files))
        | "by file" >> beam.GroupByKey()
        | "save rejected" >> beam.ParDo(SaveRejected(files, task.scratch))
    )


def _combined(function: Any) -> beam.PTransform:
    """One element that sums up a collection, or none if it is empty. (Beam's default for that costs ten steps.)"""
    return beam.CombineGlobally(function).without_defaults()


def _work_items(inventory: Inventory) -> Iterator[tuple[Any, ...]]:
    if inventory.rejected:
        yield "rejected", pack(table(inventory.rejected, REJECTED))
    for kind, items in (("packed", inventory.packed), ("files", inventory.files), ("lines", inventory.lines)):
        for item in items:
            yield kind, *item
    yield from map(as_item, inventory.unsought)


def _total_bytes(packed: bytes) -> int:
    return sum(unpack([packed])["size"].to_pylist())
