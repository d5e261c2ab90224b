"""Where a build keeps what is not yet a set: OUT/.build, on the file system that the set will lie on.

Every file in it is complete or not there under its name, so a build that was killed goes on from what it finds,
provided that it is the same build: `state.json` says which one the scratch belongs to.
"""

import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.relay import naming_full_disk
from shards.hashing import keyed_hash


@dataclass(frozen=True)
class Scratch:
    """Names of the scratch files. Plain and small: it travels to the workers."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def staged(self) -> Path:
        """The set as it will be published."""
        return self.root / "set"

    @property
    def progress(self) -> Path:
        return self.root / "progress"

    @property
    def workers(self) -> Path:
        """Locked (shared) by every worker process, so that a later build can wait for orphans."""
        return self.root / "workers.lock"

    @property
    def twins(self) -> Path:
        return self.root / "twins.arrow"

    def survey(self, name: str) -> Path:
        """A result of the survey, as JSON."""
        return self.root / "survey" / f"{name}.json"

    def sample(self, language: str) -> Path:
        """A language's candidates for the fitting sample. Names come from metadata: only letters and digits stay."""
        name = "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in language)
        return self.root / "sample" / f"{name if len(name) < 200 else keyed_hash('name', 0, name.encode())}.arrow"

    def spool(self, name: str) -> Path:
        """An unpacked input."""
        return self.root / "spool" / name

    def index(self, split: str, block: int) -> Path:
        """A block's records."""
        return self.root / "index" / f"{split}-{block:06d}.arrow"

    def index_facts(self, split: str, block: int) -> Path:
        """What is known of a block's records; written after them."""
        return self.root / "index" / f"{split}-{block:06d}.json"

    def rejected_facts(self, number: int) -> Path:
        """What is known of a file of rejected/; written after it."""
        return self.root / "rejected" / f"{number:05d}.json"

    def block(self, split: str, block: int) -> Path:
        """A block's encoded documents."""
        return self.root / "blocks" / f"{split}-{block:06d}.arrow"

    def block_facts(self, split: str, block: int) -> Path:
        """What is known of an encoded block; written after it."""
        return self.root / "blocks" / f"{split}-{block:06d}.json"

    def shard_facts(self, split: str, shard: int) -> Path:
        """A finished shard's entry of the manifest; written after it."""
        return self.root / "shards" / f"{split}-{shard:05d}.json"

    def remove(self) -> None:
        """Remove the scratch, and only it."""
        shutil.rmtree(self.root, ignore_errors=True)


def save_json(path: Path, body: Any) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
    with naming_full_disk(temporary):
        temporary.write_text(json.dumps(body, sort_keys=True))
    temporary.replace(path)


def load_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_bytes())
