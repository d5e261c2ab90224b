"""The neural codec on held-out code: `python -m tests.bench.neural SET --artifact DIR`. Prints its figures.

SET may have a view sentencepiece, for comparison on the same documents. Times are of one CPU thread, beside one device
with `--device cuda`. The bare rate is that of the model's own matrix products, of the same shapes, with nothing between
them. `symbols` is a digest of all symbols: equal on two machines, or one of them is wrong.

    python -m tests.bench.neural SET --artifact DIR --device cuda --against cpu

compares every integer of the device's forward passes with the CPU's, on odd texts and the set's first --against-bytes,
and exits with 1 unless all are equal. Needs torch, numba, numpy, pyarrow, safetensors and xxhash.
"""

import argparse
import itertools
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shards.codecs import parse_view
from shards.codecs.neural.codec import AT_ONCE, Neural
from shards.codecs.neural.device import VARIABLE, DeviceLM
from shards.codecs.neural.lm import CHUNK, LM, QUERIES, Predictions, one_thread
from shards.codecs.windows.coder import encode_windows
from shards.codecs.windows.segments import LONGEST, segment_ends
from shards.reader import ShardSet

SOURCE = Path(__file__).read_bytes()
SHORT = 8 << 10  # bytes of a document that is decoded, at most: a byte takes some 100 microseconds


def bits_of(share_N: np.ndarray, total_N: np.ndarray) -> np.ndarray:
    """Ideal code length of each byte; a byte without weight counts as one escape of 16 bits."""
    return np.where(share_N > 0, -np.log2(np.maximum(share_N, 1) / total_N), 16.0)


def measure(codec: Neural, raws: list[bytes], facts: dict[str, Any]) -> dict[str, Any]:
    """Figures over documents, in batches as the pipeline makes them."""
    spent: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    model, block, digest = codec.reader, codec.lm.shape.block, blake2b(digest_size=16)
    batch: list[bytes] = []
    for number, raw in enumerate(raws):
        batch.append(raw)
        if number + 1 < len(raws) and sum(map(len, batch)) < AT_ONCE:
            continue
        text_N = np.frombuffer(b"".join(batch), np.uint8)
        restart_N, blocks, at = np.zeros(len(text_N), bool), [], 0
        for each in batch:
            for start in range(at, at + len(each), block):
                restart_N[start] = True
                blocks.append(text_N[start : min(start + block, at + len(each))])
            at += len(each)
        begun = time.perf_counter()
        seen = model.read_blocks(blocks)
        read = time.perf_counter()
        ends_N = segment_ends(seen.entropy_N, restart_N, codec.thresholds)
        cut = time.perf_counter()
        own = model.read_segments(text_N, ends_N) if codec.settings["context"] == "segment" else seen
        again = time.perf_counter()
        symbols, _ = encode_windows(
            text_N, own.below_N, own.share_N, own.total_N, ends_N, codec.ids.codes, codec.lossless
        )
        coded = time.perf_counter()
        digest.update(symbols.tobytes())
        spent += Counter({"blocks": read - begun, "cuts": cut - read, "segments": again - cut, "coder": coded - again})
        ideal = bits_of(own.share_N, own.total_N).sum()
        sums += Counter({
            "bytes": len(text_N), "symbols": len(symbols), "escapes": int((symbols >= codec.ids.codes).sum()),
            "block_bits": float(bits_of(seen.share_N, seen.total_N).sum()), "coded_bits": float(ideal),
        })  # fmt: skip
        bounds = np.concatenate(([0], np.flatnonzero(ends_N) + 1))
        lengths += Counter(np.diff(bounds).tolist())
        batch = []
    segments = np.repeat(np.array(sorted(lengths)), [lengths[n] for n in sorted(lengths)])
    whole = sum(spent.values())
    return facts | {
        "symbols": digest.hexdigest(),
        "bytes": sums["bytes"], "documents": len(raws), "bytes_a_symbol": sums["bytes"] / sums["symbols"],
        "bits_a_byte_block": sums["block_bits"] / sums["bytes"],
        "bits_a_byte_coded": sums["coded_bits"] / sums["bytes"],
        "bits_a_byte_of_symbols": codec.settings["window"] * sums["symbols"] / sums["bytes"],
        "over_ideal": codec.settings["window"] * sums["symbols"] / sums["coded_bits"] - 1,
        "escapes": sums["escapes"] / sums["symbols"],
        "segment_bytes": {"mean": float(segments.mean())} | {
            f"p{q}": float(np.percentile(segments, q)) for q in (10, 50, 90, 99)
        },
        "microseconds_a_byte": {name: 1e6 * seconds / sums["bytes"] for name, seconds in spent.items()},
        "forward_seconds": spent["blocks"] + spent["segments"], "other_seconds": spent["cuts"] + spent["coder"],
        "not_forward": (spent["cuts"] + spent["coder"]) / whole, "MB_a_second": sums["bytes"] / whole / 1e6,
    }  # fmt: skip


def compare(codec: Neural, other: LM, raws: list[bytes]) -> dict[str, Any]:
    """Whether `codec.reader` and the CPU's LM give the same integers, by what was read, and how fast each was."""
    draw, model = np.random.default_rng(0), codec.lm
    block = model.shape.block
    odd = [bytes(block), b"\xff" * (block - 1), b" " * block, bytes(range(256)) * 9, draw.bytes(5 * block), b"", b"a"]
    texts = [np.frombuffer(raw, np.uint8) for raw in [*odd, *(SOURCE[:n] for n in range(1, 400, 13)), *raws]]
    blocks = [text[at : at + block] for text in texts for at in range(0, max(len(text), 1), block)]
    restarts = np.cumsum([0, *map(len, blocks)])[:-1]
    text_N = np.concatenate(blocks)
    restart_N = np.zeros(len(text_N) + 1, bool)
    restart_N[restarts] = True
    seconds: Counter[str] = Counter()

    def timed(name: str, work: Any) -> Any:
        begun = time.perf_counter()
        found = work()
        seconds[name] += time.perf_counter() - begun
        return found

    def by_threads(parts: list[Any], read: Any) -> Predictions:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return Predictions(*map(np.concatenate, zip(*pool.map(read, parts), strict=True)))

    expected = timed("cpu", lambda: by_threads([blocks[i : i + 64] for i in range(0, len(blocks), 64)],
                                               model.read_blocks))  # fmt: skip
    found = {"blocks": (timed("device", lambda: other.read_blocks(blocks)), expected)}
    numbers = np.arange(1, len(text_N) + 1)
    cuts = {"segments": segment_ends(expected.entropy_N, restart_N[:-1], codec.thresholds),
            "segments of 1": numbers % 1 == 0, "of the longest": numbers % LONGEST == 0}  # fmt: skip
    for name, ends_N in cuts.items():
        ends_N[-1] = True
        bounds = (np.flatnonzero(ends_N) + 1).tolist()
        steps = [0, *bounds[4999:-1:5000], len(text_N)]
        parts = [slice(a, b) for a, b in itertools.pairwise(steps)]
        theirs = timed(
            "cpu", lambda p=parts, e=ends_N: by_threads(p, lambda at: model.read_segments(text_N[at], e[at]))
        )
        found[name] = (timed("device", lambda e=ends_N: other.read_segments(text_N, e)), theirs)
    equal = {
        name: all(np.array_equal(a, b) for a, b in zip(one, two, strict=True)) for name, (one, two) in found.items()
    }
    return {"bytes": len(text_N), "integers": 4 * len(text_N) * len(found), "equal": equal,
            "all_equal": all(equal.values()), "seconds": dict(seconds), "cpu_threads": os.cpu_count()}  # fmt: skip


def forward_share(model: LM, text: np.ndarray) -> dict[str, float]:
    """Positions a second of full blocks, beside that of their bare products, alternating; the best of five of each."""
    s, T = model.shape, model.shape.context
    rows = max(1, CHUNK // T)
    blocks = [text[at : at + s.block] for at in range(0, rows * s.block, s.block)]
    N, D = rows * T, s.head_dim
    weights = [model.weights[n] for n in model.weights]
    inputs = {w.shape[0]: torch.zeros(N, w.shape[0], dtype=torch.int8) for w in weights}
    pairs = []
    for begin in range(0, T, QUERIES):
        end = min(begin + QUERIES, T)
        shapes = (((end - begin, D), (D, end)), ((2 * (end - begin), end), (end, D)))
        pairs += [tuple(torch.zeros(shape, dtype=torch.int8) for shape in both) for both in shapes]

    def bare() -> None:
        for w in weights:
            torch._int_mm(inputs[w.shape[0]], w)
        for _ in range(s.layers * s.heads * rows):
            for a, b in pairs:
                torch._int_mm(a, b)

    best = {"forward": np.inf, "bare": np.inf}
    for _ in range(5):
        for name, run in (("forward", lambda: model.read_blocks(blocks)), ("bare", bare)):
            begun = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - begun)
    return {"forward_us": 1e6 * best["forward"] / N, "bare_us": 1e6 * best["bare"] / N,
            "share": best["bare"] / best["forward"]}  # fmt: skip


def collisions(codec: Neural, raws: list[bytes]) -> dict[str, float]:
    """Of distinct segments: those whose symbols another has too, and how many such pairs share most of a prefix."""
    names: dict[tuple[int, ...], list[bytes]] = {}
    text_N, seen, ends_N = codec.predictions(raws)
    symbols, marks = encode_windows(
        text_N, seen.below_N, seen.share_N, seen.total_N, ends_N, codec.ids.codes, codec.lossless
    )
    bounds, marks = np.concatenate(([0], np.flatnonzero(ends_N) + 1)), np.concatenate(([0], marks))
    for i in range(len(bounds) - 1):
        held = names.setdefault(tuple(symbols[marks[i] : marks[i + 1]].tolist()), [])
        string = text_N[bounds[i] : bounds[i + 1]].tobytes()
        if string not in held:
            held.append(string)
    clashing = [held for held in names.values() if len(held) > 1]
    pairs = [(a, b) for held in clashing for a, b in itertools.pairwise(held)]
    near = sum(_prefix(a, b) >= 0.8 * max(len(a), len(b)) for a, b in pairs)
    strings = sum(map(len, names.values()))
    return {"segments": strings, "colliding": sum(map(len, clashing)) / max(strings, 1),
            "pairs_sharing_0.8": near / max(len(pairs), 1)}  # fmt: skip


def _prefix(a: bytes, b: bytes) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.neural", description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--split", default="train", help="of a set that was not trained on, all of it is held out")
    parser.add_argument("--bytes", type=int, default=20_000_000)
    parser.add_argument("--options", nargs="*", default=[""], help="of the view, for instance segment=12 context=block")
    parser.add_argument(
        "--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1; torch: a GPU's code on the CPU"
    )
    parser.add_argument("--against", choices=["cpu"], help="compare --device with the CPU, and do nothing else")
    parser.add_argument("--against-bytes", type=int, default=500_000, metavar="N", help="of the set (default: 500,000)")
    parser.add_argument("--elements", type=int, metavar="N", help="positions times width in one pass of the device")
    parser.add_argument(
        "--decode", type=int, default=0, help="documents to decode and compare, of up to 8 KiB, spread over the split"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ[VARIABLE] = "cpu" if options.device == "torch" else options.device
    most = options.against_bytes if options.against else options.bytes
    shard_set = ShardSet.open(options.shards)
    split = shard_set.split(options.split)
    raws, languages, tokens, size = [], Counter[str](), 0, 0
    for i in range(len(split)):
        raws.append(split.raw(i).tobytes())
        languages[str(split.meta(i)["language"])] += len(raws[-1])
        tokens += len(split.symbols(i, "sentencepiece")) if "sentencepiece" in shard_set.views else 0
        size += len(raws[-1])
        if size >= most:
            break
    found: list[dict[str, Any]] = []
    with one_thread():
        for text in options.options:
            spec = parse_view(f"neural:{options.artifact}{',' if text else ''}{text}")
            codec = Neural.fit((), **spec.options)
            if options.device == "torch" or options.elements:
                device = "cpu" if options.device == "torch" else options.device
                vars(codec)["reader"] = DeviceLM(codec.lm, device, *filter(None, [options.elements]))
            codec.encode(raws[0][:4000])  # compiles
            if options.against:
                figures = {"device": options.device} | compare(codec, codec.reader, raws)
                print(json.dumps(figures) if options.json else "\n".join(_lines(figures)))
                sys.exit(0 if figures["all_equal"] else 1)
            figures = measure(codec, raws, {"options": text, "device": _name(options.device)})
            if codec.settings["context"] == "segment":  # else equal symbols mean other bytes in another context
                figures["collisions"] = collisions(codec, raws[:200])
            if options.decode and codec.lossless:
                short = [i for i in range(len(split)) if split.length("raw", i) <= SHORT]
                chosen = [split.raw(i).tobytes() for i in short[:: max(1, len(short) // options.decode)]][
                    : options.decode
                ]
                begun = time.perf_counter()
                back = codec.decode_many(codec.encode_many(chosen), [len(raw) for raw in chosen])
                assert back == chosen
                total = sum(map(len, chosen))
                figures["decoded"] = {"documents": len(chosen), "bytes": total,
                                      "MB_a_second": total / (time.perf_counter() - begun) / 1e6}  # fmt: skip
            found.append(figures)
        if options.device == "cpu":
            found[0]["forward"] = forward_share(codec.lm, np.frombuffer(b"".join(raws), np.uint8))
    for figures in found:
        figures["sentencepiece_bytes_a_symbol"] = size / tokens if tokens else None
        figures["languages"] = dict(languages.most_common(5))
        print(json.dumps(figures) if options.json else "\n".join(_lines(figures)) + "\n")


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _lines(figures: dict[str, Any], indent: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return lines


if __name__ == "__main__":
    main()
