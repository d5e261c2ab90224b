"""`python -m shards`: verify a set, or look into it."""

import argparse

from shards.cli import run
from shards.store import local_folder

_EPILOG = """examples:
  python -m shards verify data/stdlib                    check every byte, decode every lossless view
  python -m shards inspect data/stdlib                   splits, views, ratios, rejections
  python -m shards inspect data/stdlib --document 7      one document with its views side by side
"""


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and do what it says; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m shards",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{verify,inspect}")
    verify = verbs.add_parser("verify", help="check checksums, ids, anchors and digests; decode the lossless views")
    verify.add_argument("folder", type=local_folder, help="the folder of a shard set")
    verify.add_argument("--decode", type=float, default=1.0, metavar="SHARE", help="share of documents decoded (1.0)")
    inspect = verbs.add_parser("inspect", help="what is in a set, or one document with its views side by side")
    inspect.add_argument("folder", type=local_folder, help="the folder of a shard set")
    inspect.add_argument("--document", metavar="N|ID", help="a document's number or its id in hex")
    inspect.add_argument("--split", choices=("train", "val"), help="where to look for it (train; for an id: both)")
    options = parser.parse_args(argv)
    if options.verb == "verify":
        from shards.verify import verify as check

        return 1 if check(options.folder, options.decode) else 0
    from shards.inspect import document, summary

    print(document(options.folder, options.document, options.split) if options.document else summary(options.folder))
    return 0


def entry() -> None:
    """The console script."""
    run(main)


if __name__ == "__main__":
    entry()
