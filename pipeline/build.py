"""A build from beginning to end: survey, fit, encode, publish. A killed one goes on from the files that each leaves."""

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from pipeline import graph
from pipeline.changed import reject_changed
from pipeline.cleaning.rules import unhelpful
from pipeline.cleaning.twins import SAMPLE, TwinIndex
from pipeline.config import BuildConfig
from pipeline.encode import EncodeTask, codec_seconds, libraries_of, load_codec_of, load_shards
from pipeline.fit import choose_sample, fit_view, needs_fit, read_sample
from pipeline.publish import SCRATCH, finished_set, locked, prepare, publish, rejected_file, say, tidy, to_go_on_from
from pipeline.reading.detect import check_detector
from pipeline.reading.faults import hint_of, stop_at_fault, stop_at_fault_of_set, stop_at_former_fault
from pipeline.reading.fingerprint import content_fingerprint
from pipeline.reading.formats import stem_of
from pipeline.reading.inputs import Inventory, corpora, take_inventory
from pipeline.reading.repositories import SCHEME
from pipeline.reading.sources import Changed, read_stored
from pipeline.records import load_table, places
from pipeline.reporting.command import command_of
from pipeline.reporting.render import texts_of
from pipeline.reporting.report import Report, describe
from pipeline.reporting.statistics import merged
from pipeline.reporting.summary import summary
from pipeline.reuse.codecs_from import copy_codec
from pipeline.running.engines import check_runner
from pipeline.running.runner import run_graph
from pipeline.running.scratch import Scratch, load_all, load_json, save_json
from pipeline.running.storage import absolute
from pipeline.running.watch import Step, Watch
from pipeline.split import Layout
from shards.errors import ByteproxyError
from shards.hashing import keyed_hash
from shards.manifest import Manifest, View
from shards.store import is_remote

STAGES = ("unpack", "survey", "split", "fit", "encode", "join")  # of a build; the first where there is need of it
SURVEY_ALONE = 2 << 30  # bytes of input up to which one process surveys: it is done before others would have started


def build(config: BuildConfig) -> int:
    """Build the set that is asked for in `config.out`, or find that it is there."""
    check_runner(config)
    if config.detect_language:
        check_detector()
    inputs = corpora(config.corpus)
    with locked(config.out):
        inventory = take_inventory(inputs, config.exclude, config.out, config.content_column)
        identity, stages = config.identity(), config.stages()
        if config.fingerprint == "content":
            inventory.content = content_fingerprint(inventory, config.workers)
        if finished_set(config.out, identity, stages, inventory.fingerprint, inventory.content):
            print(f"{config.out}: this set is there already, of the same corpus and config; nothing to do")
            tidy(Scratch(absolute(config.out) / SCRATCH))
            if config.strict:
                stop_at_fault_of_set(config.out)
            return 0
        if config.strict:
            stop_at_fault(inventory.rejected)
        scratch = Scratch(absolute(config.out) / SCRATCH)
        fingerprint = inventory.content or inventory.fingerprint
        state = {"config": identity, "stages": stages, "fingerprint": fingerprint, "check": config.check}
        state["block_bytes"] = config.block_bytes
        with to_go_on_from(scratch, "stopped: the same command goes on from what is in"):
            if prepare(scratch, config.out, state):
                say("going on from where a former build of this set was stopped")
            Build(config, inventory, scratch).run()
    return 0


class Build:
    """One build: what its stages hand to each other."""

    def __init__(self, config: BuildConfig, inventory: Inventory, scratch: Scratch) -> None:
        self.config, self.inventory, self.scratch = config, inventory, scratch
        kept = scratch.survey("timing")
        self.timing: dict[str, dict[str, float]] = load_json(kept) if kept.exists() else {}

    def run(self) -> None:
        """Survey, fit, encode, publish."""
        begin = perf_counter()
        self.survey()
        self.fit()
        self.encode()
        manifest, report = self.describe()
        report["timing"]["total"] = perf_counter() - begin
        publish(self.scratch, self.config.out, manifest, texts_of(report))
        print(summary(report, str(self.config.out)))

    def survey(self) -> None:
        """Read every document once: which are kept, in which split and block, and why the others are not."""
        done = self.scratch.survey("done")
        if not done.exists():
            workers = self.config.workers if self.inventory.bytes > SURVEY_ALONE else 1
            read, packed = self.inventory.bytes, self.inventory.packed_bytes
            steps = [Step("unpack", "unpack", packed)] if packed else []
            steps.append(Step("survey", "survey", read - packed, more_in="unpacked"))
            with self._watch(*steps, Step("split", "split", documents_of="planned")) as watch:
                self._run(lambda root: graph.survey(root, self.inventory, self.config, self.scratch), workers)
            self._took(watch, *([packed] if packed else []), read - packed, 0)
            save_json(done, True)
        self.rejected = load_all(self.scratch.rejected_facts(0).parent)
        if self.config.strict:
            stop_at_former_fault(self.scratch, self.rejected)
        beside = self.scratch.survey("found")
        self.found = self.inventory.found + (load_json(beside) if beside.exists() else 0)
        self._warn()
        if not self.scratch.survey("plan").exists():
            reasons = ", ".join(f"{reason} {count}" for reason, count in self._reasons().items())
            what = f"no documents left of {self.found} found{f' ({reasons})' if reasons else ''}"
            hint = hint_of(merged(part["reasons"] for part in self.rejected))
            raise ByteproxyError(f"{', '.join(self.config.corpus)}: {what}{hint}")
        plan = load_json(self.scratch.survey("plan"))
        if "error" in plan:
            raise ByteproxyError(plan["error"])
        self.layouts = {split: Layout(*numbers) for split, numbers in plan["splits"].items()}
        self.blocks = sorted(load_all(self.scratch.index_facts("train", 0).parent), key=_block)

    def fit(self) -> None:
        """Fit the codecs on train documents; each is kept as soon as it is there."""
        kept = self.scratch.survey("views")
        if kept.exists():
            self.views = tuple(View(**view) for view in load_json(kept))
            self.codecs = [load_codec_of(self.scratch.staged, view) for view in self.views]
            return
        available: Counter[str] = Counter()
        for block in self.blocks:
            if block["split"] == "train":
                available.update({name: size for name, (_, size) in block["languages"].items()})
        chosen = choose_sample(self.scratch, available, self.config.sample_bytes) if needs_fit(self.config) else []
        fitted, given = [], dict(self.config.codecs)
        begin = perf_counter()
        for spec in self.config.views:
            title = f"fit {spec.name} on {len(chosen)} documents"
            if spec.name in given:
                fitted.append(copy_codec(self.config.codecs_from, spec.name, given[spec.name], self.scratch.staged))
            elif spec.name in needs_fit(self.config):
                with self._watch(Step("fit", title)):
                    fitted.append(fit_view(spec, read_sample(chosen), self.scratch.staged))
            else:
                fitted.append(fit_view(spec, [], self.scratch.staged))
        self._note("fit", perf_counter() - begin)
        self.views, self.codecs = tuple(view for view, _ in fitted), [codec for _, codec in fitted]
        save_json(kept, [vars(view) for view in self.views])

    def encode(self) -> None:
        """Encode and check every block, and join the blocks into shards."""
        self._index_twins()
        self.libraries = libraries_of(self.codecs, self.config.detect_language)
        config = self.config
        numbers = config.seed, config.check, config.row_group_bytes, config.strict
        task = EncodeTask(self.scratch, self.views, self.libraries, self.layouts, *numbers)
        self.scratch.local.mkdir(parents=True, exist_ok=True)
        self.scratch.workers.touch()
        # largest first: runners deal them out in turn, and the small ones even out the ends
        order = sorted(self.blocks, key=lambda block: (-block["bytes"], block["split"], block["block"]))
        blocks = [(block["split"], block["block"]) for block in order]
        to_encode, to_join = self._to_do()
        with self._watch(Step("encode", "encode", to_encode), Step("join", "write", to_join)) as watch:
            self._run(lambda root: graph.encode(root, blocks, task), config.workers)
        self._took(watch, to_encode, to_join)

    def describe(self) -> tuple[Manifest, dict[str, Any]]:
        """The manifest and the report. Raises ByteproxyError if a document was lost."""
        splits = {split: load_shards(self.scratch, split, layout.shards) for split, layout in self.layouts.items()}
        loss = reject_changed(self.scratch, load_all(self.scratch.block_facts("train", 0).parent))
        self.rejected += [loss.part] if loss.part is not None else []
        rejected = tuple(rejected_file(self.scratch, part) for part in self.rejected)
        for split, files in splits.items():
            if not any(file.rows for file in files):
                raise ByteproxyError(f"all documents of {split} changed while the build was running; build again")
        kept, left_out = sum(s.rows for files in splits.values() for s in files), sum(r.rows for r in rejected)
        if kept + left_out != self.found:
            raise ByteproxyError(
                f"{kept} documents in shards + {left_out} rejected are not the {self.found} found: documents were lost "
                "or doubled; this is a fault of the program or of the runner, please report it"
            )
        digest = (sum(int(block["digest"], 16) for block in self.blocks) - loss.digest) % 2**128
        size = sum(layout.bytes for layout in self.layouts.values()) - loss.bytes
        manifest = Manifest(
            views=self.views,
            splits=splits,
            rejected=rejected,
            config=self.config.identity(),
            inputs={"documents": kept, "bytes": size, "found": self.found, "digest": f"{digest:032x}"},
            libraries=self.libraries | self.config.cleaning.libraries(),
            stages=self.config.stages(),
            counts={"documents": kept, "rejected": left_out, "found": self.found, "bytes": size},
        )
        return manifest, self._report(manifest)

    def _report(self, manifest: Manifest) -> Report:
        facts = load_all(self.scratch.block_facts("train", 0).parent)
        names = self.inventory.names
        rejected = (part["reasons"] for part in self.rejected)
        report = describe(manifest, names, command_of(self.config, names), facts, rejected)
        report["inputs"] |= {"fingerprint": self.inventory.fingerprint, "content": self.inventory.content}
        report["twins"] = self._twins(facts)
        sizes = self.scratch.survey("clusters")
        clusters = load_json(sizes) if sizes.exists() else {}
        report["near_duplicates"] = {"clusters": dict(sorted(clusters.items(), key=lambda item: int(item[0])))}
        report["timing"] = {
            "stages": self.timing,
            "codecs": codec_seconds(self.views, facts),
            "blocks": sum(block["total"] for block in facts),
            "statistics": sum(block["gathering"] for block in facts),
        }
        return report | {"workers": self.config.workers}

    def _watch(self, *steps: Step) -> Watch:
        """Shows these steps on the terminal while they run."""
        stages = STAGES if self.inventory.packed_bytes else STAGES[1:]
        return Watch(self.scratch.progress, steps, 1 + stages.index(steps[0].stage), len(stages))

    def _to_do(self) -> tuple[int, int]:
        """Bytes of the blocks that are still to be encoded, and of those that are still to be joined to shards."""
        done = {(block["split"], block["block"]) for block in load_all(self.scratch.block_facts("train", 0).parent)}
        joined = {
            (split, shard)
            for split, layout in self.layouts.items()
            for shard in range(layout.shards)
            if self.scratch.shard_facts(split, shard).exists()
        }
        to_encode = to_join = 0
        for block in self.blocks:
            split, number = block["split"], block["block"]
            to_encode += block["bytes"] if (split, number) not in done else 0
            to_join += block["bytes"] if (split, self.layouts[split].shard_of(number)) not in joined else 0
        return to_encode, to_join

    def _took(self, watch: Watch, *sizes: int) -> None:
        """Note the time of each of a watch's steps, and the bytes that it went through."""
        for (stage, spent), size in zip(watch.seconds.items(), sizes, strict=True):
            self._note(stage, spent, size)

    def _note(self, stage: str, spent: float, size: int = 0) -> None:
        """Note a stage's time, also for a build that goes on from here."""
        self.timing[stage] = {"seconds": spent, "bytes": size}
        save_json(self.scratch.survey("timing"), self.timing)

    def _index_twins(self) -> None:
        """Choose a sample of val and index its lines for the workers."""
        share = min(1.0, SAMPLE / max(1, self.layouts["val"].documents))
        raws: list[bytes] = []
        for block in self.blocks:
            if block["split"] == "val":
                records = load_table(self.scratch.index("val", block["block"]))
                ids = (records[name].to_pylist() for name in ("id", "source_id"))
                for place, identity, source_id in zip(places(records), *ids, strict=True):
                    if keyed_hash("twins", self.config.seed, identity) < share * 2**64:
                        with contextlib.suppress(Changed):  # the encoding will leave it out, and say so
                            raws.append(read_stored(place, identity, source_id).raw)
        self.twin_sizes = [len(raw) for raw in raws]
        TwinIndex.of(raws).save(self.scratch.twins)

    def _twins(self, facts: list[dict[str, Any]]) -> dict[str, Any]:
        found = {number for block in facts for number in block["twins"]}
        size = sum(self.twin_sizes[number] for number in found)
        return {
            "sampled": len(self.twin_sizes),
            "found": len(found),
            "share": len(found) / max(1, len(self.twin_sizes)),
            "byte_share": size / max(1, sum(self.twin_sizes)),
        }

    def _reasons(self) -> dict[str, int]:
        """Documents left out, by reason, the most frequent first."""
        counts = merged(part["reasons"] for part in self.rejected)
        return dict(sorted(((r, c["documents"]) for r, c in counts.items()), key=lambda item: (-item[1], item[0])))

    def _warn(self) -> None:
        """Say which rules of cleaning kept nothing or left out nothing: the one is an error, the other may be."""
        seen = self.scratch.survey("seen")
        for line in unhelpful(load_json(seen) if seen.exists() else {}, self._reasons()):
            say(f"warning: {line}")

    def _run(self, fill: Any, workers: int) -> None:
        run_graph(fill, self.scratch, self.config.runner, workers, self.config.beam_args)


def _block(facts: Mapping[str, Any]) -> tuple[str, int]:
    return facts["split"], facts["block"]


def default_out(corpus: str) -> Path:
    """data/<name of the first corpus>."""
    if corpus.startswith(SCHEME):
        corpus = corpus.removeprefix(SCHEME).rpartition("@")[0]
    name = corpus.partition("?")[0].rstrip("/").rpartition("/")[2] if is_remote(corpus) else Path(corpus).resolve().name
    return Path("data") / (stem_of(name) or "corpus")
