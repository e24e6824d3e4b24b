"""Command line: detect objects in images; see `inference.image_folder` for the output."""

import pathlib

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.runtime_flag import define_runtime_flag
from efficientdet_tf.errors import UserError


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()

    def text(name: str, meaning: str) -> None:
        flags.DEFINE_string(name, None, meaning, flag_values=values)

    text("model_path", "Run directory, SavedModel folder, .tflite or .onnx file.")
    define_runtime_flag(values)
    text(
        "server",
        "Instead of --model_path: TensorFlow Serving, host:port for gRPC or http://host:port.",
    )
    flags.DEFINE_string(
        "server_model", "detector", "Name of the model on the server.", flag_values=values
    )
    text("input", "An image, or a folder that is searched for images in depth.")
    text("output", "Folder to write images and detections.json to.")
    flags.DEFINE_float(
        "score_threshold",
        0.3,
        "Drop detections with a lower score.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    return values


def main(values: flags.FlagValues) -> None:
    """Predict, and print the number of detections.

    Raises:
      UserError: if the model, the input or the output cannot be used; also at the
        end, if some images could not be read.
    """
    command_line.require(values, "input", "output")
    if bool(values.model_path) == bool(values.server):
        raise UserError("--model_path or --server is needed, and not both")
    # Imported here, so that --help and flag errors are fast.
    from efficientdet_tf.detector import Detector
    from efficientdet_tf.inference import image_folder

    # Before the model is loaded, to fail early for a wrong folder.
    files = image_folder.plan(pathlib.Path(values.input), pathlib.Path(values.output))
    if values.server:
        detector = Detector.from_server(values.server, values.server_model)
    else:
        detector = Detector.load(values.model_path, values.runtime)
    entries, problems = image_folder.predict(detector, files, values.score_threshold)
    found = sum(len(entry["detections"]) for entry in entries)
    print(f"{found} detections in {len(entries)} images, written to {values.output}")
    if problems:
        total = len(problems) + len(entries)
        raise UserError(f"{len(problems)} of {total} images could not be read")


COMMAND = command_line.Command(
    "predict", "Detect objects in images, and write the detections.", define_flags, main
)


def run() -> None:
    """Run the command: entry point of the console script."""
    command_line.run(COMMAND)
