"""How much a build costs beyond the compressors themselves: `python -m tests.bench.pipeline --corpus DIR`.

In one run, on the same documents: the libraries' own encode and decode, called bare on one core, and whole builds with
1 and 2 workers (survey, encode with every view decoded and compared, join; fitting is serial and told apart).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards.reader import ShardSet


def bare_libraries(folder: Path, every: int = 1) -> tuple[float, dict[str, tuple[float, float]]]:
    """MB, and view -> seconds of the library's own encode and decode of each `every`th document, one call each."""
    import brotli
    import deflate
    import sentencepiece
    import zstandard

    shard_set = ShardSet.open(folder)
    splits = [shard_set.split(name) for name in shard_set.manifest.splits]
    raws = [split.raw(i).tobytes() for split in splits for i in range(0, len(split), every)]
    (model,) = (folder / shard_set.view("sentencepiece").folder).glob("*.model")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    zstd = zstandard.ZstdCompressor(level=3)
    unzstd = zstandard.ZstdDecompressor()
    calls: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        # what is not UTF-8 the library cannot take; it is given the nearest text
        "sentencepiece": (
            lambda raw: processor.encode(raw.decode("utf-8", "replace"), num_threads=1),
            processor.decode,
        ),
        "gzip": (lambda raw: deflate.gzip_compress(raw, 9), deflate.gzip_decompress),
        "zstd": (zstd.compress, unzstd.decompress),
        "brotli": (lambda raw: brotli.compress(raw, quality=5), brotli.decompress),
    }
    times = {}
    for view, (encode, decode) in calls.items():
        encoding = decoding = 0.0
        for raw in raws:
            begin = time.perf_counter()
            encoded = encode(raw)
            middle = time.perf_counter()
            decode(encoded)
            encoding, decoding = encoding + middle - begin, decoding + time.perf_counter() - middle
        times[view] = encoding, decoding
        print(f"{view:>14}: encode {times[view][0]:7.2f} s, decode {times[view][1]:6.2f} s", flush=True)
    return sum(map(len, raws)) / 1e6, times


def build(corpus: list[str], out: Path, workers: int) -> dict[str, Any]:
    """Build a set in a process of its own; returns its report, with the seconds of the whole process."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "pipeline", "build", *corpus, "--out", str(out), "--workers", str(workers)]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads((out / "report.json").read_text()) | {"wall": time.perf_counter() - begin}


def main() -> None:
    """Run, and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", help="a folder of code (the interpreter's own standard library)")
    parser.add_argument("--workers", default="1 2", help='worker counts to compare ("1 2")')
    parser.add_argument("--set", type=Path, help="only the libraries, on the documents of this set with default views")
    parser.add_argument("--every", type=int, default=1, help="with --set: only each so manieth document")
    options = parser.parse_args()
    if options.set:
        megabytes, times = bare_libraries(options.set, options.every)
        encode, decode = (sum(pair[part] for pair in times.values()) for part in (0, 1))
        print(f"{megabytes:.1f} MB; together: encode {encode:.2f} s, decode {decode:.2f} s, one core")
        return
    corpus = [options.corpus] if options.corpus else [sysconfig.get_path("stdlib"), "--exclude", "site-packages"]
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory(prefix="byteproxy-bench-") as scratch:
        reports = {int(n): build(corpus, Path(scratch) / f"set-{n}", int(n)) for n in options.workers.split()}
        any_set = Path(scratch) / f"set-{options.workers.split()[0]}"
        counts = ShardSet.open(any_set).manifest.splits.values()
        megabytes = sum(file.symbols["raw"] for files in counts for file in files) / 1e6
        print(f"{megabytes:.1f} MB of documents; the libraries alone, one core:")
        libraries = sum(map(sum, bare_libraries(any_set)[1].values()))
    print(f"the libraries together: {libraries:.2f} s, {1000 * libraries / megabytes:.1f} ms a MB\n")
    base = None
    for workers, report in reports.items():
        timing = report["timing"]
        fit = timing["stages"]["fit"]["seconds"]
        work = report["wall"] - fit
        base = base or work
        print(
            f"{workers} workers: {report['wall']:.2f} s in all, {fit:.2f} s of it fitting; without fitting "
            f"{work:.2f} s = {work / libraries:.2f} x the libraries, {1000 * work / megabytes:.1f} ms a MB; "
            f"{base / work:.2f} times the first's speed"
        )
        print("    " + json.dumps(timing))


if __name__ == "__main__":
    main()
