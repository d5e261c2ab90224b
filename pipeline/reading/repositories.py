"""Reads a git repository at a commit, `git:FOLDER@COMMIT`: every file of the commit's tree, from the object store.

There is no checkout, and nothing that the repository, the user or the system has configured takes part: git runs in an
empty repository of our own that borrows the objects, without hooks, replacements or a network. Each file is held
against its hash. Symlinks and submodules are rejections. A commit is what it is: the folder's state does not matter.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.reading.intake import Batch, Intake, member_name
from pipeline.reading.items import Repository, text_of
from pipeline.reading.streams import Damaged
from shards.errors import ByteproxyError

SCHEME = "git:"
PART_BYTES = 64 << 20  # of files in a work item
MAX_FILES = 50_000_000
_SAFE = {
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "",  # no transport at all, for versions that do not know the former
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
}


@dataclass(frozen=True)
class AtCommit:
    """A commit of a repository on this machine."""

    folder: Path
    objects: Path
    form: str  # of the hashes: sha1 or sha256
    commit: str  # its hash

    @property
    def parts(self) -> tuple[str, ...]:
        """As of a path: the repository's name and the commit are the last."""
        named = self.folder.parent if self.folder.name == ".git" else self.folder
        return (*named.parts[:-1], f"{named.name.removesuffix('.git')}@{self.commit[:12]}")

    @property
    def name(self) -> str:
        return self.parts[-1]

    def __str__(self) -> str:
        return f"{SCHEME}{self.folder}@{self.commit}"


class _Entry(NamedTuple):
    number: int
    mode: bytes
    hash: str
    size: int  # -1: there is none
    path: bytes


def at_commit(spec: str) -> AtCommit:
    """What `git:FOLDER@COMMIT` names. Raises ByteproxyError."""
    name, at, commit = spec.removeprefix(SCHEME).rpartition("@")
    if not at or not name or not commit:
        raise ByteproxyError(f"corpus {spec}: expected {SCHEME}FOLDER@COMMIT, as in {SCHEME}~/src/linux@v6.1 or …@HEAD")
    folder = Path(name).expanduser().resolve()
    if not folder.is_dir():
        raise ByteproxyError(f"corpus {spec}: there is no folder {folder}")
    where = ["-C", str(folder), "-c", "safe.directory=*", "rev-parse"]
    around = {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    facts = _answer(spec, [*where, "--absolute-git-dir", "--show-object-format", "--git-path", "objects"], around)
    _, form, objects = facts.rstrip("\n").split("\n", 2)
    found = _answer(spec, [*where, "--verify", "--end-of-options", f"{commit}^{{commit}}"], around)
    return AtCommit(folder, (folder / objects).resolve(), form, found.split()[-1])


def repository_items(name: str, place: AtCommit) -> list[Repository]:
    """The work items of a repository: its files in the order of the tree, cut into parts of about PART_BYTES."""
    item = Repository(name, bytes(place.objects), place.form, place.commit, 0, 1, 0)
    with _borrowing(item) as environment:
        total = sum(max(0, entry.size) for entry in _listed(item, environment, [], lambda _: False))
    parts = -(-total // PART_BYTES) or 1
    return [item._replace(part=part, parts=parts, total=total) for part in range(parts)]


def read_repository(item: Repository, intake: Intake, excluded: Callable[[str], bool]) -> Iterator[Batch]:
    """The files of a commit, or the part of them that the item stands for."""
    faults: list[str] = []
    with _borrowing(item) as environment, _Objects(item.form, environment) as objects:
        for entry in _listed(item, environment, faults, lambda begin: _part_of(item, begin) != item.part):
            path = member_name(entry.path)
            if path is not None and excluded(path):
                continue
            _take(entry, path, objects, intake)
            yield from intake.batches()
    if faults and not item.part:
        intake.reject(f"{item.input}@{item.commit}", "damaged", faults[0])
    yield from intake.batches(at_end=True)


def _take(entry: _Entry, path: str | None, objects: "_Objects", intake: Intake) -> None:
    if path is None:
        intake.reject(text_of(entry.path), "unsafe name", "leads out of the repository", max(0, entry.size))
    elif entry.mode == b"160000":
        intake.reject(path, "submodule", f"commit {entry.hash}")
    elif entry.mode == b"120000":
        intake.reject(path, "symlink", f"its target is in blob {entry.hash}", max(0, entry.size))
    elif entry.size < 0:
        intake.reject(path, "unreadable", f"blob {entry.hash} is not in the repository (a partial clone?)")
    elif intake.wants_member(path, entry.size):
        try:
            raw = objects.read(entry.hash)
        except Damaged as damage:
            intake.reject(path, damage.reason, damage.value, entry.size)
        else:
            intake.take_member(entry.number, path, raw)


def _part_of(item: Repository, begin: int) -> int:
    """The part that a file belongs to before which there are `begin` bytes of files."""
    return min(item.parts - 1, begin * item.parts // max(1, item.total))


def _listed(
    item: Repository, environment: dict[str, str], faults: list[str], skip: Callable[[int], bool]
) -> Iterator[_Entry]:
    """The entries of the commit's whole tree but those to be skipped for the bytes before them."""
    number = begin = 0
    with tempfile.TemporaryFile() as said:
        command = ["git", "ls-tree", "-r", "-z", "-l", "--full-tree", item.commit]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=said) as process:
            assert process.stdout is not None
            try:
                for record in _records(process.stdout):
                    facts, _, path = record.partition(b"\t")
                    mode, _, name, size = facts.split()
                    entry = _Entry(number, mode, name.decode(), int(size) if size.isdigit() else -1, path)
                    if not skip(begin):
                        yield entry
                    number += 1
                    begin += max(0, entry.size)
                    if number > MAX_FILES:
                        faults.append(f"more than {MAX_FILES} files")
                        break
            finally:
                process.stdout.close()  # ends a git that has more to say
        if process.returncode > 0:
            faults.append(f"git ls-tree ends after {number} files: {_last_line(said)}")


def _records(stream: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while part := stream.read(1 << 16):
        *records, rest = (rest + part).split(b"\0")
        yield from records


class _Objects:
    """The blobs of a repository, by their hashes, through one git process."""

    def __init__(self, form: str, environment: dict[str, str]) -> None:
        self._form, self._environment = form, environment

    def __enter__(self) -> "_Objects":
        self._said = tempfile.TemporaryFile()
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._said.close()

    def _start(self) -> None:
        command = ["git", "cat-file", "--batch"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=self._environment, stdin=pipe, stdout=pipe, stderr=self._said)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def _stop(self) -> None:
        for stream in (self._stdin, self._stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._process.wait()

    def read(self, name: str) -> bytes:
        """A blob's bytes. Raises Damaged if it is not there, or not what its hash says."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(f"{name}\n".encode())
            self._stdin.flush()
            header = self._stdout.readline().split()
            if len(header) == 2:
                raise Damaged("unreadable", f"blob {name} is not in the repository (a partial clone?)")
            if len(header) == 3:
                raw = self._stdout.read(int(header[2]) + 1)
                if len(raw) == int(header[2]) + 1:
                    return self._checked(name, raw[:-1], header[1])
        self._stop()  # it ends at an object that is damaged
        self._start()
        raise Damaged("damaged", f"blob {name}: {_last_line(self._said)}")

    def _checked(self, name: str, raw: bytes, kind: bytes) -> bytes:
        found = hashlib.new(self._form, b"%s %d\0" % (kind, len(raw)), usedforsecurity=False)
        found.update(raw)
        if found.hexdigest() != name:
            raise Damaged("damaged", f"blob {name}: its bytes have the hash {found.hexdigest()}")
        return raw


@contextmanager
def _borrowing(item: Repository) -> Iterator[dict[str, str]]:
    """The environment for git in an empty repository that borrows the objects of another."""
    if shutil.which("git") is None:
        raise ByteproxyError(f"corpus {item.input}: the program git is needed to read a repository; install it")
    with tempfile.TemporaryDirectory(prefix="byteproxy-git-") as name:
        folder = Path(name)
        (folder / "refs").mkdir()
        (folder / "HEAD").write_text("ref: refs/heads/none\n")
        version, extension = (1, f"[extensions]\n\tobjectFormat = {item.form}\n") if item.form != "sha1" else (0, "")
        (folder / "config").write_text(f"[core]\n\trepositoryFormatVersion = {version}\n\tbare = true\n{extension}")
        yield _environment({"GIT_DIR": name, "GIT_OBJECT_DIRECTORY": os.fsdecode(item.file)})


def _environment(more: dict[str, str]) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), **_SAFE, **more}


def _answer(spec: str, arguments: Sequence[str], more: dict[str, str]) -> str:
    """What git says. Raises ByteproxyError."""
    try:
        done = subprocess.run(["git", *arguments], env=_environment(more), capture_output=True, check=False)
    except FileNotFoundError:
        raise ByteproxyError(f"corpus {spec}: the program git is needed to read a repository; install it") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "backslashreplace").strip().partition("\n")[0]
        raise ByteproxyError(f"corpus {spec}: {said.removeprefix('fatal: ') or 'git failed'}")
    return os.fsdecode(done.stdout)


def _last_line(said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - 4000))
    lines = said.read().decode("utf-8", "backslashreplace").strip().splitlines()
    return lines[-1] if lines else "no reason given"
