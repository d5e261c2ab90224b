"""One way for the three command lines to end: an error is one line on stderr and a code, never a traceback."""

import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from shards.errors import ByteproxyError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit with its code; user errors exit with 2, Ctrl-C with 130."""
    try:
        code = main() or 0
        sys.stdout.flush()
    except ByteproxyError as error:
        _stop(f"error: {error}", EXIT_ERROR)
    except KeyboardInterrupt:
        _stop("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output (`| head`) has left: not an error, but stdout is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _stop(
                f"error: no space left on the device for {error.filename or 'an output file'}: free some, run again", 2
            )
        if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
            _stop(f"error: {error.strerror}: {error.filename}", EXIT_ERROR)
        raise
    sys.exit(code)


def _stop(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)
