"""Killed at any moment and started again, any number of times: the set is the one of an undisturbed run, to the bit."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shards.__main__ import main as shards_main
from shards.reader import ShardSet
from tests.pipeline.conftest import digests, run_build
from tests.pipeline.kills import REPO, Moment, Scratch, command, kill_at, run

pytestmark = pytest.mark.slow

VIEWS = "sentencepiece:vocab=1024 gzip zstd:dictionary=16K brotli:level=11"
SMALL = ("--sample-bytes", "1M", "--shard-bytes", "100k", "--row-group-bytes", "100k")


def moments(seed: int, blocks: int, count: int) -> list[Moment]:
    """Random moments in order: one in the survey, one in fitting, one in joining, the others each some blocks later."""
    draw = random.Random(seed)
    first = [Moment(0, draw.uniform(0.0, 0.2)), Moment(1, draw.uniform(0.0, 0.2))]
    apart = blocks // (count - 3)
    among = [Moment(2, draw.uniform(0.0, 0.02), draw.randrange(1, apart)) for _ in range(count - 3)]
    return [*first, *among, Moment(1000, 0.0)]


def test_a_build_that_is_killed_at_ten_random_moments_ends_as_an_undisturbed_one(code: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "set", tmp_path / "whole"
    words = ["build", str(code), "--views", VIEWS, *SMALL, "--workers", "2", "--block-bytes", "32k", "--out"]
    hits = [kill_at(command(*words, str(out)), Scratch(out), moment) for moment in moments(11, 50, 10)]
    assert not (out / "manifest.json").exists()
    assert {stage for stage, _ in hits} == {"survey", "fit", "encode", "join"}, hits
    assert len({step for stage, step in hits if stage == "encode"}) >= 5, hits  # at different blocks
    assert [step for _, step in hits] == sorted(step for _, step in hits), hits  # nothing that was done is lost
    assert "going on" in run(command(*words, str(out)))
    run(command(*words, str(whole)))
    assert digests(out) == digests(whole)
    assert not (out / ".build").exists() and shards_main(["verify", str(out)]) == 0


def test_add_view_that_is_killed_leaves_the_set_as_it_was_and_ends_as_an_undisturbed_one(
    code: Path, tmp_path: Path
) -> None:
    plain, out, whole = (tmp_path / name for name in ("plain", "set", "whole"))
    assert run_build(code, plain, *SMALL, views="gzip") == 0
    for copy in (out, whole):
        shutil.copytree(plain, copy)
    before = digests(out)
    flags = ["--view", "sentencepiece:vocab=1024 brotli:level=11", "--workers", "2", "--block-bytes", "32k"]
    words = command("add-view", str(out), *flags)
    draw = random.Random(5)
    hits = []
    among = [Moment(2, draw.uniform(0.0, 0.02), draw.randrange(1, 20)) for _ in range(2)]
    for moment in (Moment(0, draw.uniform(0.0, 0.3)), *among, Moment(1000, 0.0)):
        hits.append(kill_at(words, Scratch(out), moment))
        assert {name: value for name, value in digests(out).items() if not name.startswith(".build/")} == before
        assert list(ShardSet.open(out).views) == ["gzip"]
    assert {stage for stage, _ in hits} == {"survey", "encode", "join"}, hits
    assert "going on" in run(words)
    run(command("add-view", str(whole), *flags[:2], "--workers", "1"))
    assert digests(out) == digests(whole)
    assert not (out / ".build").exists() and shards_main(["verify", str(out)]) == 0


def test_a_merge_that_is_killed_ends_as_an_undisturbed_one(code: Path, tmp_path: Path) -> None:
    files = sorted(code.rglob("*.py"))
    for number in (0, 1):
        corpus = tmp_path / f"corpus{number}"
        corpus.mkdir()
        for n, path in enumerate(files):
            if n % 3 != number:
                shutil.copy(path, corpus / f"{n}.py")
        given = ("--codecs-from", str(tmp_path / "set0")) if number else ()
        flags = (*SMALL, "--seed", str(number), *given)
        views = "" if number else "sentencepiece:vocab=512"
        assert run_build(corpus, tmp_path / f"set{number}", *flags, views=views) == 0
    sets, out, whole = [str(tmp_path / "set0"), str(tmp_path / "set1")], tmp_path / "set", tmp_path / "whole"
    words = command("merge", *sets, "--out", str(out), "--workers", "2")
    hits = [kill_at(words, Scratch(out), Moment(step, 0.0)) for step in (0, 1001, 1006)]
    assert [stage for stage, _ in hits] == ["survey", "join", "join"], hits
    assert "going on" in run(words)
    run(command("merge", *reversed(sets), "--out", str(whole), "--workers", "1"))
    assert digests(out) == digests(whole) and shards_main(["verify", str(out)]) == 0


def test_one_two_and_four_workers_and_inputs_in_any_order_give_the_same_bytes(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.build.SURVEY_ALONE", 0)  # or one process would survey so small a corpus
    draw = random.Random(3)
    files = [path for path in sorted(code.rglob("*.py")) if path.stat().st_size < 60_000]
    texts = [{"text": path.read_text("utf-8", "replace"), "path": path.name} for path in files[:40]]
    lines = "\n".join(map(json.dumps, texts))
    sets = []
    for workers in (1, 2, 4):
        place = tmp_path / f"with {workers}"
        order = draw.sample(files, len(files))  # the file system lists them in another order
        for part in draw.sample(["a", "b", "c"], 3):
            (place / part).mkdir(parents=True)
            for path in order:
                if "abc"[len(path.name) % 3] == part:
                    shutil.copy(path, place / part / "_".join(path.relative_to(code).parts))
        (place / "lines.jsonl").write_text(lines)
        inputs = draw.sample(["a", "b", "c", "lines.jsonl"], 4)
        corpus = ",".join(str(place / name) for name in inputs)
        flags = (*SMALL, "--workers", str(workers), "--block-bytes", f"{50 * workers}k")
        assert run_build(corpus, place / "set", *flags, views="sentencepiece:vocab=512 gzip zstd brotli") == 0
        assert run_added(place / "set", workers) == 0
        assert shards_main(["verify", str(place / "set")]) == 0
        sets.append(digests(place / "set"))
    assert sets[0] == sets[1] == sets[2]


def run_added(out: Path, workers: int) -> int:
    from pipeline.__main__ import main

    flags = ["--workers", str(workers), "--block-bytes", f"{40 * workers}k"]
    return main(["add-view", str(out), "--view", "small=sentencepiece:vocab=400", "--prune", *flags])


def test_a_build_killed_at_any_step_of_publishing_is_finished_by_the_next(code: Path, tmp_path: Path) -> None:
    assert run_build(code, tmp_path / "whole", *SMALL) == 0
    found = []
    for number in range(8):
        out = tmp_path / f"set{number}"
        words = [sys.executable, "-c", KILLED_IN_PUBLISH, str(code), str(out), str(number), *SMALL]
        assert subprocess.run(words, cwd=REPO, check=False, stdout=subprocess.DEVNULL).returncode == -9
        found.append(sorted(path.name.partition("-")[0] for path in out.iterdir()))
        assert run_build(code, out, *SMALL) == 0
        assert digests(out) == digests(tmp_path / "whole") and not (out / ".build").exists()
    assert [len(names) for names in found] == sorted(len(names) for names in found)
    assert found[0] == [".build"] and "manifest.json" in found[7] and ".tmp" in found[5]


KILLED_IN_PUBLISH = """
import os, sys
from pathlib import Path
import pipeline.publish as publish, pipeline.running.scratch as scratch, pipeline.running.storage as storage
from tests.pipeline.conftest import run_build
corpus, out, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
calls, sync = [], publish.sync_folder
def kill(*arguments): os.kill(os.getpid(), 9)
def killed_at(folder):
    calls.append(folder)
    if len(calls) == number:
        kill()
    sync(folder)
if number == 0:  # while the first state is written
    storage.Path.replace = kill
elif number < 5:  # behind each of three moves, and behind the small files
    publish.sync_folder = killed_at
elif number == 5:  # while a small file is written
    def draft(target, data):
        (target.parent / f".tmp-{target.name}-0123abcd").write_bytes(data[:5])
        kill()
    publish.write_whole = draft
elif number == 6:
    publish.Manifest.save = kill
else:
    scratch.remove_tree = kill  # the manifest is there, the scratch is half removed
run_build(corpus, out, *sys.argv[4:])
"""


def test_add_view_killed_between_moves_or_behind_the_swap_is_finished_by_the_next(code: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    assert run_build(code, plain, *SMALL, views="gzip") == 0
    found = []
    for number in range(4):
        out = tmp_path / f"set{number}"
        shutil.copytree(plain, out)
        killed = subprocess.run([sys.executable, "-c", KILLED_IN_SWAP, str(out), str(number)], cwd=REPO, check=False)
        assert killed.returncode == -9
        moved = bool(list(out.glob("train/*-g2.parquet")))
        found.append((moved, len(ShardSet.open(out).views)))
        run(command("add-view", str(out), "--view", "brotli", "--workers", "1"))
        assert shards_main(["verify", str(out)]) == 0 and not (out / ".build").exists()
    assert found == [(False, 1), (True, 1), (True, 1), (True, 2)]  # each kill came at another place
    assert digests(tmp_path / "set0") == digests(tmp_path / "set1") == digests(tmp_path / "set2")
    assert digests(tmp_path / "set0") == digests(tmp_path / "set3")


KILLED_IN_SWAP = """
import os, sys
import pipeline.reuse.swap as swap
from pipeline.__main__ import main
out, number = sys.argv[1], int(sys.argv[2])
calls, after = [], swap.sync_folder
def sync(folder):
    calls.append(folder)
    if number < 3 and len(calls) == number + 1:
        os.kill(os.getpid(), 9)
    after(folder)
swap.sync_folder = sync
if number == 3:
    swap.Scratch.remove = lambda self: os.kill(os.getpid(), 9)
main(["add-view", out, "--view", "brotli", "--workers", "1"])
"""
