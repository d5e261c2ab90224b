"""Where a build keeps what is not yet a set: OUT/.build, in the folder or store that the set will lie in.

Every file in it is complete or not there under its name, so a build that was killed goes on from what it finds,
provided that it is the same build: `state.json` says which one the scratch belongs to.
"""

import contextlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.running.storage import AHEAD, Location, remove_tree, write_whole
from shards.hashing import keyed_hash
from shards.store import default_cache


@dataclass(frozen=True)
class Scratch:
    """Names of the scratch files. Plain and small: it travels to the workers."""

    root: Location

    @property
    def local(self) -> Path:
        """A folder of this machine: the scratch itself, or one of its own where it lies in a store."""
        return self.root if isinstance(self.root, Path) else default_cache(str(self.root))

    @property
    def state(self) -> Location:
        return self.root / "state.json"

    @property
    def staged(self) -> Location:
        """The set as it will be published. In a store it grows in its place, for nothing can be renamed there."""
        return self.root / "set" if isinstance(self.root, Path) else self.root.parent

    @property
    def progress(self) -> Path:
        return self.local / "progress"

    @property
    def workers(self) -> Path:
        """Locked (shared) by every worker process, so that a later build can wait for orphans."""
        return self.local / "workers.lock"

    @property
    def twins(self) -> Location:
        return self.root / "twins.arrow"

    def survey(self, name: str) -> Location:
        """A result of the survey, as JSON."""
        return self.root / "survey" / f"{name}.json"

    def sample(self, language: str) -> Location:
        """A language's candidates for the fitting sample. Names come from metadata: only letters and digits stay."""
        name = "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in language)
        return self.root / "sample" / f"{name if len(name) < 200 else keyed_hash('name', 0, name.encode())}.arrow"

    def items(self, label: str, number: int) -> Location:
        """A part of the first elements of a graph."""
        return self.root / "items" / f"{label}-{number:05d}.arrow"

    def spool(self, name: str) -> Location:
        """An unpacked input."""
        return self.root / "spool" / name

    def sketches(self, name: str) -> Location:
        """MinHash sketches, slot by slot."""
        return self.root / "sketches" / name

    def spares(self, number: int) -> Location:
        """The places of the duplicates of a range of ids."""
        return self.root / "spares" / f"{number:05d}.arrow"

    def index(self, split: str, block: int) -> Location:
        """A block's records."""
        return self.root / "index" / f"{split}-{block:06d}.arrow"

    def index_facts(self, split: str, block: int) -> Location:
        """What is known of a block's records; written after them."""
        return self.root / "index" / f"{split}-{block:06d}.json"

    def rejected_facts(self, number: int) -> Location:
        """What is known of a file of rejected/; written after it."""
        return self.root / "rejected" / f"{number:05d}.json"

    def block(self, split: str, block: int) -> Location:
        """A block's encoded documents."""
        return self.root / "blocks" / f"{split}-{block:06d}.arrow"

    def block_facts(self, split: str, block: int) -> Location:
        """What is known of an encoded block; written after it."""
        return self.root / "blocks" / f"{split}-{block:06d}.json"

    def shard_facts(self, split: str, shard: int) -> Location:
        """A finished shard's entry of the manifest; written after it."""
        return self.root / "shards" / f"{split}-{shard:05d}.json"

    def shard_statistics(self, split: str, shard: int) -> Location:
        """What was counted in a shard of rows of other sets; written before its facts."""
        return self.root / "statistics" / f"{split}-{shard:05d}.json"

    def remove(self) -> None:
        """Remove the scratch, and only it. Killed meanwhile, what is left is not gone on from: the state goes first."""
        if self.state.exists():
            with contextlib.suppress(OSError):  # a full disk
                save_json(self.state, "removed")
        if isinstance(self.root, Path) and self.root.is_dir():
            for path in self.root.iterdir():
                if path.is_dir():
                    remove_tree(path)
        remove_tree(self.root)
        remove_tree(self.local)


def save_json(path: Location, body: Any) -> None:
    """Write JSON whole or not at all."""
    write_whole(path, json.dumps(body, sort_keys=True).encode())


def load_json(path: Location) -> Any:
    """Read JSON."""
    return json.loads(path.read_bytes())


def load_all(folder: Location) -> list[Any]:
    """The JSON files that lie directly in a folder, in order of their names; many at once from a store."""
    with ThreadPoolExecutor(AHEAD) as pool:
        paths: Iterable[Any] = sorted(folder.glob("*.json"), key=lambda path: path.name)
        return list((map if isinstance(folder, Path) else pool.map)(load_json, paths))
