"""Our own steps, made of the trainer's pieces as `trainer/train.py` puts them together: loader with its thread and
checksums, `backward` with document masks, clipping, optimizers. Metrics, console and checkpoints are left out.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch

from trainer.config import Config, make_config
from trainer.loader import Loader
from trainer.mixture import open_mixture
from trainer.model import Model, table_rows
from trainer.optim import clip_gradients, learning_rate, make_optimizers, set_learning_rate
from trainer.runtime import DTYPES, allocator, compile_blocks, resolve, set_up_torch
from trainer.train import backward

PARTS = ("data", "forward", "backward", "clip", "optimizer")


def config_of(job: dict[str, Any]) -> Config:
    """The run's config, from the job of one row."""
    return resolve(make_config(job["settings"]), {})


def steps(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Training steps; on the CPU with the time of their parts."""
    config = config_of(job)
    set_up_torch(config)
    mixture = open_mixture(config)
    tables = table_rows([view.alphabet for view in mixture.views])
    model = Model(config, tables, DTYPES[config.dtype]).to(config.device)
    compile_blocks(model, config)
    optimizers = make_optimizers(model, config)
    cuda = config.device != "cpu"
    within = [] if cuda else _timed_backward()
    with Loader(
        mixture.sources, mixture.views, config, None, config.prefetch, allocate=allocator(config), shares=mixture.shares
    ) as batches:
        asked = time.perf_counter()
        for step, (batch, _) in enumerate(batches):
            times = [asked, time.perf_counter()]
            set_learning_rate(optimizers, learning_rate(config, step))
            within.clear()
            nats_V = backward(model, batch, config.pass_rows)
            times.append(time.perf_counter())
            clip_gradients(model, config.clip)
            times.append(time.perf_counter())
            for optimizer in optimizers:
                optimizer.step()
            model.zero_grad(set_to_none=True)
            times.append(time.perf_counter())
            data, both, clip, update = (end - begin for begin, end in itertools.pairwise(times))
            found = {"loss": nats_V.sum() / max(1, int(batch.symbols.sum())), "counted": batch.symbols.tolist()}
            found |= {"bytes": int(batch.raw_bytes.sum()), "waited": batches.waited, "tables": tables}
            if not cuda:
                inner = sum(within)
                found |= dict(zip(PARTS, (data, both - inner, inner, clip, update), strict=True))
            yield found
            asked = time.perf_counter()


def _timed_backward() -> list[float]:
    """From now on each call of `Tensor.backward` adds its seconds to the list: `backward` of the trainer does both."""
    seconds: list[float] = []
    plain = torch.Tensor.backward

    def timed(self: torch.Tensor, *arguments: Any, **named: Any) -> None:
        begin = time.perf_counter()
        plain(self, *arguments, **named)
        seconds.append(time.perf_counter() - begin)

    torch.Tensor.backward = timed  # type: ignore[method-assign, assignment]
    return seconds
