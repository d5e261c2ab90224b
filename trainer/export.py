"""Export: a run's model as a folder that `transformers` loads as `Qwen3ForCausalLM`, without code of ours.

The embeddings and heads of compressed views are stripped, so the vocabulary has 320 rows: 64 specials, 256 bytes. So
are the heads of `--multi-byte`, which only train.

DIR/
  config.json generation_config.json model.safetensors      the model
  tokenizer.json tokenizer_config.json                      bytes to ids, behind `<bos> <raw>`, see tokenizer.py
  README.md export.json                                     the model card; where all this came from, for a program

Before it is renamed into its place, what was written is read back into a model that has nothing but Qwen3's settings,
and must give the run's logits. So a setting that Qwen3 cannot express is found whatever it is, and refused by its name.
"""

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shards.errors import ByteproxyError
from shards.manifest import sync_folder, write_atomically
from trainer import checkpoint
from trainer.card import card
from trainer.config import Config, flag, make_config
from trainer.load import load_model
from trainer.model import Model
from trainer.norm import EPSILON
from trainer.runtime import DTYPES
from trainer.sample import Sampler
from trainer.specials import BOS, EOS, PAD, RAW_ROWS, SPECIALS, closer
from trainer.tokenizer import tokenizer_config, tokenizer_json

FORMAT = 1
WEIGHTS, ORIGIN = "model.safetensors", "export.json"
# Our settings that Qwen3 knows, and what it calls them.
QWEN3 = {
    "width": "hidden_size", "mlp": "intermediate_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads", "head_dim": "head_dim", "context": "max_position_embeddings",
    "rope_theta": "rope_theta", "tie": "tie_word_embeddings",
}  # fmt: skip
TOLERANCE = 1e-4  # of logits, which are a few units large
_PROBE = bytes(range(256)) + "def f(x):\n    return 'é'\n".encode()


def export(run: Path, out: Path, step: int = -1, dtype: str = "float32") -> dict[str, Any]:
    """Write the model of a run's latest checkpoint, or of a step's, to `out`, whole or not at all.

    Returns what export.json holds: the origin, and parameters and bytes before and after. An `out` that holds the same
    export already is left as it is. Raises ByteproxyError.
    """
    if dtype not in DTYPES:
        raise ByteproxyError(f"--dtype: {dtype!r} found, one of {', '.join(DTYPES)} expected")
    model, state, folder = load_model(run, step, needs_raw=True, dtype="float32", device="cpu")
    origin = {"format": FORMAT, "run": str(run), "step": state["step"], "dtype": dtype}
    origin["checkpoint_xxh3"] = state["xxh3"][checkpoint.MODEL]
    if out.exists() and not out.is_dir():
        raise ByteproxyError(f"--out {out}: a file found, a folder that is not there yet expected")
    if out.exists() and any(out.iterdir()):
        return _already(out, origin)
    with torch.no_grad():
        for parameter in model.parameters():  # rounded first, so that what is compared differs by nothing else
            parameter.copy_(parameter.to(DTYPES[dtype]))
    tensors = {name: tensor.to(DTYPES[dtype]) for name, tensor in strip(model).items()}
    before = {"parameters": sum(p.numel() for p in model.parameters()), "tables": dict(_tables(model, state["views"]))}
    before["multi_byte"] = sum(p.numel() for p in model.multi_byte.parameters())
    before["bytes"] = (folder / checkpoint.MODEL).stat().st_size
    with _draft(out) as draft:
        save_file(tensors, draft / WEIGHTS, {"format": "pt"})
        _write(draft, "config.json", qwen3_config(model.config, dtype))
        _write(draft, "generation_config.json", generation_config())
        _write(draft, "tokenizer.json", tokenizer_json())
        _write(draft, "tokenizer_config.json", tokenizer_config(model.config.context))
        check(model, draft)
        after = {"parameters": sum(t.numel() for t in tensors.values()), "bytes": (draft / WEIGHTS).stat().st_size}
        origin |= {"before": before, "after": after}
        write_atomically(draft / "README.md", card(run, state, model.config, origin).encode())
        origin["xxh3"] = {path.name: checkpoint.digest_of(path) for path in sorted(draft.iterdir())}
        _write(draft, ORIGIN, origin)
    return origin


def strip(model: Model) -> dict[str, Tensor]:
    """The tensors of a Qwen3 model, by its names, of the raw view alone. Refuses one that it has no place for."""
    plain = Model(_plain(model.config), [RAW_ROWS])
    known, mine = {name for name, _ in plain.named_parameters()}, dict(model.named_parameters())
    others = {f"{table}.{view}.weight" for table in ("embed_tokens", "lm_head") for view in range(1, len(model.tables))}
    others |= {name for name in mine if name.startswith("multi_byte.")}
    if odd := sorted((mine.keys() - others) ^ known):
        raise ByteproxyError(_refusal(model, f"the model differs in {len(odd)} tensors, first {odd[0]}"))
    names = {name: f"model.{name}" for name in known}
    names |= {"embed_tokens.0.weight": "model.embed_tokens.weight", "lm_head.0.weight": "lm_head.weight"}
    return {names[name]: mine[name].detach().contiguous() for name in sorted(known)}


def qwen3_config(config: Config, dtype: str) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": RAW_ROWS,
        **{theirs: getattr(config, ours) for ours, theirs in QWEN3.items()},
        "hidden_act": "silu", "rms_norm_eps": EPSILON, "attention_bias": False, "attention_dropout": 0.0,
        "rope_scaling": None, "use_sliding_window": False, "sliding_window": None,
        "initializer_range": 0.02, "use_cache": True, "torch_dtype": dtype,
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": [closer(0), EOS],
    }  # fmt: skip


def generation_config() -> dict[str, Any]:
    """generation_config.json: a text ends where `</raw>` is drawn, and no other special can be, as in `sample`."""
    never = [row for row in range(SPECIALS) if row != closer(0)]
    return {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": [closer(0), EOS], "suppress_tokens": never}


def check(model: Model, folder: Path) -> None:
    """Read an export back as Qwen3 would; refuse it if its logits on some bytes are not those of the model."""
    body = json.loads((folder / "config.json").read_bytes())
    plain = Model(make_config({ours: body[theirs] for ours, theirs in QWEN3.items()}), [body["vocab_size"]])
    names = {f"model.{name}": name for name, _ in plain.named_parameters()}
    names |= {"model.embed_tokens.weight": "embed_tokens.0.weight", "lm_head.weight": "lm_head.0.weight"}
    weights = {names[name]: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    if plain.config.tie:
        weights["lm_head.0.weight"] = weights["embed_tokens.0.weight"]
    plain.load_state_dict(weights)
    if (off := float((_logits(plain) - _logits(model)).abs().max())) > TOLERANCE:
        raise ByteproxyError(_refusal(model, f"as Qwen3 its logits are off by {off:.3g}"))


def _logits(model: Model) -> Tensor:
    """Behind a text of every byte, as much of it as the context takes: (K,)."""
    return Sampler(model).prefill(_PROBE[-(model.config.context - 2) :] if model.config.context > 2 else b"")


def _plain(config: Config) -> Config:
    """Nothing but what Qwen3 knows."""
    return make_config({name: getattr(config, name) for name in QWEN3})


def _refusal(model: Model, found: str) -> str:
    """Names the settings without which the same weights compute something else, or would not be there."""
    named, expected, settings = [], _logits(model), dataclasses.asdict(model.config)
    for field in dataclasses.fields(Config):
        value = getattr(model.config, field.name)
        if value == field.default or field.name in QWEN3 or field.name in ("device", "dtype", "threads"):
            continue
        try:
            other = Model(make_config(settings | {field.name: field.default}), model.tables)
            other.load_state_dict(model.state_dict(), strict=False)  # what one has more is seen in the logits
            same = torch.equal(_logits(other), expected)
        except (RuntimeError, ByteproxyError):
            same = False
        if not same:
            named.append(f"{flag(field.name)} {value}")
    return (
        f"{', '.join(named) or 'this model'}: Qwen3 cannot express that ({found}), and nothing else would load it. "
        "Train without it to export, or use the run by `sample` and `evaluate`"
    )


def _tables(model: Model, views: list[str]) -> Iterator[tuple[str, int]]:
    """Parameters of embedding and head by view; the views' names are those of the run."""
    each = (1 if model.config.tie else 2) * model.config.width
    yield from ((view, rows * each) for view, rows in zip(views, model.tables, strict=True))


def _already(out: Path, origin: dict[str, Any]) -> dict[str, Any]:
    """What a folder that is there holds, if it is this export, whole; else an error."""
    try:
        body: dict[str, Any] = json.loads((out / ORIGIN).read_bytes())
        same = all(body[key] == value for key, value in origin.items() if key != "run")
        whole = all(checkpoint.digest_of(out / name) == found for name, found in body["xxh3"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        same = whole = False
    if not (same and whole):
        raise ByteproxyError(f"{out} holds something else already; remove it, or give another --out")
    return body


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when all is written, and is gone if anything fails."""
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    draft = out.absolute().with_name(f".tmp-export-{out.absolute().name}")
    draft.mkdir(exist_ok=True)
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # dies with the process
        except OSError:
            raise ByteproxyError(f"another process is exporting to {out}; wait for it, or give another --out") from None
        for stale in draft.iterdir():  # of an export that was killed
            stale.unlink()
        try:
            yield draft
            for path in draft.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(draft)
            draft.rename(out)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_folder(out.absolute().parent)
    finally:
        os.close(descriptor)


def _write(folder: Path, name: str, body: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
