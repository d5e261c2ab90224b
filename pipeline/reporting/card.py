"""README.md of a set: a dataset card, with the front matter that dataset hubs read.

Made of what in the report is the same for the same set: no times, nothing of the machine. What comes from the corpus is
escaped; the card's blocks of code run as they stand, in the set's folder.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.reporting.figures import count, percent, printable, size
from pipeline.reporting.report import Report
from pipeline.reporting.statistics import UNKNOWN

ROWS = 40  # of the tables of languages and licences
NAME = 80  # characters
# fmt: off
HUB_LICENCES = frozenset({  # of the identifiers that hubs take for `license`, those that code is under
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "cc0-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "gfdl", "gpl", "gpl-2.0", "gpl-3.0",
    "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "ofl-1.1", "osl-3.0",
    "postgresql", "unlicense", "wtfpl", "zlib",
})
# fmt: on
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")  # documents, as hubs name them


def card(report: Report) -> str:
    """The card's text: deterministic."""
    environment = Environment(
        loader=PackageLoader("pipeline.reporting", ""),
        autoescape=False,  # it is no HTML: `cell` escapes
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = {"cell": cell, "count": count, "percent": percent, "printable": printable, "size": size}
    environment.filters |= filters
    return environment.get_template("card.md.j2").render(
        report=report,
        front=_front(report),
        name=_name(report),
        views=report["views"],
        first=next(iter(report["views"])),
        rows=ROWS,
    )


def cell(text: str) -> str:
    """Text from a corpus, so that Markdown takes it as text and on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&!$])", r"\\\1", printable(text))


def _front(report: Report) -> str:
    """The front matter: YAML, of which JSON's strings and lists are a part."""
    fields: dict[str, Any] = {
        "pretty_name": _name(report),
        "license": _licence(report["licences"]),
        "language": ["code"],
        "size_categories": [size_category(report["counts"]["documents"])],
        "task_categories": ["text-generation"],
        "tags": ["byteproxy", "code", "byte-level", "compression"],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    lines += [f'  - split: {split}\n    path: "{split}/*.parquet"' for split in report["splits"]]
    if report["counts"]["rejected"]:
        lines += ["- config_name: rejected", '  data_files: "rejected/*.parquet"']
    return "\n".join(lines) + "\n"


def _name(report: Report) -> str:
    name = printable(", ".join(report["corpus"]))
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def _licence(licences: Iterable[str]) -> str | list[str]:
    """What hubs know of these licences: their identifiers if they know them all, else `other`; `unknown` if none is."""
    names = {name.lower() for name in licences}
    if names <= {UNKNOWN}:
        return UNKNOWN
    return sorted(names) if names <= HUB_LICENCES else "other"


def size_category(documents: int) -> str:
    """The power of ten that hubs file a set under: `1K<n<10K`."""
    rank = max(0, len(str(documents)) - 3)
    if rank == 0:
        return f"n<{SIZES[0]}"
    return f"{SIZES[rank - 1]}<n<{SIZES[rank]}" if rank < len(SIZES) else f"n>{SIZES[-1]}"
