"""Corpora and sets in object stores: the same bytes as in folders, and no set before its manifest."""

import gzip
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest
import zstandard
from pyarrow import fs

from shards.bucket import Bucket
from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests import gcs, s3
from tests.pipeline.conftest import FAST, PACKAGES, VIEWS, copy_code, digests, run_build
from tests.pipeline.test_inputs import as_parquet, as_tar, as_zip
from tests.s3 import BUCKET

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_code(tmp_path_factory.mktemp("stored") / "corpus", PACKAGES[:2])
    (folder / "odd name%20?#.py").write_bytes(b"odd = True\n")
    (folder / "empty.py").write_bytes(b"")
    (folder / "near.py").write_bytes((folder / "json" / "decoder.py").read_bytes() + b"more = 1\n")
    return folder


class Server(NamedTuple):
    """A store on loopback that holds the corpus."""

    store: fs.FileSystem
    address: Callable[[str], str]
    upload: Callable[[Path, str], object]


@pytest.fixture(scope="module", params=["s3", "gcs"])
def server(request: pytest.FixtureRequest, corpus: Path) -> Iterator[Server]:
    module, running = (s3, s3.s3_server) if request.param == "s3" else (gcs, gcs.gcs_server)
    with running() as endpoint:
        store = module.upload(endpoint, corpus, "corpora/corpus")
        yield Server(store, partial(module.address, endpoint), partial(module.upload, endpoint))


def stored(store: fs.FileSystem, folder: str) -> dict[str, str]:
    """sha256 of each object of a set, but the report."""
    found = {}
    for info in store.get_file_info(fs.FileSelector(folder, recursive=True)):
        name = info.path.removeprefix(f"{folder}/")
        if info.is_file and not name.startswith("report."):
            with store.open_input_file(info.path) as file:
                found[name] = sha256(file.read()).hexdigest()
    return found


def written(store: fs.FileSystem, folder: str) -> dict[str, int]:
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    return {info.path: info.mtime_ns for info in store.get_file_info(selector)}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_set_built_from_store_to_store_has_the_bytes_of_one_built_from_folder_to_folder(
    corpus: Path, server: Server, tmp_path: Path, workers: int
) -> None:
    place = f"{BUCKET}/sets/{workers}"
    build = partial(run_build, server.address("corpora/corpus"), server.address(f"sets/{workers}"))
    flags = ["--workers", str(workers), "--block-bytes", "300k", "--shard-bytes", "500k"]
    flags += ["--clean", "--scrub", "--near-duplicates", "--drop-val-twins"] if workers == 2 else []
    assert build(*flags, views=VIEWS) == 0
    assert run_build(corpus, tmp_path / "set", *flags, views=VIEWS) == 0
    assert stored(server.store, place) == digests(tmp_path / "set")
    shard_set = ShardSet.open(server.address(f"sets/{workers}"), cache=tmp_path / "cache")
    assert sum(len(shard_set.split("train").raw(i)) for i in range(len(shard_set.split("train")))) > 500_000
    before = written(server.store, place)
    assert build(*flags, views=VIEWS) == 0  # there already: nothing is written
    assert written(server.store, place) == before


def test_a_build_in_a_store_that_was_killed_goes_on_and_is_no_set_before_its_end(
    corpus: Path, server: Server, tmp_path: Path
) -> None:
    source, out = server.address("corpora/corpus"), server.address("sets/killed")
    command = [sys.executable, "-m", "pipeline", "build", source, "--out", out, "--views", VIEWS, *FAST]
    command += ["--block-bytes", "100k"]
    place = f"{BUCKET}/sets/killed"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]) as process:
        wait_for(lambda: sum("/blocks/" in name for name in written(server.store, place)) > 4)
        process.kill()
    assert f"{place}/manifest.json" not in written(server.store, place)
    with pytest.raises(ByteproxyError, match="is no shard set"):
        ShardSet.open(out, cache=tmp_path / "cache")
    assert run_build(source, out, "--block-bytes", "100k", views=VIEWS) == 0
    assert run_build(corpus, tmp_path / "set", "--block-bytes", "100k", views=VIEWS) == 0
    assert stored(server.store, place) == digests(tmp_path / "set")


def test_lines_in_a_store_build_a_set_in_a_folder(corpus: Path, server: Server, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    lines = [json.dumps({"text": p.read_text("latin-1"), "path": p.name}) for p in sorted(corpus.glob("*.py"))]
    (tmp_path / "up" / "code.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    (tmp_path / "up" / "code.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    (tmp_path / "up" / "plain.jsonl").write_text("\n".join(lines))
    server.upload(tmp_path / "up", "lines")
    for name in ("code.jsonl.gz", "code.jsonl.zst", "plain.jsonl"):
        assert run_build(server.address(f"lines/{name}"), tmp_path / f"far-{name}") == 0
        assert run_build(tmp_path / "up" / name, tmp_path / f"near-{name}") == 0
        assert digests(tmp_path / f"far-{name}") == digests(tmp_path / f"near-{name}")


@pytest.mark.parametrize(
    ("name", "make"), [("a.tar", as_tar), ("b.tgz", as_tar), ("c.zip", as_zip), ("d.parquet", as_parquet)]
)
def test_archives_and_tables_in_a_store_are_read_there(
    name: str, make: Callable[[Path, Path], None], corpus: Path, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "up").mkdir()
    make(corpus, tmp_path / "up" / name)
    server.upload(tmp_path / "up", "archives")
    assert run_build(server.address(f"archives/{name}"), tmp_path / "far") == 0
    assert run_build(tmp_path / "up" / name, tmp_path / "near") == 0
    assert digests(tmp_path / "far") == digests(tmp_path / "near")


def test_what_is_not_there_in_a_store_is_said(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ByteproxyError, match=r"corpus .*://shards/nothing: there is no such object, and none below it"):
        run_build(server.address("nothing"), tmp_path / "set")


def test_what_is_written_has_the_bytes_given_whatever_its_name(server: Server) -> None:
    bucket = Bucket(server.address("names"))
    for name in ("a.gz", "b.zst", "c.bz2", "d e%20?#.py", "plain"):
        bucket.write(name, io.BytesIO(b"as it is"))
        assert bucket.read(name) == b"as it is"
    bucket.remove("")
    assert bucket.names("") == []


def test_codecs_may_come_from_a_set_in_a_store_and_content_tells_its_corpus(
    corpus: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, first = server.address("corpora/corpus"), server.address("sets/first")
    flags = ("--fingerprint", "content")
    assert run_build(source, first, *flags, views="sentencepiece:vocab=400 gzip") == 0
    server.upload(corpus, "corpora/corpus")  # the same files, at another time
    assert run_build(source, first, *flags, views="sentencepiece:vocab=400 gzip") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run_build(corpus, tmp_path / "set", "--codecs-from", first, views="sentencepiece") == 0
    views = ShardSet.open(first, cache=tmp_path / "other").views
    assert ShardSet.open(tmp_path / "set").view("sentencepiece") == views["sentencepiece"]
