"""The one pack function of all peers that deliver documents: concatenate, cut at the row's end, widen to int64."""

from collections.abc import Iterable, Iterator

import numpy as np

ROWS, TOKENS = 16, 2049
SYMBOLS = ROWS * TOKENS  # of a batch


class Packer:
    """Batches of `shape` from 1-D documents; what does not fill a last batch is dropped.

    Each document is copied and widened straight into the batch, in one pass. At a batch's boundary the state is the
    number of documents done and the symbols used of the one after them, so a peer that can start at any document of
    its order resumes exactly: `documents` must then begin at document `taken`.
    """

    def __init__(
        self, documents: Iterable[np.ndarray], state: dict | None = None, shape: tuple[int, ...] = (ROWS, TOKENS)
    ) -> None:
        self.documents, self.shape = documents, shape
        self.taken, self.used = (state["taken"], state["used"]) if state else (0, 0)

    def state(self) -> dict:
        """Where the last batch ended."""
        return {"taken": self.taken, "used": self.used}

    def __iter__(self) -> Iterator[np.ndarray]:
        size, begin = int(np.prod(self.shape)), self.used
        batch, at = np.empty(size, np.int64), 0
        for document in self.documents:
            end = len(document)
            while end - begin >= (room := size - at):
                batch[at:] = document[begin : begin + room]
                begin += room
                self.used = begin
                yield batch.reshape(self.shape)
                batch, at = np.empty(size, np.int64), 0  # a new one: nobody has promised not to keep the last
            if begin < end:
                batch[at : at + end - begin] = document[begin:end]
                at += end - begin
            begin = 0
            self.taken += 1
