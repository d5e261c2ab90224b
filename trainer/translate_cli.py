"""The verb `translate`: how well a run's model turns a compressed view into raw bytes, in context."""

import json
from pathlib import Path
from typing import Any

from shards.errors import ByteproxyError
from trainer.flags import parse_options

USAGE = """usage: python -m trainer translate --run RUN [--view V] [--count N] [--seed S] [--step N] [--shards SET]
                                  [--json]

Show a run's model segments of held-out documents in a compressed view, and see whether it writes their raw bytes: each
as training shows a pair, compressed half first. Reported are the share of segments that greedy decoding gets right to
the last byte, the share of bytes before a first wrong one, and the bits per byte of the raw half, with the compressed
half before it and alone.

  --view V      the view, one with anchors that the run was trained on; by default its first such
  --count N     segments, by default 200: spans between anchors of at least 32 bytes, of documents drawn by --seed
  --step N      the checkpoint of step N, by default the latest
  --shards SET  another set with the same views; by default the run's
  --json        one JSON object

  python -m trainer translate --run runs/stdlib-demo
"""

DEFAULTS = {"run": "", "view": "", "count": 200, "seed": 0, "step": -1, "shards": "", "json": False}


def main(arguments: list[str], no_run: str) -> int:
    """Run the verb; returns the exit code. `no_run`: what to say where no run is named."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    options = parse_options(arguments, DEFAULTS)
    if not options["run"]:
        raise ByteproxyError(no_run)
    if options["count"] < 1:
        raise ByteproxyError(f"--count {options['count']}: at least 1 expected")
    body = translate_run(Path(options["run"]), options)
    print(json.dumps(body) if options["json"] else table(body))
    return 0


def translate_run(run: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run's model. Refuses a run that never read raw bytes, or none but these, and unknown views."""
    from shards.reader import ShardSet
    from trainer.evaluate import views_of_run
    from trainer.load import load_model
    from trainer.mixture import parse_shards
    from trainer.translate import translate

    model, state, folder = load_model(run, options["step"], needs_raw=True)
    if not state["views"][1:]:
        raise ByteproxyError(
            f"{run} was trained in mode {model.config.mode}, on raw bytes alone: it knows no compressed view to "
            "translate from. A run in mode proxy or parallel expected"
        )
    shard_set = ShardSet.open(parse_shards(options["shards"] or model.config.shards)[0][0])
    names = state["views"][1:]
    view = options["view"] or next((name for name in names if shard_set.view(name).anchor_gap is not None), names[0])
    views, stream = views_of_run(shard_set, state, view)
    found = translate(model, shard_set.split("val"), views, stream, options["count"], options["seed"])
    body = {"checkpoint": str(folder), "step": state["step"], "view": view, "seed": options["seed"]}
    return body | found.figures()


def table(body: dict[str, Any]) -> str:
    """The figures as text."""
    given, alone = body["bpb_given"], body["bpb_alone"]
    told = f"{alone:.3f} alone: the compressed half tells {alone - given:.3f}"
    return "\n".join([
        body["checkpoint"],
        f"{body['view']} into raw bytes, {body['segments']:,} held-out segments, {body['bytes']:,} bytes:",
        f"  right to the last byte       {body['exact_match']:7.1%}",
        f"  bytes before a first error   {body['bytes_right']:7.1%}",
        f"  bits per byte                {given:7.3f}   ({told})",
    ])  # fmt: skip
