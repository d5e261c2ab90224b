"""`python -m trainer VERB`: train, evaluate, sample and more. Each has its --help, and loads torch only if it must."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from shards.cli import run
from shards.errors import ByteproxyError
from trainer import config as settings
from trainer.flags import describe_fields, parse_flags, parse_options, read_toml
from trainer.presets import PRESETS

USAGE = """usage: python -m trainer VERB [--key value …]

  train      train a model on a shard set, or continue a run
  evaluate   bits per byte of a run's model on held-out raw bytes, beside gzip, zstd, brotli, xz
  translate  how well a run's model writes raw bytes that it sees compressed
  sample     continue a prompt with a run's model
  export     write a run's model as a folder that transformers loads
  compress   compress a file with a run's model; decompress gets it back, bit for bit
  report     curves of one run or several, as HTML and PNG
  compare    train a plan of recipes, sizes and seeds at equal FLOPs; tables and pictures
  neural     train the byte LM of the neural codec, and write it as integers
  plan       show what a batch holds, without training

Each verb has its --help. A first run, on the CPU, with the newest set under data/:

  python -m trainer train
  python -m trainer sample --run runs/stdlib-demo --prompt "def "
"""

TRAIN = """usage: python -m trainer train [--config FILE.toml] [--key value …]

Settings come from the preset, over which go those of a TOML file, over which go the flags. The same command again
continues a run that was stopped; `--run RUN` alone is enough for that.

  python -m trainer train                                           the newest set under data/, preset demo
  python -m trainer train --shards data/stdlib --steps 200          a shorter run
  python -m trainer train --preset 25m --mode bytes --run runs/bytes-25m
  python -m trainer train --run runs/stdlib-demo                    continue
  torchrun --nproc-per-node 2 -m trainer -- train --run runs/two    on two processes, each with half of a batch's rows

Settings, with the values of preset {preset}:

{fields}

Presets: {presets}
"""

EVALUATE = """usage: python -m trainer evaluate --run RUN [--step N] [--shards DIR] [--split val] [--documents WHICH]
                                 [--overlap N] [--eval-bytes N] [--json]
       python -m trainer evaluate --run RUN [--step N] --as-compressor FILE [--lanes N] [--json]
       python -m trainer evaluate --run RUN [--step N] --view NAME [--json]

Bits per byte of a checkpoint (the latest, or that of step N) on raw documents of the set, in all and by language,
beside gzip -9, zstd -19, brotli -11 and xz -9e on exactly the same.

  --documents WHICH   a share by hash (0.1), ids with commas, or a file of ids, one a line; by default all
  --overlap N         bytes of a document that its next row repeats as context; by default half a row
  --eval-bytes N      stop after N bytes
  --as-compressor FILE  compress FILE with the model, decompress it in another process, compare: sizes and seconds
  --view NAME         read the documents as this compressed view instead: bits of its symbols per raw byte
  --json              one JSON object

  python -m trainer evaluate --run runs/stdlib-demo
  python -m trainer evaluate --run runs/stdlib-demo --as-compressor main.c
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Dispatch to a verb; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["--"]:  # under torchrun, whose own parser would else take --run for an option of its own
        del arguments[0]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    verb, rest = arguments[0], list(arguments[1:])
    if verb not in VERBS:
        raise ByteproxyError(f"verb {verb!r} is not known; one of {', '.join(VERBS)} expected")
    return VERBS[verb](rest)


def train(arguments: list[str]) -> int:
    """The verb `train`."""
    if {"-h", "--help"} & set(arguments):
        flags, _ = parse_flags([text for text in arguments if text not in ("-h", "--help")], ("config",))
        preset = settings.make_config({key: flags[key] for key in flags.keys() & {"preset"}})
        fields, presets = describe_fields(preset), ", ".join(PRESETS)
        print(TRAIN.format(preset=preset.preset, fields=fields, presets=presets), end="")
        return 0
    flags, others = parse_flags(arguments, ("config",))
    values = (read_toml(Path(others["config"])) if "config" in others else {}) | flags
    config = settings.make_config(values, _begun(Path(values["run"])) if values.get("run") else None)
    if not config.shards:
        config = settings.make_config({"shards": str(newest_set())}, config)
        print(f"shards: {config.shards} (the newest under data/)")
    if not config.run:
        config = _with_run(values, config, Path("runs") / f"{_name_of(config.shards)}-{config.preset}")
    from trainer.train import train as run_training

    return 128 + stopped if (stopped := run_training(config).get("signal")) else 0


def evaluate(arguments: list[str]) -> int:
    """The verb `evaluate`."""
    defaults = {"run": "", "step": -1, "shards": "", "split": "val", "documents": "", "overlap": -1, "eval_bytes": 0,
                "as_compressor": "", "lanes": 0, "view": "", "json": False}  # fmt: skip
    options = _options(arguments, EVALUATE, defaults)
    if options is None:
        return 0
    run, limit = Path(options["run"]), options["eval_bytes"]
    if options["as_compressor"]:
        from trainer.compress_cli import as_compressor, compressor_table

        body = as_compressor(Path(options["as_compressor"]), run, options["step"], options["lanes"])
        print(json.dumps(body) if options["json"] else compressor_table(body))
        return 0
    from shards.reader import ShardSet
    from trainer.baselines import rates, sizes
    from trainer.evaluate import by_language, choose_documents, language_table, score, table, views_of_run
    from trainer.load import load_model
    from trainer.mixture import parse_shards

    model, state, folder = load_model(run, options["step"], needs_raw=not options["view"])
    shard_set = ShardSet.open(parse_shards(options["shards"] or model.config.shards)[0][0])
    split = shard_set.split(options["split"])
    chosen = choose_documents(split, options["documents"])
    if options["view"]:
        views, stream = views_of_run(shard_set, state, options["view"])
        rows, context, overlap = model.config.pass_rows, model.config.context, options["overlap"]
        found = score(model, split, rows, context, limit, chosen, overlap, views, stream)
        body = {"checkpoint": str(folder), "step": state["step"], "split": options["split"], "view": options["view"]}
        body |= {"documents": found.documents, "bytes": found.bytes, "nats": found.nats, "bpb": found.bits_per_byte}
        text = f"{folder}\n{found.bits_per_byte:.3f} bits per raw byte, read as {options['view']}"
        print(json.dumps(body) if options["json"] else text)
        return 0
    found = score(model, split, model.config.pass_rows, model.config.context, limit, chosen, options["overlap"])
    sizes_D, total = sizes(split, limit, chosen)
    languages, others = by_language(split, found, sizes_D), rates(sizes_D, total)
    read = f"split {options['split']}, {found.documents} documents, {found.bytes / 1e6:.2f} MB"
    if options["json"]:
        body = {"checkpoint": str(folder), "step": state["step"], "split": options["split"]}
        body |= {"documents": found.documents, "bytes": found.bytes, "nats": found.nats, "raw_bpb": found.bits_per_byte}
        print(json.dumps(body | {"baselines": others, "languages": languages}))
    else:
        print(f"{folder}\n{table(found.bits_per_byte, others, read)}\n\n{language_table(languages)}")
    return 0


def sample(arguments: list[str]) -> int:
    """The verb `sample`."""
    from trainer.sample_cli import main as run_sample

    return run_sample(arguments, _no_run())


def translate(arguments: list[str]) -> int:
    """The verb `translate`."""
    from trainer.translate_cli import main as run_translate

    return run_translate(arguments, _no_run())


def neural(arguments: list[str]) -> int:
    """The verb `neural`."""
    from trainer.neural import main as make

    return make(arguments)


def plan(arguments: list[str]) -> int:
    """The verb `plan`, which needs no torch."""
    from trainer.plan_cli import main as show

    return show(arguments) or 0


def export(arguments: list[str]) -> int:
    """The verb `export`."""
    from trainer.export_cli import main as run_export

    return run_export(arguments)


def compress(arguments: list[str]) -> int:
    """The verb `compress`."""
    from trainer.compress_cli import compress as run_compress

    return run_compress(arguments)


def decompress(arguments: list[str]) -> int:
    """The verb `decompress`."""
    from trainer.compress_cli import decompress as run_decompress

    return run_decompress(arguments)


def report(arguments: list[str]) -> int:
    """The verb `report`, which needs no torch."""
    from trainer.report_cli import main as draw

    return draw(arguments)


def compare(arguments: list[str]) -> int:
    """The verb `compare`."""
    from trainer.compare.cli import main as run_compare

    return run_compare(arguments, newest_set)


def newest_set(data: Path = Path("data")) -> Path:
    """The set under data/ whose manifest is the youngest."""
    manifests = sorted(data.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        raise ByteproxyError(f"no shard set under {data}/: give --shards, or build one with `make shards CORPUS=…`")
    return manifests[-1].parent


def _name_of(shards: str) -> str:
    """What to call a run on these sets: the last parts of their places."""
    from shards.store import is_remote
    from trainer.mixture import parse_shards

    places = [location.partition("?")[0] for location, _ in parse_shards(shards)]
    return "+".join(Path(place).name if is_remote(place) else Path(place).resolve().name for place in places)


def _begun(run: Path) -> settings.Config | None:
    """The config of a run that has a checkpoint: what is not given anew stays as it was."""
    path = run / "config.json"
    if not path.exists() or not any((run / "checkpoints").glob("step_*")):
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_bytes())
        return settings.make_config({name: stored[name] for name in stored.keys() & settings.names()})
    except (ValueError, AttributeError):
        raise ByteproxyError(
            f"{path}: not a valid config; it is rewritten if you give --run and all settings anew"
        ) from None


def _with_run(values: dict[str, Any], config: settings.Config, folder: Path) -> settings.Config:
    base = _begun(folder)
    return settings.make_config(values | {"run": str(folder), "shards": config.shards}, base)


def _options(arguments: list[str], usage: str, defaults: dict[str, Any]) -> dict[str, Any] | None:
    """Flags of a small verb against their defaults; None after printing the usage."""
    if {"-h", "--help"} & set(arguments):
        print(usage, end="")
        return None
    options = parse_options(arguments, defaults)
    if not options["run"]:
        raise ByteproxyError(_no_run())
    return options


def _no_run() -> str:
    found = sorted(Path("runs").glob("*/checkpoints"), key=lambda path: path.stat().st_mtime)
    return "--run: the folder of a run expected" + (f", for instance --run {found[-1].parent}" if found else "")


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "evaluate": evaluate,
    "translate": translate,
    "sample": sample,
    "export": export,
    "compress": compress,
    "decompress": decompress,
    "report": report,
    "compare": compare,
    "neural": neural,
    "plan": plan,
}


def entry() -> NoReturn:
    """The installed command."""
    run(main)


if __name__ == "__main__":
    entry()
