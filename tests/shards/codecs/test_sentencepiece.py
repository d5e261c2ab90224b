"""What is particular to the tokens: the library's own symbols, halves that correspond, odd samples."""

import random
import re

import numpy as np
import pytest
import sentencepiece

from shards.codecs.sentencepiece import SentencePiece
from shards.errors import ByteproxyError


@pytest.fixture
def tokens(codecs: dict[str, SentencePiece]) -> SentencePiece:
    return codecs["sentencepiece"]


def reference(tokens: SentencePiece) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=tokens.model)


def is_clean(raw: bytes) -> bool:
    return "\ufffd" not in raw.decode("utf-8", "replace") and "▁".encode() not in raw


def test_symbols_are_those_of_the_library_on_the_whole_document(tokens: SentencePiece, code: list[bytes]) -> None:
    library = reference(tokens)
    documents = [raw for raw in code if is_clean(raw)]
    assert len(documents) > 50
    for raw in documents:
        assert tokens.encode(raw).symbols.tolist() == library.encode(raw)


def test_symbols_are_those_of_the_library_on_words_in_any_order(tokens: SentencePiece, code: list[bytes]) -> None:
    """Not only where spaces stand in real code: words, runs of spaces, line ends and tabs thrown together."""
    library, draw = reference(tokens), random.Random(1)
    words = sorted({word for raw in code if is_clean(raw) for word in re.split(rb"([ \n\t]+)", raw)})
    for _ in range(300):
        raw = b"".join(
            draw.choices([*words, b" ", b"  ", b"\n", b"\t", b"\t\t", b"\r\n", "é中😀".encode(), b"\0"], k=200)
        )
        assert tokens.encode(raw).symbols.tolist() == library.encode(raw)


def test_symbols_are_those_of_the_library_where_pieces_join_letters_and_signs() -> None:
    """Signs beyond ASCII count as letters in the finer way to part words: such a vocabulary must take the other."""
    raw = "f\u2019(x) \u2013 \u201c(a)\u201d\n".encode()
    tokens = SentencePiece.fit([raw] * 500, vocab=400)
    assert "\u2019(".encode() in tokens.pieces
    for document in (raw * 3, "\u2019(\u2019((\u2019 a\u2019( x\u2013(\u201c(".encode()):
        assert tokens.encode(document).symbols.tolist() == reference(tokens).encode(document)


def test_every_piece_decodes_and_encodes_to_the_same_text(tokens: SentencePiece) -> None:
    assert tokens.pieces[0] is None and all(tokens.pieces[1:])
    for i, piece in enumerate(tokens.pieces[1:], start=1):
        raw = tokens.decode(np.array([i], dtype="<u2"))
        assert raw == piece
        assert tokens.decode(tokens.encode(raw).symbols) == raw


def test_most_learned_pieces_encode_to_themselves(tokens: SentencePiece) -> None:
    learned = [i for i, piece in enumerate(tokens.pieces) if piece and len(piece) > 1]
    same = sum(tokens.encode(tokens.pieces[i]).symbols.tolist() == [i] for i in learned)
    assert same > 0.95 * len(learned)


def test_every_byte_has_a_piece_of_its_own(tokens: SentencePiece) -> None:
    assert {bytes([byte]) for byte in range(256)} <= set(tokens.pieces)


def test_halves_at_every_anchor_decode_to_the_halves_of_the_document(tokens: SentencePiece, code: list[bytes]) -> None:
    for raw in [*code[:8], "a▁b é\r\n".encode() * 300, bytes(range(256)) * 5, b" " * 1000]:
        symbols, anchors = tokens.encode(raw)
        for (raw_at, at), (raw_end, end) in zip(anchors[:-1].tolist(), anchors[1:].tolist(), strict=True):
            assert tokens.decode(symbols[at:end]) == raw[raw_at:raw_end]
        for raw_at, at in anchors[:: max(1, len(anchors) // 20)].tolist():
            assert tokens.decode(symbols[:at]) == raw[:raw_at] and tokens.decode(symbols[at:]) == raw[raw_at:]


def test_each_anchor_is_the_last_symbol_end_within_the_gap(tokens: SentencePiece, code: list[bytes]) -> None:
    symbols, anchors = tokens.encode(code[0])
    ends = np.cumsum([len(tokens.pieces[s] or b"") for s in symbols.tolist()]).tolist()
    for former, anchor in zip(anchors[:-1, 0].tolist(), anchors[1:, 0].tolist(), strict=True):
        assert anchor == max(end for end in ends if end <= former + 128)


def test_tab_indentation_costs_one_symbol(tokens: SentencePiece) -> None:
    for tabs in range(1, 5):
        assert len(tokens.encode(b"\t" * tabs).symbols) == 1


def test_compresses_real_code(tokens: SentencePiece, code: list[bytes]) -> None:
    assert sum(map(len, code)) > 2.2 * sum(len(tokens.encode(raw).symbols) for raw in code)


def test_what_is_remembered_is_bounded_and_changes_nothing(
    code: list[bytes], codecs: dict[str, SentencePiece], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.codecs.sentencepiece._REMEMBERED_WORDS", 50)
    known = codecs["sentencepiece"]
    forgetful = SentencePiece(known.settings, known.model, known.pieces)
    for raw in code[:10]:
        assert np.array_equal(forgetful.encode(raw).symbols, known.encode(raw).symbols)
    forgetful.encode(b"")
    assert len(forgetful._remembered) == 0


@pytest.mark.parametrize(
    "sample",
    [
        [b"a"],
        [b"", b"   ", b"\n\n"],
        [b"\t\t\n\t"],
        [b"x = <0x41> <s> <unk> </s> <0x0A> <raw>\n" * 500],
        ["a▁b ▅c \ufffd\n".encode() * 50],
        [b"a\0b\0\n" * 50, b"\xff\xfe caf\xe9\n" * 50],
        [b"word " * 20_000],
        ["".join(map(chr, range(0x4E00, 0x9000))).encode()],
        [b" \t" * 50_000 + "".join(map(chr, range(0x4E00, 0x9000))).encode()],
    ],
    ids=[
        "a letter",
        "blank",
        "tabs",
        "look-alikes",
        "signs of the library",
        "not text",
        "one line",
        "ideographs",
        "rare",
    ],
)
def test_odd_samples_give_a_lossless_vocabulary(sample: list[bytes]) -> None:
    tokens = SentencePiece.fit(sample, vocab=400)
    assert tokens.alphabet <= 400
    for raw in [*sample, b"other text\n", bytes(range(256)), "▁é<0x41><unk>".encode()]:
        assert tokens.decode(tokens.encode(raw).symbols) == raw


@pytest.mark.parametrize("sample", [[], [b""], [b"\xff\n"]])
def test_a_sample_without_text_is_refused(sample: list[bytes]) -> None:
    with pytest.raises(ByteproxyError, match="no text"):
        SentencePiece.fit(sample)


def test_a_small_sample_gives_a_smaller_vocabulary() -> None:
    assert SentencePiece.fit([b"def f(x): return x\n"] * 5).alphabet < 400


def test_symbols_are_wider_only_where_the_alphabet_needs_it(tokens: SentencePiece) -> None:
    assert tokens.width == 2
    padding = [b"%d" % n for n in range(70_000 - tokens.alphabet)]
    assert SentencePiece(tokens.settings, tokens.model, [*tokens.pieces, *padding]).width == 4


def test_a_vocabulary_with_pieces_over_two_words_is_refused(tokens: SentencePiece) -> None:
    for piece in (b"a b", b"a\n", b"\n ", b"x" * 129):
        with pytest.raises(ByteproxyError, match="over two words"):
            SentencePiece(tokens.settings, tokens.model, [*tokens.pieces[:-1], piece])


def test_a_space_is_one_symbol_even_if_the_sample_had_none() -> None:
    tokens = SentencePiece.fit([b"abc"])
    assert len(tokens.encode(b" ").symbols) == 1 and tokens.decode(tokens.encode(b" a  b ").symbols) == b" a  b "


def test_a_vocabulary_without_space_or_bytes_is_refused(tokens: SentencePiece) -> None:
    for lacking in (b" ", b"\x80"):
        pieces = list(tokens.pieces)
        pieces[pieces.index(lacking)] = b"something"
        with pytest.raises(ByteproxyError, match="no piece for"):
            SentencePiece(tokens.settings, tokens.model, pieces)


def test_symbols_that_stand_for_nothing_are_refused(tokens: SentencePiece) -> None:
    for symbols in (np.array([0], "<u2"), np.array([tokens.alphabet], "<u2"), np.array([-1]), np.array([1.0])):
        with pytest.raises(ByteproxyError, match="corrupt sentencepiece"):
            tokens.decode(symbols)
