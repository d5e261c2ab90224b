"""Trained weights to the integers of the artifact: int8, the largest of each output channel becoming 127.

Legend: as in kernels.py.
"""

from collections.abc import Mapping

import numpy as np

from shards.codecs.neural.lm import Shape


def quantise(
    shape: Shape, weights: Mapping[str, np.ndarray], values_LHD: np.ndarray, theta: float
) -> dict[str, np.ndarray]:
    """The artifact's tensors.

    `weights`: float32 by Qwen3's names (`layers.0.self_attn.q_proj.weight`, (outputs, inputs)); `embed_tokens.weight`
    has the rows of 256 bytes, bos and <raw>, `lm_head.weight` those of 256 bytes. `values_LHD`: the largest value of
    each channel on a sample; what exceeds it later is cut off.
    """
    found: dict[str, np.ndarray] = {}

    def add(name: str, matrix_OI: np.ndarray, factor: float = 1.0) -> None:
        integers, scale_O = to_int8(matrix_OI)
        found[name], found[f"{name}.scale"] = np.ascontiguousarray(integers.T), (scale_O * factor).astype(np.float32)

    found["embed"], found["embed.scale"] = to_int8(weights["embed_tokens.weight"])
    add("head", weights["lm_head.weight"], np.log2(np.e))
    found["norm"] = weights["norm.weight"]
    for layer in range(shape.layers):
        at = {name.removeprefix(f"layers.{layer}."): w for name, w in weights.items()}
        add(f"{layer}.qkv", np.concatenate([at[f"self_attn.{name}_proj.weight"] for name in "qkv"]))
        add(f"{layer}.out", at["self_attn.o_proj.weight"])
        add(f"{layer}.gate_up", np.concatenate([at[f"mlp.{name}_proj.weight"] for name in ("gate", "up")]))
        add(f"{layer}.down", at["mlp.down_proj.weight"])
        found[f"{layer}.norm1"] = at["input_layernorm.weight"]
        found[f"{layer}.norm2"] = at["post_attention_layernorm.weight"]
        found[f"{layer}.qk_norm"] = np.stack([at[f"self_attn.{name}_norm.weight"] for name in "qk"])
        found[f"{layer}.value"] = (np.maximum(values_LHD[layer], 1e-6) / 127).astype(np.float32)
    angles = np.arange(shape.context)[:, None] * theta ** -(np.arange(0, shape.head_dim, 2) / shape.head_dim)
    found["rotary.cos"], found["rotary.sin"] = np.cos(angles), np.sin(angles)
    kinds = shape.tensors()
    return {name: np.ascontiguousarray(tensor.astype(kinds[name][0])) for name, tensor in found.items()}


def to_int8(matrix_OI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers and the scale of each row; a row of zeros has scale 1."""
    top_O = np.abs(matrix_OI).max(1)
    scale_O = np.where(top_O > 0, top_O / 127, 1).astype(np.float32)
    return np.rint(matrix_OI / scale_O[:, None]).astype(np.int8), scale_O


def random_weights(shape: Shape, seed: int = 0, sharp: float = 1.0) -> dict[str, np.ndarray]:
    """Weights of an untrained model, which is as lawful as a trained one. `sharp` scales the head."""
    draw, inner, W = np.random.default_rng(seed), shape.heads * shape.head_dim, shape.width

    def matrix(outputs: int, inputs: int) -> np.ndarray:
        return (draw.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)

    ones = np.ones
    found = {"embed_tokens.weight": matrix(258, W) * np.sqrt(W, dtype=np.float32), "norm.weight": ones(W, np.float32)}
    found["lm_head.weight"] = matrix(256, W) * np.float32(sharp)
    for layer in range(shape.layers):
        sizes = {"self_attn.q_proj": (inner, W), "self_attn.k_proj": (inner, W), "self_attn.v_proj": (inner, W),
                 "self_attn.o_proj": (W, inner), "mlp.gate_proj": (shape.mlp, W), "mlp.up_proj": (shape.mlp, W),
                 "mlp.down_proj": (W, shape.mlp)}  # fmt: skip
        found |= {f"layers.{layer}.{name}.weight": matrix(*size) for name, size in sizes.items()}
        norms = {"input_layernorm": W, "post_attention_layernorm": W}
        norms |= {f"self_attn.{name}_norm": shape.head_dim for name in "qk"}
        for name, size in norms.items():
            found[f"layers.{layer}.{name}.weight"] = ones(size, np.float32)
    return found
