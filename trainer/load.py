"""A trained model from a run's folder, for evaluation and sampling: needs no shard set and no codec."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from shards.errors import ByteproxyError
from trainer import checkpoint, compose
from trainer.config import make_config, names
from trainer.model import Model
from trainer.runtime import DTYPES, resolve, set_up_torch


def load_model(
    run: Path, step: int = -1, needs_raw: bool = False, dtype: str = "", device: str = ""
) -> tuple[Model, dict[str, Any], Path]:
    """The model of the latest checkpoint, or of a step's, with its state and folder. Raises ByteproxyError.

    `needs_raw` refuses a model that was never trained on raw bytes. Without `dtype` and `device` it works as it was
    trained, but on the CPU where it was trained on CUDA and there is none here.
    """
    steps = checkpoint.steps_of(run)
    if not steps:
        raise ByteproxyError(f"{run} has no checkpoint: no run, or one that was stopped before its first")
    if step >= 0 and step not in steps:
        raise ByteproxyError(f"{run} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    folder = checkpoint.folder_of(run, steps[-1] if step < 0 else step)
    state = checkpoint.read_state(folder)
    config = make_config({key: value for key, value in state["config"].items() if key in names()})
    if needs_raw and config.mode == "tokens":
        raise ByteproxyError(
            f"{run} was trained in mode tokens, on no raw bytes: it can neither read nor write them. "
            "Train one in mode proxy, bytes or parallel"
        )
    if not device and config.device.startswith("cuda") and not torch.cuda.is_available():
        device = "cpu"
    config = dataclasses.replace(config, dtype=dtype or config.dtype, device=device or config.device)
    config = resolve(config, state["config"])
    set_up_torch(config)
    spellings = compose.from_json(state.get("spellings", ()))
    model = Model(config, state["tables"], DTYPES[config.dtype], spellings)
    weights = checkpoint.read_tensors(folder, checkpoint.MODEL, dict(model.named_parameters()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model.to(config.device), state, folder
