"""Command line: regenerate the report of a run, `report.html`, and compare it with another run."""

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from efficientdet_tf.cli import command_line

if TYPE_CHECKING:
    from efficientdet_tf.config import Config
    from efficientdet_tf.data.records import DetectionData, LabelMap
    from efficientdet_tf.evaluation.runner import Evaluation

# TensorFlow is imported in functions, so that --help and flag errors are fast.


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "model_dir", None, "Run directory, which report.html is written to.", flag_values=values
    )
    flags.DEFINE_enum(
        "weights", "best", ["best", "last"], "Weights to evaluate.", flag_values=values
    )
    flags.DEFINE_string(
        "against",
        None,
        "Run directory to compare with, on the validation set of --model_dir.",
        flag_values=values,
    )
    return values


def report(model_dir: str, weights: str, against: str | None = None) -> pathlib.Path:
    """Evaluate a run on its validation set, and write its report.

    The result of a comparison is also printed.

    Args:
      model_dir: path of the run directory.
      weights: weights to evaluate, "best" or "last".
      against: path of a run directory to compare with, with the same weights. Default None.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: if the run or its data cannot be used.
    """
    from efficientdet_tf.evaluation.cached_evaluation import Measured
    from efficientdet_tf.evaluation.comparison import compare
    from efficientdet_tf.evaluation.runner import Evaluation
    from efficientdet_tf.report.page import write_report
    from efficientdet_tf.run_directory import RunDirectory

    directory = RunDirectory(model_dir)
    config = directory.config()
    train_data, val_data = _data(config, directory.label_map())
    # First, so that a run that cannot be compared is refused before minutes of evaluation.
    other = _evaluation(against, weights, val_data) if against else None
    model = directory.load_model(weights)
    measured = Measured.from_evaluator(Evaluation(model, val_data, config).detect())
    comparison = None
    if against and other:
        found = other.detect().arrays()
        comparison = compare(val_data, measured.detections, found, against)
        print(comparison.summary())
    return write_report(directory, train_data, val_data, measured, model, comparison, weights)


def main(values: flags.FlagValues) -> None:
    """Write the report, and print its path."""
    command_line.require(values, "model_dir")
    print(f"Written to {report(values.model_dir, values.weights, values.against)}")


COMMAND = command_line.Command("report", "Write the report of a run.", define_flags, main)


def run() -> None:
    """Run the command: entry point of the console script."""
    command_line.run(COMMAND)


def _evaluation(model_dir: str, weights: str, data: "DetectionData") -> "Evaluation":
    """Prepare the evaluation of another run on the same images."""
    from efficientdet_tf.evaluation.runner import Evaluation
    from efficientdet_tf.run_directory import RunDirectory

    directory = RunDirectory(model_dir)
    config = directory.config()
    return Evaluation(directory.load_model(weights), data, config, directory.label_map())


def _data(config: "Config", label_map: "LabelMap") -> tuple:
    """Load the data sets of the run; None for the training set if it is unavailable."""
    from absl import logging

    from efficientdet_tf.data import parts
    from efficientdet_tf.data.class_matching import with_classes
    from efficientdet_tf.data.records import DataError

    def load(split: str) -> "DetectionData | None":
        remedy = f"if it has moved, correct data.{split} there"
        loaded = parts.load_split_of_run(config, split, remedy)
        return with_classes(label_map, loaded, "the run")

    val_data = load("val")
    try:
        return load("train"), val_data
    except DataError as error:
        logging.warning("report without the training set: %s", error)
        return None, val_data
