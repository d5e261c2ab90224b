"""A changed set is refused or reported, with the place of the fault; a half-written one is no set."""

import random
import shutil
from pathlib import Path

import pytest

from shards.errors import ByteproxyError, CorruptShard
from shards.manifest import MANIFEST_NAME, Manifest
from shards.reader import ShardSet
from shards.verify import faults
from tests.sets import build_set

TARGETS = ["raw", "raw_len", "raw_start", "raw_sum", "id", "gzip", "gzip_len", "gzip_start", "gzip_sum", "gzip_anchors"]
TARGETS += ["gzip_anchors_len", "gzip_anchors_start"]


@pytest.fixture
def copy(small_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_folder, tmp_path / "copy"))


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_verify_finds_nothing_in_a_good_set(small_set: ShardSet) -> None:
    assert list(faults(small_set)) == []


@pytest.mark.parametrize("column", TARGETS)
def test_verify_names_file_row_group_column_and_document_of_a_flipped_bit(copy: Path, column: str) -> None:
    draw = random.Random(column)
    shard = Manifest.load(copy).splits["train"][1]
    for _ in range(3):
        group = draw.randrange(len(shard.row_groups))
        chunk = shard.row_groups[group].chunks[column]
        position, bit = chunk.offset + draw.randrange(chunk.size), draw.randrange(8)
        flip(copy / shard.path, position, bit)
        found = list(faults(ShardSet.open(copy)))
        flip(copy / shard.path, position, bit)
        named = [f for f in found if isinstance(f, CorruptShard) and f.document is not None]
        base = column.removesuffix("_len").removesuffix("_start").removesuffix("_sum")
        assert named and named[0].file.endswith(shard.path) and named[0].row_group == group
        assert (named[0].column or "").removesuffix("_anchors") == base.removesuffix("_anchors")
        assert any("sha256" in str(f) for f in found)


def test_a_flipped_bit_is_found_when_its_document_is_read(copy: Path) -> None:
    shard = Manifest.load(copy).splits["train"][0]
    chunk = shard.row_groups[0].chunks["raw"]
    flip(copy / shard.path, chunk.offset + chunk.size - 1)
    split = ShardSet.open(copy).split("train")
    with pytest.raises(CorruptShard, match=r"row group 0, column raw, document \d+: checksum"):
        for i in range(shard.row_groups[0].rows):
            split.raw(i)
    unchecked = ShardSet.open(copy, check=False).split("train")
    assert sum(len(unchecked.raw(i)) for i in range(len(unchecked))) > 0


def test_bits_flipped_outside_the_documents_are_found_by_the_files_digest(copy: Path) -> None:
    shard = Manifest.load(copy).splits["val"][0]
    for position in (2, shard.size - 6):  # the magic number; the footer's length
        flip(copy / shard.path, position)
        assert any("sha256" in str(f) for f in faults(ShardSet.open(copy)))
        flip(copy / shard.path, position)


def test_a_file_of_another_size_is_refused_at_open(copy: Path) -> None:
    shard = Manifest.load(copy).splits["train"][0]
    with (copy / shard.path).open("ab") as file:
        file.write(b"x")
    with pytest.raises(CorruptShard, match=f"{shard.size + 1} bytes found, {shard.size} expected"):
        ShardSet.open(copy)
    (copy / shard.path).unlink()
    with pytest.raises(CorruptShard, match="None bytes found"):
        ShardSet.open(copy)


def test_a_changed_codec_is_refused(copy: Path) -> None:
    folder = copy / Manifest.load(copy).views[0].folder
    flip(folder / "codec.json", 3)
    with pytest.raises(CorruptShard, match="codec of view sentencepiece"):
        ShardSet.open(copy).codec("sentencepiece")


def test_a_folder_without_a_manifest_is_no_set(copy: Path) -> None:
    (copy / MANIFEST_NAME).unlink()
    with pytest.raises(ByteproxyError, match=r"no shard set: it has no manifest.json. Build one"):
        ShardSet.open(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"layout": "other/9"}', '{"layout": "byteproxy-shard/1"}'])
def test_a_manifest_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(ByteproxyError, match=r"manifest\.json"):
        ShardSet.open(tmp_path)


def test_a_manifest_survives_its_file_and_its_digests_tell_sets_apart(small_set: ShardSet, tmp_path: Path) -> None:
    manifest = small_set.manifest
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert (tmp_path / MANIFEST_NAME).read_bytes() == (small_set.folder / MANIFEST_NAME).read_bytes()
    one = build_set(tmp_path / "one", [b"a", b"b"], [b"c"], "gzip")
    other = build_set(tmp_path / "other", [b"a", b"b"], [b"c"], "gzip:level=1")
    first, second = Manifest.load(one), Manifest.load(other)
    assert first.order_digest("train") == second.order_digest("train")
    assert first.view_digest("train", "raw") == second.view_digest("train", "raw")
    assert first.identity != second.identity


def test_unknown_views_and_splits_name_those_there_are(small_set: ShardSet) -> None:
    with pytest.raises(ByteproxyError, match=r"no view 'zstd'; it has sentencepiece, gzip"):
        small_set.view("zstd")
    with pytest.raises(ByteproxyError, match=r"no split 'test'; it has train, val"):
        small_set.split("test")
