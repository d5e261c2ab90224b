"""From a document's bytes to its record, or to the rejection that says why it has none: one way for every input."""

from typing import Any, NamedTuple

from pipeline.cleaning.filters import Filters
from pipeline.cleaning.scrub import scrub
from pipeline.reading.detect import language_by_content
from pipeline.records import Place, Rejection, shown_place
from shards.hashing import document_id

Row = tuple[Any, ...]  # in the order of records.RECORD


class Known(NamedTuple):
    """What is known of a document beside its bytes."""

    input: str  # the input's name
    source: str | None  # repository; None: the input stands for it
    path: str | None  # within the source
    language: str | None
    licence: str | None
    grouping: str | None  # folders to split by, see records.RECORD
    place: Place  # where its bytes can be read again
    number: int = 0  # which of its input's, see records.RECORD


def admit(raw: bytes, known: Known, filters: Filters, rows: list[Row], rejected: list[Rejection]) -> None:
    """Judge a document: its record goes to `rows`, or why it is left out to `rejected`.

    Rules see the bytes that would be stored: what is scrubbed is scrubbed before.
    """
    name, source, path, language, licence, grouping, place, number = known
    source = source or name
    identity = document_id(raw)
    source_id = None
    verdict = filters.by_name(language, path) or filters.by_size(len(raw)) or filters.by_content(raw)
    if verdict is None and language is None and filters.detects(path):
        language = language_by_content(raw)
        verdict = filters.by_name(language, path, read=True)
    if verdict is None:
        if filters.scrub:
            source_id = identity
            raw = scrub(raw, source_id).raw
            identity = document_id(raw)
        verdict = filters.by_rules(raw, language, licence)
    if verdict is not None:
        where = shown_place(source, path, name, number)
        rejected.append(Rejection(source, where, identity, len(raw), *verdict))
        return
    sketch = filters.sketcher.sketch(raw) if filters.sketcher else None
    described = (source, path, language, licence, grouping, len(raw), name)
    rows.append((identity, *described, place.offset, place.length, place.file, place.form, number, source_id, sketch))
