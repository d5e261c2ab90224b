"""OUT: locked, never clobbered, gone on with after a kill, left alone when a build fails."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.publish import locked
from tests.pipeline.conftest import digests, run_build

REPO = Path(__file__).resolve().parents[2]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def command(corpus: Path, out: Path, *flags: str) -> list[str]:
    fixed = ["--out", str(out), "--views", "zstd brotli:level=7", "--sample-bytes", "200k", "--block-bytes", "64k"]
    return [sys.executable, "-m", "pipeline", "build", str(corpus), *fixed, *flags]


def workers_of(out: Path) -> list[int]:
    """Processes that run pipeline.worker for this OUT."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"pipeline.worker" in words and any(os.fsencode(out) in word for word in words):
            found.append(int(entry.name))
    return found


def test_a_second_build_into_one_out_is_refused(code: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    with locked(tmp_path / "set"):
        assert "another build is writing to it" in fails(str(code), "--out", str(tmp_path / "set"), "--views", "zstd")


def test_a_finished_set_is_left_alone(code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert run_build(code, out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run_build(code, out, "--check", "0.5") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_another_config_or_a_changed_corpus_is_refused_and_says_what_differs(
    code: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "set"
    shutil.copytree(code, corpus)
    assert run_build(corpus, out) == 0
    before = digests(out)
    common = (str(corpus), "--out", str(out), "--views", "zstd", "--sample-bytes", "200k")
    message = fails(*common, "--seed", "3", "--max-bytes", "1M")
    assert "max_bytes: 16777216 there, 1048576 asked for" in message and "seed: 0 there, 3 asked for" in message
    (corpus / "new.py").write_text("new = True\n")
    assert "the corpus has changed since" in fails(*common)
    assert digests(out) == before


def test_an_out_with_other_files_is_refused_and_left_as_it_is(
    code: Path, tmp_path: Path, fails: Callable[..., str]
) -> None:
    out = tmp_path / "mine"
    (out / "train").mkdir(parents=True)
    (out / "train" / "thesis.txt").write_text("precious")
    assert "is no shard set" in fails(str(code), "--out", str(out), "--views", "zstd")
    assert (out / "train" / "thesis.txt").read_text() == "precious"
    assert [path.name for path in out.iterdir()] == ["train"]


def test_a_failed_build_leaves_no_out_behind(tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x.py").write_text("alone = True\n")
    assert "too small" in fails(str(tmp_path / "one"), "--out", str(tmp_path / "deep" / "set"), "--views", "zstd")
    assert not (tmp_path / "deep" / "set").exists()


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_build_takes_its_workers_along_and_the_next_one_goes_on_to_the_same_bytes(
    code: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    out = tmp_path / "set"
    arguments = command(code, out, "--workers", "2")
    first = subprocess.Popen(arguments, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    blocks = out / ".build" / "blocks"
    wait_until(lambda: first.poll() is not None or (blocks.exists() and len(list(blocks.glob("*.json"))) >= 2))
    assert first.poll() is None, "the build was over before it could be stopped"
    assert len(workers_of(out)) == 2
    first.send_signal(stop)
    assert first.wait(20) == {signal.SIGKILL: -9, signal.SIGINT: 130}[stop]
    wait_until(lambda: not workers_of(out), 5)
    assert not (out / "manifest.json").exists()
    done = {path.name: path.stat().st_mtime_ns for path in blocks.glob("*.json")}
    assert done
    second = subprocess.run(command(code, out), cwd=REPO, capture_output=True, text=True, check=True)
    assert "going on" in second.stderr
    assert (out / "manifest.json").exists() and not (out / ".build").exists()
    subprocess.run(command(code, tmp_path / "clean", "--workers", "1"), cwd=REPO, capture_output=True, check=True)
    assert digests(out) == digests(tmp_path / "clean")


def test_a_build_killed_while_it_published_is_finished_by_the_next(code: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert run_build(code, out) == 0
    whole = digests(out)
    # what a kill between two renames leaves: some folders in place, some still in the scratch, no manifest
    state = tmp_path / "state.json"
    subprocess.run(
        [sys.executable, "-c", KILLED_IN_PUBLISH, str(code), str(tmp_path / "cut"), str(state)], cwd=REPO, check=False
    )
    cut = tmp_path / "cut"
    assert not (cut / "manifest.json").exists() and (cut / "codecs").exists() and (cut / ".build").exists()
    assert run_build(code, cut) == 0
    assert digests(cut) == whole


KILLED_IN_PUBLISH = """
import os, sys
from pathlib import Path
import pipeline.publish as publish
def kill(folder): os.kill(os.getpid(), 9)
publish.sync_folder = kill
from tests.pipeline.conftest import run_build
run_build(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_scratch_of_another_build_is_discarded(code: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    (out / ".build" / "blocks").mkdir(parents=True)
    (out / ".build" / "state.json").write_text(json.dumps({"config": "another"}))
    (out / ".build" / "blocks" / "train-000000.json").write_text("stale")
    assert run_build(code, out) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, where the machine lets us make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_is_one_error_and_what_was_there_stays(
    code: Path, small_disk: Path, fails: Callable[..., str], workers: str
) -> None:
    (small_disk / "precious").write_text("here before")
    message = fails(str(code), "--out", str(small_disk / "set"), "--views", "zstd brotli", "--workers", workers)
    assert "no space left" in message.lower()
    assert (small_disk / "precious").read_text() == "here before"
    assert [path.name for path in small_disk.iterdir()] == ["precious"]


def test_the_lock_of_out_leaves_no_file(tmp_path: Path) -> None:
    with locked(tmp_path / "set"):
        assert not list((tmp_path / "set").iterdir())
        descriptor = os.open(tmp_path / "set", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
    assert not (tmp_path / "set").exists()
