"""The n-gram codec: its tables depend on the sample alone, its predictions on what was read alone, and all comes back.

What holds of every codec (any bytes, any process, a folder saved and loaded) is proved with the others, by the fixture.
"""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from shards.codecs import load_codec, parse_view
from shards.codecs.ngram.codec import RECORDS, NGram
from shards.codecs.ngram.fit import entropies, joined
from shards.codecs.ngram.model import TOTAL
from shards.errors import ByteproxyError
from tests.shards.codecs.test_lossless import ADVERSARIAL, assert_good


def made(sample: list[bytes], options: str = "table=12") -> NGram:
    return NGram.fit(sample, **parse_view(f"ngram:{options}").options)


@pytest.fixture(scope="module")
def ngram(code: list[bytes]) -> NGram:
    return made(code[::2], "table=14")


@pytest.mark.parametrize("options", ["context=text", "window=8", "window=12,segment=3", "segment=64,context=text"])
def test_documents_of_all_kinds_come_back_with_all_options(code: list[bytes], options: str) -> None:
    codec = made(code[::4], f"table=12,{options}")
    for raw in (*code[1:4], *(raw[:3000] for raw in ADVERSARIAL.values()), random.Random(0).randbytes(5000)):
        assert_good(codec, raw)


def test_the_order_of_the_sample_changes_no_byte_of_the_folder(code: list[bytes], tmp_path: Path) -> None:
    for name, sample in (("a", code[:60]), ("b", code[:60][::-1])):
        made(sample, "table=8").save(tmp_path / name)  # so small that contexts are left out
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("sample", [[b"\0"], [b"ab"], [b"aaaaaaaa", b""], [b"\xff" * 3] * 40])
def test_a_sample_of_hardly_anything_gives_a_codec(sample: list[bytes]) -> None:
    for context in ("segment", "text"):
        codec = made(sample, f"table=8,context={context}")
        for raw in (b"", b"ab\0", bytes(range(256)) * 3):
            assert_good(codec, raw)


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ByteproxyError, match="no text"):
        made([b""])


def test_every_byte_has_weight_and_all_weights_make_the_total(ngram: NGram, code: list[bytes]) -> None:
    for size in (0, 1, 2, 5, 6, 7, 500):
        sum_ = 0
        for byte in range(256):
            text_N, restart_N = joined([code[1][:size] + bytes([byte])])
            _, below_N, weight_N = ngram.predictions(text_N, restart_N)
            assert below_N[-1] == sum_ and weight_N[-1] > 0
            sum_ += int(weight_N[-1])
        assert sum_ == TOTAL


def test_what_follows_a_byte_changes_nothing_before_it(ngram: NGram, code: list[bytes]) -> None:
    whole, part = (ngram.predictions(*joined([raw])) for raw in (code[1], code[1][:777]))
    for a, b in zip(whole, part, strict=True):
        assert np.array_equal(a[:776], b[:776])
    assert np.array_equal(
        entropies(ngram.tables, *joined([code[1]]))[:777], entropies(ngram.tables, *joined([code[1][:777]]))
    )


def test_equal_segments_have_equal_symbols_wherever_they_stand(ngram: NGram, code: list[bytes]) -> None:
    text_N, restart_N = joined(code[1:9:2])
    ends_N, below_N, weight_N = ngram.predictions(text_N, restart_N)
    known: dict[bytes, tuple[list[int], list[int]]] = {}
    seen = 0
    for begin, end in itertools.pairwise([0, *(np.flatnonzero(ends_N) + 1).tolist()]):
        string, found = text_N[begin:end].tobytes(), (below_N[begin:end].tolist(), weight_N[begin:end].tolist())
        seen += string in known
        assert known.setdefault(string, found) == found
    assert seen > 1000


def test_held_out_code_takes_a_symbol_for_over_two_bytes_and_text_contexts_take_fewer(code: list[bytes]) -> None:
    rates = {}
    for context in ("segment", "text"):
        codec = made(code[::2], f"table=14,context={context}")
        rates[context] = sum(map(len, code[1::4])) / sum(len(codec.encode(raw).symbols) for raw in code[1::4])
    assert 2.2 < rates["segment"] < rates["text"] < 8


def test_segments_of_held_out_code_are_about_as_long_as_asked_for(code: list[bytes]) -> None:
    for segment in (4, 16):
        codec = made(code[::4], f"table=14,segment={segment}")
        text_N, restart_N = joined(code[1::4])
        assert 0.5 * segment < len(text_N) / codec.predictions(text_N, restart_N)[0].sum() < 1.5 * segment


def test_changed_symbols_are_refused_or_give_other_text(ngram: NGram, code: list[bytes]) -> None:
    raw = code[1][:2000]
    symbols = ngram.encode(raw).symbols
    refused = 0
    for at in range(len(symbols)):
        changed = symbols.copy()
        changed[at] ^= 0x155
        try:
            assert ngram.decode(changed) != raw
        except ByteproxyError:
            refused += 1
    assert refused > 0
    with pytest.raises(ByteproxyError, match="corrupt ngram"):
        ngram.decode(symbols[:-1], len(raw))
    with pytest.raises(ByteproxyError, match="corrupt ngram"):
        ngram.decode(symbols.astype(np.int32), len(raw))


def test_random_symbols_never_crash(ngram: NGram) -> None:
    draw = np.random.default_rng(0)
    for _ in range(300):
        symbols = draw.integers(0, ngram.alphabet, 40, dtype=np.uint16)
        try:
            raw = ngram.decode(symbols)
        except ByteproxyError:
            continue
        assert len(raw) <= 64 * 40 and ngram.decode(ngram.encode(raw).symbols, len(raw)) == raw


@pytest.mark.parametrize("name", [RECORDS, "rows.npy", "ngram.json"])
def test_a_damaged_folder_is_refused(ngram: NGram, tmp_path: Path, name: str) -> None:
    ngram.save(tmp_path)
    good = (tmp_path / name).read_bytes()
    for content in (b"", good[:-9], b"[]"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ByteproxyError, match=r"no tables of this codec|not found"):
            load_codec(tmp_path)
    (tmp_path / name).write_bytes(good)
    settings = json.loads((tmp_path / "codec.json").read_text())
    settings["options"]["table"] = 13
    (tmp_path / "codec.json").write_text(json.dumps(settings))
    with pytest.raises(ByteproxyError, match="no tables of this codec"):
        load_codec(tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ngram:window=9", "found 9, expected 8, 12, 16"),
        ("ngram:context=block", "found block, expected segment, text"),
        ("ngram:table=40", "expected 8 to 24"),
    ],
)
def test_mistakes_in_a_view_are_named(spec: str, message: str) -> None:
    with pytest.raises(ByteproxyError, match=message):
        parse_view(spec)
