"""What `auto` settings become: what pays on this machine, or what the run was begun with."""

import dataclasses
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from trainer.config import Config
from trainer.runtime import WORTH_COMPILING, resolve


def test_a_long_run_is_compiled_where_there_is_a_compiler_a_short_one_is_not(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_config, compile="auto", steps=WORTH_COMPILING)
    able = bool(shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"))
    able &= Path(sysconfig.get_path("include"), "Python.h").exists()
    assert resolve(config, {}).compile == ("on" if able else "off")
    assert resolve(dataclasses.replace(config, steps=WORTH_COMPILING - 1), {}).compile == "off"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert resolve(config, {}).compile == "off"
    assert resolve(config, {"compile": "on"}).compile == "on"  # as the run was begun
    assert resolve(dataclasses.replace(config, compile="on"), {}).compile == "on"


def test_a_resumed_run_keeps_its_threads_and_dtype(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, threads=0, dtype="auto", device="auto")
    kept = resolve(config, {"threads": 7, "dtype": "float32", "device": "cpu"})
    assert (kept.threads, kept.dtype, kept.device) == (7, "float32", "cpu")


def test_a_device_that_is_not_there_is_refused(tiny_config: Config) -> None:
    arguments = [sys.executable, "-m", "trainer", "train", f"--shards={tiny_config.shards}", f"--run={tiny_config.run}"]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # on a machine that has one too
    done = subprocess.run([*arguments, "--device=cuda:0"], env=hidden, capture_output=True, text=True, timeout=120)
    assert done.returncode and "sees no CUDA device; --device cpu expected" in done.stderr
