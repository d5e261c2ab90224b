"""Windows: a code names one string, whatever the model says; segments are cut where a decoder can follow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from shards.codecs.windows import coder, segments
from shards.codecs.windows.segments import LONGEST, UNIT, Thresholds

BITS = (8, 12, 16)


def model(seed: int, sharp: float, total: int) -> np.ndarray:
    """Cumulated integer weights of 7 contexts, (7, 257) int64, from almost even to almost certain, some of them 0."""
    draw = np.random.default_rng(seed)
    weights = draw.random((7, 256)) ** sharp
    below = np.zeros((7, 257), np.int64)
    below[:, 1:] = np.cumsum(weights / weights.sum(1, keepdims=True), 1) * total
    below[:, -1] = total
    return below


def contexts(text: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A context for each byte that depends on the byte before it."""
    former = np.concatenate(([0], text[:-1])) if len(text) else text
    return (former % 7).astype(np.int64)


def encoded(
    text: np.ndarray, below: np.ndarray, ends: np.ndarray, bits: int, closed: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    context = contexts(text, ends)
    weight = below[context, text.astype(np.int64) + 1] - below[context, text]
    total = np.full(len(text), below[0, -1])
    codes = coder.alphabet(bits).codes
    return coder.encode_windows(text, below[context, text], weight, total, ends, codes, closed)


def decoded(symbols: np.ndarray, below: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    out = np.zeros(64 * len(symbols) + 1, np.uint8)
    states = coder.new_states([(0, len(symbols))])
    count, last = _decode(states[0], symbols, below, coder.alphabet(bits).codes, out)
    return out[:count], last


@njit
def _decode(state, symbols, below, codes, out):  # type: ignore[no-untyped-def]
    former, n = 0, 0
    while n < len(out):
        byte = coder.next_byte(state, symbols, below[former % 7], below[0, 256], codes)
        if byte < 0:
            return n, byte
        out[n] = former = byte
        n += 1
    return n, 0


texts = st.binary(max_size=300).map(lambda raw: np.frombuffer(raw, np.uint8))
models = st.builds(
    model,
    st.integers(0, 1 << 30),
    st.sampled_from([0.0, 1.0, 8.0, 60.0]),
    st.sampled_from([256, 1000, 1 << 16, (1 << 24) - 3, 1 << 40]),
)


@settings(max_examples=300, deadline=None)
@given(texts, models, st.sampled_from(BITS), st.integers(1, 40))
def test_any_bytes_come_back_under_any_model(text: np.ndarray, below: np.ndarray, bits: int, every: int) -> None:
    ends = np.arange(1, len(text) + 1) % every == 0
    symbols, marks = encoded(text, below, ends, bits)
    assert (len(symbols) == 0 or symbols.max() < coder.alphabet(bits).size) and len(marks) == ends.sum()
    back, last = decoded(symbols, below, bits)
    assert last == coder.END and np.array_equal(back, text)


@settings(max_examples=100, deadline=None)
@given(texts, models, st.sampled_from(BITS))
def test_segments_are_coded_as_if_each_stood_alone(text: np.ndarray, below: np.ndarray, bits: int) -> None:
    ends = np.arange(1, len(text) + 1) % 5 == 0
    symbols, marks = encoded(text, below, ends, bits)
    context, codes = contexts(text, ends), coder.alphabet(bits).codes
    for i, end in enumerate(marks):
        begin = marks[i - 1] if i else 0
        part = slice(5 * i, 5 * i + 5)
        rows, byte = context[part], text[part].astype(np.int64)
        low, weight = below[rows, byte], below[rows, byte + 1] - below[rows, byte]
        alone, _ = coder.encode_windows(text[part], low, weight, np.full(5, below[0, -1]), np.zeros(5, bool), codes)
        assert np.array_equal(alone, symbols[begin:end])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sharp", [0.0, 1.0, 8.0, 60.0])
def test_every_code_is_the_name_of_another_string(bits: int, sharp: float) -> None:
    """Decode each code as a whole text: it is a string whose only encoding is that code, or no code of the coder's."""
    below, names = model(3, sharp, 1 << 16), {}
    for code in range(coder.alphabet(bits).size):
        back, last = decoded(np.array([code], np.uint16), below, bits)
        if last == coder.END and len(back):
            assert back.tobytes() not in names
            names[back.tobytes()] = code
    assert len(names) > 0.9 * coder.alphabet(bits).codes
    for string, code in list(names.items())[:: max(1, len(names) // 2000)]:
        text = np.frombuffer(string, np.uint8)
        symbols, _ = encoded(text, below, np.zeros(len(text), bool), bits)
        assert symbols.tolist() == [code]


def test_a_byte_that_no_window_takes_is_escaped_as_itself() -> None:
    below = np.zeros((7, 257), np.int64)
    below[:, 66:] = 1000  # byte 65 is certain
    text = np.frombuffer(b"AAB\0A", np.uint8)
    for bits in BITS:
        codes = coder.alphabet(bits).codes
        symbols, _ = encoded(text, below, np.zeros(5, bool), bits)
        assert symbols.tolist()[1:3] == [codes + 66, codes + 0]
        assert symbols[0] < codes and symbols[3] < codes


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 65535), max_size=40), models, st.sampled_from(BITS))
def test_symbols_that_nothing_wrote_are_refused_or_are_a_text(found: list[int], below: np.ndarray, bits: int) -> None:
    symbols = np.array(found, np.uint16)
    back, last = decoded(symbols, below, bits)
    if last == coder.END:  # each symbol held a byte, and none was an empty window or an id of nothing
        assert len(back) >= len(symbols) and 0 not in symbols and all(symbols < coder.alphabet(bits).size)
        again, end = decoded(encoded(back, below, np.zeros(len(back), bool), bits)[0], below, bits)
        assert end == coder.END and np.array_equal(again, back)
    else:
        assert last == coder.CORRUPT or len(back) == 64 * len(symbols) + 1


@pytest.mark.parametrize("bits", BITS)
def test_windows_waste_less_than_the_byte_that_did_not_fit(bits: int) -> None:
    """Text drawn from the model itself: bits of the windows over the ideal code length."""
    below = model(5, 60.0, 1 << 24)
    draw, text = np.random.default_rng(0), np.zeros(50_000, np.uint8)
    for n in range(len(text)):
        row = below[text[n - 1] % 7 if n else 0]
        text[n] = np.searchsorted(row, draw.integers(row[-1]), side="right") - 1
    context = contexts(text, text)
    weight = below[context, text.astype(np.int64) + 1] - below[context, text]
    ideal = -np.log2(weight / below[0, -1]).sum()
    symbols, _ = encoded(text, below, np.zeros(len(text), bool), bits)
    assert 0 < len(symbols) * bits - ideal < len(symbols) * ideal / len(text)


def test_without_ends_there_are_fewer_symbols_and_some_strings_share_one() -> None:
    below = model(5, 8.0, 1 << 16)
    text = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)
    ends = np.arange(1, 5001) % 4 == 0
    assert len(encoded(text, below, ends, 16, False)[0]) <= len(encoded(text, below, ends, 16)[0])
    certain = np.zeros((7, 257), np.int64)
    certain[:, 66:] = 1 << 16
    ones = [encoded(np.full(n, 65, np.uint8), certain, np.zeros(n, bool), 16, False)[0].tolist() for n in (1, 2, 9)]
    assert ones[0] == ones[1] == ones[2]


def test_segments_end_at_rises_above_both_thresholds_at_restarts_and_at_the_longest() -> None:
    bits = np.array([9, 1, 5, 6, 1, 4, 1, 1, 8, 9]) * UNIT
    restart = np.zeros(10, bool)
    restart[7] = True
    ends = segments.segment_ends(bits, restart, Thresholds(4 * UNIT, 2 * UNIT))
    assert np.flatnonzero(ends).tolist() == [1, 6, 7, 9]
    even = segments.segment_ends(np.zeros(300, np.int64), np.zeros(300, bool), Thresholds(UNIT, 0))
    assert np.diff(np.concatenate(([0], np.flatnonzero(even) + 1))).tolist() == [LONGEST] * 4 + [300 - 4 * LONGEST]


@pytest.mark.parametrize("mean", [4.0, 8.0, 16.0])
def test_fitted_thresholds_give_the_mean_length_asked_for(mean: float) -> None:
    draw = np.random.default_rng(1)
    sample = [(draw.gamma(1.0, 1.5, 500) * UNIT).astype(np.int64) for _ in range(100)]
    fitted = segments.fit_thresholds(sample, mean)
    cuts = sum(segments.segment_ends(entropy, np.zeros(500, bool), fitted).sum() for entropy in sample)
    assert 0.85 * mean < 50_000 / cuts < 1.15 * mean


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=200), st.integers(64, 300))
def test_anchors_are_segment_ends_and_near_each_other(lengths: list[int], block: int) -> None:
    ends = np.zeros(sum(lengths), bool)
    ends[np.cumsum(lengths) - 1] = True
    ends[block - 1 :: block] = True
    marks = np.cumsum(np.random.default_rng(0).integers(1, 4, ends.sum()))
    found = segments.anchors(ends, marks, block, 128).astype(np.int64)
    assert found[0].tolist() == [0, 0] and found[-1].tolist() == [len(ends), marks[-1]]
    assert np.diff(found[:, 0]).max() <= 128
    assert set(range(0, len(ends), block)) <= set(found[:, 0].tolist())
    assert all(ends[offset - 1] for offset in found[1:, 0])
