"""The command line of the shards: what it shows, and how it fails."""

import subprocess
import sys
from pathlib import Path

from shards.reader import ShardSet


def shards(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shards", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_verify_says_what_it_has_checked(small_folder: Path) -> None:
    done = shards("verify", small_folder)
    assert done.returncode == 0 and "no fault found" in done.stdout and "100% decoded" in done.stdout


def test_verify_of_a_missing_set_is_one_line_and_a_code(tmp_path: Path) -> None:
    done = shards("verify", tmp_path / "none")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_inspect_shows_views_and_a_document_side_by_side(small_folder: Path, small_set: ShardSet) -> None:
    summary = shards("inspect", small_folder).stdout
    assert "sentencepiece" in summary and "every 128 bytes" in summary and "the ends" in summary
    split = small_set.split("train")
    number = next(i for i in range(len(split)) if split.length("raw", i) > 200)
    by_number = shards("inspect", small_folder, "--document", number).stdout
    by_id = shards("inspect", small_folder, "--document", split.id(number).hex()).stdout
    assert by_number == by_id and "path: train/" in by_number and "|" in by_number
    assert shards("inspect", small_folder, "--document", "ff" * 16).returncode == 2
