"""Sketches estimate what they should, bands find what they should, components are those of a plain search."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cleaning.minhash import FOUND, PIECE, Sketcher, agreeing, band_keys, banding, components, spanning_edges
from tests.pipeline.conftest import STDLIB

SKETCHER = Sketcher()


def array(sketch: bytes | None) -> np.ndarray:
    assert sketch is not None
    return np.frombuffer(sketch, "<u4")


def shingles(raw: bytes, words: int = 5) -> set[bytes]:
    return {shingle for part in Sketcher(words=words).shingles(raw) for shingle in part}


def test_shingles_are_runs_of_five_words_whatever_lies_between_them() -> None:
    assert shingles(b"a = b(c, d_1)\n  + e") == {b"a b c d_1 e"}
    assert shingles("größe ist x y z".encode()) == {"größe ist x y z".encode()}
    assert shingles(b"a b c d") == set() and SKETCHER.sketch(b"a b c d") is None and SKETCHER.sketch(b"") is None
    assert shingles(b"a b", 1) == {b"a", b"b"}


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(1, 6), st.integers(1, 40))
def test_a_document_taken_apart_in_pieces_has_the_same_shingles(raw: bytes, words: int, piece: int) -> None:
    import pipeline.cleaning.minhash as module

    whole = shingles(raw, words)
    module.PIECE = piece
    try:
        assert shingles(raw, words) == whole
    finally:
        module.PIECE = PIECE


def test_the_sketch_depends_on_the_set_of_shingles_alone() -> None:
    raw = (STDLIB / "argparse.py").read_bytes()
    assert SKETCHER.sketch(raw.replace(b" ", b"\t")) == SKETCHER.sketch(raw)
    assert SKETCHER.sketch(b"1 2 3 4 5 1 2 3 4 5 1 2 3 4 5") == SKETCHER.sketch(b"1 2 3 4 5 1 2 3 4 5")


@pytest.mark.parametrize("permutations", [64, 256])
def test_the_estimate_errs_as_theory_says(permutations: int) -> None:
    """Over many pairs of sets of a known index J the error has mean 0 and a deviation of sqrt(J (1 - J) / P) or less.

    rensa's sketch fills its slots without replacement, which can only lower the deviation (Dahlgaard et al. 2017).
    """
    draw, sketcher, pairs, size = random.Random(7), Sketcher(permutations, 1), 400, 300
    for shared in (100, 240, 280):
        true = shared / (2 * size - shared)
        errors = []
        for _ in range(pairs):
            words = [b"%d" % draw.getrandbits(60) for _ in range(2 * size - shared)]
            one, other = (array(sketcher.sketch(b" ".join(part))) for part in (words[:size], words[size - shared :]))
            errors.append((one == other).mean() - true)
        deviation = (true * (1 - true) / permutations) ** 0.5
        assert abs(np.mean(errors)) < 4 * deviation / pairs**0.5
        assert np.std(errors) < 1.15 * deviation


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.85, 0.95, 1.0])
def test_bands_let_pairs_at_the_threshold_meet_and_longer_ones_would_not(threshold: float) -> None:
    bands, slots = banding(threshold, 256)
    assert bands * slots <= 256
    assert 1 - (1 - threshold**slots) ** bands >= FOUND
    if slots < 256:
        assert 1 - (1 - threshold ** (slots + 1)) ** (256 // (slots + 1)) < FOUND
    assert banding(0.7, 256) == (36, 7)


def test_pairs_meet_in_a_band_as_often_as_theory_says() -> None:
    draw, sketcher, size, shared, pairs = random.Random(3), Sketcher(words=1), 200, 150, 300
    bands, slots = banding(0.7, 256)
    met = 0
    for _ in range(pairs):
        words = [b"%d" % draw.getrandbits(60) for _ in range(2 * size - shared)]
        both = np.stack([array(sketcher.sketch(b" ".join(p))) for p in (words[:size], words[size - shared :])])
        keys = band_keys(both, bands, slots)
        equal = (both[0, : bands * slots] == both[1, : bands * slots]).reshape(bands, slots).all(axis=1)
        assert (equal == (keys[0] == keys[1])).all()
        met += bool(equal.any())
    true = shared / (2 * size - shared)
    expected = 1 - (1 - true**slots) ** bands
    assert abs(met / pairs - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5


def test_keys_of_bands_are_spread_evenly() -> None:
    sketches = np.random.default_rng(0).integers(0, 1000, (2000, 256), np.uint32)
    keys = band_keys(sketches, 36, 7)
    assert len(np.unique(keys)) == keys.size
    counts = np.bincount((keys >> np.uint64(60)).astype(int).reshape(-1), minlength=16)
    assert counts.min() > 0.9 * keys.size / 16
    assert not np.intersect1d(keys[:, 0], band_keys(sketches, 36, 7)[:, 1]).size


edges = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60)


@settings(deadline=None)
@given(edges)
def test_components_are_those_that_a_plain_search_finds(pairs: list[tuple[int, int]]) -> None:
    found = components(np.array(pairs, np.int64))
    parent = {node: node for pair in pairs for node in pair}

    def root(node: int) -> int:
        return node if parent[node] == node else root(parent[node])

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    assert dict(zip(*found.tolist(), strict=True)) == {node: root(node) for node in parent}


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=15), st.integers(1, 6))
def test_spanning_edges_join_just_what_is_alike_be_it_by_way_of_others(rows: list[list[int]], least: int) -> None:
    sketches = np.array(rows, np.uint32)
    alike = [
        (i, j) for i in range(len(rows)) for j in range(i) if np.count_nonzero(sketches[i] == sketches[j]) >= least
    ]
    found = spanning_edges(sketches, least)
    assert {tuple(sorted(edge)) for edge in found} <= {tuple(sorted(edge)) for edge in alike}
    assert bool(found) == bool(alike)
    if alike:
        assert components(np.array(found)).tolist() == components(np.array(alike)).tolist()


def test_the_least_agreement_is_the_threshold_rounded_up() -> None:
    assert agreeing(0.7, 256) == 180 and agreeing(0.7, 10) == 7 and agreeing(1.0, 64) == 64
