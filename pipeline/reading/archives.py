"""Reads archives, tar (plain or compressed) and zip, as streams of members. No path is ever written.

Every member that is no folder is found: a document or a rejection. A tar is read from its beginning to its end; where
it makes no sense any more one rejection says so, and what came before stays. A zip has a directory, so its members can
be dealt to several workers, and one that is damaged costs only itself. No archive within an archive is opened.
"""

import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from pipeline.reading.formats import compression_of, kind_of, last_name
from pipeline.reading.intake import PASSING, Batch, Intake, member_name
from pipeline.reading.items import Archive
from pipeline.reading.streams import Budget, Damaged, Reader, plain, unpacked
from pipeline.records import SPAN, Place

MAX_HEADER = 1 << 16  # bytes of a tar header's names and fields: the library needs time by their square
MAX_DIRECTORY = 64 << 20  # bytes of a zip's directory, which is held in memory: some 700,000 members
MAX_MEMBERS = 50_000_000
_TYPES = {tarfile.CHRTYPE: "device", tarfile.BLKTYPE: "block device", tarfile.FIFOTYPE: "FIFO"}
_END, _END64 = b"PK\5\6", b"PK\6\6"

Excluded = Callable[[str], bool]


def read_archive(
    item: Archive, file: IO[bytes], size: int, intake: Intake, excluded: Excluded, expansion: int
) -> Iterator[Batch]:
    """What is in an archive, or for a zip in its part `item.part` of `item.parts`.

    `file` is at its beginning and `size` bytes long. Members whose path is `excluded` do not count.
    """
    is_zip = kind_of(last_name(item.file)) == "zip"
    try:
        if is_zip:
            yield from _read_zip(item, file, size, intake, excluded, expansion)
        else:
            yield from _read_tar(item, file, size, intake, excluded, expansion)
    except Damaged as damage:
        where = item.input if is_zip else f"{item.input}@{file.tell()}"
        intake.reject(where, damage.reason, damage.value)
    yield from intake.batches(at_end=True)


class _Member(tarfile.TarInfo):
    """A header of a tar. One that makes no sense is an error: tarfile takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Member":
        at = archive.offset
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            kind = type(error).__name__
            if kind == "EOFHeaderError":  # the mark of the end
                raise
            if kind in ("EmptyHeaderError", "TruncatedHeaderError"):
                raise Damaged("truncated", f"cut short at byte {at} of the tar ({error})") from None
            raise Damaged("damaged", f"no header at byte {at} of the tar ({error})") from None

    def _proc_member(self, archive: tarfile.TarFile) -> "_Member":
        headers = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
        limit = MAX_HEADER if self.type in (*headers, tarfile.SOLARIS_XHDTYPE) else 1 << 62
        if not 0 <= self.size <= limit:
            raise Damaged("damaged", f"a header of {self.size} bytes at byte {self.offset} of the tar")
        member: _Member = super()._proc_member(archive)  # type: ignore[misc]
        if member.size < 0:
            raise Damaged("damaged", f"a member of {member.size} bytes at byte {self.offset} of the tar")
        return member


def _read_tar(
    item: Archive, file: IO[bytes], size: int, intake: Intake, excluded: Excluded, expansion: int
) -> Iterator[Batch]:
    suffix = compression_of(last_name(item.file))
    reader = Reader(unpacked(file, suffix, Budget(size, expansion)) if suffix else plain(file))
    settings: dict[str, Any] = {"tarinfo": _Member, "encoding": "utf-8", "errors": "surrogateescape"}
    number = 0
    with _making_sense(reader, number):
        archive = tarfile.TarFile.open(fileobj=reader, mode="r|", **settings)  # type: ignore[call-overload]
    while True:
        with _making_sense(reader, number):
            member = archive.next()
        if member is None:
            break
        archive.members = []  # else all are kept
        number += 1
        if number > MAX_MEMBERS:
            raise Damaged("expansion", f"more than {MAX_MEMBERS} members")
        path = member_name(member.name)
        if not member.isdir() and not (path is not None and excluded(path)):
            _take_tar_member(number, path, member, archive, reader, intake, None if suffix else item.file)
            yield from intake.batches()
    with _making_sense(reader, number):
        while rest := archive.fileobj.read(1 << 20):  # padding; a compressed stream's checksum comes after it
            if rest.strip(b"\0"):
                raise Damaged("damaged", f"more follows the end of the tar, before byte {reader.at}")


@contextmanager
def _making_sense(reader: Reader, number: int) -> Iterator[None]:
    """Of hostile headers tarfile raises whatever happens to go wrong: all of it is damage."""
    try:
        yield
    except PASSING:
        raise
    except Exception as error:
        reason = "truncated" if "end of data" in str(error) else "damaged"
        where = f"about byte {reader.at}, after {number} members"
        raise Damaged(reason, f"the tar makes no sense {where} ({type(error).__name__}: {error})") from None


def _take_tar_member(
    number: int, path: str | None, member: Any, archive: Any, reader: Reader, intake: Intake, file: bytes | None
) -> None:
    """Take in a member. Of a plain tar, `file`, the bytes stay where they are."""
    if path is None:
        name = member.name.encode("utf-8", "backslashreplace").decode()
        intake.reject(name, "unsafe name", "leads out of the archive", member.size)
    elif member.issym() or member.islnk():
        intake.reject(path, "symlink" if member.issym() else "hard link", f"to {_shown(member.linkname)}")
    elif member.issparse() or not member.isreg():
        kind = "sparse file" if member.issparse() else _TYPES.get(member.type, f"type {member.type!r}")
        intake.reject(path, "not a regular file", kind)
    elif intake.wants_member(path, member.size):
        with _making_sense(reader, number):
            raw = archive.extractfile(member).read(member.size)
        if len(raw) != member.size:
            raise Damaged("truncated", f"{_shown(member.name)} ends after {len(raw)} of {member.size} bytes")
        place = Place(file, member.offset_data, member.size, SPAN) if file is not None else None
        intake.take_member(number, path, raw, place)


class _Directory:
    """A zip file for the library to read its directory from: at most so much at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, MAX_DIRECTORY + 1) if size >= 0 else MAX_DIRECTORY + 1)
        if len(data) > MAX_DIRECTORY:
            raise Damaged("expansion", f"a directory of more than {MAX_DIRECTORY} bytes")
        return data


def _read_zip(
    item: Archive, file: IO[bytes], size: int, intake: Intake, excluded: Excluded, expansion: int
) -> Iterator[Batch]:
    try:
        archive = zipfile.ZipFile(_Directory(file))  # type: ignore[arg-type]
        members = archive.infolist()
        fault = _fault_of_directory(file, size, len(members))
    except (Damaged, MemoryError):
        if item.part:
            return  # the first part says it
        raise
    except Exception as error:  # BadZipFile, and whatever else hostile bytes lead to
        if item.part:
            return
        raise Damaged("damaged", f"no directory of a zip can be read ({error})") from None
    budget = Budget(size, expansion)
    for number, member in enumerate(members):
        try:
            budget.spend(member.file_size)  # as declared; reading never gives more
        except Damaged:
            if item.part:
                return
            raise
        if max(0, member.header_offset) * item.parts // max(1, size) % item.parts != item.part:
            continue
        path = member_name(member.filename)
        if path is None or not excluded(path):
            _take_zip_member(number, path, member, archive, intake)
            yield from intake.batches()
    if fault is not None and not item.part:
        raise fault


def _take_zip_member(
    number: int, path: str | None, member: zipfile.ZipInfo, archive: zipfile.ZipFile, intake: Intake
) -> None:
    mode = member.external_attr >> 16 if member.create_system == 3 else 0
    if path is None:
        intake.reject(_shown(member.filename), "unsafe name", "leads out of the archive", member.file_size)
        return
    if member.is_dir():
        try:
            archive.open(member).close()  # is it one also by its own header?
            if member.file_size:
                raise zipfile.BadZipFile(f"a folder of {member.file_size} bytes")
        except PASSING:
            raise
        except Exception as error:
            intake.reject(path, "damaged", f"{type(error).__name__}: {error}")
        return
    if stat.S_IFMT(mode) and not stat.S_ISREG(mode):
        reason = "symlink" if stat.S_ISLNK(mode) else "not a regular file"
        intake.reject(path, reason, f"mode {mode:o}")
    elif member.flag_bits & 1:
        intake.reject(path, "encrypted", "a password is needed", member.file_size)
    elif intake.wants_member(path, member.file_size):
        try:
            step = 1 << 20 if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 1 << 12
            with archive.open(member) as opened:  # other methods give without limit for what they take at once
                raw = b"".join(iter(lambda: opened.read(step), b""))
            if len(raw) != member.file_size:
                raise zipfile.BadZipFile(f"{len(raw)} bytes found, {member.file_size} declared")
        except NotImplementedError as error:
            intake.reject(path, "unsupported compression", str(error), member.file_size)
        except PASSING:
            raise
        except Exception as error:  # BadZipFile, zlib.error, LZMAError, OSError, EOFError, struct.error ...
            intake.reject(path, "damaged", f"{type(error).__name__}: {error}", member.file_size)
        else:
            intake.take_member(number, path, raw)


def _fault_of_directory(file: IO[bytes], size: int, found: int) -> Damaged | None:
    """The library takes a damaged directory for a shorter one; so hold the number of members against the one given."""
    file.seek(max(0, size - (1 << 16) - 22 - 20 - 56))
    tail = file.read((1 << 16) + 22 + 20 + 56)
    at = tail.rfind(_END)
    declared = struct.unpack_from("<H", tail, at + 10)[0] if 0 <= at <= len(tail) - 22 else -1
    if declared == 0xFFFF and (at64 := tail.rfind(_END64, 0, at)) >= 0:
        declared = struct.unpack_from("<Q", tail, at64 + 32)[0]
    if declared in (found, -1) or (declared == 0xFFFF and found >= 0xFFFF):
        return None
    return Damaged("damaged", f"the directory has {found} members, {declared} are declared")


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
