"""Command line: detect in images; `inference.image_folder` says what is written."""

import pathlib

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.errors import UserError

FLAGS = flags.FLAGS

flags.DEFINE_string("model", None, "Run directory, SavedModel folder or .tflite file.")
flags.DEFINE_string("input", None, "An image, or a folder that is searched for images in depth.")
flags.DEFINE_string("output", None, "Folder to write images and detections.json to.")
flags.DEFINE_float(
    "score_threshold",
    0.3,
    "Leave out detections with a lower score.",
    lower_bound=0.0,
    upper_bound=1.0,
)


def main():
    """Predict, and print how many detections were found.

    Raises:
      UserError: with one line for the user; also at the end, when some images
        could not be read.
    """
    for flag in ("model", "input", "output"):
        if not FLAGS[flag].value:
            raise UserError(f"--{flag} is missing: {FLAGS[flag].help}")
    # Late, so that --help and wrong flags are answered at once.
    from efficientdet_tf.detector import Detector
    from efficientdet_tf.inference import image_folder

    # Before the model is loaded: a wrong folder is answered first.
    files = image_folder.plan(pathlib.Path(FLAGS.input), pathlib.Path(FLAGS.output))
    detector = Detector.load(FLAGS.model)
    entries, problems = image_folder.predict(detector, files, FLAGS.score_threshold)
    found = sum(len(entry["detections"]) for entry in entries)
    print(f"{found} detections in {len(entries)} images, written to {FLAGS.output}")
    if problems:
        total = len(problems) + len(entries)
        raise UserError(f"{len(problems)} of {total} images could not be read")


def run():
    """Run the command: entry point of the console script."""
    command_line.run("predict", main)


if __name__ == "__main__":
    run()
