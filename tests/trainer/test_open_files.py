"""A set of more files than a process may open is read all the same: files behind the order's place are let go of."""

import subprocess
import sys
from pathlib import Path

from tests.sets import build_set, standard_library

READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
from shards.reader import ShardSet
from tests.trainer.loading import loader_of
from tests.trainer.planning import PlanSettings

config = PlanSettings(translation=1.0, rate=0.6, context=700, batch_rows=4, steps=10_000)
shard_set = ShardSet.open(sys.argv[1])
pairs = 0
with loader_of(shard_set, config) as loader:
    for batch, state in loader:
        pairs += bool(batch.symbols.all())
        if state.taken_S[0] > 1.5 * len(shard_set.split("train")):
            break
print(len(shard_set.manifest.splits["train"]), pairs)
"""


def test_translation_pairs_from_a_thousand_files_with_five_hundred_file_descriptors(tmp_path: Path) -> None:
    text = b"".join(standard_library(60_000, 60))
    documents = [text[200 * i : 200 * i + 200] for i in range(1000)]
    folder = build_set(tmp_path / "set", documents, [b"v"], "sentencepiece:vocab=400", shards=1000)
    run = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    files, pairs = map(int, run.stdout.split())
    assert files > 900 and pairs > 100
