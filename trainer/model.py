"""The model: the Qwen3 architecture over bytes, with an embedding table and an output head for each view.

Pre-norm blocks, RMSNorm with a gain, per-head norm of queries and keys before rotary embedding, grouped queries,
SwiGLU, no biases. Parameters bear Qwen3's names; index 0 of `embed_tokens` and `lm_head` is raw, index v the v-th view.

Weights are float32; activations have the dtype that the embedding is cast to.

Legend: R rows, T inputs a row, W width, H query heads, G key-value heads, D width of a head, N positions, K rows
of a table.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.compose import Spellings, compositions
from trainer.config import Config
from trainer.norm import rms_norm
from trainer.specials import RAW_ROWS, SPECIALS

INIT_STD = 0.02

# (layer, q_RTHD, k_RTGD, v_RTGD) -> out_RTHD: attention over a packed batch, or over a cache of what came before
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def table_rows(alphabets: Sequence[int]) -> list[int]:
    """Rows of each table: raw, then one for each compressed view's alphabet."""
    return [RAW_ROWS, *(SPECIALS + alphabet for alphabet in alphabets)]


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last dimension, in float32 whatever the dtype of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


class Linear(nn.Linear):
    """Without bias; the float32 weight is cast to the dtype of its input, as autocast would."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    """Grouped-query attention; which keys a query sees is the caller's `attend`."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.q_proj = Linear(config.width, config.heads * config.head_dim)
        self.k_proj = Linear(config.width, config.kv_heads * config.head_dim)
        self.v_proj = Linear(config.width, config.kv_heads * config.head_dim)
        self.o_proj = Linear(config.heads * config.head_dim, config.width)
        self.q_norm, self.k_norm = (RMSNorm(config.head_dim) if config.qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x_RTW: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        q_RTHD, k_RTGD, v_RTGD = (
            project(x_RTW).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q_RTHD, k_RTGD = rotate(self.q_norm(q_RTHD), *rotation), rotate(self.k_norm(k_RTGD), *rotation)
        return self.o_proj(attend(self.layer, q_RTHD, k_RTGD, v_RTGD).flatten(2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = Linear(config.width, config.mlp)
        self.up_proj = Linear(config.width, config.mlp)
        self.down_proj = Linear(config.mlp, config.width)

    def forward(self, x_RTW: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x_RTW)) * self.up_proj(x_RTW))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(config.width), Attention(config, layer)
        self.post_attention_layernorm, self.mlp = RMSNorm(config.width), MLP(config)
        self.recompute = config.recompute

    def forward(self, x_RTW: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        if self.recompute and torch.is_grad_enabled():  # keep the input alone, and do the rest again in backward
            return checkpoint(self.layer, x_RTW, rotation, attend, use_reentrant=False, preserve_rng_state=False)
        return self.layer(x_RTW, rotation, attend)

    def layer(self, x_RTW: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """The block's work."""
        x_RTW = x_RTW + self.self_attn(self.input_layernorm(x_RTW), rotation, attend)
        return x_RTW + self.mlp(self.post_attention_layernorm(x_RTW))


class Model(nn.Module):
    """`tables`: rows of each view's table, see `table_rows`. Weights come from `config.seed` alone.

    `spellings`: of the views whose symbols are composed of their bytes, see compose.py.
    """

    def __init__(
        self,
        config: Config,
        tables: Sequence[int],
        dtype: torch.dtype = torch.float32,
        spellings: Spellings = (),
    ) -> None:
        super().__init__()
        self.config, self.tables, self.dtype, self.spellings = config, list(tables), dtype, spellings
        self.embed_tokens = nn.ModuleList(nn.Embedding(rows, config.width) for rows in tables)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.lm_head = nn.ModuleList(Linear(config.width, rows) for rows in tables)
        if config.tie:
            for head, table in zip(self.lm_head, self.embed_tokens, strict=True):
                head.weight = table.weight
        self.compositions = compositions(spellings)
        # for training alone: see multibyte.py
        self.multi_byte = nn.ModuleList(Linear(config.width, config.width) for _ in range(config.multi_byte - 1))
        self.initialise(config.seed)

    def initialise(self, seed: int) -> None:
        """Normal weights; projections back into the stream start at zero, so each block starts as the identity.

        `--init scaled`: these too are normal, smaller by the square root of their number, as in GPT-2. `--init width`:
        all others are smaller by the square root of their inputs, embeddings by that of the width.
        """
        generator = torch.Generator().manual_seed(seed)
        scheme = self.config.init
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() != 2:
                    continue
                std = parameter.shape[1] ** -0.5 if scheme == "width" else INIT_STD
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    std = std / (2 * self.config.layers) ** 0.5 if scheme == "scaled" else 0.0
                if std == 0.0 or name.startswith("multi_byte."):
                    parameter.zero_()
                else:
                    parameter.normal_(0.0, std, generator=generator)

    def forward(self, ids_RT: Tensor, views_RT: Tensor, positions_RT: Tensor, attend: Attend) -> Tensor:
        """The stream after the last norm, (R, T, W): what `logits` turns into predictions."""
        x_RTW = self.embed(ids_RT, views_RT).to(self.dtype)
        rotation = rotation_at(positions_RT, self.config.head_dim, self.config.rope_theta, self.dtype)
        for block in self.layers:
            x_RTW = block(x_RTW, rotation, attend)
        return self.norm(x_RTW)

    def embed(self, ids_RT: Tensor, views_RT: Tensor) -> Tensor:
        """Look each id up in its own view's table. Shapes do not depend on how many positions each view has."""
        x_RTW = self.embed_tokens[0](torch.where(views_RT == 0, ids_RT, 0))
        for view, table in enumerate(self.embed_tokens[1:], 1):
            mine_RT = views_RT == view
            mine_ids_RT = torch.where(mine_RT, ids_RT, 0)
            if str(view) not in self.compositions:
                mine_RTW = table(mine_ids_RT)
            elif torch.is_grad_enabled() or mine_RT.any():  # a reader of bytes need not wait for a whole table
                composed_KW = self.compositions[str(view)](table.weight, self.embed_tokens[0].weight)
                mine_RTW = nn.functional.embedding(mine_ids_RT, composed_KW)
            else:
                continue
            x_RTW = torch.where(mine_RT[..., None], mine_RTW, x_RTW)
        return x_RTW

    def head(self, view: int) -> Tensor:
        """The output matrix of a view, (K, W)."""
        weight_KW: Tensor = self.lm_head[view].weight  # type: ignore[assignment]
        if self.config.compose == "both" and str(view) in self.compositions:
            return self.compositions[str(view)](weight_KW, self.lm_head[0].weight)
        return weight_KW

    def heads(self) -> list[Tensor]:
        """The output matrices by view."""
        return [self.head(view) for view in range(len(self.tables))]

    def logits(self, x_NW: Tensor, view: int) -> Tensor:
        """Predictions of the head of a view (0: raw), (N, K of the view), float32.

        A joint softmax is cut down to the view's own rows: a reader of bytes knows that bytes follow.
        """
        return nn.functional.linear(x_NW, self.head(view).to(x_NW.dtype)).float()


def rotation_at(positions_RT: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding, each (R, T, 1, D / 2); angles in float32."""
    rates_D = theta ** -(torch.arange(0, head_dim, 2, device=positions_RT.device, dtype=torch.float32) / head_dim)
    angles_RTD = positions_RT[..., None].float() * rates_D
    return angles_RTD.cos()[:, :, None].to(dtype), angles_RTD.sin()[:, :, None].to(dtype)


def rotate(x_RTHD: Tensor, cos_RT1D: Tensor, sin_RT1D: Tensor) -> Tensor:
    """Rotate pairs made of a head's first and second half."""
    first, second = x_RTHD.chunk(2, -1)
    return torch.cat((first * cos_RT1D - second * sin_RT1D, second * cos_RT1D + first * sin_RT1D), -1)
