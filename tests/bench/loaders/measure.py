"""One measurement in a process of its own: `python -m tests.bench.loaders.measure JOB`, JOB and the result in JSON.

Actions: `build` the peer's store; `run` for speed and memory; `half` to save the state at half an epoch and digests of
the batches that follow; `resume` to load that state in a new process and compare.
"""

import hashlib
import importlib
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.bench.loaders.packing import ROWS, SYMBOLS, TOKENS
from tests.bench.loaders.stream import Source, Stream

COMPARED = 3  # batches after a resume that must equal the uninterrupted run's
MEMORY_AT = 0.9  # of a pass: buffers are filled, and not yet emptied


def memory() -> dict[str, float]:
    """MB resident in this process, by kind."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile", "RssShmem"):
            found[name] = int(value.split()[0]) * 1024 / 1e6
    return found


def run(peer: ModuleType, source: Source, job: dict[str, Any]) -> dict[str, Any]:
    """Time to the first batch; then passes until `at_least` seconds of delivery, none of them over `at_most`.

    A pass counts from its first batch to its last, so that opening is in no rate. Reading the memory stops the clock.
    """
    before, resident = memory(), None
    begin = time.perf_counter()
    batches = peer.open_stream(source, job["option"], None).batches
    first = next(batches)
    first_batch = time.perf_counter() - begin
    check_shape(first)
    look_at = max(1, int(MEMORY_AT * job["batches"]))
    seconds, delivered, passes = 0.0, 0, 0
    while True:
        pause, number = 0.0, 0
        begin = time.perf_counter()
        for number, _ in enumerate(batches, 1):
            if number == look_at and resident is None:
                stopped = time.perf_counter()
                resident = memory()
                pause = time.perf_counter() - stopped
            if not number % 64 and time.perf_counter() - begin > job["at_most"]:
                break
        seconds += time.perf_counter() - begin - pause
        delivered, passes = delivered + number, passes + 1
        resident = resident or memory()
        if seconds >= job["at_least"] or not number:
            break
        batches = peer.open_stream(source, job["option"], None).batches
        next(batches)
    if not delivered:
        raise SystemExit("too few documents: a pass of more than one batch is needed to time")
    return {
        "symbols_per_s": delivered * SYMBOLS / seconds,
        "seconds": seconds,
        "batches": delivered,
        "passes": passes,
        "first_batch_s": first_batch,
        "memory_imports": before,
        "memory": resident,
    }


def half(peer: ModuleType, source: Source, job: dict[str, Any]) -> dict[str, Any]:
    """Go to half an epoch, and keep the state there and digests of the next batches in the job's state file."""
    stream = peer.open_stream(source, job["option"], None)
    if stream.state is None:
        return {"resumes": False}
    if job["batches"] // 2 + COMPARED > job["batches"]:
        raise SystemExit("too few documents: half an epoch must leave three batches to compare")
    counted = 0
    for _ in range(job["batches"] // 2):
        batch = next(stream.batches)
        counted += int(batch.symbols.sum()) if hasattr(batch, "symbols") else SYMBOLS
    text = json.dumps({"state": stream.state(), "digests": digests(peer, stream)})
    Path(job["state_file"]).write_text(text)
    share = counted / (job["batches"] // 2 * SYMBOLS)
    return {"resumes": True, "state_bytes": len(text), "counted_share": share}


def resume(peer: ModuleType, source: Source, job: dict[str, Any]) -> dict[str, Any]:
    """Open from the state that `half` kept, until the next batch; then compare the batches with those of `half`."""
    kept = json.loads(Path(job["state_file"]).read_text())
    begin = time.perf_counter()
    stream = peer.open_stream(source, job["option"], kept["state"])
    batch = next(stream.batches)
    seconds = time.perf_counter() - begin
    found = [digest(peer, batch), *digests(peer, stream, COMPARED - 1)]
    return {"resume_s": seconds, "exact": found == kept["digests"]}


def digests(peer: ModuleType, stream: Stream, count: int = COMPARED) -> list[str]:
    """Of the stream's next batches, each taken before the next is asked for: a loader may reuse its arrays."""
    return [digest(peer, next(stream.batches)) for _ in range(count)]


def digest(peer: ModuleType, batch: Any) -> str:
    """Of all that a batch holds."""
    own = getattr(peer, "digest", None)
    return own(batch) if own else hashlib.blake2b(array_of(batch), digest_size=16).hexdigest()


def array_of(batch: Any) -> Any:
    """A NumPy array of a batch that is one, or a torch tensor."""
    return batch.numpy() if hasattr(batch, "numpy") else batch


def check_shape(batch: Any) -> None:
    """Refuse to time anything but int64 (16, 2049), or in our loader's batches ids and targets of (16, 2048)."""
    if hasattr(batch, "ids_RT"):
        shape, expected = tuple(batch.ids_RT.shape), (ROWS, TOKENS - 1)
    else:
        array = array_of(batch)
        shape, expected = (*array.shape, str(array.dtype)), (ROWS, TOKENS, "int64")
    if shape != expected:
        raise SystemExit(f"a batch is {shape}; {expected} expected")


def build(peer: ModuleType, source: Source, job: dict[str, Any]) -> dict[str, Any]:
    """Write the peer's store."""
    begin = time.perf_counter()
    peer.build(source.documents, source.folder)
    return {"build_s": time.perf_counter() - begin}


ACTIONS = {"build": build, "run": run, "half": half, "resume": resume}


def main() -> None:
    """Do the job and print its result as the last line."""
    job = json.loads(sys.argv[1])
    begin = time.perf_counter()
    peer = importlib.import_module(f"tests.bench.loaders.{job['module']}")
    imports = time.perf_counter() - begin
    source = Source(Path(job["exports"]), job["variant"], Path(job["folder"]))
    result = ACTIONS[job["action"]](peer, source, job)
    print(json.dumps({"import_s": imports, **result}), flush=True)
    os._exit(0)  # at once: a pass that was not finished has threads that nobody would stop


if __name__ == "__main__":
    main()
