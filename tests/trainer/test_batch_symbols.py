"""`--batch-symbols`: rows and passes follow from a global batch in symbols; what does not divide is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from shards.errors import ByteproxyError
from tests.trainer.conftest import TINY
from trainer.config import Config, describe_batch, make_config
from trainer.train import train


def test_rows_and_passes_follow_from_symbols_context_and_ranks() -> None:
    config = make_config({"context": 4096, "batch_symbols": 2 << 20, "micro_rows": 8})
    assert config.batch_rows == 512
    expected = "global batch 2,097,152 symbols = 512 rows = 2 ranks x 32 passes of 8 rows"
    assert describe_batch(config, 2) == expected
    whole = make_config({"context": 4096, "batch_symbols": 2 << 20})
    assert describe_batch(whole, 1).endswith("= 1 rank x 1 pass of 512 rows")
    rows = make_config({"context": 4096, "batch_rows": 512})
    assert rows.batch_symbols == 0 and describe_batch(rows, 1) == describe_batch(whole, 1)
    assert "512 rows, on 3 ranks" in describe_batch(rows, 3)
    assert make_config(dataclasses.asdict(config)) == config  # resolved, both are given


@pytest.mark.parametrize(
    ("values", "message"),
    [({"batch_symbols": 1000}, "--batch-symbols 1000: a multiple of --context 272 expected, like 1088"),
     ({"batch_symbols": 10}, "like 272"), ({"batch_symbols": -1}, "--batch-symbols: -1 found, 0 or more"),
     ({"batch_symbols": 8 * 272, "batch_rows": 4}, "1088 found by --batch-rows 4 of --context 272"),
     ({"batch_symbols": 8 * 272, "micro_rows": 3}, "--batch-rows 8: a multiple of --micro-rows 3 expected"),
     ({"batch_symbols": "many"}, "a whole number expected")],
)  # fmt: skip
def test_what_does_not_divide_is_refused_with_what_would(values: dict[str, Any], message: str) -> None:
    base = {key: value for key, value in TINY.items() if key != "batch_rows"}
    with pytest.raises(ByteproxyError, match=message):
        make_config({**base, **values})


def test_ranks_that_do_not_divide_the_rows_are_refused() -> None:
    config = make_config({"context": 256, "batch_symbols": 16 * 256, "micro_rows": 4})
    with pytest.raises(
        ByteproxyError, match=r"16 rows found, a multiple of 12 expected: 3 ranks x --micro-rows 4.* 3072 s"
    ):
        describe_batch(config, 3)


def test_a_run_says_its_batch_and_stores_it_resolved(tiny_config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    base = {k: v for k, v in dataclasses.asdict(tiny_config).items() if k != "batch_rows"}
    config = make_config({**base, "batch_symbols": 6 * 272, "micro_rows": 2, "steps": 1, "eval_every": 0})
    train(config)
    assert "global batch 1,632 symbols = 6 rows = 1 rank x 3 passes of 2 rows" in capsys.readouterr().out
    stored = json.loads((Path(config.run) / "config.json").read_text())
    assert (stored["batch_symbols"], stored["batch_rows"], stored["micro_rows"]) == (1632, 6, 2)
