"""The last lines of a build on the terminal: what was kept, what was left out and why, where it is, what comes next."""

from collections.abc import Mapping
from typing import Any

MB = 1e6


def summary(report: Mapping[str, Any], out: str) -> str:
    """A report in some twenty lines of text."""
    counts, twins = report["counts"], report["twins"]
    lines = [f"{out}: {counts['documents']} documents, {counts['bytes'] / MB:.1f} MB of text"]
    for split, facts in report["splits"].items():
        share = facts["bytes"] / max(1, counts["bytes"])
        size = f"{facts['documents']:>9} documents {facts['bytes'] / MB:>9.1f} MB {share:>6.1%}"
        lines.append(f"  {split:9}{size} in {facts['shards']} shards")
    for name, facts in report["views"].items():
        lines.append(f"  {name:14} ratio {facts['ratio']:5.2f}, {facts['bytes_a_symbol']:5.2f} bytes of text a symbol")
    reasons = ", ".join(f"{reason} {facts['documents']}" for reason, facts in report["rejected"].items())
    lines.append(f"  rejected {counts['rejected']}{': ' if reasons else ''}{reasons}")
    lines.append(f"  documents {counts['documents']} + rejected {counts['rejected']} = found {counts['found']}")
    if twins["sampled"]:
        share = f"{twins['share']:.1%} of {twins['sampled']} documents, {twins['byte_share']:.1%} of bytes"
        lines.append(f"  near-twins of train documents in val: {share}")
    if clusters := report["near_duplicates"]["clusters"]:
        alike = sum(int(size) * count for size, count in clusters.items())
        count, largest = sum(clusters.values()), max(map(int, clusters))
        lines.append(
            f"  near-duplicates: {alike} documents in {count} clusters, one each kept; the largest of {largest}"
        )
    if report["scrubbed"]:
        found = ", ".join(f"{kind} {facts['places']}" for kind, facts in report["scrubbed"].items())
        lines.append(f"  replaced: {found}")
    checked = counts["checked"]
    lines.append(f"  decoded and compared: {checked} of {counts['documents']} documents, every view")
    return "\n".join(lines)
