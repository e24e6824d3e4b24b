"""Drawing of detections, batches and curves."""

import re

import matplotlib
import numpy as np
import PIL.Image
import pytest

from efficientdet_tf.evaluation.result import METRICS, ClassResult, EvaluationResult
from efficientdet_tf.visualization import drawing
from efficientdet_tf.visualization.fonts import font_and_text

GREY = np.full((120, 200, 3), 128, np.uint8)


def pixel(drawn, y, x):
    return drawn.getpixel((x, y))


def test_a_box_is_outlined_where_it_says_in_the_color_of_its_class():
    drawn = drawing.draw_detections(GREY, [[40, 60, 100, 180]], ["cat"], [0.5])
    color = drawing.class_color("cat")
    assert drawn.size == (200, 120) and drawn.mode == "RGB"
    for y, x in ((40, 150), (100, 100), (70, 60), (70, 180)):
        assert pixel(drawn, y, x) == color
    for y, x in ((70, 120), (110, 100), (70, 50)):
        assert pixel(drawn, y, x) == (128, 128, 128)


def test_the_input_image_is_not_changed():
    image = PIL.Image.fromarray(GREY)
    drawing.draw_detections(image, [[40, 60, 100, 180]], ["cat"])
    assert np.array_equal(np.asarray(image), GREY)


def test_no_detections_leave_the_image_unchanged():
    drawn = drawing.draw_detections(GREY, np.zeros((0, 4)), [], [])
    assert np.array_equal(np.asarray(drawn), GREY)


def test_grey_images_get_colored_boxes():
    drawn = drawing.draw_detections(PIL.Image.new("L", (200, 120)), [[40, 60, 100, 180]], ["cat"])
    assert pixel(drawn, 40, 150) == drawing.class_color("cat")


def test_the_label_has_name_and_score():
    image = np.zeros((300, 400, 3), np.uint8)
    box = [[100, 50, 250, 300]]
    named = np.asarray(drawing.draw_detections(image, box, ["cat"]))
    scored = np.asarray(drawing.draw_detections(image, box, ["cat"], [0.87]))
    width = [int((drawn[95] > 0).any(axis=-1).sum()) for drawn in (named, scored)]
    # The patch above the box is wider with " 87%" behind the name.
    assert 20 < width[0] < width[1] - 20


def test_the_label_is_in_a_font_that_has_its_letters():
    dejavu, text = font_and_text("Kühe 87%", 20)
    assert dejavu.getname()[0] == "DejaVu Sans" and text == "Kühe 87%"
    # Of mathematics, which only Matplotlib's other fonts have.
    font, text = font_and_text("a \u24b6 9%", 20)
    assert font.getname()[0] != "DejaVu Sans" and text == "a \u24b6 9%"
    # Assigned to no letter, so that no font has it.
    font, text = font_and_text("a\U000e0fff", 20)
    assert font.getname() == dejavu.getname() and text == r"a\U000e0fff"


def test_boxes_beyond_the_border_are_drawn_at_it():
    drawn = drawing.draw_detections(GREY, [[-50, -20, 500, 900]], ["cat"])
    color = drawing.class_color("cat")
    assert pixel(drawn, 60, 0) == color
    assert pixel(drawn, 60, 199) == color
    assert pixel(drawn, 119, 100) == color


def test_lines_scale_with_the_image():
    def line_width(size):
        image = np.zeros((size, size, 3), np.uint8)
        box = [[size // 4, size // 4, size // 2, size // 2]]
        drawn = np.asarray(drawing.draw_detections(image, box, ["cat"]))
        return int((drawn[size * 3 // 8] > 0).any(axis=-1).sum()) // 2

    assert line_width(160) == 1
    assert line_width(1600) == 5


def test_the_highest_score_is_on_top():
    boxes = [[40, 60, 100, 180]] * 2
    for scores, top in (([0.9, 0.1], "cat"), ([0.1, 0.9], "dog")):
        drawn = drawing.draw_detections(GREY, boxes, ["cat", "dog"], scores)
        assert pixel(drawn, 100, 100) == drawing.class_color(top)


def test_a_batch_may_have_its_own_colors():
    image, box = np.zeros((1, 40, 40, 3)), np.array([[20, 5, 35, 35]], float)
    names = drawing.class_names(["cat", "dog"], np.array([1, -2, -1]))
    assert names == ["dog", "ignored", "ignored"]
    drawn = drawing.draw_batch(image, [box], [["dog"]], colors=[[drawing.IGNORED_COLOR]])
    assert drawn.getpixel((5, 30)) == drawing.IGNORED_COLOR
    plain = drawing.draw_batch(image, [box], [["dog"]])
    assert plain.getpixel((5, 30)) == drawing.class_color("dog")


def test_colors_are_the_same_in_every_program_and_differ_between_digits():
    assert drawing.class_color("person") == (35, 234, 81)
    assert len({drawing.class_color(str(digit)) for digit in range(10)}) == 10


def test_a_batch_is_a_grid():
    images = np.zeros((5, 60, 80, 3), np.float32) + [[[[10.4, 20.6, 300.0]]]]
    boxes = [np.array([[20, 20, 50, 60]], np.float32)] + [np.zeros((0, 4), np.float32)] * 4
    grid = drawing.draw_batch(images, boxes, [["cat"], [], [], [], []], columns=3)
    assert grid.size == (3 * 80 + 2 * 4, 2 * 60 + 4)
    assert pixel(grid, 50, 40) == drawing.class_color("cat")
    assert pixel(grid, 64 + 30, 84 + 40) == (10, 21, 255)
    assert pixel(grid, 64 + 30, 168 + 40) == (255, 255, 255)


def result(num_classes, objects, name="class {}"):
    """Precision falls from 1 to 0; classes without objects have none."""
    precision = np.full((10, 101, num_classes), np.nan)
    precision[:, :, :objects] = np.linspace(1, 0, 101)[:, None]
    return EvaluationResult(
        metrics=dict.fromkeys(METRICS, 0.5),
        per_class=tuple(
            ClassResult(i, name.format(i), int(i < objects), 0.5, 0.5) for i in range(num_classes)
        ),
        num_images=1,
        precision=precision,
        recalls=np.linspace(0, 1, 101),
        iou_thresholds=np.linspace(0.5, 0.95, 10),
    )


@pytest.mark.parametrize(("num_classes", "objects"), [(3, 2), (1, 0), (90, 80)])
def test_curves_are_written_as_an_image(tmp_path, num_classes, objects):
    path = tmp_path / "curves.png"
    drawing.pr_curves(result(num_classes, objects), path)
    with PIL.Image.open(path) as drawn:
        assert drawn.size == (1680, 540)
        colors = len(drawn.convert("RGB").getcolors(maxcolors=1 << 20))
    # Without curves there are axes and text alone, black on white.
    assert (colors > 300) == (objects > 0)


def test_the_legends_cover_no_curve(tmp_path):
    drawing.pr_curves(result(3, 2), tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    for part in text.split('<g id="axes_')[1:]:
        axes, legend = part.split('<g id="legend_')
        # The background of each, from its left to its right.
        _, right = re.search(r'd="M ([\d.]+) .*\nL ([\d.]+) ', axes).groups()
        left, _ = re.search(r'd="M ([\d.]+) .*\nL ([\d.]+) ', legend).groups()
        assert float(left) > float(right)


def test_any_class_name_is_written_as_it_is(tmp_path):
    path = tmp_path / "curves.svg"
    for name, shown in (
        ("$\\frac$", "$\\frac$"),
        ("_a", "_a"),
        ("a \u24b6", "a \u24b6"),
        ("a\U000e0fff", r"a\U000e0fff"),
        ("a" * 30, "a" * 23 + "\u2026"),
    ):
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            drawing.pr_curves(result(1, 1, name), path)
        assert f">{shown} (AP50 0.50)</text>" in path.read_text(encoding="utf-8")
