"""Reads a Parquet page header, just enough to prove where a column chunk's values lie.

pyarrow does not expose page headers, and its own defaults split a chunk into pages without a word, which would make
the map's arithmetic silently wrong. So each chunk is parsed after it is written: one PLAIN data page, no levels.
The header is a Thrift struct in the compact protocol (parquet-format, `PageHeader`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

DATA_PAGE = 0
PLAIN = 0
_I32_FIELDS = {1: "kind", 2: "uncompressed_size", 3: "size"}
_DATA_PAGE_HEADER = 5


@dataclass
class PageHeader:
    """What of a page header the layout depends on; sizes in bytes, `length` is the header's own."""

    length: int = 0
    kind: int = -1
    uncompressed_size: int = -1
    size: int = -1
    values: int = -1
    encoding: int = -1


def parse_page_header(data: bytes) -> PageHeader:
    """Parse the page header at the start of `data`. Raises ValueError if it is none or is longer than `data`."""
    reader, header = _Compact(data), PageHeader()
    try:
        for number, kind in reader.fields():
            if number in _I32_FIELDS:
                setattr(header, _I32_FIELDS[number], reader.zigzag())
            elif number == _DATA_PAGE_HEADER:
                for inner, inner_kind in reader.fields():
                    if inner == 1:
                        header.values = reader.zigzag()
                    elif inner == 2:
                        header.encoding = reader.zigzag()
                    else:
                        reader.skip(inner_kind)
            else:
                reader.skip(kind)
    except IndexError:
        raise ValueError("the page header is cut short") from None
    header.length = reader.position
    return header


class _Compact:
    """A reader of Thrift's compact protocol."""

    BOOLS, BYTE, VARINTS, DOUBLE, BINARY, LISTS, STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def byte(self) -> int:
        self.position += 1
        return self.data[self.position - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield (field number, type) of a struct; the caller reads or skips each value."""
        number = 0
        while byte := self.byte():
            number = number + (byte >> 4) if byte >> 4 else self.zigzag()
            yield number, byte & 0x0F

    def skip(self, kind: int) -> None:
        if kind in self.BOOLS:
            return
        if kind == self.BYTE:
            self.position += 1
        elif kind in self.VARINTS:
            self.varint()
        elif kind == self.DOUBLE:
            self.position += 8
        elif kind == self.BINARY:
            length = self.varint()
            self.position += length
        elif kind in self.LISTS:
            head = self.byte()
            count = head >> 4 if head >> 4 != 15 else self.varint()
            for _ in range(count):
                self.skip(head & 0x0F)
        elif kind == self.STRUCT:
            for _, inner in self.fields():
                self.skip(inner)
        else:
            raise ValueError(f"unknown Thrift type {kind} in a page header")
