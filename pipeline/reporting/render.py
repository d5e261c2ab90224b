"""What people read of a set, made of its report alone: report.html and README.md."""

from pipeline.reporting.card import card
from pipeline.reporting.page import page
from pipeline.reporting.report import CARD, PAGE, REPORT, Report, load_report, pretty
from pipeline.running.storage import Location, write_whole


def texts_of(report: Report) -> dict[str, str]:
    """The files that lie beside a set's manifest, by name."""
    return {REPORT: pretty(report), PAGE: page(report), CARD: card(report)}


def render(folder: Location) -> int:
    """The command `report`: write a set's report.html and README.md anew. Raises ByteproxyError without a report."""
    texts = texts_of(load_report(folder))
    for name in (PAGE, CARD):
        write_whole(folder / name, texts[name].encode())
        print(folder / name)
    return 0
