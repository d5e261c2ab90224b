"""Nothing damaged is trained on: found with its place before it is, or masked where it stands."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.errors import ByteproxyError, CorruptShard
from shards.manifest import Manifest
from shards.reader import ShardSet
from shards.verify import faults
from tests.sets import build_set, standard_library
from tests.trainer.loading import planner_of, views_of
from tests.trainer.planning import PlanSettings, batches, copied
from trainer.ahead import Source
from trainer.loader import Loader

# What training reads of a document: values, lengths, starts, sums and anchors. Both views, or pairs for the anchors.
BOTH = PlanSettings(mode="parallel", views="sentencepiece", context=600, batch_rows=2, steps=1000)
PAIRS = replace(BOTH, mode="proxy", translation=1.0, rate=0.5, rate_start=0.5, anneal=0.0)
COLUMNS = ["raw", "raw_len", "raw_start", "raw_sum", "sentencepiece", "sentencepiece_len", "sentencepiece_start"]
COLUMNS += ["sentencepiece_sum", "sentencepiece_anchors", "sentencepiece_anchors_len", "sentencepiece_anchors_start"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = [text[:700] for text in standard_library(9_000, 14)] + [b"", b"\0\xff"]
    return build_set(tmp_path / "set", texts, texts[:1], "sentencepiece:vocab=340", shards=2, row_group_bytes=3_000)


def train_through(folder: Path, config: PlanSettings) -> None:
    """One epoch and a little more of batches."""
    shard_set = ShardSet.open(folder, check=config.check != "off")
    split = shard_set.split("train")
    with Loader([Source(split)], views_of(shard_set, config), config, None, 0) as loader:
        for _, state in loader:
            if state.taken_S[0] > 2 * len(split):
                return


def read_through(folder: Path) -> None:
    split = ShardSet.open(folder).split("train")
    for i in range(len(split)):
        split.raw(i), split.symbols(i, "sentencepiece"), split.anchors(i, "sentencepiece")


def test_a_thousand_flipped_bits_are_found_by_the_reader_the_loader_and_verify_with_their_place(folder: Path) -> None:
    """One bit at a time, anywhere in what training reads; the place is file, row group, column and document."""
    draw, manifest = random.Random(7), Manifest.load(folder)
    for number in range(1000):
        shard = draw.choice(manifest.splits["train"])
        group = draw.randrange(len(shard.row_groups))
        column = COLUMNS[number % len(COLUMNS)]
        chunk = shard.row_groups[group].chunks[column]
        position, bit = chunk.offset + draw.randrange(chunk.size), 1 << draw.randrange(8)
        path = folder / shard.path

        def flip(path: Path = path, position: int = position, bit: int = bit) -> None:
            with path.open("r+b") as file:
                file.seek(position)
                byte = file.read(1)[0]
                file.seek(position)
                file.write(bytes([byte ^ bit]))

        flip()
        found = []
        with pytest.raises(CorruptShard) as error:
            read_through(folder)
        found.append(error.value)
        with pytest.raises(CorruptShard) as error:
            train_through(folder, PAIRS if "anchors" in column else BOTH)
        found.append(error.value)
        if number % 10 == 0:  # verify decodes everything: it takes longer
            found.append(next(f for f in faults(ShardSet.open(folder)) if isinstance(f, CorruptShard) and f.column))
        flip()
        for fault in found:
            assert fault.file and fault.file.endswith(shard.path) and fault.row_group == group
            assert (
                fault.column and column.startswith(fault.column.removesuffix("_anchors")) and fault.document is not None
            )
    read_through(folder)
    train_through(folder, BOTH)


def damage(folder: Path, document: int, column: str = "raw") -> None:
    """Flip a bit in the middle of a document's value, or of its anchors."""
    split = ShardSet.open(folder, check=False).split("train")
    path, _, _ = split.place(document)
    if column == "raw":
        value = split.raw(document).tobytes()
    else:
        symbols, anchors = split.symbols(document, "sentencepiece"), split.anchors(document, "sentencepiece")
        value = (anchors if column.endswith("_anchors") else symbols).tobytes()
    data = bytearray(Path(path).read_bytes())
    data[data.index(value) + len(value) // 2 // 4 * 4 + 3] ^= 64  # of an anchor: the highest byte of an offset
    Path(path).write_bytes(data)


def test_quarantine_masks_a_document_in_place_and_no_plan_shifts(folder: Path) -> None:
    config = replace(BOTH, mode="bytes", steps=12, check="quarantine")
    good = [copied(batch) for _, batch, _ in batches(ShardSet.open(folder), config)]
    split = ShardSet.open(folder).split("train")
    victim = max(range(len(split)), key=lambda i: split.length("raw", i))
    damage(folder, victim)
    reported: list[CorruptShard] = []
    shard_set = ShardSet.open(folder)
    masked, planner = 0, planner_of(shard_set, config)
    pieces = [plan.pieces for plan, _ in planner.plans(planner.initial())]
    with Loader([Source(shard_set.split("train"))], [], config, None, 2, report=reported.append) as loader:
        for (batch, _), expected, placed in zip(loader, good, pieces, strict=True):
            where = np.zeros(expected["counted_RT"].shape, np.bool_)
            for piece in placed:
                if piece.ordinal == victim:
                    where[piece.row, piece.at : piece.at + piece.length - 1] = True
            assert np.array_equal(batch.counted_RT, expected["counted_RT"] & ~where)
            assert batch.symbols.sum() == batch.counted_RT.sum()
            assert np.array_equal(batch.ids_RT[~where], expected["ids_RT"][~where])
            masked += int((expected["counted_RT"] & where).sum())
    assert masked > split.length("raw", victim) and {fault.document for fault in reported} == {victim}
    with pytest.raises(CorruptShard, match=f"document {victim}"):
        train_through(folder, replace(config, check="fail"))
    train_through(folder, replace(config, check="off"))


def test_in_quarantine_a_pairs_wrong_symbols_are_masked_but_wrong_anchors_are_refused(folder: Path) -> None:
    config = replace(PAIRS, check="quarantine")
    split = ShardSet.open(folder).split("train")
    victim = max(range(len(split)), key=lambda i: split.length("raw", i))
    damage(folder, victim, "sentencepiece")
    with pytest.raises(CorruptShard, match=f"column sentencepiece, document {victim}"):
        train_through(folder, PAIRS)
    train_through(folder, config)
    damage(folder, victim, "sentencepiece")  # mended
    train_through(folder, PAIRS)
    damage(folder, victim, "sentencepiece_anchors")
    with pytest.raises(CorruptShard, match=f"column sentencepiece, document {victim}"):
        train_through(folder, config)


def test_a_length_that_plans_rest_on_is_never_passed_over(folder: Path) -> None:
    """Not even without checksums: the plans of ranks would part ways."""
    chunk = (shard := Manifest.load(folder).splits["train"][0]).row_groups[0].chunks["raw_len"]
    data = bytearray((folder / shard.path).read_bytes())
    data[chunk.offset] ^= 1
    (folder / shard.path).write_bytes(data)
    for check in ("fail", "quarantine", "off"):
        with pytest.raises(ByteproxyError, match="column raw, document"):
            train_through(folder, replace(BOTH, check=check))
