"""What is particular to the stream codecs: standard formats, no clock, corrupt streams refused cheaply."""

import gzip
import random
import tracemalloc

import brotli
import numpy as np
import pytest
import zstandard

from shards.codecs import Codec, codec_class
from shards.codecs.base import StreamCodec
from shards.errors import ByteproxyError

STREAMS = ["gzip", "zstd", "zstd_dictionary", "brotli"]
TEXT = b"def f(x):\n    return x + 1\n" * 40


@pytest.fixture(params=STREAMS)
def stream_codec(request: pytest.FixtureRequest, codecs: dict[str, Codec]) -> StreamCodec:
    codec = codecs[request.param]
    assert isinstance(codec, StreamCodec)
    return codec


def stream(codec: Codec, raw: bytes = TEXT) -> bytes:
    return codec.encode(raw).symbols.tobytes()


def symbols(content: bytes) -> np.ndarray:
    return np.frombuffer(content, dtype=np.uint8)


def test_gzip_header_has_no_clock_and_no_name(codecs: dict[str, Codec]) -> None:
    for raw in (b"", b"a", TEXT):
        assert stream(codecs["gzip"], raw)[:10] == bytes.fromhex("1f8b0800 00000000 02ff")


def test_streams_can_be_read_by_the_formats_usual_readers(codecs: dict[str, Codec], code: list[bytes]) -> None:
    for raw in [b"", TEXT, *code[:5]]:
        assert gzip.decompress(stream(codecs["gzip"], raw)) == raw
        assert brotli.decompress(stream(codecs["brotli"], raw)) == raw
        assert zstandard.ZstdDecompressor().decompress(stream(codecs["zstd"], raw)) == raw


def test_zstd_frames_hold_the_size_and_neither_checksum_nor_dictionary_id(codecs: dict[str, Codec]) -> None:
    for name in ("zstd", "zstd_dictionary"):
        frame = zstandard.get_frame_parameters(stream(codecs[name]))
        assert (frame.content_size, frame.has_checksum, frame.dict_id) == (len(TEXT), False, 0)


def test_a_fitted_dictionary_helps_small_documents(codecs: dict[str, Codec], code: list[bytes]) -> None:
    def size(name: str) -> int:
        return sum(len(codecs[name].encode(raw[:2000]).symbols) for raw in code)

    assert size("zstd_dictionary") < 0.9 * size("zstd")


def test_a_dictionary_that_the_sample_cannot_fill_is_refused() -> None:
    with pytest.raises(ByteproxyError, match="dictionary=0"):
        codec_class("zstd").fit([b"too little"], dictionary=1 << 20)


def test_levels_change_the_stream(code: list[bytes]) -> None:
    for kind, low, high in (("gzip", 1, 12), ("zstd", 1, 19), ("brotli", 0, 11)):
        fast, small = (codec_class(kind).fit([], level=level) for level in (low, high))
        assert len(stream(small, code[0])) < len(stream(fast, code[0]))


def test_every_cut_stream_is_refused(stream_codec: StreamCodec) -> None:
    content = stream(stream_codec)
    for length in range(len(content)):
        with pytest.raises(ByteproxyError, match=f"corrupt {stream_codec.kind}"):
            stream_codec.decode(symbols(content[:length]), len(TEXT))


def test_a_changed_stream_gives_an_error_or_other_bytes_but_never_a_crash(stream_codec: StreamCodec) -> None:
    draw, content = random.Random(2), stream(stream_codec)
    for _ in range(1500):
        changed = bytearray(content)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        try:
            assert len(stream_codec.decode(symbols(changed), len(TEXT))) == len(TEXT)
        except ByteproxyError as error:
            assert "corrupt" in str(error)


def test_noise_is_refused(stream_codec: StreamCodec) -> None:
    draw = random.Random(3)
    for length in (0, 1, 17, 18, 100, 5000):
        with pytest.raises(ByteproxyError, match="corrupt"):
            stream_codec.decode(symbols(b"\xff" + draw.randbytes(length)), 1000)


def test_bytes_behind_the_stream_are_refused(stream_codec: StreamCodec) -> None:
    with pytest.raises(ByteproxyError, match="corrupt"):
        stream_codec.decode(symbols(stream(stream_codec) + b"more"), len(TEXT))


def test_a_stream_that_declares_more_than_possible_allocates_nothing(codecs: dict[str, Codec]) -> None:
    huge = stream(codecs["gzip"])[:-4] + b"\xff\xff\xff\x7f"
    frame = b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + stream(codecs["zstd"])[6:]
    tracemalloc.start()
    for name, content in (("gzip", huge), ("zstd", frame)):
        for size in (None, len(TEXT)):
            with pytest.raises(ByteproxyError, match="declare"):
                codecs[name].decode(symbols(content), size)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_bomb_stops_at_the_size_expected(stream_codec: StreamCodec) -> None:
    bomb = stream_codec.encode(bytes(50_000_000)).symbols
    with pytest.raises(ByteproxyError, match="expected"):
        stream_codec.decode(bomb, 1000)


def test_symbols_of_another_width_are_refused(stream_codec: StreamCodec) -> None:
    with pytest.raises(ByteproxyError, match="expected uint8"):
        stream_codec.decode(symbols(stream(stream_codec)).astype(np.uint16))
