"""The verb `report`: curves of one run or several in one page and one picture."""

from pathlib import Path

from shards.errors import ByteproxyError
from shards.manifest import write_atomically
from trainer.flags import parse_options

USAGE = """usage: python -m trainer report RUN [RUN …] [--out FOLDER] [--no-png]

Draw the curves of a run, or of several in one picture: loss by view, and raw bits per byte in training and on held-out
documents against steps, symbols, bytes and FLOPs. Writes report.html (one file, opens offline) and report.png into the
run's folder, or with several runs into the folder that the first lies in. A run that goes on can be drawn too.

  python -m trainer report runs/stdlib-demo
  python -m trainer report runs/bytes-25m runs/src-25m --out runs/bytes-against-proxy
"""


def main(arguments: list[str]) -> int:
    """Read, draw, write, say where."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    count = next((i for i, text in enumerate(arguments) if text.startswith("--")), len(arguments))
    folders = [Path(text) for text in arguments[:count]]
    options = parse_options(arguments[count:], {"out": "", "png": True})
    if not folders:
        raise ByteproxyError("the folder of a run expected, or several; for instance: report runs/stdlib-demo")
    from trainer.curves import panels, read_run, summary
    from trainer.page import html

    runs = [read_run(folder) for folder in folders]
    out = Path(options["out"]) if options["out"] else folders[0] if len(folders) == 1 else folders[0].resolve().parent
    out.mkdir(parents=True, exist_ok=True)
    title, drawn = ", ".join(run.name for run in runs), panels(runs)
    write_atomically(out / "report.html", html(title, summary(runs), drawn).encode())
    print(out / "report.html")
    if options["png"]:
        from trainer.picture import png

        write_atomically(out / "report.png", png(title, drawn))
        print(out / "report.png")
    return 0
