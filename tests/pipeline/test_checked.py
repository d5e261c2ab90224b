"""How many documents a build says it decoded again: as many as it did, where a codec decodes slowly too."""

from collections.abc import Sequence
from typing import ClassVar

import pytest

from pipeline import encode
from pipeline.encode import encode_documents, is_checked, share_checked
from shards.codecs.base import Codec, Encoded
from shards.codecs.gzip import Gzip
from shards.codecs.zstd import Zstd
from shards.hashing import document_id

RAWS = [f"document {number}\n".encode() * (number % 7 + 1) for number in range(400)]
IDENTITIES = [document_id(raw) for raw in RAWS]


class Slow(Gzip):
    """Gzip that is decoded for a quarter of the documents, and remembers how many that were."""

    checked_share: ClassVar = 0.25
    decoded = 0

    def decode_many(self, encoded: Sequence[Encoded], sizes: Sequence[int]) -> list[bytes]:
        self.decoded += len(encoded)
        return super().decode_many(encoded, sizes)


class OneWay(Gzip):
    """As a codec that cannot be decoded says it."""

    lossless = False

    def decode_many(self, encoded: Sequence[Encoded], sizes: Sequence[int]) -> list[bytes]:
        raise AssertionError("it does not decode")


def codec_of(kind: type[Codec]) -> Codec:
    return kind.fit((), **kind.options())


@pytest.mark.parametrize("check", [1.0, 0.5, 0.1, 0.0])
def test_documents_counted_as_decoded_again_are_those_that_were(check: float) -> None:
    slow, fast, one_way = codec_of(Slow), codec_of(Zstd), codec_of(OneWay)
    codecs, seconds = (
        {"slow": slow, "fast": fast, "one": one_way},
        {name: [0.0, 0.0] for name in ("slow", "fast", "one")},
    )
    found = encode_documents(RAWS, codecs, seconds, IDENTITIES, ["somewhere"] * len(RAWS), check, 3, lambda *_: None)
    assert [each["fast"].anchors[-1, 0] for each in found] == [len(raw) for raw in RAWS]
    counted = sum(is_checked(share_checked(codecs.values(), check), 3, identity) for identity in IDENTITIES)
    assert isinstance(slow, Slow) and slow.decoded == counted
    assert counted == 0 if check == 0.0 else 0.5 < counted / (min(check, 0.25) * len(RAWS)) < 1.6


def test_where_nothing_decodes_nothing_is_counted() -> None:
    assert share_checked([codec_of(OneWay)], 1.0) == 0.0 and share_checked([], 1.0) == 0.0
    assert share_checked([codec_of(Zstd), codec_of(OneWay)], 0.7) == 0.7


def test_documents_are_counted_part_by_part_while_they_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "PART", 1000)
    counted: list[tuple[int, int]] = []
    codecs, wheres = {"one": codec_of(OneWay)}, [""] * len(RAWS)
    found = encode_documents(
        RAWS, codecs, {"one": [0.0, 0.0]}, IDENTITIES, wheres, 1.0, 3, lambda *part: counted.append(part)
    )
    alone = [codecs["one"].encode(raw).symbols.tolist() for raw in RAWS]
    assert [each["one"].symbols.tolist() for each in found] == alone
    assert [sum(column) for column in zip(*counted, strict=True)] == [len(RAWS), sum(map(len, RAWS))]
    assert all(1000 <= size < 1000 + max(map(len, RAWS)) for _, size in counted[:-1]) and len(counted) > 10
    assert encode_documents([], codecs, {"one": [0.0, 0.0]}, [], [], 1.0, 3, lambda *_: None) == []
