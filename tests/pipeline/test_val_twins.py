"""`--drop-val-twins`: no document of val that is like one of train stays, all that go are in rejected/, train is as it
was.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cleaning.minhash import Sketcher, agreeing
from pipeline.cleaning.near import pack_keys
from pipeline.cleaning.val_twins import CompareSplits, Nearest, nearest, with_split, without_split
from pipeline.running.scratch import Scratch
from pipeline.running.storage import write_whole
from shards.errors import ByteproxyError
from shards.hashing import document_id
from tests.pipeline.conftest import copy_code, digests, run_build
from tests.pipeline.test_near import kept, rejected, variant

VAL = ("--val-fraction", "0.05")


@pytest.fixture(scope="module")
def twinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real code; many folders have a document that is like one in another folder."""
    corpus = copy_code(tmp_path_factory.mktemp("twinned") / "corpus")
    for number, path in enumerate(sorted(corpus.glob("*.py"))):
        (corpus / f"copies_{number:02}").mkdir()
        (corpus / f"copies_{number:02}" / "copy.py").write_text(variant(path.read_text(), number, 0.02))
    return corpus


def splits(out: Path) -> dict[str, dict[str, bytes]]:
    return {
        split: {
            r["path"]: r["raw"] for part in (out / split).glob("*.parquet") for r in pq.read_table(part).to_pylist()
        }
        for split in ("train", "val")
    }


def matrix(raws: dict[str, bytes]) -> tuple[list[str], np.ndarray]:
    """(Names, sketches) of the documents that have one, in order of their ids, which decides among equals."""
    ordered = sorted(raws.items(), key=lambda item: document_id(item[1]))
    sketches = {name: Sketcher().sketch(raw) for name, raw in ordered}
    rows = {name: np.frombuffer(sketch, "<u4") for name, sketch in sketches.items() if sketch is not None}
    return list(rows), np.stack(list(rows.values()))


def test_what_goes_is_what_a_comparison_of_all_of_val_with_all_of_train_finds(twinned: Path, tmp_path: Path) -> None:
    assert run_build(twinned, tmp_path / "with", *VAL, "--drop-val-twins") == 0
    assert run_build(twinned, tmp_path / "without", *VAL) == 0
    before, after = splits(tmp_path / "without"), splits(tmp_path / "with")
    assert before["train"] == after["train"]
    train, train_sketches = matrix(before["train"])
    val, val_sketches = matrix(before["val"])
    expected = {}
    for name, sketch in zip(val, val_sketches, strict=True):
        equal = np.count_nonzero(train_sketches == sketch, axis=1)
        if equal.max() >= agreeing(0.7, 256):
            expected[name] = f"of corpus/{train[int(equal.argmax())]}, similarity {equal.max() / 256:.3f}"
    left_out = {row["path"]: row for row in rejected(tmp_path / "with").values() if row["reason"] == "val twin"}
    assert {name: row["value"] for name, row in left_out.items()} == expected
    assert 0 < len(expected) < len(before["val"])
    assert after["val"].keys() == before["val"].keys() - expected.keys()
    everything = [p for p in twinned.rglob("*") if p.is_file()]
    assert len(kept(tmp_path / "with")) + len(rejected(tmp_path / "with")) == len(everything)


@pytest.mark.slow
def test_workers_and_sizes_have_no_say(twinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_build(twinned, tmp_path / "one", *VAL, "--drop-val-twins", "0.6") == 0
    monkeypatch.setattr("pipeline.reading.inputs.ITEM_FILES", 7)
    monkeypatch.setattr("pipeline.graph.bucket_count", lambda documents: 8)
    assert run_build(twinned, tmp_path / "two", *VAL, "--drop-val-twins", "0.6", "--workers", "2") == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.slow
def test_a_set_without_near_duplicates_has_no_twins_to_drop(
    twinned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_build(twinned, tmp_path / "set", *VAL, "--near-duplicates", "--drop-val-twins") == 0
    assert {row["reason"] for row in rejected(tmp_path / "set").values()} == {"duplicate", "near-duplicate"}
    assert "val twin (" in capsys.readouterr().err


def test_a_val_that_would_be_empty_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    text = (Path(np.__file__).parent / "conftest.py").read_text()
    for number in range(60):
        (corpus / f"d{number}").mkdir(parents=True)
        (corpus / f"d{number}" / "same.py").write_text(variant(text, number, 0.01))
    with pytest.raises(
        ByteproxyError, match=r"--drop-val-twins leaves too little for validation: 0\.5% .* --val-fraction"
    ):
        run_build(corpus, tmp_path / "set", "--drop-val-twins")


rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=40)


@settings(deadline=None)
@given(rows, st.integers(1, 4))
def test_of_several_twins_the_most_alike_counts_however_they_are_gathered(
    found: list[tuple[int, int, int]], parts: int
) -> None:
    expected = {}
    for number, equal, train in sorted(found, key=lambda row: (row[1], -row[2])):
        expected[number] = (equal, train)
    combine = Nearest()
    held = [combine.create_accumulator() for _ in range(parts)]
    for n, row in enumerate(found):
        held[n % parts] = combine.add_input(held[n % parts], np.array([row], np.int64))
    result = combine.extract_output(combine.merge_accumulators(held))
    assert {number: (equal, train) for number, equal, train in result.tolist()} == expected
    assert nearest(result).tolist() == result.tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 2**32 - 1), st.booleans())))
def test_a_number_carries_its_split_and_gives_it_back(given_numbers: list[tuple[int, int, bool]]) -> None:
    numbers = np.array([(area << 32) + row for area, row, _ in given_numbers], np.int64)
    val = np.array([v for _, _, v in given_numbers], bool)
    back, split = without_split(with_split(numbers, val))
    assert back.tolist() == numbers.tolist() and split.tolist() == val.tolist()


def test_of_all_that_meet_in_a_band_the_most_alike_in_train_is_named(tmp_path: Path) -> None:
    scratch, slots = Scratch(tmp_path), 64
    sketches = np.random.default_rng(0).integers(0, 2, (40, slots)).astype("<u4")  # any two agree in about half
    write_whole(scratch.sketches("range-000000"), sketches.tobytes())
    numbers, val = np.arange(40), np.arange(40) % 3 == 0
    packed = pack_keys(np.zeros(40, np.uint64), with_split(numbers, val))
    (found,) = CompareSplits(0.55, slots, scratch).process((0, [packed]))
    expected = []
    for number in numbers[val].tolist():
        equal = {other: int(np.count_nonzero(sketches[number] == sketches[other])) for other in numbers[~val].tolist()}
        best = max(equal, key=lambda other: (equal[other], -other))
        expected += [[number, equal[best], best]] if equal[best] >= agreeing(0.55, slots) else []
    assert found.tolist() == expected and len(expected) > 8
    alone = pack_keys(np.zeros(14, np.uint64), with_split(numbers[val], val[val]))
    assert CompareSplits(0.55, slots, scratch).process((0, [alone])) == []
