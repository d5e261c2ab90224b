"""The trainer's input: an iterator of (batch, state after it), prepared ahead by one thread.

NumPy's copies release the GIL, so one thread suffices. What is prepared ahead never changes what is trained: each batch
carries the state that follows it, and a checkpoint stores the state of the last batch trained on.
"""

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

from shards.manifest import View
from shards.reader import ShardSet
from trainer.batch import Batch, build_batch
from trainer.plan import PlanConfig, Planner, PlanState


class LoaderConfig(PlanConfig, Protocol):
    """The fields of the trainer's config that the loader reads."""

    @property
    def view(self) -> str: ...


def views_of_run(shard_set: ShardSet, config: LoaderConfig) -> list[View]:
    """The compressed views that a run trains on: the one asked for, or the set's first; none in mode `bytes`."""
    if config.mode == "bytes":
        return []
    return [shard_set.view(config.view or next(iter(shard_set.views), "sentencepiece"))]


class Loader:
    """Iterate over the run's batches from `state` (None: the start) to its last step; a context manager."""

    def __init__(
        self, shard_set: ShardSet, config: LoaderConfig, state: dict[str, Any] | None = None, prefetch: int = 2
    ) -> None:
        self.split, self.views, self.config = shard_set.split("train"), views_of_run(shard_set, config), config
        self.planner = Planner(self.split, self.views, config)
        self._state = PlanState.from_json(state) if state else self.planner.initial()
        self._ready: queue.Queue[Any] = queue.Queue(max(1, prefetch))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._prepare, name="prefetch", daemon=True) if prefetch else None
        if self._thread:
            self._thread.start()

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, Any]]]:
        if not self._thread:
            yield from self._batches()
            return
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
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

    def _batches(self) -> Iterator[tuple[Batch, dict[str, Any]]]:
        for plan, state in self.planner.plans(self._state):
            yield (
                build_batch(plan, self.split, self.views, self.config.batch_rows, self.config.context),
                state.to_json(),
            )

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
