"""What a plan would cost, before anything is trained: parameters, steps, FLOPs, and hours at a stated speed."""

from collections.abc import Sequence

from shards.errors import ByteproxyError
from trainer.compare.arms import Wanted, check_views, tables_of
from trainer.compare.plan_file import PlanFile, ViewCost
from trainer.compare.solve import estimate, solve
from trainer.config import Config
from trainer.counts import count_parameters
from trainer.mixture import open_mixture


def dry_run(plan: PlanFile, runs: Sequence[Wanted], shards: str) -> list[str]:
    """Lines for the console: one an arm, size and mark, then the sum. With `shards` steps are solved for a first seed.

    Without, they are estimated by formula, from the alphabets and bytes a symbol that the plan's [views.NAME] state.
    """
    if shards:
        alphabets = {name: view.alphabet for name, view in check_views(plan, runs, shards).items()}
        how = f"steps solved on {shards}, for the first seed of each"
    else:
        alphabets = {name: _view(plan, run, name).alphabet for run in runs for name in run.views}
        how = "steps estimated by formula; --shards SET has the planner count them"
    columns = (("size", 10), ("arm", 16), ("mark", 14), ("seeds", 5), ("parameters M", 12), ("body M", 9), ("steps", 9),
               ("M symbols", 10), ("FLOPs", 9), ("hours", 9))  # fmt: skip
    lines = [f"plan {plan.name}: {len(runs)} runs; {how}", _speed(plan)]
    lines.append("  ".join(f"{name:>{width}}" for name, width in columns))
    groups: dict[tuple[str, str, str, float], list[Wanted]] = {}
    for run in runs:
        groups.setdefault((run.size, run.unit, run.arm, run.mark), []).append(run)
    order = {size.name: number for number, size in enumerate(plan.sizes)}
    total = 0.0
    for key in sorted(groups, key=lambda key: (order[key[0]], key[1] == "bytes", key[3])):
        (size, unit, arm, mark), mine = key, groups[key]
        first, tables = mine[0], tables_of(mine[0], alphabets)
        steps, flops = _steps_and_flops(plan, first, tables, shards)
        counts = count_parameters(first.config, tables)
        cells = [size, arm, f"{mark:.3g} {unit}", len(mine), f"{sum(counts.values()) / 1e6:,.2f}",
                 f"{counts['body'] / 1e6:,.2f}", f"{steps:,}", f"{steps * _symbols(first.config) / 1e6:,.1f}",
                 f"{flops:.2e}", _hours(plan, flops)]  # fmt: skip
        lines.append("  ".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, columns, strict=True)))
        total += flops * len(mine)
    hours = _hours(plan, total)
    time = f", {hours} hours; held-out scores come on top" if hours else ""
    return [*lines, f"in all {total:.3g} FLOPs of training{time}"]


def _steps_and_flops(plan: PlanFile, run: Wanted, tables: Sequence[int], shards: str) -> tuple[int, float]:
    if shards:
        solved = solve(run.config, open_mixture(run.config), tables, run.unit, run.mark)
        return solved.steps, solved.flops
    sizes = [_view(plan, run, name).bytes_per_symbol for name in run.views] or [1.0]
    each = len(sizes) / sum(1 / size for size in sizes)
    return estimate(run.config, tables, each, run.unit, run.mark)


def _view(plan: PlanFile, run: Wanted, name: str) -> ViewCost:
    found = plan.views.get(name)
    if not found or not found.alphabet:
        raise ByteproxyError(
            f"plan {plan.name}, arm {run.arm}: how many symbols has view {name}? Give --shards SET, or state it in the "
            f"plan: [views.{name}] alphabet = 4096, bytes_per_symbol = 3.0"
        )
    return found


def _symbols(config: Config) -> int:
    return config.batch_rows * config.context


def _speed(plan: PlanFile) -> str:
    machine = plan.machine
    if not machine.flops_per_second:
        return "no hours: the plan has no [machine] flops_per_second"
    return (
        f"hours on {machine.name or 'one machine'}: {machine.flops_per_second:.3g} FLOPs a second at {machine.mfu:.0%}"
    )


def _hours(plan: PlanFile, flops: float) -> str:
    speed = plan.machine.flops_per_second * plan.machine.mfu
    return f"{flops / speed / 3600:,.2f}" if speed else ""
