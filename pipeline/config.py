"""What a build is asked for: one frozen dataclass, and the part of it that the set's bytes depend on."""

import dataclasses
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from pipeline.cleaning.options import NO_CLEANING, Cleaning
from pipeline.reading.streams import EXPANSION
from pipeline.running.storage import Location
from shards.codecs import ViewSpec, codec_class, parse_view
from shards.errors import ByteproxyError

DEFAULT_VIEWS = "sentencepiece gzip zstd brotli"

# The versions of the algorithms that decide a set's documents, order and bytes: raise one when its results change.
STAGES = {"read": 2, "languages": 2, "filter": 1, "deduplicate": 1, "choose": 1, "split": 1, "sample": 1, "shard": 1}


@dataclass(frozen=True)
class BuildConfig:
    """A build. Fields marked `where` say where and how it runs; the others are part of the set's identity."""

    corpus: tuple[str, ...] = dataclasses.field(metadata={"where": True})
    out: Location = dataclasses.field(metadata={"where": True})
    views: tuple[ViewSpec, ...]
    languages: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    max_bytes: int = 16 << 20
    keep_binary: bool = False
    max_expansion: int = EXPANSION
    detect_language: bool = False
    content_column: str | None = None  # of Parquet files; None: by its name
    val_fraction: float = 0.02
    seed: int = 0
    shard_bytes: int = 128 << 20
    row_group_bytes: int = 128 << 20
    sample_bytes: int = 10 << 20
    sample_rate: float = 1.0  # share of the documents that is taken
    limit: int | None = None  # at most so many documents
    narrowed: bool = False  # languages were named: documents of unknown language are left out
    codecs: tuple[tuple[str, str], ...] = ()  # (view, digest of its codec) where it is another set's: --codecs-from
    codecs_from: str = dataclasses.field(default="", metadata={"where": True})
    fingerprint: str = dataclasses.field(default="times", metadata={"where": True})  # or "content"
    cleaning: Cleaning = NO_CLEANING
    strict: bool = dataclasses.field(default=False, metadata={"where": True})  # stop at the first fault of the input
    block_bytes: int = dataclasses.field(default=8 << 20, metadata={"where": True})
    check: float = dataclasses.field(default=1.0, metadata={"where": True})
    workers: int = dataclasses.field(default=1, metadata={"where": True})
    runner: str = dataclasses.field(default="LocalRunner", metadata={"where": True})
    beam_args: tuple[str, ...] = dataclasses.field(default=(), metadata={"where": True})

    def __post_init__(self) -> None:
        check_range("--val-fraction", self.val_fraction, 0.005, 0.05)
        check_range("--check", self.check, 0.0, 1.0)
        check_range("--max-bytes", self.max_bytes, 1, 1 << 30)
        check_range("--max-expansion", self.max_expansion, 1, 1 << 30)
        check_range("--row-group-bytes", self.row_group_bytes, 1 << 16, 1 << 30)
        check_range("--shard-bytes", self.shard_bytes, 1 << 16, 1 << 40)
        check_range("--block-bytes", self.block_bytes, 1 << 10, 1 << 30)
        check_range("--sample-bytes", self.sample_bytes, 1, 1 << 34)
        check_range("--sample-rate", self.sample_rate, 1e-9, 1.0)
        check_range("--limit", 1 if self.limit is None else self.limit, 1, 1 << 40)
        check_range("--workers", self.workers, 1, 1024)

    def identity(self) -> dict[str, Any]:
        """The part that decides the set's bytes, as plain JSON."""
        fields = [f for f in dataclasses.fields(self) if not f.metadata.get("where")]
        plain = {f.name: getattr(self, f.name) for f in fields if f.name not in ("views", "codecs", "cleaning")}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        views = [
            {"name": v.name, "kind": v.kind, "options": codec_class(v.kind).options() | v.options} for v in self.views
        ]
        codecs = {"codecs": dict(self.codecs)} if self.codecs else {}
        return plain | {"views": views} | codecs | self.cleaning.identity()

    def stages(self) -> dict[str, int]:
        """The versions of the algorithms that this build uses."""
        codecs = {f"codec {view.kind}": codec_class(view.kind).version for view in self.views}
        return STAGES | codecs | self.cleaning.stages()


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise unless low <= value <= high."""
    if not low <= value <= high:
        raise ByteproxyError(f"{name} {value}: must be between {low} and {high}")


def parse_bytes(text: str) -> int:
    """A size such as 16M: k, M, G and T are powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMGT]?)i?B?", text.strip())
    if not match:
        raise ByteproxyError(f"{text!r} is no size; write bytes, or a number with k, M, G or T: 16M")
    return int(float(match[1]) * 1024 ** " kMGT".index(match[2].replace("K", "k") or " "))


def parse_views(text: str) -> tuple[ViewSpec, ...]:
    """Views separated by blanks; names must differ."""
    return distinct(tuple(parse_view(spec) for spec in text.split()))


def distinct(specs: tuple[ViewSpec, ...]) -> tuple[ViewSpec, ...]:
    """These views, if there are any and their names differ."""
    if not specs:
        raise ByteproxyError(f'--views: name at least one, as in --views "{DEFAULT_VIEWS}"')
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ByteproxyError(f"--views: two views are named {name!r}; name one of them: other={name}:…")
    return specs


def digest(value: str) -> str:
    """32 hex digits over a text."""
    return blake2b(value.encode(), digest_size=16).hexdigest()
