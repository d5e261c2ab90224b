"""A store that cannot be reached or falls silent, and programs that end, are interrupted or are killed meanwhile."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shards.errors import ByteproxyError
from shards.manifest import Manifest
from shards.remote import RemoteFiles
from tests.sets import build_set
from tests.shards.test_remote import SECRET, address, fetched, until

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from pathlib import Path
from shards import bucket
from shards.errors import ByteproxyError
from shards.manifest import Manifest
from shards.remote import RemoteFiles
local, url, cache, call = sys.argv[1:]
bucket.CHUNK, bucket.REQUEST_TIMEOUT, bucket.ATTEMPTS = 1000, 1.0, 1000
shard = Manifest.load(Path(local)).splits["train"][0]
files = RemoteFiles(url, Path(cache), 10**9)
getattr(files, call)(shard if call == "path" else [shard])
time.sleep(1)
"""


class Silencing(BaseHTTPRequestHandler):
    """Serves a folder by ranges as S3 does; until `goes_on` is set only the first half of a file."""

    folder: Path
    goes_on: threading.Event
    protocol_version = "HTTP/1.1"

    def content(self) -> bytes:
        return (self.folder / self.path.removeprefix("/shards/set/")).read_bytes()

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content())))
        self.end_headers()

    def do_GET(self) -> None:
        content = self.content()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        if last >= len(content) // 2 and not self.goes_on.wait(30):
            return
        self.send_response(206)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(content[first : last + 1])

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_set(
        tmp_path_factory.mktemp("ends") / "set", [os.urandom(1500) for _ in range(12)], [b"held out"], shards=2
    )


@pytest.fixture
def goes_on() -> threading.Event:
    """Set it, and the store does."""
    return threading.Event()


@pytest.fixture
def url(local: Path, goes_on: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of the set in a store that falls silent."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    handler = type("Handler", (Silencing,), {"folder": local, "goes_on": goes_on})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield address(f"127.0.0.1:{server.server_port}", "set")
    goes_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


def begin(local: Path, url: str, cache: Path, call: str) -> subprocess.Popen[bytes]:
    """A program that calls `call` for the first train shard, in the middle of its download."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(local), url, str(cache), call], cwd=ROOT, stderr=subprocess.PIPE
    )
    until(lambda: any(path.stat().st_size for path in cache.glob(".tmp-*")), 10)
    return child


@pytest.mark.network
def test_a_download_that_is_killed_leaves_no_file_that_is_taken(
    local: Path, url: str, goes_on: threading.Event, tmp_path: Path
) -> None:
    shard, other = Manifest.load(local).splits["train"]
    child = begin(local, url, tmp_path, "path")
    [draft] = tmp_path.glob(".tmp-*")
    assert draft.stat().st_size == shard.size and not fetched(tmp_path)  # the room that it will take is taken
    RemoteFiles(url, tmp_path, 0)
    assert draft.exists()  # its owner lives
    child.kill()
    child.communicate()
    assert draft.exists() and not fetched(tmp_path)
    files = RemoteFiles(url, tmp_path, shard.size + other.size - 1)
    assert not draft.exists()
    child = begin(local, url, tmp_path, "path")
    child.kill()
    child.communicate()
    goes_on.set()
    assert files.path(other).exists()  # where it died since we opened, its room is not taken for ever
    files.release(other)
    assert files.path(shard).read_bytes() == (local / shard.path).read_bytes()
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.network
@pytest.mark.parametrize("call", ["want", "path"])
def test_a_program_that_ends_or_is_interrupted_while_the_store_is_silent_ends_soon(
    local: Path, url: str, tmp_path: Path, call: str
) -> None:
    child = begin(local, url, tmp_path, call)
    if call == "path":
        child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=6)
    assert child.returncode == (-signal.SIGINT if call == "path" else 0), errors
    assert not list(tmp_path.glob(".tmp-*")) and not fetched(tmp_path)


@pytest.mark.network
def test_a_store_that_cannot_be_reached_is_an_error_in_bounded_time_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.bucket.REQUEST_TIMEOUT", 1.0)
    monkeypatch.setattr("shards.bucket.ATTEMPTS", 2)
    monkeypatch.setattr("shards.bucket.PAUSE", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        user = f"AKIDTEST1234:{SECRET}@"
        for target in ("127.0.0.1:1", f"127.0.0.1:{silent.getsockname()[1]}"):
            files = RemoteFiles(
                f"s3://{user}b-k/set?endpoint_override={target}&scheme=http&region=us-east-1", tmp_path, 0
            )
            begin = time.monotonic()
            with pytest.raises(
                ByteproxyError, match=rf"^s3://b-k/set/manifest.json: the store at {target} cannot"
            ) as e:
                files.manifest()
            assert time.monotonic() - begin < 6
            assert SECRET not in str(e.value) and "AKIDTEST" not in str(e.value)
    google = "gs://anonymous@b-k/set?scheme=http&endpoint_override=127.0.0.1%3A1"
    with pytest.raises(ByteproxyError, match=r"^gs://b-k/set/manifest.json: the store at 127.0.0.1:1 cannot"):
        RemoteFiles(google, tmp_path, 0).manifest()
