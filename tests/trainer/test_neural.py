"""The verb `neural`: an artifact at the end of training, no more scored than it needs, mistakes refused first."""

import json
from pathlib import Path

import pytest

from shards.codecs import load_codec, parse_view
from shards.codecs.neural.codec import Neural
from shards.errors import ByteproxyError
from trainer import baselines, evaluate
from trainer.__main__ import main

TINY = ("--width", "32", "--layers", "1", "--heads", "2", "--kv-heads", "2", "--head-dim", "16", "--mlp", "32",
        "--context", "96", "--batch-rows", "4", "--steps", "2", "--threads", "1", "--warmup-steps", "1",
        "--sample-bytes", "5000", "--device", "cpu", "--dtype", "float32", "--compile", "off")  # fmt: skip


def test_training_ends_with_an_artifact_and_scores_no_more_of_val_than_asked_for(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: object, **more: object) -> None:
        raise AssertionError("all of val is read, or compressed")

    monkeypatch.setattr(evaluate, "score", never)
    monkeypatch.setattr(baselines, "bits_per_byte", never)
    out = tmp_path / "lm"
    assert main(["neural", "--shards", str(tiny_folder), "--out", str(out), *TINY]) == 0
    facts = json.loads((out / "lm.json").read_text())
    assert 5000 <= facts["measured"]["bytes"] < 20_000 and facts["trained"]["step"] == 2
    assert 4 < facts["measured"]["bits_per_byte"] < 9
    assert "raw_bpb" not in json.loads((tmp_path / "lm.run" / "result.json").read_text())
    codec = Neural.fit((), **parse_view(f"neural:{out}").options)
    assert load_codec(out).decode(codec.encode(b"x = 1\n").symbols) == b"x = 1\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--context", "4096"), "--context 4096 found, at most 2048 expected"),
        (("--sample-bytes", "1k"), "--sample-bytes: '1k' found, a whole number expected"),
        (("--kv-heads", "1"), "as many --kv-heads as --heads"),
    ],
)
def test_what_the_codec_cannot_be_made_of_is_refused_before_training(
    tiny_folder: Path, tmp_path: Path, flags: tuple[str, str], message: str
) -> None:
    with pytest.raises(ByteproxyError, match=message):
        main(["neural", "--shards", str(tiny_folder), "--out", str(tmp_path / "lm"), *TINY, *flags])
    assert not list(tmp_path.iterdir())
