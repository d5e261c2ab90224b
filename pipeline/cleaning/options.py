"""What a build cleans away, as asked for on the command line; all of it is off unless asked for."""

import argparse
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pipeline.cleaning.minhash import Sketcher
from pipeline.cleaning.rules import NO_RULES, Rules, described, parse_rules
from shards.errors import ByteproxyError

THRESHOLD = 0.7  # of near-duplicates, as The Stack v2 and StarCoder have it
LEAST = 0.2  # below it nearly every pair would have to be compared
NEAR = ("near_duplicates", "drop_val_twins", "near_permutations", "near_words")


@dataclass(frozen=True)
class Cleaning:
    """The choices of cleaning. Plain and small: it travels to the workers."""

    rules: Rules = NO_RULES
    scrub: bool = False  # secrets and personal data are replaced
    near_duplicates: float = 0.0  # Jaccard index from which on documents are near-duplicates; 0: they stay
    drop_val_twins: float = 0.0  # the same for documents of val and of train
    near_permutations: int = Sketcher.permutations
    near_words: int = Sketcher.words

    def __post_init__(self) -> None:
        for flag, threshold in (("near-duplicates", self.near_duplicates), ("drop-val-twins", self.drop_val_twins)):
            if threshold and not LEAST <= threshold <= 1:
                raise ByteproxyError(f"--{flag} {threshold}: must be between {LEAST} and 1")
        if not 16 <= self.near_permutations <= 1024:
            raise ByteproxyError(f"--near-permutations {self.near_permutations}: must be between 16 and 1024")
        if not 1 <= self.near_words <= 64:
            raise ByteproxyError(f"--near-words {self.near_words}: must be between 1 and 64")

    @property
    def sketcher(self) -> Sketcher | None:
        """How documents are sketched, if they are."""
        asked = self.near_duplicates or self.drop_val_twins
        return Sketcher(self.near_permutations, self.near_words) if asked else None

    def identity(self) -> dict[str, Any]:
        """What of it decides the set's documents, as plain JSON; nothing for what is off."""
        given: dict[str, Any] = {}
        if self.rules.limits:
            given["rules"] = dict(self.rules.limits)
        if self.rules.licences:
            given["licences"] = list(self.rules.licences)
        if self.scrub:
            given["scrub"] = True
        if self.sketcher:
            given |= {name: getattr(self, name) for name in NEAR if getattr(self, name)}
        return given

    def flags(self) -> list[str]:
        """The words of a command line that ask for this."""
        if self.rules.limits == parse_rules(True, [], [], "").limits:
            words = ["--clean"]
        else:
            words = [word for name, limit in self.rules.limits for word in ("--rule", f"{name}={limit!r}")]
        words += ["--licences", " ".join(self.rules.licences)] if self.rules.licences else []
        words += ["--scrub"] if self.scrub else []
        near = [(name, getattr(self, name)) for name in NEAR if getattr(self, name) != getattr(NO_CLEANING, name)]
        return words + [f"--{name.replace('_', '-')}={value!r}" for name, value in near]

    def stages(self) -> dict[str, int]:
        """The versions of the algorithms in use."""
        used = {"rules": self.rules.limits, "scrub": self.scrub, "near-duplicates": self.sketcher}
        return {name: 1 for name, on in used.items() if on}

    def libraries(self) -> dict[str, str]:
        """The libraries that decide which documents stay, with their versions."""
        return {"rensa": version("rensa")} if self.sketcher else {}


NO_CLEANING = Cleaning()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of cleaning, as a group of the help."""
    group = parser.add_argument_group(
        "cleaning", "off unless asked for; every document left out is in rejected/ with its reason and value"
    )
    add = group.add_argument
    add("--clean", action="store_true", help="apply every rule of the table `python -m pipeline rules`")
    add(
        "--rule",
        action="append",
        default=[],
        metavar="NAME[=LIMIT]",
        help="apply this rule, with another limit if one is given; may be repeated",
    )
    add("--no-rule", action="append", default=[], metavar="NAME", help="do not apply this rule; may be repeated")
    add(
        "--licences",
        default="",
        metavar='"A B"',
        help="keep only documents under these (mit apache-2.0 ...), as JSONL and Parquet name them; `permissive`: the "
        "list that `python -m pipeline rules` shows; `none`: those whose licence is not known, as all of a folder",
    )
    add(
        "--scrub",
        action="store_true",
        help="replace keys, tokens, passwords, e-mail and public IP addresses by others of the same form; source_id "
        "tells the original. No pattern finds all: do not rely on it alone",
    )
    add(
        "--near-duplicates",
        nargs="?",
        type=float,
        const=THRESHOLD,
        default=0.0,
        metavar="THRESHOLD",
        help="of documents whose sets of word shingles have a Jaccard index of THRESHOLD (default: 0.7) or more, keep "
        "one: within and across inputs, estimated by MinHash",
    )
    add(
        "--drop-val-twins",
        nargs="?",
        type=float,
        const=THRESHOLD,
        default=0.0,
        metavar="THRESHOLD",
        help="leave out documents of val that are near-duplicates, in the same sense, of one in train",
    )
    add(
        "--near-permutations",
        type=int,
        default=Sketcher.permutations,
        metavar="N",
        help="slots of a MinHash (default: 256); the estimate errs by sqrt(J(1-J)/N)",
    )
    add("--near-words", type=int, default=Sketcher.words, metavar="N", help="words in a shingle (default: 5)")


def parse_cleaning(flags: argparse.Namespace) -> Cleaning:
    """The choices made by the flags. Raises ByteproxyError for one that makes no sense."""
    rules = parse_rules(flags.clean, flags.rule, flags.no_rule, flags.licences)
    return Cleaning(rules, flags.scrub, **{name: getattr(flags, name) for name in NEAR})


def print_rules() -> int:
    """The command `rules`."""
    print(described())
    return 0
