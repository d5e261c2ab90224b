"""Corpora for the pipeline tests: slices of the standard library of Python, with every kind of trouble planted."""

import hashlib
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.__main__ import main
from shards.reader import ShardSet
from tests.pipeline.image import carry_out

STDLIB = Path(sysconfig.get_path("stdlib"))
PACKAGES = (
    "json",
    "email",
    "html",
    "logging",
    "xml",
    "wsgiref",
    "urllib",
    "importlib",
    "curses",
    "dbm",
    "sqlite3",
    "zipfile",
)
VIEWS = "sentencepiece:vocab=512 gzip zstd brotli"
FAST = ("--workers", "1", "--sample-bytes", "200k")


def copy_code(target: Path, packages: Sequence[str] = PACKAGES) -> Path:
    """A small corpus of real code: some 150 files, 2 MB."""
    for name in packages:
        source = STDLIB / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "test*"))
    for path in sorted(STDLIB.glob("*.py"))[:60]:
        shutil.copy(path, target / path.name)
    return target


def plant_trouble(folder: Path) -> None:
    """Everything that a corpus may hold beside code."""
    special = folder / "special"
    special.mkdir()
    files = {
        "empty.py": b"",
        "empty_too.py": b"",
        "latin1.py": "name = 'Grüße'\n".encode("latin-1"),
        "underscore.py": "▁ = '▁▁'\n".encode(),
        "crlf.c": b"int x;\r\nint y;\r\n",
        "nul_late.py": b"#" * 9000 + b"\0\n",
        "binary.py": b"a = 1\0\n",
        "look_alike.py": b"<raw> </raw> <s> </s> <unk> <0x0A>\n",
        "spaces.py": b"x = [" + b" " * 200_000 + b"]\n",
        "random.rs": bytes(range(1, 256)) * 40,
        "data.json": b"{}\n",
        "README": b"text\n",
        "n" * 200 + ".py": b"long = True\n",
        "line\nbreak.py": b"newline = True\n",
    }
    for name, content in files.items():
        (special / name).write_bytes(content)
    Path(os.fsdecode(os.fsencode(special) + b"/caf\xe9.py")).write_bytes(b"cafe = 1\n")
    (special / "outside").symlink_to("/etc")
    (special / "dangling.py").symlink_to("nowhere.py")
    (special / "loop").symlink_to(folder)
    os.mkfifo(special / "pipe.py")
    shutil.copy(STDLIB / "ast.py", special / "copy_of_ast.py")
    shutil.copy(STDLIB / "ast.py", folder / "a_first_copy_of_ast.py")
    (folder / ".git").mkdir()
    (folder / ".git" / "config.py").write_text("never_read = True\n")


def run_build(corpus: Path | str, out: Path, *flags: str, views: str = "zstd") -> int:
    """The command line, in this process."""
    return main(["build", str(corpus), "--out", str(out), "--views", views, *FAST, *flags])


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a set but the report, which alone has timings."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("report.json", "report.html")
    }


def assert_built_or_added_alike(corpus: Path, folder: Path, view: str) -> None:
    """A view has the same bytes built by one worker, by two, or added to the set `folder`/plain of this corpus."""
    assert run_build(corpus, folder / "one", views=f"gzip {view}") == 0
    assert run_build(corpus, folder / "two", "--workers", "2", views=f"gzip {view}") == 0
    assert digests(folder / "one") == digests(folder / "two")
    assert main(["add-view", str(folder / "plain"), "--workers", "1", "--view", view]) == 0
    whole, grown = (ShardSet.open(folder / name).manifest for name in ("one", "plain"))
    assert whole.views == grown.views
    for split in ("train", "val"):
        assert [file.sha256 for file in whole.splits[split]] == [file.sha256 for file in grown.splits[split]]


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real code, nothing else. Read only."""
    return copy_code(tmp_path_factory.mktemp("code") / "code")


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real code with trouble planted. Read only."""
    folder = copy_code(tmp_path_factory.mktemp("troubled") / "corpus")
    plant_trouble(folder)
    return folder


@pytest.fixture(scope="session")
def built(troubled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The troubled corpus, built with all views by one worker. Read only."""
    out = tmp_path_factory.mktemp("built") / "set"
    assert run_build(troubled, out, "--max-bytes", "300k", views=VIEWS) == 0
    return out


@pytest.fixture
def fails(fails_with: Callable[..., str]) -> Callable[..., str]:
    """Run `build` as a user would; it must end with exit code 2 and one line, which is returned."""
    return lambda *arguments: fails_with("build", *arguments)


@pytest.fixture
def fails_with(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The same for any command."""

    def run_it(*arguments: str) -> str:
        from shards.cli import run

        with pytest.raises(SystemExit) as stop:
            run(lambda: main(list(arguments)))
        assert stop.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert len(lines) == 1, lines
        return lines[0]

    return run_it


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment with what the Dockerfile puts into the workers' image, and nothing else."""
    folder = tmp_path_factory.mktemp("image")
    try:
        yield carry_out(folder)
    finally:
        shutil.rmtree(folder)
