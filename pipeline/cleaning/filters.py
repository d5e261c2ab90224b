"""Which documents are left out for what they are. Each filter gives a reason and what it found, or nothing."""

from collections import Counter
from dataclasses import dataclass, field

from pipeline.cleaning.minhash import Sketcher
from pipeline.cleaning.rules import NO_RULES, Rules
from pipeline.reading.detect import name_says_nothing

SNIFF_BYTES = 8000  # git calls a file binary if there is a NUL among so many first bytes

Verdict = tuple[str, str] | None  # reason, value


@dataclass(frozen=True)
class Filters:
    """What a build lets through: languages by name, sizes, text."""

    languages: frozenset[str]
    narrowed: bool  # languages were named on the command line: an unknown one is left out also without a file name
    max_bytes: int
    keep_binary: bool
    rules: Rules = NO_RULES
    scrub: bool = False  # secrets are replaced before the rules see a document
    detect: bool = False  # the content says the language where the name says nothing
    sketcher: Sketcher | None = None  # documents are sketched, so that near-duplicates are found
    seen: Counter[str] = field(default_factory=Counter, compare=False)  # documents that each rule was held against

    def detects(self, name: str | None) -> bool:
        """Is the language of a document of this name told by its content?"""
        return self.detect and name_says_nothing(name)

    def by_name(self, language: str | None, name: str | None, read: bool = False) -> Verdict:
        """Decide by the language and, where there is one, the file's name; what only its content tells passes.

        Once the content was `read`, its language is as good as it gets.
        """
        if language is None and not read and self.detects(name):
            return None
        if language is None:
            return ("not code", _suffix(name)) if name is not None or self.narrowed else None
        if language not in self.languages:
            return "not code" if not self.narrowed else "language", language
        return None

    def by_size(self, size: int) -> Verdict:
        """Decide by the size in bytes."""
        return ("too large", f"{size} bytes; the limit is {self.max_bytes}") if size > self.max_bytes else None

    def by_content(self, raw: bytes) -> Verdict:
        """Decide by the bytes."""
        if not self.keep_binary and (position := raw.find(0, 0, SNIFF_BYTES)) >= 0:
            return "binary", f"NUL at byte {position}"
        return None

    def by_rules(self, raw: bytes, language: str | None, licence: str | None) -> Verdict:
        """Decide by the rules of cleaning."""
        return self.rules.judge(raw, language, licence, self.seen)

    def take_seen(self) -> dict[str, int]:
        """The counts of `seen`, which begin anew."""
        seen = dict(self.seen)
        self.seen.clear()
        return seen


def _suffix(name: str | None) -> str:
    if name is None:
        return "language unknown"
    last = name.rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    return f".{suffix}" if stem and dot else last
