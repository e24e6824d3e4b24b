"""Anchors fitted to the training set when a run starts."""

from efficientdet_tf.checkpoints.pretrained import has_heads
from efficientdet_tf.config import Config, format_value
from efficientdet_tf.data.anchor_proposal import coverage, propose
from efficientdet_tf.data.anchor_recall import best_ious, network_boxes
from efficientdet_tf.data.records import DetectionData


def settings(config: Config, data: DetectionData, stored: Config | None) -> dict[str, object]:
    """Fit the anchors to a training set, as overrides for `Config`, and print the gain.

    Args:
      config: config; without `anchors.auto` its anchors stay unchanged.
      data: training set.
      stored: config of the run that is resumed, whose fitted anchors are kept; None for a new
        run.

    Returns:
      Values of `anchors.scale` and `anchors.aspect_ratios`, or {}.

    Raises:
      UserError: if `training.pretrained` does not exist.
    """
    if not config.anchors.auto:
        return {}
    if stored is not None and stored.anchors.auto:
        fitted = stored.anchors
        return {"anchors.scale": fitted.scale, "anchors.aspect_ratios": fitted.aspect_ratios}
    model = config.model
    boxes = network_boxes(data.records, model.image_size, model.resize).boxes
    # The heads of a pretrained detector learned one output for each aspect ratio.
    overrides = propose(boxes, config, fit_ratios=not has_heads(config.training.pretrained))
    before = coverage("", best_ious(boxes, config), config)
    if not overrides:
        print(
            f"anchors: kept; best possible recall {before.recall:.3f}, mean IoU "
            f"{before.mean_iou:.3f}"
        )
        return {}
    fit = config.override(overrides)
    after = coverage("", best_ious(boxes, fit), fit)
    print(
        f"anchors: fitted to the training set: scale {fit.anchors.scale:g}, aspect_ratios "
        f"{format_value(fit.anchors.aspect_ratios)}; best possible recall {before.recall:.3f} -> "
        f"{after.recall:.3f}, mean IoU {before.mean_iou:.3f} -> {after.mean_iou:.3f}"
    )
    return overrides
