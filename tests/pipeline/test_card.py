"""README.md of a set: what hubs read in it is valid, its code runs, and it is the same for the same set."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from pipeline.reporting.card import card, size_category
from tests.pipeline.test_page import HOSTILE

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def report(built: Path) -> dict[str, Any]:
    return json.loads((built / "report.json").read_text())


def front(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_front_matter_is_yaml_whose_globs_are_the_files_of_the_set(built: Path) -> None:
    fields = front((built / "README.md").read_text())
    assert fields["language"] == ["code"] and fields["license"] == "unknown" and fields["pretty_name"] == "corpus"
    assert fields["size_categories"] == ["n<1K"]
    default, rejected = fields["configs"]
    for entry in default["data_files"]:
        assert sorted(built.glob(entry["path"])) == sorted((built / entry["split"]).iterdir())
    assert {entry["split"] for entry in default["data_files"]} == {"train", "val"}
    assert sorted(built.glob(rejected["data_files"])) == sorted((built / "rejected").iterdir())


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def test_every_block_of_code_in_the_card_runs_in_the_folder_of_the_set(built: Path, report: dict[str, Any]) -> None:
    text = (built / "README.md").read_text()
    code = blocks(text, "python")
    assert len(code) == 2
    script = "\n".join(code) + "assert len(raw) == anchors[-1][0] and len(symbols) == anchors[-1][1]\n"
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", script], cwd=built, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (query,) = blocks(text, "sql")
    rows = duckdb.sql(query.replace("'train/", f"'{built}/train/")).fetchall()
    expected = {n: f["splits"]["train"] for n, f in report["languages"].items() if "train" in f["splits"]}
    assert {name: {"documents": count, "bytes": size} for name, count, size in rows} == expected


def test_the_card_does_not_depend_on_time_place_or_machine(built: Path, report: dict[str, Any]) -> None:
    other = copy.deepcopy(report)
    other["timing"] = {}
    other["workers"] = 77
    other["counts"]["checked"] = 0
    other["inputs"] |= {"fingerprint": "another", "content": "another"}
    assert card(other) == (built / "README.md").read_text()
    assert str(built.parent) not in card(other)


def test_names_from_the_corpus_stay_in_their_cells(report: dict[str, Any]) -> None:
    nasty = "| a | <script>alert(1)</script> `x` [y](z)\n\n# Title\n---\n" + HOSTILE
    other = copy.deepcopy(report)
    for key in ("languages", "licences", "rejected"):
        other[key] = {nasty + name: facts for name, facts in other[key].items()}
    for facts in other["rejected"].values():
        facts["values"] = {nasty: 2}
    other["corpus"] = [nasty, 'quote " and \\ and : yaml']
    report = report | {"scrubbed": {"key": {"documents": 1, "places": 2}}}
    other["scrubbed"] = {nasty: {"documents": 1, "places": 2}}
    text = card(other)
    assert len(front(text)["pretty_name"]) <= 80
    plain, hostile = card(report), text
    assert len(hostile.splitlines()) == len(plain.splitlines())
    for line in hostile.splitlines():
        if line.startswith("|"):
            unescaped = re.sub(r"`[^`]*`", "", re.sub(r"\\.", "", line))
            assert "<" not in unescaped.replace("<0.1%", "") and "[" not in unescaped
    cells = [len(re.sub(r"\\.", "", line).split("|")) for line in hostile.splitlines() if line.startswith("|")]
    assert cells == [len(re.sub(r"\\.", "", line).split("|")) for line in plain.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["unknown"], "unknown"),
        (["MIT"], ["mit"]),
        (["MIT", "Apache-2.0"], ["apache-2.0", "mit"]),
        (["MIT", "unknown"], "other"),
        (["MIT", "Beerware"], "other"),
        ([], "unknown"),
    ],
)
def test_the_licence_is_one_that_hubs_know(report: dict[str, Any], licences: list[str], expected: Any) -> None:
    facts = {"documents": 1, "bytes": 1}
    assert front(card(report | {"licences": dict.fromkeys(licences, facts)}))["license"] == expected


@pytest.mark.parametrize(
    ("documents", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9999, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T")],
)
def test_the_size_category_is_the_power_of_ten(documents: int, category: str) -> None:
    assert size_category(documents) == category
