"""The neural codec: windows driven by a byte LM that `python -m trainer neural` has trained and made integers of.

A document is read in blocks of as many bytes as the LM's context predicts, each in a context of its own. Where the
entropy of the coming byte passes two thresholds a new segment begins, and with it a window. What the LM may look at
when a byte is coded is an option: `context=segment`, only its own segment, so that equal segments have equal symbols
wherever they stand; `context=block`, all of the block before it, which takes fewer symbols, but one edit changes every
symbol behind it in the block. In mode `fuzzy` no code is spent on ends of windows, and the segments' contexts cannot
be found again by a decoder: fewer symbols, one way only.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

import numba
import numpy as np
import safetensors
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from shards.codecs.base import Codec, Encoded, read_fitted
from shards.codecs.neural.device import for_encoding
from shards.codecs.neural.lanes import Lane, decode_lanes
from shards.codecs.neural.lm import LM, Predictions, Shape, one_thread, read_shape
from shards.codecs.windows.coder import alphabet, encode_windows
from shards.codecs.windows.segments import LONGEST, Thresholds, anchors, segment_ends
from shards.errors import ByteproxyError
from shards.hashing import combine

MODEL, DESCRIPTION = "lm.safetensors", "lm.json"
GAP = 128  # bytes between anchors, at most
AT_ONCE = 1 << 20  # bytes of text whose predictions are held

_PLACES: dict[str, Path] = {}  # digest of an artifact named on the command line -> where it lies


class Neural(Codec):
    """Options `artifact` (a folder; in a set its digest), `window` 8, 12 or 16 bits, `segment` (mean bytes), `context`,
    `mode`."""

    kind = "neural"
    positional = "artifact"
    piecewise = False
    checked_share = 0.02  # decoding takes many times as long as encoding
    anchor_gap = GAP
    ranges: ClassVar = {"segment": range(2, LONGEST + 1)}
    choices: ClassVar = {"window": (8, 12, 16), "mode": ("lossless", "fuzzy"), "context": ("segment", "block")}

    def __init__(self, settings: Mapping[str, Any], lm: LM, facts: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.lm, self.facts = lm, dict(facts)
        self.lossless = settings["mode"] == "lossless"
        self.ids = alphabet(settings["window"])
        self.alphabet, self.width = self.ids.size, self.ids.width
        wanted, there = str(settings["segment"]), self.facts["thresholds"]
        if wanted not in there:
            raise ByteproxyError(f"codec neural, option segment: found {wanted}, expected {', '.join(there)}")
        self.thresholds = Thresholds(*there[wanted])

    @classmethod
    def options(cls) -> dict[str, Any]:
        return {"artifact": "", "window": 16, "segment": 8, "context": "segment", "mode": "lossless"}

    @classmethod
    def settle(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        settled = super().settle(options)
        if settled["mode"] == "fuzzy" and settled["context"] != "segment":
            raise ByteproxyError("codec neural: mode=fuzzy has context=segment")
        given = settled["artifact"]
        if (Path(given) / MODEL).is_file() and given:
            settled["artifact"] = digest_of(Path(given))
            _PLACES[settled["artifact"]] = Path(given)
        elif len(given) != 32 or set(given) - set("0123456789abcdef"):
            raise ByteproxyError(
                f"codec neural: {given or 'no artifact'!r} found, a folder with {MODEL} expected: "
                "make one by `python -m trainer neural --shards SET --out DIR`, then --view neural:DIR"
            )
        return settled

    @classmethod
    def fit(cls, sample: Iterable[bytes], **options: Any) -> Self:
        """The codec of an artifact; the sample is not read."""
        settings = cls.settle(options)
        place = _PLACES.get(settings["artifact"])
        if place is None:
            raise ByteproxyError(
                f"codec neural: artifact {settings['artifact']} expected, and its folder was not named"
            )
        return cls._from_files(place, settings)

    @cached_property
    def reader(self) -> LM:
        """The LM that encodes: on a CUDA device where there is one, with the same integers. See `device.py`."""
        return for_encoding(self.lm)

    def encode(self, raw: bytes) -> Encoded:
        return self.encode_many([raw])[0]

    def encode_many(self, raws: Sequence[bytes]) -> list[Encoded]:
        step = max(1, AT_ONCE // self.lm.shape.block) * self.lm.shape.block  # a block begins anew in any case
        pieces = [raw[at : at + step] for raw in raws for at in range(0, max(1, len(raw)), step)]
        found: list[Encoded] = []
        begin = 0
        with one_thread():
            while begin < len(pieces):
                end, size = begin + 1, len(pieces[begin])
                while end < len(pieces) and size + len(pieces[end]) <= AT_ONCE:
                    size += len(pieces[end])
                    end += 1
                found += self._encode(pieces[begin:end])
                begin = end
        parts = iter(found)
        return [_joined(list(islice(parts, max(1, -(-len(raw) // step))))) for raw in raws]

    def predictions(self, raws: Sequence[bytes]) -> tuple[np.ndarray, Predictions, np.ndarray]:
        """Of texts one after another: their bytes, what the coder sees of each, which ones end a segment."""
        text_N = np.frombuffer(b"".join(raws), np.uint8)
        block, restart_N, blocks, at = self.lm.shape.block, np.zeros(len(text_N), bool), [], 0
        for raw in raws:
            starts = range(at, at + len(raw), block)
            restart_N[starts.start : starts.stop : block] = True
            blocks += [text_N[start : min(start + block, starts.stop)] for start in starts]
            at += len(raw)
        seen = self.reader.read_blocks(blocks)
        ends_N = segment_ends(seen.entropy_N, restart_N, self.thresholds)
        if self.settings["context"] == "segment":
            seen = self.reader.read_segments(text_N, ends_N)
        return text_N, seen, ends_N

    def _encode(self, raws: Sequence[bytes]) -> list[Encoded]:
        text_N, seen, ends_N = self.predictions(raws)
        symbols, marks = encode_windows(
            text_N, seen.below_N, seen.share_N, seen.total_N, ends_N, self.ids.codes, self.lossless
        )
        found, at, segment, symbol = [], 0, 0, 0
        for raw in raws:
            here_N = ends_N[at : at + len(raw)]
            until = segment + int(here_N.sum())
            mine = marks[segment:until] - symbol
            count = int(mine[-1]) if len(mine) else 0
            values = symbols[symbol : symbol + count].astype(f"<u{self.width}")
            found.append(Encoded(values, anchors(here_N, mine, self.lm.shape.block, GAP)))
            at, segment, symbol = at + len(raw), until, symbol + count
        return found

    def decode(self, symbols: np.ndarray, size: int | None = None) -> bytes:
        return self._decode([[Lane(self._checked(symbols), size)]])[0]

    def decode_many(self, encoded: Sequence[Encoded], sizes: Sequence[int]) -> list[bytes]:
        """As `decode`; the blocks of a document are decoded beside each other, each from its own anchor."""
        return self._decode([self._lanes(*each, size) for each, size in zip(encoded, sizes, strict=True)])

    def _decode(self, lanes: list[list[Lane]]) -> list[bytes]:
        if not self.lossless:
            raise ByteproxyError("codec neural: mode=fuzzy is one way, its symbols do not decode")
        thresholds = self.thresholds if self.settings["context"] == "segment" else None
        with one_thread():
            decode_lanes(self.lm, [lane for document in lanes for lane in document], self.ids.codes, thresholds)
        return [b"".join(part for lane in document for part in lane.parts) for document in lanes]

    def _lanes(self, symbols: np.ndarray, anchors_A2: np.ndarray, size: int) -> list[Lane]:
        """A lane for each block; if the anchors do not tell where they begin, one for all."""
        symbols, block = self._checked(symbols), self.lm.shape.block
        offsets, at = anchors_A2.astype(np.int64).T
        starts = np.arange(0, size, block)
        rows = np.searchsorted(offsets, starts)
        if not size or offsets[-1] != size or at[-1] != len(symbols) or (offsets[rows] != starts).any():
            return [Lane(symbols, size)]
        bounds = [*at[rows].tolist(), len(symbols)]
        return [
            Lane(symbols[bounds[i] : bounds[i + 1]], min(block, size - int(start))) for i, start in enumerate(starts)
        ]

    def _checked(self, symbols: np.ndarray) -> np.ndarray:
        symbols = np.asarray(symbols)
        if symbols.dtype.kind != "u" or (len(symbols) and int(symbols.max()) >= self.alphabet):
            raise ByteproxyError(
                f"corrupt neural symbols: found {symbols.dtype} up to {symbols.max(initial=0)}, expected unsigned "
                f"integers below {self.alphabet}"
            )
        return symbols.astype(np.uint16)

    def libraries(self) -> dict[str, str]:
        build = torch.__version__.partition("+")[0]  # for CUDA or for CPUs: integers are the same
        return {"torch": build, "numba": numba.__version__, "safetensors": safetensors.__version__}

    def _description(self) -> dict[str, Any]:
        windows, escapes = [0, self.ids.codes], [self.ids.codes, self.alphabet]
        return super()._description() | {"ids": {"windows": windows, "escapes": escapes}}

    def _files(self) -> dict[str, bytes]:
        return artifact_files(self.lm, self.facts)

    @classmethod
    def _from_files(cls, folder: Path, settings: dict[str, Any]) -> Self:
        facts, content = read_shape(read_fitted(folder / DESCRIPTION), str(folder / DESCRIPTION)), folder / MODEL
        try:
            tensors = load_tensors(read_fitted(content))
        except safetensors.SafetensorError as error:
            raise ByteproxyError(f"{content}: not a file of tensors ({error}); restore the folder") from None
        if (found := digest_of(folder)) != settings["artifact"]:
            raise ByteproxyError(
                f"{folder}: artifact {found} found, {settings['artifact']} expected; restore the folder"
            )
        return cls(settings, LM(facts.pop("shape"), tensors), facts)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state | {"lm": (self.lm.shape, self.lm.tensors)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"lm": LM(*state["lm"])})


def _joined(pieces: Sequence[Encoded]) -> Encoded:
    """A document from pieces of whole blocks, whose ends are anchors of the whole."""
    if len(pieces) == 1:
        return pieces[0]
    ends_P2 = np.cumsum([piece.anchors[-1] for piece in pieces], axis=0, dtype=np.int64)
    later = [piece.anchors[1:] + end for piece, end in zip(pieces[1:], ends_P2, strict=False)]
    anchors_A2 = np.concatenate((pieces[0].anchors, *later)).astype("<u4")
    return Encoded(np.concatenate([piece.symbols for piece in pieces]), anchors_A2)


def artifact_files(lm: LM, facts: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that make an artifact: name -> content."""
    text = json.dumps({**facts, "shape": lm.shape.to_json()}, indent=1, sort_keys=True).encode() + b"\n"
    return {MODEL: save_tensors(lm.tensors), DESCRIPTION: text}


def digest_of(folder: Path) -> str:
    """32 hex digits of the artifact's two files, wherever they lie and whatever lies beside them."""
    return combine(blake2b(read_fitted(folder / name), digest_size=16).hexdigest() for name in (MODEL, DESCRIPTION))


def write_artifact(folder: Path, shape: Shape, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Write lm.json and lm.safetensors; with codec.json beside them, of default options, the folder is a codec's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in artifact_files(LM(shape, tensors), facts).items():
        (folder / name).write_bytes(content)
    Neural.fit((), artifact=str(folder)).save(folder)
