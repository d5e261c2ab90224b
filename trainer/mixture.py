"""The shard sets that a run trains on: one or several by weight, here or in an object store, less what is left out."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from shards.errors import ByteproxyError
from shards.hashing import ID_BYTES
from shards.manifest import View
from shards.reader import ShardSet
from shards.store import is_remote
from trainer.ahead import Source
from trainer.config import Config
from trainer.order import Order, quality


@dataclass(frozen=True)
class Mixture:
    """Open sets with their weights, the views that the run trains on, and what a resume must find unchanged."""

    sets: list[ShardSet]
    sources: list[Source]
    views: list[View]
    shares: list[float]  # of the views, where a document takes a compressed one
    digests: dict[str, str]

    @property
    def first(self) -> ShardSet:
        """The set whose val split is held out."""
        return self.sets[0]


def open_mixture(config: Config) -> Mixture:
    """Open the sets of `config.shards`, see `parse_shards`; refuse sets whose views are not made by the same codec."""
    parts = parse_shards(config.shards)
    cache, sets = Path(config.cache) if config.cache else None, []
    for location, _ in parts:
        home = cache / blake2b(location.encode(), digest_size=8).hexdigest() if cache else None
        sets.append(ShardSet.open(location, config.check != "off", home, config.cache_bytes))
        _check_window(sets[-1], location, config)
    wanted = {} if config.mode == "bytes" else parse_views(config.views or next(iter(sets[0].views), "sentencepiece"))
    views = [sets[0].view(name) for name in wanted]
    for (location, _), shard_set in zip(parts[1:], sets[1:], strict=True):
        _check_views(views, shard_set, location, parts[0][0])
    identities = read_ids(Path(config.exclude)) if config.exclude else []
    sources = [
        Source(shard_set.split("train"), weight, _documents(shard_set, identities))
        for (_, weight), shard_set in zip(parts, sets, strict=True)
    ]
    return Mixture(sets, sources, views, list(wanted.values()), _digests(sets, views, identities))


def parse_shards(text: str) -> list[tuple[str, float]]:
    """`a` or `a:0.7,b:0.3`: locations with their weights (1 where none is given)."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(.+?)(?::(\d+(?:\.\d*)?|\.\d+))?", part.strip())
        if not match:
            raise ByteproxyError(f"--shards {text!r}: a set is missing; for instance --shards data/a:0.7,data/b:0.3")
        location, weight = match[1], match[2]
        if weight and re.search(
            r"://[^/?]*$|[?&][^=]*=[^&]*$", location
        ):  # a port: s3://host:9000, …override=host:9000
            location, weight = f"{location}:{weight}", None
        if weight and float(weight) <= 0:
            raise ByteproxyError(f"--shards {part}: weight {weight} found, more than 0 expected")
        found.append((location, float(weight) if weight else 1.0))
    return found


def parse_views(text: str) -> dict[str, float]:
    """`sentencepiece` or `sentencepiece:0.6,gzip:0.3`: views with their shares (1 where none is given)."""
    found: dict[str, float] = {}
    for part, name, value in _numbers_by_name(text, "--views"):
        share = 1.0 if value is None else value
        if not name or not 0 < share < float("inf"):
            raise ByteproxyError(f"--views {text!r}: {part!r} found, a view or view:share (over 0) expected")
        found[name] = share
    return found


def parse_weights(text: str, views: Sequence[str]) -> list[float]:
    """`sentencepiece:0.5,raw:1`: a weight for each of `views`, of which raw is the first; 1 where none is given."""
    found = dict.fromkeys(views, 1.0)
    for part, name, value in _numbers_by_name(text, "--weights") if text else ():
        if value is None or not 0 <= value < float("inf"):
            raise ByteproxyError(f"--weights {text!r}: {part!r} found, view:weight (0 or more) expected")
        if name not in found:
            raise ByteproxyError(
                f"--weights {text!r}: view {name} found, one of {', '.join(views)} expected, which the run trains on"
            )
        found[name] = value
    if not any(found.values()):
        raise ByteproxyError(f"--weights {text!r}: 0 for every view found, more for one of {', '.join(views)} expected")
    return list(found.values())


def _numbers_by_name(text: str, flag: str) -> Iterator[tuple[str, str, float | None]]:
    """The parts of `a:1,b:2`, each with its name and number: None where there is none, NaN where it is not one."""
    seen = set()
    for part in text.split(","):
        name, colon, number = part.strip().partition(":")
        if name in seen:
            raise ByteproxyError(f"{flag} {text!r}: {name} is there twice")
        seen.add(name)
        try:
            yield part, name, float(number) if colon else None
        except ValueError:
            yield part, name, float("nan")


def read_ids(path: Path, flag: str = "--exclude") -> list[bytes]:
    """The document ids of a list, sorted: 32 hex digits a line; empty lines and `#` comments are passed."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ByteproxyError(f"{flag} {path}: cannot be read ({error})") from None
    found = set()
    for number, line in enumerate(lines, 1):
        if text := line.partition("#")[0].strip():
            if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * ID_BYTES}}}", text):
                raise ByteproxyError(
                    f"{path}, line {number}: {text!r} found, an id of {2 * ID_BYTES} hex digits expected"
                )
            found.add(bytes.fromhex(text))
    return sorted(found)


def describe(mixture: Mixture, config: Config, orders: bool = False) -> list[str]:
    """Lines for the console: sets, weights, what is left out; with a window, or `orders`, how shuffled an order is."""
    lines = []
    total = sum(source.weight for source in mixture.sources)
    for shard_set, source in zip(mixture.sets, mixture.sources, strict=True):
        share = f"{source.weight / total:.0%} " if len(mixture.sets) > 1 else ""
        left_out = f", {len(source.excluded):,} left out" if len(source.excluded) else ""
        lines.append(f"set: {share}{shard_set.location}, {len(source.split):,} documents{left_out}")
        files = [file.rows for file in source.split.files]
        if orders or config.shuffle_window:
            lines.append(_order_line("global", Order(files, config.seed)))
        if config.shuffle_window:
            name = f"windows of {config.shuffle_window} shards"
            lines.append(_order_line(name, Order(files, config.seed, config.shuffle_window)))
    return lines


def _order_line(name: str, order: Order) -> str:
    found = quality(order)
    return (
        f"order, {name}: displacement {found['displacement']:.3f} (uniform 0.333), distance of neighbours "
        f"{found['neighbour_distance']:.3f} (uniform 0.293)"
    )


def _check_window(shard_set: ShardSet, location: str, config: Config) -> None:
    """A cache smaller than the set needs an order that works on a part of it at a time."""
    files = shard_set.manifest.splits["train"]
    total = sum(file.size for file in files)
    if not is_remote(location) or not config.cache_bytes:
        return
    if config.cache_bytes < total and not config.shuffle_window:
        raise ByteproxyError(
            f"{location} takes {total:,} bytes and the cache {config.cache_bytes:,}: a global order would fetch files "
            "again and again. Give --shuffle-window K (shards shuffled together), or a larger --cache-bytes"
        )
    window = sum(sorted((file.size for file in files), reverse=True)[: config.shuffle_window])
    if config.shuffle_window and config.cache_bytes < min(window, total):
        raise ByteproxyError(
            f"--shuffle-window {config.shuffle_window}: up to {window:,} bytes at a time, and the cache holds "
            f"{config.cache_bytes:,}. Give a smaller window or a larger --cache-bytes"
        )


def _check_views(views: Sequence[View], shard_set: ShardSet, location: str, first: str) -> None:
    for view in views:
        other = shard_set.view(view.name)
        if (other.digest, other.width, other.alphabet) != (view.digest, view.width, view.alphabet):
            raise ByteproxyError(
                f"view {view.name} of {location} was made by another codec than that of {first}: their symbols mean "
                "different things. Build both with the same codecs"
            )


def _documents(shard_set: ShardSet, identities: Sequence[bytes]) -> np.ndarray:
    """The numbers of those of these documents that the train split holds, sorted."""
    split = shard_set.split("train")
    found = (split.find(identity) for identity in identities)
    return np.array(sorted(number for number in found if number is not None), np.int64)


def _digests(sets: Sequence[ShardSet], views: Sequence[View], identities: Sequence[bytes]) -> dict[str, str]:
    """What of the sets a run depends on: documents, their order, the views trained on, and what is left out."""
    found = {}
    for number, shard_set in enumerate(sets):
        suffix = f" of set {number}" if number else ""
        manifest = shard_set.manifest
        found[f"order{suffix}"] = manifest.order_digest("train")
        for name in ["raw", *(view.name for view in views)]:
            found[name + suffix] = manifest.view_digest("train", name)
    if identities:
        found["excluded"] = blake2b(b"".join(identities), digest_size=16).hexdigest()
    return found
