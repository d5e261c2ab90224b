"""Adds views to a set that is there, from the set alone: its documents, their order and their former views stay.

Every shard is written again, for columns cannot be added to a Parquet file, and under a new name; then the manifest is
swapped. So a run that has the set open goes on undisturbed with the former files, which stay until they are pruned.
"""

import contextlib
import shlex
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

from pipeline import graph
from pipeline.encode import codec_seconds, load_codec_of, load_shard_facts
from pipeline.fit import fit_view
from pipeline.publish import SCRATCH, locked, prepare_beside, remove_drafts, say, to_go_on_from
from pipeline.reporting.render import texts_of
from pipeline.reporting.report import describe, load_report
from pipeline.reuse.append import AppendTask, generation_of, versions_of
from pipeline.reuse.codecs_from import copy_codec, spec_text
from pipeline.reuse.former import ADD_VIEW, ADDED, both_versions
from pipeline.reuse.resample import choose_rows, read_rows
from pipeline.reuse.rows import blocks_of
from pipeline.reuse.swap import left_over, remove, size_of, swap
from pipeline.running.engines import LOCAL
from pipeline.running.runner import run_graph
from pipeline.running.scratch import Scratch, load_json, save_json
from pipeline.running.watch import Step, Watch
from shards.codecs import Codec, ViewSpec, codec_class
from shards.errors import ByteproxyError
from shards.manifest import Manifest, View
from shards.reader import ShardSet

STAGES = ("fit", "encode", "join")  # of a run, as progress names them
SAMPLE_BYTES = 10 << 20  # where neither the set nor the command line says how much
VERSION = 1  # of the algorithm: raise it when the same set and view would give other bytes


@dataclass(frozen=True)
class AddConfig:
    """What is asked for."""

    folder: Path
    views: tuple[ViewSpec, ...]
    codecs: tuple[tuple[str, str], ...] = ()  # (view, digest of its codec) where it is another set's
    codecs_from: str = ""
    sample_bytes: int | None = None  # None: as the set was built with
    block_bytes: int = 8 << 20
    check: float = 1.0
    workers: int = 1
    prune: bool = False


def add_view(config: AddConfig) -> int:
    """Add the views that are asked for and not there, and remove what no manifest names if that is asked for."""
    Manifest.load(config.folder)  # before the lock, which would make a folder
    with locked(config.folder):
        remove_drafts(config.folder)
        shard_set = ShardSet.open(config.folder)
        missing = _missing(shard_set, config)
        if missing:
            _run(replace(config, views=missing), shard_set)
        elif config.views:
            _forget(Scratch((config.folder / SCRATCH).resolve()), shard_set)
            print(f"{config.folder}: has {', '.join(spec.name for spec in config.views)} already; nothing to do")
        old = left_over(config.folder)
        what = f"{len(old)} former files ({size_of(old) / 1e6:.1f} MB)"
        if config.prune:
            remove(old)
            print(f"{config.folder}: {what} removed")
        elif old:
            hint = f"when none has: python -m pipeline add-view {shlex.quote(str(config.folder))} --prune"
            print(f"{config.folder}: {what} stay for runs that have the set open; {hint}")
    return 0


def _run(config: AddConfig, shard_set: ShardSet) -> None:
    scratch = Scratch((config.folder / SCRATCH).resolve())
    codecs = dict(config.codecs)
    views = [[spec.name, spec.kind, spec.options, codecs.get(spec.name)] for spec in config.views]
    state = {
        "add-view": views,
        "set": shard_set.manifest.identity,
        "sample_bytes": config.sample_bytes,
        "check": config.check,
        "block_bytes": config.block_bytes,
    }
    with to_go_on_from(scratch, "stopped: the set is as it was, and the same command goes on from what is in"):
        if prepare_beside(scratch, state):
            say("going on from where a former run was stopped")
        _Adding(config, shard_set, scratch).run()


class _Adding:
    """One run: what its stages hand to each other."""

    def __init__(self, config: AddConfig, shard_set: ShardSet, scratch: Scratch) -> None:
        self.config, self.shard_set, self.scratch = config, shard_set, scratch
        self.former = shard_set.manifest
        self.seed = int(self.former.config.get("seed", 0))
        self.sample_bytes = config.sample_bytes or int(self.former.config.get("sample_bytes", SAMPLE_BYTES))

    def run(self) -> None:
        """Fit, encode, publish."""
        begin = perf_counter()
        self.fit()
        self.encode()
        manifest = self.describe()
        texts = self.texts(manifest, perf_counter() - begin)
        swap(self.scratch, self.config.folder, manifest, texts)
        for view in self.views:
            symbols = sum(file.symbols[view.name] for files in manifest.splits.values() for file in files)
            size = manifest.counts["bytes"]
            print(
                f"{self.config.folder}: view {view.name} added to {manifest.counts['documents']} documents, ratio "
                f"{size / max(1, symbols * view.width):.2f}, {size / max(1, symbols):.2f} bytes of text a symbol; "
                f"decoded and compared: {self.checked}"
            )

    def fit(self) -> None:
        """Fit the codecs on train documents, or take them over; each is kept as soon as it is there."""
        kept = self.scratch.survey("views")
        if not kept.exists():
            given = dict(self.config.codecs)
            learning = [s for s in self.config.views if s.name not in given and codec_class(s.kind).learns(s.options)]
            chosen = choose_rows(self.shard_set, self.seed, self.sample_bytes) if learning else []
            views = []
            staged = self.scratch.staged
            for spec in self.config.views:
                if spec.name in given:
                    view, _ = copy_codec(self.config.codecs_from, spec.name, given[spec.name], staged)
                elif spec in learning:
                    with self._watch(Step("fit", f"fit {spec.name} on {len(chosen)} documents")):
                        view, _ = fit_view(spec, read_rows(self.shard_set, chosen), staged)
                else:
                    view, _ = fit_view(spec, (), staged)
                views.append(view)
            save_json(kept, [vars(view) for view in views])
        self.views = tuple(View(**view) for view in load_json(kept))
        self.codecs: list[Codec] = [load_codec_of(self.scratch.staged, view) for view in self.views]

    def encode(self) -> None:
        """Encode and check every document, and write every shard anew."""
        self.libraries = versions_of(self.codecs)
        paths = [file.path for files in self.former.splits.values() for file in files]
        task = AppendTask(
            scratch=self.scratch,
            folder=self.config.folder.resolve(),
            identity=self.former.identity,
            views=self.views,
            libraries=self.libraries,
            generation=1 + max(generation_of(path)[1] for path in paths),
            seed=self.seed,
            check=self.config.check,
            row_group_bytes=int(self.former.config.get("row_group_bytes", 128 << 20)),
        )
        self.rows = blocks_of(self.shard_set, self.config.block_bytes)
        self.scratch.workers.touch()
        size = self.former.counts["bytes"]
        with self._watch(Step("encode", "encode", size), Step("join", "write", size)):
            fill = partial(graph.add_views, rows=self.rows, task=task)
            run_graph(fill, self.scratch, LOCAL, self.config.workers, ())

    def _watch(self, *steps: Step) -> Watch:
        """Shows these steps on the terminal while they run."""
        return Watch(self.scratch.progress, steps, 1 + STAGES.index(steps[0].stage), len(STAGES))

    def describe(self) -> Manifest:
        """The manifest with the added views: how the set was built stays in it as it was."""
        former, codecs = self.former, dict(self.config.codecs)
        added = [
            {"name": spec.name, "kind": spec.kind, "options": spec.options}
            | ({"codec": codecs[spec.name]} if spec.name in codecs else {"sample_bytes": self.sample_bytes})
            for spec in self.config.views
        ]
        kinds = {f"codec {spec.kind}": codec_class(spec.kind).version for spec in self.config.views}
        splits = {
            split: tuple(load_shard_facts(self.scratch, split, shard) for shard in range(len(files)))
            for split, files in former.splits.items()
        }
        return replace(
            former,
            views=(*former.views, *self.views),
            splits=splits,
            config={**former.config, ADDED: [*former.config.get(ADDED, []), *added]},
            libraries=both_versions(former.libraries, self.libraries),
            stages={**former.stages, ADD_VIEW: VERSION, **kinds},
        )

    def texts(self, manifest: Manifest, seconds: float) -> dict[str, str]:
        """The report with the new views, its page and card; none of them if there is no report to go on from."""
        facts = [load_json(self.scratch.block_facts(rows.split, rows.block)) for rows in self.rows]
        self.checked = sum(block["checked"] for block in facts)
        try:
            former = load_report(self.config.folder)
        except ByteproxyError as error:
            say(f"no report is written: {error}")
            return {}
        counts = [
            load_json(self.scratch.shard_statistics(split, shard))
            for split, files in manifest.splits.items()
            for shard in range(len(files))
        ]
        words = [word for spec in self.config.views for word in ("--view", spec_text(spec))]
        command = f"{former['command']} --out SET && python -m pipeline add-view SET {shlex.join(words)}"
        report = describe(manifest, former["corpus"], command, counts, [])
        kept = ("inputs", "rejected", "twins", "near_duplicates", "scrubbed", "workers")
        report |= {name: former[name] for name in kept if name in former}
        report["counts"]["checked"] = min(self.checked, former["counts"]["checked"])
        timing = former["timing"]
        stage = {f"add {' '.join(view.name for view in self.views)}": {"seconds": seconds, "bytes": 0}}
        report["timing"] = timing | {
            "stages": timing["stages"] | stage,
            "codecs": timing["codecs"] | codec_seconds(self.views, facts),
        }
        return texts_of(report)


def _missing(shard_set: ShardSet, config: AddConfig) -> tuple[ViewSpec, ...]:
    """The views that are not there. Raises ByteproxyError where another view has the name of one that is asked for."""
    missing, codecs = [], dict(config.codecs)
    for spec in config.views:
        view = shard_set.views.get(spec.name)
        if view is None:
            missing.append(spec)
            continue
        there = ViewSpec(view.name, view.kind, shard_set.codec(view.name).settings)
        if there != spec or codecs.get(spec.name, view.digest) != view.digest:
            same = f", with a codec of its own (digest {view.digest})" if there == spec else ""
            raise ByteproxyError(
                f"{config.folder} has a view {spec.name!r} already: {spec_text(there)}{same}. Give the new one another "
                f"name: --view {spec_text(spec._replace(name='other'))}"
            )
    return tuple(missing)


def _forget(scratch: Scratch, shard_set: ShardSet) -> None:
    """Remove the scratch of a run that was killed behind its last step: all that it was to add is there."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if all(name in shard_set.views for name, *_ in load_json(scratch.state)["add-view"]):
            scratch.remove()
