"""The machine side of a config: device, dtype and threads made definite, and torch set up for them."""

import dataclasses
import os
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shards.errors import ByteproxyError
from trainer.batch import Allocate
from trainer.config import Config
from trainer.model import Model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WORTH_COMPILING = 500  # steps on the CPU: each gains a fifth or more, and compiling takes up to a minute


def resolve(config: Config, stored: Mapping[str, Any]) -> Config:
    """Replace `auto` and 0 by what a checkpoint's config says, else by what this machine has."""
    device, dtype, threads = config.device, config.dtype, config.threads
    if device == "auto":
        device = stored.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ByteproxyError(
            f"--device {device}: this torch ({torch.__version__}) sees no CUDA device; --device cpu expected"
        )
    if dtype == "auto":
        dtype = stored.get("dtype") or ("bfloat16" if device.startswith("cuda") or _has_bfloat16() else "float32")
    threads = threads or stored.get("threads") or max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    compiled = config.compile
    if compiled == "auto":
        pays = device.startswith("cuda") or (config.steps >= WORTH_COMPILING and _has_compiler())
        compiled = stored.get("compile") or ("on" if pays else "off")
    return dataclasses.replace(config, device=device, dtype=dtype, threads=threads, compile=compiled)


def set_up_torch(config: Config) -> None:
    """Threads as configured; on the CPU, only algorithms that give the same bits each time."""
    torch.set_num_threads(config.threads)
    if config.device == "cpu":
        torch.use_deterministic_algorithms(True)
        # else every torch.empty is filled, which guards against bugs and costs a pass over memory
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def compile_blocks(model: Model, config: Config) -> None:
    """Compile the model's blocks, of which all share one shape, so one compilation each for training and evaluation."""
    if config.compile == "on":
        for block in model.layers:
            block.compile(dynamic=False)


class Compilation:
    """Lets each phase of a run, `training` or `evaluation`, compile in its first use, and never again.

    All steps have the same shapes, so a later compilation is a fault, which would cost a minute now and then, or, past
    torch's limit of 8, all that compiling gains, unseen.
    """

    def __init__(self, config: Config) -> None:
        self._on, self._used = config.compile == "on", set[str]()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around one use of a phase. Raises ByteproxyError where it compiles anew, which says what has changed."""
        if not self._on or name not in self._used:
            yield
            self._used.add(name)
            return
        try:
            with torch.compiler.set_stance("fail_on_recompile"):
                yield
        except RuntimeError as error:
            if "fail_on_recompile" not in str(error):
                raise
            raise ByteproxyError(
                f"--compile on: {name} had to be compiled again, which fixed shapes rule out:\n{error}\n"
                "--compile off trains without; a run is begun anew with it, for it is part of what a result depends on"
            ) from error


def allocator(config: Config) -> Allocate:
    """Of a batch's buffers: pinned memory where batches go to a GPU."""
    if not config.device.startswith("cuda"):
        return np.zeros
    kinds = {np.uint16: torch.uint16, np.int32: torch.int32, np.uint8: torch.uint8, np.bool_: torch.bool}
    return lambda shape, kind: torch.zeros(shape, dtype=kinds[kind], pin_memory=True).numpy()


def cores() -> int:
    """That this process may run on, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_compiler() -> bool:
    """Whether torch can compile for the CPU: it needs a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return headers.exists() and any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))


def _has_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
