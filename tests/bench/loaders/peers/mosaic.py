"""MosaicML Streaming: MDS shards with an ndarray column, StreamingDataset(shuffle=True), documents packed after it."""

import importlib.machinery
import shutil
import sys
import types
from pathlib import Path
from typing import Any

from tests.bench.loaders.documents import Documents
from tests.bench.loaders.packing import ROWS, Packer
from tests.bench.loaders.stream import SEED, Source, Stream


def _stand_in(name: str, *members: str) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for member in members:
        setattr(module, member, object)
    sys.modules[name] = module


# `streaming` imports torchvision for its datasets of images, which are not used here. The package index's torchvision
# does not load beside a CPU build of torch, and where it does it would only add to this peer's memory.
_stand_in("torchvision")
_stand_in("torchvision.datasets", "VisionDataset")
_stand_in("torchvision.transforms")
_stand_in("torchvision.transforms.functional", "to_tensor")

from streaming import MDSWriter, StreamingDataset  # noqa: E402


def build(documents: Documents, folder: Path) -> None:
    """An MDS of one column."""
    shutil.rmtree(folder, ignore_errors=True)  # the writer refuses a folder with anything in it
    with MDSWriter(out=str(folder), columns={"symbols": f"ndarray:{documents.dtype.name}"}) as writer:
        for i in range(len(documents)):
            writer.write({"symbols": documents[i].copy()})


def open_stream(source: Source, option: str, state: Any | None) -> Stream:
    """Iterated without a DataLoader: one process. `batch_size` also sets how far the library looks ahead."""
    dataset = StreamingDataset(local=str(source.folder), remote=None, shuffle=True, shuffle_seed=SEED, batch_size=ROWS)
    if state:
        dataset.load_state_dict(state["dataset"])
    packer = Packer((sample["symbols"] for sample in dataset), state)

    def save() -> dict[str, Any]:
        return packer.state() | {"dataset": dataset.state_dict(num_samples=packer.taken, from_beginning=True)}

    return Stream(iter(packer), save)
