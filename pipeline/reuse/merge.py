"""Joins sets that have the same codecs into one: sorted by id, without copies, each document in the split it was in."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa

from pipeline import graph
from pipeline.cleaning.dedup import bucket_count
from pipeline.encode import load_shards
from pipeline.publish import SCRATCH, finished_set, locked, prepare, publish, rejected_file, say, tidy, to_go_on_from
from pipeline.reporting.render import texts_of
from pipeline.reporting.report import Report, describe, load_report
from pipeline.reporting.summary import summary
from pipeline.reuse.codecs_from import copy_codec
from pipeline.reuse.former import both_versions
from pipeline.reuse.merging import MergeTask
from pipeline.running.engines import LOCAL
from pipeline.running.runner import run_graph
from pipeline.running.scratch import Scratch, load_all, load_json
from pipeline.running.watch import Step, Watch
from pipeline.split import VAL_MAX, Layout
from shards.codecs import codec_class
from shards.errors import ByteproxyError
from shards.hashing import combine
from shards.manifest import Manifest
from shards.reader import ShardSet

VERSION = 1  # of the algorithm: raise it when the same sets would give another


@dataclass(frozen=True)
class MergeConfig:
    """What is asked for."""

    sets: tuple[Path, ...]
    out: Path
    shard_bytes: int | None = None  # None: as the sets were built with, the largest
    row_group_bytes: int | None = None
    block_bytes: int = 8 << 20
    workers: int = 1


def merge(config: MergeConfig) -> int:
    """Join the sets in `config.out`, or find that this was done."""
    sets = open_sets(config.sets)
    check_codecs(sets)
    identity, stages = identity_of(sets, config), stages_of(sets)
    fingerprint = combine(identity["merged"])
    with locked(config.out):
        if finished_set(config.out, identity, stages, fingerprint):
            print(f"{config.out}: these sets are merged there already; nothing to do")
            tidy(Scratch((config.out / SCRATCH).resolve()))
            return 0
        scratch = Scratch((config.out / SCRATCH).resolve())
        state = {"config": identity, "stages": stages, "block_bytes": config.block_bytes}
        with to_go_on_from(scratch, "stopped: the same command goes on from what is in"):
            if prepare(scratch, config.out, state):
                say("going on from where a former run was stopped")
            _Merge(config, sets, identity, stages, scratch).run()
    return 0


def open_sets(folders: Sequence[Path]) -> list[ShardSet]:
    """The sets in order of their identities, so that it does not matter in which order they are named."""
    resolved = [folder.resolve() for folder in folders]
    if len(resolved) < 2:
        raise ByteproxyError("merge joins two sets or more; name them all, then --out")
    for folder in resolved:
        if resolved.count(folder) > 1:
            raise ByteproxyError(f"{folder} is given twice; name it once")
    opened = [ShardSet.open(folder) for folder in folders]
    for shard_set in opened:
        if set(shard_set.manifest.splits) != {"train", "val"}:
            raise ByteproxyError(
                f"{shard_set.location} has splits {', '.join(shard_set.manifest.splits)}; train and val are expected"
            )
    return sorted(opened, key=lambda shard_set: (shard_set.manifest.identity, str(shard_set.folder.resolve())))


def check_codecs(sets: Sequence[ShardSet]) -> None:
    """All sets must have the same views by the same codecs. Raises ByteproxyError that names what differs."""
    first = sets[0]
    for other in sets[1:]:
        for one, two in ((first, other), (other, first)):
            lacking = [name for name in one.views if name not in two.views]
            if lacking:
                words = " ".join(f"--view {name}" for name in lacking)
                raise ByteproxyError(
                    f"{two.location} has no view {', '.join(lacking)}, which {one.location} has. Add it: python -m "
                    f"pipeline add-view {two.location} {words} --codecs-from {one.location}"
                )
        differing = [name for name, view in first.views.items() if other.views[name].digest != view.digest]
        if differing:
            found = "; ".join(f"{n}: {s.views[n].digest} in {s.location}" for n in differing for s in (first, other))
            raise ByteproxyError(
                f"the codecs of {', '.join(differing)} differ ({found}): the same symbols would mean different text. "
                f"Build one of the sets with those of the other: python -m pipeline build CORPUS --codecs-from "
                f"{first.location}"
            )


def identity_of(sets: Sequence[ShardSet], config: MergeConfig) -> dict[str, Any]:
    """What decides the bytes of the merged set, as plain JSON."""
    configs = [shard_set.manifest.config for shard_set in sets]

    def largest(name: str, asked: int | None) -> int:
        return asked or max(int(found.get(name, 128 << 20)) for found in configs)

    views = [
        {"name": view.name, "kind": view.kind, "options": sets[0].codec(view.name).settings}
        for view in sets[0].manifest.views
    ]
    return {
        "merged": [shard_set.manifest.identity for shard_set in sets],
        "views": views,
        "shard_bytes": largest("shard_bytes", config.shard_bytes),
        "row_group_bytes": largest("row_group_bytes", config.row_group_bytes),
    }


def stages_of(sets: Sequence[ShardSet]) -> dict[str, int]:
    """The versions of the algorithms. Those that the sets were made with are in their identities."""
    kinds = sorted({view.kind for view in sets[0].manifest.views})
    return {"merge": VERSION} | {f"codec {kind}": codec_class(kind).version for kind in kinds}


class _Merge:
    """One run."""

    def __init__(
        self,
        config: MergeConfig,
        sets: Sequence[ShardSet],
        identity: dict[str, Any],
        stages: dict[str, int],
        scratch: Scratch,
    ) -> None:
        self.config, self.sets, self.identity, self.stages, self.scratch = config, sets, identity, stages, scratch

    def run(self) -> None:
        """Resolve, write, publish."""
        begin = perf_counter()
        first = self.sets[0]
        views = tuple(
            copy_codec(first.location, view.name, view.digest, self.scratch.staged)[0] for view in first.manifest.views
        )
        task = MergeTask(
            scratch=self.scratch,
            folders=tuple(shard_set.folder.resolve() for shard_set in self.sets),
            identities=tuple(self.identity["merged"]),
            views=views,
            shard_bytes=self.identity["shard_bytes"],
            block_bytes=self.config.block_bytes,
            row_group_bytes=self.identity["row_group_bytes"],
        )
        counts = [shard_set.manifest.counts for shard_set in self.sets]
        found = sum(count["found"] for count in counts)
        former = [
            str(shard_set.folder.resolve() / file.path)
            for shard_set in self.sets
            for file in shard_set.manifest.rejected
        ]
        ranges = bucket_count(sum(count["documents"] for count in counts))
        self.scratch.workers.touch()
        step = Step("merge", "merge", sum(count["bytes"] for count in counts))
        with Watch(self.scratch.progress, [step]) as watch:
            fill = partial(graph.merge, ranges=ranges, rejected=former, found=found, task=task)
            run_graph(fill, self.scratch, LOCAL, self.config.workers, ())
        manifest = self.manifest(task, found)
        report = self.report(manifest)
        report["timing"]["stages"] = {"merge": {"seconds": watch.seconds["merge"], "bytes": manifest.counts["bytes"]}}
        report["timing"]["total"] = perf_counter() - begin
        publish(self.scratch, self.config.out, manifest, texts_of(report))
        print(summary(report, str(self.config.out)))
        print(f"  each value was held against its checksum; to decode them: python -m shards verify {self.config.out}")
        share = report["splits"]["val"]["bytes"] / max(1, manifest.counts["bytes"])
        if share > VAL_MAX:
            say(f"note: val is {share:.1%} of the bytes; documents that the sets shared were mostly in train")

    def manifest(self, task: MergeTask, found: int) -> Manifest:
        """The manifest of the merged set. Raises ByteproxyError if a document was lost."""
        layouts = {split: Layout(*numbers) for split, numbers in load_json(self.scratch.survey("plan")).items()}
        splits = {split: load_shards(self.scratch, split, layout.shards) for split, layout in layouts.items()}
        self.rejected = load_all(self.scratch.rejected_facts(0).parent)
        rejected = tuple(rejected_file(self.scratch, part) for part in self.rejected)
        kept, left_out = sum(s.rows for files in splits.values() for s in files), sum(r.rows for r in rejected)
        if kept + left_out != found:
            raise ByteproxyError(
                f"{kept} documents in shards + {left_out} rejected are not the {found} found: documents were lost "
                "or doubled; this is a fault of the program or of the runner, please report it"
            )
        size = sum(shard.symbols["raw"] for files in splits.values() for shard in files)
        digest = combine(self.identity["merged"])
        return Manifest(
            views=task.views,
            splits=splits,
            rejected=rejected,
            config=self.identity,
            inputs={"documents": kept, "bytes": size, "found": found, "digest": digest},
            libraries=both_versions({"pyarrow": pa.__version__}, *(s.manifest.libraries for s in self.sets)),
            stages=self.stages,
            counts={"documents": kept, "rejected": left_out, "found": found, "bytes": size},
        )

    def report(self, manifest: Manifest) -> Report:
        """The report; near-twins are not looked for again, and what was decoded by the builds is not counted."""
        counts = load_all(self.scratch.shard_statistics("train", 0).parent)
        sets = [f"set-{identity[:8]}" for identity in self.identity["merged"]]  # wherever they lie
        names = sorted({name for s, other in zip(self.sets, sets, strict=True) for name in _corpus_of(s, other)})
        command = f"python -m pipeline merge {' '.join(sets)} --out SET"
        report = describe(manifest, names, command, counts, (part["reasons"] for part in self.rejected))
        report["inputs"] |= {"fingerprint": combine(self.identity["merged"]), "content": None}
        report["twins"] = {"sampled": 0, "found": 0, "share": 0.0, "byte_share": 0.0}
        report["timing"] = {"codecs": {}, "blocks": 0.0, "statistics": 0.0}
        return report | {"workers": self.config.workers}


def _corpus_of(shard_set: ShardSet, other: str) -> list[str]:
    """The names of a set's inputs; another name if it has no report that tells."""
    try:
        return load_report(shard_set.folder)["corpus"]
    except ByteproxyError:
        return [other]
