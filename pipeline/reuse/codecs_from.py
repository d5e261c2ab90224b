"""Codecs taken from a set that is there, so that sets made apart share an alphabet.

Which views of another set are meant is settled here, before anything is read: an option that was not given is the other
set's, and what the other set does not have must be a codec that learns nothing from documents.
"""

from typing import NamedTuple

from pipeline.config import distinct, parse_views
from pipeline.running.storage import Location, copy_in
from shards.codecs import Codec, ViewSpec, codec_class, load_codec, parse_view
from shards.errors import ByteproxyError
from shards.hashing import folder_digest
from shards.manifest import View
from shards.reader import ShardSet


class Chosen(NamedTuple):
    """Views to make, and for those whose codecs another set has (view, digest of the codec's folder)."""

    views: tuple[ViewSpec, ...]
    codecs: tuple[tuple[str, str], ...] = ()


def choose_views(text: str, codecs_from: str) -> Chosen:
    """The views that a command line asks for, options that it leaves open being those of the set `codecs_from`.

    No text stands for all views of that set. Raises ByteproxyError where a view would have to be fitted, for that set
    has none of its name and kind, or has it with other options.
    """
    if not codecs_from:
        return Chosen(parse_views(text))
    others = ShardSet.open(codecs_from)
    specs, codecs = [], []
    for word in text.split() or list(others.views):
        if word in others.views:  # a bare name
            spec, named = ViewSpec(word, others.views[word].kind, others.codec(word).settings), set()
        else:
            spec, named = parse_view(word), _options_named(word)
        view = others.views.get(spec.name)
        if view is None or view.kind != spec.kind:
            problem = f"{codecs_from} has none of this name and kind"
        else:
            settings = others.codec(spec.name).settings
            differing = [f"{name}={settings[name]}" for name in sorted(named) if spec.options[name] != settings[name]]
            if not differing:
                specs.append(ViewSpec(spec.name, spec.kind, settings))
                codecs.append((spec.name, view.digest))
                continue
            problem = f"{codecs_from} has it with {', '.join(differing)}"
        if codec_class(spec.kind).learns(spec.options):
            raise ByteproxyError(
                f"view {word!r}: its codec is fitted on documents, and {problem}. There is {describe(others)}: ask for "
                "one of these by its name alone, or do without --codecs-from"
            )
        specs.append(spec)
    return Chosen(distinct(tuple(specs)), tuple(codecs))


def copy_codec(location: str, name: str, digest: str, staged: Location) -> tuple[View, Codec]:
    """Copy a view's codec from the set at `location` into the staged set, and load it.

    Raises ByteproxyError if it no longer has the digest that it had when the views were settled.
    """
    others = ShardSet.open(location)
    there = others.view(name)
    source = others.store.small_folder(there.folder)
    found = folder_digest(source)
    if found != digest:
        raise ByteproxyError(
            f"{location}: the codec of view {name} has digest {found}, expected {digest}: it changed while it was read"
        )
    folder = f"codecs/{name}-{digest[:16]}"
    copy_in(source, staged / folder)
    view = View(name, there.kind, there.width, there.alphabet, there.lossless, there.anchor_gap, folder, digest)
    return view, load_codec(source)


def describe(shard_set: ShardSet) -> str:
    """The views of a set as one would ask for them."""
    views = (ViewSpec(n, view.kind, shard_set.codec(n).settings) for n, view in shard_set.views.items())
    return ", ".join(map(spec_text, views)) or "no views"


def spec_text(spec: ViewSpec) -> str:
    """A view as one asks for it, with all its options."""
    options = ",".join(f"{option}={value}" for option, value in spec.options.items())
    return f"{'' if spec.name == spec.kind else f'{spec.name}='}{spec.kind}{':' if options else ''}{options}"


def _options_named(text: str) -> set[str]:
    return {item.partition("=")[0] for item in text.partition(":")[2].split(",") if item}
