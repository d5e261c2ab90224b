"""What is a duplicate, what is val, what is sampled, what is a twin: pure functions, and none depends on order."""

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cleaning.dedup import cut_by_range, deduplicate
from pipeline.cleaning.twins import THRESHOLD, TwinIndex
from pipeline.fit import quotas
from pipeline.records import RECORD, pack, table, unpack
from pipeline.split import BUCKETS, VAL_MAX, VAL_MIN, Layout, choose_val, folder_bytes, group_buckets, group_of, is_big
from shards.errors import ByteproxyError
from shards.hashing import document_id


def row(text: bytes, source: str, path: str | None, offset: int = 0, size: int | None = None) -> tuple[object, ...]:
    folders = path.rpartition("/")[0] if path else None
    grouping = f"{source}/{folders}" if folders else source if path else None
    length = len(text) if size is None else size
    return (
        document_id(text),
        source,
        path,
        "python",
        None,
        grouping,
        length,
        "input",
        0,
        0,
        b"/x",
        0,
        offset,
        None,
        None,
    )


rows = st.lists(
    st.tuples(st.binary(max_size=1), st.sampled_from("ab"), st.sampled_from(["x", "d/y", None]), st.integers(0, 3)),
    min_size=1, max_size=30,
)  # fmt: skip


@settings(deadline=None)
@given(rows, st.randoms(use_true_random=False), st.integers(1, 8))
def test_the_winner_among_duplicates_is_the_first_by_place_whatever_the_order(
    parts: list[tuple[bytes, str, str | None, int]], shuffler: random.Random, ranges: int
) -> None:
    records = list(dict.fromkeys(row(*part) for part in parts))
    shuffler.shuffle(records)
    kept, lost = [], 0
    for _, cut in cut_by_range(table(records, RECORD), ranges):
        winners, losers, _ = deduplicate(unpack([pack(cut)]))
        kept += winners.to_pylist()
        lost += losers.num_rows
    assert len(kept) + lost == len(records)
    best: dict[object, tuple[object, ...]] = {}
    for record in records:
        place = (record[1], record[2] is None, record[2] or "", record[12])
        best[record[0]] = min(best.get(record[0], place), place)
    found = {r["id"]: (r["source"], r["path"] is None, r["path"] or "", r["number"]) for r in kept}
    assert found == best


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.integers(0, BUCKETS - 1), st.integers(1, 1000), max_size=300), st.floats(VAL_MIN, VAL_MAX))
def test_val_is_between_its_bounds_or_an_error(sums: dict[int, int], fraction: float) -> None:
    sizes = np.zeros(BUCKETS, np.int64)
    sizes[list(sums)] = list(sums.values())
    try:
        val = choose_val(sizes, fraction)
    except ByteproxyError:
        total = sizes.sum()
        assert sizes[sizes <= (VAL_MAX - VAL_MIN) * total].sum() < VAL_MIN * total or not total
        return
    assert VAL_MIN * sizes.sum() <= sizes[val].sum() <= VAL_MAX * sizes.sum()


def test_one_document_cannot_be_split_and_the_error_says_so() -> None:
    sizes = np.zeros(BUCKETS, np.int64)
    sizes[7] = 100
    with pytest.raises(ByteproxyError, match=r"0\.5% to 5% of 100 bytes are expected, 0\.00% found.*add documents"):
        choose_val(sizes, 0.02)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a/x", "a/b/x", "a/b/c/x", "d/x", "x"]), st.integers(0, 100)), min_size=1))
def test_a_group_is_the_outermost_folder_that_is_not_too_big(documents: list[tuple[str, int]]) -> None:
    records = table([row(b"%d" % n, "s", path, size=size) for n, (path, size) in enumerate(documents)], RECORD)
    total = sum(size for _, size in documents)
    sums = dict(folder_bytes(records))
    assert sums["s"] == total
    big = {folder for folder, size in sums.items() if is_big(size, total)}
    for grouping in records["grouping"].to_pylist():
        group = group_of(grouping, big)
        parts = grouping.split("/")
        chain = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if group is None:
            assert set(chain) <= big
        else:
            assert group not in big and set(chain[: chain.index(group)]) <= big


def test_documents_of_a_group_share_a_bucket_and_ungrouped_ones_do_not() -> None:
    records = table(
        [row(b"%d" % n, "s", f"d/{n}") for n in range(50)] + [row(b"u%d" % n, "s", None) for n in range(50)], RECORD
    )
    buckets = group_buckets(records, {"s"}, 0)
    assert len(set(buckets[:50])) == 1
    assert len(set(buckets[50:])) > 45
    assert set(group_buckets(records, {"s", "s/d"}, 0)[:50]) != set(buckets[:50])
    assert not np.array_equal(buckets, group_buckets(records, {"s"}, 1))


@given(st.integers(1, 1 << 40), st.integers(1 << 16, 1 << 30), st.integers(1 << 10, 1 << 28))
def test_shards_are_whole_numbers_of_blocks_in_order(size: int, shard_bytes: int, block_bytes: int) -> None:
    layout = Layout.of(1, size, shard_bytes, block_bytes)
    assert layout.blocks % layout.shards == 0
    assert layout.shard_of(0) == 0 and layout.shard_of(layout.blocks - 1) == layout.shards - 1


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=200), st.integers(1, 50))
def test_ranges_of_ids_follow_the_order_of_ids(ids: list[bytes], ranges: int) -> None:
    records = table([(i, "s", None, None, None, None, 0, "n", 0, 0, b"", 0, 0, None, None) for i in ids], RECORD)
    cuts = cut_by_range(records, ranges)
    assert sum(cut.num_rows for _, cut in cuts) == len(ids)
    last = b""
    for number, cut in cuts:
        column = cut["id"].to_pylist()
        assert all(int.from_bytes(i[:4], "big") * ranges >> 32 == number for i in column)
        assert min(column) >= last
        last = max(column)


@given(st.dictionaries(st.text(max_size=4), st.integers(0, 10**9), max_size=20), st.integers(1, 10**8))
def test_quotas_fill_the_sample_and_leave_no_language_out(available: dict[str, int], sample: int) -> None:
    found = quotas(available, sample)
    assert all(0 <= found[name] <= size for name, size in available.items())
    assert sum(found.values()) <= sample
    if sum(available.values()) <= sample:
        assert found == available
    floor = sample // (4 * max(1, len(available)))
    assert all(found[name] >= min(size, floor) for name, size in available.items())


lines = st.lists(st.sampled_from([b"a", b"  b", b"c  ", b"d", b"e", b"f", b"", b"g"]), max_size=14)


@settings(deadline=None)
@given(st.lists(lines, max_size=6), st.lists(lines, max_size=6))
def test_twins_are_those_that_a_plain_count_of_lines_finds(val: list[list[bytes]], train: list[list[bytes]]) -> None:
    index = TwinIndex.of([b"\n".join(document) for document in val])
    for document in train:
        mine = set(document) - {b""}
        expected = []
        for number, other in enumerate(val):
            theirs = set(other) - {b""}
            if mine and theirs and len(mine & theirs) >= THRESHOLD * len(mine | theirs):
                expected.append(number)
        assert index.twins_of(b"\r\n".join(document)) == expected


def test_packing_a_slice_carries_its_own_rows_only() -> None:
    records = table([row(os.urandom(4), "s", "p" * 100) for _ in range(1000)], RECORD)
    assert len(pack(records.slice(10, 2))) < 4000
    assert unpack([pack(records.slice(10, 2)), pack(records.slice(0, 1))]).num_rows == 3
