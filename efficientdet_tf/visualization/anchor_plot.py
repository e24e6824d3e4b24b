"""Plot of the boxes of a data set beside the anchors."""

from collections.abc import Sequence

import numpy as np
import PIL.Image

from efficientdet_tf import anchors
from efficientdet_tf.boxes import sizes
from efficientdet_tf.config import Config

# More points in one plot hide each other.
_MOST_POINTS = 5000


def plot_anchors(
    boxes: np.ndarray,
    ious: np.ndarray,
    configs: Sequence[tuple[str, Config]],
    recalls: Sequence[tuple[str, np.ndarray, np.ndarray]],
) -> PIL.Image.Image:
    """Plot boxes with the anchors, and the best possible recall by input size.

    Args:
      boxes: float [n, 4], ymin, xmin, ymax, xmax in pixels of the network's input.
      ious: float [n], IoU of each box with the best anchor of the first config.
      configs: (name, config) of the anchors to draw.
      recalls: (name, longer side of the input in pixels [m], recall [m]) of each curve.

    Returns:
      An RGB image of 1320 x 600 pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot, which would use a window system if available.
    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    shapes, curves = figure.subplots(1, 2)
    shown = np.random.default_rng(0).permutation(len(boxes))[:_MOST_POINTS]
    threshold = configs[0][1].anchors.positive_iou_threshold
    covered = ious[shown] >= threshold
    height, width = sizes(boxes[shown]).T
    for mask, color, words in ((covered, "0.6", "covered"), (~covered, "tab:red", "not covered")):
        label = f"boxes, {words} ({mask.mean():.1%})" if len(mask) else words
        shapes.scatter(width[mask], height[mask], s=5, color=color, label=label)
    for (name, config), marker in zip(configs, "sx^v"):
        extents = _anchor_sizes(config)
        shapes.scatter(*extents[:, ::-1].T, s=22, marker=marker, label=name, alpha=0.8)
    shapes.set(title="Boxes and anchors", xlabel="width in network pixels", xscale="log")
    shapes.set(ylabel="height in network pixels", yscale="log")
    shapes.legend(fontsize="small")
    for name, sides, values in recalls:
        curves.plot(sides, values, marker="o", label=name)
    curves.set(title=f"Best possible recall at IoU {threshold:g}", ylim=(None, 1.02))
    curves.set(xlabel="longer side of the input in pixels", ylabel="recall")
    curves.grid(alpha=0.3)
    curves.legend(fontsize="small")
    canvas.draw()
    return PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())


def _anchor_sizes(config: Config) -> np.ndarray:
    """Return height and width of each anchor shape in network pixels: float64 [n, 2]."""
    size = config.model.image_size
    levels = range(config.model.min_level, config.model.max_level + 1)
    features = anchors.feature_sizes(size, config.model.max_level)
    shapes = anchors.shapes(config.anchors.num_scales, config.anchors.aspect_ratios)
    strides = [np.array(size) / features[level] for level in levels]
    return np.concatenate(
        [config.anchors.scale * stride * shapes.reshape(-1, 2) for stride in strides]
    )
