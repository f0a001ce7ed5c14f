"""Charts as inline SVG, each with its numbers as a table.

Series differ in colour, dash and marker, so that no colour needs to be told apart. Colours are
the style sheet's (``--series-1`` to ``--series-8``) and follow light and dark. A chart is drawn
at the width of a phone and scales up, never down to unreadable text.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 360
LEFT, RIGHT, TOP = 52, 12, 14
PLOT_HEIGHT = 180
LEGEND_ROW, LEGEND_LEFT = 20, 8.0
COLOURS = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4")
MOST_MARKERS = 25
LONGEST_NAME, LONGEST_ROW = 28, 20
CHARACTER = 6.6  # mean width of a character at the charts' font size, px
NOTHING = "–"

MARKERS = (
    "M-3.5,0a3.5,3.5 0 1 0 7,0a3.5,3.5 0 1 0 -7,0z",
    "M-3.2,-3.2h6.4v6.4h-6.4z",
    "M0,-4.4L4.2,3.2H-4.2z",
    "M0,-4.6L4.6,0L0,4.6L-4.6,0z",
    "M0,4.4L4.2,-3.2H-4.2z",
    "M-3.5,-3.5L3.5,3.5M-3.5,3.5L3.5,-3.5",
    "M0,-4.4V4.4M-4.4,0H4.4",
)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart.

    Attributes:
        name: For the legend.
        points: (x, y), x rising; NaN is left out.
        style: Colour, dash and marker, counted from 0; a site keeps its own in all charts.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: int = 0


@dataclass(frozen=True, kw_only=True)
class Plot:
    """What a line chart shows.

    Attributes:
        key: Unique in the page; letters, digits, hyphens.
        title: Of the chart.
        x_label: What is to the right.
        y_label: What is upwards, with its unit.
        series: The lines.
        span: Lowest and highest y; None for the data's own.
        mark: An x to mark, and the words beside it.
        digits: Decimals in the table.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    span: tuple[float, float] | None = None
    mark: tuple[float, str] | None = None
    digits: int = 3


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One row of an interval chart; ``strong`` for a mean over labels."""

    name: str
    mean: float
    low: float
    high: float
    cases: int
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart and the numbers in it."""

    key: str
    title: str
    svg: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers that enclose a range, at most about ``most`` steps apart."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def span_of(series: Iterable[Series]) -> tuple[float, float] | None:
    """Return a range of y for several charts: from 0 unless all values are far from it."""
    values = [y for s in series for _, y in s.points if math.isfinite(y)]
    if not values:
        return None
    low, high = min(values), max(values)
    return (min(low, 0.0) if low < 0.5 * high else low), high


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """Write a number with a true minus; a dash where there is none."""
    if not math.isfinite(value):
        return NOTHING
    rounded = round(value, digits) or 0.0  # no signed zero
    text = f"{rounded:+,.{digits}f}" if sign and rounded else f"{rounded:,.{digits}f}"
    return text.replace("-", "−")


def line_chart(plot: Plot) -> Figure:
    """Draw lines over rounds."""
    points = [(x, y) for s in plot.series for x, y in s.points if math.isfinite(y)]
    span = plot.span or span_of(plot.series) or (0.0, 1.0)
    y_ticks = ticks(*span)
    xs = [x for x, _ in points] or [1.0]
    edge = 0.5 if min(xs) == max(xs) else 0.0
    x = Scale(min(xs) - edge, max(xs) + edge, LEFT + 8, WIDTH - RIGHT - 8)
    y = Scale(y_ticks[0], y_ticks[-1], TOP + PLOT_HEIGHT, TOP)
    parts = [*_frame(plot, x, y, y_ticks), *_mark(plot, x)]
    for series in plot.series:
        parts += _line(series, x, y)
    legend, height = _legend(plot.series, TOP + PLOT_HEIGHT + 58)
    if not points:
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(_text(middle, TOP + PLOT_HEIGHT / 2, "no value yet", "middle"))
    told = f"{plot.y_label} against {plot.x_label}, for {', '.join(_names(plot.series))}."
    return Figure(
        key=plot.key,
        title=plot.title,
        svg=_svg(plot.key, (plot.title, told), height, [*parts, *legend]),
        columns=(plot.x_label, *(s.name for s in plot.series)),
        rows=tuple(_rows(plot)),
    )


def _names(series: Sequence[Series]) -> list[str]:
    return [s.name for s in series] or ["nobody yet"]


def _rows(plot: Plot) -> Iterator[tuple[str, ...]]:
    held = [dict(s.points) for s in plot.series]
    for x in sorted({x for points in held for x in points}):
        values = (number(points.get(x, math.nan), plot.digits) for points in held)
        yield (f"{x:g}", *values)


def _frame(plot: Plot, x: Scale, y: Scale, y_ticks: Sequence[float]) -> Iterator[Markup]:
    bottom = TOP + PLOT_HEIGHT
    digits = decimals(y_ticks)
    for value in y_ticks:
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            LEFT, WIDTH - RIGHT, y(value), y(value)
        )
        yield _text(LEFT - 6, y(value) + 4, number(value, digits), "end")
    whole = [v for v in ticks(x.low, x.high, 6) if v == int(v) and x.low <= v <= x.high]
    for value in whole:
        yield _text(x(value), bottom + 18, f"{value:g}", "middle")
    yield Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        LEFT, WIDTH - RIGHT, bottom, bottom
    )
    yield _text((LEFT + WIDTH - RIGHT) / 2, bottom + 36, plot.x_label, "middle", "name")
    yield Markup(
        '<text class="name" text-anchor="middle" transform="translate(12 {}) rotate(-90)">'
        "{}</text>"
    ).format(TOP + PLOT_HEIGHT / 2, plot.y_label)


def decimals(values: Sequence[float]) -> int:
    """Return how many decimals tell neighbouring ticks apart."""
    return next(
        (n for n in range(6) if all(abs(round(v, n) - v) < 1e-9 for v in values)),  # noqa: PLR2004
        6,
    )


def _mark(plot: Plot, x: Scale) -> Iterator[Markup]:
    if plot.mark is None or not x.low <= plot.mark[0] <= x.high:
        return
    place = x(plot.mark[0])
    right = place > (LEFT + WIDTH) / 2
    yield Markup('<line class="mark" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        place, place, TOP, TOP + PLOT_HEIGHT
    )
    yield _text(
        place + (-6 if right else 6),
        TOP + PLOT_HEIGHT - 8,
        plot.mark[1],
        "end" if right else "start",
        "name",
    )


def _line(series: Series, x: Scale, y: Scale) -> Iterator[Markup]:
    points, index = [(x(a), y(b)) for a, b in series.points if math.isfinite(b)], series.style
    if not points:
        return
    yield Markup('<polyline class="line {}" stroke-dasharray="{}" points="{}"/>').format(
        _colour(index),
        DASHES[index % len(DASHES)],
        " ".join(f"{a:g},{b:g}" for a, b in points),
    )
    step = -(-len(points) // MOST_MARKERS)
    for a, b in points[::step]:
        yield _marker(index, a, b)


def _colour(index: int) -> str:
    return f"series-{index % COLOURS + 1}"


def _marker(index: int, x: float, y: float) -> Markup:
    return Markup('<path class="marker {}" transform="translate({} {})" d="{}"/>').format(
        _colour(index), f"{x:g}", f"{y:g}", MARKERS[index % len(MARKERS)]
    )


def _legend(lines: Sequence[Series], top: float) -> tuple[list[Markup], float]:
    """Lay out the legend in rows; return it and the chart's height."""
    parts: list[Markup] = []
    left, row = LEGEND_LEFT, top
    for series in lines:
        index, shown = series.style, _short(series.name)
        width = 38 + len(shown) * CHARACTER + 14
        if left > LEGEND_LEFT and left + width > WIDTH:
            left, row = LEGEND_LEFT, row + LEGEND_ROW
        parts.append(
            Markup(
                '<line class="line {}" stroke-dasharray="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>'
            ).format(
                _colour(index), DASHES[index % len(DASHES)], left, left + 30, row - 4, row - 4
            )
        )
        parts += [_marker(index, left + 15, row - 4), _text(left + 36, row, shown, "start")]
        left += width
    return parts, row + 10


def interval_chart(
    key: str, title: str, rows: Sequence[Interval], span: tuple[float, float]
) -> Figure:
    """Draw differences with their intervals, one row each, around a line at zero."""
    marks = ticks(min(span[0], 0.0), max(span[1], 0.0), 3)
    left = 20 + max((len(_short(r.name, LONGEST_ROW)) for r in rows), default=0) * CHARACTER
    x = Scale(marks[0], marks[-1], left, WIDTH - 26)
    bottom = TOP + 24 * len(rows)
    parts: list[Markup] = []
    for value in marks:
        parts.append(
            Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                "axis" if value == 0 else "grid", x(value), x(value), TOP, bottom
            )
        )
        digits = decimals((value,))
        parts.append(_text(x(value), bottom + 16, number(value, digits, sign=True), "middle"))
    for index, row in enumerate(rows):
        parts += _interval(row, TOP + 24 * index + 12, left, x)
    words = "← alone better  ·  Dice  ·  federated better →"
    parts.append(_text(WIDTH / 2, bottom + 36, words, "middle", "name"))
    told = "Federated minus alone, mean and 95 % interval over test cases, worst first."
    return Figure(
        key=key,
        title=title,
        svg=_svg(key, (title, told), bottom + 46, parts),
        columns=("", "Difference", "Lower end", "Upper end", "Cases"),
        rows=tuple(
            (r.name, *(number(v, 3, sign=True) for v in (r.mean, r.low, r.high)), f"{r.cases}")
            for r in rows
        ),
    )


def _interval(row: Interval, y: float, left: float, x: Scale) -> Iterator[Markup]:
    yield _text(
        left - 10, y + 4, _short(row.name, LONGEST_ROW), "end", "name" if row.strong else ""
    )
    if not all(map(math.isfinite, (row.mean, row.low, row.high))):
        return
    side = "better" if row.low > 0 else "worse" if row.high < 0 else "neither"
    yield Markup('<path class="whisker {}" d="M{},{}H{}M{},{}v8M{},{}v8"/>').format(
        side, x(row.low), y, x(row.high), x(row.low), y - 4, x(row.high), y - 4
    )
    yield Markup('<path class="dot {}" transform="translate({} {})" d="{}"/>').format(
        side, x(row.mean), y, MARKERS[3 if row.strong else 0]
    )


def _short(name: str, most: int = LONGEST_NAME) -> str:
    return (
        name if len(name) <= most else name[: most // 2] + "…" + name[len(name) - most // 2 :]
    )


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, f"{x:g}", f"{y:g}", anchor, words
    )


def _svg(key: str, words: tuple[str, str], height: float, parts: Iterable[Markup]) -> Markup:
    return Markup(
        '<svg role="img" viewBox="0 0 {} {}" aria-labelledby="{}-title {}-desc">'
        '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>{}</svg>'
    ).format(
        WIDTH, f"{height:g}", key, key, key, words[0], key, words[1], Markup("").join(parts)
    )
