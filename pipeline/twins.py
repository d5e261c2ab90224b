"""How many val documents have a near-twin in train? Exact duplicates are gone; this counts what is almost the same.

Two documents are near-twins if the Jaccard index of their sets of lines (stripped, not empty) is at least 0.7. A sample
of val, about `SAMPLE` documents, is held against *every* train document: an inverted index from a line's hash to the
val documents that have it gives all intersections at once, so the figure is a count and not an estimate of one.
"""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa

from pipeline.records import load_table, save_table

THRESHOLD = 0.7
SAMPLE = 1000
_SEEN_MASK = (1 << 20) - 1


def line_hashes(raw: bytes) -> np.ndarray:
    """(L,) uint32: hashes of a document's distinct lines, stripped, that are not empty. No order."""
    lines = set(map(bytes.strip, raw.split(b"\n")))
    lines.discard(b"")
    return np.fromiter(map(crc32, lines), np.uint32, len(lines))


class TwinIndex:
    """An inverted index over the lines of some documents, numbered from 0."""

    def __init__(self, lines: np.ndarray, documents: np.ndarray, sizes: np.ndarray) -> None:
        self._lines, self._documents, self._sizes = (
            lines,
            documents,
            sizes,
        )  # (P,) sorted lines, (P,) owners, (D,) lines
        self._seen = np.zeros(_SEEN_MASK + 1, bool)  # a first sieve: may a line be in the index?
        self._seen[lines & _SEEN_MASK] = True

    @classmethod
    def of(cls, documents: Sequence[bytes]) -> "TwinIndex":
        """Index these documents' lines."""
        hashes = [line_hashes(raw) for raw in documents]
        sizes = np.array([len(lines) for lines in hashes], np.int64)
        lines = np.concatenate([*hashes, np.empty(0, np.uint32)])
        owners = np.repeat(np.arange(len(hashes)), sizes)
        order = np.argsort(lines, kind="stable")
        return cls(lines[order], owners[order], sizes)

    def twins_of(self, raw: bytes) -> list[int]:
        """The numbers of the indexed documents that `raw` is a near-twin of."""
        lines = line_hashes(raw)
        found = lines[self._seen[lines & _SEEN_MASK]]
        if len(found) < THRESHOLD * len(lines) or not len(found):  # most documents: too few lines in common with any
            return []
        begins = np.searchsorted(self._lines, found, "left")
        counts = np.searchsorted(self._lines, found, "right") - begins
        # the postings of all lines found, one range of the index a line
        offsets = np.repeat(begins - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        postings = self._documents[np.arange(counts.sum()) + offsets]
        shared = np.bincount(postings, minlength=len(self._sizes))
        union = self._sizes + len(lines) - shared
        return np.flatnonzero((shared >= THRESHOLD * union) & (shared > 0)).tolist()

    def save(self, path: Path) -> None:
        """Keep the index for the workers."""
        rows = pa.table({"line": self._lines, "document": self._documents.astype(np.int32)})
        save_table(path, rows.replace_schema_metadata({"sizes": ",".join(map(str, self._sizes.tolist()))}))

    @classmethod
    def load(cls, path: Path) -> "TwinIndex":
        """What `save` wrote."""
        rows = load_table(path)
        sizes = rows.schema.metadata[b"sizes"].decode()
        counts = np.array([int(size) for size in sizes.split(",")] if sizes else [], np.int64)
        return cls(rows["line"].to_numpy(), rows["document"].to_numpy(), counts)
