"""Published models, and their compound-scaling formulas."""

import math
from typing import Any

from efficientdet_tf.backbones import BACKBONES
from efficientdet_tf.config.declaration import ConfigError
from efficientdet_tf.config.sections import AnchorConfig, ModelConfig, NeckConfig, TrainingConfig


def compound_scaling(phi: float) -> dict[str, int]:
    """Compute widths, depths and resolution by the paper's formulas (section 4.2).

    Equations 1 to 3: width 64 * 1.35 ** phi, BiFPN depth 3 + phi, head depth
    3 + floor(phi / 3), input 512 + 128 * phi. The paper rounds widths by hand;
    here they are rounded to the nearest multiple of 8, and the input to the
    nearest multiple of 128. Fractional and negative phi are valid if all sizes
    are positive.

    Args:
      phi: the compound coefficient; 0 gives D0.

    Returns:
      Settings: `neck.num_filters`, `neck.num_repeats`, `model.head_repeats`,
      `model.image_size` (pixels).

    Raises:
      ConfigError: if a size would be zero or negative.
    """
    if not math.isfinite(phi):
        raise ConfigError(f"compound coefficient {phi} is not a finite number")
    sizes = {
        "neck.num_filters": 8 * _nearest(64 * 1.35**phi / 8),
        "neck.num_repeats": _nearest(3 + phi),
        "model.head_repeats": 3 + math.floor(phi / 3),
        "model.image_size": 128 * _nearest((512 + 128 * phi) / 128),
    }
    if min(sizes.values()) <= 0:
        raise ConfigError(f"compound coefficient {phi} gives invalid sizes: {sizes}")
    return sizes


# From one BiFPN cell to the largest backbone.
_LEAST_PHI, _LARGEST_PHI = -2.5, 7
# Factors of EfficientNet's width and depth for one unit of its coefficient.
_BACKBONE_WIDTH, _BACKBONE_DEPTH = 1.1, 1.2


def compound_model(phi: float) -> tuple[str, dict[str, Any]]:
    """Scale a whole model, backbone included, by the compound coefficient.

    The paper's backbone is B_phi. A fractional phi takes the nearest one, because there are
    ImageNet weights for it (halves go up). Below 0 it is B0, narrower and shallower by
    EfficientNet's formula, width 1.1 ** phi and depth 1.2 ** phi.

    Args:
      phi: the compound coefficient, -2.5 to 7; 0, 1 and 3 give D0, D1 and D3 exactly.

    Returns:
      The nearest row of `MODELS`, which has all other settings; settings that replace its own.

    Raises:
      ConfigError: if the coefficient is outside of the range.
    """
    # False for NaN, too.
    if not _LEAST_PHI <= phi <= _LARGEST_PHI:
        raise ConfigError(f"phi: {phi:g} is not a number from {_LEAST_PHI} to {_LARGEST_PHI}")
    nearest = max(0, _nearest(phi))
    settings: dict[str, Any] = {
        **compound_scaling(phi),
        "model.backbone": f"efficientnet-b{nearest}",
    }
    if phi < 0:
        settings["model.backbone_width"] = round(_BACKBONE_WIDTH**phi, 3)
        settings["model.backbone_depth"] = round(_BACKBONE_DEPTH**phi, 3)
    return f"efficientdet-d{nearest}", settings


def _nearest(value: float) -> int:
    """Round halves up, so that a larger coefficient never gives a smaller size."""
    return math.floor(value + 0.5)


def _published(
    name: str,
    size: int,
    backbone: str,
    width: int,
    cells: int,
    head: int,
    *,
    anchor_scale: float = 4.0,
    fusion: str = "fast",
    max_level: int = 7,
    epochs: int = 300,
) -> dict:
    """Build a row of `MODELS` from the columns that differ between models."""
    backbone_name = f"efficientnet-{backbone}"
    needs = BACKBONES[backbone_name]
    model = ModelConfig(
        name=f"efficientdet-{name}",
        image_size=(size, size),
        backbone=backbone_name,
        backbone_survival_prob=needs.survival_prob,
        head_repeats=head,
        max_level=max_level,
        activation="relu6" if "lite" in name else "swish",
        pixel_mean=needs.pixel_mean,
        pixel_std=needs.pixel_std,
    )
    return {
        "model": model,
        "neck": NeckConfig(num_filters=width, num_repeats=cells, fusion=fusion),
        "anchors": AnchorConfig(scale=anchor_scale),
        "training": TrainingConfig(epochs=epochs),
    }


MODELS = {
    row["model"].name: row
    for row in (
        # name, input, backbone, width, BiFPN cells, head layers
        _published("d0", 512, "b0", 64, 3, 3),
        _published("d1", 640, "b1", 88, 4, 3),
        _published("d2", 768, "b2", 112, 5, 3),
        _published("d3", 896, "b3", 160, 6, 4),
        _published("d4", 1024, "b4", 224, 7, 4),
        _published("d5", 1280, "b5", 288, 7, 4),
        _published("d6", 1280, "b6", 384, 8, 5, fusion="sum"),
        _published("d7", 1536, "b6", 384, 8, 5, fusion="sum", anchor_scale=5.0, epochs=600),
        _published("d7x", 1536, "b7", 384, 8, 5, fusion="sum", max_level=8, epochs=600),
        _published("lite0", 320, "lite0", 64, 3, 3, fusion="sum", anchor_scale=3.0),
        _published("lite1", 384, "lite1", 88, 4, 3, fusion="sum", anchor_scale=3.0),
        _published("lite2", 448, "lite2", 112, 5, 3, fusion="sum", anchor_scale=3.0),
        _published("lite3", 512, "lite3", 160, 6, 4, fusion="sum"),
        _published("lite3x", 640, "lite3", 200, 6, 4, fusion="sum", anchor_scale=3.0),
        _published("lite4", 640, "lite4", 224, 7, 4, fusion="sum"),
    )
}
