"""The n-gram codec: windows driven by tables of counts that are fitted on the set's sample. A fast sibling of `neural`.

Where the entropy of the coming byte, by what the document has been so far, passes two thresholds, a new segment begins,
and with it a window. What the tables may look at when a byte is coded is an option: `context=segment`, only its own
segment, so that equal segments have equal symbols wherever they stand; `context=text`, the last 6 bytes whatever they
are, which takes fewer symbols.

Files: `records.npy`, `rows.npy` (see model.py), `ngram.json` (the thresholds).
"""

import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Self

import numba
import numpy as np

from shards.codecs.base import MAX_DOCUMENT, Codec, Encoded, read_fitted
from shards.codecs.ngram import fit, model
from shards.codecs.ngram.fit import entropies, fit_tables, joined
from shards.codecs.ngram.model import FIRST, RECORD, REST, ROW, SHARE, TOTAL, Tables, decode, read_weights
from shards.codecs.windows import coder, segments
from shards.codecs.windows.coder import CORRUPT, alphabet, encode_windows, new_states
from shards.codecs.windows.segments import LONGEST, Thresholds, anchors, segment_ends
from shards.compiled import forget_stale
from shards.errors import ByteproxyError

GAP = 128  # bytes between anchors, at most
RECORDS, ROWS, FACTS = "records.npy", "rows.npy", "ngram.json"

_SOURCES = (coder, segments, fit, model)  # of the compiled code of this folder


class NGram(Codec):
    """Options `window` 8, 12 or 16 bits, `segment` (mean bytes), `context`, `table` (2**table records of 16 bytes)."""

    kind = "ngram"
    needs_fit = True
    piecewise = False
    anchor_gap = GAP
    ranges: ClassVar = {"segment": range(2, LONGEST + 1), "table": range(8, 25)}
    choices: ClassVar = {"window": (8, 12, 16), "context": ("segment", "text")}

    def __init__(self, settings: Mapping[str, Any], tables: Tables, thresholds: Thresholds) -> None:
        super().__init__(settings)
        forget_stale(model.decode, _SOURCES)
        self.tables, self.thresholds = tables, thresholds
        self.ids = alphabet(settings["window"])
        self.alphabet, self.width = self.ids.size, self.ids.width
        self.by_segment = settings["context"] == "segment"

    @classmethod
    def options(cls) -> dict[str, Any]:
        return {"window": 16, "segment": 8, "context": "segment", "table": 18}

    @classmethod
    def fit(cls, sample: Iterable[bytes], **options: Any) -> Self:
        settings = cls.settle(options)
        documents = [raw for raw in sample if raw]
        if not documents:
            raise ByteproxyError("codec ngram: the sample has no text to count")
        forget_stale(model.decode, _SOURCES)
        by_segment = settings["context"] == "segment"
        return cls(settings, *fit_tables(documents, 1 << settings["table"], settings["segment"], by_segment))

    def encode(self, raw: bytes) -> Encoded:
        text_N, restart_N = joined([raw])
        ends_N, below_N, weight_N = self.predictions(text_N, restart_N)
        total_N = np.full(len(text_N), TOTAL)
        symbols, marks = encode_windows(text_N, below_N, weight_N, total_N, ends_N, self.ids.codes)
        return Encoded(symbols.astype(f"<u{self.width}"), anchors(ends_N, marks, MAX_DOCUMENT, GAP))

    def predictions(self, text_N: np.ndarray, restart_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each byte of documents one after another: does it end a segment, the weight below it, its weight."""
        ends_N = segment_ends(entropies(self.tables, text_N, restart_N), restart_N, self.thresholds)
        if self.by_segment:
            restart_N = np.concatenate((restart_N[:1], ends_N[:-1]))
        below_N, weight_N = np.empty(len(text_N), np.int64), np.empty(len(text_N), np.int64)
        read_weights(text_N, restart_N, self.tables.records, self.tables.rows, below_N, weight_N)
        return ends_N, below_N, weight_N

    def decode(self, symbols: np.ndarray, size: int | None = None) -> bytes:
        symbols = np.asarray(symbols)
        if symbols.dtype.kind != "u" or (len(symbols) and int(symbols.max()) >= self.alphabet):
            raise ByteproxyError(
                f"corrupt ngram symbols: found {symbols.dtype} up to {symbols.max(initial=0)}, expected unsigned "
                f"integers below {self.alphabet}"
            )
        room = min(MAX_DOCUMENT, LONGEST * len(symbols))  # a segment, and with it a window, has so many bytes at most
        out = np.empty(room if size is None else min(size, room), np.uint8)
        state = new_states([(0, len(symbols))])[0]
        done = decode(
            symbols.astype(np.uint16), state, self.ids.codes, *self.tables, *self.thresholds, self.by_segment, out
        )
        if done == CORRUPT or (size is not None and done != size):
            raise ByteproxyError(
                f"corrupt ngram symbols: symbol {state[0]} of {len(symbols)} stands for no text, or they do not decode "
                f"to {len(out) if size is None else size} bytes"
            )
        return out[:done].tobytes()

    def libraries(self) -> dict[str, str]:
        return {"numba": numba.__version__}

    def _description(self) -> dict[str, Any]:
        windows, escapes = [0, self.ids.codes], [self.ids.codes, self.alphabet]
        return super()._description() | {"ids": {"windows": windows, "escapes": escapes}}

    def _files(self) -> dict[str, bytes]:
        facts = {"thresholds": self.thresholds._asdict(), "entropies": self.tables.entropies.tolist()}
        files = {FACTS: json.dumps(facts).encode() + b"\n"}
        for name, array in ((RECORDS, self.tables.records), (ROWS, self.tables.rows)):
            file = BytesIO()
            np.save(file, array, allow_pickle=False)
            files[name] = file.getvalue()
        return files

    @classmethod
    def _from_files(cls, folder: Path, settings: dict[str, Any]) -> Self:
        try:
            facts = json.loads(read_fitted(folder / FACTS))
            thresholds = Thresholds(**facts["thresholds"])
            records, rows = (
                np.load(BytesIO(read_fitted(folder / name)), allow_pickle=False) for name in (RECORDS, ROWS)
            )
            tables = Tables(records, rows, np.array(facts["entropies"], np.int32))
            good = _good(tables, 1 << settings["table"])
        except (ValueError, TypeError, KeyError, EOFError):
            good = False
        if not good:
            raise ByteproxyError(f"{folder}: {RECORDS}, {ROWS} and {FACTS} are no tables of this codec; restore it")
        return cls(settings, tables, thresholds)


def _good(tables: Tables, records: int) -> bool:
    """Do shapes and sums hold, on which decoding rests?"""
    found = [(array.dtype, array.shape) for array in tables]
    if found != [(np.uint8, (records, RECORD)), (np.int32, (257, 257)), (np.int32, (257,))]:
        return False
    shares = tables.records[:, FIRST + 1 :: 2].sum(axis=1, dtype=np.int64) + tables.records[:, REST]
    steps = np.diff(tables.rows, axis=1)
    ends = (tables.rows[:, 0] == 0).all() and (tables.rows[:, -1] == ROW).all() and (steps > 0).all()
    return bool(ends and ((shares == SHARE) | (shares == 0)).all())
