"""A real S3 server on loopback, and sets uploaded to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import fs

BUCKET, SECRET = "shards", "s3cr3t-of-the-test"


@contextmanager
def s3_server() -> Iterator[str]:
    """`host:port` of the server, and credentials for it in the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        host, port = server.get_host_and_port()
        yield f"{host}:{port}"
    server.stop()


def address(endpoint: str, prefix: str) -> str:
    return f"s3://{BUCKET}/{prefix}?endpoint_override={endpoint}&scheme=http&region=us-east-1"


def upload(endpoint: str, folder: Path, prefix: str) -> fs.S3FileSystem:
    store = fs.S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True)
    store.create_dir(BUCKET)
    fs.copy_files(str(folder), f"{BUCKET}/{prefix}", destination_filesystem=store, use_threads=False)
    return store
