"""The training step of the peers, as nanoGPT and `transformers` users write it: random windows of one flat file of
bytes, autocast to bfloat16 over float32 weights, one backward pass, clipping, fused AdamW. No masks between documents.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.bench.train.shape import Shape

SPECIALS = 64  # bytes follow them in the vocabulary, as in our raw table


def take(
    model: nn.Module, loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor], shape: Shape, job: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Steps without end; see measure.py for what is yielded. `loss_of(model, x, y)`: the mean loss of y after x."""
    device, cuda = job["device"], job["device"] != "cpu"
    model.to(device)
    optimizer = torch.optim.AdamW(_groups(model, shape), shape.lr, (shape.beta1, shape.beta2), fused=True)
    called = torch.compile(model) if job["compiled"] else model
    half = torch.autocast(device, torch.bfloat16) if job["dtype"] == "bfloat16" else contextlib.nullcontext()
    random = np.random.default_rng(job["seed"])
    for step in itertools.count():
        times = [time.perf_counter()]
        for group in optimizer.param_groups:  # our warm-up
            group["lr"] = shape.lr * min(1.0, (step + 1) / (shape.warmup_steps + 1))
        x, y = get_batch(job["text"], shape, random, device)
        times.append(time.perf_counter())
        with half:
            loss = loss_of(called, x, y)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        nn.utils.clip_grad_norm_(model.parameters(), shape.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter())
        parts = dict(zip(("data", "forward", "backward", "optimizer"), np.diff(times).tolist(), strict=True))
        yield {"loss": loss.detach(), "counted": [shape.tokens], "bytes": shape.tokens} | ({} if cuda else parts)


def get_batch(path: str, shape: Shape, random: np.random.Generator, device: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets at random places, (rows, context) int64; the map is opened anew, so that it stays small."""
    text = np.memmap(path, np.uint8, "r")
    starts = random.integers(len(text) - shape.context, size=shape.batch_rows)
    rows = np.stack([text[start : start + shape.context + 1] for start in starts]).astype(np.int64) + SPECIALS
    tokens = torch.from_numpy(rows)
    if device != "cpu":
        tokens = tokens.pin_memory().to(device, non_blocking=True)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def _groups(model: nn.Module, shape: Shape) -> list[dict[str, Any]]:
    """Matrices decay, gains do not."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    gains = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    return [{"params": matrices, "weight_decay": shape.weight_decay}, {"params": gains, "weight_decay": 0.0}]
