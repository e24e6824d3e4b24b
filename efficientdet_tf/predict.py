"""Command line: detect in pictures; see `efficientdet_tf.prediction` for what is written."""

import os
import pathlib
import sys

from absl import app, flags, logging

FLAGS = flags.FLAGS

flags.DEFINE_string("model", None, "Run directory, SavedModel folder or .tflite file.")
flags.DEFINE_string("input", None, "A picture, or a folder of pictures and folders.")
flags.DEFINE_string("output", None, "Folder to write pictures and detections.json to.")
flags.DEFINE_float(
    "score_threshold", 0.3, "Leave out what scores less.", lower_bound=0.0, upper_bound=1.0
)


def main(argv):
    """Predicts; user errors are one line on standard error and exit code 1."""
    # TensorFlow tells its developers what it does; it would hide what we tell the user.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.ERROR)
    # Late, so that --help answers at once.
    from efficientdet_tf.errors import UserError

    try:
        return _predict(argv)
    except UserError as error:
        print(f"predict: {error}", file=sys.stderr)
        return 1


def _predict(argv):
    from efficientdet_tf.errors import UserError

    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; see --help")
    for flag in ("model", "input", "output"):
        if not FLAGS[flag].value:
            raise UserError(f"--{flag} is missing: {FLAGS[flag].help}")

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
    return 0


def run():
    """Entry point of the console script."""
    app.run(main)


if __name__ == "__main__":
    run()
