"""Inputs that are cut short, have a bit flipped, or are no such thing at all: no crash, nothing lost in silence.

Every input is read as a build's survey reads it. Of a whole one all documents come back. Of a damaged one they come
back as they were, or at least one rejection says what is wrong; where a format has no checksum over its content, a
flipped bit may change a document, but none may go without a rejection. The longer profile is marked slow.
"""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cleaning.filters import Filters
from pipeline.reading.faults import FAULTS
from pipeline.reading.inputs import corpora, line_ranges, take_inventory
from pipeline.reading.items import Lines
from pipeline.reading.languages import DEFAULT
from pipeline.reading.sources import read_again, read_lines
from pipeline.reading.spool import spool_name, unpack_file
from pipeline.reading.unsought import ReadOptions, as_item, read_unsought
from pipeline.records import RECORD, Place, Rejection
from pipeline.running.scratch import Scratch
from pipeline.running.storage import name_of
from tests.pipeline.conftest import run_build
from tests.pipeline.test_inputs import assert_whole

FILTERS = Filters(frozenset(DEFAULT), False, 1 << 16, True)
OPTIONS = ReadOptions((), 200, None, False)
Documents = Sequence[tuple[str, bytes]]  # path, bytes


def survey(file: Path, scratch: Scratch) -> tuple[Counter[bytes], list[Rejection]]:
    """(the documents that stay, as they are read again at their places; all rejections) of one input."""
    inventory = take_inventory(corpora([str(file)]), (), file.with_name("out"))
    rows, rejected = [], list(inventory.rejected)
    ranges: list[Lines] = list(inventory.lines)
    for packed in inventory.packed:
        target = scratch.spool(spool_name(packed))
        size, rejection = unpack_file(packed, target)
        rejected += [rejection] if rejection is not None else []
        ranges += line_ranges(packed.input, name_of(target), size)
    batches = [read_lines(item, FILTERS) for item in ranges]
    for item in inventory.unsought:
        kind, *parts = as_item(item)
        batches += read_unsought(kind, parts, FILTERS, OPTIONS, scratch)
    for some, others in batches:
        rows += some
        rejected += others
    records = [dict(zip(RECORD.names, row, strict=True)) for row in rows]
    pa.Table.from_pylist(records, schema=RECORD)  # every value is one that a record can hold
    assert all(isinstance(row.path, str) and row.path.encode() is not None for row in rejected)
    places = [(Place(*(record[name] for name in Place._fields)), record["id"]) for record in records]
    return Counter(read_again(*place) for place in places), rejected


def tar(documents: Documents, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, raw in documents:
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return out.getvalue()


def zipped(documents: Documents, method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, raw in documents:
            archive.writestr(zipfile.ZipInfo(name), raw, compress_type=method)
    return out.getvalue()


def parquet(documents: Documents, compression: str) -> bytes:
    out = io.BytesIO()
    columns = {"path": [name for name, _ in documents], "content": [raw for _, raw in documents]}
    table = pa.table(columns, schema=pa.schema({"path": pa.string(), "content": pa.binary()}))
    pq.write_table(table, out, row_group_size=3, compression=compression, write_page_checksum=True)
    return out.getvalue()


def jsonl(documents: Documents) -> bytes:
    return b"".join(json.dumps({"path": n, "text": raw.decode("latin-1")}).encode() + b"\n" for n, raw in documents)


class Format(NamedTuple):
    suffix: str
    make: Callable[[Documents], bytes]
    checked: bool  # has it checksums over all of its content?


ZSTD = zstandard.ZstdCompressor(write_checksum=True)
FORMATS = [
    Format(".tar", tar, False),
    Format(".tar", lambda documents: tar(documents, tarfile.GNU_FORMAT), False),
    Format(".tar.gz", lambda documents: gzip.compress(tar(documents)), True),
    Format(".tar.bz2", lambda documents: bz2.compress(tar(documents)), True),
    Format(".tar.xz", lambda documents: lzma.compress(tar(documents), preset=0), True),
    Format(".tar.zst", lambda documents: ZSTD.compress(tar(documents)), True),
    Format(".zip", lambda documents: zipped(documents, zipfile.ZIP_STORED), True),
    Format(".zip", lambda documents: zipped(documents, zipfile.ZIP_DEFLATED), True),
    Format(".zip", lambda documents: zipped(documents, zipfile.ZIP_BZIP2), True),
    Format(".parquet", lambda documents: parquet(documents, "NONE"), False),  # none over its footer
    Format(".parquet", lambda documents: parquet(documents, "ZSTD"), False),
    Format(".jsonl", jsonl, False),
    Format(".jsonl.gz", lambda documents: gzip.compress(jsonl(documents)), True),
    Format(".jsonl.zst", lambda documents: ZSTD.compress(jsonl(documents)), True),
]
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/\\"), min_size=1, max_size=120)
DOCUMENTS = st.lists(
    st.tuples(NAMES.map(lambda name: f"{name}.py"), st.one_of(st.binary(max_size=300), st.just(b"x = 1\n" * 2000))),
    min_size=1,
    max_size=8,
)


def check(form: Format, documents: Documents, place: float, bit: int | None) -> None:
    """Damage an input (`bit` None: cut it off there; -1: leave it whole) and read it."""
    data = bytearray(form.make(documents))
    whole = bytes(data)
    at = min(int(place * len(data)), len(data) - 1)
    if bit is None:
        del data[at:]
    elif bit >= 0:
        data[at] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"x{form.suffix}"
        file.write_bytes(data)
        found, rejected = survey(file, Scratch(Path(folder) / "scratch"))
    raws = [raw.decode("latin-1").encode() if ".jsonl" in form.suffix else raw for _, raw in documents]
    expected = Counter(raws)
    if bit == -1:
        assert found == expected and not rejected
    elif bit is None and form.suffix == ".jsonl":  # what is not there between lines is missed by nobody
        between = whole[at : at + 1] == b"\n"
        lines = bytes(data).count(b"\n") + between
        assert found == Counter(raws[:lines]) and bool(rejected) == (not_at_end(data) and not between)
    elif form.checked or bit is None:
        assert found == expected or rejected
    else:
        assert sum(found.values()) + len(rejected) >= len(raws) or any(row.reason in FAULTS for row in rejected)


def not_at_end(data: bytes) -> bool:
    """Does a line begin in `data` that does not end there?"""
    return bool(data.rpartition(b"\n")[2].strip())


pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")
PROFILE = {"deadline": None, "suppress_health_check": list(HealthCheck)}
DAMAGE = st.one_of(st.none(), st.integers(0, 7), st.integers(0, 7), st.just(-1))


@pytest.mark.parametrize("number", range(len(FORMATS)))
@settings(max_examples=14, derandomize=True, **PROFILE)
@given(documents=DOCUMENTS, place=st.floats(0, 1), bit=DAMAGE)
def test_documents_of_a_damaged_input_are_intact_or_a_rejection_says_why(
    number: int, documents: Documents, place: float, bit: int | None
) -> None:
    check(FORMATS[number], documents, place, bit)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(FORMATS)))
@settings(max_examples=200, **PROFILE)
@given(documents=DOCUMENTS, place=st.floats(0, 1), bit=DAMAGE)
def test_the_same_for_many_more(number: int, documents: Documents, place: float, bit: int | None) -> None:
    check(FORMATS[number], documents, place, bit)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(FORMATS)))
def test_every_single_byte_of_an_input_may_be_the_damaged_one(number: int) -> None:
    documents = [("a.py", b"a = 1\n"), ("b.c", b""), ("dir/c.js", b"let c = 3\n" * 20)]
    size = len(FORMATS[number].make(documents))
    step = max(1, size // 400)
    for at in range(0, size, step):
        check(FORMATS[number], documents, (at + 0.5) / size, at % 8)
        check(FORMATS[number], documents, (at + 0.5) / size, None)


def check_arbitrary(number: int, head: bytes, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"x{FORMATS[number].suffix}"
        file.write_bytes(head + data)
        found, rejected = survey(file, Scratch(Path(folder) / "scratch"))
    if (head + data).strip(b"\0 \t\r\n\v\f"):
        assert found or rejected


MAGIC = st.sampled_from(
    [
        b"",
        b"PK\3\4",
        b"PK\5\6" + bytes(9),
        b"\x1f\x8b\x08\0",
        b"BZh9",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"PAR1",
        b'{"text": ',
    ]
)


@settings(max_examples=70, derandomize=True, **PROFILE)
@given(st.integers(0, len(FORMATS) - 1), MAGIC, st.binary(max_size=2000))
def test_arbitrary_bytes_under_the_name_of_an_input_are_no_crash(number: int, head: bytes, data: bytes) -> None:
    check_arbitrary(number, head, data)


@pytest.mark.slow
@settings(max_examples=1000, **PROFILE)
@given(st.integers(0, len(FORMATS) - 1), MAGIC, st.binary(max_size=20_000))
def test_the_same_for_more_bytes(number: int, head: bytes, data: bytes) -> None:
    check_arbitrary(number, head, data)


@pytest.mark.slow
@settings(max_examples=12, **PROFILE)
@given(st.lists(st.tuples(DOCUMENTS, st.floats(0, 1), DAMAGE), min_size=len(FORMATS), max_size=len(FORMATS)))
def test_a_build_of_damaged_inputs_counts_what_it_found(
    code: Path, inputs: list[tuple[Documents, float, int | None]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        corpus = [str(code)]
        for number, (form, (documents, place, bit)) in enumerate(zip(FORMATS, inputs, strict=True)):
            data = bytearray(form.make(documents))
            at = min(int(place * len(data)), len(data) - 1)
            if bit is None:
                del data[at:]
            elif bit >= 0:
                data[at] ^= 1 << bit
            file = Path(name) / f"{number}{form.suffix}"
            file.write_bytes(data)
            corpus.append(str(file))
        run_build(",".join(corpus), Path(name) / "set")
        assert_whole(Path(name) / "set")
