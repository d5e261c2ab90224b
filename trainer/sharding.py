"""How the ranks of a run share one model: `ddp`, each holds the whole of it; `fsdp`, each some rows of every weight.

Both are torch's own: DistributedDataParallel, with its hooks for what is exchanged, and FSDP2 (`fully_shard`), which
gathers a block's weights when they are due. Both give each rank the mean of the ranks' gradients.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from shards.errors import ByteproxyError
from trainer.compose import Spellings
from trainer.config import Config
from trainer.distributed import Ranks
from trainer.model import Model
from trainer.runtime import DTYPES, compile_blocks

POWERSGD_RANK = 4  # of the two factors that stand for a matrix's gradient
POWERSGD_START = 10  # steps before it begins: the first gradients are the least like one another


def build(config: Config, tables: Sequence[int], ranks: Ranks, spellings: Spellings = ()) -> tuple[Model, nn.Module]:
    """The model, and what stands for its forward pass: behind that, gradients are means over all ranks.

    Under `fsdp` the parameters are DTensors that hold this rank's rows. Each rank builds the whole model first.
    """
    model = Model(config, tables, DTYPES[config.dtype], spellings).to(config.device)
    compile_blocks(model, config)
    if ranks.ranks == 1:
        return model, model
    if config.batch_rows < ranks.ranks:
        raise ByteproxyError(f"--batch-rows {config.batch_rows}: at least one for each of {ranks.ranks} ranks expected")
    if config.sharding == "fsdp":
        mesh = init_device_mesh(config.device.partition(":")[0], (ranks.ranks,))
        for block in model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model, model
    net = DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False)
    _hook(net, config)
    return model, net


def _hook(net: DistributedDataParallel, config: Config) -> None:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    if config.exchange == "bfloat16":
        # under a name of ours: torch lets its own through with NCCL alone, though gloo adds bfloat16 up too
        net.register_comm_hook(None, lambda group, bucket: default_hooks.bf16_compress_hook(group, bucket))
    elif config.exchange == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=POWERSGD_RANK, start_powerSGD_iter=POWERSGD_START, random_seed=config.seed
        )
        net.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


def quiet(net: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Around a pass that is not a step's last: `ddp` exchanges nothing then. `fsdp` does, to hold but its own rows."""
    return net.no_sync() if isinstance(net, DistributedDataParallel) and not last else nullcontext()


def whole(model: Model, ranks: Ranks) -> Model:
    """A model whose weights lie on the first rank, to evaluate with; all ranks call it, the others get what they gave.

    Under `fsdp` it is a copy, without gradients.
    """
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    copy = None
    if ranks.is_first:
        copy = Model(model.config, model.tables, model.dtype, model.spellings).to(model.config.device)
    targets = dict(copy.named_parameters()) if copy else {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            full = full_tensor(parameter)
            if copy:
                targets[name].copy_(full)
    return copy or model


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor that ranks hold parts of: all of them call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def parts_of(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """What this rank writes of these: its rows of what is cut, and on the first rank what all hold alike."""
    kept = {name: t for name, t in tensors.items() if isinstance(t, DTensor) or ranks.is_first}
    return {name: t.to_local() if isinstance(t, DTensor) else t for name, t in kept.items()}


def cut_like(full: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor what this rank holds of `like`: all of it, or a DTensor of the same rows."""
    if not isinstance(like, DTensor):
        return full
    mine = torch.empty_like(like)
    rows = mine.to_local()  # type: ignore[attr-defined]
    first = -(-len(full) // like.device_mesh.size()) * like.device_mesh.get_local_rank()  # `fully_shard` cuts in chunks
    rows.copy_(full[first : first + len(rows)])
    return mine
