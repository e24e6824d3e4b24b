"""Command line: best possible recall of the anchors, and anchors that fit a data set better."""

import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.config_flags import config_from_flags, define_config_flags
from efficientdet_tf.cli.data_flags import define_source_flags
from efficientdet_tf.output_files import (
    check_replaceable,
    image_format,
    is_own_image,
    write_image,
)

if TYPE_CHECKING:
    import numpy as np

    from efficientdet_tf.config import Config
    from efficientdet_tf.data.anchor_proposal import Coverage
    from efficientdet_tf.data.anchor_recall import NetworkBoxes
    from efficientdet_tf.data.records import DetectionData

# Classes that are listed, lowest recall first.
_MOST_CLASSES = 20


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()
    define_config_flags(values)
    define_source_flags(values)
    flags.DEFINE_enum(
        "split", "train", ["train", "val"], "Split, if --data holds both.", flag_values=values
    )
    flags.DEFINE_string("output", None, "Image of the plot, e.g. anchors.png.", flag_values=values)
    return values


class _Measured(NamedTuple):
    """Boxes with the coverage by a config's anchors, at its and at other input sizes."""

    config: "Config"
    boxes: "NetworkBoxes"
    ious: "np.ndarray"
    inputs: "list[tuple[tuple[int, int], Coverage]]"


def fit_anchors(values: flags.FlagValues) -> None:
    """Print the best possible recall and the proposals, and write the plot.

    Raises:
      UserError: if the data set or the output cannot be used.
    """
    command_line.require(values, "data")
    config = config_from_flags(values)
    if values.output:
        image_format(pathlib.Path(values.output).suffix)
        check_replaceable(pathlib.Path(values.output), is_own_image)
    # Imported here, so that --help and flag errors are fast.
    from efficientdet_tf.data import anchor_proposal, input_size, parts

    data = parts.load_split(
        # No pixels are needed.
        config.override({"data.verify": "header"}),
        values.split,
        path=values.data,
        format=values.format,
        images=values.images,
    )
    parts.require_objects(data)
    config, chosen = input_size.resolve(config, data.records)
    if chosen:
        print(chosen)
    now = _measure(data, config)
    _print_coverage(now, data)
    proposal = anchor_proposal.propose(now.boxes.boxes, config)
    proposed = _measure(data, config.override(proposal)) if proposal else None
    _print_proposals(now, proposed)
    if values.output:
        _save(now, proposed, pathlib.Path(values.output))
        print(f"\nWritten to {values.output}")


def _measure(data: "DetectionData", config: "Config") -> _Measured:
    from efficientdet_tf.data import anchor_proposal, anchor_recall

    model = config.model
    boxes = anchor_recall.network_boxes(data.records, model.image_size, model.resize)
    ious = anchor_recall.best_ious(boxes.boxes, config)
    return _Measured(config, boxes, ious, anchor_proposal.by_input_size(data.records, config))


def _print_coverage(now: _Measured, data: "DetectionData") -> None:
    from efficientdet_tf.data import anchor_proposal

    config, boxes, ious = now.config, now.boxes, now.ious
    height, width = config.model.image_size
    every = anchor_proposal.coverage("all", ious, config)
    print(f"{data.source}: {every.count:,} boxes at {height} x {width} pixels, {config.model.name}")
    print(
        f"best possible recall: share of the boxes that an anchor covers with an IoU of "
        f"{config.anchors.positive_iou_threshold:g} or more"
    )
    _print_table("size", [every, *anchor_proposal.by_size(boxes, ious, config)])
    classes = anchor_proposal.by_class(boxes, ious, data.label_map, config)
    _print_table("class", classes[:_MOST_CLASSES])
    if len(classes) > _MOST_CLASSES:
        print(f"... and {len(classes) - _MOST_CLASSES} classes with higher recall")
    _print_table("input", [found for _, found in now.inputs])


def _print_table(head: str, rows: "Iterable[Coverage]") -> None:
    print(f"\n{head:20} {'boxes':>8} {'recall':>7} {'mean IoU':>9}")
    for row in rows:
        numbers = f"{row.recall:7.3f} {row.mean_iou:9.3f}" if row.count else f"{'-':>7} {'-':>9}"
        print(f"{row.name[:20]:20} {row.count:8,} {numbers}")


def _print_proposals(now: _Measured, proposed: _Measured | None) -> None:
    from efficientdet_tf.config import format_value
    from efficientdet_tf.data import anchor_proposal

    print()
    larger = anchor_proposal.better_input_size(now.inputs, now.config.model.image_size)
    if larger:
        (height, width), found = larger
        size = height if height == width else f"{height}x{width}"
        print(f"a larger input: recall {found.recall:.3f} with --set model.image_size={size}")
    else:
        print("a larger input: no higher recall")
    if proposed is None:
        print("other anchors: none that cover the boxes better")
        return
    before, after = (
        anchor_proposal.coverage("", each.ious, each.config) for each in (now, proposed)
    )
    anchors = proposed.config.anchors
    ratios = format_value(anchors.aspect_ratios).replace(" ", "")
    print(
        f"other anchors: recall {before.recall:.3f} -> {after.recall:.3f}, mean IoU "
        f"{before.mean_iou:.3f} -> {after.mean_iou:.3f} with\n"
        f"  --set anchors.scale={anchors.scale:g} --set anchors.aspect_ratios={ratios}"
    )


def _save(now: _Measured, proposed: _Measured | None, path: pathlib.Path) -> None:
    import numpy as np

    from efficientdet_tf.visualization.anchor_plot import plot_anchors

    drawn = [("anchors", now)] + ([("proposed anchors", proposed)] if proposed else [])
    image = plot_anchors(
        now.boxes.boxes,
        now.ious,
        [(name, each.config) for name, each in drawn],
        [
            (
                name,
                np.array([max(size) for size, _ in each.inputs]),
                np.array([found.recall for _, found in each.inputs]),
            )
            for name, each in drawn
        ],
    )
    write_image(image, path)


COMMAND = command_line.Command(
    "data",
    "Measure how well the anchors cover a data set, and propose better ones and an input size.",
    define_flags,
    fit_anchors,
)
