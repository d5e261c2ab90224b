"""Progress while it happens. Beam's local runner reports its counters only at the end, so workers write how far they
are into small files of their own, and a thread of the parent adds them up for the terminal.
"""

import contextlib
import os
import sys
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

WRITE_SECONDS = 0.2
POLL_SECONDS = 0.25
LINE_SECONDS = 5.0  # between lines where the output is no terminal
_RECORD = 48  # bytes of a counter's file: one small write, so that it is read whole


class Counter:
    """A worker's count of one stage: documents and bytes done. Made where it is used; never shipped."""

    def __init__(self, folder: Path, stage: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{stage}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._documents = self._bytes = 0
        self._written = 0.0

    def add(self, documents: int, size: int) -> None:
        """Count documents; written down a few times a second."""
        self._documents += documents
        self._bytes += size
        now = time.monotonic()
        if now - self._written >= WRITE_SECONDS:
            self._written = now
            self.flush()

    def flush(self) -> None:
        """Write the count. Progress never stops a build: a disk that is full is somebody else's error."""
        with contextlib.suppress(OSError), self._path.open("wb", buffering=0) as file:
            file.write(f"{self._documents} {self._bytes}".ljust(_RECORD).encode())


def read_counts(folder: Path, stage: str) -> tuple[int, int]:
    """(documents, bytes) over all workers."""
    documents = size = 0
    for path in folder.glob(f"{stage}-*"):
        with contextlib.suppress(OSError, ValueError):
            done = [int(number) for number in path.read_bytes().split()]
            if len(done) == 2:
                documents, size = documents + done[0], size + done[1]
    return documents, size


class Watch:
    """Shows one stage: a bar on a terminal, else a line every few seconds. `total` is in bytes; None: not known."""

    def __init__(self, folder: Path, stage: str, title: str, total: int | None, stream: TextIO | None = None) -> None:
        self._folder, self._stage, self._title, self._total = folder, stage, title, total
        self._stream = stream or sys.stderr
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"progress-{stage}", daemon=True)
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.seconds = time.monotonic() - self._begin

    def _run(self) -> None:
        if not self._stream.isatty():
            self._print_lines()
            return
        known = "{l_bar}{bar}| {n_fmt}/{total_fmt} {rate_fmt}, {remaining} left{postfix}"
        layout = known if self._total is not None else "{desc}: {elapsed}"
        settings: dict[str, Any] = {"unit": "B", "unit_scale": True, "leave": True, "dynamic_ncols": True}
        with tqdm(total=self._total, desc=self._title, file=self._stream, bar_format=layout, **settings) as bar:
            stopped = False
            while not stopped:
                stopped = self._stop.wait(POLL_SECONDS)
                documents, size = read_counts(self._folder, self._stage)
                bar.set_postfix_str(f"{documents} documents" if documents else "", refresh=False)
                bar.update(size - bar.n)
                bar.refresh()

    def _print_lines(self) -> None:
        shown = False
        while not self._stop.wait(LINE_SECONDS):
            self._line()
            shown = True
        if shown or self._total:
            self._line()

    def _line(self) -> None:
        documents, size = read_counts(self._folder, self._stage)
        elapsed = time.monotonic() - self._begin
        rate = size / elapsed if elapsed else 0.0
        parts = [f"{self._title}: {elapsed:.0f} s"]
        if self._total:
            left = f", {(self._total - size) / rate:.0f} s left" if rate and size < self._total else ""
            share = f"{min(1.0, size / self._total):4.0%}"
            parts = [f"{self._title}: {share}, {documents} documents, {size / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s{left}"]
        print(*parts, file=self._stream, flush=True)
