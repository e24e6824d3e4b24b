"""Drawing of detections, batches and precision-recall curves.

Boxes are float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
"""

import colorsys
import itertools
import os
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import PIL.ImageDraw

from efficientdet_tf.files import replacing
from efficientdet_tf.visualization.fonts import font_and_text, set_fonts, shorten

if TYPE_CHECKING:
    from efficientdet_tf.evaluation.result import EvaluationResult

# More lines than this in one plot are indistinguishable.
_MOST_CURVES = 10
_GRID_GAP = 4
# Grey, a colour of no class.
IGNORED_COLOR = (128, 128, 128)


def draw_detections(
    image: PIL.Image.Image | np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray | None = None,
    colors: Sequence[tuple[int, int, int]] | None = None,
) -> PIL.Image.Image:
    """Draw boxes and their labels on a copy of an image.

    Lines and fonts scale with the image; a class has the same colour in
    every image. The highest scores are drawn last, on top.

    Args:
      image: RGB, or uint8 [h, w, 3].
      boxes: float [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
      names: n class names.
      scores: float [n], 0..1, shown in percent; None shows only names.
      colors: n RGB colours, 0..255; None is the colours of the classes.

    Returns:
      An RGB image of the same size.
    """
    canvas = _to_pil(image).copy()
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    order = range(len(boxes)) if scores is None else np.argsort(scores, kind="stable")
    draw = PIL.ImageDraw.Draw(canvas)
    font_size = max(11, round(max(canvas.size) / 45))
    line = max(1, round(max(canvas.size) / 320))
    for i in order:
        ymin, xmin, ymax, xmax = _clip_to_image(boxes[i], canvas.size)
        color = class_color(names[i]) if colors is None else colors[i]
        draw.rectangle((xmin, ymin, xmax, ymax), outline=color, width=line)
        label = names[i] if scores is None else f"{names[i]} {100 * scores[i]:.0f}%"
        _draw_label(draw, label, (xmin, ymin), color, font_size, canvas.size)
    return canvas


def draw_batch(
    images: Sequence[np.ndarray] | np.ndarray,
    boxes: Sequence[np.ndarray],
    names: Sequence[Sequence[str]],
    columns: int = 4,
    colors: Sequence[Sequence[tuple[int, int, int]]] | None = None,
) -> PIL.Image.Image:
    """Draw the images of a batch in a grid, each with its boxes.

    Args:
      images: [B, h, w, 3], RGB on the 0..255 scale, of any dtype.
      boxes: for each image float [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
      names: for each image n class names.
      columns: number of columns. Default 4.
      colors: for each image n RGB colours, 0..255; None is the colours of the classes.

    Returns:
      An RGB image of rows * (h + 4) - 4 by min(columns, B) * (w + 4) - 4 pixels.
    """
    height, width = np.shape(images[0])[:2]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    grid = PIL.Image.new(
        "RGB",
        (columns * (width + _GRID_GAP) - _GRID_GAP, rows * (height + _GRID_GAP) - _GRID_GAP),
        "white",
    )
    parts = zip(images, boxes, names, colors or itertools.repeat(None))
    for i, (image, image_boxes, image_names, image_colors) in enumerate(parts):
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        tile = draw_detections(pixels, image_boxes, image_names, colors=image_colors)
        row, column = divmod(i, columns)
        grid.paste(tile, (column * (width + _GRID_GAP), row * (height + _GRID_GAP)))
    return grid


def shrink(image: PIL.Image.Image, longest_side: int) -> tuple[PIL.Image.Image, float]:
    """Scale an image down to a longest side in pixels; a smaller one stays as it is.

    Returns:
      The image, and its scale: new pixels for each old one, 1 or less.
    """
    scale = min(1.0, longest_side / max(image.size))
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize(size, PIL.Image.Resampling.LANCZOS), scale


def pr_curves(result: "EvaluationResult", path: str | os.PathLike) -> None:
    """Write precision-recall curves: by IoU threshold, and by class at IoU 0.50.

    Of more than ten classes, the ten with the most objects are shown.

    Args:
      result: result of an evaluation.
      path: path of the image; the suffix determines its format (.png, .svg, .pdf).

    Raises:
      WriteError: when it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.5), layout="constrained")
    by_threshold, by_class = figure.subplots(1, 2, sharey=True)
    for i in range(0, len(result.iou_thresholds), 2):
        # Mean over classes with objects.
        counted = ~np.isnan(result.precision[i, 0])
        curve = result.precision[i][:, counted]
        if counted.any():
            label = f"IoU {result.iou_thresholds[i]:.2f}"
            by_threshold.plot(result.recalls, curve.mean(axis=1), label=label)
    shown = sorted(
        (item.objects, -index) for index, item in enumerate(result.per_class) if item.objects
    )
    for _, negative_index in reversed(shown[-_MOST_CURVES:]):
        item = result.per_class[-negative_index]
        by_class.plot(
            result.recalls,
            result.precision[0, :, -negative_index],
            label=f"{shorten(item.name)} (AP50 {item.ap50:.2f})",
            color=np.array(class_color(item.name)) / 255,
        )
    for axes, title in ((by_threshold, "Mean over classes"), (by_class, "Classes at IoU 0.50")):
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        if axes.lines:
            names = [str(line.get_label()) for line in axes.lines]
            # Beside the axes, since weak curves are in one corner, good ones in the other. Names
            # are given, because those that begin with an underscore are left out otherwise.
            beside = dict(loc="upper left", bbox_to_anchor=(1.0, 1.0))
            legend = axes.legend(axes.lines, names, fontsize="small", **beside)
            set_fonts(legend.get_texts())
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


def class_names(names: Sequence[str], class_indices: np.ndarray) -> list[str]:
    """Return the name of each class index, "ignored" for negative ones (no class)."""
    return [names[index] if index >= 0 else "ignored" for index in class_indices]


def class_color(name: str) -> tuple[int, int, int]:
    """Return a fixed RGB colour of a class name, 0..255."""
    code = zlib.crc32(name.encode())
    hue, value = (code % 360) / 360, 0.75 + 0.25 * (code // 360 % 4) / 3
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _to_pil(image: PIL.Image.Image | np.ndarray) -> PIL.Image.Image:
    if isinstance(image, PIL.Image.Image):
        return image.convert("RGB")
    return PIL.Image.fromarray(np.asarray(image, np.uint8))


def _clip_to_image(box: np.ndarray, size: tuple[int, int]) -> list[float]:
    """Clip a box to the image, so that its outline is visible."""
    width, height = size
    limits = (height - 1, width - 1, height - 1, width - 1)
    ymin, xmin, ymax, xmax = (float(np.clip(value, 0, limit)) for value, limit in zip(box, limits))
    return [ymin, xmin, max(ymin, ymax), max(xmin, xmax)]


def _draw_label(
    draw: PIL.ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    color: tuple[int, int, int],
    font_size: int,
    size: tuple[int, int],
) -> None:
    """Draw text on a patch of `color`, above the corner if there is room."""
    font, text = font_and_text(text, font_size)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = max(1, round(font.size / 8))
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(0, min(corner[0], size[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + pad - left, y + pad - top), text, fill=_contrasting_color(color), font=font)


def _contrasting_color(color: tuple[int, int, int]) -> str:
    """Choose black or white for contrast (luma weights of ITU-R BT.601)."""
    red, green, blue = color
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
