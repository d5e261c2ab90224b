"""What the usual compressors make of the same documents, each compressed by itself at its highest level."""

import gzip
import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.manifest import write_atomically
from shards.reader import ShardSet, Split

FILE = "baselines.json"
_XZ_LARGEST = 64 << 20  # of the dictionary of xz -9


def compressors() -> dict[str, Callable[[bytes], bytes]]:
    """By name as on the command line."""
    import brotli
    import zstandard

    return {
        "gzip -9": lambda raw: gzip.compress(raw, 9, mtime=0),
        "zstd -19": zstandard.ZstdCompressor(level=19).compress,
        "brotli -11": lambda raw: brotli.compress(raw, quality=11),
        "xz -9e": _xz,
    }


def _xz(raw: bytes) -> bytes:
    """With a dictionary no larger than the text: the same size as with 64 MiB, without touching 700 MB each time."""
    room = max(1 << 16, min(_XZ_LARGEST, 1 << len(raw).bit_length()))
    settings = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": room}]
    return lzma.compress(raw, filters=settings)


def sizes(split: Split, limit: int = 0, chosen: Sequence[int] | None = None) -> tuple[dict[str, np.ndarray], int]:
    """Compressed bytes of each document by compressor, (D,) int64 each, and the bytes of text, as `evaluate.score`."""
    methods, total, left = compressors(), 0, limit
    found: dict[str, list[int]] = {name: [] for name in methods}
    for ordinal in range(len(split)) if chosen is None else chosen:
        raw = split.raw(ordinal).tobytes()
        if limit:
            raw, left = raw[:left], left - len(raw[:left])
        total += len(raw)
        for name, compress in methods.items():
            found[name].append(len(compress(raw)))
        if limit and not left:
            break
    return {name: np.array(values, np.int64) for name, values in found.items()}, total


def rates(sizes_D: Mapping[str, np.ndarray], total: int) -> dict[str, float]:
    """Bits per byte of text."""
    return {name: 8 * int(size_D.sum()) / max(total, 1) for name, size_D in sizes_D.items()}


def bits_per_byte(
    shard_set: ShardSet, split: str = "val", limit: int = 0, cache: Path | None = None
) -> dict[str, float]:
    """Of a whole split, or its first `limit` bytes.

    `cache`: a folder that keeps the figures, by the documents' digest and the libraries' versions.
    """
    import brotli
    import zstandard

    key = [shard_set.manifest.view_digest(split, "raw"), limit, list(compressors())]
    key += [zstandard.__version__, brotli.__version__]
    if cache and (known := _read_cache(cache / FILE)).get("of") == key:
        return known["bits_per_byte"]
    found = rates(*sizes(shard_set.split(split), limit))
    if cache:
        write_atomically(cache / FILE, json.dumps({"of": key, "bits_per_byte": found}).encode())
    return found


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
        return body if isinstance(body, dict) else {}
    except (OSError, ValueError):
        return {}
