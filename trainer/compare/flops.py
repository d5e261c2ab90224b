"""What training on a plan's batches costs, by one formula for every arm, from the planner's pieces alone.

For each real position: the body's matrices; for each pair of a query and a key that it sees, all within one document,
attention; for each counted target, the head of its view. 2 FLOPs a multiplication and addition, three times for forward
and backward. Look-ups, norms and padding count nothing, whatever the machine does with them; nor do the rows that
`--compose` adds up once a pass, two additions a byte of the vocabulary and width: compose.py says how few that is.

Legend: P pieces, K fields of a piece, S stretches (what may see one another), V compressed views.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer.config import Config, make_config
from trainer.counts import flops_by_part
from trainer.place import DONE, JOIN, P_AT, P_BEGIN, P_BOS, P_END, P_STREAM, P_TAIL, P_TEXT

_CLOSERS = np.array([0, 1, 1, 2])  # tokens behind a piece's symbols, by its tail


@dataclass
class Work:
    """What batches hold: inputs that are not padding, pairs of query and key, counted targets and text by view."""

    positions: int
    looks: int
    symbols_V: np.ndarray  # (V + 1,) int64, raw first
    bytes_V: np.ndarray  # (V + 1,) int64: bytes of text behind the targets; a pair's count in both views

    @classmethod
    def none(cls, views: int) -> "Work":
        return cls(0, 0, np.zeros(views + 1, np.int64), np.zeros(views + 1, np.int64))

    def __iadd__(self, other: "Work") -> "Work":
        self.positions += other.positions
        self.looks += other.looks
        self.symbols_V += other.symbols_V
        self.bytes_V += other.bytes_V
        return self

    @property
    def bytes(self) -> int:
        return int(self.bytes_V.sum())


def work_of(pieces_PK: np.ndarray, context: int, views: int) -> Work:
    """Of one batch of rows of `context` inputs. The last token of a full row is a target only."""
    if not len(pieces_PK):
        return Work.none(views)
    at_P, bos_P, stream_P, tail_P = (pieces_PK[:, field] for field in (P_AT, P_BOS, P_STREAM, P_TAIL))
    count_P = pieces_PK[:, P_END] - pieces_PK[:, P_BEGIN]
    end_P = np.minimum(at_P + bos_P + 1 + count_P + _CLOSERS[tail_P], context)
    first_S = np.flatnonzero(bos_P)
    length_S = np.maximum.reduceat(end_P, first_S) - at_P[first_S]
    closed_P = (tail_P == JOIN) | (tail_P == DONE)  # the closer is a target of the view's own head
    symbols_V = np.bincount(stream_P, count_P + closed_P, views + 1).astype(np.int64)
    symbols_V[0] += int((tail_P == DONE).sum())  # eos, of the raw head
    bytes_V = np.bincount(stream_P, pieces_PK[:, P_TEXT], views + 1).astype(np.int64)
    return Work(int(length_S.sum()), int((length_S * (length_S + 1) // 2).sum()), symbols_V, bytes_V)


def flops_of(config: Config, tables: Sequence[int], work: Work) -> dict[str, int]:
    """Training FLOPs by part: `body`, `attention`, `heads`, and `multi_byte` where there are such heads.

    `tables`: rows of each view's table, raw first.
    """
    shape = vars(config) | {"batch_rows": work.positions, "context": 1}
    found = flops_by_part(shape, tables, work.symbols_V.tolist())
    return found | {"attention": 12 * config.layers * config.heads * config.head_dim * work.looks}


def total_flops(config: Config, tables: Sequence[int], work: Work) -> int:
    """Their sum."""
    return sum(flops_of(config, tables, work).values())


def raw_share(config: Config, tables: Sequence[int], work: Work) -> float:
    """The part of the FLOPs that raw bytes take: their heads, and of body and attention their share of the targets."""
    only_V = work.symbols_V.copy()
    only_V[1:] = 0
    found, alone = (
        flops_of(config, tables, replace(work, symbols_V=symbols_V)) for symbols_V in (work.symbols_V, only_V)
    )
    shared = found["body"] + found["attention"]
    raw = shared * int(only_V[0]) / int(work.symbols_V.sum()) + sum(alone.values()) - shared
    return raw / sum(found.values())


def forward_flops_per_byte(preset: str) -> float:
    """Of a byte LM of a preset, as the neural codec runs it: a third of a training step's, in rows that are full."""
    config = make_config({"preset": preset})
    context = config.context
    work = Work(context, context * (context + 1) // 2, np.array([context]), np.array([context]))
    return total_flops(config, [256], work) / 3 / context
