"""The command line: `python -m pipeline build CORPUS`."""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cleaning.options import add_flags, parse_cleaning, print_rules
from pipeline.flags import fault_flags, input_flags, reuse_flags, smaller_flags, workers
from pipeline.set_commands import add_commands, run_command
from shards.cli import run
from shards.errors import ByteproxyError
from shards.store import is_remote

DESCRIPTION = """\
Build a shard set from a corpus of source code: read, leave out duplicates and what is not code, split into train and
val, encode every view, check that each decodes to the very bytes, and write shards that a trainer can map.

CORPUS is one or more of these, separated by commas:
  a folder          every file below it is a document; symlinks are never followed; folders of version control and
                    caches (.git, __pycache__, ...) are not entered, and nothing in them is counted
  FILE.jsonl        a document a line, its text under "text" or "content"; path, language, licence (license) and
                    source (repo_name) are kept; FILE.jsonl.gz (.zst, .bz2, .xz) is unpacked into OUT/.build
  FILE.parquet      a document a row, its text or bytes in --content-column; The Stack, StarCoder data and the like are
                    known by their columns' names; lists of licences are joined
  FILE.tar FILE.zip an archive (also .tar.gz, .tar.bz2, .tar.xz, .tar.zst and their short names, .whl, .jar): every file
                    in it is a document. Nothing is ever written under a name from an archive, links are not followed,
                    and archives within it are not opened
  git:FOLDER@COMMIT a git repository: every file of the commit's tree (a hash, tag, branch or HEAD), read from its
                    objects without checkout, hooks, configuration or network; submodules and symlinks are not followed
  'data/*.jsonl'    a pattern
  s3://… gs://…     an object or all below a name, in a store; credentials from the environment
"""
EXAMPLES = """\
examples:
  python -m pipeline build ~/src/linux --out data/linux
  python -m pipeline build code.jsonl.gz,~/src/cpython --views "sentencepiece:vocab=32768 gzip" --workers 8
  python -m pipeline build ~/src --sample-rate 0.01 --limit 10000
  python -m pipeline build ~/src --workers 8 --dry-run
  python -m pipeline build ~/src --languages "python c" --exclude vendor --exclude '*_pb2.py'
  python -m pipeline build more.jsonl --out data/more --codecs-from data/linux
  python -m pipeline build ~/src --clean --rule longest-line=500 --no-rule bytes
  python -m pipeline build code.jsonl.gz --clean --licences "permissive none"

A build that was stopped goes on when it is started again. A set that is there already is left alone.
The view neural is encoded on a CUDA device where there is one, to the same symbols; the environment's
BYTEPROXY_DEVICE=cpu keeps it on the CPU, cuda:1 names a device.
Workers of another environment on this machine: start `python -m pipeline.worker pool 50000` there, and build with
--runner PortableRunner --job_endpoint=embed --environment_type=EXTERNAL --environment_config=localhost:50000
Further flags (--region=..., --temp_location=...) go to Beam, for runners that need them.
"""


def parser() -> argparse.ArgumentParser:
    """The flags of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m pipeline", description="From a corpus to a shard set.", allow_abbrev=False
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("rules", help="show the rules of cleaning: what they measure, limits, where published")
    commands.add_parser("codecs", help="show the codecs that views are made by, with their options")
    _report_command(commands)
    flags = commands.add_parser(
        "build",
        help="build a shard set from a corpus",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = flags.add_argument
    add("corpus", metavar="CORPUS[,more]", help="what to read")
    add("--out", metavar="DIR", help="where the set goes: a folder, or s3://… or gs://… (default: data/<corpus name>)")
    add(
        "--views",
        default="",
        metavar='"A B"',
        help="compressed views, each [NAME=]CODEC[:OPTION=VALUE,...], as `python -m pipeline codecs` shows (default: "
        '"sentencepiece gzip zstd brotli")',
    )
    reuse_flags(add)
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes (default: the CPUs that are free to us); changes no byte of the set",
    )
    add(
        "--runner",
        default="LocalRunner",
        metavar="NAME",
        help="LocalRunner, DataflowRunner, PortableRunner, FlinkRunner, SparkRunner (default: LocalRunner, here)",
    )
    add(
        "--languages",
        default="",
        metavar='"A B"',
        help="keep only these (default: programming and markup languages, not data)",
    )
    add(
        "--exclude",
        action="append",
        default=[],
        metavar="GLOB",
        help="names, or with a slash paths, of files and folders that do not count; may be repeated",
    )
    add("--max-bytes", default="16M", metavar="SIZE", help="larger documents are left out (default: 16M)")
    add("--keep-binary", action="store_true", help="keep documents with a NUL among the first 8000 bytes")
    add(
        "--val-fraction",
        type=float,
        default=0.02,
        metavar="F",
        help="share of bytes set aside, 0.005 to 0.05 (default: 0.02)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the split and of all samples (default: 0)")
    add("--sample-bytes", default="10M", metavar="SIZE", help="text that codecs are fitted on (default: 10M)")
    add("--shard-bytes", default="128M", metavar="SIZE", help="text a shard file (default: 128M)")
    add("--row-group-bytes", default="128M", metavar="SIZE", help="values a row group (default: 128M)")
    add(
        "--block-bytes",
        default="8M",
        metavar="SIZE",
        help="text a worker encodes at a time (default: 8M); changes no byte of the set",
    )
    input_flags(add)
    fault_flags(add)
    smaller_flags(add)
    add(
        "--check",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of documents decoded and compared (default: 1.0, all)",
    )
    add_flags(flags)
    add_commands(commands)
    return top


def _print_codecs() -> int:
    from shards.codecs import described

    print(f"A view is [NAME=]CODEC[:OPTION=VALUE,...], as in small=sentencepiece:vocab=4096. Codecs:\n\n{described()}")
    return 0


def _report_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command that shows a set's report."""
    from pipeline.reporting.report_fields import FIELDS

    about = "Write SET/report.html and SET/README.md anew, from SET/report.json alone. report.html opens in a browser."
    keys = "report.json has these keys (*: any name, []: each of a list):\n" + "".join(
        f"  {name}\n      {meaning}\n" for name, meaning in FIELDS.items()
    )
    report = commands.add_parser(
        "report",
        help="write a set's report.html and README.md anew, from its report.json; --help has the meaning of its keys",
        description=about,
        epilog=keys,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    report.add_argument("set", metavar="SET", help="a finished set: a folder, or s3://… or gs://…")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run. Beam is imported only once the command line makes sense."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.getLogger().setLevel(logging.ERROR)  # importing Beam warns of what we do not use
    top = parser()
    flags, others = top.parse_known_args(given)
    if flags.command in ("rules", "codecs"):
        if others:
            raise ByteproxyError(f"{flags.command} takes no arguments, {others[0]!r} found")
        return print_rules() if flags.command == "rules" else _print_codecs()
    if flags.command == "report":
        from pipeline.reporting.render import render
        from pipeline.running.storage import location

        if others:
            raise ByteproxyError(f"report takes one set, {others[0]!r} found as well")
        return render(location(flags.set))
    if flags.command != "build":
        return run_command(flags, others, _flags_of(top, flags.command))
    from pipeline.config import DEFAULT_VIEWS, BuildConfig, parse_bytes
    from pipeline.reading.languages import parse_languages
    from pipeline.reuse.codecs_from import choose_views
    from pipeline.running.storage import location

    whole = os.path.exists(flags.corpus)  # noqa: PTH110 - of a long list, too long for a path, Path.exists raises
    names = [flags.corpus] if whole else flags.corpus.split(",")
    corpus = tuple(name if is_remote(name) else str(Path(name).expanduser()) for name in names if name)
    if not corpus:
        raise ByteproxyError("no corpus given: name a folder or a JSONL file")
    languages = flags.languages.replace(",", " ").split()
    if others:
        _check_beam_flags(others, top)
    from pipeline.build import build, default_out

    chosen = choose_views(flags.views or ("" if flags.codecs_from else DEFAULT_VIEWS), flags.codecs_from)
    config = BuildConfig(
        corpus=corpus,
        out=location(flags.out) if flags.out is not None else default_out(corpus[0]),
        views=chosen.views,
        codecs=chosen.codecs,
        codecs_from=flags.codecs_from,
        fingerprint=flags.fingerprint,
        languages=parse_languages(languages),
        exclude=tuple(sorted(set(flags.exclude))),
        max_bytes=parse_bytes(flags.max_bytes),
        keep_binary=flags.keep_binary,
        max_expansion=flags.max_expansion,
        strict=flags.strict,
        content_column=flags.content_column,
        detect_language=flags.detect_language,
        val_fraction=flags.val_fraction,
        seed=flags.seed,
        shard_bytes=parse_bytes(flags.shard_bytes),
        row_group_bytes=parse_bytes(flags.row_group_bytes),
        sample_bytes=parse_bytes(flags.sample_bytes),
        sample_rate=flags.sample_rate,
        limit=flags.limit,
        narrowed=bool(languages),
        cleaning=parse_cleaning(flags),
        block_bytes=parse_bytes(flags.block_bytes),
        check=flags.check,
        workers=workers(flags.workers),
        runner=flags.runner,
        beam_args=tuple(others),
    )
    if flags.dry_run:
        from pipeline.dryrun import dry_run

        return dry_run(config, flags.price_per_hour)
    if flags.price_per_hour is not None:
        raise ByteproxyError("--price-per-hour is for --dry-run")
    return build(config)


def _flags_of(top: argparse.ArgumentParser, command: str) -> set[str]:
    """The flags of a command."""
    commands = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    return set(commands.choices[command]._option_string_actions)


def _check_beam_flags(others: Sequence[str], top: argparse.ArgumentParser) -> None:
    """Beam only warns of a flag that it does not know. Raises ByteproxyError, with the nearest name that exists."""
    from apache_beam.options.pipeline_options import PipelineOptions

    beam = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        add = getattr(options, "_add_argparse_args", None)
        if add is not None:
            add(beam)
    known = set(beam._option_string_actions)
    expected = sorted(known | _flags_of(top, "build"))
    for flag in others:
        name = flag.partition("=")[0]
        if name.startswith("--") and name not in known:
            near = difflib.get_close_matches(name, expected, 1)
            raise ByteproxyError(f"no flag {name}{f'; did you mean {near[0]}?' if near else ''} See --help")
        if not name.startswith("-") and not _is_value(flag, others):
            raise ByteproxyError(f"unexpected argument {flag!r}: separate several corpora by commas")


def _is_value(word: str, words: Sequence[str]) -> bool:
    """Is this word the value of the flag before it?"""
    before = words[words.index(word) - 1] if words.index(word) else ""
    return before.startswith("--") and "=" not in before


def entry() -> None:
    """The installed command."""
    run(main)


if __name__ == "__main__":
    entry()
