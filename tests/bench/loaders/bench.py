"""Runs the rows: stores first, then rounds of measurements, each a new process right behind one of the reference."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.loaders import documents, environments, ours
from tests.bench.loaders.lineup import MIXED, REFERENCE, VARIANTS, Row
from tests.bench.loaders.packing import SYMBOLS
from tests.bench.processes import EnvironmentMissing, result_of

LIMIT = 1200  # seconds of one process
READ_SIZE = 1 << 22


class Bench:
    """Rows over one shard set and one work folder. What fails is a result too: {"error": why}."""

    def __init__(self, shards: Path, work: Path, at_least: float, at_most: float, say: Callable[[str], None]) -> None:
        self.shards, self.work, self.say = shards.resolve(), work.resolve(), say
        self.exports = self.work / "documents"
        self.limits = {"at_least": at_least, "at_most": at_most}
        self.sizes = {variant: documents.describe(self.exports, variant) or {} for variant in VARIANTS}
        self.pythons: dict[str, Path] = {}
        self.halved: dict[tuple[str, str], dict[str, Any]] = {}  # (row key, variant) -> what `half` gave in this run
        self.broken: dict[tuple[str, str], str] = {}  # (peer, variant) -> why

    def prepare(self, rows: list[Row]) -> None:
        """Environments and stores of all peers, and what ours compiles; what is there from an earlier run is kept."""
        for peer in dict.fromkeys([REFERENCE.peer, *(row.peer for row in rows)]):
            try:
                self.pythons[peer] = environments.interpreter(peer, self.work, self.say)
            except EnvironmentMissing as error:
                self.say(f"{peer}: not installed: {error}")
                self.broken |= {(peer, variant): f"not installed: {error}" for variant in VARIANTS}
        if (REFERENCE.peer, VARIANTS[0]) in self.broken:
            raise SystemExit("without the reference's environment (NumPy alone) nothing can be measured")
        for row in {row.peer: row for row in rows if row.peer in self.pythons}.values():
            for variant in VARIANTS if _has_store(row.peer) else ():
                self._store(row, variant)
        if own := [row for row in rows if row.peer == "ours"]:
            self._process(own[0], VARIANTS[0], "build")  # of no store: a failure shows again when it is measured

    def _store(self, row: Row, variant: str) -> None:
        """The peer's store of a variant, unless one of these documents by these versions is there."""
        folder = self._folder(row, variant)
        complete = folder / "complete.json"
        made_of = {"documents": self.sizes[variant]["digest"], "versions": environments.versions(row.peer)}
        if complete.exists() and json.loads(complete.read_text()) == made_of:
            return
        self.say(f"{row.peer}: writing its store of {variant}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        done = self._process(row, variant, "build")
        if "error" in done:
            self.say(f"{row.peer}: {done['error']}")
            self.broken[row.peer, variant] = f"no store: {done['error']}"
            return
        complete.write_text(json.dumps(made_of))

    def rounds(self, rows: list[Row], count: int) -> Iterator[dict[str, Any]]:
        """Measurements, as they come: {row, variant, round, reference, run, half, resume}."""
        self.halved.clear()
        planned = [(row, variant) for variant in (*VARIANTS, MIXED) for row in rows if variant in row.variants]
        for number in range(count):
            for row, variant in planned:
                yield self._measure(row, variant, number)

    def _measure(self, row: Row, variant: str, number: int) -> dict[str, Any]:
        found: dict[str, Any] = {"row": row.key, "variant": variant, "round": number, "load": os.getloadavg()[0]}
        if why := self.broken.get((row.peer, variant)):
            found["error"] = why
            self.say(_progress(found))
            return found
        found["reference"] = self._process(REFERENCE, "tokens" if variant == MIXED else variant, "run")
        found["run"] = self._process(row, variant, "run")
        if (row.key, variant) not in self.halved and "error" not in found["run"]:
            found["half"] = self.halved[row.key, variant] = self._process(row, variant, "half")
        if self.halved.get((row.key, variant), {}).get("resumes"):
            found["resume"] = self._process(row, variant, "resume")
        parts = (found.get(name, {}) for name in ("reference", "run", "half", "resume"))
        if errors := [part["error"] for part in parts if "error" in part]:
            found["error"] = errors[0]
        self.say(_progress(found))
        return found

    def _process(self, row: Row, variant: str, action: str) -> dict[str, Any]:
        """One job in a process of its own, its files read into the page cache before."""
        folder, state_file = self._folder(row, variant), self._state_file(row, variant)
        state_file.parent.mkdir(parents=True, exist_ok=True)
        job = self.limits | {
            "module": row.module,
            "option": row.option,
            "variant": variant,
            "action": action,
            "exports": str(self.exports),
            "folder": str(folder),
            "state_file": str(state_file),
            "batches": self._batches(row, variant),
        }
        _warm(folder)
        _warm(self.exports)
        command = [str(self.pythons[row.peer]), "-m", "tests.bench.loaders.measure", json.dumps(job)]
        return result_of(command, environments.ROOT, environments.variables(self.work), LIMIT)

    def _batches(self, row: Row, variant: str) -> int:
        """Of one pass."""
        symbols = {name: size["symbols"] for name, size in self.sizes.items()}
        return ours.pass_batches(symbols, row.option) if row.peer == "ours" else symbols[variant] // SYMBOLS

    def _folder(self, row: Row, variant: str) -> Path:
        return self.shards if row.peer == "ours" else self.work / "stores" / row.peer / variant

    def _state_file(self, row: Row, variant: str) -> Path:
        return self.work / "states" / f"{row.key}-{variant}.json"


def _has_store(peer: str) -> bool:
    return peer not in ("ours", REFERENCE.peer)


def _warm(folder: Path) -> None:
    for path in folder.rglob("*") if folder.exists() else ():
        if path.is_file():
            with path.open("rb") as file:
                while file.read(READ_SIZE):
                    pass


def _progress(found: dict[str, Any]) -> str:
    head = f"{time.strftime('%H:%M:%S')}  round {found['round'] + 1}  {found['variant']:<6}  {found['row']:<22}"
    if "error" in found:
        return f"{head}  failed: {found['error']}"
    run, resumed = found["run"], found.get("resume")
    text = f"{head}  {run['symbols_per_s'] / 1e6:8.1f} M symbols/s, first batch {1e3 * run['first_batch_s']:.1f} ms"
    if resumed:
        text += f", resume {1e3 * resumed['resume_s']:.1f} ms, {'exact' if resumed['exact'] else 'NOT EXACT'}"
    return text
