"""Hugging Face datasets: memory-mapped Arrow of a list column, shuffle(seed), documents packed after it.

Options: `arrow` (Arrow format, batches of 100 documents, sliced without a copy), `rows` (NumPy format, one document at
a time).
"""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from tests.bench.loaders.documents import Documents
from tests.bench.loaders.packing import Packer
from tests.bench.loaders.stream import SEED, Source, Stream

BATCH = 100

datasets.disable_progress_bars()


def build(documents: Documents, folder: Path) -> None:
    """`save_to_disk` of a dataset made by a generator, whose cache is removed afterwards."""
    cache = folder / "cache"
    features = datasets.Features({"symbols": datasets.List(datasets.Value(documents.dtype.name))})

    def generate() -> Iterator[dict[str, np.ndarray]]:
        for i in range(len(documents)):
            yield {"symbols": documents[i].copy()}

    made = datasets.Dataset.from_generator(generate, features=features, cache_dir=str(cache))
    made.save_to_disk(str(folder / "saved"))
    shutil.rmtree(cache)


def open_stream(source: Source, option: str, state: Any | None) -> Stream:
    """Documents of the shuffled dataset from the state's on."""
    dataset = datasets.load_from_disk(str(source.folder / "saved")).shuffle(seed=SEED)
    if state:
        dataset = dataset.select(range(state["taken"], len(dataset)))
    reader = _batched(dataset) if option == "arrow" else _one_by_one(dataset, source.documents.dtype)
    packer = Packer(reader, state)
    return Stream(iter(packer), packer.state)


def _batched(dataset: Any) -> Iterator[np.ndarray]:
    for table in dataset.with_format("arrow").iter(batch_size=BATCH):
        for chunk in table["symbols"].chunks:
            values, offsets = chunk.values.to_numpy(), chunk.offsets.to_numpy().tolist()
            for begin, end in pairwise(offsets):
                yield values[begin:end]


def _one_by_one(dataset: Any, dtype: np.dtype) -> Iterator[np.ndarray]:
    for row in dataset.with_format("numpy", dtype=dtype):
        yield row["symbols"]
