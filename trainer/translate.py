"""In-context translation as an oracle: can a model write a held-out segment's bytes when it sees the compressed view?

A segment is laid out as training lays out a pair with the compressed half first, and its raw half once more alone:

    bos <v> symbols </v> <raw> bytes …            bos <raw> bytes …

The raw half is to be written greedily, each time the likeliest of the 256 bytes. Up to its first wrong byte a decoder
has read just the segment's own bytes, so one forward pass over the pair tells how far it would get: nothing has to be
decoded byte by byte. Both layouts are scored in bits per byte too; what they differ by is what the context tells.

Segments: a document is cut from its beginning into spans from anchor to anchor, each the shortest of at least LEAST
bytes of text; a shorter rest is none, nor is what does not fit a row as a pair. Documents come in the order of a hash
of the seed and their ids: each gives one of its spans, drawn by the same hash, then each a second, until there are
enough. So fewer segments of the same seed are the first of more.

Legend: S segments, A anchors, N positions, C bytes of segments, K rows of the raw table.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from shards.errors import ByteproxyError
from shards.hashing import keyed_hash
from shards.manifest import View
from shards.reader import Split
from trainer.evaluate import in_batches
from trainer.feed import rows_of
from trainer.model import Model
from trainer.place import CUT, DONE, JOIN, JOIN_CUT
from trainer.plan import Piece
from trainer.specials import END_OVERHEAD, PAIR_OVERHEAD, SPECIALS

LEAST = 32  # bytes of text of a segment


@dataclass(frozen=True)
class Segment:
    """Bytes [begin, end) of a document, which are its symbols [first, last). `ends`: the document ends with them."""

    ordinal: int
    begin: int
    end: int
    first: int
    last: int
    ends: bool

    @property
    def bytes(self) -> int:
        return self.end - self.begin

    @property
    def tokens(self) -> int:
        """As a pair: bos, sentinels, both halves, closers, eos."""
        return PAIR_OVERHEAD + self.last - self.first + self.bytes + (END_OVERHEAD if self.ends else 0)


@dataclass(frozen=True)
class Translation:
    """Of each segment, in bytes and nats: how long it is, how far a greedy decoder gets, and what its bytes cost."""

    bytes_S: np.ndarray  # int64
    right_S: np.ndarray  # int64: bytes before the first wrong one
    given_S: np.ndarray  # float64: nats given the compressed half
    alone_S: np.ndarray  # float64: of the raw half alone

    def figures(self) -> dict[str, float]:
        """Exact-match rate, share of the bytes before a first error, bits per byte of both layouts."""
        total = int(self.bytes_S.sum())
        return {
            "segments": len(self.bytes_S),
            "bytes": total,
            "exact_match": float((self.right_S == self.bytes_S).mean()),
            "bytes_right": int(self.right_S.sum()) / total,
            "bpb_given": float(self.given_S.sum()) / math.log(2) / total,
            "bpb_alone": float(self.alone_S.sum()) / math.log(2) / total,
        }


def translate(model: Model, split: Split, views: Sequence[View], stream: int, count: int, seed: int) -> Translation:
    """Score up to `count` segments of a split, shown in the `stream`-th (from 1) of the model's compressed views."""
    segments = draw_segments(split, views[stream - 1].name, model.config.context, count, seed)
    right_S, given_S = read_raw_halves(model, split, segments, views, stream)
    _, alone_S = read_raw_halves(model, split, segments, views, 0)
    return Translation(np.array([segment.bytes for segment in segments]), right_S, given_S, alone_S)


def draw_segments(split: Split, view: str, context: int, count: int, seed: int) -> list[Segment]:
    """The first `count` segments of a split, or as many as there are. Raises ByteproxyError where there is none."""
    if not split.has_inner_anchors(view):
        raise ByteproxyError(
            f"view {view} has anchors at the ends of its documents alone: it has no segments to translate. One with "
            "anchors within expected, such as sentencepiece, neural or ngram"
        )
    draws = [keyed_hash("translate", seed, split.id(ordinal)) for ordinal in range(len(split))]
    waiting = deque(
        _drawn_spans(split, view, ordinal, context, draws[ordinal])
        for ordinal in sorted(range(len(split)), key=draws.__getitem__)
    )
    found: list[Segment] = []
    while waiting and len(found) < count:
        spans = waiting.popleft()
        if segment := next(spans, None):
            found.append(segment)
            waiting.append(spans)
    if not found:
        raise ByteproxyError(
            f"split {split.name}: no segment of view {view} with {LEAST} bytes or more found that fits a row of "
            f"{context} together with its symbols; at least one expected"
        )
    return found


def _drawn_spans(split: Split, view: str, ordinal: int, context: int, draw: int) -> Iterator[Segment]:
    """A document's spans in an order drawn from its hash; the document is read when the first is asked for."""
    anchors_A2 = split.anchors(ordinal, view).astype(np.int64)
    ends_A, last, at, spans = anchors_A2[:, 0], len(anchors_A2) - 1, 0, []
    while (until := int(np.searchsorted(ends_A, ends_A[at] + LEAST))) <= last:
        (begin, first), (end, behind) = anchors_A2[at].tolist(), anchors_A2[until].tolist()
        span = Segment(ordinal, begin, end, first, behind, until == last)
        if span.tokens <= context + 1:
            spans.append(span)
        at = until
    if spans and split.checked:
        split.check_value("raw", ordinal)
    for number in np.random.default_rng(draw).permutation(len(spans)):
        yield spans[number]


def lay_out(split: Split, segments: Sequence[Segment], context: int, stream: int) -> Iterator[Piece]:
    """The segments in rows, as many as fit each: as pairs with the compressed view `stream` first, or, 0, raw alone."""
    groups_S, rows_S = split.locate(np.array([segment.ordinal for segment in segments]))
    row = at = 0
    for number, (segment, group, place) in enumerate(zip(segments, groups_S.tolist(), rows_S.tolist(), strict=True)):
        if at + segment.tokens > context + 1:
            row, at = row + 1, 0
        joined, tail = (JOIN, DONE) if segment.ends else (JOIN_CUT, CUT)
        if stream:
            half = Piece(row, at, 0, number, segment.ordinal, group, place, stream, segment.first, segment.last, True,
                         joined, segment.bytes)  # fmt: skip
            yield half
            at += half.length
        half = Piece(row, at, 0, number, segment.ordinal, group, place, 0, segment.begin, segment.end, not stream, tail,
                     segment.bytes)  # fmt: skip
        yield half
        at += half.length


def read_raw_halves(
    model: Model, split: Split, segments: Sequence[Segment], views: Sequence[View], stream: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each segment's raw half: bytes before the first that is not the likeliest, (S,); nats of all, (S,)."""
    context, right, nats = model.config.context, [], []
    pieces = ((piece, 0) for piece in lay_out(split, segments, context, stream))
    model.eval()
    with torch.inference_mode():
        for batch, _ in in_batches(split, pieces, model.config.pass_rows, context, views):
            rows = rows_of(batch, model, 0, len(batch.ids_RT))
            x_NW = model(rows.ids_RT, rows.views_RT, rows.positions_RT, rows.attend).flatten(0, 1)
            byte_N = rows.counted_N & (rows.views_N == 0) & (rows.targets_N >= SPECIALS)
            logits_CK, targets_C = model.logits(x_NW[byte_N].float(), 0), rows.targets_N[byte_N]
            likeliest_C = logits_CK[:, SPECIALS:].argmax(1) + SPECIALS
            right.append((likeliest_C == targets_C).cpu().numpy())
            nats.append(nn.functional.cross_entropy(logits_CK, targets_C, reduction="none").double().cpu().numpy())
    model.train()
    ends_S = np.cumsum([segment.bytes for segment in segments])
    each = np.split(np.concatenate(right), ends_S[:-1])
    right_S = np.array([int(np.append(right_C, False).argmin()) for right_C in each])
    return right_S, np.add.reduceat(np.concatenate(nats), ends_S - [segment.bytes for segment in segments])
