"""A document's language by its content, where its name says nothing: the model that the package `magika` ships.

The model is loaded once a process and needs no network. The same version gives the same answer on the same machine; a
set's manifest names the versions. It answers with a language only where it is sure enough by its own thresholds.
"""

from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from identify.identify import tags_from_filename

from pipeline.reading.languages import language_of, normalise
from shards.errors import ByteproxyError

_NO_LANGUAGE = frozenset(  # what it calls text that it cannot tell, and bytes
    {"txt", "txtascii", "txtutf8", "txtutf16", "unknown", "undefined", "empty", "null",
     "randomascii", "randombytes", "randomtxt"}
)  # fmt: skip
_NAMES = {  # its labels, where ours differ
    "h": "c", "hpp": "c++", "objectivec": "objective-c", "coffeescript": "coffee", "latex": "tex", "jsonc": "json",
    "vba": "vb", "gemfile": "ruby", "gemspec": "ruby", "litcs": "coffee", "django": "jinja", "gradle": "groovy",
}  # fmt: skip


def check_detector() -> None:
    """Raise ByteproxyError if the library is not installed."""
    if find_spec("magika") is None:
        raise ByteproxyError("--detect-language needs the package magika: pip install 'byteproxy[magika]'")


def detector_libraries() -> dict[str, str]:
    """Library -> version of what decides a language by content."""
    return {name: version(name) for name in ("magika", "onnxruntime")}


def name_says_nothing(name: str | None) -> bool:
    """Is there no name, or one without a suffix or with an unknown one? (`x.png` says that it is no text.)"""
    return name is None or (language_of(name) is None and not tags_from_filename(name.rpartition("/")[2]))


def language_by_content(raw: bytes) -> str | None:
    """The language of a document by its bytes, under our name; None if it cannot be told, or is plain text."""
    label = str(_detector().identify_bytes(raw).output.label)
    return None if label in _NO_LANGUAGE else _NAMES.get(label, normalise(label))


@lru_cache(maxsize=1)
def _detector() -> Any:
    check_detector()
    from magika import Magika

    return Magika()
