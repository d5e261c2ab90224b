"""Sets in an object store: a real S3 server on loopback, the same bytes, a bounded cache, and every way to fail."""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shards.errors import ByteproxyError, CorruptShard
from shards.hashing import folder_digest
from shards.manifest import Manifest, ShardFile
from shards.remote import RemoteFiles
from shards.store import is_remote
from tests.s3 import BUCKET, SECRET, address, s3_server, upload
from tests.sets import build_set


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as host_and_port:
        yield host_and_port


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of eight train shards of about the same size."""
    train = [os.urandom(1500) for _ in range(48)]
    return build_set(tmp_path_factory.mktemp("local") / "set", train, [b"held out"], "gzip", shards=8)


@pytest.fixture(scope="module")
def url(endpoint: str, local: Path) -> str:
    upload(endpoint, local, "sets/one")
    return address(endpoint, "sets/one")


def train_of(files: RemoteFiles) -> tuple[ShardFile, ...]:
    return files.manifest().splits["train"]


def used(cache: Path) -> int:
    """Bytes in a folder, whatever their names, while nothing is evicted or renamed: both happen under its lock."""
    with (cache / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        total = 0
        for path in cache.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a draft that is given up
                total += path.stat().st_size if path.is_file() else 0
        return total


def fetched(cache: Path) -> set[str]:
    """The shards in a cache, by the stem of their name in it."""
    return {path.name.partition(".")[0] for path in cache.glob("*.parquet") if not path.name.startswith(".tmp-")}


def stem(shard: ShardFile) -> str:
    return shard.path.removesuffix(".parquet").replace("/", "-")


def until(true: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(0.01)


def test_what_is_remote() -> None:
    assert is_remote("s3://bucket/set") and is_remote("gs://bucket/set") and is_remote("S3://b")
    assert not any(map(is_remote, ("data/set", "/data/s3:/x", "file:///data/set", Path("/data/set"), "c:/data")))


@pytest.mark.network
def test_a_set_read_through_the_cache_is_the_local_one_byte_for_byte(url: str, local: Path, tmp_path: Path) -> None:
    files = RemoteFiles(url, tmp_path / "a" / "cache", 0)
    assert files.manifest() == Manifest.load(local)
    for shards in files.manifest().splits.values():
        for shard in shards:
            assert files.path(shard).read_bytes() == (local / shard.path).read_bytes()
            assert shard.sha256 in files.path(shard).name
    [view] = files.manifest().views
    for damage in (lambda _: None, lambda path: path.write_bytes(b"x")):
        folder = files.small_folder(view.folder)
        assert folder_digest(folder) == view.digest
        damage(next(path for path in folder.rglob("*") if path.is_file()))  # the next call repairs it
    assert folder_digest(files.small_folder(view.folder)) == view.digest
    assert not list((tmp_path / "a" / "cache").glob(".tmp-*"))


@pytest.mark.network
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_may_come_from_the_environment(
    endpoint: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://{endpoint}")
    assert len(train_of(RemoteFiles(url.partition("?")[0] + "/", tmp_path, 0))) == 8


@pytest.mark.network
def test_the_limit_holds_throughout_and_every_file_is_read(url: str, local: Path, tmp_path: Path) -> None:
    shards = train_of(RemoteFiles(url, tmp_path, 0))
    limit = sum(shard.size for shard in shards[:3]) + 4000
    seen, done = [0], threading.Event()

    def measure() -> None:
        while not done.wait(0.001):
            seen.append(used(tmp_path))

    watcher = threading.Thread(target=measure)
    watcher.start()
    files = RemoteFiles(url, tmp_path, limit)
    [view] = files.manifest().views
    files.small_folder(view.folder)
    try:
        for turn in range(2):
            for number, shard in enumerate(shards):
                files.want(shards[number : number + 3])
                assert files.path(shard).read_bytes() == (local / shard.path).read_bytes(), turn
                seen.append(used(tmp_path))
                files.release(shard)
    finally:
        done.set()
        watcher.join()
        files.close()
    assert limit / 2 < max(seen) <= limit and len(seen) > 20
    assert len(fetched(tmp_path)) < len(shards)


@pytest.mark.network
def test_files_of_former_processes_count_and_go_least_recently_used_first(url: str, tmp_path: Path) -> None:
    first = RemoteFiles(url, tmp_path, 0)
    shards = train_of(first)
    for shard in shards[:4]:
        first.path(shard)
    (tmp_path / "notes.txt").write_text("not ours to delete")
    first.path(shards[0])  # used again: shard 1 is now the oldest
    second = RemoteFiles(url, tmp_path, sum(shard.size for shard in shards[:4]) + 5000)
    second.path(shards[4])
    assert fetched(tmp_path) == {stem(shards[i]) for i in (0, 2, 3, 4)}
    third = RemoteFiles(url, tmp_path, shards[4].size + 5000)
    third.path(shards[4])  # already there: nothing has to go
    assert len(fetched(tmp_path)) == 4
    third.release(shards[4])
    third.path(shards[5])
    assert fetched(tmp_path) == {stem(shards[5])} and (tmp_path / "notes.txt").exists()


@pytest.mark.network
def test_pinned_files_are_never_evicted_and_the_error_names_the_flags(url: str, tmp_path: Path) -> None:
    shards = train_of(RemoteFiles(url, tmp_path, 0))
    files = RemoteFiles(url, tmp_path, shards[0].size + shards[1].size + 500)
    held = [files.path(shard) for shard in shards[:2]]
    files.want(shards[2:])
    with pytest.raises(
        ByteproxyError, match=rf"no room for {shards[2].path}.*--cache-bytes.*--shuffle-window"
    ) as error:
        files.path(shards[2])
    assert f"{files._cache.limit:,}" in str(error.value) and all(path.exists() for path in held)
    files.release(shards[0])
    assert files.path(shards[3]).exists()
    assert held[1].exists() and not held[0].exists()
    files.close()
    small = RemoteFiles(url, tmp_path / "small", 100)
    with pytest.raises(ByteproxyError, match="the limit is 100: raise it"):
        small.path(shards[0])


@pytest.mark.network
def test_what_is_wanted_is_fetched_ahead_in_order_as_far_as_fits(url: str, tmp_path: Path) -> None:
    shards = train_of(RemoteFiles(url, tmp_path, 0))
    files = RemoteFiles(url, tmp_path, sum(shard.size for shard in shards[:3]) + 500)
    files.want(shards)
    until(lambda: fetched(tmp_path) == {stem(shard) for shard in shards[:3]})
    time.sleep(0.1)
    assert fetched(tmp_path) == {stem(shard) for shard in shards[:3]}  # none drives out one that is wanted before it
    files.path(shards[0])
    files.release(shards[0])
    until(lambda: fetched(tmp_path) == {stem(shard) for shard in shards[1:4]})
    files.want([shards[7]])  # what is no longer wanted may go
    until(lambda: stem(shards[7]) in fetched(tmp_path))
    files.close()
    assert not files._thread.is_alive()


@pytest.mark.network
def test_a_corrupted_object_is_refused_by_name_also_when_it_was_wanted(
    endpoint: str, local: Path, tmp_path: Path
) -> None:
    store = upload(endpoint, local, "sets/bad")
    cache = tmp_path / "cache"
    files = RemoteFiles(address(endpoint, "sets/bad"), cache, 0)
    shards = train_of(files)
    good = (local / shards[0].path).read_bytes()
    flipped = good[:700] + bytes([good[700] ^ 1]) + good[701:]
    for shard, data in ((shards[0], flipped), (shards[1], good[:-1])):
        with store.open_output_stream(f"{BUCKET}/sets/bad/{shard.path}") as out:
            out.write(data)
    store.delete_file(f"{BUCKET}/sets/bad/{shards[2].path}")
    files.want(shards[:4])
    until(lambda: stem(shards[3]) in fetched(cache))
    for shard, found in zip(shards, ("sha256 .* expected", "bytes found", "no such object"), strict=False):
        with pytest.raises(CorruptShard, match=rf"^s3://{BUCKET}/sets/bad/{shard.path}: .*{found}") as error:
            files.path(shard)
        assert error.value.file.endswith(shard.path)
    assert fetched(cache) == {stem(shards[3])} and not list(cache.glob(".tmp-*"))
    with store.open_output_stream(f"{BUCKET}/sets/bad/{shards[0].path}") as out:
        out.write(good)
    files.want(shards[:1])  # once repaired, it is taken
    until(lambda: stem(shards[0]) in fetched(cache))
    assert files.path(shards[0]).read_bytes() == good
    files.close()


@pytest.mark.network
def test_a_missing_or_foreign_manifest_is_refused_with_the_url(endpoint: str, url: str, tmp_path: Path) -> None:
    for prefix in (f"{BUCKET}/nothing/here", "no-such-bucket/set"):
        missing = RemoteFiles(f"s3://{prefix}?{url.partition('?')[2]}", tmp_path, 0)
        with pytest.raises(ByteproxyError, match=f"^s3://{prefix} is no shard set: it has no manifest.json"):
            missing.manifest()
    for text, found in (("{}", "layout None"), ("[", "not a valid manifest")):
        (tmp_path / "foreign").mkdir(exist_ok=True)
        (tmp_path / "foreign" / "manifest.json").write_text(text)
        upload(endpoint, tmp_path / "foreign", "foreign")
        with pytest.raises(ByteproxyError, match=f"^s3://{BUCKET}/foreign/manifest.json: {found}"):
            RemoteFiles(address(endpoint, "foreign"), tmp_path / "cache", 0).manifest()


@pytest.mark.network
def test_two_readers_share_a_cache_and_survive_each_others_deletions(url: str, local: Path, tmp_path: Path) -> None:
    shards = train_of(RemoteFiles(url, tmp_path, 0))
    limit = shards[0].size + shards[1].size + 500
    readers, faults = [RemoteFiles(url, tmp_path, limit) for _ in range(2)], []

    def read(files: RemoteFiles, order: list[ShardFile]) -> None:
        try:
            for number, shard in enumerate(order):
                files.want(order[number + 1 : number + 2])
                for _ in range(50):
                    try:
                        data = files.path(shard).read_bytes()
                        break
                    except FileNotFoundError:  # the other has deleted it
                        continue
                assert data == (local / shard.path).read_bytes()
                files.release(shard)
        except BaseException as error:
            faults.append(error)

    orders = (list(shards), list(shards[::-1]))
    threads = [threading.Thread(target=read, args=pair) for pair in zip(readers, orders, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for files in readers:
        files.close()
    assert not faults and used(tmp_path) <= limit and not list(tmp_path.glob(".tmp-*"))
    for path in tmp_path.glob("*.parquet"):
        path.unlink()
    one, two = (RemoteFiles(url, tmp_path, 0) for _ in range(2))
    inode = one.path(shards[0]).stat().st_ino
    assert two.path(shards[0]).stat().st_ino == inode  # taken as it is, not downloaded again


@pytest.mark.parametrize(
    "url", [f"ftp://me:{SECRET}@host/set", f"s3://bucket/set?token={SECRET}", f"s3://me:{SECRET}@"]
)
def test_a_url_that_is_not_understood_is_refused_without_its_secrets(url: str, tmp_path: Path) -> None:
    with pytest.raises(ByteproxyError) as error:
        RemoteFiles(url, tmp_path, 0)
    assert SECRET not in str(error.value)


@pytest.mark.network
@pytest.mark.parametrize("path", ["../../outside.parquet", "/etc/passwd", "train/./x", "train//x"])
def test_a_manifest_cannot_name_files_outside_the_set(url: str, tmp_path: Path, path: str) -> None:
    files = RemoteFiles(url, tmp_path, 0)
    shard = train_of(files)[0]
    for wrong in (replace(shard, path=path), replace(shard, sha256="../" + shard.sha256[3:])):
        with pytest.raises(ByteproxyError, match="rebuild the set"):
            files.path(wrong)
    with pytest.raises(ByteproxyError, match="is not a path within the set"):
        files.small_folder(path)
