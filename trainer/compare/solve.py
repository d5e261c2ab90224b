"""How many steps bring a run to its mark: the planner is run ahead of training, and what its batches cost is summed.

A recipe's phases are parts of the steps, so other steps are another plan: the guess is mended until the sum over the
whole run lies as near the mark as steps allow.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ByteproxyError
from shards.manifest import write_atomically
from trainer.compare.arms import identity
from trainer.compare.flops import Work, total_flops, work_of
from trainer.config import Config
from trainer.mixture import Mixture
from trainer.plan import Planner

TRIES = 12
PROBE = 32  # steps of the first guess


@dataclass(frozen=True)
class Solved:
    """Steps, and what all of them hold and cost."""

    steps: int
    work: Work
    flops: int

    def measure(self, unit: str) -> int:
        """FLOPs or bytes of text."""
        return self.flops if unit == "flops" else self.work.bytes


def run_of(config: Config, mixture: Mixture, tables: Sequence[int]) -> Solved:
    """The whole run of a config with its steps."""
    planner = Planner(mixture.sources, mixture.views, config, mixture.shares)
    work = Work.none(len(mixture.views))
    for plan, _ in planner.plans(planner.initial()):
        work += work_of(plan.pieces_PK, config.context, len(mixture.views))
    return Solved(config.steps, work, total_flops(config, tables, work))


def solve(config: Config, mixture: Mixture, tables: Sequence[int], unit: str, mark: float) -> Solved:
    """The run whose FLOPs, or bytes of text, lie nearest to `mark`: within one step, or as near as steps can come where
    one more begins a costlier phase later; and within a quarter of the mark. Else ByteproxyError."""
    found: dict[int, Solved] = {}

    def measure(steps: int) -> int:
        if steps not in found:
            found[steps] = run_of(dataclasses.replace(config, steps=steps), mixture, tables)
        return found[steps].measure(unit)

    steps = PROBE
    for _ in range(TRIES):
        if steps in found:
            break
        step = measure(steps) / steps
        if not step:
            raise ByteproxyError(f"{unit} of {steps} steps: 0 found; has the set any text?")
        steps = max(1, steps + round((mark - measure(steps)) / step))
    best = min(found, key=lambda steps: (abs(measure(steps) - mark), steps))
    missed = abs(measure(best) - mark)
    if missed > measure(best) / best:
        towards = 1 if measure(best) < mark else -1
        ends = [best, best]  # neighbours, the mark between them at last
        while len(found) < 2 * TRIES and ends[1] + towards > 0 and (measure(ends[1]) - mark) * towards < 0:
            ends = [ends[1], ends[1] + towards]
        best = min(ends, key=lambda steps: abs(measure(steps) - mark))
        missed = abs(measure(best) - mark) if (measure(ends[1]) - mark) * towards >= 0 else mark
    if missed > mark / 4:
        raise ByteproxyError(
            f"{measure(best):.4g} {unit} of {best} steps found, {mark:.4g} expected. "
            "Give a larger mark, or smaller batches"
        )
    return found[best]


class Known:
    """Solved runs, kept in a file by what they follow from, so that a driver that goes on need not solve again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        try:
            self.entries: dict[str, Any] = json.loads(path.read_bytes()) if path else {}
        except (FileNotFoundError, ValueError):
            self.entries = {}

    def solve(self, config: Config, mixture: Mixture, tables: Sequence[int], unit: str, mark: float) -> Solved:
        """As the function."""
        key = f"{identity(dataclasses.replace(config, steps=1), mixture.digests)}-{unit}-{mark:.17g}"
        if key not in self.entries:
            found = solve(config, mixture, tables, unit, mark)
            work = found.work
            self.entries[key] = [found.steps, work.positions, work.looks, work.symbols_V.tolist(),
                                 work.bytes_V.tolist()]  # fmt: skip
            if self.path:
                write_atomically(self.path, json.dumps(self.entries).encode())
        steps, positions, looks, symbols, text = self.entries[key]
        work = Work(positions, looks, np.array(symbols, np.int64), np.array(text, np.int64))
        return Solved(steps, work, total_flops(config, tables, work))


def estimate(
    config: Config, tables: Sequence[int], bytes_per_symbol: float, unit: str, mark: float
) -> tuple[int, float]:
    """About how many steps and FLOPs, where there is no set to plan from: full rows of one document, mean rates."""
    raw, compressed = _symbol_shares(config, bytes_per_symbol)
    symbols = config.batch_rows * config.context
    work = Work.none(len(tables) - 1)
    work.positions, work.looks = symbols, symbols * (config.context + 1) // 2
    work.symbols_V[0] = round(symbols * raw)
    for view in range(1, len(tables)):
        work.symbols_V[view] = round(symbols * compressed / (len(tables) - 1))
    step = float(total_flops(config, tables, work))
    each = step if unit == "flops" else symbols * (raw + compressed * bytes_per_symbol)
    steps = max(1, round(mark / each))
    return steps, steps * step


def _symbol_shares(config: Config, bytes_per_symbol: float) -> tuple[float, float]:
    """Of all symbols, the raw and the compressed."""
    if config.mode in ("bytes", "tokens"):
        return (1.0, 0.0) if config.mode == "bytes" else (0.0, 1.0)
    if config.mode == "parallel":
        streams = 0.5 * (1 - config.anneal)
    else:
        warm, cold = config.translation, config.anneal
        steady = config.rate if config.rate_end < 0 else (config.rate + config.rate_end) / 2
        streams = warm * (config.rate_start + config.rate) / 2 + (1 - warm - cold) * steady
        by_symbols = config.rate_unit == "symbols"
        half = 1 / (1 + bytes_per_symbol) if by_symbols else 1 / 2  # of documents in turns: of their text, half
        streams += config.switch * ((1 - cold) * half - streams)
        if by_symbols:
            return 1 - streams, streams
    compressed = streams / bytes_per_symbol
    return (1 - streams) / (1 - streams + compressed), compressed / (1 - streams + compressed)
