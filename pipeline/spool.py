"""Unpacks a compressed JSONL file into scratch, once, so that its lines can be sought like those of a plain one.

A file cut short or damaged gives what could be read, up to the last whole line, and one rejection that says where it
ended; memory stays at a few megabytes whatever the file holds.
"""

import contextlib
import zlib
from collections.abc import Iterator
from typing import IO, Any

from pipeline.inputs import Packed, text_of
from pipeline.records import Rejection
from pipeline.storage import Location, open_file, writing
from shards.errors import ByteproxyError

READ_BYTES = 1 << 18


def unpack_file(item: Packed, target: Location) -> tuple[int, Rejection | None]:
    """Write the whole lines of a .gz or .zst file to `target`; return their bytes, and what was wrong if anything."""
    written, whole = 0, 0  # bytes, and those of them up to the last newline
    problem: str | None = None
    with open_file(item.file) as file, writing(target) as temporary, temporary.open("wb") as out:
        try:
            for part in _unpacked(file, item.file.partition(b"?")[0].endswith(b".zst")):
                out.write(part)
                if (newline := part.rfind(b"\n")) >= 0:
                    whole = written + newline + 1
                written += len(part)
        except _Damaged as damage:
            problem = str(damage)
            out.truncate(whole)
    if problem is None:
        return written, None
    value = f"{problem}; {written} bytes unpacked, of which the last {written - whole} are an incomplete line"
    return whole, Rejection(item.input, f"{item.input}@{whole}", None, None, "truncated", value)


class _Damaged(Exception):
    """The compressed stream ended early or makes no sense."""


def _unpacked(file: IO[bytes], zstd: bool) -> Iterator[bytes]:
    """The content of one or more compressed members, in parts."""
    decoder: Any = None
    data = b""
    while True:
        data = data or file.read(READ_BYTES)
        if not data:
            break
        if decoder is None:
            if not zstd and not data.strip(b"\0"):  # gzip members may be followed by padding
                data = b""
                continue
            decoder = _decoder(zstd)
        try:
            part = decoder.decompress(data) if zstd else decoder.decompress(data, READ_BYTES * 16)
        except Exception as error:  # zlib.error or ZstdError; neither library need be imported to be caught here
            if isinstance(error, OSError | MemoryError):
                raise
            raise _Damaged(f"damaged at byte {file.tell() - len(data)} to {file.tell()} ({error})") from None
        if part:
            yield part
        data = decoder.unused_data if decoder.eof else b"" if zstd else decoder.unconsumed_tail
        if decoder.eof:
            decoder = None
    if decoder is not None:
        with contextlib.suppress(zlib.error):
            if not zstd and (rest := decoder.flush()):
                yield rest
        raise _Damaged(f"cut short after {file.tell()} compressed bytes")


def _decoder(zstd: bool) -> Any:
    if not zstd:
        return zlib.decompressobj(wbits=31)
    try:
        import zstandard
    except ImportError:
        raise ByteproxyError("reading .zst needs the package zstandard: pip install zstandard") from None
    return zstandard.ZstdDecompressor().decompressobj()


def spool_name(item: Packed) -> str:
    """The scratch file's name for an input."""
    return text_of(item.input.encode()).replace("/", "_") + ".jsonl"
