"""Benchmark of compound scaling: size and cost of models scaled jointly or in one dimension.

    python -m benchmarks.compound_scaling --phi=1,2,3

Prints, for each compound coefficient, the model of `train.py --phi`, and D0 scaled in one
dimension alone to the same multiply-adds, as nearly as a whole step of the dimension allows:
the comparison of the paper's figure 6. The figure's other axis, AP, takes a training of each:
`train.py --phi`, or `--model=efficientdet-d0 --set` with the setting of the dimension.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import flags

from efficientdet_tf import complexity
from efficientdet_tf import model as model_lib
from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config

FLAGS = flags.FlagValues()

flags.DEFINE_list("phi", ["1", "2", "3"], "Compound coefficients.", flag_values=FLAGS)
flags.DEFINE_string("plot", None, "Image file of the table to write.", flag_values=FLAGS)


class Size(NamedTuple):
    """Trainable parameters and multiply-adds of a model."""

    parameters: int
    multiply_adds: int


class Dimension(NamedTuple):
    """Setting that is scaled alone.

    Attributes:
      key: the setting.
      first, step: value of D0, and distance of the values that are compared.
      last: largest value.
      degree: size and cost are polynomials of this degree in the value; None if every value
        has to be measured.
    """

    key: str
    first: int
    step: int
    last: int
    degree: int | None


# Maps of a multiple of 128 pixels have no rounded sides.
DIMENSIONS = {
    "resolution": Dimension("model.image_size", 512, 128, 8192, 2),
    "channels": Dimension("neck.num_filters", 64, 8, 2048, 2),
    "BiFPN cells": Dimension("neck.num_repeats", 3, 1, 5000, 1),
    "head layers": Dimension("model.head_repeats", 3, 1, 5000, 1),
    "backbone": Dimension("model.backbone", 0, 1, 7, None),
}


def main() -> None:
    """Print the models of each coefficient, and draw them."""
    rows = {}
    print(f"{'phi':<6}{'scaled':<14}{'value':>8}{'parameters':>14}{'multiply-adds':>18}")
    print_row("0", "(D0)", "", measured(DIMENSIONS["channels"], DIMENSIONS["channels"].first))
    for phi in map(float, FLAGS.phi):
        compound = measure(Config.for_phi(phi))
        rows[phi] = {"compound": compound}
        print_row(f"{phi:g}", "compound", "", compound)
        for name, dimension in DIMENSIONS.items():
            value, rows[phi][name] = nearest_cost(dimension, compound.multiply_adds)
            print_row("", name, setting_of(dimension, value), rows[phi][name])
    if FLAGS.plot:
        draw(rows, FLAGS.plot)


def print_row(phi: str, scaled: str, value: object, size: Size) -> None:
    text = str(value).removeprefix("efficientnet-")
    print(f"{phi:<6}{scaled:<14}{text:>8}{size.parameters:>14,}{size.multiply_adds:>18,}")


def measure(config: Config) -> Size:
    """Build a model and count."""
    total = complexity.measure(model_lib.build(config))
    return Size(total.trainable, total.multiply_adds)


def setting_of(dimension: Dimension, value: int) -> object:
    is_backbone = dimension.key == "model.backbone"
    return f"efficientnet-b{value}" if is_backbone else value


@functools.cache
def measured(dimension: Dimension, value: int) -> Size:
    """Measure D0 with one other value."""
    d0 = Config.for_model("efficientdet-d0")
    return measure(d0.override({dimension.key: setting_of(dimension, value)}))


@functools.cache
def size_function(dimension: Dimension) -> Callable[[int], Size]:
    """Return the function from a value of the dimension to the size of the model."""
    if dimension.degree is None:
        return functools.partial(measured, dimension)
    values = [dimension.first + i * dimension.step for i in range(dimension.degree + 1)]
    sizes = np.array([measured(dimension, value) for value in values], dtype=object)

    def size(value: int) -> Size:
        """Extrapolate by Newton's forward differences, exact for whole numbers."""
        steps = (value - dimension.first) // dimension.step
        differences = (np.diff(sizes, order, axis=0)[0] for order in range(len(values)))
        return Size(*sum(math.comb(steps, i) * delta for i, delta in enumerate(differences)))

    return size


def nearest_cost(dimension: Dimension, multiply_adds: int) -> tuple[int, Size]:
    """Find the value whose multiply-adds are nearest, and the size of its model."""
    size = size_function(dimension)
    value, found = dimension.first, size(dimension.first)
    # Costs rise with the value; large backbones take long to build.
    while found.multiply_adds < multiply_adds and value < dimension.last:
        before, value = (value, found), value + dimension.step
        found = size(value)
        if found.multiply_adds - multiply_adds > multiply_adds - before[1].multiply_adds:
            return before
    return value, found


def draw(rows: dict[float, dict[str, Size]], path: str) -> None:
    """Draw parameters over multiply-adds, a line for each way to scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    start = measured(DIMENSIONS["channels"], DIMENSIONS["channels"].first)
    for name in next(iter(rows.values())):
        sizes = [start, *(row[name] for row in rows.values())]
        axes.plot(
            [size.multiply_adds / 1e9 for size in sizes],
            [size.parameters / 1e6 for size in sizes],
            marker="o",
            label=name,
        )
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="multiply-adds (billions)", ylabel="parameters (millions)")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    command_line.run(
        command_line.Command(
            "compound scaling benchmark", __doc__, lambda: FLAGS, lambda values: main()
        )
    )
