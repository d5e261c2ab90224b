"""Grain: ArrayRecord with `group_size:1` (as its documentation says for random access), globally shuffled.

Options: `defaults` (compressed records, its read threads, its own ConcatThenSplit and batch), `tuned` (the fastest
setting found: records not compressed, no read threads, documents packed by the pack function that other peers use).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags
from array_record.python.array_record_module import ArrayRecordWriter
from grain.experimental import ConcatThenSplitIterDataset

from tests.bench.loaders.documents import Documents
from tests.bench.loaders.packing import ROWS, TOKENS, Packer
from tests.bench.loaders.stream import SEED, Source, Stream

WRITTEN = {"defaults": "group_size:1", "tuned": "group_size:1,uncompressed"}

flags.FLAGS(["bench"])  # the library reads absl's flags, which must have been parsed


def build(documents: Documents, folder: Path) -> None:
    """One file for each option."""
    for option, written in WRITTEN.items():
        writer = ArrayRecordWriter(str(_file(folder, option)), written)
        for i in range(len(documents)):
            writer.write(documents[i].tobytes())
        writer.close()


def _file(folder: Path, option: str) -> Path:
    return folder / f"{option}.array_record"


def open_stream(source: Source, option: str, state: Any | None) -> Stream:
    """Batches of the option's pipeline; state is the library's own, or a document's number."""
    dtype = source.documents.dtype
    records = grain.sources.ArrayRecordDataSource([str(_file(source.folder, option))])
    dataset = grain.MapDataset.source(records).shuffle(seed=SEED)
    if option == "tuned":
        rest = dataset[state["taken"] :] if state else dataset
        items = rest.map(lambda record: np.frombuffer(record, dtype)).to_iter_dataset(grain.ReadOptions(num_threads=0))
        packer = Packer(items, state)
        return Stream(iter(packer), packer.state)
    items = dataset.map(lambda record: {"symbols": np.frombuffer(record, dtype)}).to_iter_dataset()
    rows = ConcatThenSplitIterDataset(items, length_struct={"symbols": TOKENS})
    batches = iter(rows.batch(ROWS, drop_remainder=True).map(lambda batch: batch["symbols"].astype(np.int64)))
    if state:
        batches.set_state(state)
    return Stream(_each(batches), batches.get_state)


def _each(batches: Any) -> Iterator[np.ndarray]:
    yield from batches
