"""Attention stays within documents, and both of its ways equal attention over each document by itself."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.attention import BLOCK, document_attention, prepare_documents

ROWS, CONTEXT, HEADS, GROUPS, WIDTH = 3, 300, 4, 2, 16


def boundaries(seed: int) -> np.ndarray:
    """Documents of random lengths, one of a single position, none across rows; padded as a batch's are."""
    rng = np.random.default_rng(seed)
    starts = {row * CONTEXT for row in range(ROWS)} | set(rng.integers(0, ROWS * CONTEXT, 9).tolist()) | {41, 42}
    return np.array([*sorted(starts), *[ROWS * CONTEXT] * 20], np.int32)


def inputs(dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = [(ROWS, CONTEXT, heads, WIDTH) for heads in (HEADS, GROUPS, GROUPS)]
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes)
    return q, k, v


def one_by_one(q: Tensor, k: Tensor, v: Tensor, bounds: np.ndarray) -> Tensor:
    """Plain causal attention over each document by itself, in float64."""
    q, k, v = (x.flatten(0, 1).double() for x in (q, k, v))
    parts = []
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if begin < end:
            one_q, one_k, one_v = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
            out = nn.functional.scaled_dot_product_attention(one_q, one_k, one_v, is_causal=True, enable_gqa=True)
            parts.append(out[0].transpose(0, 1))
    return torch.cat(parts).view(ROWS, CONTEXT, HEADS, WIDTH)


@pytest.mark.parametrize(
    ("device", "dtype", "tolerance"),
    [
        ("cpu", torch.float32, 2e-6),
        ("cpu", torch.bfloat16, 3e-2),
        pytest.param("cuda", torch.float32, 1e-4, marks=pytest.mark.gpu),
        pytest.param("cuda", torch.bfloat16, 3e-2, marks=pytest.mark.gpu),
    ],
)
def test_packed_documents_attend_as_if_each_were_alone(device: str, dtype: torch.dtype, tolerance: float) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert BLOCK < CONTEXT
    bounds = boundaries(1)
    documents = prepare_documents(bounds, ROWS, CONTEXT, torch.device(device), dtype)
    assert (documents.cu_seqlens is not None) == (device == "cuda" and dtype == torch.bfloat16)
    packed, alone = inputs(dtype, device), inputs(dtype, device)
    found, expected = document_attention(*packed, documents), one_by_one(*alone, bounds)
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(6)).to(device)
    (found.float() * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, theirs in zip(packed, alone, strict=True):
        assert mine.grad is not None and theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, atol=4 * tolerance, rtol=4 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_document_does_not_touch_its_neighbours_in_the_row(dtype: torch.dtype) -> None:
    bounds = boundaries(2)
    begin, end = (int(bounds[3]), int(bounds[4]))
    documents = prepare_documents(bounds, ROWS, CONTEXT, torch.device("cpu"), dtype)
    others = torch.ones(ROWS * CONTEXT, dtype=torch.bool)
    others[begin:end] = False
    results = []
    for change in (0.0, 1.0):
        q, k, v = (x.detach().clone() for x in inputs(dtype))
        for x in (q, k, v):
            x.flatten(0, 1)[begin:end] += change
            x.requires_grad_()
        out = document_attention(q, k, v, documents).flatten(0, 1)
        out.square().sum().backward()
        results.append([out, *(x.grad.flatten(0, 1) for x in (q, k, v) if x.grad is not None)])
    for before, after in zip(*results, strict=True):
        assert torch.equal(before[others], after[others])
        assert not torch.equal(before[~others], after[~others])
