"""Do the workers run what the parent runs? Steps travel as names of classes, so other code would do other things.

A worker compares before its first document: the interpreter, the libraries that decide which documents are in a set,
and every line of the two packages. (The codecs' libraries are compared where codecs are loaded: see `encode.py`.)
"""

import platform
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import shards
from shards.errors import ByteproxyError

DISTRIBUTIONS = ("apache-beam", "identify", "pyarrow", "rensa")


@lru_cache(maxsize=1)
def versions_here() -> dict[str, str]:
    """What is installed here, by name; `byteproxy` is a digest of the code of `pipeline` and `shards`."""
    python = ".".join(platform.python_version_tuple()[:2])
    found = {name: version(name) for name in DISTRIBUTIONS}
    return {"byteproxy": _code_digest(), "python": python, **found}


def expect_versions(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise ByteproxyError, naming each difference, unless what is found on a worker is what the parent has."""
    differing = [
        f"{name}: {found.get(name)} found, {v} expected" for name, v in expected.items() if found.get(name) != v
    ]
    if differing:
        text = "install the same versions where the workers are, or make their image again"
        raise ByteproxyError(f"a worker has other libraries than the parent ({', '.join(differing)}); {text}")


def _code_digest() -> str:
    """16 hex digits over the names and contents of our modules."""
    state = blake2b(digest_size=8)
    for package in (Path(__file__).parents[1], Path(shards.__file__).parent):
        for path in sorted(package.rglob("*.py")):
            name, content = path.relative_to(package.parent).as_posix().encode(), path.read_bytes()
            state.update(len(name).to_bytes(8, "little") + name + len(content).to_bytes(8, "little") + content)
    return state.hexdigest()
