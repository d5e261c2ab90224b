"""Where else a document's bytes are: the places of duplicates that were left out, should the first of them change."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.cleaning.scrub import Stored
from pipeline.reading.sources import Changed, read_stored
from pipeline.records import Place, load_table, places, save_table
from pipeline.running.scratch import Scratch

COLUMNS = ("id", "source_id", *Place._fields)


def save_spares(scratch: Scratch, number: int, duplicates: pa.Table) -> None:
    """Keep the places of the duplicates of one range of ids."""
    if duplicates.num_rows:
        save_table(scratch.spares(number), duplicates.select(COLUMNS))


def read_spare(scratch: Scratch, identity: bytes) -> Stored | None:
    """A document's bytes from where a duplicate of it lies; None if there is none that has not changed as well."""
    folder = scratch.spares(0).parent
    paths: Iterable[Any] = folder.glob("*.arrow") if folder.exists() else ()
    for path in sorted(paths, key=lambda path: path.name):
        rows = load_table(path)
        rows = rows.filter(pc.equal(rows["id"], pa.scalar(identity, rows.schema.field("id").type)))
        for place, source_id in zip(places(rows), rows["source_id"].to_pylist(), strict=True):
            try:
                return read_stored(place, identity, source_id)
            except Changed:
                continue
    return None
