"""AdamW, Muon, and the learning rate: a pure function of the step, so that a resume needs no scheduler's state."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.config import Config
from trainer.muon import Muon
from trainer.sharding import full_tensor


def learning_rate(config: Config, step: int) -> float:
    """The rate of the update that ends step `step` (0-based): linear warm-up, then cosine or stable and linear decay.

    Both end near `lr * lr_floor`; warm-up's first step is not 0, so that no step is wasted.
    """
    floor = config.lr * config.lr_floor
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return floor + (config.lr - floor) * (1 + math.cos(math.pi * done)) / 2
    decay_steps = max(1, round(config.decay * config.steps))
    left = min(1.0, (config.steps - step) / decay_steps)
    return floor + (config.lr - floor) * left


def make_optimizers(model: nn.Module, config: Config) -> list[Optimizer]:
    """AdamW for all, or with `muon` Muon for the body's matrices and AdamW for the rest; one learning rate for both.

    Weights decay in the body's matrices alone: not gains, whose rest is 1 and not 0; nor embeddings and heads, whose
    rare rows would fade between the few steps in which they get a gradient.
    """
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if name.startswith("layers.") and parameter.dim() == 2 else others).append(parameter)
    betas = (config.beta1, config.beta2)
    if config.optimizer == "muon":
        return [
            Muon(matrices, config.lr, config.weight_decay),
            torch.optim.AdamW(others, config.lr, betas, weight_decay=0.0, fused=True),
        ]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, config.lr, betas, fused=True)]


def set_learning_rate(optimizers: Sequence[Optimizer], rate: float) -> None:
    """For the next update, in every group."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = rate


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients down to a norm of `limit` (0: leave them); returns the norm they had, on the device."""
    return full_tensor(nn.utils.clip_grad_norm_(model.parameters(), limit or math.inf))


def optimizer_tensors(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state as flat tensors named `<parameter>.<entry>`; before the first update, what it starts as."""
    found = {}
    for name, parameter in model.named_parameters():
        optimizer = _owner(parameter, optimizers)
        for entry in _entries(optimizer):
            start = torch.zeros(()) if entry == "step" else torch.zeros_like(parameter)
            found[f"{name}.{entry}"] = optimizer.state[parameter].get(entry, start)
    return found


def load_optimizer_tensors(model: nn.Module, optimizers: Sequence[Optimizer], tensors: dict[str, Tensor]) -> None:
    """The reverse of `optimizer_tensors`; names and shapes have been checked by the caller."""
    for name, parameter in model.named_parameters():
        optimizer = _owner(parameter, optimizers)
        optimizer.state[parameter] = {
            entry: tensors[f"{name}.{entry}"].to(parameter.device) for entry in _entries(optimizer)
        }


def _owner(parameter: Tensor, optimizers: Sequence[Optimizer]) -> Optimizer:
    return next(o for o in optimizers for group in o.param_groups if any(p is parameter for p in group["params"]))


def _entries(optimizer: Optimizer) -> tuple[str, ...]:
    return ("momentum_buffer",) if isinstance(optimizer, Muon) else ("step", "exp_avg", "exp_avg_sq")
