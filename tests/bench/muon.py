"""Muon's step, stacked and as torch does it, on the matrices of a preset's body: seconds and their ratio.

    python -m tests.bench.muon [--presets demo,5m] [--device cpu] [--threads 1] [--rounds 7]

Both work on the same weights and gradients, in turn; the fastest of the rounds is shown.
"""

import argparse
import time

import torch
from torch import Tensor

from trainer.config import make_config
from trainer.model import Model
from trainer.muon import Muon


def seconds(optimizer: torch.optim.Optimizer, device: str) -> float:
    """Of one step."""
    begun = time.perf_counter()
    optimizer.step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def compare(preset: str, device: str, rounds: int) -> str:
    """A line of the table."""
    generator = torch.Generator().manual_seed(0)
    body = Model(make_config({"preset": preset}), [320]).layers
    shapes = [parameter.shape for parameter in body.parameters() if parameter.dim() == 2]
    both: list[torch.optim.Optimizer] = []
    for make in (Muon, lambda p, lr, wd: torch.optim.Muon(p, lr, wd, adjust_lr_fn="match_rms_adamw")):
        weights: list[Tensor] = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator).to(device)
        both.append(make(weights, 1e-3, 0.1))
    for optimizer in both:
        seconds(optimizer, device)  # the first makes the state
    pairs = [[seconds(optimizer, device) for optimizer in both] for _ in range(rounds)]
    ours, theirs = (min(column) for column in zip(*pairs, strict=True))
    return f"{preset:<8} {len(shapes):>8} {1e3 * ours:>12.2f} {1e3 * theirs:>12.2f} {theirs / ours:>8.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="demo,5m", help="with commas; default demo,5m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__} on {options.device}, {options.threads} threads, fastest of {options.rounds} steps"
    )
    print("preset   matrices   stacked ms     torch ms   faster")
    for preset in options.presets.split(","):
        print(compare(preset, options.device, options.rounds), flush=True)


if __name__ == "__main__":
    main()
