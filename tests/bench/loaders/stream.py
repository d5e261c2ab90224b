"""What a peer's module offers to the measuring process.

build(documents, folder)               write the peer's own store, by the library's own calls; optional
open_stream(source, option, state)     the peer's batches from the start, or from a state that it gave before
digest(batch)                          optional: of everything in a batch that is not one (rows, tokens) array
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.loaders.documents import Documents

SEED = 0


@dataclass(frozen=True)
class Source:
    """Where a peer reads: the exported documents, and the store that it has built from them."""

    exports: Path
    variant: str
    folder: Path

    @property
    def documents(self) -> Documents:
        """The exported documents of the variant."""
        return Documents(self.exports, self.variant)


@dataclass(frozen=True)
class Stream:
    """Batches of one pass. `state` gives, after any batch, what a new process resumes from (JSON-able)."""

    batches: Iterator[Any]
    state: Callable[[], Any] | None = None  # None: the library has no resumption
