"""What a run says: the opening, a line a log step, the final table; and the running totals behind them."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shards.errors import CorruptShard
from trainer.batch import Batch
from trainer.config import Config
from trainer.counts import count_parameters, describe_counts
from trainer.evaluate import table


@dataclass
class Totals:
    """Sums since step 0, kept in checkpoints: counted targets and bytes of text by view, seconds of training."""

    symbols: dict[str, int]
    raw_bytes: dict[str, int]
    seconds: float = 0.0

    @classmethod
    def empty(cls, views: Sequence[str]) -> "Totals":
        return cls(dict.fromkeys(views, 0), dict.fromkeys(views, 0))

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "Totals":
        return cls(**body)

    def to_json(self) -> dict[str, Any]:
        return {"symbols": self.symbols, "raw_bytes": self.raw_bytes, "seconds": self.seconds}

    def add(self, batch: Batch) -> None:
        """Count a batch that was trained on."""
        for name, symbols, text in zip(self.symbols, batch.symbols.tolist(), batch.raw_bytes.tolist(), strict=True):
            self.symbols[name] += symbols
            self.raw_bytes[name] += text


class Console:
    """Prints a run's progress. Rates are over the steps since the last line, time left over those of this process."""

    def __init__(self, config: Config, views: Sequence[str], totals: Totals, quiet: bool = False) -> None:
        self.config, self.views, self.totals, self.quiet = config, views, totals, quiet
        self.masked = 0
        self.begun = time.monotonic()
        self.steps = 0
        self.bpb: float | None = None
        self.spent = 0.0

    def opening(self, run: Path, tables: Sequence[int], step: int, by_torch: str) -> None:
        """What is about to be trained, and from where on."""
        c = self.config
        if self.quiet:
            return
        sizes = " + ".join(f"{count / 1e6:.2f}M {part}" for part, count in count_parameters(c, tables).items())
        print(f"{run}: {sizes} parameters; {c.mode}, {' + '.join(self.views)}, from {c.shards}")
        print(f"{c.steps} steps of {c.batch_rows} x {c.context} symbols, {c.dtype} on {c.device}, {c.threads} threads")
        print("\n".join(describe_counts(c, tables)))
        if step:
            print(f"continuing after step {step}")
        if by_torch != version("torch"):
            print(f"torch {by_torch} wrote the checkpoint, this is {version('torch')}: the last bits may differ")
        print(end="", flush=True)

    def say(self, lines: Sequence[str]) -> None:
        """More lines of the opening."""
        if not self.quiet:
            print("\n".join(lines), flush=True)

    def quarantined(self, fault: CorruptShard) -> None:
        """A document whose targets are masked. Called from the loader's thread, on whatever rank has it in its rows."""
        self.masked += 1
        print(f"quarantined, {self.masked} so far: {fault}", file=sys.stderr, flush=True)

    def begin(self) -> None:
        """From here the next step's time runs; evaluating and saving do not count as training."""
        self.begun = time.monotonic()

    def tick(self) -> dict[str, float]:
        """A step has ended: its seconds, and those in all. On a device, of what was queued, not of what was done."""
        elapsed = time.monotonic() - self.begun
        self.begin()
        self.totals.seconds += elapsed
        self.spent += elapsed
        self.steps += 1
        return {"seconds": round(elapsed, 4), "total_seconds": round(self.totals.seconds, 3)}

    def line(self, entries: list[dict[str, Any]]) -> None:
        """One line over the steps just flushed."""
        if not entries:
            return
        step, steps = entries[-1]["step"], self.config.steps
        self.bpb = entries[-1].get("val_bpb", self.bpb)
        losses = []
        for view in self.views:
            count = sum(entry[f"symbols/{view}"] for entry in entries)
            nats = sum(entry.get(f"loss/{view}", 0.0) * entry[f"symbols/{view}"] for entry in entries)
            losses.append(f"{view} {nats / count:.3f}" if count else f"{view} -")
        text = sum(entry[f"bytes/{view}"] for entry in entries for view in self.views)
        rate = text / max(sum(entry["seconds"] for entry in entries), 1e-9)
        left = _clock((steps - step) * self.spent / self.steps)
        bpb = f"{self.bpb:.3f}" if self.bpb else "-"
        print(
            f"step {step:>{len(str(steps))}}/{steps} {step / steps:4.0%} | loss {'  '.join(losses)} | "
            f"held-out raw BPB {bpb} | {rate / 1e3:.1f} kB/s | {left} left",
            flush=True,
        )

    def stopped(self, run: Path, step: int) -> None:
        """After a signal: where it stands and how to go on."""
        if not self.quiet:
            print(f"stopped after step {step}; continue with: python -m trainer train --run {run}", flush=True)


def final_table(result: dict[str, Any]) -> str:
    """The figures of a finished run as text."""
    lines = []
    if "raw_bpb" in result:
        documents = f"{result['val_documents']} documents, {result['val_bytes'] / 1e6:.2f} MB"
        lines += [table(result["raw_bpb"], result["baselines"], documents), ""]
    elif result["mode"] == "tokens":
        lines += ["No raw bytes were trained on (mode tokens): no figure on raw bytes, no sample.", ""]
    symbols, text = result["symbols"], result["bytes_of_text"]
    lines.append(f"Trained on {sum(symbols.values()):,} symbols, {sum(text.values()):,} bytes of text:")
    for view in symbols:
        share, of_text = symbols[view] / max(sum(symbols.values()), 1), text[view] / max(sum(text.values()), 1)
        lines.append(f"  {view:<14} {share:6.1%} of the symbols  {of_text:6.1%} of the text")
    if unfinished := result.get("unfinished"):
        lines.append(f"({len(unfinished)} documents were left half done at the last step; result.json lists them.)")
    lines.append(f"in {_clock(result['seconds'])} of training.")
    if "sample" in result:
        lines += ["", f"A continuation of {result['prompt']!r}:", "", result["sample"]]
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{seconds:02}s"
