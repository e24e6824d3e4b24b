"""Command line: check the files, boxes and images of a data set."""

import json
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli.config_flags import config_from_flags, define_config_flags
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import write_atomically
from efficientdet_tf.output_files import MARK, check_replaceable

if TYPE_CHECKING:
    from efficientdet_tf.config import Config
    from efficientdet_tf.data.annotations import Annotations
    from efficientdet_tf.data.checks.result import CheckResult
    from efficientdet_tf.detector import Detector

# The first identifies the other as a file of this command.
_FILES = ("check.json", "check.html")
# Flags that set settings.
_KEYS = {
    "data": "data.train",
    "val_data": "data.val",
    "format": "data.format",
    "images": "data.train_images",
    "val_images": "data.val_images",
}
# Severities that fail the command.
_FAILING = {"error": ("error",), "warning": ("error", "warning"), "never": ()}


class FaultsFoundError(UserError):
    """Faults that --fail_on names."""

    # Different from that of a data set that cannot be read at all.
    exit_code = 2


def define_flags() -> flags.FlagValues:
    """Declare the flags of the command."""
    values = flags.FlagValues()

    def text(name: str, default: str | None, meaning: str) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    define_config_flags(values)
    text("data", None, "Data set to check. A path that holds both splits is checked as both.")
    text("val_data", None, "Validation set, checked as well and for images that both share.")
    text("format", None, "Format of --data; inferred from the path if it is not given.")
    text("images", None, "Image folder of --data, if it is not where the format has it.")
    text("val_images", None, "Image folder of --val_data, likewise.")
    text("output", "data-check", "Folder for check.html and check.json.")
    text("fix", None, "Folder for a cleaned copy in COCO's format; the data itself is kept as is.")
    text(
        "model_path",
        None,
        "Model whose predictions are compared with the labels: run directory, SavedModel folder, "
        ".tflite or .onnx file, or .json file of detections in COCO's results format for the last "
        "split.",
    )
    flags.DEFINE_float(
        "min_score",
        0.5,
        "Score from which a prediction of --model_path is confident.",
        lower_bound=0,
        upper_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "fail_on",
        "error",
        list(_FAILING),
        "Least severity of a fault for exit code 2.",
        flag_values=values,
    )
    return values


def check(values: flags.FlagValues) -> None:
    """Check, write the page and the JSON file, and print the counts.

    Raises:
      FaultsFoundError: if there are faults that --fail_on names.
      UserError: if the data sets or the output cannot be used.
    """
    command_line.require(values, "data", "output")
    config = config_from_flags(values, _KEYS)
    if values.model_path and not pathlib.Path(values.model_path).exists():
        raise UserError(f"--model_path: {values.model_path}: no such file or folder")
    output = _made(pathlib.Path(values.output))
    # Imported here, so that --help and flag errors are fast.
    from efficientdet_tf.data.checks.result import check_sets
    from efficientdet_tf.data.conversion import check_output
    from efficientdet_tf.report.data_check_page import data_check_page

    if values.fix:
        check_output(pathlib.Path(values.fix), "fix")
    annotations = read_splits(config)
    # A model that cannot be loaded is reported before the images are read.
    detector = _load_detector(values.model_path)
    result = check_sets(annotations, config)
    write_atomically(output / "check.json", result.to_json())
    if values.model_path:
        result = _with_suspects(result, detector or values.model_path, values.min_score)
        write_atomically(output / "check.json", result.to_json())
    write_atomically(output / "check.html", data_check_page(result, "check.json"))
    _print(result)
    print(f"\nWritten to {output}: check.html, check.json")
    if values.fix:
        _fix(result, pathlib.Path(values.fix))
    _fail(result, values.fail_on)


def read_splits(config: "Config") -> "dict[str, Annotations]":
    """Read the annotations of `data.train`, and of `data.val` or the path's other split.

    Raises:
      DataError: if one cannot be read.
    """
    from efficientdet_tf import data as data_lib
    from efficientdet_tf.data.records import DataError

    data = config.data
    if data_lib.BUILT_IN in (data.train, data.val, data.format):
        raise DataError(f"--data: {data_lib.BUILT_IN!r} is built in and has no files to check")
    read = {"train": data_lib.read_annotations(data.train, data.format, data.train_images, "train")}
    if data.val:
        read["val"] = data_lib.read_annotations(data.val, data.format, data.val_images, "val")
    elif not data_lib.lacks_validation(data.train, data.format):
        read["val"] = data_lib.read_annotations(data.train, data.format, data.val_images, "val")
    return read


def _print(result: "CheckResult") -> None:
    from efficientdet_tf.data.faults import KINDS

    for part in result.sets:
        usable = sum(each.record is not None for each in part.images)
        print(
            f"{part.source}: {len(part.images):,} images, of which {usable:,} can be used; "
            f"{part.num_objects:,} objects"
        )
    for kind, count in result.counts().items():
        print(f"{count:8,}  {KINDS[kind].severity:8} {KINDS[kind].title}")
    if not result.faults:
        print("no faults")


def _load_detector(path: str | None) -> "Detector | None":
    """Load the model of --model_path; None for none, and for a file of detections."""
    if not path or path.endswith(".json"):
        return None
    from efficientdet_tf.detector import Detector

    return Detector.load(path)


def _with_suspects(
    result: "CheckResult", source: "Detector | str", min_score: float
) -> "CheckResult":
    """Add the suspects of each split, or of the last one for a file of its detections."""
    from efficientdet_tf.data.records import DetectionData
    from efficientdet_tf.evaluation.coco import CocoEvaluator
    from efficientdet_tf.evaluation.runner import run_detector
    from efficientdet_tf.evaluation.suspects import find_suspects

    for part in result.sets[-1:] if isinstance(source, str) else result.sets:
        records = [each.record for each in part.images if each.record is not None]
        data = DetectionData(records, part.label_map, source=part.source)
        if isinstance(source, str):
            evaluator = CocoEvaluator(data)
            unusable = {each.image.image_id for each in part.images if each.record is None}
            evaluator.add_results(source, unusable)
        else:
            evaluator = run_detector(source, data)
        suspects = find_suspects(part, evaluator.arrays(), min_score)
        result = result.extended([(part.split, fault) for fault in suspects])
    return result


def _fix(result: "CheckResult", folder: pathlib.Path) -> None:
    from efficientdet_tf.data.checks.cleaning import write_cleaned

    for each in write_cleaned(result, folder):
        for line in each.lost:
            print(f"{each.split}: not kept: {line}")
        print(
            f"Written to {folder / each.split}.json: {len(each.data):,} images; "
            f"{each.num_images_left_out:,} images and {each.num_objects_left_out:,} objects "
            "are left out"
        )


def _fail(result: "CheckResult", fail_on: str) -> None:
    counts = result.severities()
    failing = [name for name in _FAILING[fail_on] if counts[name]]
    if failing:
        found = " and ".join(
            f"{counts[name]:,} {name}{'s' * (counts[name] > 1)}" for name in failing
        )
        raise FaultsFoundError(f"{found} found; --fail_on={fail_on}")


def _is_own_check(path: pathlib.Path) -> bool:
    """Tell whether a file is a `check.json` of this command; its sibling then is, too."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["info"]["description"] == MARK and "faults" in content
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _made(folder: pathlib.Path) -> pathlib.Path:
    """Create the output folder, after checking for files of the user."""
    is_own = _is_own_check(folder / _FILES[0])
    for name in _FILES:
        check_replaceable(folder / name, lambda _: is_own)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror}") from error
    return folder


COMMAND = command_line.Command(
    "data",
    "Find faults of a data set: files, boxes, duplicates, leakage; write a page and a JSON file.",
    define_flags,
    check,
)
