"""The comparison's pictures: arms that share a mark are told apart, bars are the seeds' ranges, colours stay."""

import io
import itertools
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from trainer.compare.pictures import SPREAD, SPREAD_OF_CURVES, panels
from trainer.page import COLOURS, figure, html
from trainer.picture import png

ARMS = ["bytes", "proxy", "tokens", "gzip"]
MARKS = {"small": [5e8, 1.25e10], "large": [8e14]}
PARAMETERS = {"small": 430_000, "large": 1_770_000}


def comparison(arms: list[str], missing: str = "") -> dict[str, Any]:
    """As compare.json: the first two arms have two seeds, others one; tokens read no raw bytes."""
    groups = []
    for size, marks in MARKS.items():
        for mark in marks:
            for number, arm in enumerate(arm for arm in arms if arm != missing):
                seeds, bpb = [0, 1] if arm in arms[:2] else [0], 2.5 - 1e-16 * mark - 0.01 * number
                apart = 0.004 if len(seeds) > 1 else 0.0
                group = {"unit": "flops", "size": size, "mark": mark, "arm": arm, "bpb": bpb}
                group |= {"bpb_range": [bpb - apart, bpb + apart], "reads": "its view" if arm == "tokens" else "raw"}
                group |= {
                    "seeds": seeds,
                    "gap_seeds": seeds,
                    "gap_percent": -0.4 * number,
                    "gap_range": [-0.4 * number - apart, -0.4 * number + apart],
                }
                text = {"raw": mark / 1e3, "view": number * mark / 1e3}
                groups.append(group | {"body_parameters": PARAMETERS[size], "bytes_of_text": text})
    return {"arms": arms, "against": "bytes", "groups": groups}


def test_arms_at_the_same_mark_stand_apart_and_nearer_to_it_than_to_another() -> None:
    found = {panel.title: panel for panel in panels(comparison(ARMS)) if panel.title.endswith("equal training FLOPs")}
    curves, column = found.values()
    assert curves.ticks == [(0.0, "5e8"), (1.0, "1.25e10")] and column.ticks == [(0.0, "8e14")]
    for by_flops, spread in ((curves, SPREAD_OF_CURVES), (column, SPREAD)):
        assert len(by_flops.lines) == 4
        for mark in range(len(by_flops.ticks)):
            places = [line.xs[mark] for line in by_flops.lines]
            assert all(abs(place - mark) < spread / 2 < 0.5 for place in places)
            assert all(b - a == pytest.approx(spread / 4) for a, b in itertools.pairwise(places))


def test_text_seen_is_where_it_is_and_sizes_rise() -> None:
    found = panels(comparison(ARMS))
    assert [panel.title.partition(":")[0] for panel in found[:4]] == ["small", "small", "large", "large"]
    assert [line.xs for line in found[1].lines][1] == [1e6, 2.5e7]
    assert [name for _, name in found[-1].ticks] == ["small: 430k", "large: 1.8M"]
    x0, x1, y0, y1 = found[1].ranges()
    for line in found[1].lines:
        assert all(x0 < x < x1 for x in line.xs) and all(y0 < y < y1 for span in line.spans for y in span)


def test_the_gap_is_drawn_against_a_level_of_zero_and_of_each_arm_at_its_largest_mark_of_a_size() -> None:
    body = comparison(ARMS)
    (last,) = (g for g in body["groups"] if g["mark"] == 1.25e10 and g["arm"] == "gzip")
    body["groups"].remove(last)  # restricted to the smaller mark, it has a gap there
    gap = panels(body)[-1]
    assert [line.name for line in gap.lines] == ["proxy", "tokens (of its view)", "gzip"] and gap.rule == 0
    assert all(len(line.xs) == 2 for line in gap.lines) and gap.ranges()[2] < -1.2 and gap.ranges()[3] > 0
    assert gap.lines[0].ys == [-0.4, -0.4] and gap.lines[0].spans[0] == pytest.approx((-0.404, -0.396))
    assert 'class="rule"' in figure(gap, 0)


def test_an_arm_has_its_colour_in_every_panel_and_before_others_are_done() -> None:
    whole, partly = (
        {(line.name, line.colour, line.dashed) for panel in panels(body) for line in panel.lines}
        for body in (comparison(ARMS), comparison(ARMS, missing="proxy"))
    )
    assert len(whole) == len(ARMS) and partly == {line for line in whole if line[0] != "proxy"}
    assert {name for name, _, dashed in whole if dashed} == {"tokens (of its view)"}


def test_the_page_has_a_bar_for_each_group_of_seeds_and_hollow_dots_where_colours_begin_again() -> None:
    arms = [*ARMS, *(f"arm{number}" for number in range(len(COLOURS) - 2))]
    found = panels(comparison(arms))
    text = html("t", [], found)
    pictures = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg viewBox=\"0 0 5.*?</svg>", text, re.DOTALL)]
    assert len(pictures) == 5
    bars = [sum("bar" in path.get("class", "") for path in svg.iter("path")) for svg in pictures]
    assert bars == [4, 4, 2, 2, 2]  # two arms of two seeds, at two marks and at one; of the gap, one at each size
    hollow = [sum("--card" in dot.get("style", "") for dot in svg.iter("circle")) for svg in pictures]
    assert hollow == [4, 4, 2, 2, 4] and "over 2 seeds" in text and "one seed" in text


def test_values_that_are_all_alike_leave_the_axis_with_ticks_that_differ() -> None:
    body = comparison(["bytes"])
    body["groups"] = body["groups"][-1:]
    found = panels(body)
    assert len(found) == 2  # no gap without another arm
    for panel in found:
        _, _, y0, y1 = panel.ranges()
        assert y1 - y0 > 0.01
        labels = re.findall(r'text-anchor="end">([^<]*)<', figure(panel, 0))
        assert len(labels) > 1 and len(set(labels)) == len(labels)


def test_the_picture_is_1200_pixels_wide_and_the_same_again() -> None:
    from PIL import Image

    first, second = (png("t", panels(comparison(ARMS))) for _ in range(2))
    assert first == second and Image.open(io.BytesIO(first)).size[0] == 1200
