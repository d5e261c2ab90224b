"""brotli. A stream declares no size of its own: give `decode` the document's, so that a corrupt one stays small."""

from typing import Any, ClassVar

import brotli

from shards.codecs.base import StreamCodec


class Brotli(StreamCodec):
    """Option `level`: the quality, 0 to 11 (from 10 on about 20 times slower)."""

    kind = "brotli"
    ranges: ClassVar = {"level": range(12)}

    @classmethod
    def options(cls) -> dict[str, Any]:
        return {"level": 5}

    def compress(self, raw: bytes) -> bytes:
        return brotli.compress(raw, quality=self.settings["level"])

    def decompress(self, stream: bytes, limit: int) -> bytes:
        decoder = brotli.Decompressor()
        try:
            raw = decoder.process(stream, output_buffer_limit=limit + 1)
        except brotli.error as error:
            raise self.corrupt(str(error)) from None
        if len(raw) > limit:
            raise self.corrupt(f"it decodes to more than the {limit} bytes expected")
        if not decoder.is_finished():
            raise self.corrupt(f"it is cut short after {len(stream)} bytes")
        return raw

    def libraries(self) -> dict[str, str]:
        return {"brotli": brotli.__version__}
