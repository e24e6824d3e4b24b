"""Charts as SVG, in the colours of the page."""

import dataclasses
import math
import unicodedata
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.evaluation.confusion import Confusion
from efficientdet_tf.report.fusion_weights import NodeWeights
from efficientdet_tf.visualization.elements import Element, element
from efficientdet_tf.visualization.fonts import shorten

COLORS = 10
# Size and margins of a line or bar chart, in SVG units.
_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
# Margins of a chart of weights, and the height of a bar.
_WEIGHTS_LEFT, _WEIGHTS_RIGHT, _BAR = 60, 86, 13
# Points of lines with more points than this are not marked.
_MOST_MARKED = 60
# Ratio of maximum to median from which an axis is logarithmic.
_STEEP = 20


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
      name: name in the legend; "" is drawn faint and without a legend entry.
      x: float [n].
      y: float [n]; the line has gaps at NaN.
      color: index of the page's colour, from 0.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    color: int = 0


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_range: tuple[float, float] | None,
    x_range: tuple[float, float],
) -> Element:
    """Draw lines over common axes, with a legend if there are several.

    The y axis is logarithmic if the values fall steeply. Where all x are whole numbers, such as
    epochs, so are the ticks.

    Args:
      title: title above the chart.
      lines: lines to draw.
      x_label: label of the x axis.
      y_range: range of the y axis; None is that of the lines.
      x_range: range of the x axis.
    """
    values = np.concatenate([line.y for line in lines] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    if not len(values):
        return _figure(title, element("p", "Nothing was measured.", class_="quiet"))
    log = y_range is None and values.min() > 0 and values.max() > _STEEP * np.median(values)
    y_axis = _Axis.over(values, y_range, log, start=_HEIGHT - _BOTTOM, end=_TOP)
    whole = all(bool((line.x == np.rint(line.x)).all()) for line in lines)
    x_axis = _Axis.over(values, x_range, False, _LEFT, _WIDTH - _RIGHT, whole)
    drawn = [_grid(x_axis, y_axis, x_label)]
    # Faint lines are drawn first, below the others.
    for line in sorted(lines, key=lambda line: bool(line.name)):
        drawn += _line(line, x_axis, y_axis)
    legend = [(line.name, line.color) for line in lines if line.name]
    return _figure(title, _svg(drawn, _WIDTH, _HEIGHT), legend if len(lines) > 1 else ())


def bar_chart(
    title: str, categories: Sequence[str], series: Sequence[tuple[str, np.ndarray]], x_label: str
) -> Element:
    """Draw groups of vertical bars, one for each series, in percent.

    Args:
      title: title above the chart.
      categories: names of the groups.
      series: (name, float [categories] in 0..1) of each series.
      x_label: label of the x axis.
    """
    highest = max(float(np.max(shares, initial=0)) for _, shares in series)
    axis = _Axis.over(np.array([0, 100 * max(highest, 0.01)]), None, False, _HEIGHT - _BOTTOM, _TOP)
    step = (_WIDTH - _LEFT - _RIGHT) / len(categories)
    width = 0.8 * step / len(series)
    drawn = [_grid(None, axis, x_label, unit="%")]
    for i, category in enumerate(categories):
        left = _LEFT + i * step + 0.1 * step
        for k, (name, shares) in enumerate(series):
            top = axis.at(100 * float(shares[i]))
            hint = element("title", f"{name}, {category}: {100 * shares[i]:.1f}%")
            box = dict(x=left + k * width, y=top, width=width, height=_HEIGHT - _BOTTOM - top)
            drawn.append(element("rect", hint, **box, style=f"fill:var(--c{k})"))
        middle = _LEFT + (i + 0.5) * step
        drawn.append(_label(category, middle, _HEIGHT - _BOTTOM + 14, "middle", 9.5))
    legend = [(name, k) for k, (name, _) in enumerate(series)]
    return _figure(title, _svg(drawn, _WIDTH, _HEIGHT), legend)


def weights_chart(title: str, nodes: Sequence[NodeWeights]) -> Element:
    """Draw the weights of nodes as horizontal bars, one for each input.

    Weights for each channel are drawn as their mean, with a line over their range.

    Args:
      title: title above the chart.
      nodes: weights of the nodes.
    """
    values = np.concatenate([item.weights.ravel() for item in nodes])
    low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
    axis = _Axis.over(values, (low, high), False, _WEIGHTS_LEFT, _WIDTH - _WEIGHTS_RIGHT)
    bars, y = [], float(_TOP)
    for item in nodes:
        middle = y + _BAR * len(item.inputs) / 2
        bars.append(_label(item.node, _WEIGHTS_LEFT - 8, middle + 4, "end"))
        for source, distance, weights in zip(item.inputs, item.distances, item.weights):
            hint = f"{source} \u2192 {item.node}: {weights.mean():.4f}"
            bars += _weight_bar(axis, y, hint, weights, distance)
            text = f"{source} {weights.mean():.2f}"
            bars.append(_label(text, _WIDTH - _WEIGHTS_RIGHT + 8, y + _BAR - 3, "start", 10))
            y += _BAR
        y += _BAR / 2
    lines = []
    for value in axis.ticks:
        x = axis.at(value)
        lines.append(element("path", d=f"M{x:.1f} {_TOP}V{y:.1f}", class_="grid"))
        lines.append(_label(f"{value:.6g}", x, y + 14, "middle"))
    legend = [("same level", 9), ("coarser level", 0), ("finer level", 1)]
    return _figure(title, _svg([*lines, *bars], _WIDTH, y + 22), legend)


def _weight_bar(
    axis: "_Axis", y: float, hint: str, weights: np.ndarray, distance: int
) -> list[Element]:
    """Draw the mean of an input's weights, and their range if they are several."""
    zero, end = axis.at(0.0), axis.at(float(weights.mean()))
    color = 0 if distance > 0 else 1 if distance else 9
    box = dict(x=min(zero, end), y=y + 2, width=abs(end - zero), height=_BAR - 4)
    drawn = [
        element("rect", element("title", hint), **box, style=f"fill:var(--c{color})"),
    ]
    if len(weights) > 1:
        low, high = axis.at(float(weights.min())), axis.at(float(weights.max()))
        path = f"M{low:.1f} {y + _BAR / 2:.1f}H{high:.1f}"
        drawn.append(element("path", d=path, class_="axis"))
    return drawn


def confusion_chart(confusion: Confusion) -> Element:
    """Draw a confusion matrix as a heat map of the share of each row.

    Counts are written in the cells for up to 20 classes, and else shown as hints.
    """
    rows = [*confusion.label_map.names, "background"]
    columns = [*confusion.label_map.names, "background"]
    size = len(rows)
    with_counts = size <= 21
    cell = max(12.0, min(58.0, 760 / size))
    font = min(12.0, cell * 0.85)
    margin = 14 + font * max(_width_in_ems(shorten(name)) for name in rows)
    drawn = []
    for i in range(size):
        middle = margin + (i + 0.5) * cell
        drawn.append(_label(shorten(rows[i]), margin - 6, middle + font / 3, "end", font))
        rotated = _label(shorten(columns[i]), 0, 0, "start", font)
        rotated.set("transform", f"translate({middle + font / 3:.1f} {margin - 6:.1f}) rotate(-60)")
        drawn.append(rotated)
    totals = confusion.matrix.sum(axis=1)
    for i, j in zip(*np.nonzero(confusion.matrix)):
        count = int(confusion.matrix[i, j])
        at = margin + j * cell, margin + i * cell
        hint = f"{rows[i]} \u2192 {columns[j]}: {count} of {totals[i]}"
        drawn += _cell(at, cell, count, count / totals[i], i == j, hint, font * with_counts)
    side = margin + size * cell
    frame = dict(x=margin, y=margin, width=size * cell, height=size * cell)
    drawn.append(element("rect", **frame, class_="frame"))
    # Room for the rotated name of the last column.
    return _svg(drawn, side + margin * 0.5 + 4, side + 4, natural=True)


def _cell(
    at: tuple[float, float],
    size: float,
    count: int,
    share: float,
    is_diagonal: bool,
    hint: str,
    font: float,
) -> list[Element]:
    color = "--right" if is_diagonal else "--wrong"
    box = dict(x=at[0], y=at[1], width=size, height=size)
    style = f"fill:var({color});fill-opacity:{0.12 + 0.88 * share:.2f}"
    made = [element("rect", element("title", hint), **box, style=style)]
    if font:
        label = _label(str(count), at[0] + size / 2, at[1] + size / 2 + font / 3, "middle", font)
        label.set("class", "on" if share > 0.45 else "off")
        made.append(label)
    return made


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Linear or logarithmic mapping of values to positions in the drawing."""

    low: float
    high: float
    log: bool
    start: float
    end: float
    ticks: tuple[float, ...]

    @classmethod
    def over(
        cls,
        values: np.ndarray,
        given: tuple[float, float] | None,
        log: bool,
        start: float,
        end: float,
        whole: bool = False,
    ) -> "_Axis":
        """Make the axis from 0 to a round number above the highest value, or of range `given`.

        With `whole`, the ticks are whole numbers.
        """
        low, high = given or (float(values.min()), float(values.max()))
        if log:
            low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
            powers = range(round(math.log10(low)), round(math.log10(high)) + 1)
            return cls(low, high, True, start, end, tuple(10.0**power for power in powers))
        if given is None:
            low = min(low, 0.0)
        if high <= low:
            # One epoch, or a quantity that is always zero.
            low, high = (low - 0.5, low + 0.5) if given else (low, low + 1)
        ticks = _ticks(low, high, whole)
        if given is None and ticks[-1] < high:
            high = ticks[-1] + ticks[1] - ticks[0]
            ticks += (high,)
        return cls(low, high, False, start, end, ticks)

    def at(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _ticks(low: float, high: float, whole: bool) -> tuple[float, ...]:
    """Return four to eight round numbers from `low` to `high`; fewer `whole` ones if need be."""
    rough = max((high - low) / 5, 1.0 * whole)
    power = 10 ** math.floor(math.log10(rough))
    steps = [power * factor for factor in (1, 2, 2.5, 5, 10)]
    step = next(s for s in steps if s >= rough * 0.999 and not (whole and s % 1))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(step * i for i in range(first, last + 1))


def _grid(x_axis: _Axis | None, y_axis: _Axis, x_label: str, unit: str = "") -> Element:
    parts = []
    for value in y_axis.ticks:
        y = y_axis.at(value)
        parts.append(element("path", d=f"M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}", class_="grid"))
        parts.append(_label(f"{value:.6g}{unit}", _LEFT - 6, y + 4, "end"))
    for value, x in ((v, x_axis.at(v)) for v in x_axis.ticks) if x_axis else ():
        text = f"{value:.6g}"
        parts.append(_label(text, x, _HEIGHT - _BOTTOM + 14, "middle"))
    base = f"M{_LEFT} {_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"
    parts.append(element("path", d=base, class_="axis"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(_label(x_label, middle, _HEIGHT - 8, "middle"))
    return element("g", *parts)


def _line(line: Line, x_axis: _Axis, y_axis: _Axis) -> list[Element]:
    points = [
        (x_axis.at(x), y_axis.at(y), x, y) if math.isfinite(y) else None
        for x, y in zip(line.x.tolist(), line.y.tolist())
    ]
    path, pen = [], "M"
    for point in points:
        if point:
            path.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "L" if point else "M"
    color = f"stroke:var(--c{line.color % COLORS})"
    drawn = [element("path", d="".join(path), class_="line" if line.name else "faint", style=color)]
    if line.name and len(points) <= _MOST_MARKED:
        for x, y, *values in filter(None, points):
            hint = element("title", f"{line.name}: {values[1]:.4g} at {values[0]:.4g}")
            drawn.append(
                element("circle", hint, cx=x, cy=y, r=2.5, style=f"fill:var(--c{line.color})")
            )
    return drawn


def _label(text: str, x: float, y: float, anchor: str, size: float = 11) -> Element:
    return element("text", text, x=x, y=y, text_anchor=anchor, font_size=size)


def _width_in_ems(text: str) -> float:
    """Estimate the width of a text in font sizes: letters of Chinese and the like are square."""
    return sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.62 for letter in text)


def _svg(drawn: Sequence[Element], width: float, height: float, natural: bool = False) -> Element:
    """Make an SVG; `natural` keeps about its size instead of the width of the page."""
    # Smaller, the names of hundreds of classes are not readable: such a chart is scrolled.
    least = max(min(width, 640), 0.8 * width)
    style = f"max-width:{width:.0f}px;min-width:{least:.0f}px" if natural else ""
    box = f"0 0 {width:.0f} {height:.0f}"
    return element("svg", *drawn, viewBox=box, role="img", style=style)


def _figure(title: str, drawing: Element, legend: Sequence[tuple[str, int]] = ()) -> Element:
    names = [
        element("span", element("i", style=f"background:var(--c{color % COLORS})"), name)
        for name, color in legend
    ]
    parts = [element("h3", title), drawing]
    if names:
        parts.append(element("p", *names, class_="legend"))
    return element("figure", *parts, class_="card")
