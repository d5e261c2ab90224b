"""report.html: opens alone, shows what the report says, and nothing that a corpus calls itself becomes markup."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import main
from pipeline.reporting.charts import Series, columns, meter, share_bar
from pipeline.reporting.figures import printable
from pipeline.reporting.page import clusters_by_size, page
from tests.pipeline.conftest import run_build

HOSTILE = "</code></style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"' {{ 7*7 }} \u202e\n\0&amp;"
# fmt: off
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "section", "div", "span", "h1", "h2", "h3", "p",
    "b", "i", "code", "pre", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "details", "summary",
    "figure", "figcaption", "svg", "text", "rect", "line", "circle",
}
# fmt: on


class Outline(HTMLParser):
    """A page's tags, attributes and visible text; what is opened must be closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""


def assert_harmless(html: str) -> Outline:
    outline = Outline(html)
    found = {tag for tag, _ in outline.tags}
    assert found <= ALLOWED, found - ALLOWED
    attributes = {name for _, attrs in outline.tags for name in attrs}
    assert not {name for name in attributes if name.startswith("on")} | (attributes & {"src", "href", "xlink:href"})
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style and "//" not in style
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", html)
    assert all(c.isprintable() or c == "\n" for c in html)
    return outline


def poisoned(value: Any) -> Any:
    """The report with something hostile in every string, and in every name that is not a fixed key."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return {key: poisoned(item) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.fixture(scope="session")
def report(built: Path) -> dict[str, Any]:
    return json.loads((built / "report.json").read_text())


def test_the_page_stands_alone_and_names_every_language_view_and_reason(built: Path, report: dict[str, Any]) -> None:
    outline = assert_harmless((built / "report.html").read_text())
    for key in ("languages", "views", "rejected", "libraries", "splits", "licences"):
        for name in report[key]:
            assert name in outline.text, (key, name)
    for facts in report["rejected"].values():
        for example in facts["examples"]:
            assert printable(example["path"]) in outline.text
    assert f"{report['counts']['documents']:,}" in outline.text and report["command"] in outline.text


def test_nothing_that_a_report_holds_can_become_markup(report: dict[str, Any]) -> None:
    hostile = poisoned(copy.deepcopy(report))
    for key in ("languages", "licences", "rejected", "libraries", "stages", "views"):
        hostile[key] = {name + HOSTILE: facts for name, facts in hostile[key].items()}
    names = list(hostile["views"])
    for facts in hostile["languages"].values():
        facts["views"] = dict(zip(names, facts["views"].values(), strict=True))
    for split in hostile["splits"].values():
        split["lengths"] = dict(zip(["raw", *names], split["lengths"].values(), strict=True))
    hostile["scrubbed"] = {HOSTILE: {"documents": 1, "places": 2}}
    for facts in hostile["rejected"].values():
        facts["values"] = {HOSTILE: 3}
    hostile["config"] = {key + HOSTILE: value for key, value in hostile["config"].items()}
    hostile["timing"]["codecs"] = {key + HOSTILE: value for key, value in hostile["timing"]["codecs"].items()}
    outline = assert_harmless(page(hostile))
    assert outline.text.count("<script>alert(1)</script>") > 30 and "49" not in outline.text.split("{{ 7*7")[0][-5:]
    assert "{{ 7*7 }}" in outline.text


def test_a_corpus_whose_files_are_called_like_scripts_has_a_harmless_page(code: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "<b onclick=alert(1)>"
    shutil.copytree(code, corpus)
    inside = corpus / "<script>alert(1)<"
    inside.mkdir()
    (inside / "script>.bin").write_bytes(b"\0")
    shutil.copy(code / "json" / "decoder.py", inside / "script>.py")
    (corpus / 'x"onload="alert(1).py').write_bytes(b"\0\0")
    (corpus / "\u202egnp.py").write_bytes(b"\0")
    assert run_build(corpus, tmp_path / "set") == 0
    outline = assert_harmless((tmp_path / "set" / "report.html").read_text())
    assert "<script>alert(1)</script>.bin" in outline.text and "<b onclick=alert(1)>" in outline.text
    assert "\\u202egnp.py" in outline.text


def test_page_and_card_are_made_anew_from_report_json_alone(built: Path, tmp_path: Path) -> None:
    shutil.copy(built / "report.json", tmp_path / "report.json")
    assert main(["report", str(tmp_path)]) == 0
    for name in ("report.html", "README.md"):
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes()


def test_a_set_without_a_report_of_this_format_is_one_error(tmp_path: Path, fails_with: Callable[..., str]) -> None:
    assert "report.json: No such file" in fails_with("report", str(tmp_path))
    (tmp_path / "report.json").write_text("{")
    assert "damaged" in fails_with("report", str(tmp_path))
    (tmp_path / "report.json").write_text('{"identity": "x"}')
    assert "format None found, 'byteproxy-report/1' expected" in fails_with("report", str(tmp_path))
    assert "report takes one set" in fails_with("report", str(tmp_path), "more")


def test_clusters_of_near_duplicates_are_shown_by_their_sizes(report: dict[str, Any]) -> None:
    assert "Near-duplicates" not in Outline(page(report | {"near_duplicates": {"clusters": {}}})).text
    found = report | {"near_duplicates": {"clusters": {"2": 10, "3": 4, "5": 2, "1000": 1}}}
    assert clusters_by_size(found) == [("2 to 3", 14, 18), ("4 to 7", 2, 8), ("512 to 1,023", 1, 999)]
    text = Outline(page(found)).text
    assert "Near-duplicates" in text and "512 to 1,023" in text


def heights(svg: str, colour: str) -> list[float]:
    return [float(h) for h in re.findall(rf'<rect class="{colour}"[^>]* height="([\d.]+)"', svg)]


def test_columns_are_as_high_as_the_counts_and_stand_on_each_other() -> None:
    svg = str(columns([Series("a", [0, 100, 50, 0, 25]), Series("b", [0, 0, 25])], "bytes"))
    a, b = heights(svg, "c0"), heights(svg, "c1")
    assert [h / a[0] for h in a] == pytest.approx([1, 0.5, 0.25]) and b == pytest.approx([a[0] / 4])
    tops = [float(y) for y in re.findall(r'<rect class="c1"[^>]* y="([\d.]+)"', svg)]
    below = [float(y) for y in re.findall(r'<rect class="c0"[^>]* y="([\d.]+)"', svg)]
    assert tops[0] + b[0] == pytest.approx(below[1])
    assert ">a, 1 bytes: 100 documents<" in svg and ">b, 2 to 4 bytes: 25 documents<" in svg


@pytest.mark.parametrize("bins", [[], [0], [1], [0, 0, 9], [3] * 40, [10**7, 1]])
def test_any_histogram_can_be_drawn(bins: list[int]) -> None:
    Outline(f"<div>{columns([Series('a', bins)], 'bytes')}</div>")


def test_bars_fill_their_shares() -> None:
    widths = [float(w) for w in re.findall(r'width="([\d.]+)%" height="26">', str(share_bar([("a", 1), ("b", 3)])))]
    assert widths == [25, 75]
    assert re.findall(r'width="([\d.]+)%" height="12"/', str(meter([1, 1], 4))) == ["25.000", "25.000"]
    assert "nan" not in str(meter([0], 0)) and "nan" not in str(share_bar([("a", 0)]))
