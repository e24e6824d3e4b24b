"""Benchmark of the two ways to the network's input: AP of padded and stretched images.

    python -m benchmarks.resizing --train=DATA --val=DATA

Trains the network of the preset `digits`, small enough for minutes on a CPU, on a data set once
with each value of `model.resize`, and evaluates each with both: the cost of giving a model images
that were resized otherwise, as MediaPipe does to models of padded images.
"""

import tempfile

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config, parse_assignments

FLAGS = flags.FlagValues()

flags.DEFINE_string(
    "train", None, "Training set, of images that are not square.", flag_values=FLAGS
)
flags.DEFINE_string("val", None, "Validation set.", flag_values=FLAGS)
flags.DEFINE_multi_string(
    "set", [], "Settings of the training as key=value, as train.py takes them.", flag_values=FLAGS
)

METHODS = ("pad", "stretch")


def main() -> None:
    """Train, and print AP and AP50 by the resizing of training and of evaluation."""
    from efficientdet_tf.training import train as run_lib

    command_line.require(FLAGS, "train", "val")
    base = Config.from_yaml("digits").override(
        {"data.train": FLAGS.train, "data.val": FLAGS.val, "training.epochs": 40}
        | {"augmentation.horizontal_flip": True, "training.eval_interval_epochs": 40}
        | parse_assignments(FLAGS.set)
    )
    print(f"{'trained':<10}" + "".join(f"{f'AP, {method}':>15}{'AP50':>8}" for method in METHODS))
    for trained in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            run_lib.train(base.override({"model.resize": trained}), folder)
            metrics = [evaluate(folder, method) for method in METHODS]
        print(f"{trained:<10}" + "".join(f"{m['AP']:>15.3f}{m['AP50']:>8.3f}" for m in metrics))


def evaluate(folder: str, method: str) -> dict[str, float]:
    """Return the COCO metrics of a run on its validation set, with images resized by `method`."""
    from efficientdet_tf.data import parts
    from efficientdet_tf.evaluation.runner import Evaluation
    from efficientdet_tf.run_directory import RunDirectory

    run = RunDirectory(folder)
    config = run.config().override({"model.resize": method})
    data = parts.load_split(config, "val")
    return Evaluation(run.load_model("last"), data, config).run().metrics


if __name__ == "__main__":
    command_line.run(
        command_line.Command("resizing benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )
