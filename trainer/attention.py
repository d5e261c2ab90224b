"""Attention that stays within documents: one function, two ways, equal in a test.

On CUDA in bfloat16: variable-length flash attention over the documents' boundaries. Elsewhere: masked attention, in
blocks of queries that look only at the keys up to their end, which saves a third of the work of a full square.

Legend: R rows, T inputs a row, H query heads, G key-value heads, D width of a head, S segments, N = R * T.
"""

import inspect
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

BLOCK = 128  # queries a block
EXPLICIT_CONTEXT = 1024  # up to here the scores of bfloat16 rows are kept for the backward pass: see `_masked`


class Documents(NamedTuple):
    """Where a batch's documents begin, prepared once for all layers: boundaries on CUDA, a mask elsewhere."""

    cu_seqlens: Tensor | None  # (S + 1,) int32 over the N flattened inputs: as many as there are
    mask_R1TT: Tensor | None  # added to the scores: 0 where a query may look, else -inf
    options: tuple[bool, bool] = (True, True)  # of boundaries: see `varlen_options`


def prepare_documents(
    cu_seqlens: np.ndarray, rows: int, context: int, device: torch.device, dtype: torch.dtype
) -> Documents:
    """The boundaries of `rows` rows in the form that `document_attention` takes on this device and in this dtype."""
    if has_varlen(device, dtype):
        # The kernel is launched for each boundary, padding too: a hundred times what there is to do. So this one
        # dimension differs from step to step, and the compiler is told so before it takes it for a constant.
        bounds = torch.from_numpy(np.unique(cu_seqlens)).to(device)
        torch._dynamo.mark_dynamic(bounds, 0)
        return Documents(bounds, None, varlen_options())
    bounds = torch.from_numpy(cu_seqlens[1:]).to(device)
    document_RT = torch.bucketize(torch.arange(rows * context, device=device), bounds, right=True).view(rows, context)
    causal_TT = torch.ones(context, context, dtype=torch.bool, device=device).tril()
    may_look_RTT = (document_RT[:, :, None] == document_RT[:, None, :]) & causal_TT
    mask_RTT = torch.zeros(may_look_RTT.shape, dtype=dtype, device=device).masked_fill_(~may_look_RTT, float("-inf"))
    return Documents(None, mask_RTT[:, None])


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether flash attention over documents of any length is there: CUDA from Ampere on, 16-bit floats."""
    if device.type != "cuda" or dtype == torch.float32 or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    names = inspect.signature(varlen_attn).parameters.keys()
    return "window_size" in names or "is_causal" in names


@cache
def varlen_options() -> tuple[bool, bool]:
    """Whether this torch says causal by a window (before: by `is_causal`), and whether queries may share keys."""
    from torch.nn.attention.varlen import varlen_attn

    names = inspect.signature(varlen_attn).parameters.keys()
    return "window_size" in names, "enable_gqa" in names


def document_attention(q_RTHD: Tensor, k_RTGD: Tensor, v_RTGD: Tensor, documents: Documents) -> Tensor:
    """Causal attention in which no query sees another document's keys; returns (R, T, H, D)."""
    if documents.cu_seqlens is not None:
        return _varlen(q_RTHD, k_RTGD, v_RTGD, documents.cu_seqlens, documents.options)
    assert documents.mask_R1TT is not None
    q_RHTD, k_RGTD, v_RGTD = (x.transpose(1, 2) for x in (q_RTHD, k_RTGD, v_RTGD))
    return _masked(q_RHTD, k_RGTD, v_RGTD, documents.mask_R1TT).transpose(1, 2)


def _varlen(q_RTHD: Tensor, k_RTGD: Tensor, v_RTGD: Tensor, cu_seqlens: Tensor, options: tuple[bool, bool]) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    context = q_RTHD.shape[1]  # no document's stretch is longer than its row: no need to look at the boundaries
    q_NHD, k_NGD, v_NGD = (x.flatten(0, 1) for x in (q_RTHD, k_RTGD, v_RTGD))
    shared = q_NHD.shape[1] // k_NGD.shape[1]
    windows, grouped = options
    how: dict[str, Any] = {"window_size": (-1, 0)} if windows else {"is_causal": True}
    if shared > 1 and grouped:
        how["enable_gqa"] = True
    elif shared > 1:
        k_NGD, v_NGD = (x.repeat_interleave(shared, 1) for x in (k_NGD, v_NGD))
    out_NHD: Any = varlen_attn(q_NHD, k_NGD, v_NGD, cu_seqlens, cu_seqlens, context, context, **how)
    return out_NHD.view(q_RTHD.shape)


def _masked(q_RHTD: Tensor, k_RGTD: Tensor, v_RGTD: Tensor, mask_R1TT: Tensor) -> Tensor:
    """Blocks of queries against the keys up to the block's end.

    In bfloat16 plain matrix products are twice as fast on the CPU as the fused kernel, whose blocks of keys skip
    nothing at these lengths; they keep the scores, so long contexts take the fused kernel all the same.
    """
    context = q_RHTD.shape[2]
    explicit = q_RHTD.dtype == torch.bfloat16 and context <= EXPLICIT_CONTEXT
    attend = _explicit if explicit else _fused
    blocks = []
    for begin in range(0, context, BLOCK):
        end = min(begin + BLOCK, context)
        mask = mask_R1TT[:, :, begin:end, :end]
        blocks.append(attend(q_RHTD[:, :, begin:end], k_RGTD[:, :, :end], v_RGTD[:, :, :end], mask))
    return torch.cat(blocks, 2)


def _explicit(q_RHTD: Tensor, k_RGTD: Tensor, v_RGTD: Tensor, mask_R1TT: Tensor) -> Tensor:
    rows, heads, queries, width = q_RHTD.shape
    groups, keys = k_RGTD.shape[1:3]
    q_RGQD = (q_RHTD * width**-0.5).reshape(
        rows, groups, -1, width
    )  # the heads that share a key head, one after another
    scores = (q_RGQD @ k_RGTD.transpose(-1, -2)).view(rows, heads, queries, keys) + mask_R1TT
    return (scores.softmax(-1).view(rows, groups, -1, keys) @ v_RGTD).view(q_RHTD.shape)


def _fused(q_RHTD: Tensor, k_RGTD: Tensor, v_RGTD: Tensor, mask_R1TT: Tensor) -> Tensor:
    grouped = q_RHTD.shape[1] != k_RGTD.shape[1]
    return nn.functional.scaled_dot_product_attention(q_RHTD, k_RGTD, v_RGTD, attn_mask=mask_R1TT, enable_gqa=grouped)
