"""What a codec is: bytes in, symbols and anchors out, and back again, the same bytes.

A codec is fixed by its kind, the version of its algorithm, its options and (where it is fitted) its files; `save`
writes just these, so the digest of its folder names what a view means. Symbols are a function of the document and of
the codec alone: never of what was encoded before, of the clock or of the machine.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from shards.errors import ByteproxyError

CODEC_FILE = "codec.json"
MAX_DOCUMENT = (1 << 31) - 1  # bytes of a document: its length is an int32 in the shard

_SIZE = re.compile(r"(\d+)([KM]?)")
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}
_BOOLS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Encoded(NamedTuple):
    """One document in one view."""

    symbols: np.ndarray  # (S,) little-endian uint8, uint16 or uint32, in [0, alphabet)
    anchors: np.ndarray  # (A, 2) uint32 (raw offset, symbol offset) from (0, 0) to (len(raw), S)


def ends(raw_bytes: int, symbols: int) -> np.ndarray:
    """The anchors of a view that can be cut only at its ends: (2, 2) uint32, or (1, 2) if there is nothing at all."""
    rows = [(0, 0), (raw_bytes, symbols)]
    return np.array(rows if any(rows[1]) else rows[:1], dtype="<u4")


def nearest(found: str, known: Iterable[str]) -> str:
    """For error messages: the known names, the one probably meant first."""
    names = sorted(known)
    close = get_close_matches(found, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"known: {', '.join(names) or 'none'}{hint}"


class Codec(ABC):
    """Base of all codecs. Instances can be pickled, and serve one thread at a time.

    A subclass sets the class attributes, takes its checked options (and what was fitted) in `__init__`, and keeps
    handles of libraries in `cached_property`s: these are left out of a pickle and made again when needed.
    """

    kind: ClassVar[str]  # its name in a view's specification
    version: ClassVar[int] = 1  # of the algorithm: raise it when the symbols change
    needs_fit: ClassVar[bool] = False
    ranges: ClassVar[Mapping[str, range]] = {}  # option -> values allowed, where an integer is bounded
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # option -> values allowed, where they are a few
    positional: ClassVar[str | None] = None  # the option that a value without a name is of
    piecewise: ClassVar[bool] = True  # a symbol means the same text wherever it stands
    checked_share: ClassVar[float] = 1.0  # of the documents, at most: those that a build decodes again

    width: int  # bytes a symbol: 1, 2 or 4
    alphabet: int  # number of symbols
    lossless: bool = True
    anchor_gap: int | None = None  # at most so many raw bytes between anchors; None: only the two ends

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Option name -> default value; the type of the default is the type of the option."""
        return {}

    @classmethod
    def settle(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their values. Strings (from a command line) become the type of the default.

        Raises ByteproxyError on an unknown name, a value that cannot be read, or one out of range.
        """
        settled = dict(cls.options())
        for name, value in options.items():
            if name not in settled:
                raise ByteproxyError(f"codec {cls.kind} has no option {name!r} ({nearest(name, settled)})")
            settled[name] = _typed(f"codec {cls.kind}, option {name}", value, settled[name])
            allowed = cls.ranges.get(name)
            if allowed is not None and settled[name] not in allowed:
                expected = f"{allowed.start} to {allowed.stop - 1}"
                raise ByteproxyError(f"codec {cls.kind}, option {name}: found {value}, expected {expected}")
        for name, few in cls.choices.items():
            if settled[name] not in few:
                expected = ", ".join(map(str, few))
                raise ByteproxyError(f"codec {cls.kind}, option {name}: found {settled[name]}, expected {expected}")
        return settled

    @classmethod
    def learns(cls, options: Mapping[str, Any]) -> bool:
        """Whether `fit` with these (settled) options looks at the sample."""
        return cls.needs_fit

    @classmethod
    def fit(cls, sample: Iterable[bytes], **options: Any) -> Self:
        """A codec for documents like the sample's. Codecs that learn nothing do not read the sample."""
        return cls(cls.settle(options))

    @abstractmethod
    def encode(self, raw: bytes) -> Encoded:
        """Symbols and anchors of any bytes at all."""

    @abstractmethod
    def decode(self, symbols: np.ndarray, size: int | None = None) -> bytes:
        """The bytes that these symbols stand for; exactly `size` of them, if given.

        Raises ByteproxyError if the symbols are no output of this codec. Memory is bounded by `size` where given,
        else by what the stream declares within plausible bounds, at most MAX_DOCUMENT.
        """

    def encode_many(self, raws: Sequence[bytes]) -> list[Encoded]:
        """As `encode` gives for each, whatever stands beside it; faster where a codec works on many at once."""
        return [self.encode(raw) for raw in raws]

    def decode_many(self, encoded: Sequence[Encoded], sizes: Sequence[int]) -> list[bytes]:
        """As `decode` gives for each; the anchors may only serve to work on parts at once."""
        return [self.decode(each.symbols, size) for each, size in zip(encoded, sizes, strict=True)]

    def spelling(self) -> Sequence[bytes | None] | None:
        """The bytes that each symbol stands for (None: for nothing); None if that depends on where it stands."""
        return None

    def libraries(self) -> dict[str, str]:
        """Library -> version, of those that touch the bytes."""
        return {}

    def save(self, folder: Path) -> None:
        """Write codec.json and the codec's files into a folder (made if need be): the same codec, the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            CODEC_FILE: json.dumps(self._description(), indent=1, sort_keys=True).encode() + b"\n",
            **self._files(),
        }
        for name, content in files.items():
            (folder / name).write_bytes(content)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The codec that was saved there; ByteproxyError if it is of another kind or version, or incomplete."""
        description = read_description(folder)
        found = (description["kind"], description["version"])
        if found != (cls.kind, cls.version):
            raise ByteproxyError(
                f"{folder / CODEC_FILE}: found codec {found[0]} version {found[1]}, expected {cls.kind} version "
                f"{cls.version}; use the byteproxy that wrote it, or build the view anew"
            )
        codec = cls._from_files(folder, cls.settle(description["options"]))
        if codec._description() != description:
            raise ByteproxyError(f"{folder / CODEC_FILE}: does not fit the files beside it; restore the folder")
        return codec

    def _description(self) -> dict[str, Any]:
        shape = {
            "alphabet": self.alphabet,
            "anchor_gap": self.anchor_gap,
            "lossless": self.lossless,
            "width": self.width,
        }
        return {"kind": self.kind, "version": self.version, "options": self.settings, **shape}

    def _files(self) -> dict[str, bytes]:
        """What was fitted, as file name -> content."""
        return {}

    @classmethod
    def _from_files(cls, folder: Path, settings: dict[str, Any]) -> Self:
        return cls(settings)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if not isinstance(getattr(type(self), k, None), cached_property)}


class StreamCodec(Codec):
    """A general compressor: the symbols are the bytes of its output, and a document can be cut only at its ends."""

    width = 1
    alphabet = 256

    @abstractmethod
    def compress(self, raw: bytes) -> bytes:
        """One complete stream."""

    @abstractmethod
    def decompress(self, stream: bytes, limit: int) -> bytes:
        """Back again, allocating not much more than `limit`; ByteproxyError (see `corrupt`) if it is not a stream."""

    def encode(self, raw: bytes) -> Encoded:
        symbols = np.frombuffer(self.compress(raw), dtype=np.uint8)
        return Encoded(symbols, ends(len(raw), len(symbols)))

    def decode(self, symbols: np.ndarray, size: int | None = None) -> bytes:
        if symbols.dtype != np.uint8:
            raise self.corrupt(f"found symbols of {symbols.dtype}, expected uint8")
        raw = self.decompress(symbols.tobytes(), MAX_DOCUMENT if size is None else size)
        if size is not None and len(raw) != size:
            raise self.corrupt(f"it decodes to {len(raw)} bytes, expected {size}")
        return raw

    def corrupt(self, found: str) -> ByteproxyError:
        """The error for a stream that this codec did not write."""
        return ByteproxyError(f"corrupt {self.kind} stream: {found}")

    def declared(self, size: int, stream: bytes, limit: int, most_per_byte: int) -> int:
        """The size that a stream declares for itself, refused if the limit or the format rule it out."""
        if size > min(limit, len(stream) * most_per_byte):
            raise self.corrupt(f"{len(stream)} bytes declare a document of {size}, expected at most {limit}")
        return size


def read_description(folder: Path) -> dict[str, Any]:
    """The content of a folder's codec.json."""
    path = folder / CODEC_FILE
    try:
        description = json.loads(path.read_bytes())
        if not isinstance(description["kind"], str) or not isinstance(description["options"], dict):
            raise TypeError
        description["version"]
    except FileNotFoundError:
        raise ByteproxyError(f"{path}: not found; a codec's folder has this file") from None
    except (ValueError, TypeError, KeyError):
        raise ByteproxyError(f"{path}: not a codec's description; restore the folder or build the view anew") from None
    return description


def read_fitted(path: Path) -> bytes:
    """The content of a file that belongs to a codec."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ByteproxyError(f"{path}: not found; restore the codec's folder or build the view anew") from None


def _typed(where: str, value: Any, default: Any) -> Any:
    wanted = type(default)
    if type(value) is wanted:
        return value
    if isinstance(value, str) and wanted is bool and value.lower() in _BOOLS:
        return _BOOLS[value.lower()]
    if isinstance(value, str) and wanted is int and (match := _SIZE.fullmatch(value.upper())):
        return int(match[1]) * _SIZE_UNITS[match[2]]
    words = {int: "a whole number (K and M count in 1024)", bool: "true or false"}
    raise ByteproxyError(f"{where}: found {value!r}, expected {words.get(wanted, wanted.__name__)}")
