"""The choices of cleaning: the words that ask for them say the same again, and what is off leaves no trace."""

import argparse
from pathlib import Path

import pytest

from pipeline.cleaning.options import NO_CLEANING, Cleaning, add_flags, parse_cleaning
from shards.errors import ByteproxyError
from shards.manifest import Manifest
from tests.pipeline.conftest import run_build


def parsed(*words: str) -> Cleaning:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parse_cleaning(parser.parse_args(words))


@pytest.mark.parametrize(
    "words",
    [
        "", "--clean", "--clean --rule mean-line=90.5 --no-rule xml", "--rule alphabetic", "--licences permissive",
        "--scrub", "--near-duplicates", "--near-duplicates 0.85 --near-permutations 128", "--drop-val-twins=0.6",
        "--clean --licences mit,none --scrub --near-duplicates --drop-val-twins --near-words 7",
    ],
)  # fmt: skip
def test_the_words_for_a_choice_parse_to_the_same_choice(words: str) -> None:
    choice = parsed(*words.split())
    assert parsed(*choice.flags()) == choice
    assert (choice == NO_CLEANING) == (not words)
    assert bool(choice.identity()) == bool(choice.stages() or choice.rules.licences) == bool(words)


def test_choices_that_differ_make_sets_that_differ() -> None:
    words = (
        "--clean",
        "--clean --rule xml=1",
        "--scrub",
        "--near-duplicates",
        "--near-duplicates 0.8",
        "--drop-val-twins",
    )
    identities = [parsed(*given.split()).identity() for given in words]
    assert all(one != other for n, one in enumerate(identities) for other in identities[:n])
    assert parsed("--near-words", "7").identity() == {}  # nothing is sketched: it decides nothing


def test_a_threshold_beyond_its_range_is_refused_by_name() -> None:
    for flag in ("--near-duplicates", "--drop-val-twins"):
        with pytest.raises(ByteproxyError, match=f"{flag} 0.1: must be between 0.2 and 1"):
            parsed(flag, "0.1")


def test_all_of_it_together_loses_nothing_and_a_dry_run_of_it_writes_nothing(code: Path, tmp_path: Path) -> None:
    flags = ("--clean", "--scrub", "--near-duplicates", "--drop-val-twins", "--val-fraction", "0.04")
    assert run_build(code, tmp_path / "dry", *flags, "--dry-run") == 0
    assert not (tmp_path / "dry").exists()
    assert run_build(code, tmp_path / "set", *flags) == 0
    counts = Manifest.load(tmp_path / "set").counts
    assert counts["documents"] + counts["rejected"] == counts["found"] == sum(p.is_file() for p in code.rglob("*"))
    assert run_build(code, tmp_path / "set", *flags) == 0  # there already
    with pytest.raises(ByteproxyError, match="scrub"):
        run_build(code, tmp_path / "set", *(f for f in flags if f != "--scrub"))
