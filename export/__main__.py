"""Command line: export a trained model, e.g. `python -m export --model_dir=runs/bccd`."""

import functools
import importlib.util
import pathlib
import sys
from typing import TYPE_CHECKING, NoReturn

from absl import flags, logging

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.config_flags import define_set_flag
from efficientdet_tf.config import Config, ConfigError, parse_assignments
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import write_atomically
from efficientdet_tf.output_files import check_replaceable

if TYPE_CHECKING:
    from efficientdet_tf.data.records import DetectionData
    from efficientdet_tf.run_directory import RunDirectory
    from export import formats
    from export.verification import Verification


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "model_dir",
        None,
        "Run directory of the model, whose best weights are used; or name of a published model, as "
        "efficientdet-d0.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "format",
        ["saved_model", "tflite"],
        "What to write: saved_model; serving, versions for TensorFlow Serving; tflite, "
        "tflite_float16, tflite_dynamic, tflite_int8; and without NMS, for GPUs and browsers: "
        "tflite_raw, tflite_raw_float16, tflite_raw_dynamic, tflite_raw_int8; onnx and, "
        "without NMS, onnx_raw, for ONNX Runtime and OpenVINO; web, a page that detects in the "
        "browser.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", None, "Folder to write to. Default: <model_dir>/export.", flag_values=values
    )
    flags.DEFINE_string(
        "calibration_data",
        None,
        "Data set whose images int8 is calibrated with. Default: the training set of the run.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "calibration_images",
        200,
        "Number of images that int8 is calibrated with.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "verify",
        False,
        "Measure AP, differences, latency and memory of each file beside the model's; keep none "
        "that loses more than --max_ap_drop, and layers of int8 in float32 where that helps.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "compare",
        False,
        "Measure AP, latency, throughput and memory of the run and of each file in every runtime "
        "of this machine, and say which to use. Default of --format: all but serving and web.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data",
        None,
        "Data set of --verify and --compare. Default: the validation set of the run.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "max_ap_drop",
        0.01,
        "Largest loss of AP, of 0 to 1, that --verify accepts and --compare advises.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "operators",
        False,
        "Print the operators of each .tflite file, and which of them GPUs, NNAPI and EdgeTPUs "
        "refuse by their documented rules.",
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
    if values.data and not (values.verify or values.compare):
        raise UserError(
            "--data: is for --verify and --compare only; add one of them, or use "
            "--calibration_data for the images of int8"
        )
    # Late, so that --help and invalid settings do not wait for TensorFlow.
    from efficientdet_tf.checkpoints.published_run import local_model
    from efficientdet_tf.run_directory import RunDirectory
    from export import formats

    if values.compare and not values["format"].present:
        values.format = _compared_formats()
    path = local_model(values.model_dir)
    run_directory = RunDirectory(path)
    # Of a published model by name: not into the cache folder.
    is_given = path == pathlib.Path(values.model_dir)
    default = path / "export" if is_given else f"{values.model_dir}-export"
    folder = pathlib.Path(values.output or default)
    formats.check(values.format, folder)
    _check_results(values, folder)
    # TensorFlow logs thousands of names while saving.
    logging.set_verbosity(logging.ERROR)
    config = run_directory.config().override(settings)
    model, label_map = run_directory.load_model(), run_directory.label_map()
    images: list = []
    if any(formats.FORMATS[name].needs_images for name in values.format):
        images = _calibration_images(values, config)
    exporter = formats.Exporter(model, config, label_map, folder, images)
    data = _measured_data(values, config) if values.verify or values.compare else None
    verification = _verification(values, exporter, data) if values.verify and data else None
    try:
        files, failures = _write_all(values, exporter, verification)
    finally:
        # Also when Ctrl-C ends a later format: measuring took long.
        if verification and verification.results:
            _write_verification(verification, folder)
    if values.compare and data and files:
        _write_comparison(values, run_directory, files, settings, data, folder)
    if data and folder == run_directory.path / "export":
        _update_report(values.model_dir)
    if failures:
        _raise(failures, len(values.format))


def _compared_formats() -> list[str]:
    """Return the formats that --compare measures: each kind of file once."""
    from export import formats

    # Their models are those of saved_model and tflite_raw.
    names = [name for name in formats.FORMATS if name not in ("serving", "web")]
    if not importlib.util.find_spec("tf2onnx"):
        print("onnx, onnx_raw: left out; they need pip install '.[onnx]'")
        names = [name for name in names if not name.startswith("onnx")]
    return names


def _check_results(values: flags.FlagValues, folder: pathlib.Path) -> None:
    """Check that the files of measurements overwrite nothing but earlier ones."""
    from efficientdet_tf.evaluation import verified_files
    from efficientdet_tf.inference import compared_runtimes

    for is_wanted, results in (
        (values.verify, verified_files),
        (values.compare, compared_runtimes),
    ):
        if is_wanted:
            check_replaceable(folder / results.FILE_NAME, results.is_own)


def _write_verification(verification: "Verification", folder: pathlib.Path) -> None:
    from efficientdet_tf.evaluation import verified_files

    path = folder / verified_files.FILE_NAME
    write_atomically(path, verified_files.to_json(verification.results))
    print(f"\n{verified_files.table(verification.results)}\n\nWritten to {path}", flush=True)


def _write_comparison(
    values: flags.FlagValues,
    run_directory: "RunDirectory",
    files: dict[str, pathlib.Path],
    settings: dict[str, str],
    data: "DetectionData",
    folder: pathlib.Path,
) -> None:
    from efficientdet_tf.inference import compared_runtimes
    from export.comparison import compare_runtimes

    comparison = compare_runtimes(run_directory, files, folder, settings, data, values.max_ap_drop)
    path = folder / compared_runtimes.FILE_NAME
    write_atomically(path, comparison.to_json())
    print(f"\n{comparison.machine}\n{comparison.table()}", end="\n\n")
    print(*comparison.advice(), f"Written to {path}", sep="\n", flush=True)


def _write_all(
    values: flags.FlagValues, exporter: "formats.Exporter", verification: "Verification | None"
) -> tuple[dict[str, pathlib.Path], list[Exception]]:
    """Write each format, and return the paths of the files, and why others were not written.

    One that fails, in a converter too, is reported and leaves the others as they are.
    """
    from export import formats, operators

    files: dict[str, pathlib.Path] = {}
    failures: list[Exception] = []
    for name in values.format:
        try:
            if verification is None:
                path = exporter.write(name)
            else:
                path = _write_verified(name, exporter, verification)
        except Exception as error:
            failures.append(error)
            if len(values.format) > 1:
                print(f"{name}: not written: {_reason(name, error)}", file=sys.stderr, flush=True)
            continue
        files[name] = path
        print(f"{name}: {path} ({formats.size_of(path) / 1e6:.1f} MB)", flush=True)
        if values.operators and path.suffix == ".tflite":
            print(operators.report(operators.operators(path.read_bytes())), flush=True)
    return files, failures


def _reason(name: str, error: Exception) -> str:
    """Return why a format was not written, in one line."""
    if isinstance(error, UserError):
        return str(error).removeprefix(f"{name}: ")
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def _raise(failures: list[Exception], num_formats: int) -> NoReturn:
    """Raise what the export ends with when formats were not written."""
    # A fault of the program or a converter: its traceback is needed.
    unexpected = [error for error in failures if not isinstance(error, UserError)]
    if unexpected or num_formats == 1:
        raise (unexpected or failures)[0]
    raise UserError(f"{len(failures)} of {num_formats} formats were not written")


def _write_verified(
    name: str, exporter: "formats.Exporter", verification: "Verification"
) -> pathlib.Path:
    """Write a format that holds; of int8, with as many layers in float32 as it takes.

    Raises:
      VerificationError: if it loses too much, for int8 also with half of the layers in float32.
    """
    from export import formats
    from export.verification import VerificationError

    if not formats.FORMATS[name].needs_images:
        return exporter.write(name, verification.check)
    tflite = exporter.tflite
    while True:
        layers = tflite.float_layers
        try:
            path = exporter.write(name, functools.partial(verification.check, float_layers=layers))
        except VerificationError:
            tflite.keep_in_float(max(2, 2 * len(layers)))
            if tflite.float_layers == layers:
                # Half of all: what is left is hardly int8.
                raise
            continue
        if layers:
            print(f"{name}: in float32, as int8 loses too much: {', '.join(layers)}", flush=True)
        return path


def _update_report(model_dir: str) -> None:
    """Write the report of the run again, which lists the measured files."""
    from efficientdet_tf.cli.report import report

    try:
        print(f"Listed in {report(model_dir, 'best')}")
    except UserError as error:
        # The exports are complete without it. Warnings are off, for TensorFlow's.
        print(f"Not listed in the report: {error}")


COMMAND = command_line.Command("export", "Export a trained model.", define_flags, main)


def run() -> None:
    """Run the command: entry point of the console script."""
    command_line.run(COMMAND)


def _calibration_images(values: flags.FlagValues, config: Config) -> list:
    """Load the representative images of int8; of a file, only headers are verified."""
    from export.calibration import representative_images

    if not (values.calibration_data or config.data.train):
        raise UserError(
            "--calibration_data is missing: images that int8 is calibrated with; the run names no "
            "training data"
        )
    config = config.override({"data.verify": "header"})
    data = _load_data(config, "train", values.calibration_data)
    return representative_images(data, config, values.calibration_images)


def _measured_data(values: flags.FlagValues, config: Config) -> "DetectionData":
    """Load the data set of --verify and --compare."""
    from efficientdet_tf.data import parts

    data = _load_data(config, "val", values.data)
    parts.require_objects(data)
    return data


def _verification(
    values: flags.FlagValues, exporter: "formats.Exporter", data: "DetectionData"
) -> "Verification":
    from export.verification import Verification

    return Verification(
        exporter.model, exporter.config, exporter.label_map, data, values.max_ap_drop
    )


def _load_data(config: Config, split: str, path: str | None) -> "DetectionData":
    """Load the data set of a flag, or the one of the run if it is not given."""
    from efficientdet_tf.data import parts

    if path:
        # Format and image folder of the config are those of its own data.
        return parts.load_split(config, split, path=path, format="auto", images="")
    flag = "calibration_data" if split == "train" else "data"
    return parts.load_split_of_run(config, split, f"if it has moved, give --{flag}")


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
