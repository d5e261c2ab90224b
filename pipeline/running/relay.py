"""Errors across processes: what a worker raises comes back from a Beam runner as text, and must end as one clear line.

A step's function wrapped in `relayed` packs the errors that a user can act on into a marker that survives being quoted
in tracebacks; `unwrap` finds it again in whatever the runner raised.
"""

import base64
import errno
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from shards.errors import ByteproxyError

P = ParamSpec("P")
R = TypeVar("R")
_MARK = re.compile(r"<byteproxy-error:([A-Za-z0-9+/=]+)>")


class RelayedError(RuntimeError):
    """A worker's error, packed into its own text."""


def relayed(function: Callable[P, R]) -> Callable[P, R]:
    """Pack a ByteproxyError or an operating system's error so that `unwrap` recognises it in the parent."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (ByteproxyError, OSError) as error:
            raise RelayedError(marked(error)) from error

    return wrapper


def marked(error: ByteproxyError | OSError) -> str:
    """An error as text in which `unwrap` finds it."""
    return f"<byteproxy-error:{_pack(error)}>"


def unwrap(error: BaseException) -> BaseException:
    """The user's error inside what a runner raised, or the argument itself if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if match := _MARK.search(str(seen)):
            return _unpack(match[1])
        seen = seen.__cause__ or seen.__context__
    return error


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Give the full disk its file's name: Arrow's errors have none."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC or "No space left" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _pack(error: ByteproxyError | OSError) -> str:
    if isinstance(error, ByteproxyError):
        body: dict[str, str | int] = {"message": str(error)}
    else:
        body = {"message": error.strerror or str(error), "errno": error.errno or 0, "file": str(error.filename or "")}
    return base64.b64encode(json.dumps(body).encode()).decode()


def _unpack(packed: str) -> BaseException:
    body = json.loads(base64.b64decode(packed))
    if "errno" not in body:
        return ByteproxyError(body["message"])
    if body["errno"] == errno.ENOSPC:
        return OSError(errno.ENOSPC, body["message"], body["file"] or None)
    return ByteproxyError(f"{body['file'] or 'a worker'}: {body['message']}")
