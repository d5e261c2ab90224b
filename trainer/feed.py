"""Rows of a batch as tensors on the model's device, ready for its forward pass.

Legend: R rows, T inputs a row, N = R * T positions.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.attention import document_attention, prepare_documents
from trainer.batch import Batch
from trainer.model import Attend, Model


class Rows(NamedTuple):
    """The inputs of `Model.forward`, and what its outputs are scored against."""

    ids_RT: Tensor
    views_RT: Tensor
    positions_RT: Tensor
    attend: Attend
    targets_N: Tensor  # int64
    counted_N: Tensor
    views_N: Tensor


def rows_of(batch: Batch, model: Model, first: int, count: int) -> Rows:
    """Rows `first` to `first + count` (as far as there are), their attention confined to documents.

    Behind the last row: the first one again, of which no target counts, for a rank that must not miss a pass.
    """
    device, context = model.norm.weight.device, batch.ids_RT.shape[1]
    behind = first >= len(batch.ids_RT)
    if behind:
        first, count = 0, 1
    count = min(count, len(batch.ids_RT) - first)
    arrays = (batch.ids_RT, batch.views_RT, batch.positions_RT, batch.targets_RT, batch.counted_RT)
    ids_RT, views_RT, positions_RT, targets_RT, counted_RT = (
        torch.from_numpy(array[first : first + count]).to(device, non_blocking=True) for array in arrays
    )
    bounds = np.clip(batch.cu_seqlens - first * context, 0, count * context)
    documents = prepare_documents(bounds, count, context, device, model.dtype)
    return Rows(
        ids_RT.int(),
        views_RT,
        positions_RT,
        lambda layer, q, k, v: document_attention(q, k, v, documents),
        targets_RT.flatten().long(),
        torch.zeros_like(counted_RT).flatten() if behind else counted_RT.flatten(),
        views_RT.flatten(),
    )
