"""Heat maps over images, alone and as panels with a detection each."""

from collections.abc import Sequence

import numpy as np
import PIL.Image

from efficientdet_tf.visualization.drawing import class_color, draw_batch

_COLORS = "inferno"
# Where its colours begin: black would look like a shadow of the image.
_DARKEST = 0.25
# Most opaque; what lies under the highest values is still recognisable.
_OPACITY = 0.75
# Of the image under the colours, so that dark and light ones are distinct from it.
_SATURATION = 0.3


def overlay_heat_map(image: PIL.Image.Image, heat_map: np.ndarray) -> PIL.Image.Image:
    """Lay a heat map over an image, whose colours are faded.

    Args:
      image: RGB, of any size.
      heat_map: float [h, w] of the same size, 0 or more. Its highest value has the brightest and
        most opaque colour; zeros are transparent.

    Returns:
      An RGB image of the same size.
    """
    import matplotlib

    relative = heat_map / max(float(heat_map.max(initial=0.0)), np.finfo(np.float32).tiny)
    shades = _DARKEST + (1 - _DARKEST) * relative
    colors = matplotlib.colormaps[_COLORS](shades)[..., :3] * 255
    pixels = np.asarray(image, np.float32)
    grey = pixels.mean(axis=-1, keepdims=True)
    pixels = grey + _SATURATION * (pixels - grey)
    opacity = _OPACITY * np.minimum(1.0, 1.5 * relative)[..., None]
    blended = (1 - opacity) * pixels + opacity * colors
    return PIL.Image.fromarray(np.rint(blended).astype(np.uint8))


def draw_heat_maps(
    image: PIL.Image.Image,
    heat_maps: Sequence[np.ndarray],
    boxes: np.ndarray,
    names: Sequence[str],
    scores: Sequence[float],
) -> PIL.Image.Image:
    """Draw a panel for each detection: its heat map over the image, box, class and score.

    Args:
      image: RGB.
      heat_maps: n of float [h, w], of the size of the image.
      boxes: float [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
      names: n class names.
      scores: n scores, 0..1.

    Returns:
      An RGB image with the panels in a grid of at most four columns; the image alone if there
      is no detection.
    """
    if not heat_maps:
        return image.convert("RGB")
    panels = [np.asarray(overlay_heat_map(image, heat_map)) for heat_map in heat_maps]
    return draw_batch(
        panels,
        list(np.reshape(boxes, (-1, 1, 4))),
        [[f"{name} {100 * score:.0f}%"] for name, score in zip(names, scores)],
        columns=min(4, int(np.ceil(np.sqrt(len(panels))))),
        colors=[[class_color(name)] for name in names],
    )
