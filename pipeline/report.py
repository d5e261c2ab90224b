"""report.json: what is in a set and how it was made, for programs. The page, the card and the summary are made of it.

`FIELDS` is its documentation, and a test holds every report against it. Sizes are in bytes, times in seconds; only the
keys under `timing`, `workers`, `inputs.fingerprint` and `inputs.content` may differ between runs of a build.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.former import ADDED
from pipeline.statistics import merged, ranked_values
from shards.errors import ByteproxyError
from shards.manifest import Manifest

FORMAT = "byteproxy-report/1"
REPORT = "report.json"
TOP_VALUES = 8  # of a reason
NAMES = 200  # languages and licences told apart: metadata may hold anything

Report = dict[str, Any]

FIELDS = {
    "format": f"{FORMAT}: under one number keys are added, never renamed or removed",
    "identity": "the set's identity, as in manifest.json: 32 hex digits",
    "corpus.[]": "names of the inputs, sorted",
    "command": "a command that builds this set where the corpus lies in the working folder",
    "config": "what decides the set's bytes, as in manifest.json",
    "stages.*": "version of each stage's algorithm and of each codec",
    "libraries.*": "version of each library that touches the bytes",
    "inputs.digest": "over the ids and descriptions of all documents: 32 hex digits",
    "inputs.fingerprint": "over the inputs as they were found (paths, sizes, times): 32 hex digits",
    "inputs.content": "over what is in the inputs' files, 32 hex digits, with --fingerprint content; else null",
    "counts.found": "documents found = counts.documents + counts.rejected",
    "counts.documents": "documents kept",
    "counts.rejected": "documents left out",
    "counts.bytes": "bytes of text kept",
    "counts.checked": "documents whose views were decoded again and compared with the text",
    "splits.*.documents": "documents of a split (train, val)",
    "splits.*.bytes": "bytes of its text",
    "splits.*.shards": "its files",
    "splits.*.lengths.*.[]": "documents by symbols of a view, or bytes for `raw`, in bins: 0, 1, 2-3, 4-7, 8-15, ...",
    "splits.*.digests.*": "over the order of its documents (`order`), the text (`raw`) and each view: 32 hex digits",
    "languages.*.documents": f"documents of a language; the largest first; beyond {NAMES} under `others`",
    "languages.*.bytes": "bytes of its text",
    "languages.*.splits.*.documents": "its documents in a split",
    "languages.*.splits.*.bytes": "bytes of its text in a split",
    "languages.*.views.*.symbols": "symbols of its documents in a view",
    "languages.*.views.*.bytes": "bytes of these symbols",
    "languages.*.views.*.ratio": "bytes of text a byte of the view",
    "languages.*.views.*.bytes_a_symbol": "bytes of text a symbol of the view",
    "licences.*.documents": "documents by licence, as their metadata name it; `unknown` where there is none",
    "licences.*.bytes": "bytes of their text",
    "views.*.kind": "codec",
    "views.*.options": "its options",
    "views.*.digest": "of the codec with all that it has learnt: 32 hex digits",
    "views.*.width": "bytes a symbol takes in the file",
    "views.*.alphabet": "symbols are in [0, alphabet)",
    "views.*.lossless": "can the text be had back?",
    "views.*.symbols": "symbols of all documents",
    "views.*.bytes": "bytes of these symbols",
    "views.*.ratio": "bytes of text a byte of the view",
    "views.*.bytes_a_symbol": "bytes of text a symbol of the view",
    "views.*.anchors.documents.[]": "documents by anchors, in bins: 0, 1, 2-3, 4-7, 8-15, ...",
    "views.*.anchors.mean_gap": "bytes of text between two anchors of a document, on average",
    "views.*.anchors.largest_gap": "the most bytes of text between two anchors of a document",
    "views.*.anchors.promised_gap": "the most that the codec allows; null: only a document's ends are anchors",
    "rejected.*.documents": "documents left out for a reason; the most frequent first",
    "rejected.*.bytes": "bytes of those whose size is known",
    "rejected.*.values.*": f"documents by value, the {TOP_VALUES} commonest; empty where values are as good as unique",
    "rejected.*.examples.[].source": "where an example is from",
    "rejected.*.examples.[].path": "its path there, or its place in the input",
    "rejected.*.examples.[].value": "what was found; never the document's text",
    "scrubbed.*.documents": "documents with a kind of secret in them that was replaced: --scrub",
    "scrubbed.*.places": "places where it was",
    "near_duplicates.clusters.*": "clusters of near-duplicates by their documents, of which one each was kept",
    "twins.sampled": "val documents that were held against every train document",
    "twins.found": "those of which train holds a near-twin: 70% or more of their lines in common",
    "twins.share": "found / sampled",
    "twins.byte_share": "the same in bytes",
    "timing.stages.*.seconds": "wall time, in the run that finished the stage",
    "timing.stages.*.bytes": "bytes that it went through; 0 where it has no such measure",
    "timing.total": "wall time of the run that finished the set",
    "timing.codecs.*.encode": "time in the codec, over all workers",
    "timing.codecs.*.decode": "time to decode and compare, over all workers",
    "timing.blocks": "time in blocks from reading to scratch, over all workers",
    "timing.statistics": "of that, time to gather these statistics",
    "workers": "processes",
}
OPTIONAL = {name for name in FIELDS if name.startswith(("rejected.", "licences.", "scrubbed.", "near_duplicates."))} | {
    "timing.stages.*.seconds"
}


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


def load_report(folder: Path) -> Report:
    """The report of a set. Raises ByteproxyError if there is none, or one of another format."""
    path = folder / REPORT
    try:
        report = json.loads(path.read_bytes())
    except OSError as error:
        raise ByteproxyError(f"{path}: {error.strerror}; name the folder of a finished set") from None
    except ValueError as error:
        raise ByteproxyError(f"{path}: damaged ({error}); build the set again") from None
    found = report.get("format") if isinstance(report, dict) else None
    if found != FORMAT:
        raise ByteproxyError(f"{path}: format {found!r} found, {FORMAT!r} expected: it is of another byteproxy's build")
    return report


def undocumented(report: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """(keys that `FIELDS` does not know, fields that are missing): both empty, or documentation and report differ."""
    known = {tuple(name.split(".")) for name in FIELDS}
    seen: set[str] = set()
    strange: set[str] = set()

    def walk(value: Any, path: tuple[str, ...], pattern: list[tuple[str, ...]]) -> None:
        whole = [name for name in pattern if len(name) == len(path)]
        seen.update(".".join(name) for name in whole)
        if whole:
            return
        items = value.items() if isinstance(value, Mapping) else (("[]", v) for v in value) if value else ()
        for key, inner in items:
            fits = [name for name in pattern if name[len(path)] in (key, "*")]
            exact = [name for name in fits if name[len(path)] == key] or fits
            if exact:
                walk(inner, (*path, key), exact)
            else:
                strange.add(".".join((*path, key)))

    walk(report, (), sorted(known))
    return strange, set(FIELDS) - seen - OPTIONAL


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
