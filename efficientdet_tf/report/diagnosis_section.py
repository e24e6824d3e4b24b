"""Section of the report page on what costs AP."""

import math

import numpy as np

from efficientdet_tf.evaluation.checks import Checks
from efficientdet_tf.evaluation.error_shares import KINDS
from efficientdet_tf.report.charts import Line, line_chart
from efficientdet_tf.report.contents import Contents
from efficientdet_tf.visualization.elements import Element, bar, element, number, table

_MEANINGS = {
    "class": "on an object of another class",
    "localisation": "on an object of its class, at an IoU of 0.1 to 0.5",
    "both": "on an object of another class, at an IoU of 0.1 to 0.5",
    "duplicate": "on an object that is detected with a higher score",
    "background": "on no object, at an IoU below 0.1",
    "missed": "object without any of these",
}
# Changes of boxes with the highest AP50 that are listed.
_MOST_CHANGES = 5


def diagnosis(contents: Contents) -> Element:
    """Show what most likely costs AP: kinds of errors, checks, calibration, score thresholds."""
    found = contents.diagnosis
    sentence = found.sentence[0].upper() + found.sentence[1:]
    calibration = found.checks.calibration
    known = calibration.counts > 0
    lines = [
        Line("calibrated", np.array([0.0, 1.0]), np.array([0.0, 1.0]), 9),
        Line("detections", calibration.scores[known], calibration.precision[known]),
    ]
    title = f"Precision by score: calibration error {_number(calibration.error)}"
    if known.any():
        excess = calibration.excess
        title += f", scores {abs(excess):.3f} too {'high' if excess > 0 else 'low'} on average"
    unit = (0.0, 1.0)
    return element(
        "section",
        element("h2", "Why AP is not higher"),
        element("p", element("b", sentence)),
        *(element("p", f"{line}.") for line in found.limits),
        _errors(found.checks),
        element(
            "div",
            element(
                "div",
                element("h3", "Checks"),
                _checks(found.checks),
                *_classes_on_one_side(found.checks),
                class_="card",
            ),
            line_chart(title, lines if known.any() else [], "mean score", unit, unit),
            class_="grid",
        ),
        _thresholds(found.checks),
    )


def _errors(checks: Checks) -> Element:
    """List the AP50 that each kind of error costs."""
    errors = checks.errors
    rows = [
        [
            kind,
            bar(errors.shares[kind], _number(errors.shares[kind])),
            number(f"{errors.counts[kind]:,}"),
            _MEANINGS[kind],
        ]
        for kind in KINDS
    ]
    note = (
        f"AP50 is {_number(errors.ap50)}; AP50 lost is what it would gain without the errors of a "
        "kind (TIDE). Without any false positive it would be "
        f"{_number(errors.ap50 + errors.false_positives)}, without any false negative "
        f"{_number(errors.ap50 + errors.false_negatives)}."
    )
    head = ["Kind of error", "AP50 lost", "Count", "Meaning"]
    return element("div", element("p", note, class_="quiet"), table(head, rows))


def _checks(checks: Checks) -> Element:
    """List AP under other conditions."""
    changes = sorted(checks.changed_ap50.items(), key=lambda item: -item[1])[:_MOST_CHANGES]
    rows: list[tuple[str, float]] = [
        ("AP of the ground truth against itself", checks.ground_truth_ap),
        ("AP at IoU 0.1", checks.ap10),
        ("AP50 without classes", checks.class_agnostic_ap50),
        (f"AP50 in the {checks.num_changed} images of the following", checks.unchanged_ap50),
        ("AP50 with the classes of the objects that detections lie on", checks.relabelled_ap50),
        *((f"AP50 of boxes {change}", ap50) for change, ap50 in changes),
    ]
    return table([], [[name, number(_number(value))] for name, value in rows])


def _classes_on_one_side(checks: Checks) -> list[Element]:
    """List classes that only the ground truth or only the detections have."""
    lists = {
        "Classes with objects, but without detections": checks.undetected,
        "Classes with detections, but without objects": checks.unannotated,
    }
    return [
        element("p", f"{title}: {', '.join(names)}.", class_="quiet")
        for title, names in lists.items()
        if names
    ]


def _thresholds(checks: Checks) -> Element:
    """List the score threshold with the best F1 of each class."""
    rows = [
        [name, *(number(_number(v)) for v in (best.score, best.precision, best.recall, best.f1))]
        for name, best in checks.thresholds.items()
    ]
    head = ["Class", "Score threshold", "Precision", "Recall", "F1"]
    summary = element("summary", "Score thresholds with the best F1, by class")
    return element("details", summary, table(head, rows))


def _number(value: float) -> str:
    return "\u2013" if math.isnan(value) else f"{value:.3f}"
