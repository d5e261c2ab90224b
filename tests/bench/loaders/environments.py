"""A virtual environment a peer, with the versions in requirements/<peer>.txt, and the variables it is run under."""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench.processes import EnvironmentMissing, install

REQUIREMENTS = Path(__file__).parent / "requirements"
ROOT = Path(__file__).parents[3]


def interpreter(peer: str, work: Path, say: Callable[[str], None]) -> Path:
    """The Python that a peer is run with: ours for our loader, else its environment's, installed if it is not."""
    if peer == "ours":
        return Path(sys.executable)
    wanted = REQUIREMENTS / f"{peer}.txt"
    folder, digest = work / "venvs" / peer, hashlib.blake2b(wanted.read_bytes(), digest_size=16).hexdigest()
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists() and ready.read_text() == digest:
        return python
    say(f"{peer}: installing {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    install(sys.executable, "-m", "venv", str(folder))
    if torch := next((line for line in wanted.read_text().splitlines() if line.startswith("torch==")), None):
        _install_torch(python, torch)
    install(str(python), "-m", "pip", "install", "--quiet", "-r", str(wanted))
    ready.write_text(digest)
    return python


def _install_torch(python: Path, torch: str) -> None:
    """The CPU build, gigabytes smaller: as `make setup` does, by pip, else by uv, else the default build follows."""
    pip = (str(python), "-m", "pip", "install", "--quiet")
    uv = (str(python), "-m", "uv", "pip", "install", "--python", str(python), "--torch-backend=cpu", torch)
    for commands in (((*pip, f"{torch}+cpu"),), ((*pip, "uv"), uv)):
        try:
            for command in commands:
                install(*command)
        except EnvironmentMissing:
            continue
        return


def variables(work: Path) -> dict[str, str]:
    """The environment of every measuring process: one thread, no network, all temporary files below the work folder."""
    scratch = work / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    moved = {
        "TMPDIR": scratch,
        "HOME": scratch / "home",
        "HF_HOME": scratch / "huggingface",
        # LitData deletes these two before it writes; peers/litdata.py checks them against BENCH_SCRATCH
        "DATA_OPTIMIZER_CACHE_FOLDER": scratch / "litdata" / "chunks",
        "DATA_OPTIMIZER_DATA_CACHE_FOLDER": scratch / "litdata" / "data",
        "BENCH_SCRATCH": scratch,
    }
    fixed = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "LITDATA_DISABLE_VERSION_CHECK": "1",
    }
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return inherited | fixed | {name: str(path) for name, path in moved.items()}


def versions(peer: str) -> dict[str, str]:
    """Package -> pinned version."""
    lines = (REQUIREMENTS / f"{peer}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
