"""Codecs fitted once on real code: a slice of the interpreter's own standard library."""

import sysconfig
from pathlib import Path

import pytest

from shards.codecs import Codec, codec_class

SPECS = {
    "sentencepiece": ("sentencepiece", {"vocab": 1024}),
    "gzip": ("gzip", {}),
    "zstd": ("zstd", {}),
    "zstd_dictionary": ("zstd", {"dictionary": 8192}),
    "brotli": ("brotli", {}),
    "ngram": ("ngram", {"table": 14}),
}


@pytest.fixture(scope="session")
def code() -> list[bytes]:
    """Some 1.5 MB of Python: two packages and the top-level modules whose names begin with a to d."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted([*(root / "asyncio").glob("*.py"), *(root / "email").glob("*.py"), *root.glob("[a-d]*.py")])
    return [path.read_bytes() for path in paths]


@pytest.fixture(scope="session")
def codecs(code: list[bytes]) -> dict[str, Codec]:
    return {name: codec_class(kind).fit(code, **options) for name, (kind, options) in SPECS.items()}


@pytest.fixture(params=SPECS)
def codec(request: pytest.FixtureRequest, codecs: dict[str, Codec]) -> Codec:
    return codecs[request.param]
