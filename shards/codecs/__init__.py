"""The codecs, one file a compressor. A kind's file, and with it its library, is imported only when that kind is used.

Other packages add kinds by an entry point in the group `byteproxy.codecs` that names a `Codec` class.
"""

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from shards.codecs.base import Codec, Encoded, nearest, read_description
from shards.errors import ByteproxyError
from shards.schema import is_view_name

__all__ = ["Codec", "Encoded", "ViewSpec", "codec_class", "described", "load_codec", "parse_view"]

ENTRY_POINTS = "byteproxy.codecs"

_BUILT_IN = {
    "sentencepiece": "shards.codecs.sentencepiece:SentencePiece",
    "gzip": "shards.codecs.gzip:Gzip",
    "zstd": "shards.codecs.zstd:Zstd",
    "brotli": "shards.codecs.brotli:Brotli",
    "neural": "shards.codecs.neural.codec:Neural",
    "ngram": "shards.codecs.ngram.codec:NGram",
}


class ViewSpec(NamedTuple):
    """A view as asked for on a command line, its options checked and complete."""

    name: str
    kind: str
    options: dict[str, Any]


def codec_class(kind: str) -> type[Codec]:
    """The class of a kind. Raises ByteproxyError if there is none, or if its library is not installed."""
    others = {} if kind in _BUILT_IN else {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    try:
        if kind in _BUILT_IN:
            module, _, name = _BUILT_IN[kind].partition(":")
            found = getattr(import_module(module), name)
        elif kind in others:
            found = others[kind].load()
        else:
            raise ByteproxyError(f"no codec {kind!r} ({nearest(kind, {*_BUILT_IN, *others})})")
    except ModuleNotFoundError as error:
        needs = f"codec {kind} needs the Python package {error.name!r}, which is not installed"
        raise ByteproxyError(
            f"{needs}; pip install 'byteproxy[codecs,neural]' has those of the built-in codecs"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Codec)):
        raise ByteproxyError(f"entry point {kind!r} of {ENTRY_POINTS}: found {found!r}, expected a Codec class")
    return found


def described() -> str:
    """Every kind that is installed: what it is, its options with their defaults and what else they take."""
    found = []
    for kind in (*_BUILT_IN, *sorted(point.name for point in entry_points(group=ENTRY_POINTS))):
        try:
            codec = codec_class(kind)
        except ByteproxyError as error:
            found.append(f"{kind}\n  {error}")
            continue
        text = (codec.__doc__ or "").split("\n\n")[0]
        found.append("\n  ".join([kind, *map(str.strip, text.strip().splitlines())]))
        for name, default in codec.options().items():
            value = "" if default == "" else f"={default}"
            bare = f"; {kind}:VALUE is short for it" if name == codec.positional else ""
            found.append(f"    {name}{value}{_allowed(codec, name)}{bare}")
    return "\n".join(found)


def _allowed(codec: type[Codec], option: str) -> str:
    if option in codec.choices:
        return f"  ({', '.join(map(str, codec.choices[option]))})"
    if (span := codec.ranges.get(option)) is not None:
        return f"  ({span.start:,} to {span.stop - 1:,})"
    return ""


def load_codec(folder: Path) -> Codec:
    """The codec saved in a folder, of whatever kind."""
    return codec_class(read_description(folder)["kind"]).load(folder)


def parse_view(spec: str) -> ViewSpec:
    """Read `[name=]kind[:option=value[,option=value…]]`; without a name, the view is called like its kind.

    Raises ByteproxyError on a name that cannot be a column's, an unknown kind or option, or a value out of range.
    """
    head, _, tail = spec.partition(":")
    given, named, kind = head.rpartition("=")
    name = given if named else kind
    codec = codec_class(kind)
    if not is_view_name(name):
        rule = "lower-case letters, digits and _, starting with a letter, no other column's name or suffix"
        raise ByteproxyError(f"view {spec!r}: {name!r} cannot be its name, expected {rule}; write NAME={kind}…")
    options: dict[str, str] = {}
    for item in filter(None, tail.split(",")):
        option, equals, value = item.partition("=")
        if not equals and codec.positional and codec.positional not in options:
            option, equals, value = codec.positional, "=", item
        if not equals or option in options:
            raise ByteproxyError(f"view {spec!r}: found {item!r}, expected each option once, as option=value")
        options[option] = value
    return ViewSpec(name, kind, codec.settle(options))
