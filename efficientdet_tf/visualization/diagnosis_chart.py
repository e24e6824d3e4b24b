"""Chart of a diagnosis: AP lost by kind of error, and calibration."""

import os
from typing import TYPE_CHECKING

import numpy as np

from efficientdet_tf.files import replacing

if TYPE_CHECKING:
    from efficientdet_tf.evaluation.checks import Checks


def diagnosis_chart(checks: "Checks", path: str | os.PathLike) -> None:
    """Write bars of the AP50 lost by kind of error, and precision by score.

    Args:
      checks: results of the checks.
      path: path of the image; the suffix determines its format (.png, .svg, .pdf).

    Raises:
      WriteError: when it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    errors, scores = figure.subplots(1, 2)
    shares = checks.errors.shares
    bars = errors.barh(list(shares), np.nan_to_num(list(shares.values())))
    errors.bar_label(bars, [f"{share:.3f}" for share in shares.values()], padding=3)
    errors.invert_yaxis()
    errors.margins(x=0.12)
    errors.set(title="Kinds of errors", xlabel="AP50 lost")
    calibration = checks.calibration
    scores.plot([0, 1], [0, 1], color="grey", linestyle="dashed", label="calibrated")
    label = f"detections (error {calibration.error:.3f})"
    scores.plot(calibration.scores, calibration.precision, marker="o", label=label)
    scores.set(title="Calibration", xlabel="mean score", ylabel="precision at IoU 0.50")
    scores.set(xlim=(0, 1), ylim=(0, 1.02))
    scores.legend(fontsize="small", loc="upper left")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
