"""LitData, both ways its documentation has for text.

Options: `documents` (an item a document, shuffled, packed after it), `blocks` (TokensLoader: the tokens in stored order
are cut into blocks of 2049, and the blocks are shuffled; StreamingDataLoader of 16).
"""

import os
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from litdata import StreamingDataLoader, StreamingDataset, TokensLoader, optimize
from litdata.processing import data_processor

from tests.bench.loaders.documents import Documents
from tests.bench.loaders.packing import ROWS, TOKENS, Packer
from tests.bench.loaders.stream import SEED, Source, Stream

CHUNK_BYTES = 64_000_000


def guard() -> None:
    """Refuse to go on unless what `optimize()` deletes first lies in the benchmark's own scratch folder.

    It removes its cache folders, which are <temporary folder>/chunks and <temporary folder>/data unless the
    environment says otherwise. environments.py sets both, and the scratch folder itself.
    """
    scratch = Path(os.environ["BENCH_SCRATCH"]).resolve(strict=True)
    folders = data_processor._get_cache_dir(), data_processor._get_cache_data_dir()
    for folder in (*folders, data_processor._get_default_cache()):
        if not Path(folder).resolve().is_relative_to(scratch):
            raise SystemExit(f"LitData would delete {folder}, which is not below {scratch}: not started")


def build(documents: Documents, folder: Path) -> None:
    """Two stores: items, and a stream of tokens in chunks of about the same size."""
    inputs, block = list(range(len(documents))), TOKENS * documents.dtype.itemsize
    stores: dict[str, dict[str, Any]] = {
        "documents": {"fn": partial(_item, documents.folder, documents.variant), "chunk_bytes": CHUNK_BYTES},
        "blocks": {
            "fn": partial(_tokens, documents.folder, documents.variant),
            "chunk_size": CHUNK_BYTES // block * TOKENS,  # a whole number of blocks
            "item_loader": TokensLoader(),
        },
    }
    for name, options in stores.items():
        guard()
        optimize(
            inputs=inputs,
            output_dir=str(folder / name),
            num_workers=1,
            reorder_files=False,
            mode="overwrite",
            verbose=False,
            **options,
        )


# The library hands these to a worker process: they are given where the documents are, and open them there.
def _item(folder: Path, variant: str, i: int) -> np.ndarray:
    return _opened(folder, variant)[i].copy()


def _tokens(folder: Path, variant: str, i: int) -> Iterator[torch.Tensor]:
    yield torch.from_numpy(_item(folder, variant, i))


@cache
def _opened(folder: Path, variant: str) -> Documents:
    return Documents(folder, variant)


def open_stream(source: Source, option: str, state: Any | None) -> Stream:
    """No workers: the library reads in this process (and prepares chunks in a thread of its own)."""
    guard()
    return _blocks(source, state) if option == "blocks" else _documents(source, state)


def _documents(source: Source, state: Any | None) -> Stream:
    dataset = StreamingDataset(str(source.folder / "documents"), shuffle=True, drop_last=False, seed=SEED)
    if state:
        dataset.load_state_dict(state["dataset"])
    packer = Packer(dataset, state)

    def save() -> dict[str, Any]:
        return packer.state() | {"dataset": dataset.state_dict(packer.taken, num_workers=0, batch_size=1)}

    return Stream(iter(packer), save)


def _blocks(source: Source, state: Any | None) -> Stream:
    loader = TokensLoader(block_size=TOKENS)
    dataset = StreamingDataset(
        str(source.folder / "blocks"), item_loader=loader, shuffle=True, drop_last=True, seed=SEED
    )
    batches = StreamingDataLoader(dataset, batch_size=ROWS, num_workers=0, drop_last=True)
    if state:
        batches.load_state_dict(state)
    return Stream((batch.to(torch.int64) for batch in batches), batches.state_dict)
