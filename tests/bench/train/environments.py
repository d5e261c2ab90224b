"""The Python of each peer: ours, or for LitGPT an environment of its own that borrows our torch by a `.pth` file."""

import hashlib
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from tests.bench.processes import install

REQUIREMENTS = Path(__file__).parent / "requirements"


def interpreter(peer: str, work: Path, say: Callable[[str], None]) -> Path:
    """The interpreter that a peer is run with, its environment installed if it is not there."""
    wanted = REQUIREMENTS / f"{peer}.txt"
    if not wanted.exists():
        return Path(sys.executable)
    folder, ours = (work / "venvs" / peer).resolve(), sysconfig.get_path("purelib")
    made_of = hashlib.blake2b(wanted.read_bytes() + ours.encode(), digest_size=16).hexdigest()
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists() and ready.read_text() == made_of:
        return python
    say(f"{peer}: installing {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    install(sys.executable, "-m", "venv", str(folder))
    install(str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(wanted))
    (next(folder.glob("lib/python*/site-packages")) / "ours.pth").write_text(ours + "\n")
    ready.write_text(made_of)
    return python
