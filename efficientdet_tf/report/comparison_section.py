"""Section of the report page that compares the run with another."""

import math

from efficientdet_tf.evaluation.comparison import FEWEST_IMAGES, Compared
from efficientdet_tf.report.contents import Contents
from efficientdet_tf.visualization.elements import Element, element, number, table


def comparison(contents: Contents) -> Element:
    """List the metrics of both runs, and the intervals of their differences.

    Args:
      contents: contents with a comparison.
    """
    found = contents.comparison
    assert found is not None
    note = (
        f"Both on the same images. The 95 % interval of the difference is from {found.resamples:,} "
        f"resamples of {found.num_images:,} images (bootstrap, seed {found.seed}); differences are "
        "marked if it has no 0. It does not tell what training with another seed would change. "
        f"There is none for fewer than {FEWEST_IMAGES} images with objects."
    )
    head = ["", "This run", "The other", "Difference", "95 % interval"]
    rows = [_row(name, compared) for name, compared in found.metrics.items()]
    classes = [_row(name, compared) for name, compared in found.classes.items()]
    return element(
        "section",
        element("h2", f"Compared with {found.against}"),
        element("p", note, class_="quiet"),
        table(head, rows),
        element("details", element("summary", "AP by class"), table(head, classes)),
    )


def _row(name: str, compared: Compared) -> list[Element | str]:
    if math.isnan(compared.difference):
        return [name, *(number("\u2013") for _ in range(4))]
    difference = element(
        "td", f"{compared.difference:+.3f}", class_="changed" if compared.is_clear else ""
    )
    low_to_high = f"{compared.low:+.3f} to {compared.high:+.3f}"
    interval = number(low_to_high if compared.has_interval else "\u2013")
    values = number(f"{compared.first:.3f}"), number(f"{compared.second:.3f}")
    return [name, *values, difference, interval]
