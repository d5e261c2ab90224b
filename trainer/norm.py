"""RMSNorm with a gain, eps 1e-6, in float32 inside. On the CPU its backward pass is written out.

Autograd's own backward of the formula takes twice the passes over memory, which on the CPU was a tenth of a whole step.
Where the model is compiled the formula stays plain, for the compiler to fuse.
"""

from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-6


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """x / rms(x) * gain over the last dimension, in the dtype of x."""
    if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _RMSNorm.apply(x, gain)
    wide = x.float()
    return (wide * _inverse_rms(wide) * gain).to(x.dtype)


def _inverse_rms(wide: Tensor) -> Tensor:
    return torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)


class _RMSNorm(torch.autograd.Function):
    """With n = x / rms(x) and dn = dy * gain:  dx = (dn - n * mean(dn * n)) / rms(x),  dgain = sum(dy * n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        wide = x.float()
        inverse = _inverse_rms(wide)
        ctx.save_for_backward(x, gain, inverse)
        return (wide * inverse).mul_(gain).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, gain, inverse = ctx.saved_tensors
        n, dy = x * inverse, dy.float()
        products = (dy * n).flatten(0, -2)
        d_gain = (products.new_ones(1, len(products)) @ products)[0]  # a matrix product sums faster than `sum(0)`
        mean = (products @ gain).div_(len(gain)).view(inverse.shape)
        return (dy * gain).sub_(n.mul_(mean)).mul_(inverse).to(x.dtype), d_gain
