"""Histograms of a data set: classes, sizes, aspect ratios, and objects of an image."""

import io
from typing import TYPE_CHECKING

import numpy as np

from efficientdet_tf.data.statistics import SIZE_LIMITS, DataSummary
from efficientdet_tf.output_files import MARK
from efficientdet_tf.visualization.fonts import set_fonts, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Classes of the chart: the most frequent ones.
_MOST_CLASSES = 30
_BINS = 40


def draw_histograms(summaries: dict[str, DataSummary]) -> bytes:
    """Draw the histograms of the splits of a data set over each other.

    Args:
      summaries: split -> its summary; the splits have the same classes.

    Returns:
      A PNG file with the mark of `output_files.is_own_image`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    classes, at_input, original, aspects, per_image, images = figure.subplots(2, 3).ravel()
    _draw_classes(classes, summaries)
    first = next(iter(summaries.values()))
    height, width = first.image_size
    title = f"Object size at the input of {width} x {height}"
    sizes = {split: item.sizes_at_input for split, item in summaries.items()}
    _draw_histogram(at_input, title, "square root of the area in pixels", sizes, log=True)
    sizes = {split: item.sizes for split, item in summaries.items()}
    _draw_histogram(original, "Object size", "square root of the area in pixels", sizes, log=True)
    for axes in (at_input, original):
        for limit in SIZE_LIMITS:
            axes.axvline(limit, color="grey", linewidth=0.8, linestyle=":")
    values = {split: item.at_input.aspects for split, item in summaries.items()}
    _draw_histogram(aspects, "Object aspect ratio", "width / height", values, log=True)
    values = {split: item.per_image for split, item in summaries.items()}
    _draw_histogram(per_image, "Objects per image", "objects", values, log=False)
    for split, item in summaries.items():
        heights, widths = item.image_sizes.T
        images.scatter(widths, heights, s=9, alpha=0.4, label=split)
    images.set(title="Image size", xlabel="width in pixels", ylabel="height in pixels")
    for axes in figure.axes:
        if len(summaries) > 1:
            axes.legend(fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Comment": MARK})
    return file.getvalue()


def _draw_classes(axes: "Axes", summaries: dict[str, DataSummary]) -> None:
    """Draw the shares of the most frequent classes as bars, side by side for splits."""
    total = sum(item.at_input.objects for item in summaries.values())
    shown = np.argsort(-np.asarray(total), kind="stable")[:_MOST_CLASSES]
    names = next(iter(summaries.values())).label_map.names
    width = 0.8 / len(summaries)
    for position, (split, item) in enumerate(summaries.items()):
        places = np.arange(len(shown)) + (position - (len(summaries) - 1) / 2) * width
        axes.bar(places, item.at_input.objects[shown], width, label=split)
    labels = [shorten(names[index]) for index in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=90 if len(shown) > 5 else 0, fontsize=8)
    ticks = axes.get_xticklabels()
    set_fonts(ticks)
    # Ticks take their text from here, and nothing else.
    axes.set_xticklabels([tick.get_text() for tick in ticks])
    more = f", {len(shown)} of {len(names)} classes" if len(names) > len(shown) else ""
    axes.set(title=f"Objects by class{more}", ylabel="objects")


def _draw_histogram(
    axes: "Axes", title: str, label: str, values: dict[str, np.ndarray], log: bool
) -> None:
    """Draw the histograms of splits; `log` for a logarithmic axis, without values of zero."""
    every = np.concatenate([found[found > 0] if log else found for found in values.values()])
    if len(every) and log:
        bins = np.geomspace(every.min() * 0.999, every.max() * 1.001, _BINS)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        bins = np.arange(every.max(initial=0) + 2) - 0.5
        bins = bins if len(bins) <= _BINS else np.linspace(0, every.max(), _BINS)
    for split, found in values.items():
        axes.hist(found, bins.tolist(), histtype="stepfilled", alpha=0.5, label=split)
    axes.set(title=title, xlabel=label, ylabel="images" if title.endswith("image") else "objects")
