"""A global shuffle without memory: the order of an epoch is a keyed bijection on [0, n).

A small Feistel network permutes the next power of four; values that fall outside [0, n) walk on along their cycle until
they fall inside (cycle walking), which keeps it a bijection. Nothing is stored, any position is computed on its own.
"""

import numpy as np

from shards.hashing import keyed_hash

ROUNDS = 8
_BLOCK = 1024
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64's finaliser


def permute(positions: np.ndarray, n: int, seed: int, epoch: int) -> np.ndarray:
    """The documents at these positions of an epoch's order.

    positions: (P,) integers in [0, n), n up to 2**40. Returns (P,) int64, a bijection on [0, n) for each (seed, epoch).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    keys = [np.uint64(keyed_hash("order", seed, epoch.to_bytes(8, "little"), bytes([r]))) for r in range(ROUNDS)]
    values = _encrypt(positions.astype(np.uint64), half, keys)
    while (outside := values >= n).any():
        values[outside] = _encrypt(values[outside], half, keys)
    return values.astype(np.int64)


def _encrypt(values: np.ndarray, half: int, keys: list[np.uint64]) -> np.ndarray:
    """One pass of the Feistel network over 2 * half bits."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        mixed = right ^ key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & mask)
    return (left << shift) | right


class Order:
    """The endless sequence of a split's documents, epoch after epoch, by running count."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self._block: tuple[int, int] = (-1, -1)
        self._values = np.empty(0, np.int64)

    def epoch(self, count: int) -> int:
        """The epoch in which the document with this running count is taken."""
        return count // self.n

    def __getitem__(self, count: int) -> int:
        """The document number at running count `count`: epoch count // n, position count % n."""
        epoch, position = divmod(count, self.n)
        block = position // _BLOCK
        if (epoch, block) != self._block:  # consecutive counts share a block: one vectorised call for all
            positions = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self.n))
            self._values, self._block = permute(positions, self.n, self.seed, epoch), (epoch, block)
        return int(self._values[position - block * _BLOCK])
