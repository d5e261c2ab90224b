"""A GCS emulator on loopback, and folders uploaded to it.

It runs in a process of its own: pyarrow's client holds the interpreter's lock while it opens an object, and a server in
the same process would never answer.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

from pyarrow import fs

BUCKET = "shards"


@contextmanager
def gcs_server() -> Iterator[str]:
    """`host:port` of the emulator, which keeps its objects in memory."""
    command = [sys.executable, "-m", "tests.gcs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        try:
            assert process.stdout is not None
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def address(endpoint: str, prefix: str) -> str:
    return f"gs://anonymous@{BUCKET}/{prefix}?endpoint_override={endpoint}&scheme=http"


def upload(endpoint: str, folder: Path, prefix: str) -> fs.GcsFileSystem:
    store = fs.GcsFileSystem(anonymous=True, endpoint_override=endpoint, scheme="http")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with store.open_output_stream(f"{BUCKET}/{prefix}/{path.relative_to(folder)}", compression=None) as target:
            target.write(path.read_bytes())
    return store


def main() -> None:
    """Serve, and print the port. The emulator's own server takes one request at a time."""
    from gcp_storage_emulator.server import RequestHandler, Storage, buckets

    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, storage)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RequestHandler, storage))
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
