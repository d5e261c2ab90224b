"""Work items: what a worker reads at a time, one kind for each kind of input. Plain tuples of names and numbers."""

from typing import NamedTuple


class Files(NamedTuple):
    """Files of a folder: names relative to `root`, all as the operating system spells them."""

    input: str
    root: bytes
    names: list[bytes]
    size: int  # bytes of them all, read or not


class Lines(NamedTuple):
    """The lines of a JSONL file that begin in [start, end)."""

    input: str
    file: bytes
    start: int
    end: int


class Packed(NamedTuple):
    """A compressed JSONL file, to be unpacked into scratch before it can be cut into ranges."""

    input: str
    file: bytes


class Archive(NamedTuple):
    """A tar or a zip, or the `part`th of `parts` of a zip."""

    input: str
    file: bytes
    part: int
    parts: int
    size: int  # bytes of the input that it stands for


class Rows(NamedTuple):
    """The row groups [part, end) of a Parquet file."""

    input: str
    file: bytes
    part: int
    end: int
    row: int  # number of the first row
    size: int  # bytes of the input that they stand for


class Repository(NamedTuple):
    """A commit of a git repository, or the `part`th of `parts` of its files."""

    input: str
    file: bytes  # the folder of its objects
    form: str  # of hashes: sha1 or sha256
    commit: str
    part: int
    parts: int
    total: int  # bytes of all its files

    @property
    def size(self) -> int:
        """Bytes of the input that it stands for."""
        return self.total // self.parts


Unsought = Archive | Rows | Repository  # what cannot be sought, and is spooled document by document


def text_of(name: bytes) -> str:
    """A file name as text: what is not UTF-8 is written as \\x escapes."""
    return name.decode("utf-8", "backslashreplace")
