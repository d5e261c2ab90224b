"""What is counted about documents where they pass: in each block that is encoded, in each file of `rejected/`.

The counts of two blocks are added to those of both (`merged`), so nothing is ever read a second time. All come from the
columns of whole blocks; no document is looked at by itself.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from shards.hashing import keyed_hash
from shards.manifest import View
from shards.schema import ANCHOR_BYTES

UNKNOWN = "unknown"  # how reports call a language or a licence that a document does not have
EXAMPLES = 5  # of each reason
VALUES = 200  # of each reason that a file of rejected/ keeps the counts of
SHOWN = 160  # characters of an example's strings: values may quote much

Counts = dict[str, Any]


def block_statistics(block: pa.Table, views: Sequence[View]) -> Counts:
    """The counts of a block of encoded documents, as `shards.writer.table_of` makes it.

    `languages` and `licences`: documents, bytes of text and symbols of each view, by name. `lengths`: by view and
    `raw`, documents by `log2_bins` of their symbols. `anchors`: by view, documents by `log2_bins` of their anchors, the
    number of gaps between them, and the largest in bytes of text.
    """
    lengths = {name: block[f"{name}_len"].to_numpy() for name in ["raw", *(view.name for view in views)]}
    return {
        "languages": _sums_by(block["language"], lengths),
        "licences": _sums_by(block["licence"], lengths),
        "lengths": {name: log2_bins(values) for name, values in lengths.items()},
        "anchors": {view.name: _anchor_counts(block, view.name) for view in views},
    }


def rejection_statistics(rows: pa.Table) -> Counts:
    """By reason: documents, bytes (of those whose size is known), the commonest values and a few examples.

    The examples are those with the lowest keyed hashes of their places: any run, any order, the same.
    """
    found: Counts = {}
    columns = (rows[name].to_pylist() for name in ("reason", "source", "path", "size", "value"))
    for reason, source, path, size, value in zip(*columns, strict=True):
        counts = found.setdefault(reason, {"documents": 0, "bytes": 0, "values": Counter(), "examples": []})
        counts["documents"] += 1
        counts["bytes"] += size or 0
        counts["values"][_clipped(value)] += 1
        if len(counts["values"]) > 100 * VALUES:  # rows come in one order, so this too is the same in any run
            counts["values"] = Counter(dict(_commonest(counts["values"], VALUES)))
        draw = keyed_hash("example", 0, source.encode(), path.encode())
        counts["examples"].append([draw, source, path, value])
        if len(counts["examples"]) > 64 * EXAMPLES:
            counts["examples"] = _lowest(counts["examples"])
    for counts in found.values():
        counts["examples"] = [[d, *map(_clipped, strings)] for d, *strings in _lowest(counts["examples"])]
        counts["values"] = dict(_commonest(counts["values"], VALUES))
    return found


def merged(parts: Iterable[Mapping[str, Any]]) -> Counts:
    """The counts over all parts: numbers are added, histograms bin by bin; of `largest_gap` the maximum is taken, of
    `examples` those with the lowest draws.
    """
    total: Counts = {}
    for part in parts:
        for key, value in part.items():
            total[key] = _both(key, total[key], value) if key in total else _both(key, None, value)
    return total


def log2_bins(values: np.ndarray) -> list[int]:
    """How many of these whole numbers lie in each bin: [0], [1], [2, 3], [4, 7], …, as far as there are any."""
    return np.bincount(np.frexp(values.astype(np.float64))[1]).tolist() if len(values) else []


def bin_start(number: int) -> int:
    """The least value in a bin of `log2_bins`."""
    return 1 << (number - 1) if number else 0


def ranked_values(values: Mapping[str, int], count: int) -> dict[str, int]:
    """The commonest values with their counts; none where most documents have a value of their own, or share it with
    but one other.
    """
    repeated = {value: number for value, number in values.items() if number > 1}
    documents = sum(repeated.values())
    telling = 5 * documents >= sum(values.values()) and documents >= 3 * len(repeated)
    return dict(_commonest(repeated, count)) if telling else {}


def _sums_by(names: pa.ChunkedArray, lengths: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """For each name that occurs: documents, bytes of text, symbols by view."""
    coded = names.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    known = [*coded.dictionary.to_pylist(), UNKNOWN]
    numbers = coded.indices.fill_null(len(known) - 1).to_numpy()
    documents = np.bincount(numbers, minlength=len(known))
    # float64 sums of whole numbers below 2^53 are exact
    sums = {view: np.bincount(numbers, values, len(known)).astype(np.int64) for view, values in lengths.items()}
    result: dict[str, dict[str, Any]] = {}
    for number in np.flatnonzero(documents).tolist():
        symbols = {view: int(values[number]) for view, values in sums.items() if view != "raw"}
        row = {"documents": int(documents[number]), "bytes": int(sums["raw"][number]), "symbols": symbols}
        name = known[number] or UNKNOWN
        result[name] = merged([result[name], row]) if name in result else row
    return result


def _anchor_counts(block: pa.Table, view: str) -> Counts:
    """Documents by anchors, the number of gaps between anchors of one document, the largest in bytes of text."""
    counts = block[f"{view}_anchors_len"].to_numpy().astype(np.int64)
    offsets = np.frombuffer(_joined(block[f"{view}_anchors"]), "<u4").reshape(-1, 2)[:, 0].astype(np.int64)
    ends = np.cumsum(counts)
    inner = np.ones(max(0, len(offsets) - 1), bool)
    inner[ends[(ends > 0) & (ends < len(offsets))] - 1] = False  # not from one document's end to the next one's begin
    gaps = np.diff(offsets)[inner]
    largest = int(gaps.max()) if len(gaps) else 0
    return {"documents": log2_bins(counts), "gaps": len(gaps), "largest_gap": largest}


def _joined(values: pa.ChunkedArray) -> bytes | memoryview:
    """The values of a binary column, one behind the other."""
    parts = []
    for chunk in values.chunks:
        if len(chunk):
            starts = np.frombuffer(chunk.buffers()[1], "<i4")[chunk.offset : chunk.offset + len(chunk) + 1]
            parts.append(memoryview(chunk.buffers()[2] or b"")[starts[0] : starts[-1]])
    joined = parts[0] if len(parts) == 1 else b"".join(parts)
    assert len(joined) % ANCHOR_BYTES == 0
    return joined


def _both(key: str, one: Any, other: Any) -> Any:
    if isinstance(other, Mapping):
        return merged([one or {}, other])
    if key == "examples":
        return _lowest([*(one or []), *other])
    if isinstance(other, list):
        one = one or []
        longer, shorter = (one, other) if len(one) > len(other) else (other, one)
        return [a + b for a, b in zip(longer, shorter, strict=False)] + longer[len(shorter) :]
    return max(one or 0, other) if key == "largest_gap" else (one or 0) + other


def _lowest(examples: list[list[Any]]) -> list[list[Any]]:
    return sorted(examples)[:EXAMPLES]


def _commonest(values: Mapping[str, int], count: int) -> list[tuple[str, int]]:
    return sorted(values.items(), key=lambda item: (-item[1], item[0]))[:count]


def _clipped(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
