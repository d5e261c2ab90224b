"""Fits the codecs, on a deterministic sample of train documents over all languages, and keeps them at once.

The survey has left, for each language, the documents with the lowest keyed draws. Here each language gets a quota of
the sample: a floor, so that a small language has its symbols too, and the rest by its share of the bytes.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.blocks import SAMPLE_CAP
from pipeline.config import BuildConfig
from pipeline.reading.sources import Changed, read_stored
from pipeline.records import Place, load_table, places
from pipeline.running.scratch import Scratch
from pipeline.running.storage import Location, copy_in
from shards.codecs import Codec, ViewSpec, codec_class
from shards.hashing import folder_digest
from shards.manifest import View

Chosen = tuple[Place, bytes, bytes | None]  # a document to fit on, its id and source_id


def quotas(available: Mapping[str, int], sample_bytes: int) -> dict[str, int]:
    """Bytes to sample of each language: a quarter of the sample is shared evenly, the rest by bytes available."""
    floor = sample_bytes // (4 * max(1, len(available)))
    quota = {language: min(size, floor) for language, size in available.items()}
    rest = max(0, sample_bytes - sum(quota.values()))
    beyond = {language: size - quota[language] for language, size in available.items()}
    total = sum(beyond.values())
    return {name: quota[name] + (min(beyond[name], rest * beyond[name] // total) if total else 0) for name in available}


def choose_sample(scratch: Scratch, available: Mapping[str, int], sample_bytes: int) -> list[Chosen]:
    """The places of the documents to fit on, in order of their draws."""
    chosen: list[tuple[int, Chosen]] = []
    for language, quota in quotas(available, sample_bytes).items():
        candidates = load_table(scratch.sample(language))
        count = within_quota(candidates["size"].to_numpy(), quota)
        columns = (candidates[name].to_pylist() for name in ("draw", "id", "source_id"))
        rows = zip(*columns, places(candidates), strict=True)
        chosen += [(draw, (place, identity, source_id)) for draw, identity, source_id, place in islice(rows, count)]
    return [document for _, document in sorted(chosen, key=lambda drawn: drawn[0])]


def within_quota(sizes: np.ndarray, quota: int) -> int:
    """How many of a language's candidates, in order, fill its quota: the last one may go beyond it."""
    capped = np.minimum(sizes, SAMPLE_CAP)
    return int(np.searchsorted(np.cumsum(capped) - capped, quota))


def read_sample(chosen: list[Chosen]) -> Iterator[bytes]:
    """The sample's documents; of a huge one the first whole lines."""
    for place, identity, source_id in chosen:
        with contextlib.suppress(Changed):  # the encoding will leave it out, and say so
            yield capped(read_stored(place, identity, source_id).raw)


def capped(raw: bytes) -> bytes:
    """A document, or of a huge one the first whole lines."""
    return raw if len(raw) <= SAMPLE_CAP else raw[: raw.rfind(b"\n", 0, SAMPLE_CAP) + 1 or SAMPLE_CAP]


def fit_view(spec: ViewSpec, sample: Iterable[bytes], staged: Location) -> tuple[View, Codec]:
    """Fit one view's codec and save it in the staged set under a name that holds its digest."""
    codec = codec_class(spec.kind).fit(sample, **spec.options)
    with TemporaryDirectory(prefix="byteproxy-") as draft:
        temporary = Path(draft) / spec.name
        codec.save(temporary)
        digest = folder_digest(temporary)
        folder = f"codecs/{spec.name}-{digest[:16]}"
        copy_in(temporary, staged / folder)
    shape = (codec.width, codec.alphabet, codec.lossless, codec.anchor_gap)
    return View(spec.name, spec.kind, *shape, folder, digest), codec


def needs_fit(config: BuildConfig) -> list[str]:
    """The names of the views whose codecs learn something, and are not another set's."""
    given = dict(config.codecs)
    return [v.name for v in config.views if v.name not in given and codec_class(v.kind).learns(v.options)]
