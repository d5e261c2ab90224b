"""README.md of a set: a dataset card, of what the report has that is the same for the same set."""

from collections.abc import Mapping
from typing import Any


def card(report: Mapping[str, Any]) -> str:
    """The card's text: deterministic."""
    views = "\n".join(
        f"| {name} | {view['kind']} | {view['width']} | {view['alphabet']} | {view['ratio']:.2f} |"
        for name, view in report["views"].items()
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
Left out: {report["counts"]["rejected"]} of {report["counts"]["found"]} found, each in `rejected/` with its reason.
Identity: `{report["identity"]}`.
"""
