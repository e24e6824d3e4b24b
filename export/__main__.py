"""Command line: export a trained model, e.g. `python -m export --model_dir=runs/bccd`."""

import pathlib

from absl import flags, logging

from efficientdet_tf.cli import command_line
from efficientdet_tf.config import ConfigError, parse_assignments
from efficientdet_tf.errors import UserError

FLAGS = flags.FLAGS

flags.DEFINE_string("model_dir", None, "Run directory of the model; its best weights are used.")
flags.DEFINE_list(
    "format", ["saved_model", "tflite"], "What to write: saved_model, tflite, tflite_float16."
)
flags.DEFINE_string("output", None, "Folder to write to; <model_dir>/export when left out.")
flags.DEFINE_multi_string(
    "set",
    [],
    "A setting of the post-processing as key=value, e.g. detection.score_threshold=0.3; may be "
    "repeated.",
)


def main():
    """Exports, and prints what was written.

    Raises:
      UserError: with one line for the user.
    """
    if not FLAGS.model_dir:
        raise UserError("--model_dir is missing: the run directory of the model")
    settings = _detection_settings()
    # Late, so that --help and a wrong setting are answered at once.
    from efficientdet_tf.run_directory import RunDirectory
    from export import formats

    run_directory = RunDirectory(FLAGS.model_dir)
    folder = pathlib.Path(FLAGS.output or run_directory.path / "export")
    formats.check(FLAGS.format, folder)
    # What TensorFlow logs while it saves is thousands of names.
    logging.set_verbosity(logging.ERROR)
    config = run_directory.config().override(settings)
    model, label_map = run_directory.load_model(), run_directory.label_map()
    for name in FLAGS.format:
        path = formats.write(name, model, config, label_map, folder)
        print(f"{name}: {path} ({formats.size_of(path) / 1e6:.1f} MB)", flush=True)


def run():
    """Entry point of the console script."""
    command_line.run("export", main)


def _detection_settings() -> dict[str, str]:
    settings = parse_assignments(FLAGS.set)
    for key in settings:
        if not key.startswith("detection."):
            raise ConfigError(f"--set {key}: a trained model keeps all but its detection settings")
    return settings


if __name__ == "__main__":
    run()
