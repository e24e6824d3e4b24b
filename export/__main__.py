"""Command line: export a trained model, e.g. `python -m export --model_dir=runs/bccd`."""

import pathlib

from absl import flags, logging

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.config_flags import define_set_flag
from efficientdet_tf.config import ConfigError, parse_assignments


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
        "What to write: saved_model, tflite, tflite_float16.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", None, "Folder to write to. Default: <model_dir>/export.", flag_values=values
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
    for name in values.format:
        path = formats.write(name, model, config, label_map, folder)
        print(f"{name}: {path} ({formats.size_of(path) / 1e6:.1f} MB)", flush=True)


COMMAND = command_line.Command("export", "Export a trained model.", define_flags, main)


def run() -> None:
    """Run the command: entry point of the console script."""
    command_line.run(COMMAND)


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
