"""The project's own files: what the README promises is there, and nothing is ever unpickled or executed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for name in ("pipeline", "shards", "trainer") for path in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_executed_or_run_through_a_shell(path: Path) -> None:
    unsafe = r"\bpickle\.|torch\.load\(|yaml\.load\(|(?<![\w.])(?:eval|exec)\(|shell=True|os\.system\("
    assert not re.findall(unsafe, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith('"""')


def test_every_pinned_version_is_pinned_once() -> None:
    names = [
        re.sub("[-_.]+", "-", line.split("==")[0].lower())
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    ]
    assert len(names) == len(set(names)) > 20


def test_the_makefile_has_every_command_that_the_readme_names() -> None:
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"^make ([a-z-]+)", blocks, re.MULTILINE))
    assert named and named <= made
