"""Reports: curves are exact means, pages open offline, watchers get each step."""

import io
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from shards.errors import ByteproxyError
from trainer.__main__ import main
from trainer.config import Config, make_config
from trainer.curves import means, panels, progress, read_run
from trainer.page import short, ticks
from trainer.train import train


@pytest.fixture
def finished(tiny_config: Config) -> Path:
    train(tiny_config)
    return Path(tiny_config.run)


def test_curves_are_exact_means_and_axes_running_sums(finished: Path) -> None:
    run = read_run(finished)
    entries = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    place = progress(run)
    assert place["step"] == list(range(1, 13)) and set(place) == {"step", "symbols", "bytes", "flops"}
    assert place["symbols"][-1] == sum(e[f"symbols/{v}"] for e in entries for v in run.views)
    at, values = means(run, "raw", "bits")
    expected = [e["bpb/raw"] for e in entries if "bpb/raw" in e]
    assert len(at) == len(values) and values == pytest.approx(expected)
    run.entries.extend(e | {"step": 12 + n} for n, e in enumerate(entries * 40, 1))  # more steps than points
    at, values = means(run, "raw", "nats")
    assert len(at) <= 200
    first = [e for e in run.entries[: at[0] + 1] if "loss/raw" in e]
    assert values[0] == pytest.approx(
        sum(e["loss/raw"] * e["symbols/raw"] for e in first) / sum(e["symbols/raw"] for e in first)
    )


def test_a_page_is_whole_and_loads_nothing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = finished.parent / "run <b>&"
    second.mkdir()
    for name in ("metrics.jsonl", "config.json"):
        (second / name).write_bytes((finished / name).read_bytes())
    with (second / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')  # a run that is being written
    out = finished.parent / "out"
    assert main(["report", str(finished), str(second), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split("\n")[:2] == [str(out / "report.html"), str(out / "report.png")]
    text = (out / "report.html").read_text()
    assert not re.findall(r"https?://|<script|<link|@import|url\((?!#)", text) and "run <b>" not in text
    pictures = re.findall(r"<svg viewBox.*?</svg>", text, re.DOTALL)
    assert all(ElementTree.fromstring(picture).tag == "svg" for picture in pictures)
    for title in ("Loss by view", "by steps", "by symbols", "by bytes of text", "by FLOPs"):
        assert title in text
    assert "no checkpoint yet" in text and "prefers-color-scheme: dark" in text and "held out" in text
    from PIL import Image

    picture = Image.open(io.BytesIO((out / "report.png").read_bytes()))
    assert picture.size[0] > 1000 and len(picture.convert("L").getcolors()) > 50
    whole = [line for panel in panels([read_run(finished)])[1:] for line in panel.lines if line.name == "held out, all"]
    expected = json.loads((finished / "result.json").read_text())["raw_bpb"]
    assert len(whole) == 4 and all(line.ys == [expected] for line in whole) and whole[0].xs == [12]
    lines = [line for panel in panels([read_run(finished), read_run(second)]) for line in panel.lines]
    assert {line.colour for line in lines} == {0, 1}


def test_ticks_are_round_and_within() -> None:
    assert ticks(0, 600) == [0, 200, 400, 600] and ticks(0.93, 2.1) == [1.0, 1.25, 1.5, 1.75, 2.0]
    assert [short(x) for x in (0, 250, 1500, 2_500_000, 3e9, 1.5e13)] == ["0", "250", "1.5k", "2.5M", "3B", "1.5e13"]


def test_what_is_no_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ByteproxyError, match=r"no run that can be drawn: .*config\.json is missing"):
        main(["report", str(tmp_path)])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("{oh\n")
    with pytest.raises(ByteproxyError, match=r"metrics\.jsonl is damaged"):
        main(["report", str(tmp_path)])


def test_tensorboard_gets_every_step_once(tiny_config: Config) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make_config({"tensorboard": True}, tiny_config))
    events = EventAccumulator(str(Path(tiny_config.run) / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("loss")
    entries = [json.loads(line) for line in (Path(tiny_config.run) / "metrics.jsonl").read_text().splitlines()]
    assert [event.step for event in scalars] == list(range(1, 13))
    assert [event.value for event in scalars] == pytest.approx([entry["loss"] for entry in entries], rel=1e-6)


def test_wandb_that_is_not_installed_is_named(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # cannot be imported, also where it is installed
    with pytest.raises(ByteproxyError, match="--wandb: the package wandb is not installed: pip install wandb"):
        train(make_config({"wandb": "project"}, tiny_config))
