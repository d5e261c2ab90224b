"""The n-gram codec on held-out code: `python -m tests.bench.ngram TRAIN HELD`. Prints a line for each set of options.

Fits on documents of TRAIN, measures those of HELD; both are sets with a view sentencepiece, for comparison on the same
documents. Times are of one process, the fit's and the compiler's apart. Every document is decoded and compared.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from shards.codecs import parse_view
from shards.codecs.ngram.codec import NGram
from shards.codecs.ngram.fit import joined
from shards.codecs.ngram.model import TOTAL
from shards.reader import ShardSet

MOST = 200_000  # bytes of a document: no long one shall be most of the sample


def documents(folder: Path, size: int) -> tuple[list[bytes], int]:
    """Some of the train split, evenly over it, and their symbols in the view sentencepiece."""
    shard_set = ShardSet.open(folder)
    split = shard_set.split("train")
    step = max(1, int(shard_set.manifest.splits["train"][0].symbols["raw"] // (2 * size)))
    raws: list[bytes] = []
    symbols = 0
    for i in range(0, len(split), step):
        raw = split.raw(i).tobytes()
        if len(raw) <= MOST:
            raws.append(raw)
            symbols += len(split.symbols(i, "sentencepiece"))
        if sum(map(len, raws)) >= size:
            break
    return raws, symbols


def main() -> None:
    """Parse, fit, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ngram", description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("held", type=Path)
    parser.add_argument("--fit-bytes", type=int, default=10 << 20)
    parser.add_argument("--bytes", type=int, default=1_500_000)
    parser.add_argument("--options", nargs="*", default=[""], help="of the view, for instance segment=12,context=text")
    options = parser.parse_args()
    sample, (raws, tokens) = documents(options.train, options.fit_bytes)[0], documents(options.held, options.bytes)
    size = sum(map(len, raws))
    print(f"fit {sum(map(len, sample)):,} bytes, held out {size:,}; sentencepiece {size / tokens:.3f} bytes a symbol")
    for text in options.options:
        begun = time.perf_counter()
        codec = NGram.fit(sample, **parse_view(f"ngram:{text}" if text else "ngram").options)
        fitted = time.perf_counter() - begun
        codec.decode(codec.encode(raws[0][:4000]).symbols)  # compiles
        begun = time.perf_counter()
        encoded = [codec.encode(raw) for raw in raws]
        between = time.perf_counter()
        assert codec.decode_many(encoded, list(map(len, raws))) == raws
        ended = time.perf_counter()
        ends_N, _, weight_N = codec.predictions(*joined(raws))
        symbols = np.concatenate([each.symbols for each in encoded])
        print(
            f"{text or 'default'}: {size / len(symbols):.3f} bytes a symbol, {np.log2(TOTAL / weight_N).mean():.3f} "
            f"bits a byte, segments of {size / ends_N.sum():.1f}, {(symbols >= codec.ids.codes).mean():.2%} escapes, "
            f"encode {size / (between - begun) / 1e6:.2f} MB/s, decode {size / (ended - between) / 1e6:.2f} MB/s, "
            f"fit {fitted:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
