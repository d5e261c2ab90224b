"""Exact duplicates: of the documents with one id the first by (source, path, input, number) stays, whoever came first.

Works on a bucket at a time, a bucket being a range of ids: all documents of one id are in the same.
"""

import numpy as np
import pyarrow as pa

from pipeline.records import rejections, shown_place

MAX_BUCKETS = 4096
BUCKET_DOCUMENTS = 20_000


def bucket_count(documents: int) -> int:
    """Buckets for an estimated number of documents: a power of two."""
    return min(MAX_BUCKETS, 1 << max(0, (documents // BUCKET_DOCUMENTS).bit_length()))


def id_prefixes(records: pa.Table) -> np.ndarray:
    """(N,) uint64: the first 32 bits of each id, so that ranges of ids are ranges of numbers."""
    return _ids(records)[:, :4].copy().view(">u4").astype(np.uint64).reshape(-1)


def cut_by_range(records: pa.Table, ranges: int) -> list[tuple[int, pa.Table]]:
    """Cut records into equal ranges of ids; each (number of the range, its records)."""
    if not records.num_rows:
        return []
    numbers = (id_prefixes(records) * np.uint64(ranges)) >> np.uint64(32)
    order = np.argsort(numbers, kind="stable")
    present, begins = np.unique(numbers[order], return_index=True)
    sorted_records = records.take(pa.array(order))
    ends = [*begins[1:], len(order)]
    return [
        (int(n), sorted_records.slice(begin, end - begin)) for n, begin, end in zip(present, begins, ends, strict=True)
    ]


def deduplicate(records: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(documents that stay, sorted by id; the others; rejections of these) of one bucket."""
    keys = ["id", "source", "path", "input", "number"]
    order = [(key, "ascending") for key in keys]
    ordered = records.sort_by(order)  # a null path sorts last
    ids = _ids(ordered).view("V16").reshape(-1)
    first = np.ones(len(ids), bool)
    first[1:] = ids[1:] != ids[:-1]
    winners = ordered.filter(pa.array(first))
    losers = ordered.filter(pa.array(~first))
    winner_of = np.cumsum(first)[~first] - 1
    columns = (winners.take(pa.array(winner_of))[name].to_pylist() for name in ("source", "path", "input", "number"))
    values = [f"of {row[0]}/{shown_place(*row)}" for row in zip(*columns, strict=True)]
    return winners, losers, rejections(losers, "duplicate", values)


def _ids(records: pa.Table) -> np.ndarray:
    """(N, 16) uint8."""
    column = records["id"].combine_chunks()
    start = column.offset * 16
    return np.frombuffer(column.buffers()[1], np.uint8)[start : start + 16 * len(column)].reshape(-1, 16)
