"""Every codec gives back any bytes at all, and its symbols keep to its width, alphabet and anchors."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.codecs import Codec
from shards.errors import ByteproxyError

LOOKALIKES = b"<s></s><unk> <0x41><0x0A> <raw></raw> <pad> <bos> <|endoftext|> \xe2\x96\x81<s> "
ADVERSARIAL = {
    "empty": b"",
    "one line end": b"\n",
    "U+2581 alone": "▁".encode(),
    "U+2581 within text": "a▁b ▁ ▁▁c▁\n▁d".encode(),
    "parts of U+2581": b"\xe2 \xe2\x96 \x96\x81 \xe2\x96\n\x81",
    "U+2585, which the library uses for unknown": "a▅b ▅".encode(),
    "replacement characters": "a\ufffdb \ufffd".encode() + b"\xff",
    "every byte": bytes(range(256)),
    "NUL": b"\0a\0\0 b\0\n\0",
    "CRLF": b"if x:\r\n    y\r\n\r\n\r",
    "BOM": b"\xef\xbb\xbfimport os\n",
    "UTF-16": "import os\n".encode("utf-16"),
    "Latin-1": "# Grüße, señor\nprint('é')\n".encode("latin-1"),
    "lone surrogates": b"\xed\xa0\x80 a\xed\xbf\xbfb \xed\xa0\xbd\xed\xb8\x80",
    "overlong": b"\xc0\x80 \xc1\xbf \xe0\x80\xaf \xf0\x80\x80\xaf",
    "beyond Unicode": b"\xf4\x90\x80\x80 \xf8\x88\x80\x80\x80 \xfe\xff",
    "cut-off UTF-8": "x = '😀".encode()[:-1],
    "look-alikes of special tokens": LOOKALIKES,
    "tabs": b"".join(b"\t" * n + b"x\t" for n in range(12)),
    "runs of spaces": b"\n".join(b" " * n for n in range(70)) + b"   end   ",
    "Unicode white space": "a\u00a0b\u2028c\u3000d\u200be\x0bf\x0cg\x85h\u2029".encode(),
    "combining and unnormalised": "e\u0301 \u00e9 ﬁ ① Ⅳ ｱ \u1100\u1161 \U0001f468\u200d\U0001f469".encode(),
    "right to left": "שלום \u202eabc\u202c مرحبا".encode(),
    "all planes": "".join(chr(c) for c in range(0, 0x110000, 97) if not 0xD800 <= c < 0xE000).encode(),
    "a million spaces": b" " * 1_000_000,
}


def assert_good(codec: Codec, raw: bytes) -> None:
    symbols, anchors = codec.encode(raw)
    assert codec.decode(symbols) == raw == codec.decode(symbols, len(raw))
    assert symbols.dtype == np.dtype(f"<u{codec.width}") and symbols.ndim == 1
    assert not len(symbols) or symbols.max() < codec.alphabet
    assert anchors.dtype == np.dtype("<u4") and anchors.shape == (len(anchors), 2)
    assert anchors[0].tolist() == [0, 0] and anchors[-1].tolist() == [len(raw), len(symbols)]
    steps = np.diff(anchors.astype(np.int64), axis=0)
    assert (steps >= 0).all() and (steps.sum(axis=1) > 0).all()
    if codec.anchor_gap is None:
        assert len(anchors) <= 2
    else:
        assert not len(steps) or steps[:, 0].max() <= codec.anchor_gap


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=2000))
def test_any_bytes_come_back(codec: Codec, raw: bytes) -> None:
    assert_good(codec, raw)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.one_of(st.text(), st.sampled_from(sorted(ADVERSARIAL.values())[:-1]), st.binary()), max_size=12)
)
def test_text_mixed_with_adversarial_bytes_comes_back(codec: Codec, parts: list[str | bytes]) -> None:
    encoded = (part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts)
    assert_good(codec, b"".join(part[:3000] for part in encoded))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_document_comes_back(codec: Codec, name: str) -> None:
    assert_good(codec, ADVERSARIAL[name])


def test_every_single_byte_comes_back(codec: Codec) -> None:
    for byte in range(256):
        assert_good(codec, bytes([byte]))


def test_every_pair_of_bytes_comes_back(codec: Codec) -> None:
    for pair in range(1 << 16):
        raw = pair.to_bytes(2, "big")
        assert codec.decode(codec.encode(raw).symbols) == raw


def test_real_code_comes_back(codec: Codec, code: list[bytes]) -> None:
    for raw in code:
        assert_good(codec, raw)


def test_line_of_10_megabytes_in_one_word_comes_back(codec: Codec) -> None:
    assert_good(codec, random.Random(0).randbytes(5_000_000).hex().encode())


@pytest.mark.slow
def test_line_of_10_megabytes_in_many_words_comes_back(codec: Codec) -> None:
    draw = random.Random(0)
    assert_good(codec, b" ".join(draw.randbytes(3).hex().encode() for _ in range(1_430_000)))


def test_a_document_of_another_size_than_expected_is_refused(codec: Codec) -> None:
    symbols = codec.encode(b"print('hello')\n" * 20).symbols
    for size in (0, 299, 301):
        with pytest.raises(ByteproxyError, match="corrupt"):
            codec.decode(symbols, size)
