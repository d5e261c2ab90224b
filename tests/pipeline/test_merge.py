"""merge: the joined set holds what its sets held, once, where it was, in whatever order they are named."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.__main__ import main
from pipeline.reporting.report import load_report
from pipeline.reporting.report_fields import undocumented
from shards.__main__ import main as shards_main
from shards.reader import ShardSet
from tests.pipeline.conftest import STDLIB, copy_code, digests, run_build

SMALL = ("--shard-bytes", "700k", "--row-group-bytes", "300k")
VIEWS = "sentencepiece:vocab=400 gzip"


def merge(out: Path, *sets: Path, flags: tuple[str, ...] = ()) -> int:
    return main(["merge", *map(str, sets), "--out", str(out), "--workers", "1", "--block-bytes", "100k", *flags])


def rejected_rows(out: Path) -> list[dict[str, object]]:
    return [row for path in sorted((out / "rejected").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def documents_of(out: Path) -> dict[str, dict[bytes, dict[str, str | None]]]:
    splits = {name: ShardSet.open(out).split(name) for name in ("train", "val")}
    return {name: {split.id(i): split.meta(i) for i in range(len(split))} for name, split in splits.items()}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three sets with the same codecs that share many documents, some of them in val here and in train there."""
    folder = tmp_path_factory.mktemp("three")
    sets: list[Path] = []
    for number, packages in enumerate((("json", "email", "xml"), ("json", "logging", "html"), ("urllib", "email"))):
        corpus = copy_code(folder / f"corpus{number}", packages)
        (corpus / "picture.png").write_bytes(b"no code")
        shutil.copy(STDLIB / "ast.py", corpus / "again.py")
        given = ("--codecs-from", str(sets[0])) if sets else ()
        flags = (*SMALL, "--seed", str(number), "--val-fraction", "0.04", *given)
        assert run_build(corpus, folder / f"set{number}", *flags, views="" if sets else VIEWS) == 0
        sets.append(folder / f"set{number}")
    val = [set(documents_of(out)["val"]) for out in sets]
    train = [set(documents_of(out)["train"]) for out in sets]
    assert any(val[a] & train[b] for a in range(3) for b in range(3))  # or the test below would prove little
    return sets


@pytest.fixture(scope="module")
def joined(three: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joined") / "set"
    assert merge(out, *three) == 0
    return out


def test_each_document_is_there_once_in_its_split_and_the_others_are_rejected(three: list[Path], joined: Path) -> None:
    before, after = [documents_of(out) for out in three], documents_of(joined)
    val = {identity for documents in before for identity in documents["val"]}
    every = {identity for documents in before for split in documents.values() for identity in split}
    assert set(after["val"]) == val and set(after["train"]) == every - val
    manifests = [ShardSet.open(out).manifest for out in three]
    counts = ShardSet.open(joined).manifest.counts
    assert counts["found"] == sum(manifest.counts["found"] for manifest in manifests)
    rejected = rejected_rows(joined)
    assert counts["documents"] + len(rejected) == counts["found"] and counts["rejected"] == len(rejected)
    reasons = Counter(str(row["reason"]) for row in rejected)
    former = Counter(str(row["reason"]) for out in three for row in rejected_rows(out))
    copies = sum(len(split) for documents in before for split in documents.values()) - len(every)
    moved = sum(identity in val for documents in before for identity in documents["train"])
    assert moved and reasons == former + Counter({"in val of another set": moved, "duplicate": copies - moved})
    kept = {identity: meta for split in after.values() for identity, meta in split.items()}
    for row in rejected:
        if row["reason"] == "in val of another set":
            meta = after["val"][row["id"]]  # type: ignore[index]
            assert row["value"] == f"of {meta['source']}/{meta['path']}"
        elif row["reason"] == "duplicate" and str(row["source"]) != str(kept[row["id"]]["source"]):  # type: ignore[index]
            assert row["id"] in val or str(row["source"]) > str(kept[row["id"]]["source"])  # type: ignore[index]


def test_values_and_codecs_are_those_of_the_sets(three: list[Path], joined: Path) -> None:
    after = ShardSet.open(joined)
    assert undocumented(load_report(joined))[0] == set()
    assert after.manifest.views == ShardSet.open(three[0]).manifest.views
    for out in three:
        opened = ShardSet.open(out)
        for name in ("train", "val"):
            split = opened.split(name)
            for i in range(0, len(split), 7):
                target, number = next(
                    (s, n) for s in map(after.split, ("train", "val")) if (n := s.find(split.id(i))) is not None
                )
                assert np.array_equal(split.raw(i), target.raw(number))
                for view in after.views:
                    assert np.array_equal(split.symbols(i, view), target.symbols(number, view))
                    assert np.array_equal(split.anchors(i, view), target.anchors(number, view))
    assert shards_main(["verify", str(joined)]) == 0


def test_the_order_of_the_sets_their_places_and_the_size_of_blocks_change_no_byte(
    three: list[Path], joined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(three[1], tmp_path / "a copy")
    sets = (three[2], tmp_path / "a copy", three[0])
    assert main(["merge", *map(str, sets), "--out", str(tmp_path / "set"), "--workers", "1"]) == 0
    assert digests(tmp_path / "set") == digests(joined)
    assert len(ShardSet.open(joined).manifest.splits["train"]) > 2
    assert merge(joined, *reversed(three)) == 0
    assert "merged there already" in capsys.readouterr().out


def test_one_set_twice_gives_that_set_and_a_view_can_be_added_to_it(three: list[Path], tmp_path: Path) -> None:
    shutil.copytree(three[0], tmp_path / "copy")
    assert merge(tmp_path / "set", three[0], tmp_path / "copy") == 0
    before, after = ShardSet.open(three[0]).manifest, ShardSet.open(tmp_path / "set").manifest
    for split in ("train", "val"):
        assert [file.sha256 for file in after.splits[split]] == [file.sha256 for file in before.splits[split]]
    assert main(["add-view", str(tmp_path / "set"), "--view", "brotli zstd:dictionary=4K", "--workers", "1"]) == 0
    assert shards_main(["verify", str(tmp_path / "set")]) == 0


def test_documents_larger_than_a_shard_leave_ranges_of_ids_without_a_file(tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "set"
    corpus.mkdir()
    text = (STDLIB / "typing.py").read_text()
    for number in range(40):
        (corpus / f"f{number}.py").write_text(f"number = {number}\n" + text[:70_000])
    assert run_build(corpus, out, "--shard-bytes", "64k", views="gzip") == 0
    numbers = [int(file.path[12:17]) for file in ShardSet.open(out).manifest.splits["train"]]
    assert numbers == sorted(numbers) and numbers[-1] >= len(numbers)  # some are missing
    assert main(["add-view", str(out), "--view", "brotli:level=1", "--workers", "1"]) == 0
    shutil.copytree(out, tmp_path / "copy")
    assert merge(tmp_path / "both", out, tmp_path / "copy") == 0
    for folder in (out, tmp_path / "both"):
        assert shards_main(["verify", str(folder)]) == 0
    one, two = (ShardSet.open(folder).manifest.splits["train"] for folder in (out, tmp_path / "both"))
    assert [file.sha256 for file in one] == [file.sha256 for file in two]


def test_sets_whose_codecs_differ_are_refused_and_the_way_out_is_named(
    three: list[Path], tmp_path: Path, fails_with: Callable[..., str]
) -> None:
    shutil.copytree(three[1], tmp_path / "more")
    assert main(["add-view", str(tmp_path / "more"), "--view", "brotli", "--workers", "1"]) == 0
    message = fails_with("merge", str(three[0]), str(tmp_path / "more"), "--out", str(tmp_path / "out"))
    assert f"add-view {three[0]} --view brotli --codecs-from {tmp_path / 'more'}" in message
    own = tmp_path / "own"
    assert run_build(three[0].parent / "corpus1", own, views=VIEWS) == 0
    message = fails_with("merge", str(three[0]), str(own), "--out", str(tmp_path / "out"))
    assert "the codecs of sentencepiece differ" in message and "--codecs-from" in message
    assert "given twice" in fails_with("merge", str(own), str(own), "--out", str(tmp_path / "out"))
    assert "two sets or more" in fails_with("merge", str(own), "--out", str(tmp_path / "out"))
    assert "choose another --out" in fails_with("merge", *map(str, three), "--out", str(own))
    assert not (tmp_path / "out").exists()
