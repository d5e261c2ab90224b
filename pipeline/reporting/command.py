"""The command that a set was made with, from its config alone: the same set says the same wherever it was made."""

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.cleaning.options import Cleaning
from pipeline.config import BuildConfig
from shards.codecs import ViewSpec, codec_class


def command_of(config: BuildConfig, corpus: Sequence[str]) -> str:
    """A command line that parses to this config; `corpus`: the inputs' names. Flags are named like the config's fields,
    and left out where they say what would be so anyhow. The set that codecs were taken from is written SET.
    """
    words = ["python", "-m", "pipeline", "build", ",".join(sorted(corpus))]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not field.metadata.get("where") and value != field.default and field.name != "narrowed":
            words += _flags(config, f"--{field.name.replace('_', '-')}", value)
    return shlex.join(words)


def _flags(config: BuildConfig, flag: str, value: Any) -> Iterator[str]:
    if flag == "--views":
        yield from (flag, " ".join(map(_view, value)))
    elif flag == "--languages":
        yield from (flag, " ".join(value)) if config.narrowed else ()
    elif flag == "--codecs":
        yield from ("--codecs-from", "SET")
    elif isinstance(value, Cleaning):
        yield from value.flags()
    elif isinstance(value, bool):
        yield flag
    elif flag.endswith("-bytes") and value % (1 << 20) == 0:
        yield from (flag, f"{value >> 20}M")
    elif isinstance(value, tuple):
        for item in value:
            yield from (flag, str(item))
    else:
        yield from (flag, str(value))


def _view(spec: ViewSpec) -> str:
    default = codec_class(spec.kind).options()
    options = [f"{name}={value}" for name, value in sorted(spec.options.items()) if default.get(name) != value]
    text = f"{spec.kind}:{','.join(options)}" if options else spec.kind
    return text if spec.name == spec.kind else f"{spec.name}={text}"
