"""One row in a process of its own: `python -m tests.bench.train.measure JOB`, JOB and the result in JSON.

A peer's `steps(job)` yields after each training step: `loss` (a tensor: mean nats), `counted` (targets by view),
`bytes` (of text behind them), and on the CPU the seconds of its parts (`data`, `forward`, `backward`, …).
"""

import importlib
import json
import math
import os
import resource
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

STEP_FIELDS = ("data", "forward", "backward", "clip", "optimizer", "waited")


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Take `warmup` steps, then time `steps` more. The median is of single steps; on CUDA, their mean."""
    import torch

    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    peer = importlib.import_module(f"tests.bench.train.{job['module']}")
    imports = peak_memory()
    taken = peer.steps(job)
    begin = time.perf_counter()
    losses = [float(next(taken)["loss"]) for _ in range(job["warmup"])]
    first = losses[0]
    warmed = time.perf_counter() - begin
    if job["device"] != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds, found = [], []
    for _ in range(job["steps"]):
        begin = time.perf_counter()
        found.append(next(taken))
        seconds.append(time.perf_counter() - begin)
    last = float(found[-1]["loss"])
    if job["device"] != "cpu":  # steps are queued: only the time of all of them, up to the last loss, means something
        seconds = [(sum(seconds[:-1]) + time.perf_counter() - begin) / len(seconds)]
    if not math.isfinite(last) or last > first + 1:
        raise SystemExit(f"the loss goes from {first:.2f} to {last:.2f} nats: this does not train")
    tables = found[-1].get("tables", [job["shape"]["vocabulary"]])
    return {
        "step_s": median(seconds),
        "parts": {name: median(one[name] for one in found) for name in STEP_FIELDS if name in found[0]},
        "waited_share": sum(one.get("waited", 0.0) for one in found) / sum(seconds) if "waited" in found[0] else None,
        "bytes": sum(one["bytes"] for one in found) / len(found),
        "counted": [sum(each) / len(found) for each in zip(*(one["counted"] for one in found), strict=True)],
        "tables": tables,
        "loss": [first, last],
        "warmup_s": warmed,
        "memory_imports": imports,
        "memory": peak_memory(),
        "memory_cuda": torch.cuda.max_memory_allocated() if job["device"] != "cpu" else None,
    }


def peak_memory() -> int:
    """Bytes: the most that this process had resident. Where the system tells, of this program alone.

    `ru_maxrss` starts, on Linux, at what the parent had when it forked.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def main() -> None:
    """Do the job and print its result as the last line."""
    print(json.dumps(measure(json.loads(sys.argv[1]))), flush=True)
    os._exit(0)  # at once: the loader's thread and the compiler's workers are still there


if __name__ == "__main__":
    main()
