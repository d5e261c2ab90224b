"""Where the time of one batch goes: planning, checking, copying. `python -m tests.bench.batch SHARDS`."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer import batch as batches
from trainer.config import make_config
from trainer.loader import Loader
from trainer.mixture import open_mixture

WARM, TIMED = 200, 3000
MODES = ("proxy", "bytes", "tokens")


def timed(function: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    """The function, its seconds added up under a name."""

    def measured(*arguments: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        result = function(*arguments, **named)
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - begun
        return result

    return measured


def profile(shards: str, mode: str, context: int, rows: int) -> dict[str, float]:
    """Microseconds a batch by part, and symbols a second, with the loader's work in this thread."""
    config = make_config({
        "shards": shards, "mode": mode, "context": context, "batch_rows": rows, "steps": WARM + TIMED,
        "translation": 0.2, "anneal": 0.0,
    })  # fmt: skip
    mixture = open_mixture(config)
    spent: dict[str, float] = {}
    with Loader(mixture.sources, mixture.views, config, None, 0, shares=mixture.shares) as loader:
        stream = iter(loader)
        for _ in range(WARM):
            next(stream)
        begun = time.perf_counter()
        for _ in range(TIMED):
            next(stream)
        whole = time.perf_counter() - begun
    with Loader(mixture.sources, mixture.views, config, None, 0, shares=mixture.shares) as loader:
        stream = iter(loader)
        for _ in range(WARM):
            next(stream)
        planner, builder = loader.planner, loader._builder
        for ahead in planner._ahead:
            ahead.look_up = timed(ahead.look_up, spent, "look-up")  # type: ignore[method-assign]
        planner.next = timed(planner.next, spent, "plan")  # type: ignore[method-assign]
        builder._check = timed(builder._check, spent, "check")  # type: ignore[method-assign]
        builder.build = timed(builder.build, spent, "build")  # type: ignore[method-assign]
        fill, batches.fill_rows = batches.fill_rows, timed(batches.fill_rows, spent, "copy")
        for _ in range(TIMED):
            next(stream)
        batches.fill_rows = fill
    spent["plan"] -= spent.get("look-up", 0.0)
    spent["the rest of build"] = spent.pop("build") - spent["check"] - spent["copy"]
    parts = {name: 1e6 * seconds / TIMED for name, seconds in spent.items()}
    return parts | {
        "all, not taken apart": 1e6 * whole / TIMED,
        "M symbols/s": TIMED * rows * (context + 1) / whole / 1e6,
    }


def main() -> None:
    """Print a table a mode."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.batch", description=__doc__)
    parser.add_argument("shards", help="folder of a shard set")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=16)
    options = parser.parse_args()
    found = {mode: profile(options.shards, mode, options.context, options.rows) for mode in MODES}
    names = list(dict.fromkeys(name for parts in found.values() for name in parts))
    print(f"microseconds a batch of ({options.rows}, {options.context + 1}); medians would hide the look-ups: means\n")
    print(f"| | {' | '.join(MODES)} |\n| --- |{' --- |' * len(MODES)}")
    for name in names:
        print(f"| {name} | {' | '.join(f'{found[mode].get(name, np.nan):.1f}' for mode in MODES)} |")


if __name__ == "__main__":
    main()
