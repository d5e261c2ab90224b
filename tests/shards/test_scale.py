"""A hundred million documents: a set opens at once, in little memory, and stays there while documents are read."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from shards.manifest import Manifest, ShardFile
from shards.schema import shard_schema
from shards.writer import write_shard

FILES, ROWS, KINDS = 2_000, 50_000, 20  # files in all, rows in each, files with contents of their own

MEASURE = """
import json, random, sys, time
from shards.reader import ShardSet

def memory():
    lines = open("/proc/self/status").read().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return [int(found[key].split()[0]) / 1e3 for key in ("VmRSS", "RssAnon")]

before = memory()
begun = time.monotonic()
split = ShardSet.open(sys.argv[1]).split("train")
opened = time.monotonic() - begun
after_open = memory()
draw = random.Random(0)
begun = time.monotonic()
for _ in range(100_000):
    i = draw.randrange(len(split))
    assert len(split.raw(i)) == split.length("raw", i)
print(json.dumps({
    "documents": len(split), "open_s": opened, "before": before, "after_open": after_open, "after_reads": memory(),
    "reads_s": time.monotonic() - begun,
}))
"""


def table_of_short_rows(number: int) -> pa.Table:
    """Rows of 1 to 8 bytes, made of arrays, with ids in order."""
    draw = np.random.default_rng(number)
    schema = shard_schema([])
    lengths = draw.integers(1, 9, ROWS).astype(np.int32)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    data = draw.integers(0, 256, offsets[-1], np.uint8).tobytes()
    ids = np.sort(draw.integers(0, 2**63, ROWS, np.int64)).astype(">i8")
    id_bytes = np.zeros((ROWS, 16), np.uint8)
    id_bytes[:, :8] = ids.view(np.uint8).reshape(ROWS, 8)
    starts = 4 + 4 * np.arange(ROWS, dtype=np.int64) + offsets[:-1]
    sums = [xxhash.xxh3_64_intdigest(data[a:b]) for a, b in itertools.pairwise(offsets)]
    columns = {
        "id": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), ROWS, [None, pa.py_buffer(id_bytes.tobytes())]),
        "raw": pa.BinaryArray.from_buffers(
            pa.binary(), ROWS, [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data)]
        ),
        "raw_len": pa.array(lengths),
        "raw_start": pa.array(starts),
        "raw_sum": pa.array(np.array(sums, np.uint64)),
    }
    missing = {name: pa.nulls(ROWS, schema.field(name).type) for name in schema.names if name not in columns}
    return pa.table([(columns | missing)[name] for name in schema.names], schema=schema)


@pytest.fixture(scope="module")
def hundred_million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 files; every hundredth has contents of its own, the others are further names of these."""
    folder = tmp_path_factory.mktemp("many") / "set"
    (folder / "train").mkdir(parents=True)
    files: list[ShardFile] = []
    for number in range(FILES):
        name = f"train/shard-{number:05}-of-{FILES:05}.parquet"
        if number < KINDS:
            files.append(write_shard(folder / name, [table_of_short_rows(number)], [], name))
        else:
            like = files[number % KINDS]
            os.link(folder / like.path, folder / name)
            body = {**vars(like), "path": name}
            files.append(ShardFile(**body))
    Manifest((), {"train": tuple(files), "val": ()}).save(folder)
    return folder


@pytest.mark.slow
def test_a_set_of_a_hundred_million_documents_opens_in_2_seconds_and_200_mb_and_stays_there(
    hundred_million: Path,
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(hundred_million)], capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    print(found)
    assert found["documents"] == FILES * ROWS == 100_000_000
    assert found["open_s"] < 2
    assert found["after_open"][0] < 200 and found["after_reads"][0] < 200
