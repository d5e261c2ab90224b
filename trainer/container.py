"""The file that `compress` writes, little-endian throughout.

   8  magic
   1  version of the format
   1  CPU threads of the computation, which its floats may depend on
   2  lanes
   8  length of the text in bytes
  16  digest of the model
  16  XXH3-128 of the text
   8  probe: digest of some tables as the compressing machine computed them
1+ n  origin: the model's run and step, the versions and the machine, as UTF-8, for messages
4* m  words of the range coder
   8  XXH3-64 of all before: a cut or changed file is refused before anything is decoded
"""

import struct
from dataclasses import dataclass

import numpy as np
import xxhash

from shards.errors import ByteproxyError

MAGIC = b"\x89BPX\r\n\x1a\n"  # not text, and broken by whatever translates line ends
VERSION = 1
_HEADER = struct.Struct("<8sBBHQ16s16s8sB")
_SEAL = 8


@dataclass(frozen=True)
class Header:
    """What a decoder must know besides the words."""

    threads: int
    lanes: int
    length: int
    model: bytes
    checksum: bytes
    probe: bytes
    origin: str


def pack(header: Header, words: np.ndarray) -> bytes:
    """The file's bytes."""
    origin = header.origin.encode()[:255]
    fixed = _HEADER.pack(MAGIC, VERSION, header.threads, header.lanes, header.length, header.model, header.checksum,
                         header.probe, len(origin))  # fmt: skip
    body = fixed + origin + words.astype("<u4").tobytes()
    return body + xxhash.xxh3_64_digest(body)


def unpack(data: bytes, name: str) -> tuple[Header, np.ndarray]:
    """Header and words, (m,) uint32. Raises ByteproxyError that says what is wrong with file `name`."""
    if data[: len(MAGIC)] != MAGIC:
        raise ByteproxyError(f"{name}: {data[:8]!r} found, {MAGIC!r} expected: not a file that `compress` wrote")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise ByteproxyError(f"{name}: format {data[len(MAGIC)]} found, {VERSION} expected: of another byteproxy")
    body, seal = data[:-_SEAL], data[-_SEAL:]
    if len(data) < _HEADER.size + _SEAL or xxhash.xxh3_64_digest(body) != seal:
        raise ByteproxyError(f"{name}: checksum of the file does not match: it was cut short or changed")
    _, _, threads, lanes, length, model, checksum, probe, size = _HEADER.unpack_from(body)
    begin = _HEADER.size + size
    origin, words = body[_HEADER.size : begin].decode("utf-8", "replace"), body[begin:]
    if len(words) % 4 or not lanes or not threads:
        raise ByteproxyError(f"{name}: {len(words)} bytes of words, {lanes} lanes, {threads} threads: no valid file")
    return Header(threads, lanes, length, model, checksum, probe, origin), np.frombuffer(words, "<u4").astype(np.uint32)


def check_text(header: Header, text: bytes, name: str) -> None:
    """Compare a decoded text with the checksum of the one that was compressed."""
    if xxhash.xxh3_128_digest(text) != header.checksum:
        raise ByteproxyError(
            f"{name}: the decoded text has another checksum than the one that was compressed, and is not written. "
            f"Decompress on a machine like the one that wrote it ({header.origin})"
        )
