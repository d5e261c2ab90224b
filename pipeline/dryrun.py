"""`build --dry-run`: what a build would give, take and cost, from a build of a small part of the corpus.

The part goes through the very steps of a build, in a folder of its own that is removed again; nothing is written under
OUT. What was found in it is then scaled up; the last lines of the output say what that can and cannot tell.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from apache_beam.options.pipeline_options import WorkerOptions

from pipeline import graph
from pipeline.build import SURVEY_ALONE, Build
from pipeline.config import BuildConfig
from pipeline.fit import needs_fit
from pipeline.reading.inputs import Inventory, corpora, take_inventory
from pipeline.reading.portion import Portion, take_portion, whole
from pipeline.running.engines import DATAFLOW, LOCAL, check_name, options_of
from pipeline.running.runner import run_graph
from pipeline.running.scratch import Scratch
from pipeline.split import Layout
from shards.errors import ByteproxyError

SHARE = 0.01
ENOUGH = 400  # documents at least, as far as the corpus has them
MOST_BYTES = 1 << 30  # of the corpus at most
GROWTH = 4  # if a part is too small to be split, the next is so many times larger


@dataclass(frozen=True)
class Estimate:
    """A whole build as scaled up from a part of it. Sizes in bytes, times in seconds of one worker."""

    found: float
    documents: float
    bytes: float
    rejected: dict[str, float]
    shards: dict[str, int]
    views: dict[str, tuple[float, float]]  # ratio, bytes
    files: float  # bytes of all shard files
    fixed: float
    survey: float
    fit: float
    encode: float
    fitted: float  # bytes of text that codecs were fitted on


@dataclass(frozen=True)
class Measured:
    """The inventory, what was read of it, and the report of the build of that part."""

    inventory: Inventory
    portion: Portion
    report: dict[str, Any]
    files: int  # bytes of its shard files
    idle: float  # seconds that a graph takes which has nothing to do


def dry_run(config: BuildConfig, price: float | None) -> int:
    """Estimate and print. `price`: of a machine an hour."""
    check_name(config.runner)
    if config.runner == DATAFLOW:
        vcpus_of(
            options_of(config.runner, config.beam_args).view_as(WorkerOptions).machine_type
        )  # or it would be missed at the end
    measured = measure(config)
    print(text_of(config, measured, estimate(config, measured), price))
    return 0


def measure(config: BuildConfig) -> Measured:
    """Build a part of the corpus, in a temporary folder."""
    inventory = take_inventory(corpora(config.corpus), config.exclude, config.out, config.content_column)
    guess = max(1, inventory.found + inventory.line_bytes // graph.GUESSED_DOCUMENT_BYTES)
    share = min(max(SHARE, ENOUGH / guess), MOST_BYTES / max(1, inventory.bytes))
    with TemporaryDirectory(prefix="byteproxy-dry-run-") as folder:
        idle = _idle_seconds(config, Path(folder))
        portion, made = _survey(config, inventory, share, Path(folder))
        made.fit()
        made.encode()
        manifest, report = made.describe()
    files = sum(shard.size for shards in manifest.splits.values() for shard in shards)
    return Measured(inventory, portion, report, files, idle)


def _survey(config: BuildConfig, inventory: Inventory, share: float, folder: Path) -> tuple[Portion, Build]:
    """Survey a part, a larger one if it has no documents or cannot be split."""
    number = 0
    while True:
        parts = folder / f"parts-{number}"
        parts.mkdir()
        portion = whole(inventory) if share >= 1 else take_portion(inventory, share, config.seed, parts)
        scratch = Scratch(folder / f"build-{number}")
        made = Build(_of_part(config, folder), portion.inventory, scratch)
        try:
            made.survey()
            return portion, made
        except ByteproxyError:
            share, number = share * GROWTH, number + 1
            if portion.inventory.bytes >= inventory.bytes or share * inventory.bytes > GROWTH * MOST_BYTES:
                raise


def _of_part(config: BuildConfig, folder: Path) -> BuildConfig:
    """The config of a build of a part, by one worker in this process. What takes fewer documents is reckoned later."""
    where = {"out": folder / "set", "runner": LOCAL, "workers": 1, "beam_args": ()}
    return dataclasses.replace(config, sample_rate=1.0, limit=None, **where)  # type: ignore[arg-type]


def _idle_seconds(config: BuildConfig, folder: Path) -> float:
    """How long a survey of nothing takes: what does not grow with the corpus. The first warms up."""
    for number in range(2):
        scratch = Scratch(folder / f"idle-{number}")
        begin = perf_counter()
        run_graph(lambda root, s=scratch: graph.survey(root, Inventory(), config, s), scratch, LOCAL, 1, ())  # type: ignore[misc]
    return perf_counter() - begin


def estimate(config: BuildConfig, measured: Measured) -> Estimate:
    """Scale up what the build of a part has found."""
    inventory, portion, report, idle = measured.inventory, measured.portion, measured.report, measured.idle
    scale = portion.scale
    rejected: Counter[str] = Counter()
    for reason, facts in report["rejected"].items():
        own = portion.cut if reason == "truncated" else 0  # of the cut itself
        if facts["documents"] > own:
            rejected[reason] = (facts["documents"] - own) * scale
    for rejection in inventory.rejected:  # known exactly
        rejected[rejection.reason] += 1
    counts, timing = report["counts"], report["timing"]
    documents, size = counts["documents"] * scale, counts["bytes"] * scale
    found = documents + sum(rejected.values())
    if config.sample_rate < 1:
        rejected["not sampled"] = documents * (1 - config.sample_rate)
    if config.limit is not None:
        rejected["over the limit"] = max(0.0, documents * config.sample_rate - config.limit)
    taken = 1 - (rejected["not sampled"] + rejected["over the limit"]) / documents
    val = size * taken * config.val_fraction
    layouts = {
        split: Layout.of(0, round(part), config.shard_bytes, config.block_bytes)
        for split, part in (("train", size * taken - val), ("val", val))
    }
    seconds = {name: stage["seconds"] for name, stage in timing["stages"].items()}
    train = report["splits"]["train"]["bytes"]
    fitted, wanted = min(train, config.sample_bytes), min(size * taken, config.sample_bytes)
    return Estimate(
        found=found,
        documents=documents * taken,
        bytes=size * taken,
        rejected={reason: count for reason, count in rejected.most_common() if count},
        shards={split: layout.shards for split, layout in layouts.items()},
        views={name: (facts["ratio"], size * taken / facts["ratio"]) for name, facts in report["views"].items()},
        files=measured.files * scale * taken,
        fixed=2 * idle,
        survey=max(0.0, seconds.get("unpack", 0.0) + seconds["survey"] + seconds["split"] - idle) * scale,
        fit=seconds["fit"] * max(1.0, wanted / max(1, fitted)),
        encode=max(timing["blocks"], seconds["encode"] + seconds["join"] - idle) * scale * taken,
        fitted=fitted,
    )


def text_of(config: BuildConfig, measured: Measured, estimated: Estimate, price: float | None) -> str:
    """The estimate for people."""
    e, inventory, portion = estimated, measured.inventory, measured.portion
    read = (
        f"{measured.report['counts']['found']} documents, {_size(portion.inventory.bytes)} of {_size(inventory.bytes)}"
    )
    shards = f"train {e.shards['train']}, val {e.shards['val']}; {_size(e.files)} in all"
    lines = [
        f"dry run: nothing was written. Read: {read}",
        f"  documents {_count(e.documents)} kept of {_count(e.found)} found, {_size(e.bytes)} of text",
        *(f"    {reason} {_count(count)}" for reason, count in e.rejected.items()),
        f"  shards    {shards}, and as much again in scratch until they are done",
        *(f"  view {name:14} ratio {ratio:5.2f}, {_size(size)}" for name, (ratio, size) in e.views.items()),
    ]
    workers, machines, vcpus = config.workers, 1, 1
    if config.runner == DATAFLOW:
        options = options_of(config.runner, config.beam_args).view_as(WorkerOptions)
        machines, vcpus = options.num_workers or options.max_num_workers or 1, vcpus_of(options.machine_type)
        workers = machines * vcpus
    surveyors = workers if inventory.bytes > SURVEY_ALONE or config.runner != LOCAL else 1
    survey, encode = e.survey / surveyors, e.encode / workers
    total = e.fixed + survey + e.fit + encode
    lines.append(
        f"  time      {_time(total)}: survey {_time(survey)}, fit {_time(e.fit)}, encode {_time(encode)} "
        f"({workers} worker{'s' if workers > 1 else ''})"
    )
    if price is not None:
        hours = (e.survey + e.encode) / vcpus / 3600 if config.runner == DATAFLOW else total / 3600
        lines.append(f"  cost      {hours * price:.3g}: {hours:.3g} hours of a machine at {price:g} an hour")
    lines += ["This rests on:", *(f"  - {line}" for line in _basis(config, portion, estimated, machines, vcpus))]
    return "\n".join(lines)


def _basis(config: BuildConfig, portion: Portion, estimated: Estimate, machines: int, vcpus: int) -> Iterator[str]:
    """What an estimate rests on, and what it cannot tell."""
    if portion.scale > 1:
        seen = "duplicates of which it holds only one are not seen, so there may be less"
        yield f"a part of the corpus, chosen by hash of names and places; {seen}"
        if portion.cut:
            yield f"of {portion.cut} inputs that are read from their beginning, their first part"
    if needs_fit(config) and estimated.fitted < config.sample_bytes:
        fitted, wanted = _size(estimated.fitted), _size(config.sample_bytes)
        yield f"codecs fitted on {fitted} of text instead of {wanted}: their ratios are a little better so"
    yield "the speed of this machine with one worker"
    if config.runner == DATAFLOW:
        yield f"{machines} machines of {vcpus} vCPUs, each as fast as a CPU here, that do not wait for each other"
        yield "not in it: the start of machines (some minutes), shuffle, disks, network"
    elif config.workers > 1:
        yield f"{config.workers} workers that do not wait for each other"


def vcpus_of(machine: str | None) -> int:
    """The vCPUs of a machine type, by its name: n2-standard-8 has 8, n2-custom-4-16384 has 4."""
    found = re.search(r"-(\d+)(?:-|$)", machine or "")
    if not found:
        raise ByteproxyError(
            f"--machine_type {machine or 'is missing'}: for the time on Dataflow a type that names its vCPUs is "
            "needed, such as --machine_type=n2-standard-8"
        )
    return int(found[1])


def _count(number: float) -> str:
    """About so many: three digits that count."""
    rounded = float(f"{number:.3g}") if number >= 1000 else round(number)
    return f"{rounded:,.0f}"


def _size(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def _time(seconds: float) -> str:
    for unit, scale in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds:.2g} s"
