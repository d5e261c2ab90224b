"""Compiled code that is kept between runs, and forgotten when any source that it was made of has changed.

numba keeps a function's code as long as the function's own file stays the same; but functions and constants of other
files are compiled into it, and a change there would go unseen.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

_checked: set[Path] = set()


def forget_stale(function: Any, sources: Sequence[ModuleType]) -> None:
    """Once a process and folder, before anything compiled is called: remove what was compiled from other sources.

    `function`: a compiled one, whose code is kept in the folder of its file or in numba's own. `sources`: all modules
    that went into the kept code of theirs that lies in that folder.
    """
    folder = Path(function.stats.cache_path)
    if folder not in _checked:
        _checked.add(folder)
        paths = [Path(str(module.__file__)) for module in sources]
        digest = blake2b(digest_size=8)
        for path in paths:
            digest.update(path.read_bytes())
        _forget(folder, {path.stem for path in paths}, digest.hexdigest())


def _forget(folder: Path, names: Iterable[str], digest: str) -> None:
    """Empty a folder of the kept code of these modules, unless its stamp says that this digest is its sources'."""
    stamp = folder / f"byteproxy-{digest}.stamp"
    if stamp.exists():
        return
    kept = tuple(f"{name}." for name in names)
    for old in (path for path in folder.glob("*") if path.name.startswith(kept) or path.suffix == ".stamp"):
        if old.suffix in (".nbi", ".nbc", ".stamp"):
            old.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.touch()
