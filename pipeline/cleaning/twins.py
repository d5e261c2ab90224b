"""How many val documents have a near-twin in train? Exact duplicates are gone; this counts what is almost the same.

Two documents are near-twins if the Jaccard index of their sets of lines (without line ends) is at least 0.7. A sample
of val, about `SAMPLE` documents, is held against *every* train document, line by line, so the figure is a count and not
an estimate of one. Most train documents share too few lines with all of the sample, and cost one intersection of sets.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.records import load_table, save_table
from pipeline.running.storage import Location

THRESHOLD = 0.7
SAMPLE = 1000


def lines_of(raw: bytes) -> set[bytes]:
    """A document's distinct lines that are not empty, without their ends: \\n, \\r\\n and \\r are one."""
    lines = set(raw.splitlines())
    lines.discard(b"")
    return lines


class TwinIndex:
    """Some documents, numbered from 0, to be found by their lines."""

    def __init__(self, lines: Sequence[bytes], owners: Sequence[int], documents: int) -> None:
        """`lines[i]` is one of the distinct lines of document `owners[i]`."""
        self._lines, self._owners = lines, owners
        self._sizes = np.bincount(np.asarray(owners, np.int64), minlength=documents)
        self._postings: dict[bytes, list[int]] = {}
        for line, owner in zip(lines, owners, strict=True):
            self._postings.setdefault(line, []).append(owner)
        self._known = frozenset(self._postings)

    @classmethod
    def of(cls, documents: Sequence[bytes]) -> "TwinIndex":
        """Index these documents."""
        pairs = [(line, number) for number, raw in enumerate(documents) for line in sorted(lines_of(raw))]
        return cls([line for line, _ in pairs], [number for _, number in pairs], len(documents))

    def twins_of(self, raw: bytes) -> list[int]:
        """The numbers of the indexed documents that `raw` is a near-twin of."""
        lines = lines_of(raw)
        found = lines & self._known
        if not found or len(found) < THRESHOLD * len(lines):
            return []
        shared = np.zeros(len(self._sizes), np.int64)
        for line in found:
            shared[self._postings[line]] += 1
        union = self._sizes + len(lines) - shared
        return np.flatnonzero((shared >= THRESHOLD * union) & (shared > 0)).tolist()

    def save(self, path: Location) -> None:
        """Keep the index for the workers."""
        rows = pa.table({"line": pa.array(self._lines, pa.binary()), "owner": pa.array(self._owners, pa.int32())})
        save_table(path, rows.replace_schema_metadata({"documents": str(len(self._sizes))}))

    @classmethod
    def load(cls, path: Location) -> "TwinIndex":
        """What `save` wrote."""
        rows = load_table(path)
        documents = int(rows.schema.metadata[b"documents"])
        return cls(rows["line"].to_pylist(), rows["owner"].to_pylist(), documents)
