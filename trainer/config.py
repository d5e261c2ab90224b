"""The configuration of a run: one dataclass that is the TOML file, the flags and their help at once.

A value comes from the preset, over which goes a TOML file, over which go the flags (trainer/flags.py reads both).
Nothing here imports torch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shards.errors import ByteproxyError
from trainer.presets import PRESETS

MODES = ("proxy", "bytes", "tokens", "parallel")


def _say(default: Any, text: str, choices: Sequence[str] = (), *, free: bool = False, later: bool = False) -> Any:
    """A field with its help, its allowed values, and whether a resumed run may change it (it moves no weight).

    `later`: it came when there were comparisons already, whose runs bear the names that they had without it.
    """
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices, "free": free, "later": later})


@dataclass(frozen=True)
class Config:
    """Every setting of a run. Lengths are in tokens (ids), rates and fractions in [0, 1]."""

    shards: str = _say(
        "",
        "folder or URL of the shard set, or several by weight: a:0.7,b:0.3; by default the newest under data/",
        free=True,
    )
    run: str = _say("", "folder of the run; by default runs/<set>-<preset>", free=True)
    preset: str = _say("demo", "sizes to start from: demo (CPU, minutes), 5m, 25m, 100m, 500m; lm-1m, lm-3m, lm-40m")
    seed: int = _say(0, "of the initial weights, the order and the layouts of documents")
    device: str = _say("auto", "cpu or cuda; auto: cuda where there is one")
    dtype: str = _say(
        "auto", "of activations; auto: bfloat16 where the processor has it", ("auto", "float32", "bfloat16")
    )
    threads: int = _say(0, "CPU threads of a step; 0: all cores. Part of what a result depends on")

    compile: str = _say(
        "auto",
        "compile the model's blocks, in the first step and never again; auto: on CUDA, and on the CPU for 500 steps "
        "and more where it has a C++ compiler",
        ("auto", "on", "off"),
    )

    recompute: bool = _say(
        False, "keep no activations within blocks, but compute them again in the backward pass: less memory", free=True
    )
    sharding: str = _say(
        "ddp", "what a rank holds: ddp, the whole model; fsdp, some rows of every weight (FSDP2)", ("ddp", "fsdp"),
        free=True,
    )  # fmt: skip
    exchange: str = _say(
        "float32",
        "how ddp sends gradients; powersgd: low-rank factors, whose memory no checkpoint holds",
        ("float32", "bfloat16", "powersgd"),
    )

    mode: str = _say(
        "proxy",
        "recipe: both views mixed; one view only; parallel: before --anneal every document in both, apart",
        MODES,
    )
    views: str = _say(
        "", "compressed views to train on, with their shares of it: a:0.6,b:0.3; by default the set's first"
    )
    rate: float = _say(0.9, "share of compressed streams in the steady phase")
    rate_unit: str = _say(
        "documents",
        "what rates are shares of: documents laid out (streams; on average their bytes too), or symbols",
        ("documents", "symbols"),
    )
    rate_start: float = _say(0.4, "the same at step 0; it rises linearly during the translation warm-up")
    rate_end: float = _say(
        -1.0,
        "the same where the annealing begins; it moves there linearly from --rate, once the warm-up is over; -1: it "
        "stays at --rate",
        later=True,
    )
    translation: float = _say(0.2, "first part of the steps, in which documents may hold both views")
    pairs: float = _say(0.0, "share of documents that hold both views outside of that part too, annealing included")
    switch: float = _say(
        0.0,
        "before the annealing: share of documents laid out as one stream whose parts, each text once, are raw and "
        "compressed in turn, raw first, cut at the anchors of the view; rates and pairs are shares of the others",
        later=True,
    )
    switch_bytes: int = _say(
        512, "text of such a part: from half to three halves of it, by hash, and on to the next anchor", later=True
    )
    anneal: float = _say(0.0, "last part of the steps, which trains on raw bytes alone, but for --pairs")

    steps: int = _say(1000, "optimizer steps")
    context: int = _say(512, "inputs a row")
    batch_rows: int = _say(16, "rows a step")
    lanes: int = _say(
        256,
        "documents that are read side by side, or as many as rows a step if these are more: each step has rows of the "
        "next of them, so that long documents do not fill neighbouring steps",
    )
    batch_symbols: int = _say(
        0, "symbols a step, in place of --batch-rows: that many, of --context each; 0: as that says"
    )
    micro_rows: int = _say(0, "rows a forward pass, whose gradients are summed up; 0: all. Fewer take less memory")
    optimizer: str = _say("adamw", "muon: for the matrices of the body, adamw for the rest", ("adamw", "muon"))
    lr: float = _say(3e-3, "peak learning rate")
    warmup_steps: int = _say(50, "steps over which the learning rate rises from 0")
    schedule: str = _say("cosine", "of the learning rate: cosine, or warm-up, stable, linear decay", ("cosine", "wsd"))
    decay: float = _say(0.5, "last part of the steps over which wsd decays")
    lr_floor: float = _say(0.1, "learning rate of the last step, as a part of the peak")
    weight_decay: float = _say(0.1, "on the matrices of the body")
    beta1: float = _say(0.9, "of AdamW")
    beta2: float = _say(0.95, "of AdamW")
    clip: float = _say(1.0, "largest norm of the gradient; 0: any")
    z_loss: float = _say(
        0.0, "weight of the squared log of the softmax's sum, which keeps logits from drifting; 0: none"
    )
    weights: str = _say(
        "",
        "of the nats of a view in the gradients: sentencepiece:0.5,raw:1; a view not named has 1. They are divided by "
        "the count of all targets as ever, and the figures stay nats without weights",
        later=True,
    )

    width: int = _say(192, "of the residual stream")
    layers: int = _say(4, "transformer blocks")
    heads: int = _say(3, "query heads")
    kv_heads: int = _say(3, "key and value heads, each shared by heads / kv_heads query heads")
    head_dim: int = _say(64, "width of a head")
    mlp: int = _say(512, "hidden width of the SwiGLU layer")
    rope_theta: float = _say(10000.0, "base of the rotary position embedding")
    qk_norm: bool = _say(True, "norm queries and keys, as Qwen3 does; a model without it cannot be exported")
    tie: bool = _say(False, "let each view's head be its embedding table: fewer parameters")
    joint_head: bool = _say(
        False, "one softmax over the tables of all views, instead of one for each: the paper's, slower"
    )

    init: str = _say(
        "zero",
        "standard deviations of the weights: zero (0.02; 0 for projections into the stream), scaled (for these "
        "0.02 / sqrt(2 * layers)), width (as zero, with 1 / sqrt(inputs) for 0.02)",
        ("zero", "scaled", "width"),
    )
    compose: str = _say(
        "off",
        "rows of symbols with the mean of the raw rows of their bytes on top: of the embedding (input), or of the "
        "head too (both), in views whose symbols have fixed bytes, like sentencepiece's",
        ("off", "input", "both"),
        later=True,
    )
    multi_byte: int = _say(
        1, "bytes that a raw position predicts, the next and further ones; heads for these only train, see export"
    )
    multi_byte_weight: float = _say(0.3, "of the loss of each further head; one with weight 1 counts as the next byte")

    checkpoint_every: int = _say(200, "steps between checkpoints; one is always written at the end", free=True)
    background: bool = _say(
        False, "write checkpoints in a thread while training goes on, from a copy of what they hold", free=True
    )
    keep: int = _say(2, "checkpoints to keep; 0: all", free=True)
    keep_every: int = _say(0, "keep also each checkpoint whose step is a multiple of this; 0: no others", free=True)
    # 5 nats is more than text without any order costs a sound model: ln 256 is 5.5, and means lie above 0.5.
    spike: float = _say(
        5.0, "stop where the loss of a view is so many nats over the mean of its last 100 steps; 0: never", free=True
    )
    eval_every: int = _say(250, "steps between evaluations on held-out raw bytes; 0: only at the end", free=True)
    eval_bytes: int = _say(131072, "held-out bytes of an evaluation in mid-run; the last one takes all", free=True)
    log_every: int = _say(10, "steps between lines on the console; metrics.jsonl has every step", free=True)
    prefetch: int = _say(2, "batches prepared ahead, in a thread", free=True)
    check: str = _say(
        "fail",
        "of each document's checksum when it is read: fail, mask what is wrong (quarantine), or off",
        ("fail", "quarantine", "off"),
        free=True,
    )
    exclude: str = _say("", "file of document ids, one a line, to leave out; part of what a run depends on", free=True)
    shuffle_window: int = _say(0, "shards shuffled together, for sets larger than their cache; 0: all, a global order")
    mix_by: str = _say("bytes", "what the weights of several sets are shares of", ("documents", "bytes", "symbols"))
    cache: str = _say("", "folder for the files of remote sets; by default ~/.cache/byteproxy", free=True)
    cache_bytes: int = _say(0, "largest size of that folder for each set; 0: any", free=True)
    tensorboard: bool = _say(False, "also write metrics for TensorBoard, into the run's folder", free=True)
    wandb: str = _say("", "project of Weights & Biases to send metrics to; by default none", free=True)
    prompt: str = _say("def ", "that the sample at the end continues", free=True)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if (choices := field.metadata["choices"]) and getattr(self, field.name) not in choices:
                raise ByteproxyError(
                    f"{flag(field.name)}: {getattr(self, field.name)!r} found, one of {', '.join(choices)} expected"
                )
        for name in ("rate", "rate_start", "translation", "pairs", "switch", "anneal", "decay", "lr_floor", "beta1",
                     "beta2"):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ByteproxyError(f"{flag(name)}: {getattr(self, name)} found, a number from 0 to 1 expected")
        for name in ("steps", "context", "batch_rows", "lanes", "width", "layers", "heads", "kv_heads", "head_dim",
                     "mlp", "multi_byte", "switch_bytes", "lr", "log_every"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ByteproxyError(f"{flag(name)}: {getattr(self, name)} found, more than 0 expected")
        if self.batch_symbols > 0 and self.batch_symbols != self.batch_rows * self.context:
            raise ByteproxyError(
                f"--batch-symbols {self.batch_symbols}: {self.batch_rows * self.context} found by --batch-rows "
                f"{self.batch_rows} of --context {self.context}; give one of the two, symbols a multiple of the context"
            )
        for name in ("threads", "micro_rows", "warmup_steps", "checkpoint_every", "keep", "keep_every", "spike",
                     "eval_every", "eval_bytes", "prefetch", "clip", "z_loss", "weight_decay", "shuffle_window",
                     "cache_bytes", "multi_byte_weight", "batch_symbols"):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ByteproxyError(f"{flag(name)}: {getattr(self, name)} found, 0 or more expected")
        if not (self.rate_end == -1 or 0 <= self.rate_end <= 1):
            raise ByteproxyError(f"--rate-end: {self.rate_end} found, a number from 0 to 1 expected, or -1")
        if self.mode == "proxy" and self.translation + self.anneal > 1:
            raise ByteproxyError(
                f"--translation {self.translation} and --anneal {self.anneal}: together at most 1 expected"
            )
        if self.multi_byte > 1 and (self.mode == "tokens" or self.multi_byte >= self.context):
            raise ByteproxyError(
                f"--multi-byte {self.multi_byte}: 1 expected in --mode tokens, which has no raw positions, "
                f"else less than --context {self.context}"
            )
        if self.heads % self.kv_heads:
            raise ByteproxyError(f"--heads {self.heads}: a multiple of --kv-heads {self.kv_heads} expected")
        if self.head_dim % 2:
            raise ByteproxyError(f"--head-dim {self.head_dim}: an even number expected")
        if self.sharding == "fsdp" and self.exchange != "float32":
            raise ByteproxyError(f"--exchange {self.exchange}: with --sharding ddp only; fsdp sends float32")
        if self.micro_rows and self.batch_rows % self.micro_rows:
            raise ByteproxyError(
                f"--batch-rows {self.batch_rows}: a multiple of --micro-rows {self.micro_rows} expected"
            )

    @property
    def pass_rows(self) -> int:
        """Rows of one forward pass."""
        return self.micro_rows or self.batch_rows


TYPES: dict[str, type] = {f.name: f.type for f in dataclasses.fields(Config)}  # type: ignore[misc]
NAMES: dict[type, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def names() -> set[str]:
    """Of all fields."""
    return set(TYPES)


def flag(name: str) -> str:
    """How a field is spelt on the command line."""
    return "--" + name.replace("_", "-")


def make_config(values: Mapping[str, Any], base: Config | None = None) -> Config:
    """A config of explicit values over `base`, or where there is none over their preset. Types are checked."""
    if base is None:
        name = values.get("preset", "demo")
        if name not in PRESETS:
            raise ByteproxyError(f"preset {name!r} found, one of {', '.join(PRESETS)} expected")
        base = Config(preset=name, **PRESETS[name])
    values = _with_rows(values, base)
    return dataclasses.replace(base, **{name: _typed(name, value) for name, value in values.items()})


def _with_rows(values: Mapping[str, Any], base: Config) -> Mapping[str, Any]:
    """The values with the `batch_rows` that `batch_symbols` means, unless these are among them."""
    symbols, context = (_typed(name, values.get(name, getattr(base, name))) for name in ("batch_symbols", "context"))
    if symbols <= 0 or context <= 0 or "batch_rows" in values:
        return values
    rows, rest = divmod(symbols, context)
    if rest or not rows:
        near = max(1, round(symbols / context)) * context
        raise ByteproxyError(f"--batch-symbols {symbols}: a multiple of --context {context} expected, like {near}")
    return {**values, "batch_rows": rows}


def describe_batch(config: Config, ranks: int) -> str:
    """How a step's symbols are made of rows, ranks and forward passes. Refuses --batch-symbols that do not divide."""
    rows, passes = config.batch_rows, config.micro_rows
    each = ranks * (passes or 1)
    if config.batch_symbols and rows % each:
        unit = each * config.context
        near = max(1, round(rows / each)) * unit
        raise ByteproxyError(
            f"--batch-symbols {config.batch_symbols}: {rows} rows found, a multiple of {each} expected: {ranks} ranks"
            + (f" x --micro-rows {passes}" if passes else "")
            + f". Give a multiple of {unit} symbols, like {near}"
        )
    text = f"global batch {rows * config.context:,} symbols = {rows} rows"
    if rows % each:
        return f"{text}, on {ranks} ranks of which some take a row more than others"
    passes = passes or rows // ranks
    parts = ((ranks, "rank", "s"), (rows // ranks // passes, "pass", "es"), (passes, "row", "s"))
    shared, through, size = (f"{count} {one}{more if count > 1 else ''}" for count, one, more in parts)
    return f"{text} = {shared} x {through} of {size}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines `key: old → new` for what a resumed run may not change."""
    fixed = [field for field in dataclasses.fields(Config) if not field.metadata["free"]]
    # a setting that did not exist yet was as its default is
    values = [(f.name, old.get(f.name, f.default), new.get(f.name, f.default)) for f in fixed]
    return [f"{flag(name)}: {before} → {after}" for name, before, after in values if before != after]


def _typed(name: str, value: Any) -> Any:
    """A value of the field's type; an integer passes for a number, nothing else for anything else."""
    wanted = TYPES[name]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        raise ByteproxyError(f"{flag(name)}: {value!r} found, {NAMES[wanted]} expected")
    return value
