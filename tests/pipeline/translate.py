"""Translates both graphs of a build to Dataflow's job descriptions, without a network, and writes them down.

`python -m tests.pipeline.translate FOLDER FLAG...` in an environment with byteproxy[dataflow].
"""

import sys
from pathlib import Path

import apache_beam as beam

from pipeline import graph
from pipeline.config import BuildConfig, parse_views
from pipeline.encode import EncodeTask
from pipeline.reading.inputs import Archive, Files, Inventory, Lines, Packed
from pipeline.reading.languages import DEFAULT
from pipeline.running.engines import DATAFLOW, options_of
from pipeline.running.scratch import Scratch
from pipeline.running.storage import location
from pipeline.split import Layout


def main(folder: Path, flags: list[str]) -> None:
    """FOLDER/survey and FOLDER/encode: each a serialised pipeline."""
    scratch = Scratch(location("gs://bucket/set/.build"))
    inventory = Inventory(
        [Files("code", b"gs://bucket/code", [b"a.py", b"b.c"], 10)],
        [Lines("more.jsonl", b"gs://bucket/more.jsonl", 0, 10)],
        [Packed("other.jsonl.gz", b"gs://bucket/other.jsonl.gz")],
        [Archive("old.zip", b"gs://bucket/old.zip", 0, 1, 10)],
        found=2,
        bytes=40,
    )
    out = location("gs://bucket/set")
    config = BuildConfig(("gs://bucket/code",), out, parse_views("zstd"), DEFAULT, limit=10, sample_rate=0.5)
    task = EncodeTask(scratch, (), {"pyarrow": "1"}, {"train": Layout(1, 1, 1, 1)}, 0, 1.0, 1 << 20)
    for name in ("survey", "encode"):
        options = options_of(DATAFLOW, (*flags, "--dry_run=True"))
        root = beam.Pipeline(runner=DATAFLOW, options=options)
        if name == "survey":
            graph.survey(root, inventory, config, scratch)
        else:
            graph.encode(root, [("train", 0)], task)
        (folder / name).write_bytes(root.run().job.proto_pipeline.SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
