"""A loader and a planner over one set, as the tests want them."""

from typing import Any

from shards.manifest import View
from shards.reader import ShardSet
from trainer.ahead import Source
from trainer.loader import Loader
from trainer.plan import Planner, PlanState


def views_of(shard_set: ShardSet, config: Any) -> list[View]:
    """The view that a run with this config trains on."""
    return [] if config.mode == "bytes" else [shard_set.view(config.views or next(iter(shard_set.views)))]


def planner_of(shard_set: ShardSet, config: Any) -> Planner:
    return Planner([Source(shard_set.split("train"))], views_of(shard_set, config), config)


def loader_of(shard_set: ShardSet, config: Any, state: PlanState | None = None, prefetch: int = 0) -> Loader:
    return Loader([Source(shard_set.split("train"))], views_of(shard_set, config), config, state, prefetch)
