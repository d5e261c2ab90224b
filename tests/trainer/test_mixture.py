"""What a run trains on: several sets, what is left out, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from tests.sets import build_set, standard_library
from trainer.config import Config
from trainer.loader import Loader
from trainer.mixture import describe, open_mixture, parse_shards, read_ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data/a", [("data/a", 1.0)]),
        ("data/a:0.7,data/b:0.3", [("data/a", 0.7), ("data/b", 0.3)]),
        ("a:2, b", [("a", 2.0), ("b", 1.0)]),
        ("s3://bucket/set", [("s3://bucket/set", 1.0)]),
        ("s3://bucket/set:3,gs://other/x:.5", [("s3://bucket/set", 3.0), ("gs://other/x", 0.5)]),
        ("s3://b/set?endpoint_override=host:5000", [("s3://b/set?endpoint_override=host:5000", 1.0)]),
    ],
)
def test_sets_and_their_weights(text: str, expected: list[tuple[str, float]]) -> None:
    assert parse_shards(text) == expected


@pytest.mark.parametrize("text", ["", "a,,b", "a:0"])
def test_a_mixture_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ByteproxyError, match="--shards"):
        parse_shards(text)


def test_sets_whose_views_differ_are_refused(tiny_config: Config, tmp_path: Path) -> None:
    texts = standard_library(9_000, 12)
    other = build_set(tmp_path / "other", texts[1:], texts[:1], "sentencepiece:vocab=340")
    config = replace(tiny_config, shards=f"{tiny_config.shards},{other}")
    with pytest.raises(ByteproxyError, match=r"view sentencepiece of .*other was made by another codec"):
        open_mixture(config)
    mixture = open_mixture(replace(config, mode="bytes"))  # which reads no view
    assert len(mixture.sets) == 2 and "order of set 1" in mixture.digests
    assert "set: 50% " in describe(mixture, config)[0]


def test_excluded_documents_are_left_out_and_ordinals_stay(tiny_config: Config, tmp_path: Path) -> None:
    split = ShardSet.open(tiny_config.shards).split("train")
    victims = {3, 11, 12}
    lines = [split.id(i).hex() for i in victims]
    (tmp_path / "ids.txt").write_text("# taken down\n" + "\n".join(lines) + f"\n\n{'0' * 32}  # not in this set\n")
    config = replace(tiny_config, exclude=str(tmp_path / "ids.txt"), mode="bytes", steps=400)
    mixture = open_mixture(config)
    assert mixture.sources[0].excluded.tolist() == sorted(victims)
    assert mixture.digests["excluded"] and "excluded" not in open_mixture(tiny_config).digests
    seen: list[int] = []
    with Loader(mixture.sources, mixture.views, config, None, 0) as loader:
        for plan, state in loader.planner.plans(loader.planner.initial()):
            seen += [piece.ordinal for piece in plan.pieces if piece.begin == 0]
            if state.taken_S[0] >= len(split):
                break
    assert set(seen) == set(range(len(split))) - victims
    alone = open_mixture(replace(config, exclude=""))
    with Loader(alone.sources, [], config, None, 0) as loader:
        order = [loader.planner.orders[0][k] for k in range(len(split))]
    assert list(dict.fromkeys(seen))[:20] == [i for i in order if i not in victims][:20]


def test_a_bad_line_of_the_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("0" * 32 + "\nabc\n")
    with pytest.raises(ByteproxyError, match=r"ids.txt, line 2: 'abc' found, an id of 32 hex digits expected"):
        read_ids(tmp_path / "ids.txt")
