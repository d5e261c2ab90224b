"""The workers' environment: what the Dockerfile says, read and carried out without Docker, in folders of our own."""

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[2]
BASE = "python"  # what a stage on Beam's image begins with, here: an empty virtual environment


class Instruction(NamedTuple):
    name: str
    rest: str


def dockerfile() -> list[Instruction]:
    """The instructions, lines joined and arguments filled in."""
    text = re.sub(r"^#.*\n", "", (REPO / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    values: dict[str, str] = {}
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "ARG":
            key, _, value = rest.partition("=")
            values[key] = value
        rest = re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], rest)
        found.append(Instruction(name, rest.strip()))
    return found


def stages() -> dict[str, list[Instruction]]:
    """Instructions by stage, under its name; that of the last is ""."""
    found: dict[str, list[Instruction]] = {}
    name = ""
    for instruction in dockerfile():
        if instruction.name == "FROM":
            name = instruction.rest.partition(" AS ")[2]
            found[name] = []
        if name in found:
            found[name].append(instruction)
    return found


def carry_out(folder: Path) -> Path:
    """Every COPY and RUN of every stage, each stage in a folder and an environment of its own. The last interpreter."""
    python = Path()
    for name, instructions in stages().items():
        root = folder / (name or "image")
        venv.create(root / BASE, with_pip=True)
        python = root / BASE / "bin" / "python"
        work = root
        for instruction in instructions:
            if instruction.name == "WORKDIR":
                work = root / instruction.rest.strip("/")
                work.mkdir(parents=True)
            elif instruction.name == "COPY":
                _copy(instruction.rest.split(), folder, work)
            elif instruction.name == "RUN":
                environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
                environment.pop("PYTHONPATH", None)
                run_it("sh", "-c", instruction.rest, folder=work, environment=environment)
    return python


def _copy(words: list[str], folder: Path, work: Path) -> None:
    source = REPO
    if words[0].startswith("--from="):
        source = folder / words.pop(0).removeprefix("--from=")
    *names, target = words
    for name in names:
        place = source / name.lstrip("/")
        if place.is_dir():
            shutil.copytree(place, work / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, work / target)


def run_it(*command: str | Path, folder: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """A command's output. Fails if it does."""
    words: Sequence[str] = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make_cloud(folder: Path) -> Path:
    """An interpreter with the packages of this one and those of the `dataflow` extra."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    site = Path(run_it(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "tests.pth").write_text("\n".join(here) + "\n")
    beam = next(
        line for line in (REPO / "constraints.txt").read_text().splitlines() if line.startswith("apache-beam==")
    )
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "-c", REPO / "constraints.txt")
    run_it(*pip, beam.replace("==", "[gcp]=="))
    return python
