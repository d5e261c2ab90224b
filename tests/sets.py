"""Builds real shard sets for tests: the project's writer and codecs, the interpreter's own source as documents."""

import sysconfig
from collections.abc import Iterable
from pathlib import Path

from shards.codecs import codec_class, parse_view
from shards.hashing import document_id, folder_digest
from shards.manifest import Manifest, ShardFile, View
from shards.writer import Document, table_of, write_shard


def build_set(
    folder: Path,
    train: Iterable[bytes],
    val: Iterable[bytes],
    *specs: str,
    shards: int = 1,
    row_group_bytes: int = 1 << 27,
) -> Path:
    """A shard set of these documents with the views of `specs`; codecs that need it are fitted on the train split."""
    splits = {"train": sorted(set(train), key=document_id), "val": sorted(set(val), key=document_id)}
    views, codecs = [], {}
    for spec in map(parse_view, specs):
        codec = codecs[spec.name] = codec_class(spec.kind).fit(splits["train"], **spec.options)
        draft = folder / "codecs" / spec.name
        draft.mkdir(parents=True)
        codec.save(draft)
        digest = folder_digest(draft)
        home = f"codecs/{spec.name}-{digest[:16]}"
        draft.rename(folder / home)
        views.append(
            View(spec.name, spec.kind, codec.width, codec.alphabet, codec.lossless, codec.anchor_gap, home, digest)
        )
    files: dict[str, tuple[ShardFile, ...]] = {}
    for split, raws in splits.items():
        (folder / split).mkdir(parents=True)
        documents = [
            Document(
                raw, path=f"{split}/{i}.py", language="python", encoded={n: c.encode(raw) for n, c in codecs.items()}
            )
            for i, raw in enumerate(raws)
        ]
        step, written = -(-len(documents) // shards) or 1, []
        for number in range(shards):
            name = f"{split}/shard-{number:05}-of-{shards:05}.parquet"
            table = table_of(documents[number * step : (number + 1) * step], views)
            written.append(write_shard(folder / name, [table], views, name, row_group_bytes))
        files[split] = tuple(written)
    Manifest(tuple(views), files).save(folder)
    return folder


def standard_library(largest: int, count: int) -> list[bytes]:
    """Some source files of the interpreter, distinct, not empty, in order of their names."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_bytes() for path in files if 0 < path.stat().st_size <= largest]
    return texts[:count]
