"""LitGPT's GPT with its settings for Qwen3, cross-entropy as in its `pretrain`; no Fabric around it."""

from collections.abc import Iterator
from typing import Any

import torch
from litgpt.config import Config
from litgpt.model import GPT
from litgpt.utils import chunked_cross_entropy
from torch import Tensor, nn

from tests.bench.train.peers.loop import take
from tests.bench.train.shape import Shape


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss."""
    return chunked_cross_entropy(model(x), y, chunk_size=0)


def steps(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Its training steps."""
    shape = Shape(**job["shape"])
    config = Config(
        name="qwen3",
        vocab_size=shape.vocabulary,
        padded_vocab_size=shape.vocabulary,
        block_size=shape.context,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_query_groups=shape.kv_heads,
        n_embd=shape.width,
        head_size=shape.head_dim,
        intermediate_size=shape.mlp,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        norm_eps=1e-6,
        norm_qk=True,
        rope_base=int(shape.rope_theta),
    )
    model = GPT(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.02)
    torch.set_float32_matmul_precision("high")  # as its `pretrain` does
    return take(model, loss_of, shape, job)
