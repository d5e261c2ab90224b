"""Documents that changed, or went, between the survey and the encoding: left out by name, and of all sums.

The set is then what was surveyed without them. One that has a duplicate elsewhere is read there, and stays. Another
build is another corpus: the fingerprint has changed.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipeline.records import REJECTED, Rejection, table
from pipeline.rejected import write_parquet
from pipeline.reporting.statistics import rejection_statistics
from pipeline.running.scratch import Scratch

FILE = "rejected/changed.parquet"


class Loss(NamedTuple):
    """What the changed documents take from the sums of the survey."""

    part: dict[str, Any] | None  # facts of their file of rejected/; None: no document has changed
    digest: int
    bytes: int


def changed_facts(source: str, path: str, identity: bytes, size: int, value: str, digest: int) -> dict[str, Any]:
    """A changed document among the facts of its block."""
    body = {"source": source, "path": path, "id": identity.hex(), "size": size, "value": value}
    return body | {"digest": f"{digest:032x}"}


def reject_changed(scratch: Scratch, blocks: Iterable[Mapping[str, Any]]) -> Loss:
    """Write the file of the changed documents by the blocks' facts."""
    changed = sorted((row for block in blocks for row in block.get("changed", ())), key=lambda row: row["id"])
    if not changed:
        return Loss(None, 0, 0)
    rejections = [
        Rejection(row["source"], row["path"], bytes.fromhex(row["id"]), row["size"], "changed", row["value"])
        for row in changed
    ]
    rows = table(rejections, REJECTED)
    write_parquet(scratch.staged / FILE, rows)
    part = {"path": FILE, "rows": len(changed), "reasons": rejection_statistics(rows)}
    return Loss(part, sum(int(row["digest"], 16) for row in changed), sum(row["size"] for row in changed))
