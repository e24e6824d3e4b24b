"""Command line: evaluate a run, an exported model or a file of detections with COCO metrics."""

import json
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.config_flags import define_set_flag
from efficientdet_tf.cli.fusion_flags import define_tta_flag, model_paths
from efficientdet_tf.cli.runtime_flag import define_runtime_flag
from efficientdet_tf.config import Config, auto_switch, known_keys, parse_assignments
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import write_atomically
from efficientdet_tf.output_files import check_not_input, check_replaceable

if TYPE_CHECKING:
    from efficientdet_tf.data.records import DetectionData
    from efficientdet_tf.detector import Detector
    from efficientdet_tf.evaluation.coco import CocoEvaluator
    from efficientdet_tf.evaluation.diagnosis import Diagnosis
    from efficientdet_tf.evaluation.result import EvaluationResult

# The first identifies the others as files of this command.
_FILES = (
    *("evaluation.json", "detections.json", "pr_curves.png"),
    *("diagnosis.json", "diagnosis.png"),
)
# Settings of other sections that an evaluation reads and the network does not depend on.
_OF_COMPUTATION = ("training.eval_batch_size", "training.xla")

# TensorFlow is imported in functions, so that --help and flag errors are fast.


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()

    def text(name: str, default: str | None, meaning: str) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def choice(name: str, default: str | None, choices: list[str], meaning: str) -> None:
        flags.DEFINE_enum(name, default, choices, meaning, flag_values=values)

    text(
        "model_path",
        None,
        "Run directory, SavedModel folder, .tflite or .onnx file, name of a published model, as "
        "efficientdet-d0, or .json file of detections in COCO's results format; several models "
        "with commas between them are an ensemble.",
    )
    text("data", None, "Data set: a path, or 'digits' (built in). Default: the run's own.")
    text(
        "format",
        "auto",
        "Format of --data: auto, coco, voc, yolo, tfrecord, csv, tf_csv, cvat, labelme or tfds.",
    )
    text("images", "", "Image folder, if --data does not contain it.")
    choice("split", "val", ["train", "val", "test"], "Split of --data, if it holds several.")
    choice("weights", "best", ["best", "last"], "Weights of a run directory.")
    choice("nms", None, ["gaussian", "hard"], "Kind of NMS, for a run directory.")
    define_set_flag(values, "One setting of a run directory as key=value")
    define_runtime_flag(values, "A run directory is evaluated in Keras.")
    define_tta_flag(values)
    text(
        "output",
        None,
        "Output folder. Default: 'evaluation' in the run, or beside the model, with the name of a "
        "split other than val; an ensemble needs it.",
    )
    return values


def evaluate(options: flags.FlagValues) -> "tuple[EvaluationResult, Diagnosis, pathlib.Path]":
    """Run the evaluation of a command line.

    Args:
      options: the parsed flags.

    Returns:
      The `EvaluationResult`, the `Diagnosis`, and the output folder with `evaluation.json`,
      `pr_curves.png`, `diagnosis.json`, `diagnosis.png`, and `detections.json` in COCO's results
      format.

    Raises:
      UserError: if the model, the data or the output cannot be used.
    """
    from efficientdet_tf.evaluation.diagnosis import diagnose
    from efficientdet_tf.run_directory import RunDirectory

    paths = model_paths(options.model_path)
    is_run = RunDirectory(paths[0]).exists()
    _check_models(options, paths)
    config = _config(options, paths)
    data = _data(options, config, is_run)
    output = _made(_output(options, paths[0], is_run), *map(str, paths), options.data)
    evaluator = _detect(options, paths, data, config)
    result = evaluator.result()
    # That of an exported model is unknown; several views or models have more.
    is_limited = is_run and len(paths) == 1 and not options.tta
    max_detections = config.detection.max_detections if is_limited else None
    diagnosis = diagnose(data, evaluator.arrays(), max_detections)
    _write(output, result, diagnosis, evaluator, _evaluated(options, data, is_run))
    return result, diagnosis, output


def main(values: flags.FlagValues) -> None:
    """Evaluate, and print the metrics and the paths of the files."""
    command_line.require(values, "model_path")
    result, diagnosis, output = evaluate(values)
    print(f"{result.table()}\n\n{diagnosis.summary()}")
    print(f"\nWritten to {output}: {', '.join(_FILES)}")


COMMAND = command_line.Command(
    "eval", "Measure a detector on a data set with COCO's metrics.", define_flags, main
)


def run() -> None:
    """Run the command: entry point of the console script."""
    command_line.run(COMMAND)


def _check_models(options: flags.FlagValues, paths: list[pathlib.Path]) -> None:
    """Check --runtime, --tta and --output against the models, before anything is loaded."""
    from efficientdet_tf.inference.views import build_views
    from efficientdet_tf.run_directory import RunDirectory

    build_views(options.tta)
    for path in paths:
        # A run is evaluated in Keras anyway.
        known = ("auto", "keras") if RunDirectory(path).exists() else ("auto",)
        if options.runtime not in known and path.suffix != ".onnx":
            raise UserError(f"--runtime={options.runtime}: {path} is no .onnx file; leave it out")
        if path.suffix == ".json" and (options.tta or len(paths) > 1):
            raise UserError(f"{path}: is no model; --tta and ensembles need models")
    if options.weights == "last" and not any(RunDirectory(path).exists() for path in paths):
        raise UserError(f"--weights=last: {paths[0]} is no run directory; leave it out")
    if len(paths) > 1 and not options.output:
        raise UserError("--output is missing: an ensemble has no folder of its own")


def _overrides(options: flags.FlagValues) -> dict[str, object]:
    """Return the settings of --nms and --set."""
    overrides = parse_assignments(options.set)
    for key, value in overrides.items():
        # The switches are `auto_<name>`, and `anchors.auto`.
        is_switch = key.partition(".")[2].startswith("auto")
        if is_switch or (value == "auto" and auto_switch(key) in known_keys()):
            raise UserError(f"--set {key}={value}: training alone chooses it; give a value")
    return overrides | ({"detection.nms": options.nms} if options.nms else {})


def _config(options: flags.FlagValues, paths: list[pathlib.Path]) -> Config:
    """Return the first run's config with --nms and --set; the defaults for an exported model."""
    from efficientdet_tf.run_directory import RunDirectory

    overrides = _overrides(options)
    baked_in = [key for key in overrides if not key.startswith("data.")]
    exported = [path for path in paths if not RunDirectory(path).exists()]
    if baked_in and exported:
        raise UserError(
            f"{exported[0]}: {baked_in[0]} is only for a run directory; an exported model "
            "has fixed settings"
        )
    config = Config() if paths[0] in exported else RunDirectory(paths[0]).config()
    config = config.override(overrides)
    for key in overrides:
        if key.partition(".")[0] not in ("detection", "data") and key not in _OF_COMPUTATION:
            raise UserError(
                f"--set {key}: is of the trained network or of training; an evaluation can change "
                f"settings of detection and data, {' and '.join(_OF_COMPUTATION)}"
            )
    return config


def _data(options: flags.FlagValues, config: Config, is_run: bool) -> "DetectionData":
    """Load the data set of --data, or the run's for --split."""
    from efficientdet_tf.data import parts

    if options.data:
        named = {"path": options.data, "format": options.format, "images": options.images}
        loaded = parts.load_split(config, options.split, **named)
    elif is_run and _path_of_run(config, options.split):
        loaded = parts.load_split_of_run(
            config, options.split, "if it has moved, give --data", images=options.images or None
        )
    else:
        raise UserError("--data is missing: the data set to evaluate on")
    parts.require_objects(loaded)
    return loaded


def _path_of_run(config: Config, split: str) -> str:
    """Return the path of a split in a run's data; "" for none."""
    from efficientdet_tf import data as data_lib

    data = config.data
    if split != "test":
        return getattr(data, split)
    # A path of a single split has other images than those for testing.
    is_single = not data.val or data_lib.lacks_validation(data.val, data.format)
    return "" if is_single else data.val


def _output(options: flags.FlagValues, path: pathlib.Path, is_run: bool) -> pathlib.Path:
    is_given = path == pathlib.Path(options.model_path)
    # Of a published model by name: not into the cache folder.
    default = path / "evaluation" if is_run and is_given else f"{options.model_path}-evaluation"
    # The numbers of other images do not replace those of the validation set.
    other = "" if options.split == "val" else f"-{options.split}"
    return pathlib.Path(options.output or f"{default}{other}")


def _evaluated(options: flags.FlagValues, data: "DetectionData", is_run: bool) -> dict[str, object]:
    """Return what the numbers are of: the model, the data, and the settings that were given."""
    values = {
        "model_path": options.model_path,
        "weights": options.weights if is_run else None,
        "data": data.source,
        "split": options.split,
        "tta": options.tta,
        "settings": _overrides(options),
    }
    return {name: value for name, value in values.items() if value}


def _detect(
    options: flags.FlagValues, paths: list[pathlib.Path], data: "DetectionData", config: Config
) -> "CocoEvaluator":
    """Detect in all images with the model, its views, or the ensemble."""
    from efficientdet_tf.detector import Detector
    from efficientdet_tf.evaluation.coco import CocoEvaluator
    from efficientdet_tf.evaluation.runner import Evaluation, run_detector
    from efficientdet_tf.run_directory import RunDirectory

    run = RunDirectory(paths[0])
    if run.exists() and len(paths) == 1 and not options.tta:
        model = run.load_model(options.weights)
        return Evaluation(model, data, config, run.label_map()).detect()
    if paths[0].suffix == ".json":
        evaluator = CocoEvaluator(data)
        evaluator.add_results(paths[0], data.excluded_ids)
        return evaluator
    detectors = {str(path): _load_detector(path, options) for path in paths}
    return run_detector(Detector.ensemble(detectors, options.tta), data, config.data.strict)


def _load_detector(path: pathlib.Path, options: flags.FlagValues) -> "Detector":
    from efficientdet_tf.detector import Detector
    from efficientdet_tf.run_directory import RunDirectory

    run = RunDirectory(path)
    if run.exists():
        return Detector.from_run(run, options.weights, _overrides(options))
    return Detector.load(path, options.runtime)


def _is_own_evaluation(path: pathlib.Path) -> bool:
    """Tell whether a file is an `evaluation.json` of this command; its siblings then are, too."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"metrics", "per_class", "images"} <= content.keys()


def _made(folder: pathlib.Path, *inputs: str | None) -> pathlib.Path:
    """Create the output folder before the evaluation, after checking for overwritten files."""
    paths = [folder / name for name in _FILES]
    is_own = _is_own_evaluation(paths[0])
    for path in paths:
        check_not_input(path, *inputs)
        check_replaceable(path, lambda _: is_own)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror}") from error
    return folder


def _write(
    folder: pathlib.Path,
    result: "EvaluationResult",
    diagnosis: "Diagnosis",
    evaluator: "CocoEvaluator",
    evaluated: dict[str, object],
) -> None:
    from efficientdet_tf.visualization.diagnosis_chart import diagnosis_chart
    from efficientdet_tf.visualization.drawing import pr_curves

    write_atomically(folder / "evaluation.json", result.to_json(evaluated))
    evaluator.write_results(folder / "detections.json")
    pr_curves(result, folder / "pr_curves.png")
    write_atomically(folder / "diagnosis.json", diagnosis.to_json())
    diagnosis_chart(diagnosis.checks, folder / "diagnosis.png")
