"""Finds what there is to read: corpora become work items that workers can take apart, and a fingerprint.

A folder is listed here, in one pass that opens no file; a JSONL file is cut into byte ranges; a compressed one is left
for a worker to unpack. Symlinks are never followed. Folders of version control and caches (`EXCLUDED`) are not entered,
and nothing in them is counted.
"""

# ruff: noqa: PTH115, PTH118 - file names are bytes here, as the operating system spells them

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from pipeline.reading.formats import KNOWN, kind_of
from pipeline.reading.items import Archive, Files, Lines, Packed, Unsought, text_of
from pipeline.reading.repositories import SCHEME, AtCommit, at_commit, repository_items
from pipeline.reading.streams import Damaged
from pipeline.reading.tables import row_items
from pipeline.records import Rejection
from pipeline.running.storage import Location, RemotePath, absolute, join, location, name_of, open_file
from shards.errors import ByteproxyError
from shards.store import is_remote

EXCLUDED = (
    ".git", ".hg", ".svn", ".bzr", "CVS", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".tox", ".nox",
)  # fmt: skip
ZIP_PART_BYTES = 64 << 20  # a work item of a zip
ITEM_BYTES = 8 << 20  # a work item of files, or a range of lines
ITEM_FILES = 512


@dataclass
class Inventory:
    """All there is to read. `found` counts what was listed; the lines of JSONL files come on top."""

    files: list[Files] = field(default_factory=list)
    lines: list[Lines] = field(default_factory=list)
    packed: list[Packed] = field(default_factory=list)
    unsought: list[Unsought] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of the inputs, as a command line would have them
    found: int = 0
    bytes: int = 0  # of all files
    line_bytes: int = 0  # of those that are JSONL
    packed_bytes: int = 0  # of those that are compressed JSONL
    fingerprint: str = ""  # over paths, sizes and times
    content: str | None = None  # over what is in the files, where that was asked for


class Corpus(NamedTuple):
    name: str
    path: Location | AtCommit


def corpora(specs: Sequence[str]) -> list[Corpus]:
    """The corpora named on the command line, each with a name that tells it apart, sorted by name.

    A name is the last component of the path, with as many of its parents as it takes to differ; so it depends neither
    on the order of the arguments nor, mostly, on where a corpus lies.
    """
    paths: list[Location | AtCommit] = []
    for spec in specs:
        if spec.startswith(SCHEME):
            paths.append(at_commit(spec))
            continue
        if is_remote(spec):
            paths.append(location(spec))
            continue
        matches = [spec] if Path(spec).exists() or not glob.has_magic(spec) else sorted(glob.glob(spec))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            raise ByteproxyError(f"corpus {spec}: nothing matches this pattern")
        paths += [_corpus_path(match) for match in matches]
    if not paths:
        raise ByteproxyError("no corpus given: name a folder or a JSONL file")
    for path in paths:
        if paths.count(path) > 1:
            raise ByteproxyError(f"corpus {path} is given twice; name it once")
    depth = dict.fromkeys(paths, 1)
    while True:
        names = {path: "/".join(path.parts[-depth[path] :]) for path in paths}
        clashes = [p for p in paths if list(names.values()).count(names[p]) > 1 and depth[p] < len(p.parts)]
        if not clashes:
            return sorted(Corpus(text_of(os.fsencode(names[path])), path) for path in paths)
        for path in clashes:
            depth[path] += 1


def take_inventory(
    found: Sequence[Corpus], exclude: Sequence[str], out: Location, content_column: str | None = None
) -> Inventory:
    """List the corpora. `out` is skipped, should it lie inside one of them. Raises ByteproxyError for an empty URL."""
    inventory = Inventory()
    inventory.names = [f"{SCHEME}{name}" if isinstance(path, AtCommit) else name for name, path in found]
    digest = blake2b(digest_size=16)
    skip = name_of(absolute(out))
    excluded = _excluder([*EXCLUDED, *exclude])
    for corpus in found:
        if isinstance(corpus.path, AtCommit):
            digest.update(repr((corpus.name, corpus.path.commit)).encode())
            items = repository_items(corpus.name, corpus.path)
            inventory.unsought += items
            inventory.bytes += items[0].total
            inventory.line_bytes += items[0].total
            continue
        root = name_of(corpus.path)
        single = corpus.path.bucket.entry("") if isinstance(corpus.path, RemotePath) else None
        if single is None and (isinstance(corpus.path, RemotePath) or corpus.path.is_dir()):
            names: list[bytes] = []
            used = 0
            for entry in _entries(corpus.path, excluded, skip):
                inventory.found += 1
                digest.update(repr((corpus.name, *entry)).encode())
                if entry.problem:
                    size = None if entry.problem == "unreadable" else entry.size
                    row = (corpus.name, text_of(entry.name), None, size, entry.problem, entry.detail)
                    inventory.rejected.append(Rejection(*row))
                    continue
                inventory.bytes += entry.size
                if names and (used + entry.size > ITEM_BYTES or len(names) == ITEM_FILES):
                    inventory.files.append(Files(corpus.name, root, names, used))
                    names, used = [], 0
                names.append(entry.name)
                used += entry.size
            if names:
                inventory.files.append(Files(corpus.name, root, names, used))
        else:
            size, mtime = single[1:] if single is not None else _status(corpus.path)
            digest.update(repr((corpus.name, size, mtime)).encode())
            inventory.bytes += size
            inventory.line_bytes += size
            kind = kind_of(corpus.path.name)
            if kind == "packed":
                inventory.packed.append(Packed(corpus.name, root))
                inventory.packed_bytes += size
            elif kind in ("tar", "zip"):
                parts = -(-size // ZIP_PART_BYTES) or 1 if kind == "zip" else 1
                share = size // parts
                inventory.unsought += [Archive(corpus.name, root, part, parts, share) for part in range(parts)]
            elif kind == "parquet":
                _list_table(corpus.name, root, size, content_column, inventory)
            else:
                inventory.lines += line_ranges(corpus.name, root, size)
    inventory.fingerprint = digest.hexdigest()
    return inventory


def _list_table(name: str, file: bytes, size: int, content_column: str | None, inventory: Inventory) -> None:
    """Cut a Parquet file by its footer. One that cannot be read is a rejection, and counts as one document found."""
    try:
        with open_file(file) as source:
            inventory.unsought += row_items(name, file, source, size, content_column)
    except Damaged as damage:
        inventory.rejected.append(Rejection(name, name, None, None, damage.reason, damage.value))
        inventory.found += 1


def line_ranges(name: str, file: bytes, size: int) -> list[Lines]:
    """Cut a JSONL file into ranges of about ITEM_BYTES."""
    count = max(1, -(-size // ITEM_BYTES))
    cuts = [size * i // count for i in range(count + 1)]
    return [Lines(name, file, start, end) for start, end in pairwise(cuts)]


class _Entry(NamedTuple):
    name: bytes  # relative to the root
    size: int
    mtime: int
    problem: str  # why it cannot be a document, or ""
    detail: str


def _walk(root: bytes, excluded: Callable[[bytes], bool], skip: bytes) -> Iterator[_Entry]:
    """Every entry under `root` that is no folder, folders depth first, each in order of its names."""
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(os.path.join(root, folder) if folder else root) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield _Entry(folder or b".", 0, 0, "unreadable", f"folder: {error.strerror}")
            continue
        inner = []
        for entry in found:
            name = os.path.join(folder, entry.name) if folder else entry.name
            if excluded(name) or os.path.join(root, name) == skip:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    inner.append(name)
                    continue
                problem, detail = _problem(status.st_mode, os.path.join(root, name))
                yield _Entry(name, status.st_size, status.st_mtime_ns, problem, detail)
            except OSError as error:
                yield _Entry(name, 0, 0, "unreadable", error.strerror or str(error))
        waiting += reversed(inner)


def _entries(root: Location, excluded: Callable[[bytes], bool], skip: bytes) -> Iterator[_Entry]:
    if isinstance(root, RemotePath):
        return _walk_store(root, excluded, skip)
    return _walk(bytes(root), excluded, skip)


def _status(path: Location) -> tuple[int, int]:
    """Size and time of change of a local file."""
    status = Path(path).stat()  # type: ignore[arg-type]
    return status.st_size, status.st_mtime_ns


def _walk_store(root: RemotePath, excluded: Callable[[bytes], bool], skip: bytes) -> Iterator[_Entry]:
    """Every object below `root`. Names end with no slash: what stores call folders are empty marks."""
    found = root.bucket.entries("")
    if not found:
        raise ByteproxyError(f"corpus {root}: there is no such object, and none below it")
    for name, size, mtime in found:
        parts = name.split("/")
        above = (os.fsencode("/".join(parts[: n + 1])) for n in range(len(parts)))
        if not any(excluded(part) or join(name_of(root), part) == skip for part in above):
            yield _Entry(os.fsencode(name), size, mtime, "", "")


def _problem(mode: int, path: bytes) -> tuple[str, str]:
    if stat.S_ISREG(mode):
        return "", ""
    if stat.S_ISLNK(mode):
        return "symlink", f"to {text_of(os.readlink(path))}"
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFBLK: "block device", stat.S_IFCHR: "device"}
    return "not a regular file", kinds.get(stat.S_IFMT(mode), "special file")


def _excluder(patterns: Sequence[str]) -> Callable[[bytes], bool]:
    """Does a pattern match? With a slash it is held against the path within the corpus, else against the last name."""
    plain = {pattern.encode() for pattern in patterns if "/" not in pattern and not glob.has_magic(pattern)}
    rest = [pattern for pattern in patterns if "/" in pattern or glob.has_magic(pattern)]
    names = re.compile("|".join(fnmatch.translate(p) for p in rest if "/" not in p) or r"(?!)")
    paths = re.compile("|".join(fnmatch.translate(p.rstrip("/")) for p in rest if "/" in p) or r"(?!)")

    def excluded(name: bytes) -> bool:
        last = name.rpartition(b"/")[2]
        if last in plain:
            return True
        return bool(rest) and bool(names.match(text_of(last)) or paths.match(text_of(name)))

    return excluded


def member_excluder(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Is a file of an archive or repository excluded, by its own name or that of a folder that it is in?"""
    excluded = _excluder([*EXCLUDED, *patterns])

    @lru_cache(maxsize=4096)
    def within(folder: str) -> bool:
        return bool(folder) and (within(folder.rpartition("/")[0]) or excluded(folder.encode()))

    return lambda path: within(path.rpartition("/")[0]) or excluded(path.encode())


def _corpus_path(spec: str) -> Path:
    path = Path(spec).resolve()
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
            return path
    except OSError as error:
        raise ByteproxyError(f"corpus {spec}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ByteproxyError(f"corpus {spec}: neither a folder nor a regular file")
    if kind_of(path.name) is None:
        raise ByteproxyError(f"corpus {spec}: a file is expected to be {KNOWN}; for source files name their folder")
    if not os.access(path, os.R_OK):
        raise ByteproxyError(f"corpus {spec}: Permission denied")
    return path
