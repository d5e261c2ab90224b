"""The rules of cleaning, one line each in a table: what is measured, its limit, where the limit was published.

`--clean` turns all of them on, `--rule` and `--no-rule` single ones. The first rule that a document breaks is the
reason in `rejected/`; the value says what was found and what was allowed.
"""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline.cleaning.measures import Text
from shards.errors import ByteproxyError

STARCODER2 = "StarCoder2 2.1"  # Lozhkov et al. 2024, arXiv 2402.19173, section 2.1: the filters of The Stack v2
STARCODER = "StarCoder 3.1"  # Li et al. 2023, arXiv 2305.06161, section 3.1
CODEX = "Codex, CodeParrot"  # Chen et al. 2021, arXiv 2107.03374, section 3.1; RedPajama and The Stack took it over
ALPHACODE = "AlphaCode, PolyCoder"  # Li et al. 2022, arXiv 2203.07814; Xu et al. 2022, arXiv 2202.13169
LINGUIST = "GitHub Linguist"  # generated.rb

# Prose and data may have long lines. The published list, and its neighbours reStructuredText and AsciiDoc.
_PROSE = frozenset({"html", "json", "markdown", "roff", "manpage", "smt", "tex", "text", "xml", "rst", "asciidoc"})
_DATA = frozenset({"json", "yaml"})
_ASSEMBLY = frozenset({"asm", "webassembly"})


class Rule(NamedTuple):
    """What a document must keep to. `only` and `but` are languages; `only` empty: all of them."""

    name: str
    measure: str  # an attribute of Text; None there keeps the rule
    relation: Literal["at most", "at least"]
    limit: float
    about: str
    source: str
    only: frozenset[str] = frozenset()
    but: frozenset[str] = frozenset()

    def applies(self, language: str | None) -> bool:
        """Does the rule ask anything of a document in this language?"""
        return (language in self.only if self.only else True) and language not in self.but


# fmt: off
RULES = (
    Rule("bytes", "size", "at most", 1_000_000, "bytes", ALPHACODE),
    Rule("lines", "lines", "at most", 100_000, "lines", STARCODER2),
    Rule("generated", "mark_line", "at least", 6, "line of the first mark of a generated file", STARCODER2),
    Rule("xml", "xml_offset", "at least", 100, "offset of an XML declaration", STARCODER,
         but=frozenset({"xml", "xslt", "svg"})),
    Rule("minified", "mean_line", "at most", 110, "mean bytes a line", LINGUIST, only=frozenset({"javascript", "css"})),
    Rule("longest-line", "longest_line", "at most", 1000, "bytes in the longest line", CODEX, but=_PROSE),
    Rule("longest-prose-line", "longest_line", "at most", 100_000, "bytes in the longest line", STARCODER2,
         only=_PROSE),
    Rule("mean-line", "mean_line", "at most", 100, "mean bytes a line", CODEX, but=_PROSE),
    Rule("alphanumeric", "alphanumeric", "at least", 0.25, "share of letters and digits", CODEX),
    Rule("alphabetic", "alphabetic", "at least", 0.25, "share of letters", STARCODER2, but=_ASSEMBLY),
    Rule("encoded-run", "longest_encoded", "at most", 1024, "bytes in a run of base64, hex or \\u", STARCODER2),
    Rule("encoded", "encoded", "at most", 0.5, "share of base64, hex and \\u", STARCODER2),
    Rule("small-data", "size", "at least", 50, "bytes", STARCODER, only=_DATA),
    Rule("large-data", "size", "at most", 5000, "bytes", STARCODER, only=_DATA),
    Rule("data-lines", "lines", "at most", 512, "lines", STARCODER2, only=_DATA | {"text", "dot", "owl"}),
    Rule("visible", "visible", "at least", 100, "bytes of visible text", STARCODER, only=frozenset({"html"})),
    Rule("visible-share", "visible_share", "at least", 0.2, "share of visible text", STARCODER,
         only=frozenset({"html"})),
)
# fmt: on
_BY_NAME = {rule.name: rule for rule in RULES}

LICENCE = "licence"  # the reason, where --licences has an allow-list
NO_LICENCE = "none"  # in an allow-list: documents whose licence is not known
# What The Stack v1.1 let through of the Blue Oak Council's permissive licences: those that are met with in practice.
PERMISSIVE = (
    "0bsd", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "cc0-1.0",
    "isc", "mit", "mit-0", "ncsa", "postgresql", "psf-2.0", "python-2.0", "unlicense", "upl-1.0", "zlib",
)  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """The rules that a build keeps: (name, limit) in the table's order, and the licences let through (empty: all)."""

    limits: tuple[tuple[str, float], ...] = ()
    licences: tuple[str, ...] = ()

    def judge(
        self, raw: bytes, language: str | None, licence: str | None, seen: Counter[str]
    ) -> tuple[str, str] | None:
        """(reason, value) of the first rule that a document breaks. `seen` counts the documents each was held to."""
        if self.licences:
            seen[LICENCE] += 1
            if not allowed(licence, self.licences):
                return LICENCE, licence or NO_LICENCE
        text = Text(raw)
        for name, limit in self.limits:
            rule = _BY_NAME[name]
            if not rule.applies(language):
                continue
            seen[name] += 1
            found = getattr(text, rule.measure)
            if found is not None and (found > limit if rule.relation == "at most" else found < limit):
                return name, f"{rule.about}: {found:.7g} found, {rule.relation} {limit:.7g} allowed"
        return None


NO_RULES = Rules()


def parse_rules(clean: bool, rules: Sequence[str], without: Sequence[str], licences: str) -> Rules:
    """The command line's choice. Raises ByteproxyError for a name that is no rule, or a limit that is no number."""
    limits = {rule.name: rule.limit for rule in RULES} if clean else {}
    for given in rules:
        name, equals, value = given.partition("=")
        limit = _rule("--rule", name).limit
        if equals:
            try:
                limit = float(value)
            except ValueError:
                raise ByteproxyError(f"--rule {given}: a number is expected behind =, {value!r} found") from None
            if not 0 <= limit < float("inf"):
                raise ByteproxyError(f"--rule {given}: a number from 0 up is expected, {value} found")
        limits[name] = limit
    for name in without:
        if limits.pop(_rule("--no-rule", name).name, None) is None:
            raise ByteproxyError(f"--no-rule {name}: this rule is not on; it is with --clean")
    words = set(licences.replace(",", " ").lower().split())
    if "permissive" in words:
        words = words - {"permissive"} | set(PERMISSIVE)
    return Rules(tuple((rule.name, limits[rule.name]) for rule in RULES if rule.name in limits), tuple(sorted(words)))


def allowed(licence: str | None, licences: Sequence[str]) -> bool:
    """Is a licence, or an SPDX expression of several, within an allow-list? Of A OR B one must be, of A AND B both."""
    if not licence:
        return NO_LICENCE in licences
    choices = re.split(r"\s+or\s+", licence.lower().replace("(", " ").replace(")", " ").strip())
    return any(
        all(part.strip() in licences for part in re.split(r"\s+and\s+|\s*,\s*", choice) if part.strip())
        and bool(choice.strip(" ,"))
        for choice in choices
    )


def described() -> str:
    """The table, for people."""
    rows = [("rule", "of", "with --clean", "languages", "published in")]
    for rule in RULES:
        languages = " ".join(sorted(rule.only)) or (f"all but {' '.join(sorted(rule.but))}" if rule.but else "all")
        rows.append((rule.name, rule.about, f"{rule.relation} {rule.limit:,.7g}", languages, rule.source))
    order = (0, 2, 1, 4, 3)  # the languages last: they are long
    widths = [max(len(row[column]) for row in rows) for column in order]
    lines = ["  ".join(row[c].ljust(width) for c, width in zip(order, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + f"\n\n--licences permissive is: {' '.join(PERMISSIVE)}"


def unhelpful(seen: dict[str, int], rejected: dict[str, int]) -> list[str]:
    """A line for every step that kept nothing, and one for those that kept all. `seen`: documents each was held to."""
    lines = [
        f"{name} kept none of the {count} documents that it was held against"
        for name, count in seen.items()
        if count and rejected.get(name, 0) >= count
    ]
    idle = [f"{name} ({count})" for name, count in seen.items() if not rejected.get(name, 0)]
    return [
        *lines,
        *([f"these rules left nothing out (documents that each was held against): {', '.join(idle)}"] if idle else []),
    ]


def _rule(flag: str, name: str) -> Rule:
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name, _BY_NAME, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ByteproxyError(f"{flag} {name}: no such rule; {hint}`python -m pipeline rules` shows them all")
    return _BY_NAME[name]
