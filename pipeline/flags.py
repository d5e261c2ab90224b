"""The flags of a build, in groups."""

import os
from collections.abc import Callable


def workers(asked: int | None) -> int:
    """As many as were asked for, else one for each CPU that is free to us."""
    if asked is not None:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def input_flags(add: Callable[..., object]) -> None:
    """How inputs are read."""
    add(
        "--detect-language",
        action="store_true",
        help="tell the language by the content where the name says nothing (no suffix or an unknown one, JSONL without "
        "a path), by the model of the package magika (pip install 'byteproxy[magika]'; needs no network). Slow: some "
        "milliseconds a document",
    )
    add(
        "--content-column",
        metavar="NAME",
        help="the column of Parquet files that holds the documents, text or bytes (default: text, content, code, "
        "raw_content, source_code or whole_func_string, the first that is there)",
    )
    add(
        "--max-expansion",
        type=int,
        default=200,
        metavar="N",
        help="give up on a compressed file or archive, keeping what came before, when more than N times its own bytes "
        "come out of it (and more than 16 MB): a bomb (default: 200)",
    )


def fault_flags(add: Callable[..., object]) -> None:
    """What becomes of faults of the input."""
    add(
        "--strict",
        action="store_true",
        help="stop at the first fault of the input, by its name: what cannot be read, is damaged, changed meanwhile or "
        "makes no sense (not what is merely filtered). By default the build goes on, and rejected/ names each",
    )


def smaller_flags(add: Callable[..., object]) -> None:
    add(
        "--sample-rate",
        type=float,
        default=1.0,
        metavar="F",
        help="take this share of the documents, by keyed hash; a smaller share lies within a larger one (default: 1.0)",
    )
    add("--limit", type=int, metavar="N", help="take N documents at most, the first in the order of the same hash")
    add(
        "--dry-run",
        action="store_true",
        help="build nothing: say what a build would give and take, from 1%% of the corpus that goes through all steps",
    )
    add("--price-per-hour", type=float, metavar="P", help="with --dry-run: of a machine, to estimate the cost")


def reuse_flags(add: Callable[..., object]) -> None:
    """What is taken from sets that are there."""
    add(
        "--codecs-from",
        default="",
        metavar="SET",
        help="a shard set (folder or URL) whose fitted codecs are used again, so that both sets have one alphabet; "
        "without --views: all its views. Other views may be asked for where their codecs learn nothing (gzip, brotli)",
    )
    add(
        "--fingerprint",
        choices=("times", "content"),
        default="times",
        help="how to tell whether the corpus of a finished or stopped build has changed: by its files' paths, sizes "
        "and times, or by hashes of their content, which reads them all once more (default: times)",
    )
