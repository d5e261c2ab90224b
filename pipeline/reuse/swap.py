"""Puts new files beside those of a set and swaps its manifest; and finds the files that no manifest names any more.

Whoever opened the set before goes on with the files of the manifest that it read. So these stay until somebody says
that nobody needs them: a run maps a file only when it comes to it.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from pipeline.running.scratch import Scratch
from pipeline.running.storage import copy_in, write_whole
from shards.errors import ByteproxyError
from shards.manifest import Manifest, sync_folder

_SHARD = re.compile(r"shard-\d{5,}-of-\d{5,}(-g\d+)?\.parquet")
_CODEC = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{16}")


def swap(scratch: Scratch, folder: Path, manifest: Manifest, texts: Mapping[str, str]) -> None:
    """Move the staged shards and codecs into the set; the manifest comes last. `texts` are small files beside it."""
    staged = cast(Path, scratch.staged)  # a set in a folder has its scratch there
    for view in manifest.views:
        if (staged / view.folder).exists():
            copy_in(staged / view.folder, folder / view.folder)
    sync_folder(folder / "codecs")
    for split, files in manifest.splits.items():
        for file in files:
            if (staged / file.path).exists():  # else a run that was killed has moved it
                (staged / file.path).rename(folder / file.path)
            if not (folder / file.path).exists():
                raise ByteproxyError(f"{folder / file.path}: not there; another program removed it. Run again")
        sync_folder(folder / split)
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    sync_folder(folder)
    manifest.save(folder)
    scratch.remove()


def left_over(folder: Path) -> list[Path]:
    """Shards and codecs' folders of a set, by their names, that its manifest does not name."""
    manifest = Manifest.load(folder)
    held = {folder / file.path for files in manifest.splits.values() for file in files}
    held |= {folder / view.folder for view in manifest.views}
    found = [path for split in manifest.splits for path in (folder / split).iterdir() if _SHARD.fullmatch(path.name)]
    codecs = folder / "codecs"
    found += [path for path in codecs.iterdir() if _CODEC.fullmatch(path.name)] if codecs.is_dir() else []
    return sorted(path for path in found if path not in held)


def size_of(paths: Sequence[Path]) -> int:
    """Bytes of files and folders."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files)


def remove(paths: Sequence[Path]) -> None:
    """Remove files and folders."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
