"""Faults of the input: what is wrong with it, as against what is merely filtered. `--strict` stops at the first.

A fault never stops a build by itself: what it concerns is found, counted and named in `rejected/`, by these reasons.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.reading.formats import kind_of
from pipeline.records import Rejection
from pipeline.running.scratch import Scratch
from pipeline.running.storage import Location, name_of, open_file
from shards.errors import ByteproxyError
from shards.manifest import MANIFEST_NAME, Manifest

FAULTS = {
    "bad json": "a line of JSONL that is no JSON object with a text, or has a key twice",
    "changed": "not any more what the survey found, or gone, when it was to be encoded; or a file shorter than listed",
    "damaged": "an archive, a table, a repository or a part of one that makes no sense",
    "encrypted": "a member of an archive that needs a password",
    "expansion": "more than --max-expansion times its bytes, or too many members: a bomb",
    "no content": "a row without a value, or a table without a column of documents",
    "not a regular file": "a device, a FIFO, a socket, a sparse file",
    "truncated": "a compressed file or an archive that ends early",
    "unreadable": "no permission, an error of the disk, gone, or missing from a repository",
    "unsafe name": "a member of an archive whose name leads out of it",
    "unsupported compression": "a member of an archive",
}


def stop_at_fault(rejected: Iterable[Rejection]) -> None:
    """Raise ByteproxyError, which names the first fault among them, if there is one."""
    for row in rejected:
        if row.reason in FAULTS:
            where = row.path if row.path.startswith(row.source) else f"{row.source}/{row.path}"
            raise ByteproxyError(f"--strict: {where}: {row.reason}: {row.value}")


def stop_at_former_fault(scratch: Scratch, parts: Iterable[Mapping[str, Any]]) -> None:
    """The same for what a survey has left in scratch."""
    for part in parts:
        if FAULTS.keys() & part["reasons"].keys():
            _stop_in_file(scratch.staged / part["path"])


def stop_at_fault_of_set(out: Location) -> None:
    """The same for a finished set."""
    for file in Manifest.parse((out / MANIFEST_NAME).read_bytes(), str(out / MANIFEST_NAME)).rejected:
        _stop_in_file(out / file.path)


def hint_of(reasons: Mapping[str, Any]) -> str:
    """Why nothing may be left, by the statistics of what was rejected: a fault, or inputs within a folder. Or ""."""
    for reason in sorted(FAULTS.keys() & reasons.keys()):
        _, _, path, value = reasons[reason]["examples"][0]
        return f"; for example {path}: {value}"
    for suffix in reasons.get("not code", {}).get("values", ()):
        if kind_of(f"x{suffix}") is not None:
            return f"; files {suffix} in a folder are not opened: name them, as in 'FOLDER/*{suffix}'"
    return ""


def _stop_in_file(path: Location) -> None:
    with open_file(name_of(path)) as file:
        rows = pq.read_table(file)
    faults = rows.filter(pc.is_in(rows["reason"], value_set=pa.array(FAULTS)))
    stop_at_fault(Rejection(**row) for row in faults.slice(0, 1).to_pylist())
