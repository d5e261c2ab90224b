"""What JSONL lines and the rows of tables call a document's text, and what describes it, in public data sets."""

from collections.abc import Mapping
from typing import Any

from pipeline.reading.languages import language_of, normalise

TEXT_KEYS = ("text", "content", "code", "raw_content", "source_code", "whole_func_string")
KEYS = {
    "source": ("source", "repo_name", "repository_name", "repo", "max_stars_repo_name"),
    "path": ("path", "file_path", "max_stars_repo_path", "filename", "file_name", "func_path_in_repository"),
    "language": ("language", "lang", "programming_language"),
    "licence": ("licence", "license", "licenses", "max_stars_repo_licenses", "detected_licenses"),
}
EXTENSION = "ext"  # a file's suffix, where its path is not given

Described = tuple[str | None, str | None, str | None, str | None]


def describe(body: Mapping[str, Any]) -> Described:
    """(source, path, language, licence) by a line's or row's other fields."""
    source, path, language, licence = (_value(body, KEYS[key]) for key in ("source", "path", "language", "licence"))
    if language:
        return source, path, normalise(language), licence
    known = language_of(path) if path else None
    if known is None and path is None and (suffix := _value(body, (EXTENSION,))):
        known = language_of(f"x.{suffix.lstrip('.')}")
    return source, path, known, licence


def grouping_of(source: str | None, path: str | None, name: str) -> str | None:
    """What a document of input `name` is split by: its repository and folders, or, knowing neither, itself (None)."""
    folders = path.strip("/").rpartition("/")[0] if path else ""
    if source is None and not folders:
        return None
    return "/".join(part for part in (source or name, folders) if part)


def _value(body: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first non-empty text under one of the keys, or texts joined by commas, in a form that UTF-8 can hold."""
    for key in keys:
        value = body.get(key)
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            value = ", ".join(value)
        if isinstance(value, str) and value:
            return value.encode("utf-8", "backslashreplace").decode()
    return None
