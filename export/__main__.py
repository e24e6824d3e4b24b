"""Command line: export a trained model, e.g. `python -m export --model_dir=runs/bccd`."""

import pathlib

from absl import flags, logging

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.config_flags import define_set_flag
from efficientdet_tf.config import Config, ConfigError, parse_assignments


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "model_dir",
        None,
        "Run directory of the model; its best weights are used.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "format",
        ["saved_model", "tflite"],
        "What to write: saved_model; tflite, tflite_float16, tflite_dynamic, tflite_int8; and "
        "without NMS, for GPUs and browsers: tflite_raw, tflite_raw_float16, tflite_raw_dynamic, "
        "tflite_raw_int8.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", None, "Folder to write to. Default: <model_dir>/export.", flag_values=values
    )
    flags.DEFINE_string(
        "data",
        None,
        "Data set whose images int8 is calibrated with, or `digits`. Default: the training set.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "calibration_images",
        200,
        "Number of images that int8 is calibrated with.",
        lower_bound=1,
        flag_values=values,
    )
    define_set_flag(
        values, "A setting of the postprocessing as key=value, e.g. detection.score_threshold=0.3"
    )
    return values


def main(values: flags.FlagValues) -> None:
    """Export, and print the written files.

    Raises:
      UserError: for invalid flags, model or output; the message is one line.
    """
    command_line.require(values, "model_dir")
    settings = _detection_settings(values)
    # Late, so that --help and invalid settings do not wait for TensorFlow.
    from efficientdet_tf.run_directory import RunDirectory
    from export import formats

    run_directory = RunDirectory(values.model_dir)
    folder = pathlib.Path(values.output or run_directory.path / "export")
    formats.check(values.format, folder)
    # TensorFlow logs thousands of names while saving.
    logging.set_verbosity(logging.ERROR)
    config = run_directory.config().override(settings)
    model, label_map = run_directory.load_model(), run_directory.label_map()
    images: list = []
    if any(formats.FORMATS[name].needs_images for name in values.format):
        images = _calibration_images(values, config)
    exporter = formats.Exporter(model, config, label_map, folder, images)
    for name in values.format:
        path = exporter.write(name)
        print(f"{name}: {path} ({formats.size_of(path) / 1e6:.1f} MB)", flush=True)


COMMAND = command_line.Command("export", "Export a trained model.", define_flags, main)


def run() -> None:
    """Run the command: entry point of the console script."""
    command_line.run(COMMAND)


def _calibration_images(values: flags.FlagValues, config: Config) -> list:
    """Load the representative images of int8; of a file, only headers are verified."""
    from efficientdet_tf.data import parts
    from export.calibration import representative_images

    config = config.override({"data.verify": "header"})
    if values.data:
        data = parts.load_split(config, "train", path=values.data, format="auto", images="")
    else:
        data = parts.load_split(config, "train")
    return representative_images(data, config, values.calibration_images)


def _detection_settings(values: flags.FlagValues) -> dict[str, str]:
    settings = parse_assignments(values.set)
    for key in settings:
        if not key.startswith("detection."):
            raise ConfigError(
                f"--set {key}: only the detection settings of a trained model can change"
            )
    return settings


if __name__ == "__main__":
    run()
