"""Shows what is in a shard set, and one document with its views side by side."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq

from shards.errors import ByteproxyError
from shards.reader import ShardSet, Split

_SHOWN = 16  # segments of a document, and symbols of a stream, that are shown


def summary(folder: Path) -> str:
    """Splits, views with their ratios, rejections by reason, how it was made."""
    shard_set = ShardSet.open(folder)
    manifest = shard_set.manifest
    lines = [f"{folder}: identity {manifest.identity}", ""]
    for name, files in manifest.splits.items():
        rows, raw = sum(f.rows for f in files), sum(f.symbols["raw"] for f in files)
        lines.append(f"{name:>6}  {rows:>11,} documents  {raw:>15,} bytes  {len(files):>5,} shards")
    lines += [
        "",
        f"{'view':>14}  {'codec':>14}  {'alphabet':>9}  {'bytes a symbol':>14}  {'ratio':>6}  lossless  anchors",
    ]
    raw = sum(f.symbols["raw"] for files in manifest.splits.values() for f in files)
    for view in manifest.views:
        symbols = sum(f.symbols[view.name] for files in manifest.splits.values() for f in files) or 1
        anchors = f"every {view.anchor_gap} bytes" if view.anchor_gap else "the ends"
        lines.append(
            f"{view.name:>14}  {view.kind:>14}  {view.alphabet:>9,}  {raw / symbols:>14.2f}  "
            f"{raw / (symbols * view.width):>6.2f}  {'yes' if view.lossless else 'no':>8}  {anchors}"
        )
    reasons = rejections(folder, shard_set)
    lines += ["", f"rejected: {sum(reasons.values()):,}" + "".join(f", {r} {n:,}" for r, n in reasons.most_common())]
    lines.append("made with: " + ", ".join(f"{name} {version}" for name, version in manifest.libraries.items()))
    return "\n".join(lines)


def rejections(folder: Path, shard_set: ShardSet) -> Counter[str]:
    """How many documents were left out, by reason."""
    reasons: Counter[str] = Counter()
    for file in shard_set.manifest.rejected:
        reasons.update(pq.read_table(folder / file.path, columns=["reason"])["reason"].to_pylist())
    return reasons


def document(folder: Path, which: str, split: str | None = None) -> str:
    """One document, by number or by id in hex: where it came from, and each view piece by piece."""
    shard_set = ShardSet.open(folder)
    part, i = _locate(shard_set, which, split)
    lines = [f"{part.name} {i}: id {part.id(i).hex()}, {part.length('raw', i):,} bytes"]
    lines += [f"  {key}: {value}" for key, value in part.meta(i).items() if value is not None]
    raw = part.raw(i).tobytes()
    for name, view in shard_set.views.items():
        symbols, anchors_A2 = part.symbols(i, name), part.anchors(i, name)
        lines += ["", f"{name}: {len(symbols):,} symbols, {len(anchors_A2):,} anchors"]
        if view.anchor_gap is None:
            more = " …" if len(symbols) > _SHOWN else ""
            lines.append("  " + " ".join(str(s) for s in symbols[:_SHOWN].tolist()) + more)
            continue
        codec = shard_set.codec(name)
        for (raw_0, symbol_0), (raw_1, symbol_1) in pairwise(anchors_A2[: _SHOWN + 1]):
            if codec.piecewise:
                pieces = "|".join(_text(codec.decode(symbols[s : s + 1])) for s in range(symbol_0, symbol_1))
            else:
                pieces = " ".join(map(str, symbols[symbol_0:symbol_1].tolist()))
            lines.append(f"  {raw_0:>8}  {_text(raw[raw_0:raw_1])}\n  {symbol_0:>8}  {pieces}")
    return "\n".join(lines)


def _locate(shard_set: ShardSet, which: str, split: str | None) -> tuple[Split, int]:
    names = [split] if split else list(shard_set.manifest.splits)
    if which.isdecimal() and len(which) < 32:
        part = shard_set.split(names[0])
        if int(which) < len(part):
            return part, int(which)
        raise ByteproxyError(f"document {which} found, a number below {len(part)} expected (split {part.name})")
    try:
        identity = bytes.fromhex(which)
    except ValueError:
        raise ByteproxyError(f"--document {which}: a number or an id of 32 hex digits expected") from None
    for name in names:
        if (i := shard_set.split(name).find(identity)) is not None:
            return shard_set.split(name), i
    raise ByteproxyError(f"no document with id {which} in {shard_set.folder} ({', '.join(names)})")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace").replace("\n", "⏎").replace("\t", "⇥").replace("\0", "␀")
