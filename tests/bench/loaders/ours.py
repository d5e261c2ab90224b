"""Our own loader, as a trainer uses it but for its thread: `prefetch=0` puts all of its work into the timed loop.

Options: `tokens` (the sentencepiece view alone), `bytes` (raw alone), `mixed` (the recipe: translation pairs for the
first part of the pass, then both views mixed, no annealing), `mixed-unchecked` (the same without checksums). A pass is
a run of about one epoch.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.loaders.documents import VIEW, Documents, describe
from tests.bench.loaders.packing import ROWS, SYMBOLS, TOKENS
from tests.bench.loaders.stream import SEED, Source, Stream
from trainer.batch import Batch
from trainer.config import make_config
from trainer.loader import Loader
from trainer.mixture import open_mixture
from trainer.recipe import layout_of

layout_of(np.uint64(0), 0.0, 0.0)  # an import, too: numba loads most of itself when it is first used

MODES = {"tokens": "tokens", "bytes": "bytes", "mixed": "proxy", "mixed-unchecked": "proxy"}
# Shares of the two views' symbols that a mixed pass of one epoch takes: while pairs are laid out, in the first fifth,
# nearly all of both; then nine documents of ten as tokens. Only the length of the pass depends on this.
MIXED_SHARES = {"tokens": 0.9, "bytes": 0.25}


def pass_batches(exports: dict[str, int], option: str) -> int:
    """Batches of about one epoch, from the numbers of symbols exported by variant."""
    shares = MIXED_SHARES if option.startswith("mixed") else {option: 1.0}
    return int(sum(share * exports[variant] for variant, share in shares.items())) // SYMBOLS


def build(documents: Documents, folder: Path) -> None:
    """Nothing to store; but a first use compiles the planner, and caches that beside the sources."""
    for option in MODES:
        next(open_stream(Source(documents.folder, documents.variant, folder), option, None).batches)


def open_stream(source: Source, option: str, state: Any | None) -> Stream:
    """A run over the set that `source.folder` is, from its start or from a state."""
    described = {variant: describe(source.exports, variant) or {} for variant in MIXED_SHARES}
    settings = {
        "shards": str(source.folder),
        "context": TOKENS - 1,
        "batch_rows": ROWS,
        "mode": MODES[option],
        "views": VIEW,
        "seed": SEED,
        "steps": pass_batches({variant: one["symbols"] for variant, one in described.items()}, option),
        "translation": 0.2,
        "anneal": 0.0,
    }
    if option == "mixed-unchecked":
        settings["check"] = "off"
    config = make_config(settings)
    mixture = open_mixture(config)
    loader = Loader(mixture.sources, mixture.views, config, state, prefetch=0)
    latest: list[Any] = [None]  # the state after the batch that was delivered last

    def batches() -> Iterator[Batch]:
        with loader:
            for batch, latest[0] in loader:
                yield batch

    return Stream(batches(), lambda: latest[0].to_json())


def digest(batch: Batch) -> str:
    """Of every array and number of a batch."""
    found = hashlib.blake2b(digest_size=16)
    for field in dataclasses.fields(batch):
        found.update(np.ascontiguousarray(getattr(batch, field.name)).tobytes())
    return found.hexdigest()
