"""Symbols composed of their bytes, `--compose input` or `both`: what is learnt of a byte serves the symbols it is in.

A row of a view's embedding is then its own row plus the mean of the raw rows of the bytes that the symbol stands for,
and with `both` a row of its head likewise. Only views whose codec gives a symbol the same bytes wherever it stands have
such a spelling (`Codec.spelling`); sentinels and symbols that stand for nothing have their own row alone.

The rows of a whole table are made at once, in each forward pass: a gather over the bytes of all symbols, some four a
symbol, and in the backward pass the same the other way round: as much whatever the number of positions. For 16,384
symbols that is a thousandth of the FLOPs of a step of 4,096 positions in a body of 0.5M parameters, and less in others.

Legend: K rows of a table, W width, B bytes of all symbols together.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain

import torch
from torch import Tensor, nn

from shards.errors import ByteproxyError
from shards.manifest import View
from shards.reader import ShardSet
from trainer.specials import SPECIALS

Spellings = Sequence[Sequence[bytes]]  # by compressed view: the bytes of each symbol; empty where there is no spelling


class Composition(nn.Module):
    """Adds to a table's own rows the mean of the raw rows of each symbol's bytes."""

    ids_B: Tensor
    first_K: Tensor

    def __init__(self, spelling: Sequence[bytes]) -> None:
        super().__init__()
        pieces = [*[b""] * SPECIALS, *spelling]
        first = [0, *accumulate(map(len, pieces))][:-1]
        ids = [SPECIALS + byte for byte in chain.from_iterable(pieces)]
        self.register_buffer("ids_B", torch.tensor(ids, dtype=torch.int32), persistent=False)
        self.register_buffer("first_K", torch.tensor(first, dtype=torch.int32), persistent=False)

    def forward(self, own_KW: Tensor, raw_KW: Tensor) -> Tensor:
        return own_KW + nn.functional.embedding_bag(self.ids_B, raw_KW, self.first_K, mode="mean")


def compositions(spellings: Spellings) -> nn.ModuleDict:
    """A composition for each view that has a spelling, by the view's number."""
    return nn.ModuleDict({str(view): Composition(found) for view, found in enumerate(spellings, 1) if found})


def spellings_of(shard_set: ShardSet, views: Sequence[View], compose: str) -> list[list[bytes]]:
    """The spellings of a run's views, from the codecs of its set; the only place where training loads a codec."""
    if compose == "off" or not views:
        return []
    found = [[piece or b"" for piece in shard_set.codec(view.name).spelling() or ()] for view in views]
    if not any(found):
        names = ", ".join(view.name for view in views)
        raise ByteproxyError(
            f"--compose {compose}: views {names} found, in none of which a symbol always stands for the same bytes, "
            "as those of sentencepiece do. Train on such a view, or give --compose off"
        )
    for view, pieces in zip(views, found, strict=True):
        if pieces and len(pieces) != view.alphabet:
            raise ByteproxyError(
                f"view {view.name} of {shard_set.location}: a spelling of {len(pieces)} symbols found, "
                f"{view.alphabet} expected. Restore the codec's folder, or give --compose off"
            )
    return found


def to_json(spellings: Spellings) -> list[list[str]]:
    """For a checkpoint: a model that composes is not whole without them."""
    return [[piece.hex() for piece in pieces] for pieces in spellings]


def from_json(body: Iterable[Iterable[str]]) -> list[list[bytes]]:
    return [[bytes.fromhex(piece) for piece in pieces] for pieces in body]
