"""OUT: whose it is, who may write to it now, and how a set appears in it: whole, the manifest last.

A build works in OUT/.build and, at the end, renames what it made into place. In an object store, where nothing can be
renamed, its files grow in their place, and are no set until the manifest names them. Nothing that a build did not make
is ever removed: an OUT with other things in it is refused.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pipeline.reporting.report import CARD, PAGE, REPORT
from pipeline.reuse.former import as_built
from pipeline.running.scratch import Scratch, load_json, save_json
from pipeline.running.storage import Location, name_of, open_file, remove_tree, write_whole
from shards.errors import ByteproxyError
from shards.manifest import MANIFEST_NAME, Manifest, RejectedFile, sync_folder

SCRATCH = ".build"
FOLDERS = ("codecs", "train", "val", "rejected")  # what a build makes, and may replace where no manifest holds it
ORPHAN_SECONDS = 20.0
_DRAFT = re.compile(r"\.tmp-(manifest|report|README)\.(json|html|md)-[0-9a-f]+")


@contextmanager
def locked(out: Location) -> Iterator[None]:
    """Hold OUT against other builds; in a store only against those of this machine.

    The folder is made if need be, and removed again if it is left empty.
    """
    folder = out if isinstance(out, Path) else Scratch(out / SCRATCH).local
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ByteproxyError(f"--out {out}: {folder}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ByteproxyError(
                f"{out}: another build is writing to it. Wait for it, or choose another --out"
            ) from None
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if it is empty
        os.close(descriptor)


def finished_set(
    out: Location, config: Mapping[str, Any], stages: Mapping[str, int], fingerprint: str, content: str | None = None
) -> bool:
    """Is there already the set that is asked for? Raises ByteproxyError if OUT holds another one, or others' files.

    Where the set knows the fingerprint of its corpus' `content` too, that one decides.
    """
    if not (out / MANIFEST_NAME).exists():
        ours = _is_ours(out / SCRATCH)
        names = sorted(p.name for p in out.iterdir() if p.name != SCRATCH)
        others = [name for name in names if not (ours and _DRAFT.fullmatch(name))]
        if others and not (ours and set(others) <= {*FOLDERS, REPORT, PAGE, CARD}):
            raise ByteproxyError(f"{out} holds {', '.join(others[:3])} and is no shard set: choose another --out")
        if not ours and (out / SCRATCH).exists() and any((out / SCRATCH).iterdir()):
            raise ByteproxyError(f"{out / SCRATCH} was not made by a build: choose another --out")
        return False
    manifest = Manifest.parse((out / MANIFEST_NAME).read_bytes(), str(out / MANIFEST_NAME))
    built = as_built(manifest)
    differing = [
        f"{name}: {_show(there.get(name))} there, {_show(here.get(name))} asked for"
        for there, here in ((built[0], config), (built[1], stages))
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
    if differing:
        hint = " (a view can be added: add-view)" if differing[0].startswith("views:") else ""
        text = f"{out} holds a set of another config ({'; '.join(differing)}): choose another --out{hint}"
        raise ByteproxyError(text)
    try:
        inputs = load_json(out / REPORT)["inputs"]
        known, known_content = inputs["fingerprint"], inputs.get("content")
    except (OSError, ValueError, KeyError, TypeError):
        raise ByteproxyError(
            f"{out} holds a set of this config, but its {REPORT} is missing or damaged, so whether the corpus has "
            "changed cannot be told: choose another --out"
        ) from None
    if content is not None and known_content is not None:
        same, hint = known_content == content, ""
    else:
        same = known == fingerprint
        hint = ". Should its files only have been touched: --fingerprint content tells" if known_content else ""
        if content is not None:
            hint = " (or its files' times: the set was built without --fingerprint content, so this cannot be told)"
    if not same:
        raise ByteproxyError(
            f"{out} holds a set of this config, but the corpus has changed since{hint}: choose another --out"
        )
    return True


def tidy(scratch: Scratch) -> None:
    """Remove the scratch of a build that was killed behind its last step. That of an `add-view` is gone on from."""
    with contextlib.suppress(OSError, ValueError):
        if "add-view" in load_json(scratch.state):
            return
    scratch.remove()


def prepare(scratch: Scratch, out: Location, state: Mapping[str, Any]) -> bool:
    """Make the scratch ready; True if it holds the beginnings of this very build, which then goes on from them."""
    going_on = _is_of(scratch, state)
    for name in FOLDERS:  # no manifest holds them
        if isinstance(out, Path) and isinstance(scratch.staged, Path):
            if going_on and (out / name).exists() and not (scratch.staged / name).exists():
                (out / name).rename(scratch.staged / name)  # of a build that was killed while it published
            elif (out / name).exists():
                shutil.rmtree(out / name)
        elif not going_on:
            remove_tree(out / name)
    if isinstance(out, Path):
        remove_drafts(out)
    _begin(scratch, state)
    return going_on


def prepare_beside(scratch: Scratch, state: Mapping[str, Any]) -> bool:
    """The same for work beside a set that is there, of which nothing is touched."""
    going_on = _is_of(scratch, state)
    _begin(scratch, state)
    return going_on


def remove_drafts(out: Path) -> None:
    """Small files beside the manifest that a killed build was writing."""
    for path in out.iterdir():
        if _DRAFT.fullmatch(path.name):
            path.unlink()


def _is_ours(scratch: Location) -> bool:
    """Was this folder made by a build? One that was killed at once has no state yet, but was writing it."""
    if (scratch / "state.json").exists():
        return True
    names = [path.name for path in scratch.iterdir()] if scratch.exists() else []
    return bool(names) and all(name.startswith(".tmp-state.json-") for name in names)


def _is_of(scratch: Scratch, state: Mapping[str, Any]) -> bool:
    """Does the scratch belong to this state? Else it is removed."""
    going_on = False
    if scratch.root.exists():
        _wait_for_orphans(scratch)
        with contextlib.suppress(OSError, ValueError):
            going_on = load_json(scratch.state) == state
        if going_on:
            _remove_drafts(scratch)
        else:
            scratch.remove()
    return going_on


def _remove_drafts(scratch: Scratch) -> None:
    """Files that a killed build was writing never got their names. They take room, and have no place in a set."""
    for path in scratch.root.rglob(".tmp-*") if isinstance(scratch.root, Path) else ():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _begin(scratch: Scratch, state: Mapping[str, Any]) -> None:
    scratch.local.mkdir(parents=True, exist_ok=True)
    save_json(scratch.state, state)
    shutil.rmtree(scratch.progress, ignore_errors=True)


def publish(scratch: Scratch, out: Location, manifest: Manifest, texts: Mapping[str, str]) -> None:
    """Move the staged set into OUT; the manifest comes last. `texts` are small files to lie beside it."""
    if isinstance(out, Path) and isinstance(scratch.staged, Path):
        for name in FOLDERS:
            if (scratch.staged / name).exists():
                (scratch.staged / name).rename(out / name)
                sync_folder(out / name)
    for name, text in texts.items():
        write_whole(out / name, text.encode())
    if isinstance(out, Path):
        sync_folder(out)
        manifest.save(out)
    else:
        write_whole(out / MANIFEST_NAME, manifest.to_json().encode())
    scratch.remove()


def rejected_file(scratch: Scratch, part: Mapping[str, Any]) -> RejectedFile:
    """The manifest's entry of a staged file of rejected/; `part`: its facts."""
    with open_file(name_of(scratch.staged / part["path"])) as file:
        digest = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
        return RejectedFile(part["path"], part["rows"], file.tell(), digest)


@contextmanager
def to_go_on_from(scratch: Scratch, stopped: str) -> Iterator[None]:
    """What lies in scratch stays for the same command to go on from, unless an error shows that it cannot be.

    `stopped`: what to say of a Ctrl-C, before where the scratch is.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"{stopped} {scratch.root}")
        raise
    except (ByteproxyError, OSError) as error:
        if isinstance(error, ByteproxyError) or error.errno == errno.ENOSPC:
            scratch.remove()  # it cannot be gone on from, or takes the space that is missing
        raise


def say(text: str) -> None:
    """A line for people, beside the results."""
    print(text, file=sys.stderr, flush=True)


def _wait_for_orphans(scratch: Scratch) -> None:
    """Workers of a killed build die within a second; until then they may still write."""
    if not scratch.workers.exists():
        return
    deadline = time.monotonic() + ORPHAN_SECONDS
    with scratch.workers.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ByteproxyError(
                        f"{scratch.root}: workers of a former build still run; end them first"
                    ) from None
                time.sleep(0.1)


def _show(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
