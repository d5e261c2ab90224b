"""Compiled code that is kept between runs, and forgotten when any source that it was made of has changed.

numba keeps a function's code as long as the function's own file stays the same; but functions and constants of other
files are compiled into it, and a change there would go unseen.
"""

from hashlib import blake2b
from pathlib import Path

from shards import schema
from trainer import ahead, fill, memory, place, recipe, specials, start

_SOURCES = (schema, ahead, fill, memory, place, recipe, specials, start)
_KEPT = ("ahead.", "fill.", "place.", "recipe.", "start.")  # how the files of the kept code begin
_checked = False


def forget_stale() -> None:
    """Once a process, before anything compiled is called: remove what was compiled from other sources than these."""
    global _checked
    if not _checked:
        _checked = True
        digest = blake2b(digest_size=8)
        for module in _SOURCES:
            digest.update(Path(str(module.__file__)).read_bytes())
        _forget(Path(place.plan_rows.stats.cache_path), digest.hexdigest())


def _forget(folder: Path, digest: str) -> None:
    """Empty a folder of kept code, unless its stamp says that it is of the sources with this digest."""
    stamp = folder / f"byteproxy-{digest}.stamp"
    if stamp.exists():
        return
    for old in (path for path in folder.glob("*") if path.name.startswith(_KEPT) or path.suffix == ".stamp"):
        if old.suffix in (".nbi", ".nbc", ".stamp"):
            old.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.touch()
