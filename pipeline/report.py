"""What a build has made: for a person (summary, README.md), for a program (report.json, which alone has timings)."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from shards.manifest import Manifest


def view_facts(manifest: Manifest) -> dict[str, dict[str, float]]:
    """For each view over all splits: symbols, bytes, bytes of text a symbol, and ratio (bytes of text a byte)."""
    shards = [shard for files in manifest.splits.values() for shard in files]
    text = sum(shard.symbols["raw"] for shard in shards)
    facts = {}
    for view in manifest.views:
        symbols = sum(shard.symbols[view.name] for shard in shards)
        size = symbols * view.width
        facts[view.name] = {
            "symbols": symbols,
            "bytes": size,
            "bytes_a_symbol": text / max(1, symbols),
            "ratio": text / max(1, size),
        }
    return facts


def by_language(blocks: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Documents and bytes by language, the largest first."""
    documents: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for block in blocks:
        for language, (count, size) in block["languages"].items():
            documents[language] += count
            sizes[language] += size
    return {name: {"documents": documents[name], "bytes": size} for name, size in sorted(sizes.items(), key=_largest)}


def summary(manifest: Manifest, report: Mapping[str, Any], out: str) -> str:
    """The last lines of a build on the terminal."""
    counts, twins = manifest.counts, report["twins"]
    lines = [f"{out}: {counts['documents']} documents, {report['bytes'] / 1e6:.1f} MB of text"]
    for split, facts in report["splits"].items():
        share = facts["bytes"] / max(1, report["bytes"])
        size = f"{facts['documents']:>9} documents {facts['bytes'] / 1e6:>9.1f} MB {share:>6.1%}"
        lines.append(f"  {split:9}{size} in {facts['shards']} shards")
    for name, facts in report["views"].items():
        lines.append(f"  {name:14} ratio {facts['ratio']:5.2f}, {facts['bytes_a_symbol']:5.2f} bytes of text a symbol")
    reasons = ", ".join(f"{reason} {count}" for reason, (count, _) in report["rejected"].items())
    lines.append(f"  rejected {counts['rejected']}{': ' if reasons else ''}{reasons}")
    lines.append(f"  documents {counts['documents']} + rejected {counts['rejected']} = found {counts['found']}")
    lines.append(
        f"  near-twins of train documents in val: {twins['share']:.1%} of {twins['sampled']} documents, "
        f"{twins['byte_share']:.1%} of bytes"
    )
    checked = report["checked"]
    lines.append(f"  decoded and compared: {checked} of {counts['documents']} documents, every view")
    return "\n".join(lines)


def card(manifest: Manifest, report: Mapping[str, Any]) -> str:
    """README.md of the set: a short data card, deterministic."""
    views = "\n".join(
        f"| {view.name} | {view.kind} | {view.width} | {view.alphabet} | {report['views'][view.name]['ratio']:.2f} |"
        for view in manifest.views
    )
    languages = ", ".join(f"{n} ({f['documents']})" for n, f in list(report["languages"].items())[:12])
    splits = "\n".join(
        f"| {split} | {facts['documents']} | {facts['bytes']} | {facts['shards']} |"
        for split, facts in report["splits"].items()
    )
    return f"""# A byteproxy shard set

Documents as raw bytes, beside compressed views of the same documents. Ordinary Parquet files, one
row a document; `manifest.json` is the entry point.

| split | documents | bytes | shards |
| --- | --- | --- | --- |
{splits}

| view | codec | bytes a symbol | alphabet | ratio |
| --- | --- | --- | --- | --- |
{views}

Languages (documents): {languages}.
Left out: {manifest.counts["rejected"]} of {manifest.counts["found"]} found, each in `rejected/` with its reason.
Identity: `{manifest.identity}`.
"""


def _largest(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def pretty(report: Mapping[str, Any]) -> str:
    """report.json's text."""
    return json.dumps(report, indent=1) + "\n"
