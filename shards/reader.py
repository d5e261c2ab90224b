"""Maps a shard set: any document of any view as a NumPy array onto the file, without a copy and in O(1).

Opening reads the manifest and the files' sizes, no footer. Every access checks the length stored before the value; with
`check` (the default) also the value's checksum, for a map bypasses Parquet's own.
"""

import mmap
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from shards.errors import ByteproxyError, CacheFull, CorruptShard
from shards.hashing import folder_digest, value_sum
from shards.manifest import Manifest, RowGroup, ShardFile, View
from shards.schema import ANCHOR_BYTES, ANCHOR_DTYPE, INFO_COLUMNS, SYMBOL_DTYPES
from shards.store import Store, open_store

if TYPE_CHECKING:
    from shards.codecs.base import Codec

OPEN_FILES = 128  # maps kept open; arrays handed out keep theirs alive beyond that
_PREFIX = 4
_FIXED_DTYPES = (("_len", "<i4"), ("_start", "<i8"), ("_sum", "<u8"))


class ShardSet:
    """A shard set on disk, opened for reading. Cheap to open, safe to share between threads that only read."""

    def __init__(self, store: Store, manifest: Manifest, check: bool = True) -> None:
        self.store, self.manifest, self.check = store, manifest, check
        self.location = store.shown
        self.folder = Path(self.location)  # of a set on this machine
        self.views: dict[str, View] = {view.name: view for view in manifest.views}
        self._splits = {name: Split(self, name, files) for name, files in manifest.splits.items()}
        self._codecs: dict[str, Codec] = {}

    @classmethod
    def open(
        cls, location: str | Path, check: bool = True, cache: Path | None = None, cache_bytes: int = 0
    ) -> "ShardSet":
        """Open the set in a folder, or at a URL like `s3://bucket/set` (`cache`: see shards.store).

        Refuses a set without a manifest, or with a file of another size than it says.
        """
        store = open_store(location, cache, cache_bytes)
        return cls(store, store.manifest(), check)

    def split(self, name: str) -> "Split":
        """A split of the set: `train` or `val`."""
        if name not in self._splits:
            raise ByteproxyError(f"{self.location} has no split {name!r}; it has {', '.join(self._splits)}")
        return self._splits[name]

    def view(self, name: str) -> View:
        """A compressed view's description. Raises ByteproxyError that names the views there are."""
        if name not in self.views:
            raise ByteproxyError(
                f"{self.location} has no view {name!r}; it has {', '.join(self.views) or 'none'}. "
                f'Build a set with it: make shards VIEWS="{" ".join([*self.views, name])}"'
            )
        return self.views[name]

    def codec(self, name: str) -> "Codec":
        """The codec that made a view, loaded from the set; its files are checked against the manifest."""
        if name not in self._codecs:
            from shards.codecs import load_codec

            view = self.view(name)
            folder = self.store.small_folder(view.folder)
            if folder_digest(folder) != view.digest:
                raise CorruptShard(f"the codec of view {name} does not have the manifest's digest", file=str(folder))
            self._codecs[name] = load_codec(folder)
        return self._codecs[name]


class Split:
    """The documents of one split by number, in order of id. Arrays returned are read-only views onto the map."""

    def __init__(self, owner: ShardSet, name: str, files: Sequence[ShardFile]) -> None:
        self.name, self.files, self._owner = name, files, owner
        self._places = [(f, number) for f, file in enumerate(files) for number in range(len(file.row_groups))]
        rows = [files[f].row_groups[number].rows for f, number in self._places]
        self._first = [0, *accumulate(rows)]
        self.firsts_G = np.array(self._first, np.int64)  # number of each row group's first document, then their count
        self._maps: OrderedDict[int, list[_Group]] = OrderedDict()
        self._lock = threading.RLock()  # of the maps: loaders' threads may share a split
        self._info: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self._first[-1]

    @property
    def groups(self) -> int:
        """Row groups in all files, numbered in order."""
        return len(self._places)

    def locate(self, documents_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row group and row within it of each of these documents, (D,) each."""
        group_D = np.searchsorted(self.firsts_G, documents_D, side="right") - 1
        return group_D, documents_D - self.firsts_G[group_D]

    def payload(self, group: int, column: str) -> np.ndarray:
        """The mapped payload of a column chunk, (size,) uint8."""
        file, number = self._places[group]
        return self._mapped(file, self._first[group - number])[number].payload(column)

    def check_structure(self, i: int, columns: Sequence[str]) -> None:
        """Check that the stored lengths of document `i` agree with the index, for `raw`, views and their anchors."""
        group, row = self._group(i)
        for column in columns:
            group.value(column, row, self._unit(column))

    def check_value(self, column: str, i: int) -> None:
        """Check document `i`'s value (`raw`, or a view with its anchors) against its checksum, also without `check`."""
        group, row = self._group(i)
        value = group.value(column, row, self._unit(column))
        pairs = b"" if column == "raw" else group.value(f"{column}_anchors", row, ANCHOR_BYTES)
        group.check_sum(column, row, value, pairs)

    def id(self, i: int) -> bytes:
        """The 16-byte id of document `i`."""
        group, row = self._group(i)
        return group.payload("id")[16 * row : 16 * row + 16].tobytes()

    def find(self, identity: bytes) -> int | None:
        """The number of the document with this id, or None: a binary search in the mapped column."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.id(middle) < identity:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self.id(low) == identity else None

    def length(self, column: str, i: int) -> int:
        """Length of document `i`: bytes for `raw`, symbols for a view, pairs for `<view>_anchors`."""
        group, row = self._group(i)
        return int(group.fixed(f"{column}_len")[row])

    def raw(self, i: int) -> np.ndarray:
        """The bytes of document `i`, (raw_len,) uint8."""
        group, row = self._group(i)
        value = group.value("raw", row, 1)
        if self._owner.check:
            group.check_sum("raw", row, value)
        return value

    def symbols(self, i: int, view: str) -> np.ndarray:
        """The symbols of document `i` in `view`, (view_len,) of the view's dtype; may be unaligned."""
        return self._encoded(i, view)[0]

    def anchors(self, i: int, view: str, check: bool = True) -> np.ndarray:
        """The anchors of document `i` in `view`, (A, 2) uint32: raw offset, symbol offset.

        `check=False`: the caller has checked the document's sums.
        """
        return self._encoded(i, view, check)[1]

    @property
    def checked(self) -> bool:
        """Whether values are checked against their sums when they are read."""
        return self._owner.check

    def width(self, view: str) -> int:
        """Bytes a symbol of a view."""
        return self._owner.view(view).width

    def has_inner_anchors(self, view: str) -> bool:
        """Whether a view's documents can be cut between their ends."""
        return self._owner.view(view).anchor_gap is not None

    def want(self, files: Sequence[int] | np.ndarray) -> None:
        """Say which files are needed next, in order, for a set that is fetched."""
        self._owner.store.want([self.files[int(file)] for file in files])

    def meta(self, i: int) -> dict[str, str | None]:
        """Where document `i` came from: source, path, language, licence, source_id. Decodes a row group: slow."""
        index = bisect_right(self._first, i) - 1
        file, number = self._places[index]
        known, info = self._info
        if known != index:
            with pq.ParquetFile(self._owner.store.path(self.files[file])) as parquet:
                info = parquet.read_row_group(number, columns=list(INFO_COLUMNS))
            self._info = (index, info)
            with self._lock:
                if file not in self._maps:
                    self._owner.store.release(self.files[file])
        return info.slice(i - self._first[index], 1).to_pylist()[0]

    def place(self, i: int) -> tuple[str, int, int]:
        """File, row group and row of document `i`, for messages."""
        index = bisect_right(self._first, i) - 1
        file, number = self._places[index]
        return self._name(file), number, i - self._first[index]

    def _encoded(self, i: int, name: str, check: bool = True) -> tuple[np.ndarray, np.ndarray]:
        view = self._owner.view(name)
        group, row = self._group(i)
        value = group.value(name, row, view.width)
        pairs = group.value(f"{name}_anchors", row, ANCHOR_BYTES)
        if check and self._owner.check:
            group.check_sum(name, row, value, pairs)
        return value.view(SYMBOL_DTYPES[view.width]), pairs.view(ANCHOR_DTYPE).reshape(-1, 2)

    def keep_only(self, files: Collection[int]) -> None:
        """Unmap all files but these, so that a store that holds but a part of the set may let them go."""
        with self._lock:
            for file in self._maps.keys() - files:
                self._unmap(file)

    def _unmap(self, file: int) -> None:
        del self._maps[file]
        self._owner.store.release(self.files[file])

    def _name(self, file: int) -> str:
        """Of a file, for messages."""
        return f"{self._owner.location}/{self.files[file].path}"

    def _group(self, i: int) -> tuple["_Group", int]:
        if not 0 <= i < len(self):
            raise IndexError(f"document {i} of {len(self)} in split {self.name}")
        index = bisect_right(self._first, i) - 1
        file, number = self._places[index]
        return self._mapped(file, self._first[index - number])[number], i - self._first[index]

    def _mapped(self, file: int, first: int) -> list["_Group"]:
        """The row groups of a file, whose first document has this number."""
        with self._lock:
            groups = self._maps.get(file)
            if groups is None:
                groups = self._maps[file] = self._map(file, first)
                if len(self._maps) > OPEN_FILES:
                    self._unmap(next(iter(self._maps)))
            else:
                self._maps.move_to_end(file)
            return groups

    def _map(self, file: int, first: int) -> list["_Group"]:
        """Map a file and cut it into its row groups; `first` is the number of its first document."""
        shard = self.files[file]
        for attempt in range(3):
            try:
                mapped = _map_whole(self._owner.store.path(shard))
                break
            except (FileNotFoundError, CacheFull):
                # Another process that shares the cache has just evicted it; or the cache is full of what is mapped.
                # What is mapped may go: a map outlives the name of its file.
                if attempt == 2:
                    raise
                self.keep_only(())
        if len(mapped) != shard.size:
            found = f"{len(mapped)} bytes found, {shard.size} expected by the manifest"
            raise CorruptShard(found, file=self._name(file))
        data = np.frombuffer(mapped, np.uint8)
        firsts = accumulate((group.rows for group in shard.row_groups), initial=first)
        return [
            _Group(data, group, self._name(file), number, begin)
            for number, (group, begin) in enumerate(zip(shard.row_groups, firsts, strict=False))
        ]

    def _unit(self, column: str) -> int:
        if column == "raw":
            return 1
        return ANCHOR_BYTES if column.endswith("_anchors") else self._owner.view(column).width


class _Group:
    """The mapped columns of one row group."""

    def __init__(self, data: np.ndarray, group: RowGroup, path: str, number: int, first: int) -> None:
        self._data, self._group, self._path, self._number, self._first = data, group, path, number, first
        self._payloads: dict[str, np.ndarray] = {}
        self._fixed: dict[str, np.ndarray] = {}

    def payload(self, column: str) -> np.ndarray:
        """The payload of a column chunk, (size,) uint8."""
        if column not in self._payloads:
            chunk = self._group.chunks[column]
            self._payloads[column] = self._data[chunk.offset : chunk.offset + chunk.size]
        return self._payloads[column]

    def fixed(self, column: str) -> np.ndarray:
        """A column of numbers, (rows,)."""
        if column not in self._fixed:
            dtype = next(dtype for suffix, dtype in _FIXED_DTYPES if column.endswith(suffix))
            self._fixed[column] = self.payload(column).view(dtype)
        return self._fixed[column]

    def value(self, column: str, row: int, unit: int) -> np.ndarray:
        """The bytes of a value whose length counts units of `unit` bytes; its stored length must agree."""
        payload = self.payload(column)
        start, size = int(self.fixed(f"{column}_start")[row]), int(self.fixed(f"{column}_len")[row]) * unit
        if start < _PREFIX or size < 0 or start + size > len(payload):
            raise self.fault(f"value of {size} bytes at {start} in a chunk of {len(payload)}", column, row)
        stored = int.from_bytes(payload[start - _PREFIX : start].tobytes(), "little")
        if stored != size:
            raise self.fault(f"stored length {stored}, expected {size}", column, row)
        return payload[start : start + size]

    def check_sum(self, column: str, row: int, value: np.ndarray, anchors: np.ndarray | bytes = b"") -> None:
        """Compare the checksum of a value (and of its anchors) with the stored one."""
        expected, found = int(self.fixed(f"{column}_sum")[row]), value_sum(value, anchors)
        if found != expected:
            raise self.fault(f"checksum {found:016x}, expected {expected:016x}", column, row)

    def fault(self, found: str, column: str, row: int) -> CorruptShard:
        return CorruptShard(found, file=self._path, row_group=self._number, column=column, document=self._first + row)


def _map_whole(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
