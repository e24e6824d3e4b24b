"""Command line: the report of a run, `report.html`, made anew."""

import pathlib

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.errors import UserError

# TensorFlow is imported late, so that --help and wrong flags are answered at once.
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Declares the flags; not on import, as other commands use the same names."""
    flags.DEFINE_string("model_dir", None, "Run directory, which report.html is written to.")
    flags.DEFINE_enum("weights", "best", ["best", "last"], "Weights that are measured.")


def report(model_dir: str, weights: str) -> pathlib.Path:
    """Measures a run on its validation set, and writes its report.

    Args:
      model_dir: of the run.
      weights: "best" or "last".

    Returns:
      The path of `report.html`.

    Raises:
      UserError: with one line for the user.
    """
    from efficientdet_tf.evaluation.cached_evaluation import Measured
    from efficientdet_tf.evaluation.runner import Evaluation
    from efficientdet_tf.report.page import write_report
    from efficientdet_tf.run_directory import RunDirectory

    directory = RunDirectory(model_dir)
    config = directory.config()
    train_data, val_data = _data(config, directory.label_map())
    evaluator = Evaluation(directory.load_model(weights), val_data, config).detect()
    return write_report(directory, train_data, val_data, Measured.of(evaluator))


def main() -> None:
    """Writes the report, and prints where it is."""
    if not FLAGS.model_dir:
        raise UserError("--model_dir is missing: the run to report on")
    print(f"Written to {report(FLAGS.model_dir, FLAGS.weights)}")


def run() -> None:
    """Entry point of the console script."""
    define_flags()
    command_line.run("report", main)


def _data(config, label_map) -> tuple:
    """The data sets of the run; None for the training set when it is not there any more."""
    from absl import logging

    from efficientdet_tf import data as data_lib
    from efficientdet_tf.data.records import DataError

    data = config.data
    common = dict(format=data.format, verify=data.verify, strict=data.strict)
    common["use_difficult"] = data.use_difficult

    def load(path: str, images: str, split: str):
        loaded = data_lib.load(path, images=images, split=split, **common)
        if loaded.label_map != label_map:
            raise DataError(f"{path}: its classes are no longer those of the run")
        return loaded

    val_data = load(data.val, data.val_images, "val")
    try:
        return load(data.train, data.train_images, "train"), val_data
    except DataError as error:
        logging.warning("the report does without the training set: %s", error)
        return None, val_data
