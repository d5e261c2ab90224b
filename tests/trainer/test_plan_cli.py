"""`python -m trainer plan`: deterministic, and without torch."""

import json
import subprocess
import sys
from pathlib import Path

from tests.sets import build_set, standard_library


def plan(folder: Path, *flags: str) -> str:
    command = [sys.executable, "-c", "import sys; from trainer.__main__ import main; main(sys.argv[1:]); "]
    command[-1] += "assert 'torch' not in sys.modules"
    arguments = ["plan", "--shards", str(folder), "--context", "300", "--batch-rows", "2", "--steps", "20", *flags]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout


def test_the_plan_is_printed_a_step_a_line_the_same_each_time_and_loads_no_torch(tmp_path: Path) -> None:
    texts = standard_library(6000, 12)
    folder = build_set(tmp_path / "set", texts[1:], texts[:1], "sentencepiece:vocab=400")
    first = [json.loads(line) for line in plan(folder, "--json").splitlines()]
    assert first == [json.loads(line) for line in plan(folder, "--json").splitlines()]
    assert [step["step"] for step in first] == list(range(20)) and len({step["digest"] for step in first}) == 20
    assert all(sum(step["symbols"].values()) <= 600 and 0 <= step["padding"] < 0.5 for step in first)
    shown = plan(folder, "--count", "3").splitlines()
    assert len(shown) == 5 and shown[0].endswith("11 documents") and "displacement" in shown[1]
    by_ranks = [json.loads(line) for line in plan(folder, "--json", "--ranks", "2").splitlines()]
    assert by_ranks == first  # digests, counts and states
    (tmp_path / "state.json").write_text(json.dumps(first[6]))
    later = [
        json.loads(line) for line in plan(folder, "--json", "--from-state", str(tmp_path / "state.json")).splitlines()
    ]
    assert later == first[7:]
    windows = plan(folder, "--count", "1", "--shuffle-window", "1").splitlines()
    assert [line.split(":")[0] for line in windows[1:3]] == ["order, global", "order, windows of 1 shards"]
    other = [json.loads(line)["digest"] for line in plan(folder, "--json", "--seed", "1").splitlines()]
    assert not {step["digest"] for step in first} & set(other)
