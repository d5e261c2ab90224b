"""The trainer's input: an iterator of (batch, state after it), prepared ahead by one thread.

Planning, copying and checking release the GIL, so one thread suffices. What is prepared ahead never changes what is
trained: each batch carries the state that follows it, and a checkpoint stores the state of the last batch trained on.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from shards.errors import CorruptShard
from shards.manifest import View
from trainer.ahead import Source
from trainer.batch import Allocate, Batch, Buffers, Builder
from trainer.plan import PlanConfig, Planner, PlanState


class Loader:
    """Iterate over the run's batches from `state` (None: the start) to its last step; a context manager.

    A batch is good until the next is asked for: its arrays are used again. `rank` of `ranks` gets its share of each
    batch's rows; `report` is called with the fault of each document that `quarantine` masks; `shares` as for Planner.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        views: Sequence[View],
        config: PlanConfig,
        state: PlanState | dict[str, Any] | None = None,
        prefetch: int = 2,
        *,
        rank: int = 0,
        ranks: int = 1,
        allocate: Allocate = np.zeros,
        report: Callable[[CorruptShard], None] | None = None,
        shares: Sequence[float] = (),
    ) -> None:
        self.new_planner = partial(Planner, sources, views, config, shares)  # another that plans the same
        self.planner = self.new_planner()
        self._state = PlanState.from_json(state) if isinstance(state, dict) else state or self.planner.initial()
        first, end = rows_of_rank(config.batch_rows, rank, ranks)
        self._builder = Builder(sources, self.planner.pointers, views, first, end - first, config.check, report)
        # One batch is in use, `prefetch` wait, and one is being filled.
        how_many = prefetch + 2 if prefetch else 1
        self._buffers = [Buffers(end - first, config.context, views, allocate) for _ in range(how_many)]
        self._ready: queue.Queue[Any] = queue.Queue(max(1, prefetch))
        self.waited = 0.0  # seconds that the latest batch was waited for
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._prepare, name="prefetch", daemon=True) if prefetch else None
        if self._thread:
            self._thread.start()

    def __iter__(self) -> Iterator[tuple[Batch, PlanState]]:
        batches = self._received() if self._thread else self._batches()
        while True:
            asked = time.monotonic()
            item = next(batches, None)
            self.waited = time.monotonic() - asked
            if item is None:
                return
            yield item

    def close(self) -> None:
        """Stop preparing; waits for the thread."""
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _received(self) -> Iterator[tuple[Batch, PlanState]]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _batches(self) -> Iterator[tuple[Batch, PlanState]]:
        for turn, (plan, state) in enumerate(self.planner.plans(self._state)):
            yield self._builder.build(plan, self._buffers[turn % len(self._buffers)]), state

    def _prepare(self) -> None:
        try:
            for item in self._batches():
                if not self._put(item):
                    return
            self._put(None)
        except BaseException as error:  # handed to the trainer's thread, which raises it
            self._put(error)

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def rows_of_rank(batch_rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """The rows [first, end) of a global batch that a rank materialises."""
    return rank * batch_rows // ranks, (rank + 1) * batch_rows // ranks
