"""The hashes that the layout rests on: identity (BLAKE2b-128), keyed choices (BLAKE2b-64), checksums (XXH3-64).

Choices (split, sample, layout, order) come from `keyed_hash`: a purpose and a seed make independent, repeatable draws
from the same document, whatever the order in which documents arrive.
"""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import xxhash

ID_BYTES = 16


def document_id(raw: bytes | memoryview) -> bytes:
    """BLAKE2b-128 of the raw bytes: a document's identity and exact-duplicate key, 16 bytes."""
    return blake2b(raw, digest_size=ID_BYTES).digest()


def keyed_hash(purpose: str, seed: int, *parts: bytes) -> int:
    """A uniform draw in [0, 2**64): a function of purpose, seed and parts (delimited by their lengths) alone."""
    state = blake2b(key=f"{purpose}\0{seed}".encode()[:64], digest_size=8)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return int.from_bytes(state.digest(), "little")


def value_sum(value: Any, anchors: Any = b"") -> int:
    """XXH3-64 of a value's bytes followed by those of its anchors (buffers: bytes, memoryview, NumPy)."""
    if not len(anchors):
        return xxhash.xxh3_64_intdigest(value)
    state = xxhash.xxh3_64(value)
    state.update(anchors)
    return state.intdigest()


def combine(digests: Iterable[str]) -> str:
    """BLAKE2b-128 (32 hex digits) over a sequence of hex digests, in order."""
    state = blake2b(digest_size=ID_BYTES)
    for digest in digests:
        state.update(digest.encode() + b"\n")
    return state.hexdigest()


def folder_digest(folder: Path) -> str:
    """32 hex digits: BLAKE2b-128 over the relative names and contents of a folder's files, sorted by name."""
    state = blake2b(digest_size=ID_BYTES)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name, content = path.relative_to(folder).as_posix().encode(), path.read_bytes()
        state.update(len(name).to_bytes(8, "little") + name + len(content).to_bytes(8, "little") + content)
    return state.hexdigest()
