"""Small random edits of a document, each a function of the document, the rate and a seed alone.

A rate is the share of a document's bytes that an edit touches. Single bytes are deleted, inserted or substituted at
random places; identifiers are renamed wherever they occur; runs of lines are indented further, or less far.
"""

import random
import re
from collections.abc import Callable

from shards.hashing import document_id, keyed_hash

_WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_LETTERS = b"abcdefghijklmnopqrstuvwxyz"
_LONGEST_RUN = 12  # lines that one re-indentation takes

Edit = Callable[[bytes, int, random.Random], bytes]  # text, bytes to touch (1 or more), draws


def edited(raw: bytes, kind: str, rate: float, seed: int) -> bytes:
    """The document after edits of a kind of EDITS that touch about `rate` of its bytes, at least one of them."""
    draw = random.Random(keyed_hash(f"edit {kind} {rate:g}", seed, document_id(raw)))
    return EDITS[kind](raw, max(1, round(rate * len(raw))), draw) if raw else raw


def edited_once(raw: bytes, seed: int) -> tuple[bytes, int]:
    """The document with one byte deleted, inserted or substituted, and where. It must not be empty."""
    draw = random.Random(keyed_hash("edit once", seed, document_id(raw)))
    place = draw.randrange(len(raw))
    kind = draw.choice(("delete", "insert", "substitute"))
    return raw[:place] + _byte(kind, raw[place], raw, draw) + raw[place + 1 :], place


def _bytes(kind: str) -> Edit:
    def edit(raw: bytes, touched: int, draw: random.Random) -> bytes:
        places = set(draw.sample(range(len(raw)), min(touched, len(raw))))
        return b"".join(_byte(kind, b, raw, draw) if i in places else bytes((b,)) for i, b in enumerate(raw))

    return edit


def _byte(kind: str, old: int, raw: bytes, draw: random.Random) -> bytes:
    """What stands in a byte's place. New bytes are drawn from the document's own, so that text stays text."""
    if kind == "delete":
        return b""
    new = raw[draw.randrange(len(raw))]
    if kind == "insert":
        return bytes((new, old))
    others = _LETTERS if new == old else bytes((new,))
    return bytes((next(b for b in others if b != old),))


def rename(raw: bytes, touched: int, draw: random.Random) -> bytes:
    """Rename identifiers, drawn one after another, at each place where they occur, until enough bytes are touched."""
    counts: dict[bytes, int] = {}
    for match in _WORD.finditer(raw):
        counts[match[0]] = counts.get(match[0], 0) + 1
    names, new_names = sorted(counts), {}
    draw.shuffle(names)
    for name in names:
        if touched <= 0:
            break
        length = max(1, len(name) + draw.randint(-2, 2))
        new_names[name] = bytes(draw.choice(_LETTERS) for _ in range(length))
        touched -= counts[name] * len(name)
    return _WORD.sub(lambda match: new_names.get(match[0], match[0]), raw)


def reindent(raw: bytes, touched: int, draw: random.Random) -> bytes:
    """Indent runs of lines by four blanks more, or as much less as they have, until as many bytes came or went."""
    lines = raw.splitlines(keepends=True)
    while touched > 0:
        first = draw.randrange(len(lines))
        deeper = draw.random() < 0.5
        for i in range(first, min(len(lines), first + draw.randint(1, _LONGEST_RUN))):
            bare = lines[i].lstrip(b" ")
            less = min(4, len(lines[i]) - len(bare))
            lines[i] = b"    " + lines[i] if deeper or not less else lines[i][less:]
            touched -= 4 if deeper or not less else less
    return b"".join(lines)


EDITS: dict[str, Edit] = {
    "delete": _bytes("delete"),
    "insert": _bytes("insert"),
    "substitute": _bytes("substitute"),
    "rename": rename,
    "reindent": reindent,
}
