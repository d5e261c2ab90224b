"""Decompresses .gz, .bz2, .xz and .zst files as streams: in parts of bounded size, whatever a file holds.

What is wrong with a file is told by `Damaged`, after all that could be read: a file that ends early, one that makes no
sense, and one that grows beyond all measure (a bomb).
"""

import bz2
import contextlib
import lzma
import zlib
from collections.abc import Iterator
from typing import IO, Any

from shards.errors import ByteproxyError

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
READ_BYTES = 1 << 18
PART_BYTES = 4 << 20
ZSTD_READ_BYTES = 1 << 12  # zstd has no limit of output: a block of 4 bytes gives 128 KiB, so these at most 128 MiB
XZ_MEMORY = 256 << 20  # of the decoder; `xz -9` needs 65 MiB
EXPANSION = 200  # the default of --max-expansion
GRACE = 16 << 20  # so many bytes may come out of any file, however small it is


class Damaged(Exception):
    """A file that cannot be read to its end: the reason, as `rejected/` names it, and what was found."""

    def __init__(self, reason: str, value: str) -> None:
        super().__init__(value)
        self.reason, self.value = reason, value


class Budget:
    """How many bytes may come out of a file. `spend` raises Damaged when there are more."""

    def __init__(self, size: int, expansion: int) -> None:
        self.size, self.expansion, self.spent = size, expansion, 0

    def spend(self, count: int) -> None:
        """Count bytes that came out."""
        self.spent += count
        if self.spent > max(GRACE, self.size * self.expansion):
            text = f"more than {self.expansion} times the file's {self.size} bytes come out; see --max-expansion"
            raise Damaged("expansion", text)


def unpacked(file: IO[bytes], suffix: str, budget: Budget) -> Iterator[bytes]:
    """The content of one or more compressed streams, one behind another, in parts. Raises Damaged at the place."""
    decoder: Any = None
    data = b""
    took = 0  # bytes of the file that were read
    step = ZSTD_READ_BYTES if suffix == ".zst" else READ_BYTES
    while True:
        if not data and (decoder is None or (suffix != ".bz2" and suffix != ".xz") or decoder.needs_input):
            data = _read(file, step)
            took += len(data)
            if not data:
                break
        if decoder is None:
            if suffix != ".zst" and not data.strip(b"\0"):  # streams may be followed by padding
                data = b""
                continue
            decoder = _decoder(suffix)
        before = len(data)
        try:
            part = decoder.decompress(data) if suffix == ".zst" else decoder.decompress(data, PART_BYTES)
        except Exception as error:  # zlib.error, LZMAError, ZstdError; bz2 raises OSError
            if isinstance(error, MemoryError):
                raise
            raise Damaged("damaged", f"damaged at byte {took - before} to {took} ({error})") from None
        for begin in range(0, len(part), PART_BYTES):
            budget.spend(min(PART_BYTES, len(part) - begin))
            yield part[begin : begin + PART_BYTES]
        if decoder.eof:
            data, decoder = decoder.unused_data, None
        else:
            data = decoder.unconsumed_tail if suffix == ".gz" else b""
    if not took:
        raise Damaged("truncated", "an empty file")
    if decoder is not None:
        with contextlib.suppress(zlib.error):
            if suffix == ".gz" and (rest := decoder.flush()):
                budget.spend(len(rest))
                yield rest
        if suffix == ".gz" and decoder.eof:
            return
        raise Damaged("truncated", f"cut short after {took} compressed bytes")


class Reader:
    """Parts of a stream as a file that is read from its beginning to its end. `at` is the place in the stream."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._rest, self.at = parts, memoryview(b""), 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end of the stream."""
        taken: list[memoryview] = []
        missing = size
        while missing:
            if not self._rest:
                part = next(self._parts, None)
                if part is None:
                    break
                self._rest = memoryview(part)
                continue
            taken.append(self._rest[:missing])
            self._rest = self._rest[missing:]
            missing -= len(taken[-1])
        self.at += size - missing
        return b"".join(taken)


def plain(file: IO[bytes]) -> Iterator[bytes]:
    """A file that is not compressed, in parts."""
    while part := _read(file, READ_BYTES):
        yield part


def _read(file: IO[bytes], size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise Damaged("unreadable", f"{error.strerror or error} at byte {file.tell()}") from None


def _decoder(suffix: str) -> Any:
    if suffix == ".gz":
        return zlib.decompressobj(wbits=31)
    if suffix == ".bz2":
        return bz2.BZ2Decompressor()
    if suffix == ".xz":
        return lzma.LZMADecompressor(memlimit=XZ_MEMORY)
    try:
        import zstandard
    except ImportError:
        raise ByteproxyError("reading .zst needs the package zstandard: pip install zstandard") from None
    return zstandard.ZstdDecompressor().decompressobj()
