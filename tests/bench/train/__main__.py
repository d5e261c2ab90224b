"""Training steps of ours beside others of the same shape, batch and precision, in one run on this machine.

Peers: a nanoGPT-style loop, transformers' Qwen3ForCausalLM, and LitGPT's GPT with Qwen3's settings, each eager and
compiled, each the plain training step that its users write. Ours runs its own pieces: loader, document masks, checksums
and all. Every measurement is a new process, rounds are interleaved. The table goes to stdout, progress to stderr.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from shards.reader import ShardSet
from tests.bench.processes import EnvironmentMissing, result_of
from tests.bench.train import environments, table
from tests.bench.train.shape import PEERS, ROWS, Row, Shape
from trainer.config import make_config
from trainer.presets import PRESETS
from trainer.specials import RAW_ROWS

ROOT = Path(__file__).parents[3]
LIMIT = 1200  # seconds of one process
CPU_ROWS = {"demo": 8, "5m": 4}  # rows a step: 5m's own 16 take too long
CUDA_ROWS = {"25m": 32, "100m": 16, "500m": 8}
EXAMPLES = """\
examples:
  python -m tests.bench.train --shards data/stdlib                     demo and 5m on the CPU, some ten minutes
  python -m tests.bench.train --shards data/stdlib --peers ours,nano --presets demo --rounds 1
  python -m tests.bench.train --shards data/code --device cuda --peak-tflops 989     25m, 100m, 500m with MFU (H100)

The first run installs LitGPT (small: torch is ours) and compiles; what is made stays in the work folder. Leave the
machine alone meanwhile: with two threads on two cores, one other process can make a step several times as long.
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.train", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--shards", metavar="DIR", type=Path, default=Path("data/stdlib"), help="a shard set (%(default)s)")
    add("--peers", metavar="A,B", default=",".join(PEERS), help="whom to measure (%(default)s); ratios need ours")
    add("--presets", metavar="A,B", default="", help="shapes (demo,5m; on CUDA 25m,100m,500m)")
    add("--rows", metavar="N", type=int, default=0, help="rows a step, in place of each preset's for this benchmark")
    add("--steps", metavar="N", type=int, default=6, help="to time in a process (%(default)s)")
    add("--warmup", metavar="N", type=int, default=2, help="steps before these (%(default)s)")
    add("--rounds", metavar="N", type=int, default=3, help="medians are taken over (%(default)s)")
    add("--threads", metavar="N", type=int, default=0, help="of a step on the CPU (all cores)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of matrix products (%(default)s)")
    add("--peak-tflops", metavar="T", type=float, default=0.0, help="of the device, in that dtype: for MFU")
    add("--work", metavar="DIR", type=Path, default=Path(".bench/train"), help="environments, text, compiled code")
    add("--json", metavar="FILE", type=Path, help="where all results go (WORK/results.json)")
    options = parser.parse_args(arguments)
    options.peers = [name.strip() for name in options.peers.split(",") if name.strip()]
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"--peers: {', '.join(sorted(unknown))} found; {', '.join(PEERS)} expected")
    defaults = CUDA_ROWS if options.device == "cuda" else CPU_ROWS
    options.presets = [name.strip() for name in (options.presets or ",".join(defaults)).split(",")]
    for name in ("steps", "rounds", "warmup"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: {getattr(options, name)} found, 1 or more expected")
    if unknown := set(options.presets) - set(PRESETS):
        parser.error(f"--presets: {', '.join(sorted(unknown))} found; of {', '.join(PRESETS)} expected")
    if not (options.shards / "manifest.json").exists():
        parser.error(f"--shards {options.shards}: no shard set; `make data/stdlib/manifest.json` builds the demo's")
    options.threads = options.threads or os.cpu_count() or 1
    return options


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def export(shards: Path, path: Path) -> Path:
    """The set's train documents as one flat file of bytes, for the peers; kept with the digest of their order."""
    shard_set = ShardSet.open(str(shards))
    split, stamp = shard_set.split("train"), path.with_suffix(".digest")
    digest = f"{shard_set.manifest.order_digest('train')}-{shard_set.manifest.view_digest('train', 'raw')}"
    if not (path.exists() and stamp.exists() and stamp.read_text() == digest):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for i in range(len(split)):
                file.write(split.raw(i).tobytes())
        stamp.write_text(digest)
    return path


def job_of(row: Row, preset: str, options: argparse.Namespace, text: Path) -> dict[str, Any]:
    """What measure.py is told."""
    defaults = CUDA_ROWS if options.device == "cuda" else CPU_ROWS
    settings: dict[str, Any] = {
        "preset": preset, "shards": str(options.shards.resolve()), "mode": row.mode, "device": options.device,
        "dtype": options.dtype, "threads": options.threads, "compile": "on" if row.compiled else "off",
        "micro_rows": 0,
    }  # fmt: skip
    if rows := options.rows or defaults.get(preset, 0):
        settings["batch_rows"] = rows
    if row.optimizer != "preset":
        settings["optimizer"] = row.optimizer
    config = vars(make_config(settings))
    shape = {field.name: config[field.name] for field in dataclasses.fields(Shape) if field.name != "vocabulary"}
    return {
        "module": row.peer if row.peer == "ours" else f"peers.{row.peer}",
        "settings": settings, "shape": shape | {"vocabulary": RAW_ROWS}, "text": str(text.resolve()), "seed": 0,
        "compiled": row.compiled, "steps": options.steps, "warmup": options.warmup, "threads": options.threads,
        "device": options.device, "dtype": options.dtype,
    }  # fmt: skip


def run(python: Path, job: dict[str, Any], work: Path) -> dict[str, Any]:
    """One job in a process of its own; what fails is a result too: {"error": why}."""
    kept = {"TORCHINDUCTOR_CACHE_DIR": str((work / "inductor").resolve()), "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-m", "tests.bench.train.measure", json.dumps(job)]
    return result_of(command, ROOT, os.environ | kept, LIMIT)


def main() -> None:
    """Prepare, measure, write the results, print the table."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    text = export(options.shards, options.work / "text.bin")
    pythons: dict[str, Path] = {}
    broken: dict[str, str] = {}
    for peer in options.peers:
        try:
            pythons[peer] = environments.interpreter(peer, options.work, say)
        except EnvironmentMissing as error:
            broken[peer] = f"not installed: {error}"
    rows = [row for row in ROWS if row.peer in options.peers]
    found: list[dict[str, Any]] = []
    shapes = {}
    for number in range(options.rounds):
        for preset in options.presets:
            for row in rows:
                job = job_of(row, preset, options, text)
                shape = Shape(**job["shape"])
                batch = f"({shape.batch_rows}, {shape.context}), {options.dtype}"
                shapes[preset] = f"width {shape.width}, {shape.layers} layers, {batch}"
                cold = options.device == "cpu" and not number  # on CUDA the warm-up compiles: memory is counted apart
                if cold and row.compiled and row.peer in pythons:  # compiled before it is measured
                    run(pythons[row.peer], job | {"steps": 1, "warmup": 1}, options.work)
                why = broken.get(row.peer)
                result = {"error": why} if why else run(pythons[row.peer], job, options.work)
                config = dataclasses.asdict(make_config(job["settings"]))
                found.append({"row": row.key, "preset": preset, "round": number, "tokens": shape.tokens,
                              "load": os.getloadavg()[0], "settings": config, **result})  # fmt: skip
                say(f"round {number + 1}  {preset:<5} {row.key:<28} "
                    + (result.get("error") or f"{1e3 * result['step_s']:.1f} ms"))  # fmt: skip
    loads = [one["load"] for one in found]
    machine = (f"{platform.machine()}, {os.cpu_count()} cores, {options.device}, {options.threads} threads, Python "
               f"{platform.python_version()}, load {min(loads):.1f} to {max(loads):.1f}, {options.rounds} rounds of "
               f"{options.steps} steps.")  # fmt: skip
    body = {"machine": machine, "shapes": shapes, "summary": table.summarise(found), "measurements": found}
    path = options.json or options.work / "results.json"
    path.write_text(json.dumps(body, indent=1) + "\n")
    say(f"results: {path}")
    print(table.markdown(body, options.peak_tflops))


if __name__ == "__main__":
    main()
