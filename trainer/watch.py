"""Where metrics go besides metrics.jsonl: TensorBoard and Weights & Biases, each by flag, each only if installed."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from trainer.config import Config


class Watchers:
    """Passes each step's figures on. None by default; `resume`: the step after which a run goes on."""

    def __init__(self, config: Config, run: Path, resume: int) -> None:
        self._log: list[Callable[[int, dict[str, float]], Any]] = []
        self._close: list[Callable[[], Any]] = []
        if config.tensorboard:
            self._open_tensorboard(run, resume)
        if config.wandb:
            self._open_wandb(config, run)

    def step(self, entry: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        figures = {key: float(value) for key, value in entry.items() if key != "step"}
        for log in self._log:
            log(entry["step"], figures)

    def close(self) -> None:
        for close in self._close:
            close()

    def _open_tensorboard(self, run: Path, resume: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ByteproxyError(_absent("--tensorboard", "tensorboard")) from None
        writer = SummaryWriter(str(run / "tensorboard"), purge_step=resume + 1)  # type: ignore[no-untyped-call]

        def log(step: int, figures: dict[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

        self._log.append(log)
        self._close.append(writer.close)

    def _open_wandb(self, config: Config, run: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise ByteproxyError(_absent("--wandb", "wandb")) from None
        told = wandb.init(project=config.wandb, name=run.name, dir=str(run), config=dataclasses.asdict(config))
        self._log.append(lambda step, figures: told.log(figures, step=step))
        self._close.append(told.finish)


def _absent(flag: str, package: str) -> str:
    return f"{flag}: the package {package} is not installed: pip install {package}, or leave {flag} away"
