"""Git repositories at a commit: what the commit holds, whatever the folder, its configuration and its hooks say."""

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.cleaning.filters import Filters
from pipeline.reading.inputs import corpora, member_excluder, take_inventory
from pipeline.reading.intake import Intake, Pile
from pipeline.reading.languages import DEFAULT
from pipeline.reading.repositories import at_commit, read_repository, repository_items
from pipeline.reading.sources import read_again
from pipeline.records import RECORD, Place, Rejection
from shards.errors import ByteproxyError

FILTERS = Filters(frozenset(DEFAULT), False, 1 << 20, False)
AUTHOR = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
FILES = {"a.py": b"a = 1\n", "lib/b.c": b"int b;\r\n", "lib/empty.js": b"", "x.bin": b"\0", "old.py": b"old = 1\n"}


def git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, **AUTHOR, "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose first commit, `v1`, holds FILES, names of all sorts, a link and a submodule."""
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q")
    for name, content in {**FILES, "line\nbreak.py": b"n = 1\n", ".mypy_cache/c.py": b"c"}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.py")).write_bytes(b"c = 1\n")
    (folder / "link.py").symlink_to("/etc/passwd")
    git(folder, "add", "-A")
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub.py")
    git(folder, "commit", "-qm", "one")
    git(folder, "tag", "v1")
    (folder / "old.py").unlink()
    (folder / "a.py").write_bytes(b"a = 2\n")
    git(folder, "commit", "-qam", "two")
    (folder / "a.py").write_bytes(b"not committed\n")
    return folder


def read(spec: str, tmp_path: Path) -> tuple[dict[str, bytes], list[Rejection], int]:
    """(bytes by path, rejections, number of parts)."""
    found, rejected = {}, []
    items = repository_items("repo", at_commit(spec))
    for item in items:
        pile_file = tmp_path / f"pile-{item.part}"
        pile = Pile(pile_file, bytes(pile_file))
        rows = []
        for some, others in read_repository(item, Intake("repo", FILTERS, pile), member_excluder(())):
            rows += some
            rejected += others
        pile.close()
        for row in rows:
            r = dict(zip(RECORD.names, row, strict=True))
            assert r["path"] not in found
            found[r["path"]] = read_again(Place(r["file"], r["offset"], r["length"], r["form"]), r["id"])
    return found, rejected, len(items)


EXPECTED = {name: data for name, data in FILES.items() if name != "x.bin"} | {
    "line\nbreak.py": b"n = 1\n",
    "caf\\xe9.py": b"c = 1\n",
}
REASONS = {"x.bin": "not code", "link.py": "symlink", "sub.py": "submodule"}


@pytest.mark.parametrize("part_bytes", [64 << 20, 10])
def test_a_commit_gives_its_own_files_each_once(
    repository: Path, tmp_path: Path, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.reading.repositories.PART_BYTES", part_bytes)
    found, rejected, parts = read(f"git:{repository}@v1", tmp_path)
    assert found == EXPECTED and {row.path: row.reason for row in rejected} == REASONS
    assert (parts == 1) == (part_bytes > 10)
    assert read(f"git:{repository}@HEAD", tmp_path)[0]["a.py"] == b"a = 2\n"


def test_packed_bare_and_linked_repositories_are_the_same(repository: Path, tmp_path: Path) -> None:
    git(repository, "gc", "-q")
    assert read(f"git:{repository}@v1", tmp_path)[0] == EXPECTED
    git(tmp_path, "clone", "-q", "--bare", "--shared", str(repository), "bare.git")
    git(repository, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"), "v1")
    for folder in ("bare.git", "tree", "repo/.git"):
        assert read(f"git:{tmp_path / folder}@v1", tmp_path)[0] == EXPECTED
    assert at_commit(f"git:{tmp_path / 'bare.git'}@v1").name.startswith("bare@")
    assert at_commit(f"git:{tmp_path / 'repo' / '.git'}@v1").name.startswith("repo@")


def test_neither_replacements_nor_configuration_nor_hooks_take_part(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    blob = git(repository, "rev-parse", "v1:a.py")
    other = git(repository, "hash-object", "-w", "lib/b.c")
    git(repository, "replace", blob, other)
    for name in ("core.fsmonitor", "core.pager", "core.sshCommand", "alias.ls-tree", "uploadpack.packObjectsHook"):
        git(repository, "config", name, f"!touch {mark}" if name.startswith("alias") else f"touch {mark}")
    (repository / ".gitattributes").write_text("*.py filter=evil\n")
    git(repository, "config", "filter.evil.smudge", f"touch {mark}")
    for hook in ("post-checkout", "reference-transaction", "pre-auto-gc"):
        (repository / ".git" / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (repository / ".git" / "hooks" / hook).chmod(0o755)
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", f"touch {mark}")
    assert read(f"git:{repository}@v1", tmp_path)[0] == EXPECTED
    assert not mark.exists()


def test_objects_that_are_missing_or_damaged_cost_only_themselves(repository: Path, tmp_path: Path) -> None:
    def place(name: str) -> Path:
        blob = git(repository, "rev-parse", f"v1:{name}")
        return repository / ".git" / "objects" / blob[:2] / blob[2:]

    place("a.py").unlink()
    for name, content in (("lib/b.c", b"no zlib"), ("old.py", place("lib/empty.js").read_bytes())):
        place(name).chmod(0o644)
        place(name).write_bytes(content)
    git(repository, "config", "remote.origin.url", f"ext::touch {tmp_path / 'ran'}")
    git(repository, "config", "remote.origin.promisor", "true")
    git(repository, "config", "extensions.partialClone", "origin")
    git(repository, "config", "protocol.ext.allow", "always")
    found, rejected, _ = read(f"git:{repository}@v1", tmp_path)
    assert found == {k: v for k, v in EXPECTED.items() if k not in ("a.py", "lib/b.c", "old.py")}
    reasons = {row.path: row.reason for row in rejected}
    assert {reasons.pop(name) for name in ("a.py", "lib/b.c", "old.py")} <= {"unreadable", "damaged"}
    assert reasons == REASONS and not (tmp_path / "ran").exists()


def test_a_tree_that_cannot_be_listed_is_a_fault_that_is_named(repository: Path, tmp_path: Path) -> None:
    tree = git(repository, "rev-parse", "v1:lib")
    (repository / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    found, rejected, _ = read(f"git:{repository}@v1", tmp_path)
    assert found.items() <= EXPECTED.items()
    assert [row.reason for row in rejected if row.path.startswith("repo@")] == ["damaged"]
    assert "git ls-tree ends after" in rejected[-1].value


def test_sha256_repositories_are_read_and_checked(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q", "--object-format=sha256")
    (folder / "a.py").write_bytes(b"a = 1\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    assert read(f"git:{folder}@HEAD", tmp_path)[0] == {"a.py": b"a = 1\n"}


def test_the_fingerprint_is_the_commits_not_the_folders(repository: Path, tmp_path: Path) -> None:
    def look(commit: str) -> str:
        return take_inventory(corpora([f"git:{repository}@{commit}"]), (), tmp_path / "out").fingerprint

    first = look("v1")
    (repository / "lib" / "b.c").write_text("changed")
    git(repository, "gc", "-q")
    assert look("v1") == first == look(git(repository, "rev-parse", "v1")) != look("HEAD")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("git:{}", "expected git:FOLDER@COMMIT"), ("git:{}/none@HEAD", "there is no folder"),
        ("git:{}@nothing", "Needed a single revision"), ("git:{}/repo/lib@HEAD", "not a git repository"),
        ("git:{}/repo@nothing", "Needed a single revision"), ("git:{}/repo@--all", "Needed a single revision"),
    ],
)  # fmt: skip
def test_what_names_no_commit_is_an_error_that_says_so(spec: str, text: str, repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ByteproxyError) as caught:
        at_commit(spec.format(tmp_path if "@nothing" not in spec or "repo" in spec else repository))
    assert text in str(caught.value)
