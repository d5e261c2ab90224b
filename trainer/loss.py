"""The loss: summed nats over counted targets, by view. What is trained on is their sum over the global batch's count.

Only counted positions reach a head, and each only its own view's: the large head of a compressed view costs nothing at
raw positions.

Legend: N positions of a (micro-)batch, C counted ones of a view, W width, V compressed views.
"""

import torch
from torch import Tensor, nn

from trainer.model import Model


def nats_by_view(model: Model, x_NW: Tensor, views_N: Tensor, targets_N: Tensor, counted_N: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over the counted targets of each view: (V + 1,) float32."""
    return torch.stack(
        [_nats(model, x_NW, targets_N, counted_N & (views_N == view), view) for view in range(len(model.tables))]
    )


def _nats(model: Model, x_NW: Tensor, targets_N: Tensor, mine_N: Tensor, view: int) -> Tensor:
    index_C = mine_N.nonzero().squeeze(1)
    logits_CK = model.logits(x_NW.index_select(0, index_C), view)
    return nn.functional.cross_entropy(logits_CK, targets_N.index_select(0, index_C), reduction="sum")
