"""Zstandard, with an optional dictionary fitted on the sample.

A frame holds the content's size, and neither checksum (the shard has its own) nor dictionary id (the codec's folder
holds the one dictionary).
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import zstandard

from shards.codecs.base import StreamCodec, read_fitted
from shards.errors import ByteproxyError

_DICTIONARY_FILE = "dictionary.zstd"
_EXPANSION = 1 << 15  # at most 128 KiB from a block of 4 bytes
_PIECE = 1 << 17  # the dictionary's trainer looks at the first 128 KiB of a sample


class Zstd(StreamCodec):
    """Options `level` 1 to 22 and `dictionary`: the size of a fitted dictionary in bytes (try 112K), 0 for none."""

    kind = "zstd"
    needs_fit = True
    ranges: ClassVar = {"level": range(1, 23), "dictionary": range(1 << 24)}

    def __init__(self, settings: Mapping[str, Any], dictionary: bytes = b"") -> None:
        super().__init__(settings)
        self.dictionary = dictionary

    @classmethod
    def options(cls) -> dict[str, Any]:
        return {"level": 3, "dictionary": 0}

    @classmethod
    def learns(cls, options: Mapping[str, Any]) -> bool:
        return bool(options["dictionary"])

    @classmethod
    def fit(cls, sample: Iterable[bytes], **options: Any) -> Self:
        settings = cls.settle(options)
        size, level = settings["dictionary"], settings["level"]
        if not size:
            return cls(settings)
        pieces: list[bytes | bytearray | memoryview] = [
            raw[at : at + _PIECE] for raw in sample for at in range(0, len(raw), _PIECE)
        ]
        try:
            dictionary = zstandard.train_dictionary(size, pieces, level=level).as_bytes()
        except (zstandard.ZstdError, ValueError) as error:
            total = sum(map(len, pieces))
            raise ByteproxyError(
                f"codec zstd: no dictionary of {size} bytes can be fitted on a sample of {total} bytes in "
                f"{len(pieces)} pieces ({error}); give more text, a smaller dictionary, or dictionary=0"
            ) from None
        return cls(settings, dictionary)

    @cached_property
    def _data(self) -> zstandard.ZstdCompressionDict | None:
        if not self.dictionary:
            return None
        return zstandard.ZstdCompressionDict(self.dictionary, dict_type=zstandard.DICT_TYPE_FULLDICT)

    @cached_property
    def _compressor(self) -> zstandard.ZstdCompressor:
        if self._data is not None:
            self._data.precompute_compress(level=self.settings["level"])
        return zstandard.ZstdCompressor(
            level=self.settings["level"],
            dict_data=self._data,
            write_content_size=True,
            write_checksum=False,
            write_dict_id=False,
        )

    @cached_property
    def _decompressor(self) -> zstandard.ZstdDecompressor:
        return zstandard.ZstdDecompressor(dict_data=self._data)

    def compress(self, raw: bytes) -> bytes:
        return self._compressor.compress(raw)

    def decompress(self, stream: bytes, limit: int) -> bytes:
        try:
            size = zstandard.frame_content_size(stream)
            if size < 0:
                raise self.corrupt("it does not declare its size")
            self.declared(size, stream, limit, _EXPANSION)
            raw = self._decompressor.decompress(stream, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise self.corrupt(str(error)) from None
        if len(raw) != size:
            raise self.corrupt(f"it decodes to {len(raw)} bytes, and its header says {size}")
        return raw

    def libraries(self) -> dict[str, str]:
        return {"zstandard": zstandard.__version__, "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION))}

    def _files(self) -> dict[str, bytes]:
        return {_DICTIONARY_FILE: self.dictionary} if self.dictionary else {}

    @classmethod
    def _from_files(cls, folder: Path, settings: dict[str, Any]) -> Self:
        return cls(settings, read_fitted(folder / _DICTIONARY_FILE) if settings["dictionary"] else b"")
