"""Held-out bits per byte on raw text: what a model is worth as a compressor of bytes it has not seen.

A document is read as in training: `bos <raw> bytes </raw> eos`, packed into rows. The windows of a document that is
longer than a row overlap by half a row, of which nothing is counted again: so but for its beginning each byte is
predicted from at least half a row of text before it. Counted are the nats of every byte and of `</raw>`, without which
a decoder would not know where a document ends (gzip, zstd and brotli pay for that too); `eos` follows always and is not
counted. Divided by ln 2 and by the bytes of text. Counts are int64, sums float64.
"""

import gzip
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shards.manifest import write_atomically
from shards.pointers import Pointers
from shards.reader import ShardSet, Split
from trainer.ahead import Source, columns_of
from trainer.batch import Batch, Buffers, Builder
from trainer.feed import rows_of
from trainer.model import Model
from trainer.place import CUT, DONE
from trainer.plan import Piece, Plan
from trainer.specials import END_OVERHEAD, EOS, SHORTEST

COMPRESSORS = ("gzip -9", "zstd -19", "brotli -11")
BASELINES_FILE = "baselines.json"


@dataclass(frozen=True)
class Score:
    """A model's figure on some documents."""

    nats: float
    bytes: int
    documents: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / max(self.bytes, 1)


def score(model: Model, split: Split, rows: int, context: int, limit: int = 0) -> Score:
    """Raw bits per byte over a split, or over its first `limit` bytes (0: all; documents lie in random order)."""
    device = model.norm.weight.device
    nats = torch.zeros((), dtype=torch.float64, device=device)
    model.eval()
    with torch.inference_mode():
        for batch in batches(split, rows, context, limit):
            nats += batch_nats(model, batch).sum(dtype=torch.float64)
    model.train()
    pieces = [piece for piece, _ in cut_documents(split, context, limit)]
    return Score(float(nats), sum(piece.text for piece in pieces), len({piece.ordinal for piece in pieces}))


def batch_nats(model: Model, batch: Batch) -> torch.Tensor:
    """Nats of each counted target of a batch of raw rows, in order: (C,) float32, logits in float32."""
    rows = rows_of(batch, model, 0, len(batch.ids_RT))
    x_NW = model(rows.ids_RT, rows.views_RT, rows.positions_RT, rows.attend).flatten(0, 1)
    wanted_N = rows.counted_N & (rows.targets_N != EOS)
    logits_CK = model.logits(x_NW[wanted_N].float(), 0)
    return nn.functional.cross_entropy(logits_CK, rows.targets_N[wanted_N], reduction="none")


def cut_documents(split: Split, context: int, limit: int = 0) -> Iterator[tuple[Piece, int]]:
    """The split's documents, in order of number, as raw pieces of consecutive rows, up to `limit` bytes (0: all).

    Beside each piece: how many of its first bytes are there as context only, having been counted in the row before.
    """
    row = at = taken = 0
    groups_D, rows_D = split.locate(np.arange(len(split)))
    for ordinal in range(len(split)):
        length = split.length("raw", ordinal)
        wanted = min(length, limit - taken) if limit else length
        begin, done = 0, False
        while not done:
            known = min(begin, context // 2)
            if context + 1 - at < SHORTEST + known:
                row, at = row + 1, 0
            room = context + 1 - at - 2  # behind bos and the sentinel
            first = begin - known
            whole = wanted == length and length - first + END_OVERHEAD <= room
            end = min(wanted, first + room)
            tail, group, group_row = DONE if whole else CUT, int(groups_D[ordinal]), int(rows_D[ordinal])
            piece = Piece(row, at, 0, ordinal, ordinal, group, group_row, 0, first, end, True, tail, end - begin)
            yield piece, known
            begin, at = end, at + piece.length
            done = whole or end == wanted < length
        taken += wanted
        if limit and taken == limit:
            return


def batches(split: Split, rows: int, context: int, limit: int = 0) -> Iterator[Batch]:
    """The pieces as batches of `rows` rows. Each is good until the next is asked for."""
    waiting: list[tuple[Piece, int]] = []
    first, sources, buffers = 0, [Source(split)], Buffers(rows, context, [])
    builder = Builder(sources, [Pointers(split, columns_of([]))], [], 0, rows, "off")

    def build() -> Batch:
        batch = builder.build(Plan(0, np.array([piece for piece, _ in waiting], np.int64), 0, 0), buffers)
        for piece, known in waiting:  # a byte is the target of the input before it; that of the first is the sentinel
            batch.counted_RT[piece.row, piece.at + 1 : piece.at + 1 + known] = False
        return batch

    for piece, known in cut_documents(split, context, limit):
        if split.checked and piece.begin == 0:  # once a document: a builder would do it again in each of its rows
            split.check_value("raw", piece.ordinal)
        if piece.row >= first + rows:
            yield build()
            waiting, first = [], first + rows
        waiting.append((piece._replace(row=piece.row - first), known))
    if waiting:
        yield build()


def baselines(shard_set: ShardSet, split: str = "val", limit: int = 0, cache: Path | None = None) -> dict[str, float]:
    """Bits per byte of gzip -9, zstd -19 and brotli -11 on the same documents, each compressed by itself.

    `cache`: a folder that keeps the figures, by the documents' digest and the libraries' versions.
    """
    import brotli
    import zstandard

    compressors: dict[str, Callable[[bytes], bytes]] = {
        "gzip -9": lambda raw: gzip.compress(raw, 9, mtime=0),
        "zstd -19": zstandard.ZstdCompressor(level=19).compress,
        "brotli -11": lambda raw: brotli.compress(raw, quality=11),
    }
    key = [shard_set.manifest.view_digest(split, "raw"), limit, zstandard.__version__, brotli.__version__]
    if cache and (known := _read_cache(cache / BASELINES_FILE)).get("of") == key:
        return known["bits_per_byte"]
    sizes, total, left = dict.fromkeys(compressors, 0), 0, limit
    documents = shard_set.split(split)
    for ordinal in range(len(documents)):
        raw = documents.raw(ordinal).tobytes()
        if limit:
            raw, left = raw[:left], left - len(raw[:left])
        total += len(raw)
        for name, compress in compressors.items():
            sizes[name] += len(compress(raw))
        if limit and not left:
            break
    found = {name: 8 * size / max(total, 1) for name, size in sizes.items()}
    if cache:
        write_atomically(cache / BASELINES_FILE, json.dumps({"of": key, "bits_per_byte": found}).encode())
    return found


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
        return body if isinstance(body, dict) else {}
    except (OSError, ValueError):
        return {}


def table(bits_per_byte: float, others: dict[str, float], read: str) -> str:
    """The model beside the compressors, as text."""
    lines = [f"Held-out raw bytes ({read}), bits per byte:", f"  {'this model':<12} {bits_per_byte:.3f}"]
    return "\n".join(lines + [f"  {name:<12} {value:.3f}" for name, value in others.items()])
