"""Checkpoints: `RUN/checkpoints/step_00000200/{model.safetensors, optimizer.safetensors, state.json}`.

Where ranks hold parts of the weights, each writes its own: `model-1-of-2.safetensors` and so on hold the rows of every
tensor in the order of the files. Any number of ranks reads what any number wrote.

A checkpoint appears under its name whole or not at all: files go to `.tmp-…`, are synced, then the folder is renamed.
Nothing is unpickled; both files are checked against their XXH3-64 in state.json, names and shapes against the model's.
"""

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shards.errors import ByteproxyError
from shards.manifest import sync_folder, write_atomically
from trainer.sharding import cut_like

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
    run: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    part: int = 0,
    parts: int = 1,
) -> Path:
    """Write a checkpoint atomically and durably; an existing one of the same step is left as it is.

    Each of the `parts` that hold rows of the tensors calls this for its own, counted from 0; the first waits for the
    others' files, then gives the checkpoint its name.
    """
    final = folder_of(run, step)
    if final.exists():
        return final
    draft = final.with_name(f"{_TEMPORARY}{step:08d}")
    draft.mkdir(exist_ok=parts > 1)
    try:
        sums = {}
        for name, tensors in ((MODEL, model), (OPTIMIZER, optimizer)):
            name = _part_name(name, part, parts)
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, draft / name)
            _sync_file(draft / name)
            sums[name] = digest_of(draft / name)
        if part:
            write_atomically(draft / _sums_name(part), json.dumps(sums).encode())
            return final
        sums |= _sums_of_others(draft, parts)
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


def _part_name(name: str, part: int, parts: int) -> str:
    stem, dot, suffix = name.partition(".")
    return name if parts == 1 else f"{stem}-{part + 1}-of-{parts}{dot}{suffix}"


def _sums_name(part: int) -> str:
    return f"sums-{part + 1}.json"


def _sums_of_others(draft: Path, parts: int) -> dict[str, str]:
    """The checksums of what the other parts have written, once they are there. A part that fails ends all ranks."""
    sums: dict[str, str] = {}
    for path in (draft / _sums_name(part) for part in range(1, parts)):
        while not path.exists():
            time.sleep(0.01)
        sums |= json.loads(path.read_bytes())
        path.unlink()
    return sums


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
    """A checkpoint's tensors, checksums of files, names, shapes and dtypes checked against `expected`.

    Of a tensor that ranks hold parts of this rank's rows.
    """
    paths, path = _files_of(folder, name), folder / name
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(each, "pt", device)) for each in paths]
            holders: dict[str, list[Any]] = {}
            for file in files:
                for key in file.keys():  # noqa: SIM118  not a dict
                    holders.setdefault(key, []).append(file)
            tensors = {}
            for key in sorted(expected.keys() | holders.keys()):
                rows = [file.get_tensor(key) for file in holders.get(key, ())]
                found = rows[0] if len(rows) == 1 else torch.cat(rows) if rows else None
                wanted = expected.get(key)
                kinds = [f"{x.dtype} {list(x.shape)}" if x is not None else "none" for x in (found, wanted)]
                if found is None or wanted is None or kinds[0] != kinds[1]:
                    raise ByteproxyError(
                        f"{path}: tensor {key}: {kinds[0]} found, {kinds[1]} expected: it is of another model"
                    )
                tensors[key] = cut_like(found, wanted)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ByteproxyError(f"{path}: not a valid file of tensors ({error}). {_WAY_OUT}") from None
    return tensors


def _files_of(folder: Path, name: str) -> list[Path]:
    """The files whose rows, in this order, are the tensors that `name` stands for; their checksums are right."""
    sums, stem = read_state(folder)["xxh3"], name.partition(".")[0]
    matches = [match for file in sums if (match := re.fullmatch(rf"{stem}-(\d+)-of-(\d+)\.safetensors", file))]
    count = int(matches[0][2]) if matches else 1
    paths = [folder / _part_name(name, part, count) for part in range(count)]
    for path in paths:
        try:
            found = digest_of(path)
        except FileNotFoundError:
            raise ByteproxyError(f"{path} is missing. {_WAY_OUT}") from None
        if found != (wanted := sums.get(path.name)):
            raise ByteproxyError(f"{path}: checksum {found} found, {wanted} expected: the file was changed. {_WAY_OUT}")
    return paths


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
