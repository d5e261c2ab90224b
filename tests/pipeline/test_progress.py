"""Progress: what workers count adds up, estimates are near, and the terminal is left as it was found."""

import contextlib
import fcntl
import gzip
import io
import json
import os
import pty
import random
import re
import struct
import termios
import threading
import time
from pathlib import Path

import pytest

from pipeline.reporting.figures import rough, size
from pipeline.reporting.report import load_report
from pipeline.reporting.summary import summary
from pipeline.running import watch as watching
from pipeline.running.progress import Counter, Counts, Portion, Tally, WatchedFile
from pipeline.running.watch import Estimate, Step, Watch
from tests.pipeline.conftest import run_build


def test_counts_of_several_workers_add_up_by_stage(tmp_path: Path) -> None:
    counters = [Counter(tmp_path, "encode"), Counter(tmp_path, "encode"), Counter(tmp_path, "survey")]
    for counter in counters:
        counter.add(2, 10)
        counter.add(1, 5, 4)
        counter.flush()
    tally = Tally(tmp_path)
    assert tally.read() == {"encode": Counts(6, 30, 8), "survey": Counts(3, 15, 4)}
    counters[2].add(-1, 0, 1)  # a duplicate is found later
    counters[2].close()
    assert tally.read()["survey"] == Counts(2, 15, 5)
    assert tally.read()["not begun"] == Counts()


def test_a_file_that_cannot_be_read_just_now_counts_as_before(tmp_path: Path) -> None:
    counter = Counter(tmp_path, "encode")
    counter.add(7, 100)
    tally = Tally(tmp_path)
    assert tally.read() == {"encode": Counts(7, 100, 0)}
    (path,) = tmp_path.iterdir()
    for damage in (b"", b"7", b"x y z", b"1 2 3 4"):
        path.write_bytes(damage)
        assert tally.read() == {"encode": Counts(7, 100, 0)}


def test_counting_never_fails_for_want_of_a_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    counter = Counter(tmp_path / "file" / "progress", "encode")
    counter.add(1, 1)
    counter.close()
    assert Tally(tmp_path / "none").read() == {}


def test_the_estimate_is_within_a_factor_of_two_from_its_first_second_on() -> None:
    noise = random.Random(0)
    for total, speed in ((10e6, 1e6), (600e6, 2e6), (1e9, 80e6)):
        estimate, now, done, tried = Estimate(), 0.0, 0.0, 0
        while done < 0.95 * total:
            now += 0.25
            if now > 4.0:  # until then workers start
                done += speed * 0.25 * noise.uniform(0.5, 1.5)
            estimate.add(now, done)
            rate = estimate.rate()
            if rate:
                real = (total - done) / speed
                assert real / 2 < (total - done) / rate < real * 2, (total, now)
                tried += 1
        assert tried > 20


def test_the_estimate_follows_a_rate_that_changes() -> None:
    estimate, done = Estimate(), 0.0
    for tick in range(4 * 300):
        done += 4.0 if tick < 4 * 100 else 1.0
        estimate.add(tick / 4, done)
    rate = estimate.rate()
    assert rate == pytest.approx(4.0)
    assert len(estimate._seen) <= 400


class Seen(Tally):
    """A tally that tells how often it was read, so that no count goes by unseen on a busy machine."""

    times = 0

    def read(self) -> dict[str, Counts]:
        sums = super().read()
        Seen.times += 1
        return sums

    @classmethod
    def wait(cls) -> None:
        """Until all counts so far have been shown: the read that is going on, and one whole one more."""
        until, deadline = cls.times + 3, time.monotonic() + 30
        while cls.times < until and time.monotonic() < deadline:
            time.sleep(0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "Tally", Seen)
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watching, "LINE_SECONDS", 0.05)
    monkeypatch.setattr(watching, "SURE_SECONDS", 0.05)


def work(folder: Path, broken: bool = False) -> None:
    """Two steps, as workers would count them."""
    survey, split = Counter(folder, "survey"), Counter(folder, "split")
    for _ in range(10):
        survey.add(9, 100_000, 1)
        survey.flush()
        Seen.wait()
    if broken:
        raise KeyboardInterrupt
    for _ in range(9):
        split.add(10, 0)
        split.flush()
        Seen.wait()


STEPS = [Step("survey", "survey", 1_000_000), Step("split", "split", documents_of="survey")]


def test_without_a_terminal_there_are_lines_and_one_for_each_step_at_its_end(tmp_path: Path, quick: None) -> None:
    stream = io.StringIO()
    with Watch(tmp_path, STEPS, 1, 5, stream) as watch:
        work(tmp_path)
    said = stream.getvalue()
    time.sleep(0.05)
    assert stream.getvalue() == said  # nothing comes after the end
    lines = said.splitlines()
    last = [n for n, line in enumerate(lines) if re.fullmatch(r".*, [\d.]+ s", line) and "%" not in line]
    assert len(last) == 2 and last[1] == len(lines) - 1
    assert re.fullmatch(r"1 of 5 survey: 90 documents, 1.0 MB, .*/s, 10 left out, [\d.]+ s", lines[last[0]])
    assert re.fullmatch(r"2 of 5 split: 90 documents, [\d.]+ s", lines[last[1]])
    assert any(re.match(r"1 of 5 survey: \d+%, .* left, \d+ documents, ", line) for line in lines[: last[0]])
    assert any(re.match(r"2 of 5 split: \d+%, ", line) for line in lines[last[0] :])
    assert watch.seconds["survey"] > 0.1 and watch.seconds["split"] > 0.1


def on_terminal(folder: Path, columns: int, broken: bool) -> str:
    """What a terminal of so many columns gets to see."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(parent, 1 << 16):
                seen.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(child, "w") as stream:
        try:
            with Watch(folder, STEPS, 1, 5, stream):
                work(folder, broken)
        except KeyboardInterrupt:
            stream.write("stopped\n")
            stream.flush()
    reader.join()
    os.close(parent)
    return b"".join(seen).decode()


@pytest.mark.parametrize("columns", [30, 120])
def test_on_a_terminal_one_line_is_written_over_and_fits(tmp_path: Path, quick: None, columns: int) -> None:
    seen = on_terminal(tmp_path, columns, broken=False)
    kept = [line.split("\r")[-1] for line in seen.replace("\r\n", "\n").split("\n")]
    assert [line.split(":")[0] for line in kept if line] == ["1 of 5 survey", "2 of 5 split"]
    updates = [part for line in seen.replace("\r\n", "\n").split("\n") for part in line.split("\r")[:-1]]
    assert len(updates) > 10 and max(len(update) for update in updates) <= columns
    assert any("90%" in update for update in updates) and "\n" not in "".join(updates)


def test_a_build_broken_off_leaves_a_clear_line(tmp_path: Path, quick: None) -> None:
    seen = on_terminal(tmp_path, 100, broken=True).replace("\r\n", "\n")
    assert "\n" not in seen[:-1]  # no step has ended
    *_, cleared, last = seen.split("\r")
    assert last == "stopped\n" and not cleared.strip()


def test_times_and_sizes_are_said_as_people_say_them() -> None:
    assert [rough(t) for t in (0.4, 7, 43, 100, 3599, 7800)] == [
        "0 s",
        "7 s",
        "45 s",
        "2 min",
        "1 h 00 min",
        "2 h 10 min",
    ]
    assert [size(n) for n in (0, 999, 1500, 123_456_789, 5e12)] == ["0 B", "999 B", "1.5 kB", "123 MB", "5.0 TB"]


def test_the_summary_says_what_is_kept_left_out_and_what_comes_next(built: Path) -> None:
    report = load_report(built)
    text = summary(report, "data/my set")
    counts = report["counts"]
    assert (
        f"{counts['documents']:,} documents" in text
        and f"left out {counts['rejected']:,} of {counts['found']:,}" in text
    )
    for reason, facts in report["rejected"].items():
        assert f"{reason} {facts['documents']}" in " ".join(text.split())
    for name, view in report["views"].items():
        assert re.search(rf"^  {name} +{view['ratio']:.2f} ", text, re.M)
    for stage in ("survey", "split", "fit", "encode", "write"):
        assert re.search(rf"\b{stage} [\d.]+ s", text)
    assert "data/my set/report.html" in text and "python -m trainer train --shards 'data/my set'" in text
    assert max(map(len, text.splitlines())) <= 100


def test_what_is_read_of_a_stream_is_counted_as_it_goes_and_its_size_in_the_end(tmp_path: Path) -> None:
    counter, tally = Counter(tmp_path, "survey"), Tally(tmp_path)
    portion = Portion(counter, 1000)
    file = WatchedFile(io.BytesIO(b"x" * 1500), portion)
    seen = []
    for part in (300, 400, 600, 1):
        file.read(part)
        counter.flush()
        seen.append(tally.read()["survey"].bytes)
    assert seen == [300, 700, 1000, 1000] and file.tell() == 1301  # never more than it stands for
    half = Portion(counter, 500)
    half.take(10)
    half.end()
    half.end()
    counter.close()
    assert tally.read()["survey"].bytes == 1500


def test_a_compressed_input_is_shown_while_it_is_unpacked_and_its_lines_are_added_to_what_there_is_to_read(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"text": path.read_text("utf-8", "replace")}) for path in sorted(code.rglob("*.py"))]
    data = "\n".join(lines).encode()
    file = tmp_path / "code.jsonl.gz"
    file.write_bytes(gzip.compress(data))
    assert run_build(file, tmp_path / "set") == 0
    said = capsys.readouterr().err
    assert f"1 of 6 unpack: {size(file.stat().st_size)}, " in said
    counts = load_report(tmp_path / "set")["counts"]
    assert counts["found"] == len(lines)
    assert f"2 of 6 survey: {counts['documents']} documents, {size(len(data))}, " in said
