"""Beam's counters and distributions of a build: what the page of a job shows, on runners that have one (Dataflow).

    survey    documents, bytes (read and let through), found (read at all); document_bytes (distribution)
    rejected  a counter for each reason, blanks as _
    encode    documents, bytes, <view>_bytes, blocks, shards; block_milliseconds (distribution)

Steps that a runner repeats may count twice in what it calls attempted, not in what it calls committed.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from apache_beam.metrics import Metrics
from apache_beam.runners.runner import PipelineResult

SURVEY, REJECTED, ENCODE = "survey", "rejected", "encode"


def tally(namespace: str, name: str, number: int = 1) -> None:
    """Add to a counter."""
    _counter(namespace, name.replace(" ", "_")).inc(number)


def note(namespace: str, name: str, values: Iterable[int]) -> None:
    """Add values to a distribution."""
    update = _distribution(namespace, name).update
    for value in values:
        update(value)


def tally_each(namespace: str, names: Iterable[str]) -> None:
    """Count how often each name occurs."""
    for name, number in Counter(names).items():
        tally(namespace, name, number)


def counted(result: PipelineResult) -> dict[str, Any]:
    """What a finished graph has counted: namespace/name -> number, or (count, sum, min, max) of a distribution."""
    found = result.metrics().query()
    ours = (SURVEY, REJECTED, ENCODE)
    numbers = {_name(item): item.committed for item in found["counters"] if item.key.metric.namespace in ours}
    for item in found["distributions"]:
        if item.key.metric.namespace in ours:
            data = item.committed
            numbers[_name(item)] = (data.count, data.sum, data.min, data.max)
    return numbers


def _name(item: Any) -> str:
    return f"{item.key.metric.namespace}/{item.key.metric.name}"


@lru_cache(maxsize=1024)
def _counter(namespace: str, name: str) -> Any:
    return Metrics.counter(namespace, name)


@lru_cache(maxsize=64)
def _distribution(namespace: str, name: str) -> Any:
    return Metrics.distribution(namespace, name)
