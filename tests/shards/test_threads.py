"""One split read by many threads: the maps are opened and let go of under a lock."""

import subprocess
import sys
from pathlib import Path

from tests.sets import build_set

# In a child with a time limit: threads that tear the list of maps can loop for ever.
READ = """
import random, sys, threading
from shards import reader
from shards.reader import ShardSet

sys.setswitchinterval(1e-6)
reader.OPEN_FILES = 3
split = ShardSet.open(sys.argv[1]).split("train")
expected = {split.id(i): split.raw(i).tobytes() for i in range(len(split))}
done = []

def read(seed):
    draw = random.Random(seed)
    for _ in range(2000):
        i = draw.randrange(len(split))
        assert expected[split.id(i)] == split.raw(i).tobytes()
        if draw.random() < 0.3:
            split.keep_only({draw.randrange(len(split.files))})
    done.append(seed)

threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(done))
"""


def test_eight_threads_read_one_split(tmp_path: Path) -> None:
    folder = build_set(tmp_path / "set", [bytes([i]) * (1 + 50 * i) for i in range(24)], [b"v"], shards=8)
    run = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "8\n"), run.stderr[-2000:]
