"""Reads the inputs that cannot be sought, a work item at a time; what stays of each is spooled into its own pile."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

from pipeline.cleaning.filters import Filters
from pipeline.reading.archives import read_archive
from pipeline.reading.inputs import member_excluder
from pipeline.reading.intake import Batch, Intake, Pile, PileError, pile_name
from pipeline.reading.items import Archive, Repository, Rows, Unsought
from pipeline.reading.repositories import read_repository
from pipeline.reading.tables import read_rows
from pipeline.running.progress import Portion, WatchedFile
from pipeline.running.scratch import Scratch
from pipeline.running.storage import name_of, open_file, size_of, writing

KINDS: dict[str, type[Unsought]] = {kind.__name__.lower(): kind for kind in (Archive, Rows, Repository)}


@dataclass(frozen=True)
class ReadOptions:
    """What the config says of reading. Small, and travels with the graph."""

    exclude: tuple[str, ...]
    expansion: int
    content_column: str | None
    strict: bool


def as_item(parts: Unsought) -> tuple[Any, ...]:
    """A work item as a plain tuple, its kind before it: what travels."""
    return type(parts).__name__.lower(), *parts


def size_of_item(kind: str, parts: list[Any]) -> int:
    """Bytes of the input that this item stands for, so that progress adds up."""
    return KINDS[kind](*parts).size


def read_unsought(
    kind: str,
    parts: list[Any],
    filters: Filters,
    options: ReadOptions,
    scratch: Scratch,
    portion: Portion | None = None,
) -> Iterator[Batch]:
    """What is in a work item of one of KINDS. An input that cannot be opened is a rejection.

    What is read of a long stream is counted in `portion` as it goes.
    """
    item = KINDS[kind](*parts)
    target = scratch.spool(pile_name(item.input, item.part))
    try:
        with writing(target) as path:
            pile = Pile(path, name_of(target))
            intake = Intake(item.input, filters, pile)
            try:
                yield from _read(item, intake, options, portion)
            except OSError as error:
                intake.reject(item.input, "unreadable", error.strerror or str(error))
            yield from intake.batches(at_end=True)
            pile.close()
    except PileError as error:
        cause = error.args[0]
        raise OSError(cause.errno, cause.strerror, str(target)) from error


def _read(item: Unsought, intake: Intake, options: ReadOptions, portion: Portion | None) -> Iterator[Batch]:
    if isinstance(item, Repository):
        yield from read_repository(item, intake, member_excluder(options.exclude))
        return
    with open_file(item.file) as file:
        size = size_of(file)
        if size is None:
            intake.reject(item.input, "not a regular file", "changed while it was read")
        elif isinstance(item, Rows):
            yield from read_rows(item, file, size, intake, options.content_column, options.expansion)
        else:
            stream = cast(IO[bytes], WatchedFile(file, portion)) if portion is not None else file
            yield from read_archive(item, stream, size, intake, member_excluder(options.exclude), options.expansion)
