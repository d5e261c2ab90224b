"""Fits the codecs, on a deterministic sample of train documents over all languages, and keeps them at once.

The survey has left, for each language, the documents with the lowest keyed draws. Here each language gets a quota of
the sample: a floor, so that a small language has its symbols too, and the rest by its share of the bytes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.config import BuildConfig
from pipeline.records import Place, load_table, places
from pipeline.scratch import Scratch
from pipeline.sources import read_stored
from pipeline.storage import Location, copy_in
from pipeline.survey import SAMPLE_CAP
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
        columns = (candidates[name].to_pylist() for name in ("draw", "size", "id", "source_id"))
        used = 0
        for draw, size, identity, source_id, place in zip(*columns, places(candidates), strict=True):
            if used >= quota:
                break
            used += min(size, SAMPLE_CAP)
            chosen.append((draw, (place, identity, source_id)))
    return [document for _, document in sorted(chosen, key=lambda drawn: drawn[0])]


def read_sample(chosen: list[Chosen]) -> Iterator[bytes]:
    """The sample's documents; of a huge one the first whole lines."""
    for place, identity, source_id in chosen:
        raw = read_stored(place, identity, source_id).raw
        if len(raw) > SAMPLE_CAP:
            raw = raw[: raw.rfind(b"\n", 0, SAMPLE_CAP) + 1 or SAMPLE_CAP]
        yield raw


def fit_view(spec: ViewSpec, chosen: list[Chosen], staged: Location) -> tuple[View, Codec]:
    """Fit one view's codec and save it in the staged set under a name that holds its digest."""
    codec = codec_class(spec.kind).fit(read_sample(chosen), **spec.options)
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
