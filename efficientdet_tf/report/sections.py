"""Sections of the report page, each an element."""

import math
from typing import Any

import numpy as np

from efficientdet_tf.config import Config, format_value
from efficientdet_tf.config import settings as declared_settings
from efficientdet_tf.data.records import DataError
from efficientdet_tf.data.statistics import DataStatistics
from efficientdet_tf.evaluation import verified_files
from efficientdet_tf.evaluation.confusion import ImageOutcome
from efficientdet_tf.evaluation.side_by_side import side_by_side
from efficientdet_tf.inference import compared_runtimes
from efficientdet_tf.report.charts import (
    COLORS,
    Line,
    bar_chart,
    confusion_chart,
    line_chart,
    weights_chart,
)
from efficientdet_tf.report.contents import Contents
from efficientdet_tf.report.document import data_uri, png_uri, section
from efficientdet_tf.report.false_positive_maps import draw_false_positive
from efficientdet_tf.report.fusion_weights import NodeWeights
from efficientdet_tf.visualization.elements import Element, bar, element, number, table
from keras_layers.fusion import fusion_operation

_LONGEST_SIDE = 560
_MOST_CONFUSED = 10
_MOST_PROBLEMS = 20
# Limits of the histogram bins: sizes in pixels, and aspect ratios, width / height.
_SIZES = (8, 16, 32, 64, 128, 256, 512)
_ASPECTS = (1 / 4, 1 / 2, 3 / 4, 4 / 3, 2, 4)
_ASPECT_NAMES = (
    *("<\u00bc", "\u00bc\u2013\u00bd", "\u00bd\u2013\u00be", "square", "1\u2153\u20132"),
    *("2\u20134", ">4"),
)


def header(contents: Contents) -> Element:
    """Make the header: model, data and main metrics."""
    config, metrics = contents.config, contents.result.metrics
    tiles = [
        *((name, metric(metrics[name])) for name in ("AP", "AP50", "AP75")),
        ("epochs", f"{len(contents.history)}"),
        ("minutes", f"{contents.minutes:.{0 if contents.minutes >= 10 else 1}f}"),
    ]
    height, width = config.model.image_size
    about = (
        f"{len(contents.label_map)} classes, {height}\u00d7{width} pixels. "
        f"Trained on {config.data.train}, measured on {contents.result.num_images} images of "
        f"{config.data.val}. {contents.ended:%Y-%m-%d %H:%M %Z}."
    )
    return element(
        "header",
        element("h1", config.model.name),
        element("p", about),
        element(
            "div",
            *(element("div", element("b", value), element("span", name)) for name, value in tiles),
            class_="tiles",
        ),
        element("p", _describe_weights(contents), class_="quiet"),
    )


def curves(contents: Contents) -> Element:
    """Draw losses, metrics and learning rate by epoch."""
    if not contents.history:
        return section("Training", element("p", "No epoch has been measured.", class_="quiet"))
    epochs = contents.column("epoch")

    def chart(title: str, *names: Any, y_range: tuple[float, float] | None = None) -> Element:
        lines = []
        for color, name in enumerate(names):
            # Metrics are measured in some epochs only; the line connects them.
            known = np.isfinite(contents.column(name))
            if known.any():
                lines.append(Line(name, epochs[known], contents.column(name)[known], color))
        return line_chart(title, lines, "epoch", y_range, (epochs[0], epochs[-1]))

    charts = [
        chart("Loss", "loss", "detection_loss"),
        chart("Average precision on the validation set", "AP", "AP50", "AP75", y_range=(0.0, 1.0)),
        chart("Class loss", "class_loss"),
        chart("Box loss", "box_loss"),
        chart("Learning rate", "learning_rate"),
        chart("Gradient norm", "gradient_norm"),
    ]
    if contents.range_test:
        title = "Learning-rate range test"
        image = element("img", src=png_uri(contents.range_test), alt=title, loading="lazy")
        charts.append(element("figure", element("h3", title), image, class_="card"))
    return section("Training", element("div", *charts, class_="grid"))


def classes(contents: Contents) -> Element:
    """List metrics and object counts of each class, highest AP first."""
    confusion, weights = contents.confusion, contents.config.loss.class_weight_values
    most = [max(1, int(part.objects.max(initial=0))) for part in _parts(contents).values()]
    head = ["Class", "AP", "AP50", "Precision", "Recall"]
    head += [f"Objects in {name}" for name in _parts(contents)] + ["Weight"] * bool(weights)
    rows = []
    for i in _best_first([item.ap for item in contents.result.per_class]):
        item = contents.result.per_class[i]
        row = [item.name, bar(item.ap, metric(item.ap)), number(metric(item.ap50))]
        row += [number(metric(confusion.precision[i])), number(metric(confusion.recall[i]))]
        for part, highest in zip(_parts(contents).values(), most):
            count = int(part.objects[i])
            row.append(bar(count / highest, f"{count:,}", "c9"))
        rows.append([*row, number(f"{weights[i]:.3g}")] if weights else row)
    # Without a true positive, F1 is 0 at each score.
    why = ", where F1 over all classes is best" if confusion.matrix.diagonal().any() else ""
    note = (
        f"AP over IoU 0.50 to 0.95. Precision and recall are of detections that score at least "
        f"{confusion.score_threshold:.3g}{why}, at IoU {confusion.iou_threshold:g}. Crowd regions "
        "and ignored objects do not count."
    )
    return section("Classes", element("p", note, class_="quiet"), table(head, rows, "long"))


def precision_recall(contents: Contents) -> Element:
    """Draw precision-recall curves by IoU threshold and by class."""
    result = contents.result
    counted = ~np.isnan(result.precision[0, 0])
    by_threshold = []
    for i in range(0, len(result.iou_thresholds), 2) if counted.any() else ():
        mean = result.precision[i][:, counted].mean(axis=1)
        by_threshold.append(
            Line(f"IoU {result.iou_thresholds[i]:.2f}", result.recalls, mean, i // 2)
        )
    most_objects = sorted(np.flatnonzero(counted), key=lambda i: -result.per_class[i].objects)
    by_class = [
        Line(
            result.per_class[i].name if rank < COLORS else "",
            result.recalls,
            result.precision[0, :, i],
            rank % COLORS,
        )
        for rank, i in enumerate(most_objects)
    ]
    title = "Classes at IoU 0.50"
    if len(by_class) > COLORS:
        title += f": the {COLORS} with most objects"
    unit = (0.0, 1.0)
    charts = [
        line_chart("Mean over classes", by_threshold, "recall", unit, unit),
        line_chart(title, by_class, "recall", unit, unit),
    ]
    return section("Precision-recall curves", element("div", *charts, class_="grid"))


def confusion_matrix(contents: Contents) -> Element:
    """Draw the confusion matrix, and list the most confused classes."""
    confusion = contents.confusion
    note = (
        "Rows: ground truth. Columns: predictions with a score of at least "
        f"{confusion.score_threshold:.3g}, matched from an IoU of {confusion.iou_threshold:g}. "
        "Colours show the share of a cell in its row."
    )
    parts = [
        element("p", note, class_="quiet"),
        element("div", confusion_chart(confusion), class_="scroll card"),
    ]
    pairs = confusion.most_confused(_MOST_CONFUSED)
    if pairs:
        rows = [[truth, taken, number(str(count))] for truth, taken, count in pairs]
        parts.append(element("h3", "Most often confused"))
        parts.append(table(["Ground truth", "Predicted as", "Count"], rows))
    return section("Confusion matrix", *parts)


def worst_images(contents: Contents) -> Element:
    """Show the images with the most errors: ground truth, predictions, and a heat map."""
    if not contents.worst_images:
        return section("Worst images", element("p", "No errors.", class_="quiet"))
    key = element(
        "p",
        "First: ground truth. Second: predictions. ",
        element("i", class_="right"),
        "correct ",
        element("i", class_="wrong"),
        "false negative or false positive ",
        element("i", class_="other"),
        "crowd or ignored, not counted",
        class_="quiet key",
    )
    parts = [key]
    if contents.explanations:
        note = (
            "Third: where the network looked for the false positive with the highest score. Bright "
            "places raised the logit of its class most."
        )
        parts.append(element("p", note, class_="quiet"))
    shown = [_worst_image(outcome, contents) for outcome in contents.worst_images]
    return section("Worst images", *parts, element("div", *shown, class_="column"))


def data(contents: Contents) -> Element:
    """Show numbers of images and objects, object sizes and skipped items."""
    parts = _parts(contents)
    rows = [
        [
            name,
            number(f"{part.num_images:,}"),
            number(f"{part.num_empty:,}"),
            number(f"{part.objects.sum():,}"),
            number(f"{part.objects.sum() / max(1, part.num_images):.1f}"),
            number(f"{part.num_ignored:,}"),
        ]
        for name, part in parts.items()
    ]
    head = ["Set", "Images", "Without objects", "Objects", "Objects per image", "Ignored"]
    names = [f"<{_SIZES[0]}", *map("{}\u2013{}".format, _SIZES, _SIZES[1:]), f">{_SIZES[-1]}"]
    sizes = [(name, _histogram(part.sizes, _SIZES)) for name, part in parts.items()]
    aspects = [(name, _histogram(part.aspects, _ASPECTS)) for name, part in parts.items()]
    charts = [
        bar_chart("Size of objects", names, sizes, "pixels of the network's input"),
        bar_chart("Shape of objects", _ASPECT_NAMES, aspects, "width over height"),
    ]
    made = [table(head, rows), element("div", *charts, class_="grid")]
    if contents.train is None:
        made.insert(1, element("p", "The training set cannot be read any more.", class_="quiet"))
    made += [element("p", note, class_="quiet") for note in contents.notes]
    if contents.problems:
        lines = [element("li", line) for line in contents.problems[:_MOST_PROBLEMS]]
        summary = element(
            "summary", f"{len(contents.problems):,} records or objects skipped or ignored"
        )
        made.append(element("details", summary, element("ul", *lines)))
    if contents.skipped_images:
        lines = [
            element("li", f"{name}: {reason}")
            for name, reason in list(contents.skipped_images.items())[:_MOST_PROBLEMS]
        ]
        times = np.nansum(contents.column("images_skipped"))
        summary = element(
            "summary",
            f"Images skipped in training: {len(contents.skipped_images):,}, {times:,.0f} times",
        )
        made.append(element("details", summary, element("ul", *lines)))
    return section("Data", *made)


def fusion_weights(contents: Contents) -> Element:
    """Draw and list the weights of the inputs of each fusion node, by cell."""
    method = contents.fusion_weights[0].method
    note = (
        "Weights with which the nodes of the feature network fuse their inputs, normalised as the "
        f"network computes them: {fusion_operation(method).meaning}."
    )
    if method.startswith("channel_"):
        note += " Bars are means over channels, lines the range from the lowest to the highest."
    cells: dict[tuple[str, int], list[NodeWeights]] = {}
    for item in contents.fusion_weights:
        cells.setdefault((item.stage, item.cell), []).append(item)
    charts = [
        weights_chart(f"{stage}, cell {cell}", items) for (stage, cell), items in cells.items()
    ]
    rows = [
        [item.stage, number(str(item.cell)), item.node, source, number(f"{mean:.4f}")]
        for item in contents.fusion_weights
        for source, mean in zip(item.inputs, item.means)
    ]
    head = ["Part", "Cell", "Node", "Input", "Weight"]
    values = element("details", element("summary", "All weights"), table(head, rows))
    parts = [element("div", *charts, class_="grid"), values]
    return section("Fusion weights", element("p", note, class_="quiet"), *parts)


def exported_files(contents: Contents) -> Element:
    """List the measurements of `python -m export --verify`."""
    note = (
        "Beside the model with the same NMS: the loss of AP, the largest differences of a box, in "
        "pixels, and of a score, and the detections without a counterpart. Latency is the median "
        "and the 95th percentile by threads, from pixels to detections."
    )
    head = ["Format", "MB", "AP", "AP50", "Loss", "Box", "Score", "Lost", "Memory, MB", "Latency"]
    rows = [
        [
            f"{file.format}{verified_files.remarks(file)}",
            *(
                number(text)
                for text in (
                    f"{file.size / 1e6:.2f}",
                    metric(file.ap),
                    metric(file.ap50),
                    f"{file.ap_drop:.3f}",
                    f"{file.box_difference:.2f}",
                    f"{file.score_difference:.3f}",
                    f"{file.lost:.1%}",
                    f"{file.peak_memory / 1e6:.0f}",
                )
            ),
            verified_files.format_latency(file),
        ]
        for file in contents.exported
    ]
    return section("Exported files", element("p", note, class_="quiet"), table(head, rows))


def runtimes(contents: Contents) -> Element:
    """List the measurements of `python -m export --compare`, and say which runtime to use."""
    comparison = contents.runtimes
    assert comparison is not None
    note = (
        f"{comparison.machine}. AP on {comparison.source}. Exact: the detections are those of the "
        "run. Speed by threads, from pixels to detections: the median and the 95th percentile of "
        "an image, and images a second with batches of 1 and more."
    )
    head = ["Format", "Runtime", "MB", "AP", "Exact", "Memory, MB", "Speed"]
    rows = [
        [
            *(runtime.format, runtime.runtime),
            *(number(f"{runtime.size / 1e6:.2f}"), number(metric(runtime.ap))),
            "yes" if runtime.is_exact else "no",
            number(f"{runtime.peak_memory / 1e6:.0f}"),
            compared_runtimes.format_speed(runtime),
        ]
        for runtime in comparison.runtimes
    ]
    advice = element("ul", *(element("li", line) for line in comparison.advice()))
    return section("Runtimes", advice, element("p", note, class_="quiet"), table(head, rows))


def settings(contents: Contents) -> Element:
    """List the whole config, with changed settings marked."""
    defaults = Config.for_model(contents.config.model.name)
    differences, declared = contents.config.differences(defaults), declared_settings()
    groups = []
    for name_of_section, fields in contents.config.to_dict().items():
        rows = []
        for name, value in fields.items():
            key = f"{name_of_section}.{name}"
            text = element("td", _shown(value), class_="changed" if key in differences else "")
            rows.append([element("td", key, title=declared[key].description), text])
        groups.append(
            element("div", element("h3", name_of_section), table([], rows), class_="card")
        )
    note = "Marked values differ from those of the published model."
    lines = [
        element(
            "li",
            f"after epoch {change.epoch}: {key} {format_value(old)} \u2192 {format_value(new)}",
        )
        for change in contents.changes
        for key, (old, new) in change.settings.items()
    ]
    changes = [element("h3", "Changed when resumed"), element("ul", *lines)] if lines else []
    return section(
        "Settings",
        element("p", note, class_="quiet"),
        *changes,
        element("div", *groups, class_="grid"),
    )


def environment(contents: Contents) -> Element:
    """List the versions of Python and packages."""
    rows = [[name, value] for name, value in contents.environment.items()]
    return section("Environment", table([], rows))


def _worst_image(outcome: ImageOutcome, contents: Contents) -> Element:
    record = outcome.record
    name = (record.name or f"image {record.image_id}").replace("\\", "/").rpartition("/")[2]
    counts = f"FN {outcome.false_negatives}, FP {outcome.false_positives}, F1 {outcome.f1:.2f}"
    text = f"{name}: {counts}"
    caption = element("figcaption", text, title=record.name)
    explanation = contents.explanations.get(record.image_id)
    try:
        images = [*side_by_side(outcome, contents.label_map, _LONGEST_SIDE)]
        if explanation is not None:
            images.append(
                draw_false_positive(record, explanation, contents.label_map, _LONGEST_SIDE)
            )
    except DataError as error:
        return element("figure", element("p", str(error)), caption, class_="card")
    elements = [
        element("img", src=data_uri(image), alt=f"{name}, {what}", loading="lazy")
        for image, what in zip(images, ("ground truth", "predictions", "heat map"))
    ]
    pair = element("div", *elements, class_="pair three" if explanation else "pair")
    return element("figure", pair, caption, class_="card")


def _describe_weights(contents: Contents) -> str:
    measured, best = contents.result.metrics["AP"], contents.best_epoch
    if best is None:
        return "AP is COCO's, over IoU 0.50 to 0.95."
    text = f"epoch {best['epoch']:.0f}, the best of the run"
    # The file holds six digits.
    if math.isclose(best["AP"], measured, rel_tol=1e-4, abs_tol=1e-6):
        return f"AP is COCO's, over IoU 0.50 to 0.95, with the weights of {text}."
    if contents.weights == "best":
        # Measured in float32 and, possibly, on another device.
        return (
            f"AP is COCO's, over IoU 0.50 to 0.95, with the weights of {text}; in training it was "
            f"{best['AP']:.3f}."
        )
    return (
        f"AP is COCO's, over IoU 0.50 to 0.95. These weights are not those of {text}, with AP "
        f"{best['AP']:.3f}; efficientdet-report measures those."
    )


def _parts(contents: Contents) -> dict[str, DataStatistics]:
    training = {"training": contents.train} if contents.train else {}
    return {**training, "validation": contents.val}


def _best_first(values: list[float]) -> list[int]:
    """Return the indices by descending value, NaN last."""
    return sorted(range(len(values)), key=lambda i: (math.isnan(values[i]), -values[i]))


def _histogram(values: np.ndarray, limits: tuple) -> np.ndarray:
    """Return the shares of values between the limits, float64 [limits + 1]."""
    counts = np.bincount(np.searchsorted(limits, values, side="right"), minlength=len(limits) + 1)
    return counts / max(1, len(values))


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def metric(value: float) -> str:
    """Format a metric of 0..1; a dash for NaN."""
    return "\u2013" if math.isnan(value) else f"{value:.3f}"
