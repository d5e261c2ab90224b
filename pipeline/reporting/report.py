"""report.json: what is in a set and how it was made, for programs. The page, the card and the summary are made of it.

`report_fields.py` documents it. Only `timing`, `workers`, `inputs.fingerprint` and `inputs.content` may differ between
runs of a build.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.reporting.report_fields import FORMAT, NAMES, TOP_VALUES
from pipeline.reporting.statistics import merged, ranked_values
from pipeline.reuse.former import ADDED
from pipeline.running.storage import Location
from shards.errors import ByteproxyError
from shards.manifest import Manifest

REPORT, PAGE, CARD = "report.json", "report.html", "README.md"  # beside a set's manifest

Report = dict[str, Any]


def describe(
    manifest: Manifest,
    corpus: Sequence[str],
    command: str,
    blocks: Sequence[Mapping[str, Any]],
    rejected: Iterable[Mapping[str, Any]],
) -> Report:
    """All of a report that is no matter of time. `blocks` are the facts of blocks as `EncodeBlock` leaves them,
    `rejected` the statistics of the files of rejected/.
    """
    by_split = {
        split: merged(facts["statistics"] for facts in blocks if facts["split"] == split) for split in manifest.splits
    }
    total = merged(by_split.values())
    widths = {view.name: view.width for view in manifest.views}
    views = {spec["name"]: spec for spec in [*manifest.config["views"], *manifest.config.get(ADDED, [])]}
    return {
        "format": FORMAT,
        "identity": manifest.identity,
        "corpus": sorted(corpus),
        "command": command,
        "config": manifest.config,
        "stages": manifest.stages,
        "libraries": manifest.libraries,
        "inputs": {"digest": manifest.inputs["digest"]},
        "counts": {**manifest.counts, "checked": sum(facts["checked"] for facts in blocks)},
        "splits": {split: _split(manifest, split, counts) for split, counts in by_split.items()},
        "languages": _languages(by_split, widths),
        "licences": _only(_largest_first(total["licences"]), "documents", "bytes"),
        "views": {
            view.name: {
                "kind": view.kind,
                "options": views[view.name]["options"],
                "digest": view.digest,
                "width": view.width,
                "alphabet": view.alphabet,
                "lossless": view.lossless,
                **_ratios(manifest.counts["bytes"], _symbols(manifest, view.name), view.width),
                "anchors": _anchors(total["anchors"][view.name], manifest.counts["bytes"], view.anchor_gap),
            }
            for view in manifest.views
        },
        "rejected": _rejected(merged(rejected)),
        "near_duplicates": {"clusters": {}},
        "scrubbed": dict(sorted(total.get("scrubbed", {}).items())),
    }


def pretty(report: Mapping[str, Any]) -> str:
    """report.json's text."""
    return json.dumps(report, indent=1) + "\n"


def load_report(folder: Location) -> Report:
    """The report of a set. Raises ByteproxyError if there is none, or one of another format."""
    path = folder / REPORT
    try:
        report = json.loads(path.read_bytes())
    except OSError as error:
        raise ByteproxyError(f"{path}: {error.strerror or error}; name the folder of a finished set") from None
    except ValueError as error:
        raise ByteproxyError(f"{path}: damaged ({error}); build the set again") from None
    found = report.get("format") if isinstance(report, dict) else None
    if found != FORMAT:
        raise ByteproxyError(f"{path}: format {found!r} found, {FORMAT!r} expected: it is of another byteproxy's build")
    return report


def _split(manifest: Manifest, split: str, counts: Mapping[str, Any]) -> Report:
    files = manifest.splits[split]
    names = ["raw", *(view.name for view in manifest.views)]
    return {
        "documents": sum(file.rows for file in files),
        "bytes": sum(file.symbols["raw"] for file in files),
        "shards": len(files),
        "lengths": counts["lengths"],
        "digests": {"order": manifest.order_digest(split)} | {n: manifest.view_digest(split, n) for n in names},
    }


def _languages(by_split: Mapping[str, Mapping[str, Any]], widths: Mapping[str, int]) -> Report:
    parts = {split: counts["languages"] for split, counts in by_split.items()}
    total = _largest_first(merged(parts.values()))
    others = {name for languages in parts.values() for name in languages} - set(total)
    parts = {split: _folded(languages, others) for split, languages in parts.items()}
    result = {}
    for name, counts in total.items():
        splits = {split: languages[name] for split, languages in parts.items() if name in languages}
        result[name] = {
            "documents": counts["documents"],
            "bytes": counts["bytes"],
            "splits": _only(splits, "documents", "bytes"),
            "views": {v: _ratios(counts["bytes"], n, widths[v]) for v, n in counts["symbols"].items()},
        }
    return result


def _largest_first(counts: Mapping[str, Mapping[str, Any]]) -> Report:
    """By bytes, then by name; those beyond NAMES as one."""
    names = sorted(counts, key=lambda name: (-counts[name]["bytes"], name))
    return _folded({name: counts[name] for name in names}, set(names[NAMES:]))


def _folded(counts: Mapping[str, Mapping[str, Any]], others: set[str]) -> Report:
    """The counts with these names under one, `others`."""
    kept = {name: value for name, value in counts.items() if name not in others}
    parts = [value for name, value in counts.items() if name in others]
    return kept | ({"others": merged([kept.get("others", {}), *parts])} if parts else {})


def _anchors(counts: Mapping[str, Any], size: int, promised: int | None) -> Report:
    mean, largest = size / max(1, counts["gaps"]), counts["largest_gap"]
    return {"documents": counts["documents"], "mean_gap": mean, "largest_gap": largest, "promised_gap": promised}


def _rejected(reasons: Mapping[str, Mapping[str, Any]]) -> Report:
    ordered = sorted(reasons.items(), key=lambda item: (-item[1]["documents"], item[0]))
    return {
        reason: {
            "documents": counts["documents"],
            "bytes": counts["bytes"],
            "values": ranked_values(counts["values"], TOP_VALUES),
            "examples": [{"source": s, "path": p, "value": v} for _, s, p, v in counts["examples"]],
        }
        for reason, counts in ordered
    }


def _symbols(manifest: Manifest, view: str) -> int:
    return sum(file.symbols[view] for files in manifest.splits.values() for file in files)


def _ratios(text: int, symbols: int, width: int) -> Report:
    size = symbols * width
    ratios = {"ratio": text / max(1, size), "bytes_a_symbol": text / max(1, symbols)}
    return {"symbols": symbols, "bytes": size, **ratios}


def _only(counts: Mapping[str, Mapping[str, Any]], *keys: str) -> Report:
    return {name: {key: values[key] for key in keys} for name, values in counts.items()}
