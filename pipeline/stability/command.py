"""The command `stability`: measure held-out documents of a set, write the figures into its report, print a table."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.reporting.render import texts_of
from pipeline.reporting.report import load_report
from pipeline.running.storage import location, write_whole
from pipeline.stability.measure import Measured
from shards.errors import ByteproxyError
from shards.hashing import keyed_hash
from shards.reader import ShardSet

RATES = (0.01, 0.02, 0.05, 0.1)
SMALLEST, LARGEST = 256, 16384  # bytes of a document: a distance takes time by the square of its length


def stability(folder: Path, views: Sequence[str], documents: int, seed: int, workers: int) -> int:
    """Measure `documents` of val, chosen by keyed hash, in these views (none named: all); returns the exit status."""
    place = location(str(folder))
    report, shard_set = load_report(place), ShardSet.open(folder)
    names = list(views) or list(shard_set.views)
    for name in names:
        shard_set.view(name)
    chosen = choose(shard_set, documents, seed)
    if not chosen:
        raise ByteproxyError(f"{folder}: no document of val has {SMALLEST} to {LARGEST:,} bytes; build a larger set")
    sums = {name: Measured(RATES) for name in ["raw", *names]}
    job = partial(measure_document, str(folder.resolve()), tuple(names), seed)
    for found in tqdm(_in_order(job, chosen, workers), total=len(chosen), unit=" documents", desc="stability"):
        for name, one in found.items():
            sums[name].join(one)
    figures = {name: measured.figures() for name, measured in sums.items()}
    report["stability"] = {
        "documents": len(chosen), "bytes": sums["raw"].raw_bytes, "seed": seed, "views": figures,
    }  # fmt: skip
    for name, text in texts_of(report).items():
        write_whole(place / name, text.encode())
    print(table(report["stability"]))
    print(f"written into {place / 'report.json'} and report.html")
    return 0


def choose(shard_set: ShardSet, documents: int, seed: int) -> list[int]:
    """Ordinals of val documents of a fitting length, the first by a keyed hash of their ids."""
    split = shard_set.split("val")
    fitting = [i for i in range(len(split)) if SMALLEST <= split.length("raw", i) <= LARGEST]
    return sorted(fitting, key=lambda i: keyed_hash("stability", seed, split.id(i)))[:documents]


@lru_cache(maxsize=1)
def _opened(folder: str) -> ShardSet:
    return ShardSet.open(folder)


def measure_document(folder: str, views: Sequence[str], seed: int, ordinal: int) -> dict[str, Measured]:
    """One document's figures in `raw` and these views; in a worker, which keeps set and codecs."""
    shard_set = _opened(folder)
    raw = shard_set.split("val").raw(ordinal).tobytes()
    found = {}
    for name in ["raw", *views]:
        found[name] = Measured(RATES)
        found[name].add(raw, shard_set.codec(name) if name != "raw" else None, seed)
    return found


def _in_order(job: Any, chosen: Iterable[int], workers: int) -> Iterator[dict[str, Measured]]:
    if workers == 1:
        yield from map(job, chosen)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(job, chosen)


def table(found: dict[str, Any]) -> str:
    """The figures as text: distances in percent by the share of bytes that was edited."""
    head = ["view", "bytes/symbol", "bits/symbol", "downstream", *(f"{rate:.0%} edited" for rate in RATES)]
    rows = [head]
    for name, view in found["views"].items():
        means = [view["distance"][f"{rate:g}"] for rate in RATES]
        rows.append([
            name, f"{view['bytes_a_symbol']:.2f}", f"{view['bits_a_symbol']:.2f}", _percent(view["downstream"]),
            *map(_percent, means),
        ])  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [row[0].ljust(widths[0]) + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))
             for row in rows]  # fmt: skip
    about = (
        f"{found['documents']} held-out documents, {found['bytes'] / 1e6:.2f} MB. Edited: mean share of symbols that "
        "change, ± its standard error;\ndownstream: of what follows the first symbol that an edit of one byte changes."
    )
    return "\n".join([*lines, about])


def _percent(figure: dict[str, float]) -> str:
    return f"{100 * figure['mean']:.1f} ± {100 * figure['error']:.1f}"
