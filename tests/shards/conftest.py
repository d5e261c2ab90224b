"""One small set with two shards a split and several row groups a shard, shared by the tests that only read it."""

from pathlib import Path

import pytest

from shards.reader import ShardSet
from tests.sets import build_set, standard_library

ODD = [b"", b"\0", b"\xff\xfe not utf-8", "▁ and ▁▁".encode(), b"\r\n" * 40, b"<s></s><raw>", b" " * 5000]


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = standard_library(20_000, 40)
    folder = tmp_path_factory.mktemp("small") / "set"
    return build_set(
        folder, texts[4:] + ODD, texts[:4], "sentencepiece:vocab=512", "gzip", shards=2, row_group_bytes=60_000
    )


@pytest.fixture
def small_set(small_folder: Path) -> ShardSet:
    return ShardSet.open(small_folder)
