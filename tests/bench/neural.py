"""The neural codec on held-out code: `python -m tests.bench.neural SET --artifact DIR`. Prints its figures.

SET has a view sentencepiece, for comparison on the same documents. Times are of one thread. The bare rate is that of
the model's own matrix products, of the same shapes, with nothing between them.
"""

import argparse
import itertools
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shards.codecs import parse_view
from shards.codecs.neural.codec import AT_ONCE, Neural
from shards.codecs.neural.lm import CHUNK, LM, QUERIES, one_thread
from shards.codecs.windows.coder import encode_windows
from shards.codecs.windows.segments import segment_ends
from shards.reader import ShardSet


def bits_of(share_N: np.ndarray, total_N: np.ndarray) -> np.ndarray:
    """Ideal code length of each byte; a byte without weight counts as one escape of 16 bits."""
    return np.where(share_N > 0, -np.log2(np.maximum(share_N, 1) / total_N), 16.0)


def measure(codec: Neural, raws: list[bytes], facts: dict[str, Any]) -> dict[str, Any]:
    """Figures over documents, in batches as the pipeline makes them."""
    spent: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    model, block = codec.lm, codec.lm.shape.block
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
        "not_forward": (spent["cuts"] + spent["coder"]) / whole, "MB_a_second": sums["bytes"] / whole / 1e6,
    }  # fmt: skip


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
    parser.add_argument("--decode", type=int, default=0, help="documents to decode and compare")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shard_set = ShardSet.open(options.shards)
    split = shard_set.split(options.split)
    raws, languages, tokens, size = [], Counter[str](), 0, 0
    for i in range(len(split)):
        raws.append(split.raw(i).tobytes())
        languages[str(split.meta(i)["language"])] += len(raws[-1])
        tokens += len(split.symbols(i, "sentencepiece")) if "sentencepiece" in shard_set.views else 0
        size += len(raws[-1])
        if size >= options.bytes:
            break
    found: list[dict[str, Any]] = []
    with one_thread():
        for text in options.options:
            spec = parse_view(f"neural:{options.artifact}{',' if text else ''}{text}")
            codec = Neural.fit((), **spec.options)
            codec.encode(raws[0][:4000])  # compiles
            figures = measure(codec, raws, {"options": text})
            figures["collisions"] = collisions(codec, raws[:200])
            if options.decode and codec.lossless:
                chosen = sorted(raws, key=len)[len(raws) // 10 :][: options.decode]
                begun = time.perf_counter()
                back = codec.decode_many(codec.encode_many(chosen), [len(raw) for raw in chosen])
                assert back == chosen
                total = sum(map(len, chosen))
                figures["decoded"] = {"documents": len(chosen), "bytes": total,
                                      "MB_a_second": total / (time.perf_counter() - begun) / 1e6}  # fmt: skip
            found.append(figures)
        found[0]["forward"] = forward_share(codec.lm, np.frombuffer(b"".join(raws), np.uint8))
    for figures in found:
        figures["sentencepiece_bytes_a_symbol"] = size / tokens if tokens else None
        figures["languages"] = dict(languages.most_common(5))
        print(json.dumps(figures) if options.json else "\n".join(_lines(figures)) + "\n")


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
