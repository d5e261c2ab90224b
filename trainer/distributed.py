"""Several processes that train one model, each on its own rows of every batch: started by `torchrun`, else just one.

    torchrun --nproc-per-node 2 -m trainer -- train --shards … --steps 1000

A rank's loss is the sum over its own targets, divided by the count over all ranks, times the ranks: the mean over ranks
is then that of the whole batch. How they share the model: sharding.py. Rank 0 alone prints,
evaluates and writes results.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch import distributed as dist


class Ranks:
    """This process's place among those that train together."""

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        self.rank, self.ranks = rank, ranks

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in one exchange per dtype and device."""
        if self.ranks == 1:
            return
        for kind in {(tensor.dtype, tensor.device) for tensor in tensors}:
            mine = [tensor for tensor in tensors if (tensor.dtype, tensor.device) == kind]
            flat = torch.cat([tensor.flatten() for tensor in mine])
            dist.all_reduce(flat)
            for tensor, part in zip(mine, flat.split([tensor.numel() for tensor in mine]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.ranks > 1:
            dist.barrier()

    def first_only(self, context: AbstractContextManager[None]) -> AbstractContextManager[None]:
        """The context on rank 0, nothing on the others."""
        return context if self.is_first else nullcontext()


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that `torchrun` has started, by its environment variables; leave them at the end."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        yield ALONE
        return
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")  # counts are summed on the CPU also then
    try:
        yield Ranks(dist.get_rank(), ranks)
    finally:
        dist.destroy_process_group()
