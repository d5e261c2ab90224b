"""The commands that work on sets that are there: `python -m pipeline add-view`, `merge`, `stability`."""

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence

from pipeline.flags import workers
from shards.errors import ByteproxyError
from shards.store import local_folder

ADD_VIEW = """\
Add a view to a set that is there, reading the set only: the corpus is not needed. Documents, their order and their
other views stay as they are, to the bit; every new value is decoded and compared, as in a build.

A Parquet file takes no new columns, so every shard is written again under a new name (shard-00000-of-00012-g2.parquet);
then the manifest is swapped in one step. Runs that have the set open go on undisturbed with the former files; runs that
start later, or resume, find the new view. The former files stay, and take their room, until --prune removes them: give
it when no run has the set open any more, for a run opens a file only when it comes to it.

A codec that learns is fitted on train documents of the set, chosen like those of a build: the same keyed draws, the
same quota of each language, with the seed and the --sample-bytes of the build where the set names them. So the set is
the same as if it had been built with the view, but for the names of its files. Where documents were left out or joined
since (merge), the sample is that of the documents that are there.
"""
ADD_VIEW_EXAMPLES = """\
examples:
  python -m pipeline add-view data/linux --view brotli9=brotli:level=9
  python -m pipeline add-view data/linux --view "small=sentencepiece:vocab=4096" --view zstd:dictionary=112K
  python -m pipeline add-view data/more --view sentencepiece --codecs-from data/linux     one alphabet for both
  python -m pipeline add-view data/linux --prune                                          remove what is not needed

A run that was stopped goes on when it is started again; the set is as it was until the last step. A view that is there
already is left alone. The view neural is encoded on a CUDA device where there is one, to the same symbols; the
environment's BYTEPROXY_DEVICE=cpu keeps it on the CPU, cuda:1 names a device.
"""


MERGE = """\
Join sets into one. Their views must come from the same codecs (see build --codecs-from, add-view --codecs-from).

Each document stays in the split that it was in. Of documents that are in several sets one stays, the others go to
rejected/: copies in train of a document that is in val of another set, so that val stays unseen; of the rest all but
the first by source and path. So found = kept + rejected, summed over the sets. Rows are sorted by id and cut into
shards as in a build; the order in which the sets are named changes no byte. The sets themselves are only read.
"""
MERGE_EXAMPLES = """\
examples:
  python -m pipeline merge data/linux data/more --out data/both
  python -m pipeline merge data/* --out data/all --shard-bytes 512M

A run that was stopped goes on when it is started again. To mix sets without joining them: python -m trainer train
--shards data/linux:0.7,data/more:0.3
"""


STABILITY = """\
Edit held-out documents of a set a little and see how much of each view changes: single bytes deleted, inserted,
substituted, identifiers renamed, lines indented, 1% to 10% of the bytes touched. A view of which a small edit changes
everything behind it, as of gzip, says little of the text to a model; see README.md.

Prints a table, and writes it with a picture into SET/report.json, report.html and README.md. Documents of val of 256
bytes to 16 KiB are taken, by keyed hash: the same seed, the same figures, on any number of workers.
"""
STABILITY_EXAMPLES = """\
examples:
  python -m pipeline stability data/linux
  python -m pipeline stability data/linux --views "sentencepiece gzip" --documents 500
"""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add these commands to the command line."""
    add = _command(commands, "add-view", "add a view to a set, reading the set only", ADD_VIEW, ADD_VIEW_EXAMPLES)
    add("set", metavar="SET", type=local_folder, help="the folder of a shard set")
    add(
        "--view",
        action="append",
        default=[],
        metavar="VIEW",
        help="[NAME=]CODEC[:OPTION=VALUE,...], see `codecs`; may be repeated, or hold several, separated by blanks",
    )
    add(
        "--codecs-from",
        default="",
        metavar="SET",
        help="take the codecs of these views from another set (folder or URL) instead of fitting them",
    )
    add(
        "--sample-bytes",
        metavar="SIZE",
        help="text that codecs are fitted on (default: as the set was built with, else 10M)",
    )
    add("--prune", action="store_true", help="at the end, remove shards and codecs that the manifest no longer names")
    add(
        "--check",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of documents decoded and compared (default: 1.0, all)",
    )
    _running(add)
    add = _command(commands, "merge", "join sets that have the same codecs", MERGE, MERGE_EXAMPLES)
    add("sets", metavar="SET", type=local_folder, nargs="+", help="folders of shard sets")
    add("--out", metavar="DIR", type=local_folder, required=True, help="where the joined set goes: a folder")
    for name, what in (("shard", "text a shard file"), ("row-group", "values a row group")):
        add(f"--{name}-bytes", metavar="SIZE", help=f"{what} (default: as the sets were built with, the largest)")
    _running(add)

    add = _command(commands, "stability", "how much of a view a small edit changes", STABILITY, STABILITY_EXAMPLES)
    add("set", metavar="SET", type=local_folder, help="the folder of a shard set")
    add("--views", default="", metavar='"A B"', help="of its views these (default: all)")
    add("--documents", type=int, default=200, metavar="N", help="documents to edit (default: 200)")
    add("--seed", type=int, default=0, metavar="N", help="of the choice and the edits (default: 0)")
    add("--workers", type=int, metavar="N", help="processes (default: the CPUs that are free to us)")


def run_command(flags: argparse.Namespace, others: Sequence[str], known: Iterable[str]) -> int:
    """Do what one of these commands was asked for. `others` is what it does not know, `known` its flags."""
    for word in others:
        near = difflib.get_close_matches(word.partition("=")[0], sorted(known), 1)
        hint = f"; did you mean {near[0]}?" if near and word.startswith("-") else f": see {flags.command} --help"
        raise ByteproxyError(f"{'no flag' if word.startswith('-') else 'unexpected argument'} {word}{hint}")
    run = {"merge": _merge, "stability": _stability, "add-view": _add_view}[flags.command]
    return run(flags)


def _stability(flags: argparse.Namespace) -> int:
    from pipeline.stability.command import stability

    for name in ("documents", "workers"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            raise ByteproxyError(f"--{name}: {getattr(flags, name)} found, 1 or more expected")
    return stability(flags.set, flags.views.split(), flags.documents, flags.seed, workers(flags.workers))


def _merge(flags: argparse.Namespace) -> int:
    from pipeline.config import parse_bytes
    from pipeline.reuse.merge import MergeConfig, merge

    return merge(
        MergeConfig(
            sets=tuple(flags.sets),
            out=flags.out,
            shard_bytes=parse_bytes(flags.shard_bytes) if flags.shard_bytes else None,
            row_group_bytes=parse_bytes(flags.row_group_bytes) if flags.row_group_bytes else None,
            block_bytes=parse_bytes(flags.block_bytes),
            workers=workers(flags.workers),
        )
    )


def _add_view(flags: argparse.Namespace) -> int:
    from pipeline.config import parse_bytes
    from pipeline.reuse.add_view import AddConfig, add_view
    from pipeline.reuse.codecs_from import Chosen, choose_views

    text = " ".join(flags.view)
    if not text.strip() and not flags.prune:
        raise ByteproxyError("no view asked for: give --view, as in --view brotli9=brotli:level=9 (or --prune)")
    chosen = choose_views(text, flags.codecs_from) if text.strip() else Chosen((), ())
    config = AddConfig(
        folder=flags.set,
        views=chosen.views,
        codecs=chosen.codecs,
        codecs_from=flags.codecs_from,
        sample_bytes=parse_bytes(flags.sample_bytes) if flags.sample_bytes else None,
        block_bytes=parse_bytes(flags.block_bytes),
        check=flags.check,
        workers=workers(flags.workers),
        prune=flags.prune,
    )
    return add_view(config)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, line: str, text: str, examples: str
) -> Callable[..., object]:
    return commands.add_parser(
        name,
        help=line,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    ).add_argument


def _running(add: Callable[..., object]) -> None:
    """How it is run; none of it changes a byte of the set."""
    add("--workers", type=int, metavar="N", help="processes (default: the CPUs that are free to us)")
    add("--block-bytes", default="8M", metavar="SIZE", help="text a worker takes at a time (default: 8M)")
