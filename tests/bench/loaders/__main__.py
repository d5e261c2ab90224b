"""Our loader beside what users would take instead, in one run, on the same documents and the same (16, 2049) batches.

Peers: MosaicML Streaming, LitData, Grain, Hugging Face datasets (Arrow batches; one document at a time), a torch
DataLoader over Parquet, and NumPy over one flat file (np.copyto, random windows, nanoGPT's get_batch). Each has a
virtual environment of its own with pinned versions; every measurement is a new process, run right behind one of
np.copyto, so that all figures are quotients within one run. The table goes to stdout, progress to stderr.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.bench.loaders import documents, environments, table
from tests.bench.loaders.bench import Bench
from tests.bench.loaders.lineup import PEERS, ROWS, VARIANTS

EXAMPLES = """\
examples:
  python -m tests.bench.loaders                                  the interpreter's own standard library
  python -m tests.bench.loaders --corpus ~/src/linux             any folder of code; its shard set is built once
  python -m tests.bench.loaders --shards data/linux --rounds 5   a set that is there (with a view sentencepiece)
  python -m tests.bench.loaders --only ours,grain --rounds 1     a quick look; the reference always runs

The first run installs the peers (5 GB, most of it torch) and writes their stores into the work folder; later runs take
what is there. Remove the work folder to begin anew. Ratios are steady from 100 MB of text on; leave the machine alone
meanwhile.
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.loaders",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--corpus", metavar="DIR", help="a folder of code (the interpreter's standard library)")
    where.add_argument("--shards", metavar="DIR", type=Path, help="a shard set, in place of a corpus")
    parser.add_argument("--exclude", metavar="GLOB", action="append", default=[], help="of the corpus; may be repeated")
    parser.add_argument("--work", metavar="DIR", type=Path, default=Path(".bench/loaders"),
                        help="for environments, exports, stores and results (%(default)s)")  # fmt: skip
    parser.add_argument("--only", metavar="A,B", default=",".join(PEERS), help="peers to measure (%(default)s)")
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="medians are taken over (%(default)s)")
    parser.add_argument("--at-least", metavar="S", type=float, default=1.0,
                        help="seconds to time; passes are repeated up to that (%(default)s)")  # fmt: skip
    parser.add_argument("--at-most", metavar="S", type=float, default=20.0,
                        help="seconds of one pass, which is cut there (%(default)s)")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="where the results go (WORK/results.json)")
    options = parser.parse_args(arguments)
    options.only = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := set(options.only) - set(PEERS):
        parser.error(f"--only: {', '.join(sorted(unknown))} found; {', '.join(PEERS)} expected")
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds} found, 1 or more expected")
    return options


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def build_set(options: argparse.Namespace) -> Path:
    """The shard set of the corpus, built into the work folder unless it is there."""
    corpus = options.corpus or sysconfig.get_path("stdlib")
    exclude = options.exclude if options.corpus else ["site-packages", *options.exclude]
    name = hashlib.blake2b(json.dumps([str(Path(corpus).resolve()), exclude]).encode(), digest_size=4).hexdigest()
    folder = options.work / "sets" / f"{Path(corpus).name}-{name}"
    if (folder / "manifest.json").exists():
        return folder
    say(f"building {folder} from {corpus}")
    command = [sys.executable, "-m", "pipeline", "build", corpus, "--out", str(folder.resolve())]
    command += ["--views", f"{documents.VIEW}:vocab=32768", *(f"--exclude={glob}" for glob in exclude)]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise SystemExit("the corpus could not be built into a shard set")
    return folder


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Prepare, measure, write results.json, print the table."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    shards = options.shards or build_set(options)
    try:
        documents.export(ShardSet.open(shards), options.work / "documents")
    except ByteproxyError as error:
        raise SystemExit(f"error: {error}") from None
    rows = [row for row in ROWS if row.peer in options.only]
    bench = Bench(shards, options.work, options.at_least, options.at_most, say)
    bench.prepare(rows)
    found: list[dict[str, Any]] = list(bench.rounds(rows, options.rounds))
    loads = [one["load"] for one in found]
    body = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": [min(loads), max(loads)],
        },
        "rounds": options.rounds,
        "documents": {variant: bench.sizes[variant] for variant in VARIANTS},
        "versions": {peer: environments.versions(peer) for peer in PEERS if peer in bench.pythons and peer != "ours"},
        "summary": table.summarise(found),
        "measurements": found,
    }
    path = options.json or options.work / "results.json"
    path.write_text(json.dumps(body, indent=1) + "\n")
    say(f"results: {path}")
    print(table.markdown(body))


if __name__ == "__main__":
    main()
