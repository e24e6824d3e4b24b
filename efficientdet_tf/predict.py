"""Command line: detect in pictures; see `efficientdet_tf.prediction` for what is written."""

import pathlib

from absl import flags

from efficientdet_tf import command_line
from efficientdet_tf.errors import UserError

FLAGS = flags.FLAGS

flags.DEFINE_string("model", None, "Run directory, SavedModel folder or .tflite file.")
flags.DEFINE_string("input", None, "A picture, or a folder of pictures and folders.")
flags.DEFINE_string("output", None, "Folder to write pictures and detections.json to.")
flags.DEFINE_float(
    "score_threshold", 0.3, "Leave out what scores less.", lower_bound=0.0, upper_bound=1.0
)


def main():
    """Predicts, and prints how much was found.

    Raises:
      UserError: with one line for the user; also at the end, when some pictures
        could not be read.
    """
    for flag in ("model", "input", "output"):
        if not FLAGS[flag].value:
            raise UserError(f"--{flag} is missing: {FLAGS[flag].help}")
    # Late, so that --help and wrong flags are answered at once.
    from efficientdet_tf.detector import Detector
    from efficientdet_tf.prediction import predict

    detector = Detector.load(FLAGS.model)
    output = pathlib.Path(FLAGS.output)
    entries, problems = predict(detector, pathlib.Path(FLAGS.input), output, FLAGS.score_threshold)
    found = sum(len(entry["detections"]) for entry in entries)
    print(f"{found} detections in {len(entries)} pictures, written to {output}")
    if problems:
        total = len(problems) + len(entries)
        raise UserError(f"{len(problems)} of {total} pictures could not be read")


def run():
    """Entry point of the console script."""
    command_line.run("predict", main)


if __name__ == "__main__":
    run()
