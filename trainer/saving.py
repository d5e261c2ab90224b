"""Writes a run's checkpoints, at once or in a thread beside training, one after another."""

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from trainer import checkpoint
from trainer.config import Config
from trainer.distributed import Ranks
from trainer.sharding import parts_of


class Saver:
    """A context manager: at its end the last checkpoint is written. Where each rank holds a part, each has one."""

    def __init__(self, run: Path, config: Config, ranks: Ranks) -> None:
        self.run, self.config, self.ranks = run, config, ranks
        self.parts = ranks.ranks if config.sharding == "fsdp" else 1
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self, step: int, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
    ) -> None:
        """Write the checkpoint after `step` steps, or begin to; every rank calls it. Raises what the last write met."""
        self.wait()
        if self.ranks.rank >= self.parts:
            return
        model, optimizer = parts_of(model, self.ranks), parts_of(optimizer, self.ranks)
        if not self.config.background:
            self._write(step, model, optimizer, state)
            return
        what = (step, _copy(model), _copy(optimizer), state)  # the next step changes the weights meanwhile
        self._thread = threading.Thread(target=self._write_beside, args=what, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until the checkpoint being written is there; raises what went wrong with it."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def _write_beside(self, *what: Any) -> None:
        try:
            self._write(*what)
        except BaseException as error:  # raised by the next `save` or `wait`
            self._error = error

    def _write(
        self, step: int, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
    ) -> None:
        checkpoint.save(self.run, step, model, optimizer, state, self.ranks.rank, self.parts)
        if self.ranks.is_first:
            checkpoint.prune(self.run, self.config.keep, self.config.keep_every)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.wait()
        elif self._thread:
            self._thread.join()  # what was sound when it was begun is kept; the error in flight is the one to tell


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
