"""`python -m trainer plan`: what each global batch of a run would hold, without training and without torch."""

import itertools
import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ByteproxyError
from trainer import config as settings
from trainer.batch import Batch, Buffers, Builder
from trainer.flags import parse_flags
from trainer.loader import rows_of_rank
from trainer.mixture import describe as show_sets
from trainer.mixture import open_mixture
from trainer.plan import Planner, PlanState
from trainer.specials import PAD

USAGE = """usage: python -m trainer plan --shards DIR [--json] [--count N] [--ranks R] [--from-state FILE]
                             [--key value …]

For each step of the run that the same settings would train: a digest of the batch's ids, documents begun, bytes of
text, symbols by view, padding; before them, the sets and how shuffled their order is.

  --json             an object a step, with the planner's state
  --count N          stop after N steps
  --ranks R          build each rank's rows apart and put them together: the digests stay the same
  --from-state FILE  go on from a state: state.json of a checkpoint, or a line of --json

  python -m trainer plan --shards data/stdlib --steps 1000 --count 5
"""


def main(arguments: list[str]) -> int:
    """The verb `plan`."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    as_json = "--json" in arguments
    values, extra = parse_flags([a for a in arguments if a != "--json"], ("count", "ranks", "from-state"))
    config = settings.make_config(values)
    if not config.shards:
        raise ByteproxyError("--shards: the folder of a shard set expected")
    count, ranks = (_whole(extra, name, default) for name, default in (("count", config.steps), ("ranks", 1)))
    mixture = open_mixture(config)
    planner = Planner(mixture.sources, mixture.views, config, mixture.shares)
    state = _state(Path(extra["from_state"])) if "from_state" in extra else planner.initial()
    names = ["raw", *(view.name for view in mixture.views)]
    if not as_json:
        print("\n".join(show_sets(mixture, config, orders=True)))
    parts = [rows_of_rank(config.batch_rows, rank, ranks) for rank in range(ranks)]
    builders = [
        Builder(mixture.sources, planner.pointers, mixture.views, first, end - first, config.check)
        for first, end in parts
    ]
    buffers = [Buffers(end - first, config.context, mixture.views) for first, end in parts]
    for plan, after in itertools.islice(planner.plans(state), count):
        batches = [builder.build(plan, mine) for builder, mine in zip(builders, buffers, strict=True)]
        shown = describe(batches, names, after)
        print(json.dumps(shown) if as_json else _line(shown), flush=as_json)
    return 0


def _whole(extra: dict[str, str], name: str, default: int) -> int:
    text = extra.get(name, str(default))
    if not text.isdigit() or not int(text):
        raise ByteproxyError(f"--{name}: {text!r} found, a whole number from 1 expected")
    return int(text)


def _state(path: Path) -> PlanState:
    """The planner's state in a checkpoint's state.json, in a line of `plan --json`, or alone."""
    try:
        body = json.loads(path.read_text().splitlines()[-1] if path.suffix == ".jsonl" else path.read_text())
        return PlanState.from_json(body.get("planner") or body.get("state") or body)
    except (OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise ByteproxyError(f"--from-state {path}: no planner's state ({type(error).__name__}: {error})") from None


def describe(batches: Sequence[Batch], names: list[str], state: PlanState) -> dict[str, Any]:
    """What a global batch holds, from its ranks' rows. `padding` is the share of inputs that belong to no document."""
    digest = blake2b(digest_size=16)
    for arrays in zip(*((b.ids_RT, b.views_RT, b.targets_RT, b.counted_RT) for b in batches), strict=True):
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
    ids = np.concatenate([batch.ids_RT for batch in batches])
    return {
        "step": batches[0].step,
        "digest": digest.hexdigest(),
        "documents": batches[0].documents,
        "raw_bytes": dict(zip(names, np.sum([b.raw_bytes for b in batches], axis=0).tolist(), strict=True)),
        "symbols": dict(zip(names, np.sum([b.symbols for b in batches], axis=0).tolist(), strict=True)),
        "padding": round(float((ids == PAD).mean()), 6),
        "state": state.to_json(),
    } | batches[0].set_shares()


def _line(shown: dict[str, Any]) -> str:
    symbols = ", ".join(f"{name} {count:,}" for name, count in shown["symbols"].items())
    text = sum(shown["raw_bytes"].values())
    head = f"step {shown['step']:>7}  {shown['digest'][:12]}  {shown['documents']:>4} documents begun"
    return f"{head}  {text:>9,} bytes of text  symbols: {symbols}  padding {shown['padding']:.2%}"
