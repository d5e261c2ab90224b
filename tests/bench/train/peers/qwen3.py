"""`transformers`' own Qwen3ForCausalLM with our shape, causal SDPA, its own loss (which is why it is given labels)."""

from collections.abc import Iterator
from typing import Any

from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.bench.train.peers.loop import take
from tests.bench.train.shape import Shape


def steps(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Its training steps."""
    shape = Shape(**job["shape"])
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=1e-6,
        attention_bias=False,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = Qwen3ForCausalLM(config).train()
    # `shift_labels`: targets as they are, so that no position is lost to a shift
    return take(model, lambda called, x, y: called(input_ids=x, labels=y, shift_labels=y).loss, shape, job)
