"""report.json, key by key; a test holds reports against it. Sizes are in bytes, times in seconds."""

from collections.abc import Mapping
from typing import Any

FORMAT = "byteproxy-report/1"
TOP_VALUES = 8  # of a reason
NAMES = 200  # languages and licences told apart: metadata may hold anything

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
    "counts.checked": "documents whose views were decoded again, all that decode, and compared with the text",
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
    "stability.documents": "held-out documents that `python -m pipeline stability` has edited",
    "stability.bytes": "bytes of their text",
    "stability.seed": "of the edits",
    "stability.views.*.distance.*.mean": "by the share of bytes edited: edit distance of a view's symbols before and "
    "after by the longer of both, over all kinds of edits; `raw` is the text itself",
    "stability.views.*.distance.*.error": "its standard error",
    "stability.views.*.distance_by_edit.*.*.mean": "the same by kind of edit",
    "stability.views.*.distance_by_edit.*.*.error": "its standard error",
    "stability.views.*.downstream.mean": "the same behind the first symbol that an edit of one byte changes",
    "stability.views.*.downstream.error": "its standard error",
    "stability.views.*.bytes_a_symbol": "bytes of text a symbol of these documents",
    "stability.views.*.bits_a_symbol": "entropy of a symbol by its frequency in these documents",
    "timing.stages.*.seconds": "wall time, in the run that finished the stage",
    "timing.stages.*.bytes": "bytes that it went through; 0 where it has no such measure",
    "timing.total": "wall time of the run that finished the set",
    "timing.codecs.*.encode": "time in the codec, over all workers",
    "timing.codecs.*.decode": "time to decode and compare, over all workers",
    "timing.blocks": "time in blocks from reading to scratch, over all workers",
    "timing.statistics": "of that, time to gather these statistics",
    "workers": "processes",
}
OPTIONAL = {
    name
    for name in FIELDS
    if name.startswith(("rejected.", "licences.", "scrubbed.", "near_duplicates.", "stability."))
} | {"timing.stages.*.seconds"}


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
