"""Charts: positions of values on the axes."""

import numpy as np
import pytest

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.evaluation.confusion import Confusion
from efficientdet_tf.report.charts import Line, bar_chart, confusion_chart, line_chart
from efficientdet_tf.visualization.elements import bar, element, to_html


def labels(figure):
    return [item.text for item in figure.iter("text")]


def points(figure):
    return [(float(item.get("cx")), float(item.get("cy"))) for item in figure.iter("circle")]


def height_of(figure, label):
    """Return the y of the grid line with a label; the label is 4 below it."""
    beside = (item for item in figure.iter("text") if item.get("text-anchor") == "end")
    [found] = [item for item in beside if item.text == label]
    return float(found.get("y")) - 4


def line(*values):
    return Line("a", np.arange(1.0, 1 + len(values)), np.array(values))


def test_points_lie_on_the_grid():
    figure = line_chart("Loss", [line(4.0, 2.0, 0.0)], "epoch", None, (1.0, 3.0))
    ys = [y for _, y in points(figure)]
    np.testing.assert_allclose(ys, [height_of(figure, text) for text in ("4", "2", "0")], atol=0.1)
    xs = [x for x, _ in points(figure)]
    assert np.isclose(xs[1] - xs[0], xs[2] - xs[1]) and xs[0] < xs[1]


def test_the_axis_ends_at_a_round_number_above_the_highest():
    figure = line_chart("Loss", [line(0.93, 0.2)], "epoch", None, (1.0, 2.0))
    assert [text for text in labels(figure)[:6]] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


@pytest.mark.parametrize(
    ("last", "ticks"), [(2, "1 2"), (4, "1 2 3 4"), (13, "5 10"), (300, "100 200 300")]
)
def test_epochs_have_ticks_at_whole_numbers(last, ticks):
    x = np.array([1.0, last])
    figure = line_chart("AP", [Line("a", x, x / 1000)], "epoch", (0.0, 1.0), (1.0, last))
    assert labels(figure)[6:-1] == ticks.split()


def test_a_steep_fall_is_logarithmic():
    figure = line_chart("Loss", [line(1000.0, 10.0, 1.0, 1.0)], "epoch", None, (1.0, 4.0))
    assert labels(figure)[:4] == ["1", "10", "100", "1000"]
    (_, first), (_, second), (_, third), _ = points(figure)
    assert np.isclose((third - second) * 2, second - first, atol=0.1)


def test_a_gap_breaks_the_line():
    figure = line_chart("Loss", [line(1.0, np.nan, 1.0, 2.0)], "epoch", None, (1.0, 4.0))
    [path] = [item.get("d") for item in figure.iter("path") if item.get("class") == "line"]
    assert path.count("M") == 2 and path.count("L") == 1
    assert len(points(figure)) == 3


@pytest.mark.parametrize("values", [(0.5,), (0.0, 0.0), (-3.0, -1.0)])
def test_any_values_can_be_drawn(values):
    figure = line_chart("Loss", [line(*values)], "epoch", None, (1.0, float(len(values))))
    assert all(52 <= x <= 408 and 12 <= y <= 210 for x, y in points(figure))
    assert len(points(figure)) == len(values)


def test_a_chart_without_values_says_so():
    for lines in ([], [line(np.nan, np.nan)]):
        assert "Nothing was measured." in to_html(
            line_chart("AP", lines, "epoch", None, (1.0, 2.0))
        )


def test_many_points_are_not_marked_and_lines_without_a_name_are_faint():
    long = Line("a", np.arange(100.0), np.ones(100))
    unnamed = Line("", np.arange(3.0), np.ones(3))
    figure = line_chart("PR", [long, unnamed], "recall", (0.0, 1.0), (0.0, 100.0))
    assert points(figure) == []
    kinds = [item.get("class") for item in figure.iter("path")]
    # The faint line comes first, below the others.
    assert kinds[-2:] == ["faint", "line"]
    assert [item.tail or item[0].tail for item in figure.iter("span")] == ["a"]


def test_bars_are_as_high_as_their_share():
    series = [("training", np.array([0.5, 0.25])), ("validation", np.array([0.0, 1.0]))]
    figure = bar_chart("Sizes", ["small", "large"], series, "pixels")
    heights = [float(item.get("height")) for item in figure.iter("rect")]
    full = height_of(figure, "0%") - height_of(figure, "100%")
    np.testing.assert_allclose(heights, [full / 2, 0, full / 4, full], atol=0.1)


def test_bars_of_tables_stay_in_their_cell():
    widths = [bar(share, "x").find(".//i").get("style") for share in (0.25, 3.0, float("nan"))]
    assert [style.split(";")[0] for style in widths] == [
        "width:25.0%",
        "width:100.0%",
        "width:0.0%",
    ]


def confusion_of(*names):
    matrix = np.eye(len(names) + 1, dtype=np.int64)
    return Confusion(matrix, LabelMap(tuple(range(len(names))), names), (), 0.5, 0.5)


def test_names_of_a_confusion_matrix_have_room():
    drawn = confusion_chart(confusion_of("\u7269\u4f53", "\u7269" * 30))
    long = next(item for item in drawn.iter("text") if item.text == "\u7269" * 23 + "\u2026")
    # Letters are as wide as the font is high, and end here.
    assert float(long.get("x")) >= 23 * float(long.get("font-size"))


@pytest.mark.parametrize(("count", "least"), [(10, 640), (365, 3600)])
def test_a_confusion_matrix_of_many_classes_is_scrolled(count, least):
    drawn = confusion_chart(confusion_of(*(f"class {i}" for i in range(count))))
    style = dict(part.split(":") for part in drawn.get("style").split(";"))
    assert least <= float(style["min-width"].removesuffix("px")) < 1.1 * least


def test_text_between_elements_stays_in_order_and_is_escaped():
    made = element("p", "1 < 2 ", element("b", "&"), " and", " > ", class_="a")
    assert to_html(made) == '<!DOCTYPE html>\n<p class="a">1 &lt; 2 <b>&amp;</b> and &gt; </p>'
