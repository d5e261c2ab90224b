"""A part of what there is to read, for a dry run: chosen by keyed hashes of names and places, so always the same.

Of a folder a share of the files, of a JSONL file a share of its lines by ranges, of a zip or a Parquet file a share of
its parts. What can only be read from its beginning (tar, compressed JSONL) gives its first bytes, cut off in a copy.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.reading.formats import kind_of, last_name
from pipeline.reading.inputs import ITEM_BYTES, Archive, Files, Inventory, Lines
from pipeline.running.storage import AHEAD, join, open_file, size_of
from shards.hashing import keyed_hash

RANGES = 400  # of lines that a share of a file is made of, where the file is large enough
MIN_RANGE = 64 << 10
MIN_START = 256 << 10  # bytes of a file that can only be read from its beginning
_COPY = 1 << 20


@dataclass
class Portion:
    """What is read of an inventory, whose `found` and `bytes` are those of the portion."""

    inventory: Inventory
    scale: (
        float  # how much more there is than what was taken: files by their number, for sizes differ wildly; else bytes
    )
    cut: int = 0  # inputs of which the first part was taken; each ends in a rejection of its own


def take_portion(inventory: Inventory, share: float, seed: int, folder: Path) -> Portion:
    """About `share` of the bytes of an inventory. `folder` takes the copies of first parts."""
    taken, cut = Inventory(), 0
    for files in inventory.files:
        chosen = [n for n in files.names if _drawn(seed, share, files.input, os.fsdecode(n))]
        if chosen:
            size = files.size if len(chosen) == len(files.names) else _sizes(files.root, chosen)
            taken.files.append(Files(files.input, files.root, chosen, size))
            taken.found += len(chosen)
            taken.bytes += size
    taken.lines = list(_ranges(inventory.lines, share, seed))
    taken.line_bytes = sum(item.end - item.start for item in taken.lines)
    for packed in inventory.packed:
        file, size, is_cut = _first_part(packed.file, share, folder, packed.input)
        taken.packed.append(packed._replace(file=file))
        taken.line_bytes, cut = taken.line_bytes + size, cut + is_cut
    for item in inventory.unsought:
        if isinstance(item, Archive) and kind_of(last_name(item.file)) == "tar":
            file, size, is_cut = _first_part(item.file, share, folder, item.input)
            taken.unsought.append(item._replace(file=file, size=size))
            taken.line_bytes, cut = taken.line_bytes + size, cut + is_cut
        elif _drawn(seed, share, item.input, repr(item)):
            taken.unsought.append(item)
            taken.line_bytes += item.size
    listed = inventory.found - len(inventory.rejected)
    lines = taken.line_bytes
    weighted = taken.bytes * listed / max(1, taken.found) + lines * inventory.line_bytes / max(1, lines)
    taken.bytes += lines
    return Portion(taken, weighted / max(1, taken.bytes), cut)


def whole(inventory: Inventory) -> Portion:
    """All of it, but for what was rejected when it was listed."""
    listed = len(inventory.rejected)
    return Portion(dataclasses.replace(inventory, rejected=[], found=inventory.found - listed), 1.0)


def _drawn(seed: int, share: float, *names: str) -> bool:
    return keyed_hash("dry run", seed, *(os.fsencode(name) for name in names)) < share * 2**64


def _ranges(lines: Sequence[Lines], share: float, seed: int) -> Iterator[Lines]:
    """A share of the ranges of JSONL files, cut finer than for a build."""
    ends = {item.file: item for item in lines}  # the last range of each file
    for file, last in ends.items():
        size = max(MIN_RANGE, min(ITEM_BYTES, int(last.end * share / RANGES)))
        for number in range(-(-last.end // size)):
            if _drawn(seed, share, last.input, str(number)):
                yield Lines(last.input, file, number * size, min(last.end, (number + 1) * size))


def _first_part(file: bytes, share: float, folder: Path, name: str) -> tuple[bytes, int, bool]:
    """(File to read, its bytes, is it a copy of a first part?)."""
    with open_file(file) as source:
        size = size_of(source) or 0
        wanted = max(MIN_START, int(size * share))
        if wanted >= size:
            return file, size, False
        target = folder / f"{keyed_hash('part', 0, name.encode()):016x}-{last_name(file)}"
        with target.open("wb") as out:
            left = wanted
            while left and (part := source.read(min(left, _COPY))):
                out.write(part)
                left -= len(part)
    return bytes(target), wanted, True


def _sizes(root: bytes, names: Sequence[bytes]) -> int:
    """Bytes of these files; what cannot be opened has none."""
    with ThreadPoolExecutor(AHEAD) as pool:
        return sum(pool.map(lambda name: _size(join(root, name)), names))


def _size(file: bytes) -> int:
    try:
        with open_file(file) as opened:
            return size_of(opened) or 0
    except OSError:
        return 0
