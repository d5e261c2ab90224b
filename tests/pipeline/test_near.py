"""Near-duplicates in a build: which documents go, which one stays, and that nothing but content has a say."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cleaning.minhash import Sketcher, agreeing, components
from pipeline.cleaning.near import Cluster, meetings, pack_keys, unpack_keys
from shards.hashing import document_id
from shards.manifest import Manifest
from shards.reader import ShardSet
from tests.pipeline.conftest import copy_code, digests, run_build

VAL = ("--val-fraction", "0.04")


def variant(text: str, seed: int, share: float) -> str:
    """A text with some of its lines replaced by others."""
    draw = random.Random(seed)
    lines = text.splitlines()
    for number in draw.sample(range(len(lines)), int(share * len(lines))):
        lines[number] = f"value_{seed}_{number} = compute_{draw.random()}(other)"
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two inputs of real code. Within and across them: families of variants, one long chain, exact duplicates, and
    documents shorter than a shingle.
    """
    first = copy_code(tmp_path_factory.mktemp("near") / "first")
    second = first.parent / "second"
    (second / "deep").mkdir(parents=True)
    for name in ("argparse", "ast", "calendar", "bdb"):
        text = (first / f"{name}.py").read_text()
        for seed in range(3):
            (second / "deep" / f"{name}_{seed}.py").write_text(variant(text, seed, 0.01))
    text = (first / "cmd.py").read_text()
    for seed in range(40):
        (first / f"many_{seed:02}.py").write_text(variant(text, seed, 0.005))
    lines = (first / "copy.py").read_text().splitlines()
    for step in range(12):  # each like the next; the first and the last have nothing in common
        (second / f"chain_{step:02}.py").write_text(
            "\n".join(f"{n} {lines[n % len(lines)]}" for n in range(10 * step, 10 * step + 120))
        )
    shutil.copy(first / "ast.py", second / "ast_again.py")
    for number in range(3):
        (second / f"short_{number}.py").write_text(f"a = {number}\n")
    return first, second


def rejected(out: Path) -> dict[str, dict]:
    rows = [row for part in (out / "rejected").glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    return {f"{row['source']}/{row['path']}": row for row in rows}


def kept(out: Path) -> dict[str, bytes]:
    rows = [
        row
        for split in ("train", "val")
        for part in (out / split).glob("*.parquet")
        for row in pq.read_table(part).to_pylist()
    ]
    return {f"{row['source']}/{row['path']}": row["raw"] for row in rows}


@pytest.fixture(scope="module")
def deduplicated(corpora: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dedup") / "set"
    assert run_build(",".join(map(str, corpora)), out, "--near-duplicates", *VAL) == 0
    return out


def test_of_each_cluster_the_first_by_place_stays_as_a_comparison_of_all_pairs_finds(
    corpora: tuple[Path, Path], deduplicated: Path
) -> None:
    documents = {f"{c.name}/{p.relative_to(c).as_posix()}": p.read_bytes() for c in corpora for p in c.rglob("*.py")}
    winners = {}
    for name, raw in sorted(documents.items()):
        winners.setdefault(document_id(raw), name)
    names = sorted(winners.values())
    sketches = {name: Sketcher().sketch(documents[name]) for name in names}
    long = [name for name in names if sketches[name]]
    matrix = np.stack([np.frombuffer(sketches[name] or b"", "<u4") for name in long])
    edges = [
        (i, int(j))
        for i in range(len(long))
        for j in np.flatnonzero(np.count_nonzero(matrix[i + 1 :] == matrix[i], axis=1) >= agreeing(0.7, 256)) + i + 1
    ]
    nodes, roots = components(np.array(edges))
    expected = {long[node]: long[root] for node, root in zip(nodes, roots, strict=True) if node != root}
    found = {
        n: row["value"].split(",")[0][3:]
        for n, row in rejected(deduplicated).items()
        if row["reason"] == "near-duplicate"
    }
    assert len(expected) > 4 * 3 + 39 + 5
    assert found == expected
    assert expected["second/deep/ast_2.py"] == "first/ast.py"
    assert expected["second/chain_11.py"] == "second/chain_00.py"


def test_nothing_is_lost_and_the_report_counts_the_clusters(corpora: tuple[Path, Path], deduplicated: Path) -> None:
    left_out, stayed = rejected(deduplicated), kept(deduplicated)
    everything = {f"{c.name}/{p.relative_to(c).as_posix()}" for c in corpora for p in c.rglob("*") if p.is_file()}
    assert set(left_out) | set(stayed) == everything and not set(left_out) & set(stayed)
    near = [row for row in left_out.values() if row["reason"] == "near-duplicate"]
    clusters = json.loads((deduplicated / "report.json").read_text())["near_duplicates"]["clusters"]
    assert sum((int(size) - 1) * count for size, count in clusters.items()) == len(near)
    assert clusters["41"] == 1 and clusters["4"] >= 4
    assert all(f"second/short_{n}.py" in stayed for n in range(3))
    for row in near:
        winner, _, similarity = row["value"][3:].partition(", similarity ")
        assert winner in stayed and 0 <= float(similarity) <= 1
    manifest = Manifest.load(deduplicated)
    assert manifest.config["near_duplicates"] == 0.7 and manifest.stages["near-duplicates"] == 1
    assert "rensa" in manifest.libraries
    assert left_out["second/ast_again.py"]["reason"] == "duplicate"


def test_the_set_is_the_same_for_any_number_of_workers_any_order_of_inputs_and_any_size_of_items(
    corpora: tuple[Path, Path], deduplicated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_way = ",".join(map(str, reversed(corpora)))
    assert run_build(other_way, tmp_path / "two", "--near-duplicates", *VAL, "--workers", "2") == 0
    monkeypatch.setattr("pipeline.reading.inputs.ITEM_FILES", 7)
    monkeypatch.setattr("pipeline.graph.bucket_count", lambda documents: 16)
    monkeypatch.setattr("pipeline.cleaning.near.FOLD", 3)
    monkeypatch.setattr("pipeline.cleaning.near.OPEN_FILES", 2)
    assert run_build(other_way, tmp_path / "cut", "--near-duplicates", *VAL) == 0
    assert digests(deduplicated) == digests(tmp_path / "two") == digests(tmp_path / "cut")


@pytest.mark.slow
def test_a_corpus_without_near_duplicates_is_what_it_is_without_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = copy_code(tmp_path / "code", ("json", "email", "logging"))
    for name, flags in (("with", ("--near-duplicates", "0.95")), ("without", ())):
        assert run_build(corpus, tmp_path / name, *VAL, *flags) == 0
    splits = [
        {n: d for n, d in digests(tmp_path / name).items() if n.endswith("parquet")} for name in ("with", "without")
    ]
    assert splits[0] == splits[1] != {}
    assert "left nothing out (documents that each was held against): near-duplicate (" in capsys.readouterr().err


@pytest.mark.slow
def test_a_lower_threshold_leaves_out_more_and_keeps_one_of_all(corpora: tuple[Path, Path], tmp_path: Path) -> None:
    def near(*flags: str) -> set[str]:
        out = tmp_path / "-".join(flags)
        assert run_build(",".join(map(str, corpora)), out, *flags, *VAL) == 0
        opened = ShardSet.open(out)
        assert len(opened.split("train")) and len(opened.split("val"))
        return {name for name, row in rejected(out).items() if row["reason"] == "near-duplicate"}

    strict = near("--near-duplicates=0.99")
    loose = near("--near-duplicates=0.5", "--near-permutations=128", "--near-words=3")
    assert strict < loose


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--near-duplicates=1.5", "--near-duplicates 1.5: must be between 0.2 and 1"),
        ("--near-permutations=1", "--near-permutations 1: must be between 16 and 1024"),
        ("--near-words=0", "--near-words 0: must be between 1 and 64"),
    ],
)
def test_choices_that_make_no_sense_are_refused(
    fails: Callable[..., str], code: Path, tmp_path: Path, flag: str, expected: str
) -> None:
    assert expected in fails(str(code), "--out", str(tmp_path / "o"), flag)


entries = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 4)), max_size=60)


@settings(deadline=None)
@given(entries, st.integers(1, 4))
def test_documents_that_share_a_key_meet_and_no_others(rows: list[tuple[int, int, int]], parts: int) -> None:
    owned = [(key, (area << 32) + row) for key, area, row in set(rows)]
    packed = [
        pack_keys(np.array([k for k, _ in part], np.uint64), np.array([o for _, o in part], np.int64))
        for part in (owned[n::parts] for n in range(parts))
        if part
    ]
    keys, owners = unpack_keys(packed)
    assert list(zip(keys.tolist(), owners.tolist(), strict=True)) == sorted(owned)
    expected = {tuple(sorted(o for k, o in owned if k == key)) for key, _ in owned}
    found = [tuple(group.tolist()) for group in meetings(packed)]
    assert sorted(found) == sorted(group for group in expected if len(group) > 1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=40), st.integers(1, 5))
def test_clusters_are_the_same_however_edges_are_gathered(pairs: list[tuple[int, int]], parts: int) -> None:
    combine = Cluster()
    accumulators = []
    for n in range(parts):
        held = combine.create_accumulator()
        for pair in pairs[n::parts]:
            held = combine.add_input(held, np.array([pair], np.int64))
        accumulators.append(held)
    merged = combine.merge_accumulators(accumulators)
    assert combine.extract_output(merged).tolist() == components(np.array(pairs, np.int64)).tolist()
    assert combine.extract_output(combine.create_accumulator()).shape == (2, 0)
