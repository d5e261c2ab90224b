"""`--drop-val-twins`: documents of val that are near-duplicates of a document in train are left out.

Split as it is without, then every document of val is held against those of train that it meets in a band. What is left
of val must still be enough, or it is an error; train stays as it is.
"""

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsSingleton, PCollection, TaggedOutput

from pipeline.cleaning.minhash import agreeing, band_keys, banding
from pipeline.cleaning.near import Sketches, key_ranges, meetings
from pipeline.config import BuildConfig
from pipeline.records import pack, rejections, unpack
from pipeline.running.relay import relayed
from pipeline.running.scratch import Scratch
from pipeline.survey import SumBuckets, draw_val, make_plan

REASON = "val twin"

Twins = np.ndarray  # (N, 3) int64, by document of val: its number, slots that agree, the most alike document of train


def leave_out_twins(
    grouped: PCollection, config: BuildConfig, ranges: int, scratch: Scratch
) -> tuple[PCollection, PCollection, list[PCollection], list[PCollection]]:
    """(Documents that stay, the split's plan, collections of rejections, counts of what was compared).

    Where nothing is asked for it is the plan alone that is made.
    """
    sums = grouped | "by group" >> beam.CombineGlobally(SumBuckets()).without_defaults()
    clean = config.cleaning
    if not clean.drop_val_twins:
        return grouped, sums | "choose val" >> beam.Map(make_plan, config, scratch), [], []
    threshold, permutations = clean.drop_val_twins, clean.near_permutations
    drawn = sums | "draw val" >> beam.Map(draw_val, config.val_fraction)
    twins = (
        grouped
        | "bands of splits" >> beam.ParDo(KeyBySplit(threshold, permutations, ranges, scratch), AsSingleton(drawn, {}))
        | "by band of splits" >> beam.GroupByKey()
        | "compare splits" >> beam.ParDo(CompareSplits(threshold, permutations, scratch))
        | "nearest" >> beam.CombineGlobally(Nearest()).without_defaults()
    )
    leave = beam.ParDo(LeaveOut(permutations, scratch), AsSingleton(drawn, {}), AsSingleton(twins, None))
    kept = grouped | "leave out twins" >> leave.with_outputs("rejected", "seen", main="documents")
    left = kept.documents | "by group, without twins" >> beam.CombineGlobally(SumBuckets()).without_defaults()
    plan = left | "choose val" >> beam.Map(make_plan, config, scratch, AsSingleton(drawn, {}))
    return kept.documents, plan, [kept.rejected], [kept.seen]


def in_val(records: pa.Table, drawn: dict[str, Any]) -> np.ndarray:
    """(N,) bool: which records are val's."""
    return np.isin(records["bucket"].to_numpy(), np.array(drawn.get("val", []), np.int32))


class KeyBySplit(beam.DoFn):
    """Grouped records -> (range of band keys, keys and whose they are: the split is the lowest bit of the range)."""

    def __init__(self, threshold: float, permutations: int, ranges: int, scratch: Scratch) -> None:
        self.shape, self.ranges = banding(threshold, permutations), ranges
        self.sketches = Sketches(scratch, permutations)

    @relayed
    def process(self, packed: bytes, drawn: dict[str, Any]) -> list[tuple[int, bytes]]:
        records = unpack([packed])
        numbers, val = records["near"].to_numpy(), in_val(records, drawn)
        some = numbers >= 0
        keys = band_keys(self.sketches.of(numbers[some]), *self.shape)
        return key_ranges(keys, with_split(numbers[some], val[some]), self.ranges)


def with_split(numbers: np.ndarray, val: np.ndarray) -> np.ndarray:
    """Numbers that say the split as well."""
    return (((numbers >> 32) * 2 + val) << 32) + (numbers & 0xFFFFFFFF)


def without_split(owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, whether they are val's) of what `with_split` made."""
    return ((owners >> 33) << 32) + (owners & 0xFFFFFFFF), (owners >> 32 & 1).astype(bool)


class CompareSplits(beam.DoFn):
    """(Range of keys, its keys) -> Twins among the documents of val and of train that meet."""

    def __init__(self, threshold: float, permutations: int, scratch: Scratch) -> None:
        self.least = agreeing(threshold, permutations)
        self.sketches = Sketches(scratch, permutations)

    @relayed
    def process(self, item: tuple[int, Iterable[bytes]]) -> list[Twins]:
        found: list[list[int]] = []
        for group in meetings(item[1]):
            numbers, val = without_split(group)
            if val.all() or not val.any():
                continue
            order = np.argsort(numbers[~val])
            train = numbers[~val][order]
            sketches = self.sketches.of(train)
            for number, sketch in zip(numbers[val].tolist(), self.sketches.of(numbers[val]), strict=True):
                equal = np.count_nonzero(sketches == sketch, axis=1)
                best = int(equal.argmax())  # the first of those that agree most
                if equal[best] >= self.least:
                    found.append([number, int(equal[best]), int(train[best])])
        return [nearest(np.array(found, np.int64))] if found else []


class Nearest(beam.CombineFn):
    """Twins -> Twins with one row a document of val."""

    def create_accumulator(self) -> list[Twins]:
        return [np.zeros((0, 3), np.int64)]

    def add_input(self, parts: list[Twins], twins: Twins) -> list[Twins]:
        return [nearest(np.concatenate([*parts, twins]))]

    def merge_accumulators(self, accumulators: Iterable[list[Twins]]) -> list[Twins]:
        return [nearest(np.concatenate([twins for parts in accumulators for twins in parts]))]

    def extract_output(self, parts: list[Twins]) -> Twins:
        return nearest(np.concatenate(parts))


def nearest(twins: Twins) -> Twins:
    """Of each document of val the row that agrees in most slots, of such the one with the least number in train."""
    twins = twins[np.lexsort((twins[:, 2], -twins[:, 1], twins[:, 0]))]
    first = np.ones(len(twins), bool)
    first[1:] = twins[1:, 0] != twins[:-1, 0]
    return twins[first]


class LeaveOut(beam.DoFn):
    """Grouped records -> those that stay; twins -> `rejected`; to `seen`: how many documents of val there are."""

    def __init__(self, permutations: int, scratch: Scratch) -> None:
        self.permutations, self.sketches = permutations, Sketches(scratch, permutations)

    @relayed
    def process(self, packed: bytes, drawn: dict[str, Any], twins: Twins | None) -> list[Any]:
        records = unpack([packed])
        results: list[Any] = [TaggedOutput("seen", {REASON: int(in_val(records, drawn).sum())})]
        if twins is None or not len(twins):
            return [packed, *results]
        numbers = records["near"].to_numpy()
        at = np.minimum(np.searchsorted(twins[:, 0], numbers), len(twins) - 1)
        out = twins[at, 0] == numbers
        similar = twins[at[out]]
        values = [
            f"of {self.sketches.name(train)}, similarity {equal / self.permutations:.3f}"
            for equal, train in similar[:, 1:].tolist()
        ]
        left = rejections(records.filter(pa.array(out)), REASON, values)
        rejected = [TaggedOutput("rejected", pack(left))] if left.num_rows else []
        return [pack(records.filter(pa.array(~out))), *rejected, *results]
