"""`python -m trainer neural`: trains the byte LM of the neural codec, makes it integers, fits its segments' thresholds.

The artifact is a folder that `shards.codecs.neural` loads without this package: lm.safetensors, lm.json, codec.json.

Legend: R rows, T inputs, N bytes, L layers, H heads, D width of a head.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ByteproxyError
from trainer import config as settings
from trainer.flags import parse_flags

USAGE = """usage: python -m trainer neural --shards SET --out DIR [--preset lm-1m|lm-3m|lm-40m] [--run RUN]
                               [--sample-bytes N] [--key value …]

Train a byte LM on a set's raw bytes, and write it to DIR in int8, as the codec `neural` wants it. Then

  python -m pipeline add-view SET --view neural:DIR

Flags of `train` (--steps, --lr, …) go over the preset's values, by default those of lm-3m. The run is DIR.run, or
--run: the same command again goes on from its last checkpoint. Documents of train, --sample-bytes of them (512 KiB),
give the ranges of values and the thresholds of segments; as many of val show what integers cost.

  python -m trainer neural --shards data/stdlib --out data/lm-1m --preset lm-1m
"""

MEANS = (3, 4, 5, 6, 8, 10, 12, 16, 24)  # bytes of a segment that thresholds are fitted for
LONGEST_SAMPLE = 16 << 10  # bytes of a document that a sample takes
BLOCKS_AT_ONCE = 64  # between two looks at the clock
PROGRESS_SECONDS = 10.0


def main(arguments: list[str]) -> int:
    """The verb; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    values, others = parse_flags(arguments, ("out", "sample_bytes"))
    if not values.get("shards") or not others.get("out"):
        raise ByteproxyError("neural: --shards SET and --out DIR expected; see --help")
    out, sample_bytes = Path(others["out"]), others.get("sample_bytes", str(1 << 19))
    if not sample_bytes.isdecimal():
        raise ByteproxyError(f"--sample-bytes: {sample_bytes!r} found, a whole number expected")
    if out.exists():
        print(f"{out} is there already. Remove it to make it again, or give another --out")
        return 0
    fixed = {"preset": "lm-3m", "run": f"{out}.run"} | values | {"mode": "bytes"}
    config = settings.make_config(fixed)
    if config.kv_heads != config.heads or not config.qk_norm:
        raise ByteproxyError("neural: as many --kv-heads as --heads, and --qk-norm expected")
    from shards.codecs.neural.lm import MOST_CONTEXT
    from trainer.train import train

    if config.context > MOST_CONTEXT:
        raise ByteproxyError(f"neural: --context {config.context} found, at most {MOST_CONTEXT} expected")
    if stopped := train(config, score=False).get("signal"):  # the artifact is scored instead, on as much as it is worth
        return 128 + stopped
    make_artifact(Path(config.run), config.shards, out, int(sample_bytes))
    return 0


def make_artifact(run: Path, shards: str, out: Path, sample_bytes: int) -> dict[str, Any]:
    """Write a run's model as an artifact; returns lm.json's facts. Whole or not at all."""
    from shards.codecs.neural.codec import write_artifact
    from shards.codecs.neural.device import for_encoding
    from shards.codecs.neural.lm import LM, Shape, one_thread
    from shards.codecs.neural.quantise import quantise
    from shards.codecs.windows.segments import fit_thresholds
    from shards.reader import ShardSet
    from trainer.load import load_model
    from trainer.mixture import parse_shards

    model, state, _ = load_model(run, needs_raw=True, dtype="float32", device="cpu")
    c = model.config
    shape = Shape(c.width, c.layers, c.heads, c.head_dim, c.mlp, c.context)
    first = ShardSet.open(parse_shards(shards)[0][0])
    train, val = (sample(first.split(name), shape.block, sample_bytes) for name in ("train", "val"))
    print(f"values and thresholds of {sum(map(len, train)):,} bytes of train …", flush=True)
    values_LHD, _ = float_pass(model, train[: max(1, len(train) // 4)])
    lm = LM(shape, quantise(shape, weights_of(model), values_LHD, c.rope_theta))
    reader = for_encoding(lm)  # the same integers on a GPU, sooner
    with one_thread():
        ends = np.cumsum([len(block) for block in train])
        entropies = np.split(read(reader, train, "train").entropy_N, ends[:-1])
        thresholds = {str(mean): list(fit_thresholds(entropies, mean)) for mean in MEANS}
        found = read(reader, val, "val")
    size = sum(map(len, val))
    bits = float(-np.log2(np.maximum(found.share_N, 2.0**-8) / found.total_N).sum()) / max(size, 1)
    _, float_bits = float_pass(model, val)
    measured = {"bytes": size, "bits_per_byte": round(bits, 4), "float_bits_per_byte": round(float_bits, 4)}
    facts = {"thresholds": thresholds, "measured": measured}
    facts["trained"] = {"shards": first.manifest.identity, "step": state["step"], "seed": c.seed}
    draft = out.absolute().with_name(f".tmp-{out.name}-{os.getpid()}")
    try:
        write_artifact(draft, shape, lm.tensors, facts)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print(
        f"{out}: {sum(tensor.nbytes for tensor in lm.tensors.values()) / 1e6:.1f} MB; on {size:,} bytes of val "
        f"{bits:.3f} bits per byte in integers, {float_bits:.3f} in floats\nNow: python -m pipeline add-view "
        f"{shards} --view neural:{out}"
    )
    return facts


def sample(split: Any, block: int, size: int) -> list[np.ndarray]:
    """Blocks of a split's first documents, whose order is that of their hashes: about `size` bytes."""
    found: list[np.ndarray] = []
    for i in range(len(split)):
        raw = np.asarray(split.raw(i))[:LONGEST_SAMPLE]
        found += [raw[at : at + block] for at in range(0, len(raw), block)]
        size -= len(raw)
        if size <= 0:
            break
    return found


def read(reader: Any, blocks: Sequence[np.ndarray], split: str) -> Any:
    """The reader's predictions of all bytes of the blocks, told of now and then: an LM of 40M takes minutes."""
    from shards.codecs.neural.lm import Predictions

    done, told, size = list[Any](), time.monotonic(), sum(map(len, blocks))
    for at in range(0, len(blocks), BLOCKS_AT_ONCE):
        done.append(reader.read_blocks(blocks[at : at + BLOCKS_AT_ONCE]))
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            print(f"{split}: {sum(len(one.entropy_N) for one in done):,} of {size:,} bytes", flush=True)
    return Predictions(*map(np.concatenate, zip(*done, strict=True))) if done else Predictions.empty(0)


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """The model's weights by Qwen3's names; of its tables the rows of bytes, and of the embedding bos and <raw>."""
    from trainer.specials import BOS, SPECIALS, opener

    found = {
        name: parameter.detach().numpy()
        for name, parameter in model.named_parameters()
        if not name.startswith(("embed_tokens.", "lm_head."))
    }
    rows = [*range(SPECIALS, SPECIALS + 256), BOS, opener(0)]
    found["embed_tokens.weight"] = model.embed_tokens[0].weight.detach().numpy()[rows]
    found["lm_head.weight"] = model.lm_head[0].weight.detach().numpy()[rows[:256]]
    return found


def float_pass(model: Any, blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Read blocks in floats: the largest value of each channel, (L, H, D), and bits per byte, bytes alone counted."""
    import torch

    from trainer.specials import BOS, SPECIALS, opener

    c = dataclasses.replace(model.config)
    tops_LHD = torch.zeros(c.layers, c.heads, c.head_dim)

    def attend(layer: int, q_RTHD: Any, k_RTHD: Any, v_RTHD: Any) -> Any:
        tops_LHD[layer] = torch.maximum(tops_LHD[layer], v_RTHD.abs().amax((0, 1)))
        q, k, v = (x.transpose(1, 2) for x in (q_RTHD, k_RTHD, v_RTHD))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    nats = count = 0.0
    with torch.inference_mode():
        for rows in _rows(blocks, 8):
            ids_RT = torch.full((len(rows), max(map(len, rows)) + 1), SPECIALS)
            ids_RT[:, 0], ids_RT[:, 1] = BOS, opener(0)
            for r, block in enumerate(rows):
                ids_RT[r, 2 : len(block) + 1] = torch.from_numpy(block[:-1].astype(np.int64)) + SPECIALS
            positions_RT = torch.arange(ids_RT.shape[1]).expand(ids_RT.shape)
            x_RTW = model(ids_RT, torch.zeros_like(ids_RT), positions_RT, attend)
            for r, block in enumerate(rows):
                logits_NK = model.logits(x_RTW[r, 1 : len(block) + 1], 0)[:, SPECIALS : SPECIALS + 256]
                target_N = torch.from_numpy(block.astype(np.int64))
                nats += float(torch.nn.functional.cross_entropy(logits_NK, target_N, reduction="sum"))
                count += len(block)
    return tops_LHD.numpy(), nats / np.log(2) / max(count, 1)


def _rows(blocks: Sequence[np.ndarray], most: int) -> Iterator[list[np.ndarray]]:
    for first in range(0, len(blocks), most):
        yield list(blocks[first : first + most])
