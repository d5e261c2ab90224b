"""Builds a set of a large corpus under a limit on the memory of all processes together: `python -m tests.bench.memory`.

The limit is the kernel's: a control group of its own (v1 or v2; needs root), whose processes are killed when they hold
more. By default a JSONL.gz of 10 GB of text, made of real code: the files of --corpus over and over, each time with
another first line, so that no two documents are equal.
"""

import argparse
import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import parse_bytes


def write_lines(folder: Path, target: Path, size: int) -> tuple[int, int]:
    """A folder's UTF-8 files as JSON lines until their texts hold `size` bytes; returns (documents, bytes)."""
    texts = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and 0 < p.stat().st_size < 1 << 20):
        try:
            texts.append((str(path.relative_to(folder)), path.read_bytes().decode()))
        except UnicodeDecodeError:
            continue
    count = used = 0
    with gzip.open(target, "wb", compresslevel=1) as out:
        for turn in itertools.count():
            for name, text in texts:
                body = f"# copy {turn}\n{text}"
                line = {"content": body, "path": f"{turn}/{name}", "repo_name": f"repository-{turn}"}
                out.write(json.dumps(line).encode() + b"\n")
                count, used = count + 1, used + len(body.encode())
                if used >= size:
                    return count, used
    raise AssertionError


@contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """A control group with this limit in bytes, swap included where the kernel counts it."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    v1 = first.is_dir()
    group = (first if v1 else second) / f"byteproxy-bench-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit))
        for name in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            if (group / name).exists():
                (group / name).write_text(str(limit if v1 else 0))
    except OSError as error:
        sys.exit(f"no control group with a limit can be made here ({error}): run as root on a Linux that has them")
    try:
        yield group
    finally:
        end = time.monotonic() + 30
        while (group / "cgroup.procs").read_text() and time.monotonic() < end:  # workers of a build that was killed
            time.sleep(0.1)
        group.rmdir()


class Watch:
    """Samples the memory that no file backs, of all processes of a group together."""

    def __init__(self, group: Path) -> None:
        self.group, self.most, self._stop = group, 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            rows = dict(line.split() for line in (self.group / "memory.stat").read_text().splitlines())
            self.most = max(self.most, int(rows.get("total_rss", rows.get("anon", 0))))


def main() -> None:
    """Make the corpus, build it, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path(sysconfig.get_path("stdlib")), help="a folder of code")
    parser.add_argument("--input", type=Path, help="build this corpus, rather than making one")
    parser.add_argument("--size", type=parse_bytes, default=10_000_000_000, help="bytes of text (10 GB)")
    parser.add_argument("--limit", type=parse_bytes, default=4 << 30, help="bytes of memory (4G)")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--views", default="zstd:level=3", help="cheap ones: memory is asked for here, not speed")
    parser.add_argument("--scratch", type=Path, required=True, help="a folder with room for five times the size")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    corpus, out = options.input or options.scratch / "code.jsonl.gz", options.scratch / "set"
    if not corpus.exists():
        temporary = corpus.with_name("making.gz")
        count, used = write_lines(options.corpus, temporary, options.size)
        temporary.rename(corpus)
        print(f"{corpus}: {count} documents, {used / 1e9:.2f} GB of text, {corpus.stat().st_size / 1e9:.2f} GB packed")
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "pipeline", "build", str(corpus), "--out", str(out), "--views", options.views]
    command += ["--workers", options.workers]
    with control_group(options.limit) as group, Watch(group) as watch:
        join = f'echo $$ > {group}/cgroup.procs; exec "$@"'
        begin = time.perf_counter()
        code = subprocess.run(["sh", "-c", join, "sh", *command], check=False).returncode
        seconds = time.perf_counter() - begin
    print(
        f"exit code {code}, {seconds:.0f} s, at most {watch.most / 2**30:.2f} GiB that no file backs, in all processes "
        f"together, under a limit of {options.limit / 2**30:.2f} GiB (page cache counted by the kernel)"
    )
    sys.exit(code)


if __name__ == "__main__":
    main()
