"""Where the mapped columns of a split lie in memory, for code that is compiled and follows addresses.

One table of row groups by columns. A group's file is mapped when it is first asked for; what an address points to stays
mapped until `trim`, which the reader of a batch calls between batches.
"""

from collections.abc import Sequence

import numpy as np

from shards.reader import OPEN_FILES, Split

ADDRESS, SIZE = 0, 1


class Pointers:
    """`table_GC2`: (row groups, columns, address and size) int64 of each column chunk's payload; 0 where not mapped."""

    def __init__(self, split: Split, columns: Sequence[str], open_files: int = OPEN_FILES) -> None:
        self.split, self.columns, self._limit = split, list(columns), open_files
        self.table_GC2 = np.zeros((split.groups, len(self.columns), 2), np.int64)
        self.payloads: dict[int, list[memoryview]] = {}  # by row group and column: what is mapped now

    def map(self, groups: np.ndarray) -> None:
        """Make the payloads of these row groups (any shape, may repeat) addressable."""
        for group in np.unique(groups[self.table_GC2[groups, 0, ADDRESS] == 0]).tolist():
            payloads = [self.split.payload(group, column) for column in self.columns]
            self.payloads[group] = [payload.data for payload in payloads]
            for column, payload in enumerate(payloads):
                self.table_GC2[group, column] = payload.ctypes.data, len(payload)

    def trim(self) -> None:
        """Let go of all when more groups are held than files may be open."""
        if len(self.payloads) > self._limit:
            self.clear()

    def clear(self) -> None:
        """Let go of all. Addresses taken before are no longer good."""
        self.table_GC2[list(self.payloads)] = 0
        self.payloads.clear()
