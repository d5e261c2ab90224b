"""Several compressed views in one run: by their shares, in a stated unit, bit for bit alike after a resume."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from shards.errors import ByteproxyError
from trainer import checkpoint
from trainer.config import Config
from trainer.loader import Loader
from trainer.mixture import open_mixture, parse_views
from trainer.train import train


def totals(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and bytes of text by view of a whole run's batches."""
    mixture = open_mixture(config)
    with Loader(mixture.sources, mixture.views, config, None, 0, shares=mixture.shares) as loader:
        found = [(batch.symbols.copy(), batch.raw_bytes.copy()) for batch, _ in loader]
    symbols, texts = (np.sum(part, axis=0) for part in zip(*found, strict=True))
    return symbols, texts


def test_views_are_read_with_their_shares_and_what_is_wrong_is_named() -> None:
    assert parse_views("sentencepiece") == {"sentencepiece": 1.0}
    assert parse_views("sentencepiece:0.6, neural:.3") == {"sentencepiece": 0.6, "neural": 0.3}
    for text in ("", "a:0", "a:x", "a,,b", "a:nan", "a:inf", ":1"):
        with pytest.raises(ByteproxyError, match="a view or view:share"):
            parse_views(text)
    with pytest.raises(ByteproxyError, match="a is there twice"):
        parse_views("a:0.5,a:0.5")


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_each_view_gets_its_share_of_the_text(share: float, tiny_config: Config) -> None:
    """Shares of compressed documents, so of their bytes on average."""
    views = f"sentencepiece:{share},gzip:{1 - share}"
    config = dataclasses.replace(
        tiny_config, views=views, translation=0.0, anneal=0.0, rate=1.0, rate_start=1.0, steps=12_000
    )
    _, texts = totals(config)
    assert texts[0] == 0
    assert texts[1] / texts.sum() == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("unit", ["documents", "symbols"])
def test_the_rate_is_the_share_in_its_unit(unit: str, tiny_config: Config) -> None:
    config = dataclasses.replace(
        tiny_config, rate=0.5, rate_start=0.5, rate_unit=unit, translation=0.0, anneal=0.0, steps=12_000
    )
    symbols, texts = totals(config)
    counts = texts if unit == "documents" else symbols
    assert counts[1] / counts.sum() == pytest.approx(0.5, abs=0.04)
    other = symbols if unit == "documents" else texts
    assert abs(other[1] / other.sum() - 0.5) > 0.06  # the units differ


def test_a_run_on_two_views_resumes_bit_for_bit(tiny_config: Config, tmp_path: Path) -> None:
    base = dataclasses.replace(
        tiny_config, views="sentencepiece:0.2,gzip:0.8", pairs=0.05, keep=0, eval_every=0, anneal=0.0
    )
    whole, resumed = (dataclasses.replace(base, run=str(tmp_path / name)) for name in ("whole", "resumed"))
    result = train(whole)
    assert list(result["symbols"]) == ["raw", "sentencepiece", "gzip"] and all(result["symbols"].values())
    shutil.copytree(whole.run, resumed.run)
    for step in (8, 12):
        shutil.rmtree(checkpoint.folder_of(Path(resumed.run), step))
    (Path(resumed.run) / "result.json").unlink()
    train(resumed)
    folders = [checkpoint.folder_of(Path(config.run), 12) for config in (whole, resumed)]
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    planners = [json.loads((folder / checkpoint.STATE).read_text())["planner"] for folder in folders]
    assert planners[0] == planners[1]


def test_other_shares_are_another_run_and_a_setting_that_is_new_is_not(tiny_config: Config) -> None:
    config = dataclasses.replace(tiny_config, steps=2, eval_every=0, views="sentencepiece:0.6,gzip:0.4")
    train(config)
    with pytest.raises(ByteproxyError, match=r"--views: sentencepiece:0\.6,gzip:0\.4 → sentencepiece"):
        train(dataclasses.replace(config, views="sentencepiece"))
    path = checkpoint.folder_of(Path(config.run), 2) / checkpoint.STATE
    state = json.loads(path.read_text())
    del state["config"]["pairs"]  # as if written before there was such a setting
    path.write_text(json.dumps(state))
    assert train(config)["step"] == 2
    with pytest.raises(ByteproxyError, match=r"--pairs: 0\.0 → 0\.1"):
        train(dataclasses.replace(config, pairs=0.1))
