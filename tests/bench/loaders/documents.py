"""The documents that every peer is given: a shard set's train split as one flat file of symbols and its offsets.

WORK/documents/tokens.bin   uint16: the set's sentencepiece view, document after document, nothing between them
WORK/documents/bytes.bin    uint8: the raw bytes of the same documents, in the same order
WORK/documents/….offsets.npy, ….json   where each begins; how many there are, and the digest of what was exported

Empty documents are left out: not every peer can hold one.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from shards.reader import ShardSet

VIEW = "sentencepiece"
DTYPES = {"tokens": np.dtype("<u2"), "bytes": np.dtype("u1")}


class Documents:
    """The exported documents of a variant (`tokens` or `bytes`), by number, as views onto a map."""

    def __init__(self, folder: Path, variant: str) -> None:
        self.folder, self.variant = folder, variant
        self.path, self.dtype = folder / f"{variant}.bin", DTYPES[variant]
        self.offsets = np.load(folder / f"{variant}.offsets.npy")
        self.symbols = np.memmap(self.path, self.dtype, "r").view(np.ndarray)  # plain: memmap slices are slow to make

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.symbols[self.offsets[i] : self.offsets[i + 1]]


def describe(folder: Path, variant: str) -> dict | None:
    """What a finished export holds: documents, symbols, digest. None where there is none."""
    path = folder / f"{variant}.json"
    return json.loads(path.read_text()) if path.exists() else None


def export(shard_set: "ShardSet", folder: Path) -> None:
    """Export both variants, unless they are there already. Every value is read through our reader, sums checked."""
    folder.mkdir(parents=True, exist_ok=True)
    split, view = shard_set.split("train"), shard_set.view(VIEW)
    if view.width != DTYPES["tokens"].itemsize:
        raise SystemExit(f"view {VIEW} has symbols of {view.width} bytes; 2 expected (a vocabulary of up to 65,536)")
    for variant, column in (("tokens", VIEW), ("bytes", "raw")):
        digest = f"{shard_set.manifest.order_digest('train')}-{shard_set.manifest.view_digest('train', column)}"
        if (describe(folder, variant) or {}).get("digest") == digest:
            continue
        (folder / f"{variant}.json").unlink(missing_ok=True)
        ends = [0]
        with (folder / f"{variant}.bin").open("wb") as file:
            for i in range(len(split)):
                value = split.raw(i) if column == "raw" else split.symbols(i, column)
                if len(value):
                    file.write(value.astype(DTYPES[variant], copy=False).tobytes())
                    ends.append(ends[-1] + len(value))
        np.save(folder / f"{variant}.offsets.npy", np.array(ends, np.int64))
        body = {"digest": digest, "documents": len(ends) - 1, "symbols": ends[-1]}
        (folder / f"{variant}.json").write_text(json.dumps(body))  # last: its presence says that the export is whole
