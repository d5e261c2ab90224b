"""How far the symbols of each view move when the text is edited a little: the figures of `stability`.

A view transfers to raw bytes, it is held, where equal text is mostly equal symbols. Distances are Levenshtein's over
symbols, by the longer of both sequences: 0 nothing changed, 1 nothing stayed. `raw` is there to compare with.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pipeline.stability.edits import EDITS, edited, edited_once

Figures = dict[str, Any]


class Encoder(Protocol):
    """A view's codec, as far as it is needed."""

    def encode(self, raw: bytes) -> Any:
        """Its `symbols` as an array."""


def distance(before: np.ndarray, after: np.ndarray) -> float:
    """Levenshtein's distance by the longer of both, in [0, 1]."""
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_distance(before.tolist(), after.tolist())


def downstream(before: np.ndarray, after: np.ndarray) -> float:
    """The same behind the first symbol that differs: how much of what follows an edit it changes, in [0, 1]."""
    shorter = min(len(before), len(after))
    differing = np.flatnonzero(before[:shorter] != after[:shorter])
    first = int(differing[0]) if len(differing) else shorter
    return distance(before[first:], after[first:])


class Measured:
    """Adds up one view's figures, document after document."""

    def __init__(self, rates: Sequence[float]) -> None:
        self.distances: dict[tuple[str, float], list[float]] = {(kind, rate): [] for kind in EDITS for rate in rates}
        self.downstream: list[float] = []
        self.counts: dict[int, int] = {}
        self.raw_bytes = self.symbols = 0

    def add(self, raw: bytes, encoder: Encoder | None, seed: int) -> None:
        """A document that is not empty. No encoder: the symbols are its bytes."""

        def encode(text: bytes) -> np.ndarray:
            return encoder.encode(text).symbols if encoder else np.frombuffer(text, np.uint8)

        before = encode(raw)
        for (kind, rate), found in self.distances.items():
            found.append(distance(before, encode(edited(raw, kind, rate, seed))))
        self.downstream.append(downstream(before, encode(edited_once(raw, seed)[0])))
        for symbol, count in zip(*np.unique(before, return_counts=True), strict=True):
            self.counts[int(symbol)] = self.counts.get(int(symbol), 0) + int(count)
        self.raw_bytes += len(raw)
        self.symbols += len(before)

    def join(self, other: "Measured") -> None:
        """Add another's documents behind one's own."""
        for key, found in other.distances.items():
            self.distances[key] += found
        self.downstream += other.downstream
        for symbol, count in other.counts.items():
            self.counts[symbol] = self.counts.get(symbol, 0) + count
        self.raw_bytes += other.raw_bytes
        self.symbols += other.symbols

    def figures(self) -> Figures:
        """Means over documents, each with its standard error; entropy of a symbol by itself, in bits."""
        shares = np.array(list(self.counts.values())) / max(1, self.symbols)
        by_rate: dict[str, list[float]] = {}
        for (_, rate), found in self.distances.items():
            by_rate.setdefault(f"{rate:g}", []).extend(found)
        return {
            "distance": {rate: _mean(found) for rate, found in by_rate.items()},
            "distance_by_edit": {
                kind: {f"{rate:g}": _mean(self.distances[kind, rate]) for k, rate in self.distances if k == kind}
                for kind in EDITS
            },
            "downstream": _mean(self.downstream),
            "bytes_a_symbol": self.raw_bytes / max(1, self.symbols),
            "bits_a_symbol": float(-(shares * np.log2(shares)).sum()) if len(shares) else 0.0,
        }


def _mean(values: Sequence[float]) -> dict[str, float]:
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": round(float(np.mean(values)), 6), "error": round(spread, 6)}
