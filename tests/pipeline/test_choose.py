"""`--sample-rate` and `--limit`: ids decide which documents are taken; the others are accounted for."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cleaning.choose import BUCKETS, CountDraws, cut_of, keys_in_bucket, keys_of, last_kept
from pipeline.records import RECORD, pack, table
from shards.reader import ShardSet
from tests.pipeline.conftest import digests, run_build


def ids_of(out: Path) -> set[bytes]:
    opened = ShardSet.open(out)
    return {split.id(i) for split in map(opened.split, ("train", "val")) for i in range(len(split))}


def reasons_of(out: Path) -> Counter[str]:
    tables = [pq.read_table(path) for path in (out / "rejected").glob("*.parquet")]
    return Counter(reason for rows in tables for reason in rows["reason"].to_pylist())


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=60, unique=True), st.integers(1, 70))
def test_a_limit_keeps_exactly_the_first_in_the_order_of_the_draws(ids: list[bytes], limit: int) -> None:
    parts = [
        [(i, "s", None, None, None, None, 0, "n", 0, 0, b"", 0, 0, None, None) for i in part]
        for part in (ids[::2], ids[1::2])
    ]
    tables = [table(rows, RECORD) for rows in parts]
    count = CountDraws(7)
    sums = [count.add_input(count.create_accumulator(), pack(records)) for records in tables]
    counts = count.merge_accumulators(sums)
    assert counts.shape == (BUCKETS,) and counts.sum() == len(ids)
    keys = sorted(key for records in tables for key in keys_of(records, 7))
    cuts = cut_of(counts, limit)
    if len(ids) <= limit:
        assert cuts == []
    else:
        near = [key for records in reversed(tables) for key in keys_in_bucket(pack(records), 7, cuts[0])]
        assert last_kept(near, cuts[0]) == [keys[limit - 1]]


def test_a_smaller_share_lies_within_a_larger_one_and_the_others_are_rejected(code: Path, tmp_path: Path) -> None:
    assert run_build(code, tmp_path / "all") == 0
    assert run_build(code, tmp_path / "most", "--sample-rate", "0.8") == 0
    assert run_build(code, tmp_path / "half", "--sample-rate", "0.5") == 0
    everything, most, half = (ids_of(tmp_path / name) for name in ("all", "most", "half"))
    assert half < most < everything
    assert 0.35 * len(everything) < len(half) < 0.65 * len(everything)
    left = reasons_of(tmp_path / "half") - reasons_of(tmp_path / "all")
    assert left == {"not sampled": len(everything) - len(half)}


def test_a_limit_is_met_exactly_by_any_number_of_workers(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--sample-rate", "0.8", "--limit", "70")
    assert run_build(code, tmp_path / "one", *flags) == 0
    monkeypatch.setattr("pipeline.build.SURVEY_ALONE", 0)
    assert run_build(code, tmp_path / "two", *flags, "--workers", "2") == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(ids_of(tmp_path / "one")) == 70
    counts, reasons = ShardSet.open(tmp_path / "one").manifest.counts, reasons_of(tmp_path / "one")
    assert counts["found"] == 70 + reasons.total() and reasons["not sampled"] and reasons["over the limit"]


def test_a_limit_beyond_the_corpus_takes_all_of_it(code: Path, tmp_path: Path) -> None:
    assert run_build(code, tmp_path / "set", "--limit", "1000000") == 0
    assert "over the limit" not in reasons_of(tmp_path / "set")
