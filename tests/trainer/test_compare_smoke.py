"""The smoke plan through the command line: the same again, and taken over on another machine from its small files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sets import build_set, standard_library

ROOT = Path(__file__).parent.parent.parent
PLAN = ROOT / "plans" / "smoke.toml"


def compare(shards: Path, out: Path) -> str:
    """Run the plan to its end in processes of their own; returns what was said."""
    command = [sys.executable, "-m", "trainer", "compare", str(PLAN), "--shards", str(shards), "--out", str(out),
               "--jobs", "1"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=out.parent, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the interpreter's modules."""
    texts = standard_library(9_000, 40)
    return build_set(tmp_path_factory.mktemp("smoke") / "set", texts[4:], texts[:4], "sentencepiece:vocab=512")


@pytest.fixture(scope="module")
def finished(small: Path) -> Path:
    """A finished comparison."""
    out = small.parent / "first"
    assert "6 are left" in compare(small, out)
    return out


def test_the_same_plan_run_twice_gives_the_same_numbers(small: Path, finished: Path) -> None:
    again = small.parent / "again"
    compare(small, again)
    assert (again / "compare.json").read_bytes() == (finished / "compare.json").read_bytes()
    body = json.loads((again / "compare.json").read_bytes())
    assert body["complete"] and [(row["arm"], row["seed"], row["unit"]) for row in body["runs"]] == [
        ("bytes", 0, "flops"), ("tokens", 0, "flops"), ("proxy", 0, "flops"), ("bytes", 0, "bytes"),
        ("proxy", 0, "bytes"), ("bytes", 1, "flops"),
    ]  # fmt: skip
    seeds = [row["raw_bpb"] for row in body["runs"] if row["arm"] == "bytes" and row["unit"] == "flops"]
    assert seeds[0] != seeds[1] and all(1 < row["raw_bpb"] < 8 for row in body["runs"] if row["arm"] != "tokens")
    told = {row["arm"]: row["translation"] for row in body["runs"]}
    assert told["bytes"] == told["tokens"] == {} and told["proxy"]["sentencepiece"]["segments"] == 8


def test_runs_that_are_done_are_taken_over_from_their_small_files(small: Path, finished: Path) -> None:
    there = small.parent / "another machine"
    taken, shards = there / "out", there / "data" / "set"
    shutil.copytree(small, shards)
    for file in finished.rglob("*.json"):
        if "checkpoints" not in file.parts and file.parent != finished:  # not even its results, which are made anew
            copy = taken / file.relative_to(finished)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    copied = {file: file.stat().st_mtime_ns for file in taken.rglob("*.json")}
    said = compare(shards, taken)
    assert " left, " not in said and "sentencepiece" in said
    assert (taken / "compare.json").read_bytes() == (finished / "compare.json").read_bytes()
    assert not list(taken.rglob("*.safetensors")) and not (taken / "logs").exists()
    assert len(copied) >= 6 * 3 and all(file.stat().st_mtime_ns == at for file, at in copied.items())
