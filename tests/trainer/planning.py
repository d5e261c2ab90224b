"""What tests of the planner share: its settings without a model's, strategies for them, and batches to keep."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from shards.reader import ShardSet
from tests.trainer.loading import planner_of
from trainer.batch import Batch, Buffers, Builder
from trainer.loader import rows_of_rank
from trainer.plan import Plan, Planner, PlanState

ARRAYS = ("ids_RT", "targets_RT", "counted_RT", "views_RT", "positions_RT", "cu_seqlens", "symbols", "raw_bytes")


@dataclass(frozen=True)
class PlanSettings:
    mode: str = "proxy"
    views: str = ""
    steps: int = 40
    seed: int = 0
    rate: float = 0.9
    rate_start: float = 0.4
    rate_end: float = -1.0
    translation: float = 0.5
    anneal: float = 0.2
    pairs: float = 0.0
    switch: float = 0.0
    switch_bytes: int = 512
    rate_unit: str = "documents"
    context: int = 300
    batch_rows: int = 3
    lanes: int = 1
    shuffle_window: int = 0
    mix_by: str = "bytes"
    check: str = "fail"


def copied(batch: Batch) -> dict[str, Any]:
    """A batch's arrays, which are used again, for keeping."""
    return {name: getattr(batch, name).copy() for name in ARRAYS}


def batches(shard_set: ShardSet, config: PlanSettings) -> Iterator[tuple[Plan, Batch, PlanState]]:
    planner = planner_of(shard_set, config)
    build = builder_of(planner, config)
    for plan, state in planner.plans(planner.initial()):
        yield plan, build(plan), state


def builder_of(planner: Planner, config: PlanSettings, rank: int = 0, ranks: int = 1) -> Any:
    first, end = rows_of_rank(config.batch_rows, rank, ranks)
    builder = Builder(planner.sources, planner.pointers, planner.views, first, end - first, config.check)
    return lambda plan: builder.build(plan, Buffers(end - first, config.context, planner.views))


CONFIGS = st.builds(
    PlanSettings,
    mode=st.sampled_from(["proxy", "bytes", "tokens", "parallel"]),
    views=st.sampled_from(["sentencepiece", "gzip"]),
    seed=st.integers(0, 1000),
    rate=st.sampled_from([0.5, 0.9, 1.0]),
    rate_end=st.sampled_from([-1.0, 0.0, 1.0]),
    context=st.sampled_from([261, 262, 300, 301, 2000]),
    batch_rows=st.integers(1, 9),
    lanes=st.sampled_from([1, 2, 9, 20]),
    translation=st.sampled_from([0.0, 0.5, 1.0]),
    anneal=st.just(0.0),
    shuffle_window=st.sampled_from([0, 1, 2, 9]),
)

COMMON = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
