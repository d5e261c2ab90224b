"""Duplicates in a real corpus, counted independently: exact ones by sha256; near ones by the exact Jaccard index of all
pairs, and by datasketch at the same threshold, shingles, slots and bands.

The corpus is the source of Apache Beam, a dependency of this project: some 1,300 documents, of which 7% have a
near-duplicate. What two estimates may differ by is not a tolerance chosen to pass but the error of MinHash itself:
ideal sketches, every shingle with a random number of its own for each slot, are made of the same documents many times.
That gives each count its mean and its deviation, in which pairs that share a document err together. Three deviations
are allowed.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import apache_beam
import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sparse
from datasketch import MinHash, MinHashLSH
from scipy.sparse.csgraph import connected_components

from pipeline.cleaning.minhash import Sketcher, agreeing, band_keys, banding
from tests.pipeline.conftest import run_build

pytestmark = pytest.mark.slow

THRESHOLD, SLOTS = 0.7, 256
BANDS = banding(THRESHOLD, SLOTS)
SIGMA = (THRESHOLD * (1 - THRESHOLD) / SLOTS) ** 0.5  # of an estimate at the threshold: 0.029
RUNS = 40
Pairs = set[tuple[int, int]]


class Corpus:
    """Distinct documents, their shingles, and the exact index of every pair that shares a shingle."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(path for path in folder.rglob("*.py") if path.is_file())
        contents = [path.read_bytes() for path in self.files]
        self.digests = Counter(hashlib.sha256(raw).digest() for raw in contents)
        self.raws = list(dict.fromkeys(contents))
        self.shingles = [{s for part in Sketcher().shingles(raw) for s in part} for raw in self.raws]
        vocabulary = {s: n for n, s in enumerate(sorted(set().union(*self.shingles)))}
        columns = np.array([vocabulary[s] for shingles in self.shingles for s in shingles])
        sizes = np.array([len(shingles) for shingles in self.shingles])
        rows = np.repeat(np.arange(len(self.raws)), sizes)
        matrix = sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), (len(sizes), len(vocabulary)))
        shared = sparse.triu(matrix @ matrix.T, 1).tocoo()
        index = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
        self.index = dict(zip(zip(shared.row.tolist(), shared.col.tolist(), strict=True), index.tolist(), strict=True))
        self.alike = {pair for pair, j in self.index.items() if j >= THRESHOLD}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(Path(apache_beam.__file__).parent)


@pytest.fixture(scope="module")
def ours(corpus: Corpus) -> Pairs:
    """All pairs that share a band and whose sketches agree, by our sketches and keys."""
    sketches = [Sketcher(SLOTS).sketch(raw) for raw in corpus.raws]
    matrix = np.stack([np.frombuffer(s or bytes(4 * SLOTS), "<u4") for s in sketches])
    some = [n for n, sketch in enumerate(sketches) if sketch]
    buckets: dict[int, list[int]] = {}
    for n, keys in zip(some, band_keys(matrix[some], *BANDS).tolist(), strict=True):
        for key in keys:
            buckets.setdefault(key, []).append(n)
    met = {(a, b) for members in buckets.values() for i, b in enumerate(members) for a in members[:i]}
    return {(a, b) for a, b in met if np.count_nonzero(matrix[a] == matrix[b]) >= agreeing(THRESHOLD, SLOTS)}


@pytest.fixture(scope="module")
def theirs(corpus: Corpus) -> Pairs:
    """The same by datasketch: its hashes, its permutations, its index."""
    lsh = MinHashLSH(num_perm=SLOTS, params=BANDS)
    sketches = {}
    for n, shingles in enumerate(corpus.shingles):
        if shingles:
            sketches[n] = MinHash(num_perm=SLOTS)
            sketches[n].update_batch(list(shingles))
            lsh.insert(n, sketches[n])
    met = {tuple(sorted((n, other))) for n, sketch in sketches.items() for other in lsh.query(sketch) if other != n}
    return {(a, b) for a, b in met if sketches[a].jaccard(sketches[b]) >= THRESHOLD}


@pytest.fixture(scope="module")
def ideal(corpus: Corpus) -> list[Pairs]:
    """The pairs found by ideal sketches, in each of RUNS draws. Pairs under 0.4 are found with chances under 1e-20."""
    ends = np.array([pair for pair, j in corpus.index.items() if j >= 0.4])
    documents, position = np.unique(ends, return_inverse=True)
    position = position.reshape(ends.shape)
    entries = [sorted(corpus.shingles[n]) for n in documents]
    words, columns = np.unique(np.concatenate([np.array(part, object) for part in entries]), return_inverse=True)
    starts = np.cumsum([0, *map(len, entries[:-1])])
    bands, length = BANDS
    draw, runs = np.random.default_rng(1), []
    for _ in range(RUNS):
        slots = [np.minimum.reduceat(draw.integers(0, 2**63, len(words))[columns], starts) for _ in range(SLOTS)]
        equal = np.stack([slot[position[:, 0]] == slot[position[:, 1]] for slot in slots], axis=1)
        met = equal[:, : bands * length].reshape(-1, bands, length).all(axis=2).any(axis=1)
        found = ends[met & (equal.sum(axis=1) >= agreeing(THRESHOLD, SLOTS))]
        runs.append(set(map(tuple, found.tolist())))
    return runs


def component_labels(documents: int, pairs: Pairs) -> np.ndarray:
    ends = np.array(sorted(pairs)).reshape(-1, 2)
    graph = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (documents, documents))
    return connected_components(graph, directed=False)[1]


def removed(documents: int, pairs: Pairs) -> int:
    """Documents that go if one of each cluster stays."""
    return documents - len(np.unique(component_labels(documents, pairs)))


def assert_within(name: str, found: dict[str, float], draws: list[float]) -> str:
    """Each count within three deviations of those by ideal sketches; a line that says so."""
    mean, deviation = float(np.mean(draws)), float(np.std(draws, ddof=1))
    line = (
        f"{name}: {', '.join(f'{who} {value:.4g}' for who, value in found.items())}, ideal {mean:.4g} ± {deviation:.2g}"
    )
    assert all(abs(value - mean) <= 3 * deviation for value in found.values()), line
    return line


def test_exact_duplicates_are_those_of_equal_sha256_and_near_ones_those_of_an_independent_count(
    corpus: Corpus, ours: Pairs, theirs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The build's count is exactly that of components among our pairs, found by SciPy. A pair more or less changes the
    number of components by one at most, so datasketch's count is no farther off than pairs that only one has.
    """
    folder = Path(apache_beam.__file__).parent
    assert run_build(folder, tmp_path / "set", "--near-duplicates", "--languages", "python", "--max-bytes", "1G") == 0
    rows = [r for part in (tmp_path / "set/rejected").glob("*.parquet") for r in pq.read_table(part).to_pylist()]
    reasons = Counter(row["reason"] for row in rows if row["path"].endswith(".py"))
    documents = len(corpus.raws)
    assert reasons["binary"] == reasons["too large"] == 0
    assert reasons["duplicate"] == len(corpus.files) - len(corpus.digests)
    assert reasons["near-duplicate"] == removed(documents, ours)
    assert abs(removed(documents, ours) - removed(documents, theirs)) <= len(ours ^ theirs)
    assert abs(removed(documents, ours) - removed(documents, corpus.alike)) <= len(ours ^ corpus.alike)
    by_sha256, by_datasketch = len(corpus.files) - len(corpus.digests), removed(documents, theirs)
    with capsys.disabled():
        print(
            f"\n{len(corpus.files)} documents, {sum(map(len, corpus.raws)) / 1e6:.1f} MB; exact duplicates: "
            f"{reasons['duplicate']} by the build, {by_sha256} by sha256; near-duplicates left out: "
            f"{reasons['near-duplicate']} by the build, {by_datasketch} by datasketch, "
            f"{removed(documents, corpus.alike)} by the exact index"
        )


def test_counts_of_pairs_and_clusters_recall_and_precision_are_those_of_ideal_sketches(
    corpus: Corpus, ours: Pairs, theirs: Pairs, ideal: list[Pairs], capsys: pytest.CaptureFixture[str]
) -> None:
    documents, alike = len(corpus.raws), corpus.alike
    both = {"ours": ours, "datasketch": theirs}
    figures: dict[str, Callable[[Pairs], float]] = {
        "pairs found": len,
        "recall": lambda found: len(found & alike) / len(alike),
        "precision": lambda found: len(found & alike) / len(found),
        "documents left out": lambda found: removed(documents, found),
    }
    assert len(alike) > 300
    lines = [f"{len(alike)} pairs of index {THRESHOLD} or more; {BANDS[0]} bands of {BANDS[1]} slots"]
    for name, figure in figures.items():
        values = {who: figure(found) for who, found in both.items()}
        lines.append(assert_within(name, values, [figure(found) for found in ideal]))
    alone = [float(len(one ^ other)) for one, other in zip(ideal[::2], ideal[1::2], strict=True)]
    lines.append(assert_within("pairs found by one alone", {"ours and datasketch": len(ours ^ theirs)}, alone))
    with capsys.disabled():
        print("", *lines, sep="\n")


def test_no_estimate_errs_by_five_deviations_and_beyond_them_recall_and_precision_are_whole(
    corpus: Corpus, ours: Pairs, theirs: Pairs
) -> None:
    """Five deviations are missed once in some million pairs; bands miss a pair of 0.84 with probability 2e-6."""
    high = {pair for pair, j in corpus.index.items() if j >= THRESHOLD + 5 * SIGMA}
    assert len(high) > 30
    for found in (ours, theirs):
        assert high <= found
        assert min(corpus.index[pair] for pair in found) > THRESHOLD - 5 * SIGMA
    assert all(abs(corpus.index[pair] - THRESHOLD) < 5 * SIGMA for pair in ours ^ theirs)
