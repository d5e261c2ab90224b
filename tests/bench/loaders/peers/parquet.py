"""What one writes first: a torch DataLoader over a plain Parquet file.

Row groups of 256 documents are read in a shuffled order, documents shuffled within the group, packed to rows of 2049,
16 rows collated by the DataLoader's default. torch's DataLoader has no resumption.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.bench.loaders.documents import Documents
from tests.bench.loaders.packing import ROWS, TOKENS, Packer
from tests.bench.loaders.stream import SEED, Source, Stream

ROW_GROUP = 256


def build(documents: Documents, folder: Path) -> None:
    """Bytes as a binary column, tokens as a list column; pyarrow's defaults but for the row groups."""
    offsets = pa.array(documents.offsets)
    if documents.variant == "bytes":
        buffers = [None, offsets.buffers()[1], pa.py_buffer(documents.symbols)]
        column = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(documents), buffers)
    else:
        column = pa.LargeListArray.from_arrays(offsets, pa.array(documents.symbols))
    pq.write_table(pa.table({"symbols": column}), folder / "documents.parquet", row_group_size=ROW_GROUP)


class Rows(IterableDataset):
    """Rows of 2049 from the documents of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def documents(self) -> Iterator[np.ndarray]:
        """Of one row group after another."""
        random = np.random.default_rng(SEED)
        with pq.ParquetFile(self.path) as file:
            for group in random.permutation(file.num_row_groups).tolist():
                column = file.read_row_group(group, use_threads=False)["symbols"].combine_chunks()
                values, offsets = _flat(column)
                for i in random.permutation(len(column)).tolist():
                    yield values[offsets[i] : offsets[i + 1]]

    def __iter__(self) -> Iterator[torch.Tensor]:
        return map(torch.from_numpy, iter(Packer(self.documents(), shape=(TOKENS,))))


def _flat(column: pa.Array) -> tuple[np.ndarray, list[int]]:
    """All symbols of a column, and where each document begins, without a copy."""
    if not pa.types.is_large_binary(column.type):
        return column.values.to_numpy(), column.offsets.to_numpy().tolist()
    _, offsets, values = column.buffers()
    begins = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(values, np.uint8), begins.tolist()


def open_stream(source: Source, option: str, state: Any | None) -> Stream:
    """Without workers."""
    rows = Rows(source.folder / "documents.parquet")
    return Stream(iter(DataLoader(rows, batch_size=ROWS, num_workers=0, drop_last=True)))
