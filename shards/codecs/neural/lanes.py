"""Decoding: many contexts go forward together, one byte a step each, through a cache of keys and values.

Where the anchors are known, each block of a document is a lane of its own, for a block begins a context anew and its
first symbol is an anchor; else a document is one lane. A lane that ends makes room for the next.

Legend: as in kernels.py; L lanes at work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shards.codecs.neural import kernels
from shards.codecs.neural.lm import LM, PREFIX, Cache
from shards.codecs.windows.coder import CORRUPT, END, new_states, next_byte
from shards.codecs.windows.segments import LONGEST, Thresholds, begins
from shards.errors import ByteproxyError

SLOTS = 64  # lanes at work
CACHE_BYTES = 256 << 20  # of all their keys and values, or of one lane where that takes more


@dataclass
class Lane:
    """Symbols that begin a context, and what they must give: exactly `size` bytes, if that is known."""

    symbols: np.ndarray
    size: int | None
    parts: list[bytes] = field(default_factory=list)


def decode_lanes(lm: LM, lanes: Sequence[Lane], codes: int, thresholds: Thresholds | None) -> None:
    """Fill each lane's `parts`. `thresholds`: where the context is the segment. Raises ByteproxyError if corrupt."""
    s = lm.shape
    each = 2 * s.layers * s.heads * (s.head_dim + 2) * s.block
    slots = max(1, min(SLOTS, len(lanes), CACHE_BYTES // each))
    blocks = Cache(s, slots, s.block)
    segments = Cache(s, slots, LONGEST) if thresholds else None
    waiting, work = iter(lanes), _Work(slots, s.block)
    current: list[Lane | None] = [None] * slots
    below_LB, entropy_L = np.tile(lm.prefix.below_B, (slots, 1)), np.full(slots, lm.prefix.entropy)
    first_LB = below_LB.copy()  # by block, or where the context is the segment by segment
    while True:
        for slot in range(slots):
            if current[slot] is None and (lane := next(waiting, None)) is not None:
                current[slot] = lane
                work.start(slot, lane)
        live = np.flatnonzero(work.live)
        if not len(live):
            return
        entropy, rise = thresholds or (0, 0)
        symbols = [lane.symbols if lane else _NONE for lane in current]
        tables_LB, surprise_L = first_LB, entropy_L
        for slot in live.tolist():  # a lane that begins a block has read nothing
            if work.position[slot] == 0:
                surprise_L[slot] = lm.prefix.entropy
                tables_LB[slot] = lm.prefix.below_B
        for slot in live.tolist():
            fresh = thresholds is not None and work.position[slot] > 0 and begins(
                surprise_L[slot], work.former[slot], work.length[slot], entropy, rise
            )  # fmt: skip
            if fresh or work.position[slot] == 0:
                work.length[slot] = 0
                if thresholds is not None:
                    tables_LB[slot] = lm.prefix.below_B
            lane = current[slot]
            assert lane is not None
            byte = next_byte(work.states[slot], symbols[slot], tables_LB[slot], tables_LB[slot, -1], codes)
            if byte == CORRUPT or (byte == END and not work.may_end(slot, lane)) or work.too_long(slot, lane, byte):
                raise ByteproxyError(
                    f"corrupt neural symbols: symbol {work.states[slot, 0]} of {len(lane.symbols)} stands for no text "
                    f"behind {work.done[slot]} bytes"
                )
            if byte == END:
                work.flush(slot, lane)
                work.live[slot], current[slot] = False, None
                continue
            work.bytes[slot, work.position[slot]] = byte
            work.former[slot] = surprise_L[slot]
            work.done[slot] += 1
        whole_L = work.live & (work.position == s.block - 1)  # the model has no position behind a block's last byte
        live = np.flatnonzero(work.live & ~whole_L)
        for slot in np.flatnonzero(whole_L).tolist():
            lane = current[slot]
            assert lane is not None
            work.position[slot] += 1
            work.flush(slot, lane)
        if not len(live):
            continue
        byte_L = work.bytes[live, work.position[live]].astype(np.int64)
        at_L = live * blocks.length + work.position[live]
        product, scale_L = lm.stream(
            byte_L, PREFIX + work.position[live], lm.cached(blocks, at_L, live * blocks.length, at_L)
        )
        below, surprise = np.empty((len(live), 257), np.int64), np.empty(len(live), np.int64)
        kernels.tables(product, scale_L, lm.tensors["head.scale"], below, surprise)
        surprise_L[live] = surprise
        if segments is not None:
            at_L = live * segments.length + work.length[live]
            product, scale_L = lm.stream(
                byte_L, PREFIX + work.length[live], lm.cached(segments, at_L, live * segments.length, at_L)
            )
            kernels.tables(product, scale_L, lm.tensors["head.scale"], below, surprise)
        tables_LB[live] = below
        work.position[live] += 1
        work.length[live] += 1


_NONE = np.zeros(0, np.uint16)


class _Work:
    """What is known of the lanes at work, by slot."""

    def __init__(self, slots: int, block: int) -> None:
        self.states = new_states([(0, 0)] * slots)
        self.bytes = np.zeros((slots, block), np.uint8)  # of the current block
        self.position, self.length, self.former, self.done = (np.zeros(slots, np.int64) for _ in range(4))
        self.live = np.zeros(slots, bool)

    def start(self, slot: int, lane: Lane) -> None:
        self.states[slot] = new_states([(0, len(lane.symbols))])[0]
        self.position[slot] = self.length[slot] = self.former[slot] = self.done[slot] = 0
        self.live[slot] = True

    def may_end(self, slot: int, lane: Lane) -> bool:
        return lane.size is None or self.done[slot] == lane.size

    def too_long(self, slot: int, lane: Lane, byte: int) -> bool:
        return byte != END and lane.size is not None and self.done[slot] >= lane.size

    def flush(self, slot: int, lane: Lane) -> None:
        """Hand over the block's bytes; the next ones begin a context anew."""
        lane.parts.append(self.bytes[slot, : self.position[slot]].tobytes())
        self.position[slot] = 0
