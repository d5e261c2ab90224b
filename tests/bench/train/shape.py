"""What every model of a run has in common, and which row of the table is what."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes and settings, as in trainer/config.py; `vocabulary`: rows of our raw table (specials and bytes)."""

    vocabulary: int
    context: int
    batch_rows: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    rope_theta: float
    lr: float
    warmup_steps: int
    weight_decay: float
    beta1: float
    beta2: float
    clip: float

    @property
    def tokens(self) -> int:
        """A step's."""
        return self.batch_rows * self.context


@dataclass(frozen=True)
class Row:
    """One way of taking training steps."""

    peer: str  # what --peers names
    title: str
    compiled: bool = False
    mode: str = "bytes"  # ours: see `--mode` of the trainer
    optimizer: str = "adamw"  # ours: "preset" for the preset's own

    @property
    def key(self) -> str:
        parts = (self.peer, self.mode if self.peer == "ours" else "", "preset" if self.optimizer != "adamw" else "")
        return "-".join([*filter(None, parts), "compiled" if self.compiled else "eager"])


ROWS = (
    Row("ours", "**ours**, mode bytes"),
    Row("ours", "**ours**, mode bytes, compiled", compiled=True),
    Row("nano", "nanoGPT-style loop"),
    Row("nano", "nanoGPT-style loop, compiled", compiled=True),
    Row("qwen3", "transformers, Qwen3ForCausalLM"),
    Row("qwen3", "transformers, Qwen3ForCausalLM, compiled", compiled=True),
    Row("litgpt", "LitGPT, GPT with Qwen3's settings"),
    Row("litgpt", "LitGPT, GPT with Qwen3's settings, compiled", compiled=True),
    Row("ours", "**ours**, mode proxy, the preset's optimizer", mode="proxy", optimizer="preset"),
    Row("ours", "**ours**, the same, compiled", compiled=True, mode="proxy", optimizer="preset"),
)
REFERENCE = ROWS[0]
PEERS = tuple(dict.fromkeys(row.peer for row in ROWS))
