"""Checkpoints: `RUN/checkpoints/step_00000200/{model.safetensors, optimizer.safetensors, state.json}`.

A checkpoint appears under its name whole or not at all: files go to `.tmp-…`, are synced, then the folder is renamed.
Nothing is unpickled; both files are checked against their XXH3-64 in state.json, names and shapes against the model's.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shards.errors import ByteproxyError
from shards.manifest import sync_folder

FORMAT = 1
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_STEP = re.compile(r"step_(\d{8})$")
_TEMPORARY = ".tmp-step_"
_LOCK = ".lock"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's lock, or refuse; remove what a killed run left half written. The lock dies with the process."""
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    with (run / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ByteproxyError(
                f"{run} is being trained by another process; wait for it, or give another --run"
            ) from None
        for stale in (run / "checkpoints").glob(f"{_TEMPORARY}*"):
            shutil.rmtree(stale)
        yield


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return run / "checkpoints" / f"step_{step:08d}"


def steps_of(run: Path) -> list[int]:
    """The steps of a run's checkpoints, rising."""
    folders = (run / "checkpoints").glob("step_*")
    return sorted(int(match[1]) for folder in folders if (match := _STEP.match(folder.name)))


def save(
    run: Path, step: int, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint atomically and durably; an existing one of the same step is left as it is."""
    final = folder_of(run, step)
    if final.exists():
        return final
    draft = final.with_name(f"{_TEMPORARY}{step:08d}-{os.getpid()}")
    draft.mkdir()
    try:
        sums = {}
        for name, tensors in ((MODEL, model), (OPTIMIZER, optimizer)):
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, draft / name)
            _sync_file(draft / name)
            sums[name] = digest_of(draft / name)
        body = {"format": FORMAT, "step": step, "xxh3": sums, **state}
        (draft / STATE).write_text(json.dumps(body, indent=1) + "\n")
        _sync_file(draft / STATE)
        sync_folder(draft)
        draft.rename(final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(final.parent)
    return final


def prune(run: Path, keep: int, every: int = 0) -> None:
    """Remove all but the last `keep` checkpoints (0: none) and those of each `every` steps (0: no others).

    Renamed first, so that none is ever seen half removed.
    """
    for step in steps_of(run)[:-keep] if keep else []:
        if every and step % every == 0:
            continue
        doomed = folder_of(run, step).with_name(f"{_TEMPORARY}{step:08d}-old")
        folder_of(run, step).rename(doomed)
        shutil.rmtree(doomed)


def read_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's state.json. Raises ByteproxyError where there is none or it is not one of ours."""
    path = folder / STATE
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ByteproxyError(f"{folder} is no checkpoint: it has no {STATE}") from None
    except ValueError as error:
        raise ByteproxyError(f"{path}: not valid JSON ({error}). {_WAY_OUT}") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        found = body.get("format") if isinstance(body, dict) else type(body).__name__
        raise ByteproxyError(f"{path}: format {found!r} found, {FORMAT} expected. {_WAY_OUT}")
    return body


def read_tensors(folder: Path, name: str, expected: Mapping[str, Tensor], device: str = "cpu") -> dict[str, Tensor]:
    """A checkpoint's tensors, their checksum, names, shapes and dtypes checked against `expected`."""
    path = folder / name
    try:
        if (found := digest_of(path)) != (wanted := read_state(folder)["xxh3"].get(name)):
            raise ByteproxyError(f"{path}: checksum {found} found, {wanted} expected: the file was changed. {_WAY_OUT}")
        with safe_open(path, "pt", device) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
    except FileNotFoundError:
        raise ByteproxyError(f"{path} is missing. {_WAY_OUT}") from None
    except (SafetensorError, KeyError) as error:
        raise ByteproxyError(f"{path}: not a valid file of tensors ({error}). {_WAY_OUT}") from None
    for key in sorted(expected.keys() | tensors.keys()):
        shapes = [
            f"{x.dtype} {list(x.shape)}" if x is not None else "none" for x in (tensors.get(key), expected.get(key))
        ]
        if shapes[0] != shapes[1]:
            raise ByteproxyError(
                f"{path}: tensor {key}: {shapes[0]} found, {shapes[1]} expected: it is of another model"
            )
    return tensors


_WAY_OUT = "Remove the checkpoint's folder to go on from the one before it"


def digest_of(path: Path) -> str:
    """XXH3-64 of a file, in hex."""
    state = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
