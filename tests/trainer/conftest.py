"""A real shard set of the interpreter's own source, built through the writer and a fitted codec, once a session."""

import sysconfig
from collections.abc import Iterable
from pathlib import Path

import pytest

from shards.codecs import codec_class, parse_view
from shards.hashing import document_id, folder_digest
from shards.manifest import Manifest, View
from shards.reader import ShardSet
from shards.writer import Document, table_of, write_shard
from trainer.config import Config, make_config

TINY = {
    "preset": "demo", "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "mlp": 64, "context": 272,
    "batch_rows": 4, "steps": 12, "warmup_steps": 2, "dtype": "float32", "threads": 1, "device": "cpu",
    "checkpoint_every": 4, "eval_every": 6, "eval_bytes": 2000, "log_every": 3, "lr": 1e-2, "anneal": 0.3,
    "translation": 0.4,
}  # fmt: skip


def build_set(folder: Path, train: Iterable[bytes], val: Iterable[bytes], *specs: str) -> Path:
    """A shard set of these documents; codecs that need it are fitted on the train split."""
    splits = {"train": sorted(set(train), key=document_id), "val": sorted(set(val), key=document_id)}
    views, codecs = [], []
    for spec in map(parse_view, specs):
        codec = codec_class(spec.kind).fit(splits["train"], **spec.options)
        draft = folder / "codecs" / spec.name
        draft.mkdir(parents=True)
        codec.save(draft)
        digest = folder_digest(draft)
        home = f"codecs/{spec.name}-{digest[:16]}"
        draft.rename(folder / home)
        codecs.append(codec)
        views.append(View(spec.name, spec.kind, codec.width, codec.alphabet, True, codec.anchor_gap, home, digest))
    shards = {}
    for split, raws in splits.items():
        (folder / split).mkdir(parents=True)
        documents = [
            Document(raw, encoded={v.name: c.encode(raw) for v, c in zip(views, codecs, strict=True)}) for raw in raws
        ]
        name = f"{split}/shard-00000-of-00001.parquet"
        shards[split] = (write_shard(folder / name, [table_of(documents, views)], views, name),)
    Manifest(tuple(views), shards).save(folder)
    return folder


def standard_library(largest: int, count: int) -> list[bytes]:
    """Some source files of the interpreter, in order of their names."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_bytes() for path in files if 0 < path.stat().st_size <= largest]
    return texts[:count]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of some sixty small modules, an empty document, and one that is not UTF-8; views sentencepiece and gzip."""
    texts = standard_library(12_000, 60)
    odd = [b"", b"\xff\xfe\x00 not text \x80", b"x = 1\r\n"]
    folder = tmp_path_factory.mktemp("set")
    return build_set(folder, texts[8:] + odd[:2], [*texts[:8], odd[2]], "sentencepiece:vocab=512", "gzip")


@pytest.fixture(scope="session")
def tiny_set(tiny_folder: Path) -> ShardSet:
    return ShardSet.open(tiny_folder)


@pytest.fixture
def tiny_config(tiny_folder: Path, tmp_path: Path) -> Config:
    """A run of some seconds on the tiny set."""
    return make_config({**TINY, "shards": str(tiny_folder), "run": str(tmp_path / "run")})
