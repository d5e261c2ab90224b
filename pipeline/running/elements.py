"""The first elements of a graph. They are part of a job's description, which services limit to some megabytes.

So many of them, as a large corpus has, go to scratch, and the graph begins with the names of their parts.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import FastPrimitivesCoder
from apache_beam.pvalue import PCollection

from pipeline.records import load_table, save_table
from pipeline.running.relay import relayed
from pipeline.running.scratch import Scratch

INLINE_BYTES = 1 << 20  # of elements within the description
PART_BYTES = 4 << 20


def elements(root: beam.Pipeline, label: str, items: Iterable[tuple[Any, ...]], scratch: Scratch) -> PCollection:
    """A collection of these tuples of text, bytes, numbers and lists of them."""
    items = list(items)
    coder = FastPrimitivesCoder()
    encoded = [coder.encode(item) for item in items]
    if sum(map(len, encoded)) <= INLINE_BYTES:
        return root | label >> beam.Create(items, reshuffle=False)
    numbers = []
    for number, part in enumerate(_parts(encoded)):
        save_table(scratch.items(label, number), pa.table({"item": pa.array(part, pa.binary())}))
        numbers.append(number)
    return (
        root | f"parts of {label}" >> beam.Create(numbers, reshuffle=False) | label >> beam.ParDo(Load(label, scratch))
    )


class Load(beam.DoFn):
    """The number of a part in scratch -> its elements."""

    def __init__(self, label: str, scratch: Scratch) -> None:
        self.label, self.scratch = label, scratch

    @relayed
    def process(self, number: int) -> list[Any]:
        coder = FastPrimitivesCoder()
        return [coder.decode(item) for item in load_table(self.scratch.items(self.label, number))["item"].to_pylist()]


def _parts(encoded: Sequence[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    used = 0
    for item in encoded:
        if part and used + len(item) > PART_BYTES:
            yield part
            part, used = [], 0
        part.append(item)
        used += len(item)
    yield part
