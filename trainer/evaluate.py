"""Held-out bits per byte on raw text: what a model is worth as a compressor of bytes it has not seen.

A document is read as in training: `bos <raw> bytes </raw> eos`, packed into rows. The windows of a document that is
longer than a row overlap by half a row, of which nothing is counted again: so but for its beginning each byte is
predicted from at least half a row of text before it. Counted are the nats of every byte and of `</raw>`, without which
a decoder would not know where a document ends (gzip, zstd, brotli and xz pay for that too); `eos` follows always and is
not counted. Divided by ln 2 and by the bytes of text. Counts are int64, sums float64. A compressed view's symbols are
read and counted alike, and also divided by the bytes of text.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shards.errors import ByteproxyError
from shards.hashing import ID_BYTES
from shards.manifest import View
from shards.pointers import Pointers
from shards.reader import ShardSet, Split
from trainer.ahead import Source, columns_of
from trainer.batch import Batch, Buffers, Builder
from trainer.feed import rows_of
from trainer.mixture import read_ids
from trainer.model import Model
from trainer.place import CUT, DONE
from trainer.plan import Piece, Plan
from trainer.specials import END_OVERHEAD, EOS, SHORTEST, SPECIALS


@dataclass(frozen=True)
class Score:
    """A model's figure on some documents, and what it is made of: their numbers, bytes and nats, (D,) each."""

    ordinals_D: np.ndarray
    bytes_D: np.ndarray  # int64
    nats_D: np.ndarray  # float64

    @property
    def nats(self) -> float:
        return float(self.nats_D.sum())

    @property
    def bytes(self) -> int:
        return int(self.bytes_D.sum())

    @property
    def documents(self) -> int:
        return len(self.ordinals_D)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / max(self.bytes, 1)


def score(
    model: Model, split: Split, rows: int, context: int, limit: int = 0, chosen: Sequence[int] | None = None,
    overlap: int = -1, views: Sequence[View] = (), stream: int = 0,
) -> Score:  # fmt: skip
    """Raw bits per byte over a split's documents (`chosen`, or all), or over their first `limit` bytes (0: all).

    `overlap`: bytes of context that a document's next row repeats; by default half a row. `stream`: v >= 1 reads the
    v-th of the model's compressed `views` instead, `limit` and `overlap` in its symbols; bits are still per raw byte.
    """
    nats, ordinals, texts = [], [], []
    model.eval()
    with torch.inference_mode():
        for batch, pieces in batches(split, rows, context, limit, chosen, overlap, views, stream):
            nats.append(batch_nats(model, batch, stream).double().cpu().numpy())
            for piece, known in pieces:
                ordinals.append(np.full(piece.end - piece.begin - known + (piece.tail == DONE), piece.ordinal))
                texts.append((piece.ordinal, piece.text))
    model.train()
    text_P2 = np.array(texts, np.int64).reshape(-1, 2)
    ordinals_D, place_P = np.unique(text_P2[:, 0], return_inverse=True)
    bytes_D, nats_D = np.zeros(len(ordinals_D), np.int64), np.zeros(len(ordinals_D))
    np.add.at(bytes_D, place_P, text_P2[:, 1])
    if nats:
        np.add.at(nats_D, np.searchsorted(ordinals_D, np.concatenate(ordinals)), np.concatenate(nats))
    return Score(ordinals_D, bytes_D, nats_D)


def batch_nats(model: Model, batch: Batch, stream: int = 0) -> torch.Tensor:
    """Nats of each counted target of a batch of rows of one stream, in order: (C,) float32, logits in float32."""
    rows = rows_of(batch, model, 0, len(batch.ids_RT))
    x_NW = model(rows.ids_RT, rows.views_RT, rows.positions_RT, rows.attend).flatten(0, 1)
    wanted_N = rows.counted_N & (rows.targets_N != EOS)
    logits_CK = model.logits(x_NW[wanted_N].float(), stream)
    return nn.functional.cross_entropy(logits_CK, rows.targets_N[wanted_N], reduction="none")


def views_of_run(shard_set: ShardSet, state: Mapping[str, Any], name: str) -> tuple[list[View], int]:
    """A run's compressed views in its set, and the number of the one of this name among the model's streams."""
    names = state["views"]
    if name not in names[1:]:
        raise ByteproxyError(
            f"--view {name!r} found, one of {', '.join(names[1:]) or 'none'} expected, which the run was trained on"
        )
    views = [shard_set.view(each) for each in names[1:]]
    if (found := [SPECIALS + view.alphabet for view in views]) != state["tables"][1:]:
        raise ByteproxyError(
            f"{shard_set.location}: views with tables of {found} rows found, {state['tables'][1:]} expected: the run "
            "was trained on a set whose views were made by other codecs"
        )
    return views, names.index(name)


def cut_documents(
    split: Split, context: int, limit: int = 0, chosen: Sequence[int] | None = None, overlap: int = -1,
    column: str = "raw", stream: int = 0,
) -> Iterator[tuple[Piece, int]]:  # fmt: skip
    """The split's documents (`chosen`, or all), in order of number, as pieces of consecutive rows.

    At most `limit` bytes (0: all); `overlap` as in `score`; `column`: `raw`, or the name of the view that is `stream`.

    Beside each piece: how many of its first bytes are there as context only, having been counted in the row before.
    """
    row = at = taken = 0
    overlap = context // 2 if overlap < 0 else overlap
    if overlap > (most := context + 1 - SHORTEST):
        raise ByteproxyError(f"--overlap {overlap}: at most {most} expected, in rows of {context}")
    groups_D, rows_D = split.locate(np.arange(len(split)))
    for ordinal in range(len(split)) if chosen is None else chosen:
        length, text = split.length(column, ordinal), split.length("raw", ordinal)
        most = max(length, 1)
        wanted = min(length, limit - taken) if limit else length
        begin, done = 0, False
        while not done:
            known = min(begin, overlap)
            if context + 1 - at < SHORTEST + known:
                row, at = row + 1, 0
            room = context + 1 - at - 2  # behind bos and the sentinel
            first = begin - known
            whole = wanted == length and length - first + END_OVERHEAD <= room
            end = min(wanted, first + room)
            tail, group, group_row = DONE if whole else CUT, int(groups_D[ordinal]), int(rows_D[ordinal])
            text_of = text * end // most - text * begin // most  # of raw: end - begin
            piece = Piece(row, at, 0, ordinal, ordinal, group, group_row, stream, first, end, True, tail, text_of)
            yield piece, known
            begin, at = end, at + piece.length
            done = whole or end == wanted < length
        taken += wanted
        if limit and taken == limit:
            return


def batches(
    split: Split,
    rows: int,
    context: int,
    limit: int = 0,
    chosen: Sequence[int] | None = None,
    overlap: int = -1,
    views: Sequence[View] = (),
    stream: int = 0,
) -> Iterator[tuple[Batch, list[tuple[Piece, int]]]]:
    """The pieces as batches of `rows` rows, and which these are. Each is good until the next is asked for."""
    column = ["raw", *(view.name for view in views)][stream]

    def checked() -> Iterator[tuple[Piece, int]]:
        for piece, known in cut_documents(split, context, limit, chosen, overlap, column, stream):
            if split.checked and piece.begin == 0:  # once a document: a builder would do it again in each of its rows
                split.check_value(column, piece.ordinal)
            yield piece, known

    return in_batches(split, checked(), rows, context, views)


def in_batches(
    split: Split, pieces: Iterable[tuple[Piece, int]], rows: int, context: int, views: Sequence[View]
) -> Iterator[tuple[Batch, list[tuple[Piece, int]]]]:
    """Pieces of a split in order of their rows, each with how many of its first symbols are not counted, as batches."""
    waiting: list[tuple[Piece, int]] = []
    pointers = Pointers(split, columns_of([view.name for view in views]))
    first, buffers = 0, Buffers(rows, context, views)
    builder = Builder([Source(split)], [pointers], views, 0, rows, "off")

    def build() -> Batch:
        batch = builder.build(Plan(0, np.array([piece for piece, _ in waiting], np.int64), 0, 0), buffers)
        for piece, known in waiting:  # a byte is the target of the input before it; that of the first is the sentinel
            batch.counted_RT[piece.row, piece.at + 1 : piece.at + 1 + known] = False
        return batch

    for piece, known in pieces:
        if piece.row >= first + rows:
            yield build(), waiting
            waiting, first = [], first + rows
        waiting.append((piece._replace(row=piece.row - first), known))
    if waiting:
        yield build(), waiting


def choose_documents(split: Split, wanted: str) -> list[int] | None:
    """The numbers of the documents that `wanted` names: ids with commas, a file of ids, a share by hash, or all ("").

    A share takes the same documents each time, and a larger share holds a smaller one.
    """
    if not wanted:
        return None
    try:
        share = float(wanted)
    except ValueError:
        share = -1.0
    if 0 < share <= 1:
        hashes = (blake2b(split.id(i), digest_size=8, person=b"evaluate").digest() for i in range(len(split)))
        found = [i for i, digest in enumerate(hashes) if int.from_bytes(digest, "big") < share * 2**64]
        if not found:
            raise ByteproxyError(f"--documents {wanted}: none of {len(split)} documents falls into it; take a larger")
        return found
    if share != -1.0:
        raise ByteproxyError(f"--documents {wanted}: a share over 0 and up to 1, ids, or a file of ids expected")
    texts = [part.strip() for part in wanted.split(",")]
    if all(re.fullmatch(rf"[0-9a-fA-F]{{{2 * ID_BYTES}}}", text) for text in texts):
        identities = [bytes.fromhex(text) for text in texts]
    else:
        identities = read_ids(Path(wanted), "--documents")
    numbers = {identity: split.find(identity) for identity in identities}
    if missing := [identity.hex() for identity, number in numbers.items() if number is None]:
        raise ByteproxyError(
            f"--documents: split {split.name} has no document {', '.join(missing[:3])}"
            f"{' and more' if len(missing) > 3 else ''}; `python -m shards inspect` shows what it has"
        )
    return sorted(number for number in numbers.values() if number is not None)


def by_language(split: Split, found: Score, sizes: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Documents, bytes, the model's bits per byte and the compressors', of each language; most bytes first.

    `sizes`: compressed bytes of the same documents by compressor, (D,) int64 each.
    """
    languages_D = np.array([split.meta(int(ordinal))["language"] or "unknown" for ordinal in found.ordinals_D])
    rows: dict[str, dict[str, Any]] = {}
    for language in np.unique(languages_D).tolist():
        mine_D = languages_D == language
        count = int(found.bytes_D[mine_D].sum())
        bpb = float(found.nats_D[mine_D].sum()) / math.log(2) / max(count, 1)
        others = {name: 8 * int(size_D[mine_D].sum()) / max(count, 1) for name, size_D in sizes.items()}
        rows[language] = {"documents": int(mine_D.sum()), "bytes": count, "raw_bpb": bpb, "baselines": others}
    return dict(sorted(rows.items(), key=lambda item: -item[1]["bytes"]))


def table(bits_per_byte: float, others: Mapping[str, float], read: str) -> str:
    """The model beside the compressors, as text."""
    lines = [f"Held-out raw bytes ({read}), bits per byte:", f"  {'this model':<12} {bits_per_byte:.3f}"]
    return "\n".join(lines + [f"  {name:<12} {value:.3f}" for name, value in others.items()])


def language_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a language, as text."""
    names = list(next(iter(rows.values()))["baselines"]) if rows else []
    heads = "".join(f"{name:>12}" for name in ("documents", "MB", "this model", *names))
    lines = [f"{'  language':<20}{heads}"]
    for language, row in rows.items():
        figures = "".join(f"{value:12.3f}" for value in (row["raw_bpb"], *row["baselines"].values()))
        lines.append(f"  {language[:17]:<18}{row['documents']:12,}{row['bytes'] / 1e6:12.3f}{figures}")
    return "\n".join(lines)
