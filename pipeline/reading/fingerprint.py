"""Is it the same corpus? By default files are told by path, size and time of change; here by what is in them.

Every file that was listed is read once more, those too that no document will be made of: it costs a pass over the
corpus, and recognises one that was only touched, copied or checked out again, or changed without a trace in its times.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.reading.inputs import Inventory
from pipeline.reading.items import Repository
from pipeline.running.progress import Counter
from pipeline.running.storage import join, open_file
from pipeline.running.watch import Step, Watch

_PART = 1 << 20
Batch = list[tuple[str, bytes, bytes]]  # input, name within it, file to open


def content_fingerprint(inventory: Inventory, workers: int) -> str:
    """32 hex digits over the names and contents of all files, in the order of their listing, and over what is no file.

    A file that cannot be read counts as such. Threads read: hashing lets go of the interpreter.
    """
    digest = blake2b(digest_size=16)
    for rejection in inventory.rejected:
        digest.update(repr(tuple(rejection)).encode())
    for item in inventory.unsought:
        if isinstance(item, Repository):  # its hash says what is in it
            digest.update(repr((item.input, item.commit)).encode())
    with TemporaryDirectory(prefix="byteproxy-") as folder:
        title = "fingerprint of contents"
        steps = [Step("fingerprint", title, inventory.bytes)]
        with Watch(Path(folder), steps), ThreadPoolExecutor(workers) as pool:
            counter = Counter(Path(folder), "fingerprint")
            for batch, sums in pool.map(_hash_batch, _batches(inventory)):
                for (name, inner, _), (content, size) in zip(batch, sums, strict=True):
                    digest.update(repr((name, inner, content)).encode())
                    counter.add(1, size)
            counter.close()
    return digest.hexdigest()


def _batches(inventory: Inventory) -> Iterator[Batch]:
    for item in inventory.files:
        yield [(item.input, name, join(item.root, name)) for name in item.names]
    single = {lines.file: lines.input for lines in inventory.lines}
    single |= {packed.file: packed.input for packed in inventory.packed}
    single |= {item.file: item.input for item in inventory.unsought if not isinstance(item, Repository)}
    for file, name in single.items():
        yield [(name, b"", file)]


def _hash_batch(batch: Batch) -> tuple[Batch, list[tuple[str, int]]]:
    return batch, [_hash(file) for _, _, file in batch]


def _hash(name: bytes) -> tuple[str, int]:
    """(hash or what was wrong, bytes read)."""
    state, size = blake2b(digest_size=16), 0
    try:
        with open_file(name) as file:
            while part := file.read(_PART):
                state.update(part)
                size += len(part)
    except OSError as error:
        return f"unreadable: {error.strerror}", size
    return state.hexdigest(), size
