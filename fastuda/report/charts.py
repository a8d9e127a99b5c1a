"""Line charts as inline SVG: no library, no script, readable in a browser, a mail and a printout."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from fastuda.report.html import Html, join, tag

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 30, 24  # margins around the plot
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17a2b8", "#8c564b", "#e377c2", "#7f7f7f", "#a0a000")
MOST_POINTS = 300  # of a line; more are averaged, since a screen shows no more


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers in [low, high], about ``wanted`` of them, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float, digits: int = 4) -> str:
    """A number in few characters."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return re.sub(r"\.?0*e([+-])0*", r"e\1", f"{value:.{digits - 1}e}").replace("e+", "e")
    return f"{value:.{digits}g}"


def labels(values: Sequence[float]) -> list[str]:
    """Numbers for an axis, with as many digits as make them differ."""
    found: list[str] = []
    for digits in range(3, 12):
        found = [label(value, digits) for value in values]
        if len(set(found)) == len(set(values)):
            break
    return found


def thinned(points: Points) -> list[tuple[float, float]]:
    """The finite points, averaged in groups where there are more than a screen shows."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    group = -(-len(finite) // MOST_POINTS)
    if group <= 1:
        return finite
    parts = [finite[start : start + group] for start in range(0, len(finite), group)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def line_chart(
    title: str, lines: Mapping[str, Points], marks: Sequence[tuple[float, str]] = (), dots: bool = False
) -> Html:
    """A chart of named lines; nothing where no line has a finite point.

    marks: (x, name) of the vertical lines where stages end.  dots: show each point, for lines with few of them.
    """
    drawn = {name: found for name, points in lines.items() if (found := thinned(points))}
    if not drawn:
        return Html("")
    every = [point for points in drawn.values() for point in points]
    x_low, x_high = min(min(x for x, _ in every), 0), max(x for x, _ in every)
    x_high = max([x_high, *(x for x, _ in marks)])
    y_low, y_high = min(y for _, y in every), max(y for _, y in every)
    if y_high - y_low < 1e-9 * max(abs(y_high), 1e-12):
        y_low, y_high = y_low - (abs(y_low) or 1) * 0.1, y_high + (abs(y_high) or 1) * 0.1
    place = _Scale(x_low, x_high if x_high > x_low else x_low + 1, y_low, y_high)
    parts = [tag("title", title), *_axes(place), *_marks(place, marks)]
    for number, (name, points) in enumerate(drawn.items()):
        parts += _line(place, name, points, COLOURS[number % len(COLOURS)], dots)
    parts.append(tag("text", title, x=LEFT, y=16, class_="name"))
    if len(drawn) > 1:
        parts += _names(list(drawn))
    extra = 14 * -(-len(drawn) // 2) if len(drawn) > 1 else 0
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT + extra}", role="img")


class _Scale:
    """From values to places on the drawing."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_low, self.x_high, self.y_low, self.y_high = x_low, x_high, y_low, y_high

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _axes(place: _Scale) -> list[Html]:
    parts = []
    rows, columns = ticks(place.y_low, place.y_high), ticks(place.x_low, place.x_high)
    for value, shown in zip(rows, labels(rows), strict=True):
        y = place.y(value)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", shown, x=LEFT - 5, y=y + 4, text_anchor="end"))
    for value, shown in zip(columns, labels(columns), strict=True):
        parts.append(tag("text", shown, x=place.x(value), y=HEIGHT - BOTTOM + 15, text_anchor="middle"))
    return parts


def _marks(place: _Scale, marks: Sequence[tuple[float, str]]) -> list[Html]:
    return [
        tag(
            "line",
            tag("title", f"end of {name}"),
            x1=place.x(x),
            x2=place.x(x),
            y1=TOP,
            y2=HEIGHT - BOTTOM,
            class_="stage",
        )
        for x, name in marks
    ]


def _line(place: _Scale, name: str, points: Points, colour: str, dots: bool) -> list[Html]:
    where = [(place.x(x), place.y(y)) for x, y in points]
    path = " ".join(f"{x},{y}" for x, y in where)
    parts = [tag("polyline", points=path, fill="none", stroke=colour, stroke_width=1.5)] if len(where) > 1 else []
    if dots or len(where) == 1:
        for (x, y), (step, value) in zip(where, points, strict=True):
            about = tag("title", f"{name}: {label(value)} at {label(step)}")
            parts.append(tag("circle", about, cx=x, cy=y, r=3, fill=colour))
    return parts


def _names(names: Sequence[str]) -> list[Html]:
    """The lines' names below the plot, in two columns."""
    parts = []
    for number, name in enumerate(names):
        x, y = LEFT + (number % 2) * (WIDTH - LEFT) / 2, HEIGHT + 14 * (number // 2) + 4
        parts.append(tag("rect", x=x, y=y - 7, width=10, height=3, fill=COLOURS[number % len(COLOURS)]))
        parts.append(tag("text", name if len(name) <= 24 else f"{name[:23]}…", x=x + 14, y=y))
    return parts


def charts(drawn: Sequence[Html]) -> Html:
    """Charts side by side; nothing where all are empty."""
    shown = [tag("figure", chart) for chart in drawn if chart]
    return tag("div", join(shown), class_="charts") if shown else Html("")
