"""Muon with matrices of equal shape orthogonalised together: torch's, but for fewer and larger products.

`torch.optim.Muon` does 15 small matrix products a matrix, one after another. Here the updates of all matrices of a
shape (or of its transpose) are one stack, and Newton-Schulz works on the stack: the same products, batched. Defaults,
state names and results are those of `torch.optim.Muon`, but for bfloat16's rounding; so checkpoints of either load.

Sharded parameters (DTensor, as `fully_shard` makes them): momentum stays sharded; the update is gathered, in bfloat16
as Newton-Schulz takes it, and of the result each process keeps its own rows.

Legend: S matrices of a stack, A rows, B columns, A <= B.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

# Elements orthogonalised at once. Stacks of small matrices are faster on the CPU, larger ones are not even as fast as
# one by one (`python -m tests.bench.muon`); elsewhere this bounds a step's memory.
STACK = {"cpu": 1 << 18}
LARGEST_STACK = 1 << 26


class Muon(torch.optim.Muon):
    """As `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`: updates as large as AdamW's, so that its rates hold.

    Source: Jordan et al., https://kellerjordan.github.io/posts/muon, and Liu et al., https://arxiv.org/abs/2502.16982.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, lr, weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "a closure is not needed here"
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[tuple(sorted(parameter.shape))].append(parameter)
            for (rows, columns), parameters in by_shape.items():
                size = max(1, STACK.get(parameters[0].device.type, LARGEST_STACK) // (rows * columns))
                for first in range(0, len(parameters), size):
                    self._update(parameters[first : first + size], group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        wide = [_wide(self._direction(parameter, group)) for parameter in parameters]
        stack = torch.stack(wide) if len(wide) > 1 else wide[0]  # batched products of one are slower than plain ones
        done = orthogonalise(stack, group["ns_coefficients"], group["ns_steps"], group["eps"]).view(-1, *wide[0].shape)
        lr = group["lr"]
        for parameter, update in zip(parameters, done, strict=True):
            if parameter.shape[0] > parameter.shape[1]:
                update = update.T
            parameter.mul_(1 - lr * group["weight_decay"])
            parameter.add_(_as_sharded(update, parameter), alpha=-lr * 0.2 * math.sqrt(max(parameter.shape)))

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Nesterov's momentum of the whole matrix, in bfloat16; the state moves on."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum_buffer"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        direction = (gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum).bfloat16()
        return direction.full_tensor() if isinstance(direction, DTensor) else direction


def orthogonalise(x_SAB: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Newton-Schulz on each matrix of a stack: singular values near 1, (S, A, B) in the dtype of x.

    Of one matrix, (A, B), too."""
    a, b, c = coefficients
    add_product = torch.baddbmm if x_SAB.dim() == 3 else torch.addmm
    x_SAB = x_SAB / x_SAB.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram_SAA = x_SAB @ x_SAB.mT
        gram_SAA = add_product(gram_SAA, gram_SAA, gram_SAA, beta=b, alpha=c)
        x_SAB = add_product(x_SAB, gram_SAA, x_SAB, beta=a)
    return x_SAB


def _wide(matrix: Tensor) -> Tensor:
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _as_sharded(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of what all have alike, where `like` is sharded; nothing is sent."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.contiguous(), like.device_mesh, like.placements, src_data_rank=None)
