"""The command line: it teaches, it errs in one line, it finds the newest set and its own runs."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import main, newest_set
from trainer.config import Config, flag
from trainer.train import train

ROOT = Path(__file__).parents[2]


def command(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=240,
    )


def small(config: Config) -> list[str]:
    """Flags of a run of two steps."""
    names = ("width", "layers", "heads", "kv_heads", "head_dim", "mlp", "context", "batch_rows", "dtype", "threads")
    return ["--steps=2", *(f"{flag(name)}={getattr(config, name)}" for name in names)]


def test_help_names_every_verb_and_each_verb_teaches_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("train", "evaluate", "sample", "export", "plan"))
    assert main(["export", "--help"]) == 0 and "python -m trainer export RUN --out" in capsys.readouterr().out
    for verb in ("train", "evaluate", "sample"):
        assert main([verb, "--help"]) == 0
        assert f"python -m trainer {verb} --run" in capsys.readouterr().out


def test_the_help_of_train_shows_the_settings_of_the_preset_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, width in ((["--help"], 192), (["--preset", "25m", "-h"], 512), (["--help", "--preset=5m"], 256)):
        assert main(["train", *arguments]) == 0
        assert f"--width {width} " in capsys.readouterr().out


def test_help_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    for verb in ("train", "evaluate", "sample", "export", "compress", "decompress"):
        done = subprocess.run(
            [sys.executable, "-m", "trainer", verb, "--help"],
            capture_output=True,
            text=True,
            env=environment,
            timeout=240,
        )
        assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "error: verb 'trian' is not known; one of train, evaluate, translate, sample, "),
        (["train", "--stpes", "3"], "error: --stpes is not known; did you mean --steps?"),
        (["train"], "error: no shard set under data/: give --shards, or build one with `make shards CORPUS=…`"),
        (["train", "--shards", "nowhere", "--run", "r"], "error: nowhere is no shard set"),
        (["evaluate"], "error: --run: the folder of a run expected"),
        (["evaluate", "--run", "nowhere"], "error: nowhere has no checkpoint"),
        (["export", "nowhere", "--out", "o"], "error: nowhere has no checkpoint"),
        (["export", "nowhere"], "error: a run and --out expected"),
        (["sample", "--run", "nowhere"], "error: nowhere has no checkpoint"),
        (["compress", "--run", "r"], "error: the file comes first"),
        (["decompress", "x", "--run", "r"], "error: x: a name that ends in .bpx expected, or --out FILE"),
        (["sample", "--run", "r", "--temperature=-1"], "error: temperature -1.0"),
    ],
)
def test_an_error_is_one_line_and_code_two(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(message) and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.rglob("step_*"))


def test_the_newest_set_is_taken_and_the_run_named_after_it(
    tiny_folder: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, name in enumerate(("older", "newest", "old")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for item in tiny_folder.iterdir():
            target = tmp_path / "data" / name / item.name
            if item.is_dir():
                target.symlink_to(item)
            else:
                target.write_bytes(item.read_bytes())
        age = {"older": 1, "old": 2, "newest": 3}[name]
        os.utime(tmp_path / "data" / name / "manifest.json", (age, age))
        assert number < 3
    monkeypatch.chdir(tmp_path)
    assert newest_set().name == "newest"
    assert main(["train", *small(tiny_config)]) == 0
    assert "data/newest (the newest under data/)" in capsys.readouterr().out
    assert (tmp_path / "runs" / "newest-demo" / "result.json").exists()
    assert main(["train"]) == 0  # what is not given is the run's own
    assert "is done: 2 steps" in capsys.readouterr().out


@pytest.fixture
def finished(tiny_config: Config) -> tuple[Config, dict[str, Any]]:
    return tiny_config, train(tiny_config)


def test_evaluate_gives_the_figures_of_the_end_of_training(
    finished: tuple[Config, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    config, result = finished
    capsys.readouterr()
    assert main(["evaluate", "--run", config.run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["raw_bpb"] == result["raw_bpb"] and found["baselines"] == result["baselines"]
    assert (found["step"], found["bytes"]) == (12, result["val_bytes"])
    assert main(["evaluate", "--run", config.run, "--step", "8", "--eval-bytes=3000"]) == 0
    shown = capsys.readouterr().out
    assert "step_00000008" in shown and "brotli -11" in shown and "0.00 MB" in shown


def test_sample_prints_the_prompt_and_the_same_text_for_the_same_seed(
    finished: tuple[Config, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = finished
    capsys.readouterr()
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["sample", "--run", config.run, "--prompt", "class é", "--length", "40", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2] and texts[0].startswith("class é")


def sampled(config: Config, *more: str, stdin: bytes = b"", **variables: str) -> "subprocess.CompletedProcess[bytes]":
    arguments = [sys.executable, "-m", "trainer", "sample", "--run", config.run, "--length", "30", *more]
    return subprocess.run(
        arguments, input=stdin, capture_output=True, cwd=ROOT, env=os.environ | variables, timeout=240
    )


def test_prompts_of_a_file_are_answered_in_order_as_each_alone_and_no_compressor_is_there(
    finished: tuple[Config, dict[str, Any]], tmp_path: Path
) -> None:
    config, _ = finished
    for name in ("sentencepiece", "zstandard", "brotli", "deflate", "apache_beam"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    poisoned = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    prompts = [b"def f(", b"import os\nimport sys\n", b"\xff\xfe"]
    encoded = base64.b64encode(prompts[2]).decode()
    lines = b'"def f("\n\n{"prompt": "import os\\nimport sys\\n"}\n{"base64": "%s"}\n' % encoded.encode()
    alone = [sampled(config, "--bytes", "--prompt", os.fsdecode(prompt), **poisoned).stdout for prompt in prompts]
    for stdin in (lines, b"\0".join([*prompts, b""])):
        done = sampled(config, "--prompts", "-", stdin=stdin, **poisoned)
        assert done.returncode == 0, done.stderr
        bodies = [json.loads(line) for line in done.stdout.splitlines()]
        assert [body["number"] for body in bodies] == [0, 1, 2]
        found = [prompt + base64.b64decode(body["base64"]) for prompt, body in zip(prompts, bodies, strict=True)]
        assert found == alone


def test_stops_end_a_text_and_a_bad_line_of_prompts_is_named(finished: tuple[Config, dict[str, Any]]) -> None:
    config, _ = finished
    whole = sampled(config, "--bytes", "--temperature", "0", "--prompt", "de").stdout[2:]
    cut = sampled(config, "--bytes", "--temperature", "0", "--prompt", "de", "--stop", "\x01", "--stop",
                  os.fsdecode(whole[4:6])).stdout[2:]  # fmt: skip
    assert len(whole) == 30 and cut == whole[: whole.index(whole[4:6])]
    done = sampled(config, "--prompts", "-", stdin=b'"a"\nnot json\n')
    assert done.returncode == 2 and done.stderr.startswith(b"error: -, line 2: b'not json' found, a JSON text")


def test_a_model_without_raw_bytes_is_refused_by_evaluate_and_sample(tiny_config: Config) -> None:
    from shards.errors import ByteproxyError

    flags = [f"--run={tiny_config.run}", f"--shards={tiny_config.shards}", "--mode=tokens", *small(tiny_config)]
    assert main(["train", *flags]) == 0
    for verb in ("evaluate", "sample"):
        with pytest.raises(ByteproxyError, match="trained in mode tokens"):
            main([verb, "--run", tiny_config.run])


def test_a_run_keeps_its_settings_and_says_which_given_ones_differ(tiny_config: Config) -> None:
    from shards.errors import ByteproxyError

    flags = [f"--run={tiny_config.run}", f"--shards={tiny_config.shards}", "--eval-every=0", *small(tiny_config)]
    assert main(["train", *flags]) == 0
    with pytest.raises(ByteproxyError) as error:
        main(["train", f"--run={tiny_config.run}", "--preset=5m", "--lr=0.5"])
    assert "--preset: demo → 5m" in str(error.value) and "--lr: 0.003 → 0.5" in str(error.value)
    assert "--width" not in str(error.value)
