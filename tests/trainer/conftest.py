"""One small real shard set a session, and a run on it that takes seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shards.reader import ShardSet
from tests.sets import build_set, standard_library
from trainer.config import Config, make_config

TINY = {
    "preset": "demo", "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "mlp": 64, "context": 272,
    "batch_rows": 4, "lanes": 8, "steps": 12, "warmup_steps": 2, "dtype": "float32", "threads": 1, "device": "cpu",
    "checkpoint_every": 4, "eval_every": 6, "eval_bytes": 2000, "log_every": 3, "lr": 1e-2, "anneal": 0.3,
    "translation": 0.4, "compile": "off",
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some sixty small modules, an empty document and one that is not UTF-8; views sentencepiece and gzip."""
    texts = standard_library(12_000, 60)
    odd = [b"", b"\xff\xfe\x00 not text \x80", b"x = 1\r\n"]
    folder = tmp_path_factory.mktemp("set")
    return build_set(folder, [*texts[8:], *odd[:2]], [*texts[:8], b"", odd[2]], "sentencepiece:vocab=512", "gzip")


@pytest.fixture(scope="session")
def tiny_set(tiny_folder: Path) -> ShardSet:
    return ShardSet.open(tiny_folder)


@pytest.fixture(scope="session")
def mixed_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Documents of 0, 1, around a context's and many bytes; a view with inner anchors, and one without."""
    texts = standard_library(6_000, 12)
    long = standard_library(40_000, 60)[-1]
    texts += [long[:n] for n in (0, 1, 2, 3, 295, 296, 297, 298, 299, 300, 301, 302, 600)] + [long, b"\xff\0" * 400]
    folder = tmp_path_factory.mktemp("plan") / "set"
    return ShardSet.open(build_set(folder, texts, texts[:1], "sentencepiece:vocab=400", "gzip", shards=4))


@pytest.fixture
def tiny_config(tiny_folder: Path, tmp_path: Path) -> Config:
    return make_config({**TINY, "shards": str(tiny_folder), "run": str(tmp_path / "run")})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests of one machine share its cores, and a run sets the process's threads."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
