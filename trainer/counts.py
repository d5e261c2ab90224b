"""What a run is made of and costs, by formula, before its first step. Imports no torch: reports count with it too.

`tables`: rows of each view's table, raw first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config import Config
from trainer.specials import RAW_ROWS

FLOAT = 4  # bytes: weights, gradients and the optimizer's state are float32 whatever the dtype of activations


def count_parameters(config: Config, tables: Sequence[int]) -> dict[str, int]:
    """Parameters by part: `body` (blocks and last norm), `embeddings`, `heads`; `multi_byte` where there are such."""
    gains = (2 * config.head_dim if config.qk_norm else 0) + 2 * config.width
    table = sum(tables) * config.width
    body = _matrices(vars(config)) + config.layers * gains + config.width
    found = {"body": body, "embeddings": table, "heads": 0 if config.tie else table}
    return found | ({"multi_byte": (config.multi_byte - 1) * config.width**2} if config.multi_byte > 1 else {})


def flops_by_part(config: Mapping[str, Any], tables: Sequence[int], symbols: Sequence[int]) -> dict[str, int]:
    """Of a step: multiplications and additions of matrix products, forward and backward, 6 a weight and position.

    `body`: 6 * rows * context * weights of its matrices. `attention`: 6 * rows * context * layers * heads * head_dim *
    context, which is causal (half of the square) over rows of one document each; what boundaries save is not taken off.
    `heads`: 6 * symbols * width * rows of the table, by view, as only counted targets reach a head; of all tables where
    the head is a joint one. `multi_byte`, where there are such: a further head 6 * raw symbols * width *
    (width + rows of the raw table); near the ends of documents a few symbols fewer reach it.
    """
    c = config
    positions = c["batch_rows"] * c["context"]
    rows_V = [sum(tables)] * len(tables) if c.get("joint_head") else tables
    heads = sum(count * c["width"] * rows for count, rows in zip(symbols, rows_V, strict=True))
    found = {
        "body": 6 * positions * _matrices(c),
        "attention": 6 * positions * c["layers"] * c["heads"] * c["head_dim"] * c["context"],
        "heads": 6 * heads,
    }
    if further := c.get("multi_byte", 1) - 1:  # reports read configs from before there were such heads
        found["multi_byte"] = 6 * further * symbols[0] * (c["width"] + RAW_ROWS) * c["width"]
    return found


def training_flops(config: Mapping[str, Any], tables: Sequence[int], symbols: Sequence[int]) -> int:
    """Of a step with these counted targets by view, see `flops_by_part`."""
    return sum(flops_by_part(config, tables, symbols).values())


def most_flops(config: Config, tables: Sequence[int]) -> dict[str, int]:
    """Of a step in which every position is scored by the largest head: how many a view gets is not known before."""
    return flops_by_part(
        vars(config), [sum(tables) if config.joint_head else max(tables)], [config.batch_rows * config.context]
    )


def memory_bytes(config: Config, tables: Sequence[int]) -> dict[str, int]:
    """Bytes that last from step to step, in each process: `weights`, `gradients`, `optimizer`.

    Activations are not among them: what the backward pass keeps depends on device, kernels and compiler.
    """
    total = sum(count_parameters(config, tables).values())
    one_moment = _matrices(vars(config)) if config.optimizer == "muon" else 0  # AdamW keeps two, Muon one
    return {"weights": FLOAT * total, "gradients": FLOAT * total, "optimizer": FLOAT * (2 * total - one_moment)}


def describe_counts(config: Config, tables: Sequence[int]) -> list[str]:
    """Lines for the console."""
    flops, memory = most_flops(config, tables), memory_bytes(config, tables)
    work = " + ".join(f"{count:.3g} {part}" for part, count in flops.items())
    held = " + ".join(f"{size / 1e6:,.1f} {part}" for part, size in memory.items())
    return [
        f"at most {sum(flops.values()):.3g} FLOPs a step: {work}",
        f"{sum(memory.values()) / 1e6:,.1f} MB of memory: {held}; activations come on top",
    ]


def _matrices(c: Mapping[str, Any]) -> int:
    """Weights of the body's matrices."""
    attention = c["width"] * c["head_dim"] * (2 * c["heads"] + 2 * c["kv_heads"])
    return c["layers"] * (attention + 3 * c["width"] * c["mlp"])
