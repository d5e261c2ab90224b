"""AdamW and the learning rate, which is a pure function of the step, so that a resume needs no scheduler's state."""

import math

import torch
from torch import Tensor, nn

from trainer.config import Config


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


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW with decay on the matrices of the body alone.

    Not on gains, whose rest is 1 and not 0; nor on embeddings and heads, whose rare rows would fade between the few
    steps in which they get a gradient.
    """
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (decayed if name.startswith("layers.") and parameter.dim() == 2 else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients down to a norm of `limit` (0: leave them); returns the norm they had, on the device."""
    return nn.utils.clip_grad_norm_(model.parameters(), limit or math.inf)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors named `<parameter>.<entry>`."""
    return {
        f"{name}.{entry}": tensor
        for name, parameter in model.named_parameters()
        for entry, tensor in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The reverse of `optimizer_tensors`; names and shapes have been checked by the caller."""
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            entry: tensors[f"{name}.{entry}"].to(parameter.device) for entry in ("step", "exp_avg", "exp_avg_sq")
        }
