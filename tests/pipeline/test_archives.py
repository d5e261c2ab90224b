"""Tars and zips: what is in them, by whatever tool, and what hostile ones can do (nothing but be rejected)."""

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard

from pipeline.cleaning.filters import Filters
from pipeline.reading.archives import read_archive
from pipeline.reading.inputs import Archive
from pipeline.reading.intake import Intake, Pile
from pipeline.reading.languages import DEFAULT
from pipeline.reading.sources import read_again
from pipeline.records import RECORD, Place, Rejection

FILTERS = Filters(frozenset(DEFAULT), False, 1 << 20, False)
FILES = {"a/x.py": b"x = 1\n", "a/empty.c": b"", "b/long" + "g" * 180 + ".py": b"y = 2\n" * 5000, "b/z.js": b"let z\n"}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
    ".tar.zst": zstandard.compress,
}
Found = dict[str, bytes]


def read(file: Path, part: int = 0, parts: int = 1, expansion: int = 200) -> tuple[Found, list[Rejection]]:
    """(bytes by path of the documents, as they are read again at their places; rejections) of an archive."""
    pile_file = file.with_name("pile")
    pile = Pile(pile_file, bytes(pile_file))
    intake = Intake(file.name, FILTERS, pile)
    rows, rejected = [], []
    with file.open("rb") as source:
        item = Archive(file.name, bytes(file), part, parts, 0)
        size = file.stat().st_size
        for some, others in read_archive(item, source, size, intake, lambda path: "skipped" in path, expansion):
            rows += some
            rejected += others
    pile.close()
    records = [dict(zip(RECORD.names, row, strict=True)) for row in rows]
    found = {r["path"]: read_again(Place(r["file"], r["offset"], r["length"], r["form"]), r["id"]) for r in records}
    assert len(found) == len(rows)
    return found, rejected


def reasons(rejected: Sequence[Rejection]) -> dict[str, str]:
    return {row.path: row.reason for row in rejected}


def tar_of(members: Sequence[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def plain_tar(files: Found, form: int = tarfile.PAX_FORMAT) -> bytes:
    return tar_of([(tarfile.TarInfo(name), data) for name, data in files.items()], form)


def plain_zip(files: Found, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_gives_the_bytes_of_its_files(tmp_path: Path, suffix: str, form: int) -> None:
    file = tmp_path / f"x{suffix}"
    file.write_bytes(COMPRESS[suffix](plain_tar(FILES, form)))
    assert read(file) == (FILES, [])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_gives_the_bytes_of_its_files(tmp_path: Path, method: int) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(plain_zip(FILES, method))
    assert read(file) == (FILES, [])


def test_a_plain_tar_is_not_copied(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(plain_tar(FILES))
    read(file)
    assert (tmp_path / "pile").stat().st_size == 0


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_the_parts_of_a_zip_are_all_of_it_once(tmp_path: Path, parts: int) -> None:
    file = tmp_path / "x.zip"
    files = {f"{i}.py": b"x = %d\n" % i * (i * 37 % 100 + 1) for i in range(50)} | {"x.bin": b"", "../y.py": b"y"}
    file.write_bytes(plain_zip(files))
    whole, rejected = read(file)
    assert len(whole) == 50 and len(rejected) == 2
    dealt = [read(file, part, parts) for part in range(parts)]
    assert sum(len(found) for found, _ in dealt) == 50
    assert {path: data for found, _ in dealt for path, data in found.items()} == whole
    assert sorted(row for _, left in dealt for row in left) == sorted(rejected)
    file.write_bytes(file.read_bytes()[:-100])
    assert [len(read(file, part, parts)[1]) for part in range(parts)] == [1] + [0] * (parts - 1)


def test_what_is_no_file_or_not_wanted_is_rejected_by_its_name(tmp_path: Path) -> None:
    def member(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info, b""

    file = tmp_path / "x.tar"
    members = [
        member("link.py", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard.py", tarfile.LNKTYPE, "x.py"),
        member("pipe.py", tarfile.FIFOTYPE),
        member("null.py", tarfile.CHRTYPE),
        member("folder", tarfile.DIRTYPE),
        (tarfile.TarInfo("../../up.py"), b"x"),
        (tarfile.TarInfo("..\\up.py"), b"x"),
        (tarfile.TarInfo("/rooted.py"), b"r = 1\n"),
        (tarfile.TarInfo("./dotted.py"), b"d = 1\n"),
        (tarfile.TarInfo("a\nb.py"), b"n = 1\n"),
        (tarfile.TarInfo("caf\udce9.py"), b"e = 1\n"),
        (tarfile.TarInfo("skipped/x.py"), b"s = 1\n"),
        (tarfile.TarInfo("x.bin"), b"b"),
        (tarfile.TarInfo("binary.py"), b"\0"),
        (tarfile.TarInfo("large.py"), b"#" * (1 << 20 | 1)),
    ]
    file.write_bytes(tar_of(members, tarfile.GNU_FORMAT))
    found, rejected = read(file)
    assert list(found) == ["rooted.py", "dotted.py", "a\nb.py", "caf\\xe9.py"]
    assert reasons(rejected) == {
        "link.py": "symlink", "hard.py": "hard link", "pipe.py": "not a regular file", "null.py": "not a regular file",
        "../../up.py": "unsafe name", "..\\up.py": "unsafe name", "x.bin": "not code", "binary.py": "binary",
        "large.py": "too large",
    }  # fmt: skip
    assert not (tmp_path.parent / "up.py").exists()


def test_links_devices_and_encrypted_members_of_a_zip_are_rejected(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name, kind in (("link.py", stat.S_IFLNK), ("pipe.py", stat.S_IFIFO), ("x.py", stat.S_IFREG), ("f/", 0)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o644) << 16
            archive.writestr(info, b"" if name == "f/" else name)
        archive.writestr("secret.py", b"s = 1\n")
    data = bytearray(file.read_bytes())
    at = data.rfind(b"PK\1\2")
    data[at + 8] |= 1
    file.write_bytes(data)
    found, rejected = read(file)
    assert found == {"x.py": b"x.py"}
    assert reasons(rejected) == {"link.py": "symlink", "pipe.py": "not a regular file", "secret.py": "encrypted"}


def test_a_damaged_member_of_a_zip_costs_only_itself(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    data = bytearray(plain_zip(FILES, zipfile.ZIP_STORED))
    data[data.find(b"x = 1") + 1] ^= 1
    file.write_bytes(data)
    found, rejected = read(file)
    assert found == {path: data for path, data in FILES.items() if path != "a/x.py"}
    assert reasons(rejected) == {"a/x.py": "damaged"}


def test_a_directory_that_swallows_members_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    data = bytearray(plain_zip(FILES))
    first = data.find(b"PK\1\2")
    struct.pack_into("<H", data, first + 32, 60_000)  # the first member's comment is all that follows
    file.write_bytes(data)
    _, rejected = read(file)
    assert [row.reason for row in rejected] == ["damaged"]
    assert "1 members, 4 are declared" in rejected[0].value


def test_a_header_that_is_damaged_does_not_end_a_tar_in_silence(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    data = bytearray(plain_tar(FILES, tarfile.GNU_FORMAT))
    data[data.find(b"a/empty.c") + 3] ^= 1
    file.write_bytes(data)
    found, rejected = read(file)
    assert list(found) == ["a/x.py"]
    assert [row.reason for row in rejected] == ["damaged"] and "no header at byte 1024" in rejected[0].value


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_tar_cut_short_keeps_what_came_before_and_says_so(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    tar = plain_tar(FILES)
    whole = COMPRESS[suffix](tar)
    cut = whole[: len(tar) - 10240] if suffix == ".tar" else whole[: len(whole) // 2]
    file.write_bytes(cut)
    found, rejected = read(file)
    assert found.items() <= FILES.items()
    assert [row.reason for row in rejected] == ["truncated"]


def test_a_second_tar_behind_the_first_is_not_lost_in_silence(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(plain_tar(FILES) + plain_tar({"more.py": b"m = 1\n"}))
    found, rejected = read(file)
    assert found == FILES and [row.reason for row in rejected] == ["damaged"]


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
def test_a_bomb_is_left_off_at_the_limit(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x{suffix}"
    file.write_bytes(COMPRESS[suffix](plain_tar({"x.py": b"x = 1\n", "bomb.py": bytes(40 << 20), "y.py": b""})))
    found, rejected = read(file)
    assert found == {"x.py": b"x = 1\n"}
    assert [row.reason for row in rejected] == ["too large", "expansion"]
    found, rejected = read(file, expansion=1 << 20)
    assert list(found) == ["x.py", "y.py"] and reasons(rejected) == {"bomb.py": "too large"}


def test_members_of_a_zip_that_overlap_to_a_bomb_are_left_off(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    names = {f"{i:03}.py": zlib.compress(b"")[:0] + b"#" * 1_000_000 for i in range(3)}
    data = plain_zip(names)
    start = data.find(b"PK\1\2")
    entry = data[start : data.find(b"PK\1\2", start + 4)]
    end = bytearray(data[data.rfind(b"PK\5\6") :])
    count = 60
    struct.pack_into("<HHI", end, 8, count, count, len(entry) * count)
    file.write_bytes(data[:start] + entry * count + end)
    found, rejected = read_unchecked(file)
    assert len(found) == 16 and [row.reason for row in rejected][-1] == "expansion"


def read_unchecked(file: Path) -> tuple[list[str], list[Rejection]]:
    pile = Pile(file.with_name("pile"), b"pile")
    with file.open("rb") as source:
        item = Archive("x.zip", bytes(file), 0, 1, 0)
        intake = Intake("x.zip", FILTERS, pile)
        batches = list(read_archive(item, source, file.stat().st_size, intake, lambda _: False, 200))
    pile.close()
    return [row[2] for rows, _ in batches for row in rows], [row for _, rejected in batches for row in rejected]


@pytest.mark.parametrize("kind", ["pax", "longname", "size"])
def test_headers_that_claim_gigabytes_are_damage(tmp_path: Path, kind: str) -> None:
    header = tarfile.TarInfo("x.py")
    header.type = {"pax": tarfile.XHDTYPE, "longname": tarfile.GNUTYPE_LONGNAME, "size": tarfile.REGTYPE}[kind]
    header.size = (1 << 33) if kind != "size" else -5
    file = tmp_path / "x.tar"
    file.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert [row.reason for row in read(file)[1]] == ["damaged"]
