"""The runs that a plan means: each arm's config for each size, seed and mark, before its steps are known."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from shards.errors import ByteproxyError
from shards.manifest import View
from shards.reader import ShardSet
from trainer.compare.plan_file import UNITS, Arm, PlanFile, Size
from trainer.config import Config, make_config
from trainer.mixture import parse_shards, parse_views, parse_weights
from trainer.specials import RAW_ROWS, SPECIALS


@dataclass(frozen=True)
class Wanted:
    """A run up to a mark. `views` are the compressed views that it trains on, in order."""

    size: str
    arm: str
    seed: int
    unit: str  # of the mark: flops or bytes
    mark: float
    config: Config
    views: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.size} {self.arm} seed {self.seed} to {self.mark:.3g} {self.unit}"


def wanted_runs(plan: PlanFile, shards: str) -> list[Wanted]:
    """All runs: the first seed of everything before the second of anything, small before large."""
    marks = [(size, unit, mark) for size in plan.sizes for unit in UNITS for mark in size.marks[unit]]
    found = []
    for number in range(max(len(arm.seeds) for arm in plan.arms)):
        for size, unit, mark in marks:
            for arm in (arm for arm in plan.arms if arm.runs_to(size, unit, mark) and number < len(arm.seeds)):
                seed = arm.seeds[number]
                if size.seeds is None or seed in size.seeds:
                    config, views = _config(plan, size, arm, {"shards": shards, "seed": seed})
                    found.append(Wanted(size.name, arm.name, seed, unit, mark, config, views))
    if unused := plan.views.keys() - {view for run in found for view in run.views}:
        raise ByteproxyError(f"plan {plan.name}: [views.{', '.join(sorted(unused))}]: no arm trains on such a view")
    return found


def _config(plan: PlanFile, size: Size, arm: Arm, more: Mapping[str, Any]) -> tuple[Config, tuple[str, ...]]:
    """An arm's config at a size, and the compressed views it trains on. Raises ByteproxyError that names both."""
    try:
        config = make_config({**plan.settings, **size.settings, **arm.settings, **more}, Config())
        if config.mode != "bytes" and not config.views:
            raise ByteproxyError(f'no views found, views = "NAME" expected in mode {config.mode}')
        views = () if config.mode == "bytes" else tuple(parse_views(config.views))
        parse_weights(config.weights, ["raw", *views])
        return config, views
    except ByteproxyError as error:
        raise ByteproxyError(f"plan {plan.name}, size {size.name}, arm {arm.name}: {error}") from None


def check_views(plan: PlanFile, runs: Sequence[Wanted], shards: str) -> Mapping[str, View]:
    """The set's views by name; refuses arms whose views it does not have."""
    there = ShardSet.open(parse_shards(shards)[0][0]).views
    for run in runs:
        if missing := [name for name in run.views if name not in there]:
            raise ByteproxyError(
                f"plan {plan.name}, arm {run.arm}: view {', '.join(missing)} found, of {', '.join(there) or 'none'} "
                f"expected, which {shards} has; `python -m pipeline add-view` adds one"
            )
    return {name: there[name] for run in runs for name in run.views}


def check_codecs(runs: Sequence[Wanted], shards: str) -> None:
    """Load the codecs that runs will ask for what their symbols stand for: one that is missing is told beforehand."""
    shard_set = ShardSet.open(parse_shards(shards)[0][0])
    for name in dict.fromkeys(view for run in runs if run.config.compose != "off" for view in run.views):
        shard_set.codec(name)


def tables_of(run: Wanted, alphabets: Mapping[str, int]) -> list[int]:
    """Rows of each view's table, raw first; as `model.table_rows`, without torch."""
    return [RAW_ROWS, *(SPECIALS + alphabets[name] for name in run.views)]


def identity(config: Config, digests: Mapping[str, str]) -> str:
    """16 hex digits of what a run's figures follow from: the settings that move a weight, and the data.

    The data by what it is, not where: the digests tell sets and what is left out, and weights count between several.
    """
    values = {f.name: getattr(config, f.name) for f in fields(Config) if not f.metadata["free"]}
    for field in (f for f in fields(Config) if f.metadata["later"] and values[f.name] == f.default):
        del values[field.name]  # so that runs from before there was such a setting are found again
    values["exclude"] = ""
    if len(parts := parse_shards(config.shards)) > 1:
        values["shares of sets"] = [weight for _, weight in parts]
    body = json.dumps([{k: v for k, v in sorted(values.items()) if k != "preset"}, dict(digests)], sort_keys=True)
    return hashlib.blake2b(body.encode(), digest_size=8).hexdigest()


def folder_name(run: Wanted, config: Config, digests: Mapping[str, str]) -> str:
    """Of a run's folder: readable, and another one for another run."""
    return f"{run.size}-{run.arm}-seed{run.seed}-{config.steps}-{identity(config, digests)[:10]}"
