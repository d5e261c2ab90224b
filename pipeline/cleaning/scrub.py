"""Secrets and personal data are replaced before any view is made: a pure function of a document's original bytes.

`id` is the hash of the bytes that are stored, `source_id` that of the original. What stands in a secret's place is
drawn from a hash of source_id and of where the secret lies, never of what it says: nothing of it is left to be guessed.
"""

from collections.abc import Mapping
from hashlib import shake_256
from typing import NamedTuple

from pipeline.cleaning.secret_kinds import KINDS

MARGIN = 16  # random bytes beyond the length of what is replaced


class Stored(NamedTuple):
    """A document as the set holds it, and how often each kind of secret was replaced in it."""

    raw: bytes
    replaced: Mapping[str, int]


def scrub(raw: bytes, source_id: bytes) -> Stored:
    """Replace every secret. Where two kinds overlap, the one that begins first goes, of those the first in KINDS."""
    found = [
        (start, rank, end)
        for rank, kind in enumerate(KINDS)
        if not kind.needs or any(need in raw for need in kind.needs)
        for start, end in kind.find(raw)
    ]
    parts: list[bytes] = []
    replaced: dict[str, int] = {}
    position = 0
    for start, rank, end in sorted(found):
        if start < position:
            continue
        kind = KINDS[rank]
        seed = source_id + start.to_bytes(8, "little") + end.to_bytes(8, "little")
        noise = shake_256(b"scrub\0" + seed).digest(end - start + MARGIN)
        parts += [raw[position:start], kind.fill(raw[start:end], noise)]
        replaced[kind.name] = replaced.get(kind.name, 0) + 1
        position = end
    return Stored(b"".join([*parts, raw[position:]]) if parts else raw, replaced)
