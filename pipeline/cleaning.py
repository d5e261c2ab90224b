"""What a build cleans away, as asked for on the command line; all of it is off unless asked for."""

import argparse
from dataclasses import dataclass
from typing import Any

from pipeline.rules import NO_RULES, Rules, described, parse_rules


@dataclass(frozen=True)
class Cleaning:
    """The choices of cleaning. Plain and small: it travels to the workers."""

    rules: Rules = NO_RULES
    scrub: bool = False  # secrets and personal data are replaced

    def identity(self) -> dict[str, Any]:
        """What of it decides the set's documents, as plain JSON; nothing for what is off."""
        given: dict[str, Any] = {}
        if self.rules.limits:
            given["rules"] = dict(self.rules.limits)
        if self.rules.licences:
            given["licences"] = list(self.rules.licences)
        if self.scrub:
            given["scrub"] = True
        return given

    def flags(self) -> list[str]:
        """The words of a command line that ask for this."""
        if self.rules.limits == parse_rules(True, [], [], "").limits:
            words = ["--clean"]
        else:
            words = [word for name, limit in self.rules.limits for word in ("--rule", f"{name}={limit!r}")]
        words += ["--licences", " ".join(self.rules.licences)] if self.rules.licences else []
        return words + (["--scrub"] if self.scrub else [])

    def stages(self) -> dict[str, int]:
        """The versions of the algorithms in use."""
        return ({"rules": 1} if self.rules.limits else {}) | ({"scrub": 1} if self.scrub else {})


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
        help="keep only documents under these (mit apache-2.0 ...); `permissive`: the list that "
        "`python -m pipeline rules` shows; `none`: those whose licence is not known",
    )
    add(
        "--scrub",
        action="store_true",
        help="replace keys, tokens, passwords, e-mail and public IP addresses by others of the same form; source_id "
        "tells the original. No pattern finds all: do not rely on it alone",
    )


def parse_cleaning(flags: argparse.Namespace) -> Cleaning:
    """The choices made by the flags. Raises ByteproxyError for one that makes no sense."""
    return Cleaning(parse_rules(flags.clean, flags.rule, flags.no_rule, flags.licences), scrub=flags.scrub)


def print_rules() -> int:
    """The command `rules`."""
    print(described())
    return 0
