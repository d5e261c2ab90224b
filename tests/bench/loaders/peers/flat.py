"""NumPy over the flat `.bin` file itself: what a loader without documents, checks or an order of its own could reach.

Options: `copy` (np.copyto, in sequence, into int64 batches: the upper bound, and the reference of every ratio),
`windows` (random windows, the map opened once, copied straight into the batch), `nanogpt` (its get_batch: a new
np.memmap a batch, np.stack of windows widened one by one; here one window of 2049 for its x and y), `packed` (the
pack function that the other peers share, over shuffled documents: what it costs by itself).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.bench.loaders.packing import ROWS, SYMBOLS, TOKENS, Packer
from tests.bench.loaders.stream import SEED, Source, Stream


def open_stream(source: Source, option: str, state: Any | None) -> Stream:
    """Batches in the way that `option` names."""
    return {"copy": _copy, "windows": _windows, "nanogpt": _nanogpt, "packed": _packed}[option](source, state)


def _copy(source: Source, state: Any | None) -> Stream:
    at = {"batch": state["batch"] if state else 0}
    symbols = source.documents.symbols

    def batches() -> Iterator[np.ndarray]:
        for number in range(at["batch"], len(symbols) // SYMBOLS):
            batch = np.empty((ROWS, TOKENS), np.int64)
            np.copyto(batch.reshape(-1), symbols[number * SYMBOLS : (number + 1) * SYMBOLS])
            at["batch"] = number + 1
            yield batch

    return Stream(batches(), lambda: dict(at))


def _windows(source: Source, state: Any | None) -> Stream:
    random, symbols = _random(state), source.documents.symbols

    def batches() -> Iterator[np.ndarray]:
        for _ in range(len(symbols) // SYMBOLS):
            batch = np.empty((ROWS, TOKENS), np.int64)
            for row, begin in enumerate(random.integers(0, len(symbols) - TOKENS, ROWS).tolist()):
                batch[row] = symbols[begin : begin + TOKENS]
            yield batch

    return Stream(batches(), lambda: random.bit_generator.state)


def _nanogpt(source: Source, state: Any | None) -> Stream:
    random, documents = _random(state), source.documents
    path, dtype, length = documents.path, documents.dtype, len(documents.symbols)

    def batches() -> Iterator[np.ndarray]:
        for _ in range(length // SYMBOLS):
            data = np.memmap(path, dtype=dtype, mode="r")  # as there: kept open, a memmap is said to leak memory
            begins = random.integers(0, len(data) - TOKENS, ROWS)
            yield np.stack([data[begin : begin + TOKENS].astype(np.int64) for begin in begins])

    return Stream(batches(), lambda: random.bit_generator.state)


def _packed(source: Source, state: Any | None) -> Stream:
    documents = source.documents
    begins, ends = documents.offsets[:-1].tolist(), documents.offsets[1:].tolist()
    order = np.random.default_rng(SEED).permutation(len(documents))[state["taken"] if state else 0 :].tolist()
    packer = Packer((documents.symbols[begins[i] : ends[i]] for i in order), state)
    return Stream(iter(packer), packer.state)


def _random(state: Any | None) -> np.random.Generator:
    random = np.random.default_rng(SEED)
    if state:
        random.bit_generator.state = state
    return random
