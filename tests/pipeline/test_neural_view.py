"""A neural view from a trained LM: built by one worker or two, added later, verified: always the same set."""

from pathlib import Path

import pytest

from pipeline.__main__ import main
from shards.__main__ import main as shards_main
from tests.pipeline.conftest import assert_built_or_added_alike, copy_code, run_build
from trainer.__main__ import main as trainer_main

TINY = ("--width", "64", "--layers", "2", "--heads", "2", "--kv-heads", "2", "--head-dim", "32", "--mlp", "96",
        "--context", "128", "--batch-rows", "8", "--steps", "12", "--eval-bytes", "1000", "--threads", "1",
        "--sample-bytes", "20000")  # fmt: skip


@pytest.mark.slow
def test_train_build_add_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = copy_code(tmp_path / "corpus", ("json",))
    for path in sorted(corpus.glob("*.py"))[:45]:
        path.unlink()
    assert run_build(corpus, tmp_path / "plain", views="gzip") == 0
    command = ["neural", "--shards", str(tmp_path / "plain"), "--out", str(tmp_path / "lm"), *TINY]
    assert trainer_main(command) == 0 and trainer_main(command) == 0
    assert "is there already" in capsys.readouterr().out
    view = f"neural:{tmp_path / 'lm'}"
    assert_built_or_added_alike(corpus, tmp_path, view)
    assert main(["add-view", str(tmp_path / "plain"), "--workers", "1", "--view", view]) == 0
    assert "has neural already" in capsys.readouterr().out
    assert shards_main(["verify", str(tmp_path / "plain")]) == 0
    assert "(of neural 2%)" in capsys.readouterr().out
    assert shards_main(["inspect", str(tmp_path / "plain"), "--document", "0"]) == 0
