"""A global shuffle without memory: the order of an epoch is a keyed bijection on [0, n).

A small Feistel network permutes the next power of four; values that fall outside [0, n) walk on along their cycle until
they fall inside (cycle walking), which keeps it a bijection. Nothing is stored, any position is computed on its own.

Over a window of shards, for sets larger than their cache or on slow disks: the shards in keyed order, cut into windows
of K, and a bijection over the documents inside each. How far that is from a uniform order, `quality` measures.
"""

from collections.abc import Sequence

import numpy as np

from shards.hashing import keyed_hash

ROUNDS = 8
QUALITY_SAMPLE = 100_000


def permute(positions: np.ndarray, n: int, seed: int, epoch: int, salt: bytes = b"") -> np.ndarray:
    """The documents at these positions of an epoch's order.

    positions: (P,) integers in [0, n), n up to 2**40. Returns (P,) int64, a bijection on [0, n) for each (seed, epoch,
    salt).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    when = epoch.to_bytes(8, "little")
    keys = [np.uint64(keyed_hash("order", seed, when, bytes([r]), salt)) for r in range(ROUNDS)]
    values = _encrypt(positions.astype(np.uint64), half, keys)
    while (outside := values >= n).any():
        values[outside] = _encrypt(values[outside], half, keys)
    return values.astype(np.int64)


def _encrypt(values: np.ndarray, half: int, keys: list[np.uint64]) -> np.ndarray:
    """One pass of the Feistel network over 2 * half bits."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << shift) | right


def mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, elementwise over uint64: a bijection; each output bit depends on every input bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Order:
    """The endless sequence of a split's documents, epoch after epoch, by running count.

    `files`: documents of each file, in order of number. `window`: files that are shuffled together; 0: all. `salt`
    makes the orders of sets that are mixed independent.
    """

    def __init__(self, files: Sequence[int], seed: int, window: int = 0, salt: bytes = b"") -> None:
        self.n, self.seed, self.window, self.salt = int(sum(files)), seed, window, salt
        self._rows_F = np.array(files, np.int64)
        self._first_F = np.concatenate(([0], np.cumsum(self._rows_F)))
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    def epoch(self, count: int) -> int:
        """The epoch in which the document with this running count is taken."""
        return count // self.n

    def __getitem__(self, count: int) -> int:
        """The document number at running count `count`: epoch count // n, position count % n."""
        return int(self.documents(count, 1)[0])

    def documents(self, count: int, how_many: int) -> np.ndarray:
        """The document numbers at running counts `count` to `count + how_many`, (how_many,) int64."""
        found = []
        while how_many:
            epoch, position = divmod(count, self.n)
            take = min(how_many, self.n - position)
            found.append(self._of_epoch(epoch, position, take))
            count, how_many = count + take, how_many - take
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def files_ahead(self, count: int) -> np.ndarray:
        """The files of the window that running count `count` lies in and of the next one, in order of need."""
        epoch, position = divmod(count, self.n)
        shards_F, ends_F = self._shards(epoch)
        window = int(np.searchsorted(ends_F[self._last_of_windows()], position, side="right"))
        current = shards_F[window * self.window : (window + 2) * self.window]
        if (window + 1) * self.window >= len(shards_F):  # the next window is the next epoch's first
            current = np.concatenate((current, self._shards(epoch + 1)[0][: self.window]))
        return current

    def _of_epoch(self, epoch: int, position: int, take: int) -> np.ndarray:
        positions = np.arange(position, position + take)
        if not self.window:
            return permute(positions, self.n, self.seed, epoch, self.salt)
        shards_F, ends_F = self._shards(epoch)
        last_W = self._last_of_windows()
        ends_W = ends_F[last_W]
        window_P = np.searchsorted(ends_W, positions, side="right")
        documents_P = np.empty(take, np.int64)
        for window in range(int(window_P[0]), int(window_P[-1]) + 1):
            mine = window_P == window
            begin = int(ends_W[window - 1]) if window else 0
            salt = self.salt + window.to_bytes(8, "little")
            inside = permute(positions[mine] - begin, int(ends_W[window]) - begin, self.seed, epoch, salt) + begin
            place = np.searchsorted(ends_F, inside, side="right")
            shard = shards_F[place]
            documents_P[mine] = self._first_F[shard] + inside - (ends_F[place] - self._rows_F[shard])
        return documents_P

    def _shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The files in the epoch's order, and the positions at which each ends."""
        if self._epoch is None or self._epoch[0] != epoch:
            count = len(self._rows_F)
            shards_F = permute(np.arange(count), count, self.seed, epoch, self.salt + b"shards")
            self._epoch = epoch, shards_F, np.cumsum(self._rows_F[shards_F])
        return self._epoch[1:]

    def _last_of_windows(self) -> np.ndarray:
        count = len(self._rows_F)
        return np.minimum(np.arange(self.window - 1, count + self.window - 1, self.window), count - 1)


def quality(order: Order) -> dict[str, float]:
    """How shuffled the first epoch is, over at most QUALITY_SAMPLE neighbouring positions spread over it.

    `displacement`: mean |document - position| / n, 1/3 for a uniform order and 0 for none. `neighbour_distance`: median
    |document - the next one| / n, about 0.293 for a uniform order (the median of |u - v|).
    """
    n = order.n
    if n < 2:
        return {"displacement": 0.0, "neighbour_distance": 0.0}
    runs = 1 if n <= QUALITY_SAMPLE else 100
    length = min(n, QUALITY_SAMPLE) // runs
    moved, gaps = [], []
    for run in range(runs):
        begin = run * (n // runs)
        documents = order.documents(begin, length)
        moved.append(np.abs(documents - np.arange(begin, begin + length)))
        gaps.append(np.abs(np.diff(documents)))
    return {
        "displacement": float(np.concatenate(moved).mean() / n),
        "neighbour_distance": float(np.median(np.concatenate(gaps)) / n),
    }
