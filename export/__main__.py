"""Command line: export a trained model, e.g. `python -m export --model_dir=runs/bccd`."""

import os
import pathlib
import sys

from absl import app, flags, logging

FLAGS = flags.FLAGS

flags.DEFINE_string("model_dir", None, "Run directory of the model; its best weights are used.")
flags.DEFINE_list(
    "format", ["saved_model", "tflite"], "What to write: saved_model, tflite, tflite_float16."
)
flags.DEFINE_string("output", None, "Folder to write to; <model_dir>/export if not given.")
flags.DEFINE_multi_string(
    "set",
    [],
    "A setting of the post-processing as key=value, e.g. detection.score_threshold=0.3; may be "
    "repeated.",
)


def main(argv):
    """Exports; user errors are one line on standard error and exit code 1."""
    # TensorFlow tells its developers what it does; it would hide what we tell the user.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.ERROR)
    # Late, so that --help answers at once.
    from efficientdet_tf.errors import UserError

    try:
        _export(argv)
    except UserError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    return 0


def _export(argv):
    from efficientdet_tf.training.run_directory import RunDirectory
    from export import formats

    if len(argv) > 1:
        raise formats.ExportError(f"unexpected argument {argv[1]!r}; see --help")
    if not FLAGS.model_dir:
        raise formats.ExportError("--model_dir is missing: the run directory of the model")
    formats.check(FLAGS.format)
    run = RunDirectory(FLAGS.model_dir)
    config = run.config().override(_detection_settings())
    model, label_map = run.load_model(), run.label_map()
    folder = pathlib.Path(FLAGS.output or run.path / "export")
    for name in FLAGS.format:
        path = formats.write(name, model, config, label_map, folder)
        print(f"{name}: {path} ({formats.size_of(path) / 1e6:.1f} MB)")


def _detection_settings():
    from efficientdet_tf.config import ConfigError, parse_assignments

    settings = parse_assignments(FLAGS.set)
    for key in settings:
        if not key.startswith("detection."):
            raise ConfigError(f"--set {key}: a trained model keeps all but its detection settings")
    return settings


def run():
    """Entry point of the console script."""
    app.run(main)


if __name__ == "__main__":
    run()
