"""A worker process of the local runner: Beam's own, which moreover dies with its parent.

Run as `python -m pipeline.worker PARENT LOCK`. It holds LOCK (shared) as long as it lives, so that a build that follows
a killed one can wait until nobody writes into the scratch any more.
"""

import fcntl
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

POLL_SECONDS = 0.2


def die_with(parent: int) -> None:
    """End this process, whatever it is doing, as soon as its parent is another than `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()


def main() -> None:
    """Serve the parent's bundles until it says to stop."""
    parent, lock = int(sys.argv[1]), Path(sys.argv[2])
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; its end is ours
    with lock.open("ab") as file, Path(os.devnull).open("wb") as nowhere:
        fcntl.flock(file, fcntl.LOCK_SH)
        logging.disable(logging.CRITICAL)
        from apache_beam.runners.worker import sdk_worker_main

        for output in (1, 2):  # Beam prints the tracebacks of errors that the parent gets anyhow and shows as one line
            os.dup2(nowhere.fileno(), output)
        sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
