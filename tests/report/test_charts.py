"""Line charts: ticks, points that are not finite, many points, and where lines are drawn."""

from __future__ import annotations

import re

import pytest

from fastuda.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    label,
    labels,
    line_chart,
    thinned,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0, 1, [0, 0.5, 1]), (0, 40_000, [0, 10_000, 20_000, 30_000, 40_000]), (-3, 3, [-2, 0, 2]), (5, 5, [5])],
)
def test_ticks_are_round_and_inside(low, high, found):
    assert ticks(low, high) == pytest.approx(found)


def test_labels_are_short():
    assert [label(x) for x in (0, 0.25, 1234, 250_000, 0.00002)] == ["0", "0.25", "1234", "2.5e5", "2e-5"]
    assert labels([2.3921, 2.3922]) == ["2.3921", "2.3922"] and labels([0, 0.5]) == ["0", "0.5"]


def places(chart: str) -> list[tuple[float, float]]:
    points = re.search(r'points="([^"]*)"', chart)[1]
    return [tuple(map(float, point.split(","))) for point in points.split()]


def test_a_line_runs_from_corner_to_corner():
    chart = line_chart("loss", {"loss": [(0, 1.0), (50, 3.0), (100, 2.0)]})
    assert places(chart) == [
        (LEFT, HEIGHT - BOTTOM),
        (LEFT + (WIDTH - LEFT - RIGHT) / 2, TOP),
        (WIDTH - RIGHT, TOP + (HEIGHT - TOP - BOTTOM) / 2),
    ]


def test_what_is_not_finite_is_left_out():
    chart = line_chart("loss", {"loss": [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)]})
    assert len(places(chart)) == 2 and "nan" not in chart and "inf" not in chart
    assert line_chart("loss", {"loss": [(0, float("nan"))]}) == "" and line_chart("loss", {}) == ""


def test_a_constant_line_and_a_single_point_are_drawn():
    assert len(places(line_chart("a", {"a": [(0, 0.0), (1, 0.0)]}))) == 2
    assert line_chart("a", {"a": [(7, 0.5)]}).count("<circle") == 1


def test_many_points_are_averaged():
    points = [(float(x), float(x % 2)) for x in range(10 * MOST_POINTS)]
    found = thinned(points)
    assert len(found) == MOST_POINTS and found[-1][0] == points[-1][0]
    assert all(y == 0.5 for _, y in found)


def test_lines_are_named_and_stages_marked():
    chart = line_chart("two", {"a <b>": [(0, 1.0), (1, 2.0)], "c": [(0, 2.0), (1, 1.0)]}, [(1, "warm & up")])
    assert chart.count("<polyline") == 2 and "a &lt;b&gt;" in chart and "end of warm &amp; up" in chart
