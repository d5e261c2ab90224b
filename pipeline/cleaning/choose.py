"""A smaller build of the same corpus: a share of the documents (`--sample-rate`), or at most so many (`--limit`).

Each document has one draw, a keyed hash of its id. A share keeps the draws below it, a limit the lowest draws; so
smaller samples lie within larger ones, and neither workers nor the order of arrival have a say. What is chosen from is
what everything before let through. No process ever holds more than a 65,536th of the draws.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton, PCollection, TaggedOutput

from pipeline.config import BuildConfig
from pipeline.records import pack, rejections, unpack
from pipeline.running.relay import relayed
from shards.hashing import keyed_hash

BUCKETS = 1 << 16  # of draws, by their first 16 bits

Cut = tuple[int, int]  # the bucket that the last kept draw is in, and how many of its draws are kept


def choose(documents: PCollection, config: BuildConfig) -> tuple[PCollection, list[PCollection]]:
    """(Documents that stay, collections of rejections). Without the two options no step is added."""
    rejected = []
    if config.sample_rate < 1:
        share = TakeShare(config.sample_rate, config.seed)
        sampled = documents | "sample" >> beam.ParDo(share).with_outputs("rejected", main="documents")
        documents, rejected = sampled.documents, [sampled.rejected]
    if config.limit is not None:
        counts = documents | "count draws" >> beam.CombineGlobally(CountDraws(config.seed)).without_defaults()
        cut = counts | "cut" >> beam.FlatMap(cut_of, config.limit)
        near = documents | "near the cut" >> beam.FlatMap(keys_in_bucket, config.seed, AsSingleton(cut, None))
        keys = near | "keys" >> beam.combiners.ToList()
        last = keys | "last kept" >> beam.FlatMap(last_kept, AsSingleton(cut, None))
        limited = documents | "limit" >> beam.ParDo(
            TakeFirst(config.limit, config.seed), AsSingleton(last, None)
        ).with_outputs("rejected", main="documents")
        documents, rejected = limited.documents, [*rejected, limited.rejected]
    return documents, rejected


class TakeShare(beam.DoFn):
    """Records -> those whose draw is below the rate; the others -> `rejected`."""

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.seed = rate, seed

    @relayed
    def process(self, packed: bytes) -> list[Any]:
        records = unpack([packed])
        draws = draws_of(records, self.seed)
        values = [f"draw {draw / 2**64:.6f} at a rate of {self.rate}" for draw in draws]
        return _cut(records, [draw < self.rate * 2**64 for draw in draws], "not sampled", values)


class TakeFirst(beam.DoFn):
    """Records -> those up to the last key that is kept (None: all); the others -> `rejected`."""

    def __init__(self, limit: int, seed: int) -> None:
        self.limit, self.seed = limit, seed

    @relayed
    def process(self, packed: bytes, last: bytes | None) -> list[Any]:
        if last is None:
            return [packed]
        records = unpack([packed])
        value = f"a limit of {self.limit} documents"
        kept = [key <= last for key in keys_of(records, self.seed)]
        return _cut(records, kept, "over the limit", [value] * len(kept))


def draws_of(records: pa.Table, seed: int) -> list[int]:
    """Each record's draw in [0, 2**64)."""
    return [keyed_hash("choose", seed, identity) for identity in records["id"].to_pylist()]


def keys_of(records: pa.Table, seed: int) -> list[bytes]:
    """Each record's place in the order of the draws, 24 bytes: its draw, then its id."""
    draws = draws_of(records, seed)
    return [draw.to_bytes(8, "big") + key for draw, key in zip(draws, records["id"].to_pylist(), strict=True)]


class CountDraws(beam.CombineFn):
    """Records -> (BUCKETS,) int64: how many draws are in each bucket."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(BUCKETS, np.int64)

    def add_input(self, counts: np.ndarray, packed: bytes) -> np.ndarray:
        draws = np.array(draws_of(unpack([packed]), self.seed), np.uint64) >> np.uint64(48)
        counts += np.bincount(draws.astype(np.int64), minlength=BUCKETS)
        return counts

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return np.sum(list(accumulators), axis=0)

    def extract_output(self, counts: np.ndarray) -> np.ndarray:
        return counts


def cut_of(counts: np.ndarray, limit: int) -> list[Cut]:
    """Where to cut so that `limit` draws stay; nothing if there are no more than that."""
    ends = np.cumsum(counts)
    if int(ends[-1]) <= limit:
        return []
    bucket = int(np.searchsorted(ends, limit))
    return [(bucket, limit - int(ends[bucket] - counts[bucket]))]


def keys_in_bucket(packed: bytes, seed: int, cut: Cut | None) -> list[bytes]:
    """The keys of the records whose draws are in the bucket of the cut."""
    if cut is None:
        return []
    prefix = cut[0].to_bytes(2, "big")
    return [key for key in keys_of(unpack([packed]), seed) if key.startswith(prefix)]


def last_kept(keys: Sequence[bytes], cut: Cut | None) -> list[bytes]:
    """The last key that stays, of those in the bucket of the cut."""
    return [] if cut is None else [sorted(keys)[cut[1] - 1]]


def _cut(records: pa.Table, kept: Sequence[bool], reason: str, values: Sequence[str]) -> list[Any]:
    """The records that stay, and the rejections of the others with their values."""
    stay = pa.array(kept, pa.bool_())
    results: list[Any] = [pack(records.filter(stay))] if any(kept) else []
    if not all(kept):
        left = [value for value, keep in zip(values, kept, strict=True) if not keep]
        others = rejections(records.filter(pc.invert(stay)), reason, left)
        results.append(TaggedOutput("rejected", pack(others)))
    return results
