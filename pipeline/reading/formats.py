"""Which kind of input a file is, by its name."""

import os
from typing import Final

from shards.store import is_remote

JSONL: Final = (".jsonl", ".ndjson")
COMPRESSED: Final = (".gz", ".zst", ".bz2", ".xz")
TAR: Final = {
    ".tar": "", ".tar.gz": ".gz", ".tgz": ".gz", ".tar.bz2": ".bz2", ".tbz2": ".bz2", ".tbz": ".bz2",
    ".tar.xz": ".xz", ".txz": ".xz", ".tar.zst": ".zst", ".tzst": ".zst",
}  # fmt: skip
ZIP: Final = (".zip", ".whl", ".jar")
PARQUET: Final = (".parquet", ".parq")

KNOWN = (
    f"JSONL ({' '.join(JSONL)}, and these with {' '.join(COMPRESSED)}), Parquet ({' '.join(PARQUET)}) or an archive "
    f"({' '.join(TAR)} {' '.join(ZIP)})"
)


def kind_of(name: str) -> str | None:
    """ "lines", "packed" (compressed lines), "tar", "zip" or "parquet"; None for what cannot be read."""
    name = name.lower()
    if name.endswith(JSONL):
        return "lines"
    if name.endswith(tuple(plain + suffix for plain in JSONL for suffix in COMPRESSED)):
        return "packed"
    if name.endswith(tuple(TAR)):
        return "tar"
    if name.endswith(ZIP):
        return "zip"
    return "parquet" if name.endswith(PARQUET) else None


def last_name(file: bytes) -> str:
    """The last component of a file's name, of a URL without its options."""
    name = os.fsdecode(file)
    return (name.partition("?")[0] if is_remote(name) else name).rpartition("/")[2]


def compression_of(name: str) -> str:
    """The suffix that says how a tar or a JSONL file is compressed, as `streams.unpacked` takes it; "" if it is not."""
    name = name.lower()
    for suffix, compression in TAR.items():
        if name.endswith(suffix):
            return compression
    return next((suffix for suffix in COMPRESSED if name.endswith(suffix)), "")


def stem_of(name: str) -> str:
    """A file's name without the suffixes that say its kind."""
    for suffix in (*COMPRESSED, *JSONL, *sorted(TAR, key=len, reverse=True), *ZIP, *PARQUET):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name
