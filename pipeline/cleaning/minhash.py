"""MinHash: a document's set of word shingles as some hundred numbers, whose agreement estimates the Jaccard index.

Shingles are runs of five words, as The Stack and StarCoder took them; words are letters, digits, underscores and bytes
over 127. The agreement of two sketches of P slots is off from the true index J by about sqrt(J (1 - J) / P): 0.03 at
J = 0.7 and P = 256. Pairs worth comparing are found by bands: groups of slots that must agree in full.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rensa import RMinHash

SEED = 1  # of the sketches; part of what a set is
FOUND = 0.95  # least probability that a pair just at the threshold agrees in one band
PIECE = 1 << 20  # bytes of a document that are taken apart at a time

_WORD = re.compile(rb"[A-Za-z0-9_\x80-\xff]+")
_BETWEEN = re.compile(rb"[^A-Za-z0-9_\x80-\xff]")


@dataclass(frozen=True)
class Sketcher:
    """How documents are sketched."""

    permutations: int = 256  # slots
    words: int = 5  # in a shingle

    def sketch(self, raw: bytes) -> bytes | None:
        """`permutations` little-endian uint32, or None: the document is shorter than a shingle.

        Beside the document it holds a piece of it as words and shingles, some 30 MB.
        """
        state = RMinHash(num_perm=self.permutations, seed=SEED)
        some = False
        for shingles in self.shingles(raw):
            state.update(shingles)
            some = some or bool(shingles)
        return np.array(state.digest(), "<u4").tobytes() if some else None

    def shingles(self, raw: bytes) -> Iterator[list[bytes]]:
        """A document's shingles, words joined by blanks, piece by piece; they may repeat."""
        before: list[bytes] = []
        for words in _words(raw):
            words = before + words
            yield list(map(b" ".join, zip(*(words[n:] for n in range(self.words)), strict=False)))
            before = words[max(0, len(words) - self.words + 1) :]


def _words(raw: bytes) -> Iterator[list[bytes]]:
    begin = 0
    while begin < len(raw):
        between = _BETWEEN.search(raw, begin + PIECE)
        end = between.start() if between else len(raw)
        yield _WORD.findall(raw, begin, end)
        begin = end


def agreeing(threshold: float, permutations: int) -> int:
    """The least number of equal slots that an estimated index of `threshold` takes."""
    return int(np.ceil(threshold * permutations - 1e-9))


def banding(threshold: float, permutations: int) -> tuple[int, int]:
    """(Bands, slots a band): the longest bands in which pairs at the threshold still meet with probability FOUND.

    Two documents of index J meet with probability 1 - (1 - J**slots)**bands. Longer bands bring together fewer pairs
    that are not alike; those that meet in vain are compared and told apart.
    """
    for slots in range(permutations, 1, -1):
        bands = permutations // slots
        if 1 - (1 - threshold**slots) ** bands >= FOUND:
            return bands, slots
    return permutations, 1


def band_keys(sketches: np.ndarray, bands: int, slots: int) -> np.ndarray:
    """(N, bands) uint64 of sketches (N, permutations) uint32: equal where all slots of a band are. Well mixed."""
    used = sketches[:, : bands * slots].astype(np.uint64).reshape(len(sketches), bands, slots)
    factors = _mixed(np.arange(1, slots + 1, dtype=np.uint64)) | np.uint64(1)
    return _mixed(
        (used * factors).sum(axis=2, dtype=np.uint64) + _mixed(np.arange(bands, dtype=np.uint64) << np.uint64(32))
    )


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: a bijection of uint64 whose every output bit depends on every input bit."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)) & np.uint64(2**64 - 1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def spanning_edges(sketches: np.ndarray, least: int) -> list[tuple[int, int]]:
    """Edges (i, j) that join the documents of (N, permutations) sketches into components: linked where at least
    `least` slots agree. Exact, and fast where most are alike; N (N - 1) / 2 comparisons where none are.
    """
    edges: list[tuple[int, int]] = []
    left = np.arange(len(sketches))
    while len(left) > 1:
        frontier, left = [int(left[0])], left[1:]
        while frontier and len(left):
            here = frontier.pop()
            close = np.count_nonzero(sketches[left] == sketches[here], axis=1) >= least
            joined = left[close].tolist()
            edges += [(here, other) for other in joined]
            frontier += joined
            left = left[~close]
    return edges


def components(edges: np.ndarray) -> np.ndarray:
    """(2, N) int64 of edges (E, 2) int64: the nodes, sorted, and of each the least node of its component.

    Memory: some 60 bytes an edge.
    """
    nodes, ends = np.unique(edges.reshape(-1), return_inverse=True)
    ends = ends.reshape(-1, 2)
    root = np.arange(len(nodes))
    while True:
        lowest = root[ends].min(axis=1)
        before = root.copy()
        for side in (0, 1):
            np.minimum.at(root, root[ends[:, side]], lowest)
            np.minimum.at(root, ends[:, side], lowest)
        while not np.array_equal(root, root[root]):
            root = root[root]
        if np.array_equal(before, root):
            return np.stack([nodes, nodes[root]])
