"""The loss: summed nats over counted targets, by view. What is trained on is their sum over the global batch's count.

Only counted positions reach a head, and each only its own view's: the large head of a compressed view costs nothing at
raw positions. A joint head, one softmax over the rows of all views, is the exception.

With `z_loss` the gradients are those of nats + z_loss * log(sum of exp(logits))^2, over the same targets: it holds the
softmax's sum near 1, on which nats do not depend. The figure stays the nats alone, to be compared between runs.

Legend: N positions of a (micro-)batch, C counted ones of a view, W width, K rows of its table, V compressed views.
"""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.model import Model

# Logits worked on at once, which never exist for all positions: on the CPU so few that they stay in the cache, on a GPU
# so many that it has enough to do at a time.
CHUNK_LOGITS = {"cpu": 1 << 19, "cuda": 1 << 26}
SHAPE_STEP = 128  # positions are padded to a multiple: the CPU compiles, and keeps, matrix products by shape


def nats_by_view(model: Model, x_NW: Tensor, views_N: Tensor, targets_N: Tensor, counted_N: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over the counted targets of each view: (V + 1,) float32."""
    weights, first, nats = model.heads(), 0, []
    joint_KW = torch.cat(weights) if model.config.joint_head else None
    for view, weight_KW in enumerate(weights):
        index_C = (counted_N & (views_N == view)).nonzero().squeeze(1)
        x_CW, targets_C = x_NW.index_select(0, index_C), targets_N.index_select(0, index_C)
        if joint_KW is not None:
            weight_KW, targets_C, first = joint_KW, targets_C + first, first + len(weight_KW)
        nats.append(summed_nats(x_CW, weight_KW, targets_C, model.config.z_loss))
    return torch.stack(nats)


def summed_nats(x_CW: Tensor, weight_KW: Tensor, targets_C: Tensor, z_loss: float = 0.0) -> Tensor:
    """Cross-entropy of a linear head in nats, summed over positions: a float32 scalar. Logits in the dtype of x.

    `z_loss` is in the gradients, not in the scalar.
    """
    return _HeadLoss.apply(x_CW, weight_KW, targets_C, z_loss)


class _HeadLoss(torch.autograd.Function):
    """Works out loss and gradients chunk by chunk in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, x_CW: Tensor, weight_KW: Tensor, targets_C: Tensor, z_loss: float) -> Tensor:
        weight = weight_KW.to(x_CW.dtype)
        d_x, d_weight = torch.empty_like(x_CW), torch.zeros_like(weight_KW)
        nats = torch.zeros((), device=x_CW.device)
        # a table of 65,536 symbols would get few positions at once, and each few would be padded to a whole step
        size = max(SHAPE_STEP, CHUNK_LOGITS.get(x_CW.device.type, 1 << 26) // len(weight))
        for x, targets, out in zip(x_CW.split(size), targets_C.split(size), d_x.split(size), strict=True):
            count, padding = len(x), -len(x) % SHAPE_STEP
            x, targets = nn.functional.pad(x, (0, 0, 0, padding)), nn.functional.pad(targets, (0, padding))
            logits = (x @ weight.T).float()
            total = logits.logsumexp(-1, keepdim=True)
            nats += (total - logits.gather(1, targets[:, None]))[:count].sum()
            d_logits = logits.sub_(total).exp_()  # softmax, less 1 at the target
            if z_loss:
                d_logits *= 1 + 2 * z_loss * total  # the derivative of total is the softmax too
            d_logits.scatter_add_(1, targets[:, None], d_logits.new_full((len(targets), 1), -1.0))
            d_logits[count:] = 0
            d_logits = d_logits.to(x.dtype)
            out.copy_((d_logits @ weight)[:count])
            d_weight += d_logits.T @ x
        ctx.save_for_backward(d_x, d_weight)
        return nats

    @staticmethod
    def backward(ctx: Any, d_nats: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        d_x, d_weight = ctx.saved_tensors
        return d_x * d_nats, d_weight * d_nats, None, None
