"""Configs: preset under file under flags; every mistake named with the way out."""

import dataclasses
from pathlib import Path

import pytest

from shards.errors import ByteproxyError
from trainer.config import Config, differences, make_config
from trainer.flags import describe_fields, parse_flags, parse_options, read_toml


def test_flags_go_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('preset = "25m"\nsteps = 7\nlr = 1\nbatch-rows = 3\n')
    flags, _ = parse_flags(["--steps=9", "--rate-start", "0.5", "--check", "off", "--micro_rows", "1"])
    config = make_config(read_toml(tmp_path / "run.toml") | flags)
    assert (config.width, config.steps, config.lr, config.batch_rows) == (512, 9, 1.0, 3)
    assert (config.rate_start, config.check, config.micro_rows) == (0.5, "off", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stpes", "3"], "--stpes is not known; did you mean --steps?"),
        (["--steps", "many"], "--steps: 'many' found, a whole number expected"),
        (["--steps", "1.5"], "--steps: '1.5' found, a whole number expected"),
        (["--lr", "fast"], "--lr: 'fast' found, a number expected"),
        (["--check", "maybe"], "--check: 'maybe' found, one of fail, quarantine, off expected"),
        (["--steps"], "--steps: a value expected after it"),
        (["steps=3"], "'steps=3' found, a flag like --steps expected"),
        (["--mode", "prxy"], "--mode: 'prxy' found, one of proxy, bytes, tokens, parallel expected"),
        (["--rate", "1.5"], "--rate: 1.5 found, a number from 0 to 1 expected"),
        (["--rate-end", "-0.5"], "--rate-end: -0.5 found, a number from 0 to 1 expected, or -1"),
        (["--steps", "0"], "--steps: 0 found, more than 0 expected"),
        (["--anneal", "0.9"], "together at most 1 expected"),
        (["--heads", "3", "--kv-heads", "2"], "--heads 3: a multiple of --kv-heads 2 expected"),
        (["--batch-rows", "10", "--micro-rows", "3"], "--batch-rows 10: a multiple of --micro-rows 3 expected"),
        (["--preset", "huge"], "preset 'huge' found, one of demo, 5m, 25m, 100m, 500m, lm-1m, lm-3m, lm-40m expected"),
        (["--lr", "nan"], "--lr: nan found"),
        (["--keep", "-1"], "--keep: -1 found, 0 or more expected"),
        (["--keep-every", "-1"], "--keep-every: -1 found, 0 or more expected"),
        (["--spike", "nan"], "--spike: nan found, 0 or more expected"),
    ],
)
def test_a_wrong_flag_is_refused_by_name(arguments: list[str], message: str) -> None:
    with pytest.raises(ByteproxyError) as error:
        make_config(parse_flags(arguments)[0])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contxt = 3", "key 'contxt' is not known; did you mean --context?"),
        ('steps = "3"', "--steps: '3' found, a whole number expected"),
        ("check = 1", "--check: 1 found, a text expected"),
        ("steps = true", "--steps: True found, a whole number expected"),
        ("steps 3", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ByteproxyError) as error:
        make_config(read_toml(tmp_path / "run.toml"))
    assert message in str(error.value)
    with pytest.raises(ByteproxyError, match="No such file"):
        read_toml(tmp_path / "other.toml")


def test_flags_of_small_verbs_take_the_types_of_their_defaults() -> None:
    defaults = {"run": "", "step": -1, "json": False, "top_p": 0.9}
    found = parse_options(["--run", "r", "--step=3", "--json", "--top-p", "1"], defaults)
    assert found == {"run": "r", "step": 3, "json": True, "top_p": 1.0}
    with pytest.raises(ByteproxyError, match=r"did you mean --step\?"):
        parse_options(["--stpe", "3"], defaults)


def test_every_field_is_explained_and_only_what_moves_no_weight_may_change() -> None:
    text = describe_fields(Config())
    for field in dataclasses.fields(Config):
        assert field.metadata["help"] and f"--{field.name.replace('_', '-')} " in text
    old = dataclasses.asdict(Config())
    free = {"shards": "x", "run": "y", "prefetch": 9, "log_every": 3, "keep": 7, "checkpoint_every": 2, "eval_every": 1}
    free |= {"keep_every": 5, "spike": 0.0}
    assert differences(old, old | free) == []
    assert differences(old, old | {"lr": 1.0, "steps": 5}) == ["--steps: 1000 → 5", "--lr: 0.003 → 1.0"]
