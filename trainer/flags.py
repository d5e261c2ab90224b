"""A run's settings as a user gives them: flags, TOML files, and the help that lists them."""

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from trainer.config import NAMES, TYPES, Config, flag

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def load_toml(path: Path, what: str) -> dict[str, Any]:
    """A TOML file's content. Raises ByteproxyError; `what`: how the file was asked for."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ByteproxyError(f"{what} {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ByteproxyError(f"{path}: not valid TOML ({error})") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The values in a TOML file of `key = value` lines. Unknown keys are refused."""
    values = load_toml(path, "--config")
    for key in values:
        known_key(key, f"{path}: key {key!r}", TYPES)
    return {key.replace("-", "_"): value for key, value in values.items()}


def parse_flags(arguments: Sequence[str], extra: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Flags (`--key value`, `--key=value`, `--check`, `--no-check`) to config values, and those named in `extra`."""
    found = _split_flags(arguments, TYPES | {name.replace("-", "_"): str for name in extra})
    values = {key: _from_text(key, text, TYPES[key]) for key, text in found.items() if key in TYPES}
    return values, {key: text for key, text in found.items() if key not in TYPES}


def parse_options(arguments: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of a verb that has but a few, over their defaults, whose types they take."""
    types = {key: type(value) for key, value in defaults.items()}
    found = _split_flags(arguments, types)
    return dict(defaults) | {key: _from_text(key, text, types[key]) for key, text in found.items()}


def _split_flags(arguments: Sequence[str], types: Mapping[str, type]) -> dict[str, str]:
    """Flags as key and text. A boolean may stand without a value, or as --no-key."""
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            raise ByteproxyError(f"{argument!r} found, a flag like --steps expected; see --help")
        name, equals, text = argument.partition("=")
        key = name[2:].replace("-", "_")
        if types.get(key.removeprefix("no_")) is bool and key not in types and not equals:
            key, equals, text = key.removeprefix("no_"), "=", "false"
        known_key(key, name, types)
        if not equals:
            if rest and not (types[key] is bool and rest[0].startswith("--")):
                text = rest.pop(0)
            elif types[key] is bool:
                text = "true"
            else:
                raise ByteproxyError(f"{name}: a value expected after it")
        found[key] = text
    return found


def known_key(key: str, place: str, known: Iterable[str]) -> None:
    """Refuse a key that is not among the known, naming the nearest that is."""
    if key.replace("-", "_") not in known:
        near = difflib.get_close_matches(key.replace("-", "_"), list(known), 1, 0.4)
        hint = f"did you mean {flag(near[0])}?" if near else "see --help"
        raise ByteproxyError(f"{place} is not known; {hint}")


def describe_fields(base: Config) -> str:
    """One line a field for --help: flag, default, meaning."""
    lines = []
    for field in dataclasses.fields(Config):
        default = getattr(base, field.name)
        choices = f" [{'|'.join(field.metadata['choices'])}]" if field.metadata["choices"] else ""
        shown = f"{flag(field.name)} {default!r}" if default == "" else f"{flag(field.name)} {default}"
        lines.append(f"  {shown:<30} {field.metadata['help']}{choices}")
    return "\n".join(lines)


def _from_text(name: str, text: str, wanted: type) -> Any:
    try:
        if wanted is bool:
            return _BOOLEANS[text.lower()]
        return int(text.replace("_", "")) if wanted is int else wanted(text)
    except (ValueError, KeyError):
        raise ByteproxyError(f"{flag(name)}: {text!r} found, {NAMES[wanted]} expected") from None
