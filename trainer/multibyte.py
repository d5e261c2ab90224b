"""Heads that predict raw bytes further ahead than the next, to train with and then to drop: `--multi-byte N`.

At a raw position t the model predicts byte t + 1; with N there are N - 1 heads more, for the bytes t + 2 to t + N. Each
is a linear layer of its own, x + silu(W x) as in Medusa (Cai et al., 2024, https://arxiv.org/abs/2401.10774), before
the raw head that all share; trained from the start and independent of one another as in Gloeckle et al., 2024,
https://arxiv.org/abs/2404.19737. W starts at zero, so each head starts as the one for the next byte.

A head is trained where all bytes up to its target are targets themselves: never past a document's end or cut, never
into another view, padding or a document in quarantine. No figure of a model knows of these heads, and export leaves
them away.

Legend: R rows, T inputs a row, N = R * T, W width, C trained positions of a head, H = multi_byte - 1 heads.
"""

import torch
from torch import Tensor, nn

from trainer.feed import Rows
from trainer.loss import SHAPE_STEP, summed_nats
from trainer.model import Model
from trainer.specials import SPECIALS


def targets_ahead(rows: Rows, offset: int) -> tuple[Tensor, Tensor]:
    """Where the byte `offset` (1: the next) ahead is a target, and which it is: flat positions and ids, (C,) each."""
    shape = rows.ids_RT.shape
    targets_RT = rows.targets_N.view(shape)
    byte_RT = ((rows.views_N == 0) & rows.counted_N & (rows.targets_N >= SPECIALS)).view(shape)
    held_RT = byte_RT.clone()
    for step in range(1, offset):  # a shift of the row; what would come from the next row is none
        held_RT &= nn.functional.pad(byte_RT[:, step:], (0, min(step, shape[1])))
    index_C = held_RT.flatten().nonzero().squeeze(1)
    return index_C, targets_RT.flatten().index_select(0, index_C + offset - 1)


def nats_ahead(model: Model, x_NW: Tensor, rows: Rows) -> Tensor:
    """Nats of each further head, summed over its targets, and how many these were: (H, 2) float32.

    `x_NW`: the stream after the last norm. Gradients flow from the nats.
    """
    found = [x_NW.new_zeros(0, 2, dtype=torch.float32)]
    for offset, layer in enumerate(model.multi_byte, 2):
        index_C, targets_C = targets_ahead(rows, offset)
        count = len(index_C)
        x_CW = nn.functional.pad(x_NW.index_select(0, index_C), (0, 0, 0, -count % SHAPE_STEP))
        x_CW = (x_CW + nn.functional.silu(layer(x_CW)))[:count]
        nats = summed_nats(x_CW, model.head(0), targets_C, model.config.z_loss)
        found.append(torch.stack((nats, nats.new_tensor(count)))[None])
    return torch.cat(found)


def ahead_figures(measured: list[float]) -> dict[str, float]:
    """For metrics, from the values of `nats_ahead` in a row: nats a target, `loss/raw+2` and so on (absent if none)."""
    pairs = enumerate(zip(measured[::2], measured[1::2], strict=True), 2)
    return {f"loss/raw+{offset}": nats / count for offset, (nats, count) in pairs if count}
