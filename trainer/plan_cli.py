"""`python -m trainer plan`: what each global batch of a run would hold, without training and without torch."""

import json
from hashlib import blake2b
from typing import Any

from shards.errors import ByteproxyError
from shards.reader import ShardSet
from trainer import config as settings
from trainer.batch import Batch, build_batch
from trainer.loader import views_of_run
from trainer.plan import Planner, PlanState

USAGE = """usage: python -m trainer plan --shards DIR [--json] [--count N] [--key value …]

For each step of the run that the same settings would train: a digest of the batch's ids, documents begun, bytes of
text, symbols by view, padding. --count N stops after N steps; --json prints an object a step, with the planner's state.

  python -m trainer plan --shards data/stdlib --steps 1000 --count 5
"""


def main(arguments: list[str]) -> int:
    """The verb `plan`."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    as_json = "--json" in arguments
    values, extra = settings.parse_flags([a for a in arguments if a != "--json"], ("count",))
    config = settings.make_config(values)
    if not config.shards:
        raise ByteproxyError("--shards: the folder of a shard set expected")
    shard_set = ShardSet.open(config.shards)
    views = views_of_run(shard_set, config)
    planner = Planner(shard_set.split("train"), views, config)
    names = ["raw", *(view.name for view in views)]
    until = min(config.steps, int(extra.get("count", config.steps)))
    for plan, state in planner.plans(planner.initial()):
        if plan.step >= until:
            break
        batch = build_batch(plan, planner.split, views, config.batch_rows, config.context)
        shown = describe(batch, names, state)
        print(json.dumps(shown) if as_json else _line(shown), flush=as_json)
    return 0


def describe(batch: Batch, names: list[str], state: PlanState) -> dict[str, Any]:
    """What a batch holds. `padding` is the share of inputs that belong to no document."""
    digest = blake2b(digest_size=16)
    for array in (batch.ids_RT, batch.views_RT, batch.targets_RT, batch.counted_RT):
        digest.update(array.tobytes())
    return {
        "step": batch.step,
        "digest": digest.hexdigest(),
        "documents": batch.documents,
        "raw_bytes": dict(zip(names, batch.raw_bytes.tolist(), strict=True)),
        "symbols": dict(zip(names, batch.symbols.tolist(), strict=True)),
        "padding": round(float((batch.ids_RT == 0).mean()), 6),
        "state": state.to_json(),
    }


def _line(shown: dict[str, Any]) -> str:
    symbols = ", ".join(f"{name} {count:,}" for name, count in shown["symbols"].items())
    text = sum(shown["raw_bytes"].values())
    head = f"step {shown['step']:>7}  {shown['digest'][:12]}  {shown['documents']:>4} documents begun"
    return f"{head}  {text:>9,} bytes of text  symbols: {symbols}  padding {shown['padding']:.2%}"
