"""Corpora and sets in object stores: the same bytes as in folders, and no set before its manifest."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from pyarrow import fs

from shards.reader import ShardSet
from tests.pipeline.conftest import PACKAGES, VIEWS, copy_code, digests, run_build
from tests.s3 import BUCKET, address, s3_server, upload

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_code(tmp_path_factory.mktemp("stored") / "corpus", PACKAGES[:2])
    (folder / "odd name%20?#.py").write_bytes(b"odd = True\n")
    (folder / "empty.py").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


def stored(store: fs.FileSystem, folder: str) -> dict[str, str]:
    """sha256 of each object of a set, but the report."""
    found = {}
    for info in store.get_file_info(fs.FileSelector(folder, recursive=True)):
        name = info.path.removeprefix(f"{folder}/")
        if info.is_file and not name.startswith("report."):
            with store.open_input_file(info.path) as file:
                found[name] = sha256(file.read()).hexdigest()
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_set_built_from_s3_to_s3_has_the_bytes_of_one_built_from_folder_to_folder(
    corpus: Path, server: str, tmp_path: Path, workers: int
) -> None:
    store = upload(server, corpus, "corpora/corpus")
    out = f"sets/{workers}"
    flags = ("--workers", str(workers), "--block-bytes", "300k", "--shard-bytes", "500k")
    assert run_build(address(server, "corpora/corpus"), address(server, out), *flags, views=VIEWS) == 0
    assert run_build(corpus, tmp_path / "set", *flags, views=VIEWS) == 0
    assert stored(store, f"{BUCKET}/{out}") == digests(tmp_path / "set")
    shard_set = ShardSet.open(address(server, out), cache=tmp_path / "cache")
    assert len(shard_set.split("train")) > 50
    # again: nothing to do, and nothing written
    before = {i.path: i.mtime_ns for i in store.get_file_info(fs.FileSelector(f"{BUCKET}/{out}", recursive=True))}
    assert run_build(address(server, "corpora/corpus"), address(server, out), *flags, views=VIEWS) == 0
    after = {i.path: i.mtime_ns for i in store.get_file_info(fs.FileSelector(f"{BUCKET}/{out}", recursive=True))}
    assert before == after


def test_compressed_lines_in_s3_build_a_set_in_a_folder(corpus: Path, server: str, tmp_path: Path) -> None:
    import gzip
    import json

    (tmp_path / "up").mkdir()
    lines = [json.dumps({"text": p.read_text("latin-1"), "path": p.name}) for p in sorted(corpus.glob("*.py"))]
    (tmp_path / "up" / "code.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    (tmp_path / "up" / "plain.jsonl").write_text("\n".join(lines))
    upload(server, tmp_path / "up", "lines")
    for name in ("code.jsonl.gz", "plain.jsonl"):
        assert run_build(address(server, f"lines/{name}"), tmp_path / f"far-{name}") == 0
        assert run_build(tmp_path / "up" / name, tmp_path / f"near-{name}") == 0
        assert digests(tmp_path / f"far-{name}") == digests(tmp_path / f"near-{name}")
