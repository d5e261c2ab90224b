"""`RUN/metrics.jsonl`: one object a step, each step exactly once, also after a kill and a resume.

Lines are written from tensors that stay on the device until a flush, so that no step waits for its own loss. A flush is
due before a checkpoint: then the file holds every step up to the checkpoint's, and a resume cuts off what lies beyond.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.manifest import write_atomically
from trainer.guard import Guard, Unsound
from trainer.multibyte import ahead_figures
from trainer.watch import Watchers

FILE = "metrics.jsonl"
_NATS_PER_BIT = float(np.log(2))


def step_figures(
    views: Sequence[str], symbols: np.ndarray, raw_bytes: np.ndarray, nats: Sequence[float]
) -> dict[str, Any]:
    """What a step says of each view: targets, bytes of text, nats a target, bits per raw byte (absent if none)."""
    figures: dict[str, Any] = {"loss": sum(nats) / max(int(symbols.sum()), 1)}
    for view, count, text, nat in zip(views, symbols.tolist(), raw_bytes.tolist(), nats, strict=True):
        figures |= {f"symbols/{view}": count, f"bytes/{view}": text}
        if count:
            figures[f"loss/{view}"] = nat / count
        if text:
            figures[f"bpb/{view}"] = nat / _NATS_PER_BIT / text
    return figures


class Metrics:
    """Appends to the file; `resume` steps are kept of what is there. `quiet`: does nothing, on ranks but the first.

    `guard` judges each step before it is written, and has seen the steps that are kept.
    """

    def __init__(
        self,
        run: Path,
        views: Sequence[str],
        resume: int,
        guard: Guard,
        quiet: bool = False,
        watchers: Watchers | None = None,
    ) -> None:
        self.path, self.views, self.guard, self.quiet, self.watchers = run / FILE, views, guard, quiet, watchers
        self._waiting: list[tuple[dict[str, Any], np.ndarray, np.ndarray, Tensor]] = []
        if quiet:
            return
        kept = [line for line in whole_lines(self.path) if json.loads(line)["step"] <= resume]
        for line in kept:
            guard.learn(json.loads(line))
        write_atomically(self.path, b"".join(kept))
        self._file = self.path.open("ab")

    def add(self, plain: dict[str, Any], symbols: np.ndarray, raw_bytes: np.ndarray, measured: Tensor) -> None:
        """Queue a step. `measured`: what `backward` returns, then the gradient's norm, on the device."""
        if self.quiet:
            return
        self._waiting.append((plain, symbols, raw_bytes, measured))

    def flush(self, last: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Write the queued steps out and return them; `last` goes onto the last of them.

        Raises Unsound at the first step that the guard refuses; steps before it are written.
        """
        if not self._waiting:
            return []
        rows = torch.stack([measured for *_, measured in self._waiting]).tolist()
        entries: list[dict[str, Any]] = []
        unsound: Unsound | None = None
        for (plain, symbols, raw_bytes, _), (*nats, norm) in zip(self._waiting, rows, strict=True):
            nats, ahead = nats[: len(self.views)], nats[len(self.views) :]
            entry = plain | step_figures(self.views, symbols, raw_bytes, nats)
            entry |= ahead_figures(ahead) | {"grad_norm": norm}
            try:
                self.guard.check(entry)
            except Unsound as error:
                unsound = error
                break
            entries.append(entry)
        if entries:
            entries[-1] |= last or {}
        self._file.write(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
        self._file.flush()
        if self.watchers:
            for entry in entries:
                self.watchers.step(entry)
        self._waiting = []
        if unsound:
            raise unsound
        return entries

    def sync(self) -> None:
        """Make what was flushed durable; due before a checkpoint is."""
        if not self.quiet:
            os.fsync(self._file.fileno())

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.quiet:
            self._file.close()
        if self.watchers:
            self.watchers.close()


def whole_lines(path: Path) -> list[bytes]:
    """The file's whole lines; a torn last one, of a killed run, is no line."""
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
