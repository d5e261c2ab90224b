"""The model card of an export: what the model is, how to load it, its figures and the file that each was read from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import Config
from trainer.metrics import FILE, whole_lines
from trainer.specials import BOS, SPECIALS, closer, opener

RESULT = "result.json"

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- byte-level
- qwen3
---

# {name}

A language model that reads and writes raw bytes, {parameters:,} parameters ({dtype}). {trained}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")  # the folder of this file
tokenizer = AutoTokenizer.from_pretrained(".")
inputs = tokenizer("def main(", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=200)[0], skip_special_tokens=True))
```

It is a `Qwen3ForCausalLM`: no remote code. Ids: 0 to {last_special} are specials, byte b is {specials} + b.
The tokenizer puts `<bos> <raw>` ({bos}, {raw}) in front; `</raw>` ({end}) ends a text and stops the model.
A `<raw>` or `<eos>` that is written in a prompt stays bytes (`split_special_tokens` in tokenizer_config.json).

A text carries Unicode only. For other bytes give ids, `[{bos}, {raw}, *({specials} + b for b in data)]`, and read ids
from {specials} on back as bytes the same way; `decode` would show U+FFFD.

It was trained on rows of {context} symbols; nothing is known of it beyond. It continues text and obeys no instructions.

## Figures

| what | value | read from |
| --- | --- | --- |
{figures}

Bits per byte count every byte and the end of each document; the compressors ran on exactly the same documents, each by
itself. The figures are the run's, with the model as it was before stripping; what is left computes the same.

## Architecture

{layers} layers of width {width}, {heads} query heads and {kv_heads} key-value heads of {head_dim}, SwiGLU of {mlp},
RMSNorm before each part and on each head's queries and keys, rotary embedding of base {rope_theta:g};
embedding and head are not tied.
"""

_MODES = {
    "bytes": "It was trained on raw bytes alone.",
    "proxy": "It was trained by proxy compression (arXiv 2602.04289), on a mixture of the raw bytes of documents and "
    "of compressed views of them ({views}); embeddings and heads of these were stripped, no compressor is needed.",
    "parallel": "It was trained on the raw bytes of documents and, apart from these, on compressed views of the same "
    "documents ({views}); embeddings and heads of these were stripped, no compressor is needed.",
}


def card(run: Path, state: Mapping[str, Any], config: Config, origin: Mapping[str, Any]) -> str:
    """README.md of an export. `state`: the checkpoint's; `origin`: what export.json will hold."""
    rows = "\n".join(f"| {what} | {value} | {source} |" for what, value, source in figures(run, state, origin))
    views = ", ".join(state["views"][1:])
    return CARD.format(
        name=run.resolve().name, parameters=origin["after"]["parameters"], dtype=origin["dtype"], figures=rows,
        trained=_MODES[config.mode].format(views=views), specials=SPECIALS, last_special=SPECIALS - 1, bos=BOS,
        raw=opener(0), end=closer(0), context=config.context, layers=config.layers, width=config.width, mlp=config.mlp,
        heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim, rope_theta=config.rope_theta,
    )  # fmt: skip


def figures(run: Path, state: Mapping[str, Any], origin: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What is known of this checkpoint: (what, value, the file and key that it was read from)."""
    step, totals, where = state["step"], state["totals"], f"state.json of step {state['step']}"
    found = [*held_out(run, step), ("step", f"{step} of {state['config']['steps']}", where)]
    symbols, text = totals["symbols"], totals["raw_bytes"]
    for view in symbols:
        found.append((f"trained on, {view}", f"{symbols[view]:,} symbols, {text[view]:,} bytes of text", where))
    found += [
        ("trained in", f"{totals['seconds']:,.0f} s by torch {state['torch']}", where),
        ("seed", str(state["config"]["seed"]), where),
        ("shard set", f"`{state['config']['shards']}`", where),
    ]
    found += [(f"digest, {name}", f"`{digest}`", where) for name, digest in state["digests"].items()]
    for when in ("before", "after"):
        size = f"{origin[when]['parameters']:,} parameters, {origin[when]['bytes']:,} bytes"
        found.append((f"{when} stripping", size, "the files of weights"))
    return found


def held_out(run: Path, step: int) -> list[tuple[str, str, str]]:
    """Held-out bits per byte at a step, from the end of the run or from an evaluation in its course; maybe none."""
    result = json.loads((run / RESULT).read_bytes()) if (run / RESULT).exists() else {}
    if result.get("step") == step and "raw_bpb" in result:
        on = f"{result['val_documents']} held-out documents, {result['val_bytes']:,} bytes"
        others = [(f"{name}, bits per byte", f"{value:.3f}", RESULT) for name, value in result["baselines"].items()]
        return [("bits per byte, raw", f"{result['raw_bpb']:.3f} on {on}", RESULT), *others]
    for line in whole_lines(run / FILE):
        entry = json.loads(line)
        if entry["step"] == step and "val_bpb" in entry:
            return [("bits per byte, raw", f"{entry['val_bpb']:.3f} on some held-out documents", f"{FILE}, val_bpb")]
    return [("bits per byte, raw", "not measured at this step", f"{RESULT}, {FILE}")]
