"""A worker process: Beam's own, which moreover dies with its parent; or a pool that starts such workers.

`python -m pipeline.worker PARENT [LOCK]` is what the local runner and the pool start. It holds LOCK (shared) as long as
it lives, so that a build that follows a killed one can wait until nobody writes into the scratch any more.
`python -m pipeline.worker pool PORT` is for people: see `pool.py`.
"""

import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from shards.cli import run
from shards.errors import ByteproxyError

POLL_SECONDS = 0.2
USAGE = "usage: python -m pipeline.worker pool PORT (on this machine; 0 takes a free one)"


def die_with(parent: int) -> None:
    """End this process, whatever it is doing, as soon as its parent is another than `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()


def work(parent: int, lock: Path) -> None:
    """Serve the parent's bundles until it says to stop."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; its end is ours
    with lock.open("ab") as file, Path(os.devnull).open("wb") as nowhere:
        if lock != Path(os.devnull):
            fcntl.flock(file, fcntl.LOCK_SH)
        logging.disable(logging.CRITICAL)
        from apache_beam.runners.worker import sdk_worker_main

        for output in (1, 2):  # Beam prints the tracebacks of errors that the parent gets anyhow and shows as one line
            os.dup2(nowhere.fileno(), output)
        sdk_worker_main.main(sys.argv)


def main(arguments: Sequence[str]) -> None:
    """Work, or serve a pool."""
    if len(arguments) == 2 and arguments[0] == "pool" and arguments[1].isdecimal() and int(arguments[1]) < 1 << 16:
        logging.getLogger().setLevel(logging.ERROR)  # importing Beam warns of what we do not use
        from pipeline.running.pool import serve

        serve(int(arguments[1]))
    elif arguments and arguments[0].isdecimal():
        work(int(arguments[0]), Path(arguments[1] if len(arguments) > 1 else os.devnull))
    elif arguments in (["--help"], ["-h"]):
        print(USAGE)
    else:
        raise ByteproxyError(f"{' '.join(arguments) or 'nothing'} found, expected {USAGE.removeprefix('usage: ')}")


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
